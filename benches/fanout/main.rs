//! Fan-out: one message to many peers, over real TCP on loopback, beside what else one could do.
//!
//! ```text
//! cargo bench --bench fanout                                   criterion, every cell; takes a filter
//! cargo bench --bench fanout -- --ratios                       the table: ratios to the practical limit
//! cargo bench --bench fanout -- --ratios --peers 64,256 --size 100 --rounds 15 --slice-ms 400 --only peerpool
//! ```
//!
//! The receivers live in a second process that the bench starts itself: two threads that take and count bytes, the same
//! for every contender (`--receivers copy` has them copy the bytes out, too). What is counted was received: while the producer produced, for the rate; all of it must then
//! arrive, the same at every peer, before the slice is over. Contenders
//! take turns in short slices, in an order that rotates; a ratio is the median over rounds of the quotient within one
//! round. Never compare absolute numbers of two runs.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod channel;
mod contender;
mod contenders;
mod micro;
mod native;
mod node;
mod order;
mod pea2pea;
mod ratios;
mod raw_write_limit;
mod receiver_process;
mod receivers;
mod spawn;

use std::time::Duration;

use receiver_process::Taking;

/// What the command line says.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) peers: Vec<usize>,
    pub(crate) sizes: Vec<usize>,
    pub(crate) rounds: usize,
    pub(crate) slice: Duration,
    /// Contenders whose name contains one of these; the limit always runs.
    pub(crate) only: Vec<String>,
    pub(crate) receivers: Taking,
    /// Threads of the runtime that all contenders but the limit run on.
    pub(crate) workers: usize,
    /// A second peerpool whose sockets are told this `TCP_NOTSENT_LOWAT`.
    pub(crate) lowat: Option<usize>,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // 1,024 peers of each contender: one socket each, in each of the two processes.
    let got = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(0);
    if args.first().is_some_and(|arg| arg == receiver_process::FLAG) {
        return receiver_process::main(
            args.get(1).and_then(|arg| Taking::named(arg)).unwrap_or(Taking::Discard),
        );
    }
    assert!(got == 0 || got >= 10_000, "{got} files may be open; the bench needs 10,000");
    if args.iter().any(|arg| arg == "--ratios") {
        ratios::run(&parse(&args));
    } else {
        micro::run();
    }
}

fn parse(args: &[String]) -> Options {
    let mut options = Options {
        peers: vec![8, 64, 256, 1024],
        sizes: vec![100, 1024, 64 * 1024],
        rounds: 7,
        slice: Duration::from_millis(250),
        only: Vec::new(),
        receivers: Taking::Discard,
        workers: 2,
        lowat: None,
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| panic!("{arg} needs a value")).as_str();
        match arg.as_str() {
            "--peers" => options.peers = list(value()),
            "--size" => options.sizes = list(value()),
            "--rounds" => options.rounds = list(value())[0].max(1),
            "--slice-ms" => options.slice = Duration::from_millis(list(value())[0] as u64),
            "--only" => options.only = value().split(',').map(str::to_owned).collect(),
            "--receivers" => {
                options.receivers = Taking::named(value()).unwrap_or(Taking::Discard);
            }
            "--workers" => options.workers = list(value())[0].max(1),
            "--lowat" => options.lowat = Some(list(value())[0]),
            "--ratios" | "--bench" => {}
            other => panic!(
                "{other}? known: --peers, --size, --rounds, --slice-ms, --only, --receivers, --workers, --lowat"
            ),
        }
    }
    options
}

fn list(text: &str) -> Vec<usize> {
    text.split(',').map(|part| part.parse().unwrap_or_else(|_| panic!("{part} is not a number"))).collect()
}
