#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr))]
//! The `peerpool` command, built on the public API of the library.
//!
//! | subcommand | module | does |
//! |---|---|---|
//! | `mesh` | [`mesh`] | runs a mesh of nodes in one process and accounts for every message |
//! | `node` | [`node`], [`timecoin_node`] | runs one node |
//! | `ping` | [`ping`] | measures round trips to a node |
//! | `config` | [`config_file`] | prints or checks a configuration file |
//!
//! `main` parses the arguments, starts logging and the runtime, and runs the subcommand. Results go
//! to stdout, logs and errors to stderr ([`output`]). The exit code is 0 for success, 1 for a
//! failure and 2 for wrong arguments.

mod config_file;
mod log_writer;
mod mesh;
mod node;
mod open_files;
mod output;
mod ping;
mod signals;
mod target;
mod timecoin_node;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use log_writer::LogWriter;

/// How long tasks of the runtime may take to end after the subcommand has returned.
const RUNTIME_SHUTDOWN: Duration = Duration::from_millis(500);

/// A sharded pool of peer connections, and the peer-to-peer engine that runs them.
#[derive(Debug, Parser)]
#[command(name = "peerpool", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "\
Examples:
  peerpool mesh                                         run a mesh of 16 nodes and check every delivery
  peerpool node --listen 127.0.0.1:9000                 run a node
  peerpool node --listen 127.0.0.1:0 --peer 127.0.0.1:9000
  peerpool node --network testnet --timecoin 192.0.2.7:24100
  peerpool ping 127.0.0.1:9000                          round-trip time to a node
  peerpool config > node.toml                           every setting, with its default

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

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // If this write fails, only the exit code is left to report it.
            let is_printed = error.print().is_ok();
            return ExitCode::from(if error.use_stderr() { 2 } else { u8::from(!is_printed) });
        }
    };
    let log = match LogWriter::start() {
        Ok(log) => log,
        Err(error) => return output::failure(&format!("no thread for the log: {error}")),
    };
    log_to(
        &log,
        match cli.command {
            Command::Node(_) => "info",
            _ => "error",
        },
    );
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return output::failure(&format!("the runtime could not start: {error}")),
    };
    let code = runtime.block_on(async {
        match cli.command {
            Command::Mesh(args) => mesh::run(args).await,
            Command::Node(args) => node::run(args).await,
            Command::Ping(args) => ping::run(args).await,
            Command::Config(args) => config_file::run(&args),
        }
    });
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN);
    log.finish();
    code
}

fn log_to(log: &LogWriter, default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(log.clone());
    // Its own errors would be printed in a way that panics where stderr is closed.
    subscriber.with_ansi(ansi).log_internal_errors(false).init();
}
