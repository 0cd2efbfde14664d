//! Broadcast: one message to many peers over real TCP on loopback, beside the alternatives.
//!
//! ```text
//! cargo bench --bench fanout                                   criterion, every cell; takes a filter
//! cargo bench --bench fanout -- --ratios                       the tables
//! cargo bench --bench fanout -- --ratios --peers 64,256 --size 100 --rounds 15 --slice-ms 400 --only peerpool
//! ```
//!
//! The receivers live in a second process: two threads that take and count bytes, the same for
//! every contender (`--receivers copy` has them copy the bytes out, too). Contenders take turns in
//! short slices. A ratio is the median over rounds of the quotient within one round. Never compare
//! absolute numbers of two runs.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod channel;
#[allow(dead_code, reason = "each bench uses a part of it")]
#[path = "../common/mod.rs"]
mod common;
mod contenders;
mod criterion_run;
mod node;
mod pea2pea;
mod spawn;
mod tables;

use std::time::Duration;

use common::args::Args;
use common::contest::Effort;
use common::receivers::{self, ReadMode};
use common::{native, system};

/// What the command line asks for.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) peers: Vec<usize>,
    pub(crate) sizes: Vec<usize>,
    pub(crate) effort: Effort,
    pub(crate) setup: Setup,
}

/// How contenders are set up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) receivers: ReadMode,
    /// Threads of the runtime that all contenders but the limit run on.
    pub(crate) workers: usize,
    /// `TCP_NOTSENT_LOWAT` of a second peerpool.
    pub(crate) lowat: Option<u32>,
}

fn main() {
    let args = Args::parse();
    // 1,024 peers of each contender: one socket each, in each of the two processes.
    system::allow_open_files(10_000);
    if let Some(args) = args.after_child_flag(receivers::FLAG) {
        return receivers::child::main(args, native::NATIVE);
    }
    if !args.wants_tables() {
        return criterion_run::run();
    }
    args.check(
        &["--peers", "--size", "--rounds", "--slice-ms", "--only", "--receivers", "--workers", "--lowat"],
        &[],
    );
    let options = Options {
        peers: args.numbers("--peers", &[8, 64, 256, 1024]),
        sizes: args.numbers("--size", &[100, 1024, 64 * 1024]),
        effort: Effort {
            rounds: args.number("--rounds", 7).max(1),
            slice: Duration::from_millis(args.number("--slice-ms", 250)),
        },
        setup: Setup {
            receivers: args.number("--receivers", ReadMode::Discard),
            workers: args.number("--workers", 2).max(1),
            lowat: args.parsed("--lowat"),
        },
    };
    tables::run(&args, &options);
}
