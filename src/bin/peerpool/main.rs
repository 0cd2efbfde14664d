#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr))]
//! The `peerpool` command: a mesh that accounts for every message, a node, a ping.

mod config_file;
mod files;
mod mesh;
mod node;
mod ping;
mod signals;
mod target;
mod timecoin_node;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

/// A sharded pool of peer connections, and the peer-to-peer engine that runs them.
#[derive(Debug, Parser)]
#[command(name = "peerpool", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "\
Examples:
  peerpool mesh                                         watch a mesh of 16 nodes prove itself
  peerpool node --listen 127.0.0.1:9000                 run a node
  peerpool node --listen 127.0.0.1:0 --peer 127.0.0.1:9000
  peerpool node --network testnet --timecoin 192.0.2.7:24100
  peerpool ping 127.0.0.1:9000                          round-trip time to a node
  peerpool config > node.toml                           every knob, with its default

RUST_LOG sets what is logged to stderr, for example RUST_LOG=peerpool=debug.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Mesh(mesh::MeshArgs),
    Node(node::NodeArgs),
    Ping(ping::PingArgs),
    Config(config_file::ConfigArgs),
}

/// Runs the command that the arguments name. Exit codes: 0 for success, 1 for failure, 2 for wrong usage.
fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody is left to tell if this fails.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    log_to_stderr(match cli.command {
        Command::Node(_) => "info",
        _ => "error",
    });
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failure(&format!("the runtime could not start: {error}")),
    };
    let code = runtime.block_on(async {
        match cli.command {
            Command::Mesh(args) => mesh::run(args).await,
            Command::Node(args) => node::run(args).await,
            Command::Ping(args) => ping::run(args).await,
            Command::Config(args) => config_file::run(&args),
        }
    });
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    code
}

fn log_to_stderr(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi).init();
}

/// Prints lines to stdout at once, whatever becomes of them.
fn say(text: &str) {
    let _ = print(text);
}

/// Prints what the command was called for to stdout at once. A closed pipe is no reason to fail.
///
/// # Errors
/// One line for a person: it could not be written.
fn print(text: &str) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(format!("stdout: {error}")),
        _ => Ok(()),
    }
}

/// Prints lines to stderr.
fn eprint(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Says what went wrong; the exit code that goes with it.
fn failure(what: &str) -> ExitCode {
    eprint(&format!("error: {what}"));
    ExitCode::FAILURE
}
