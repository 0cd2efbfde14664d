//! The `peerpool` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    peerpool::cli::main()
}
