//! Latency and isolation over real TCP on loopback, the receivers in a second process that the bench starts itself.
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
//! *paced*: 200 broadcasts a second to idle peers, from the call to receipt at each, beside one thread that writes the
//! same bytes to each of as many sockets. *votes*: one urgent message a millisecond to a peer, alone and while 10 MB blocks
//! stream to it over the bulk lane; the far end is a bare reader or a whole node. *slow*: what the others
//! get while some peers read slowly or not at all, in the first second from the first message and once that has been found out.
//!
//! All of a measure takes turns in short slices; a ratio is the median over rounds of the quotient within one round. Never
//! compare absolute numbers of two runs. Both processes read the same monotonic clock.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod child;
mod micro;
#[path = "../fanout/native.rs"]
mod native;
mod numbers;
mod paced;
mod parent;
mod slow;
mod votes;

use std::time::Duration;

/// What the command line says.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) peers: Vec<usize>,
    pub(crate) rounds: usize,
    pub(crate) slice: Duration,
    /// Measures; empty for all.
    pub(crate) only: Vec<String>,
    /// Threads of the runtime.
    pub(crate) workers: usize,
    pub(crate) sockets: Sockets,
    /// In *votes*, what kinds of far ends.
    pub(crate) ends: Vec<votes::CloseReason>,
    /// In *votes*, whether each process keeps to a processor of its own.
    pub(crate) pin: bool,
    /// In *votes*, bounds of unsent bytes to compare instead.
    pub(crate) sweep: Vec<usize>,
}

/// What the sockets are told in *votes*, where it is not what the crate ships; 0 leaves it to the system.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sockets {
    pub(crate) lowat: Option<u32>,
    pub(crate) send_buffer: Option<usize>,
    pub(crate) recv_buffer: Option<usize>,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // 1,024 peers of each contender: one socket each, in each of the two processes.
    let got = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(0);
    if args.first().is_some_and(|arg| arg == child::FLAG) {
        return child::main(args.get(1).and_then(|cpu| cpu.parse().ok()));
    }
    assert!(got == 0 || got >= 4_000, "{got} files may be open; the bench needs 4,000");
    if !args.iter().any(|arg| arg == "--ratios") {
        return micro::run();
    }
    let options = parse(&args);
    let wanted =
        |name: &str| options.only.is_empty() || options.only.iter().any(|only| name.starts_with(only));
    if wanted("paced") {
        paced::run(&options);
    }
    if wanted("votes") {
        votes::run(&options);
    }
    if wanted("slow") {
        slow::run(&options);
    }
}

fn parse(args: &[String]) -> Options {
    let mut options = Options {
        peers: vec![64, 256, 1024],
        rounds: 7,
        slice: Duration::from_millis(400),
        only: Vec::new(),
        workers: 2,
        sockets: Sockets::default(),
        ends: vec![votes::CloseReason::Raw, votes::CloseReason::Node],
        pin: std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1),
        sweep: Vec::new(),
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| panic!("{arg} needs a value")).as_str();
        match arg.as_str() {
            "--peers" => options.peers = list(value()),
            "--rounds" => options.rounds = list(value())[0].max(1),
            "--slice-ms" => options.slice = Duration::from_millis(list(value())[0] as u64),
            "--only" => options.only = value().split(',').map(str::to_owned).collect(),
            "--workers" => options.workers = list(value())[0].max(1),
            "--lowat" => options.sockets.lowat = Some(list(value())[0] as u32),
            "--sndbuf" => options.sockets.send_buffer = Some(list(value())[0]),
            "--rcvbuf" => options.sockets.recv_buffer = Some(list(value())[0]),
            "--end" => {
                options.ends =
                    vec![if value() == "node" { votes::CloseReason::Node } else { votes::CloseReason::Raw }];
            }
            "--sweep" => options.sweep = list(value()),
            "--no-pin" => options.pin = false,
            "--ratios" | "--bench" => {}
            other => panic!(
                "{other}? known: --peers, --rounds, --slice-ms, --only, --workers, --lowat, --sndbuf, --rcvbuf, --end, --sweep, --no-pin"
            ),
        }
    }
    options
}

fn list(text: &str) -> Vec<usize> {
    text.split(',').map(|part| part.parse().unwrap_or_else(|_| panic!("{part} is not a number"))).collect()
}
