//! Writing to stdout and stderr.
//!
//! A closed stdout pipe is never an error: the reader has seen enough.

use std::io::Write as _;
use std::process::ExitCode;

/// Prints a line to stdout and flushes it. Failures are ignored.
pub(super) fn print(text: &str) {
    let _ = try_print(text);
}

/// Prints a line to stdout and flushes it. Use it for the result that the command was called for.
///
/// # Errors
/// A one-line message if the line could not be written, except to a closed pipe.
pub(super) fn try_print(text: &str) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(format!("stdout: {error}")),
        _ => Ok(()),
    }
}

/// Prints a line to stderr. Failures are ignored.
pub(super) fn eprint(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Prints an error to stderr and returns the exit code of a failure.
pub(super) fn failure(message: &str) -> ExitCode {
    eprint(&format!("error: {message}"));
    ExitCode::FAILURE
}
