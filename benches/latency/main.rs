//! Latency and isolation over real TCP on loopback, the receivers in a second process.
//!
//! ```text
//! cargo bench --bench latency                         criterion, every measure; takes a filter
//! cargo bench --bench latency -- --ratios             the tables: paced broadcasts, votes past bulk, slow readers
//! cargo bench --bench latency -- --ratios --only paced --peers 64,1024 --rounds 15
//! cargo bench --bench latency -- --ratios --only votes --lowat 131072 --rcvbuf 524288
//! cargo bench --bench latency -- --ratios --only votes --sweep 16384,32768,65536,131072,0
//! cargo bench --bench latency -- --ratios --only slow
//! ```
//!
//! - *paced*: 200 broadcasts a second to idle peers, from the call to receipt at each, beside one
//!   thread that writes the same bytes to each of as many sockets. The caller is a task of the
//!   node's runtime, or a thread outside of it.
//! - *votes*: one urgent message a millisecond to a peer, alone and while 10 MB blocks stream to it
//!   over the bulk lane. The remote end is a bare reader or a whole node.
//! - *slow*: what the other peers get while some read slowly or not at all, in the first second
//!   from the first message and after the slow ones are detected.
//!
//! All contenders of a measure take turns in short slices. A ratio is the median over rounds of the
//! quotient within one round. Never compare absolute numbers of two runs. Both processes read the
//! same monotonic clock.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod child;
#[allow(dead_code, reason = "each bench uses a part of it")]
#[path = "../common/mod.rs"]
mod common;
mod criterion_run;
mod paced;
mod slow;
mod votes;

use std::time::Duration;

use common::args::Args;
use common::{receivers, system};
use votes::RemoteEnd;

/// What the command line asks for.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) peers: Vec<usize>,
    pub(crate) rounds: usize,
    pub(crate) slice: Duration,
    /// Threads of the runtime.
    pub(crate) workers: usize,
    pub(crate) sockets: Sockets,
    /// In *votes*, the kinds of remote ends.
    pub(crate) ends: Vec<RemoteEnd>,
    /// In *votes*, whether each process keeps to a processor of its own.
    pub(crate) pin: bool,
    /// In *votes*, values of `TCP_NOTSENT_LOWAT` to compare.
    pub(crate) sweep: Vec<usize>,
}

/// Socket options in *votes* that differ from what the crate ships; 0 leaves an option to the
/// system.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sockets {
    pub(crate) lowat: Option<u32>,
    pub(crate) send_buffer: Option<usize>,
    pub(crate) recv_buffer: Option<usize>,
}

fn main() {
    let args = Args::parse();
    // 1,024 peers of each contender: one socket each, in each of the two processes.
    system::allow_open_files(4_000);
    if let Some(args) = args.after_child_flag(receivers::FLAG) {
        return child::main(args);
    }
    if !args.wants_tables() {
        return criterion_run::run();
    }
    let with_value = [
        "--peers",
        "--rounds",
        "--slice-ms",
        "--only",
        "--workers",
        "--lowat",
        "--sndbuf",
        "--rcvbuf",
        "--end",
        "--sweep",
    ];
    args.check(&with_value, &["--no-pin"]);
    let options = options(&args);
    if args.selects("paced") {
        paced::run(&args, &options);
    }
    if args.selects("votes") {
        votes::run(&args, &options);
    }
    if args.selects("slow") {
        slow::run(&args, &options);
    }
}

fn options(args: &Args) -> Options {
    let ends = match args.value("--end") {
        Some("node") => vec![RemoteEnd::Node],
        Some(_) => vec![RemoteEnd::Reader],
        None => vec![RemoteEnd::Reader, RemoteEnd::Node],
    };
    Options {
        peers: args.numbers("--peers", &[8, 64, 256, 1024]),
        rounds: args.number("--rounds", 7).max(1),
        slice: Duration::from_millis(args.number("--slice-ms", 400)),
        workers: args.number("--workers", 2).max(1),
        sockets: Sockets {
            lowat: args.parsed("--lowat"),
            send_buffer: args.parsed("--sndbuf"),
            recv_buffer: args.parsed("--rcvbuf"),
        },
        ends,
        pin: system::processors() > 1 && !args.has("--no-pin"),
        sweep: args.numbers("--sweep", &[]),
    }
}
