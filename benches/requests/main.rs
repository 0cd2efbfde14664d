//! Requests: round trips a second over one connection on loopback TCP, beside a hand-written
//! ping-pong.
//!
//! ```text
//! cargo bench --bench requests                    criterion, every cell; takes a filter
//! cargo bench --bench requests -- --ratios        the table; also --depth 16 --size 100 --rounds 9 --slice-ms 300
//!                                                 --only peerpool (for a profile)
//! ```
//!
//! The responders live in a second process.
//!
//! - *Ping-pong* is tokio's length-delimited codec on both ends. Answers come in order, so it needs
//!   no ids, no table and no deadlines, and both ends flush once for all that one read brought.
//! - *Ping-pong, tasks* adds a task per request in flight and a one-shot channel for each answer;
//!   still no ids and no deadlines.
//!
//! Contenders take turns in short slices. A ratio is the median over rounds of the quotient within
//! one round.
#![allow(clippy::print_stdout)]

mod baseline;
mod child;
#[allow(dead_code, reason = "each bench uses a part of it")]
#[path = "../common/mod.rs"]
mod common;
mod node;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::args::Args;
use common::child_process::ChildProcess;
use common::recorder::Recorder;
use common::results::case;
use common::rounds::interleave;
use common::stats::{median, ratio};
use common::table;
use criterion::{BenchmarkId, Criterion, Throughput};
use tokio::runtime::Runtime;

pub(crate) const REQUEST_BYTES: usize = 100;
/// Answers, small and large. The first byte of a request selects one.
pub(crate) const ANSWER_BYTES: [usize; 2] = [100, 64 * 1024];
/// Requests in flight.
const DEPTHS: [usize; 3] = [1, 16, 256];

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    Until(Instant),
    Requests(u64),
}

impl Goal {
    pub(crate) fn is_reached(self, sent: u64) -> bool {
        match self {
            Self::Until(until) => Instant::now() >= until,
            Self::Requests(most) => sent >= most,
        }
    }
}

/// One way to send requests.
pub(crate) trait Contender {
    fn name(&self) -> &'static str;

    /// Keeps `depth` requests in flight until the goal is reached, and returns how many were
    /// answered.
    fn run(&mut self, runtime: &Runtime, answer: usize, depth: usize, goal: Goal) -> u64;
}

struct Contenders {
    runtime: Runtime,
    all: Vec<Box<dyn Contender>>,
    _responders: ChildProcess,
}

impl Contenders {
    fn new() -> Self {
        let runtime = common::node::runtime(2);
        let mut responders = ChildProcess::start(&[child::FLAG]);
        let line = responders.read_line();
        let addrs: Vec<SocketAddr> = line.split(' ').map(|word| word.parse().expect("an address")).collect();
        let [node, baseline] = addrs[..] else { panic!("two addresses") };
        let client = node::Client::new(&runtime, node);
        let all: Vec<Box<dyn Contender>> = vec![
            Box::new(baseline::PingPong::new(&runtime, baseline)),
            Box::new(node::Pipeline(client.clone())),
            Box::new(baseline::Tasks::new(&runtime, baseline)),
            Box::new(node::Tasks(client)),
        ];
        Self { runtime, all, _responders: responders }
    }

    /// Round trips a second.
    fn slice(&mut self, at: usize, answer: usize, depth: usize, slice: Duration) -> f64 {
        let begun = Instant::now();
        let done = self.all[at].run(&self.runtime, answer, depth, Goal::Until(begun + slice));
        done as f64 / begun.elapsed().as_secs_f64()
    }
}

fn main() {
    let args = Args::parse();
    if args.after_child_flag(child::FLAG).is_some() {
        return child::main();
    }
    if args.wants_tables() {
        args.check(&["--depth", "--size", "--rounds", "--slice-ms", "--only"], &[]);
        return tables(&args);
    }
    let mut criterion = Criterion::default().configure_from_args();
    let contenders = RefCell::new(Contenders::new());
    let names: Vec<_> = contenders.borrow().all.iter().map(|one| one.name()).collect();
    for (answer, size) in ANSWER_BYTES.iter().enumerate() {
        for depth in DEPTHS {
            let mut group = criterion.benchmark_group(format!("requests/{size} B/{depth} deep"));
            group.sample_size(10).warm_up_time(Duration::from_millis(200));
            group.measurement_time(Duration::from_secs(1)).throughput(Throughput::Elements(1));
            for (at, name) in names.iter().enumerate() {
                group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
                    bencher.iter_custom(|requests| {
                        let Contenders { runtime, all, .. } = &mut *contenders.borrow_mut();
                        let begun = Instant::now();
                        let goal = Goal::Requests(requests.max(depth as u64));
                        let done = all[at].run(runtime, answer, depth, goal);
                        begun.elapsed().mul_f64(requests as f64 / done as f64)
                    });
                });
            }
            group.finish();
        }
    }
    criterion.final_summary();
}

fn tables(args: &Args) {
    const METRIC: &str = "round_trips_per_second";
    let rounds = args.number("--rounds", 9).max(1);
    let slice = Duration::from_millis(args.number("--slice-ms", 300));
    let mut recorder = Recorder::new("requests", rounds);
    let mut contenders = Contenders::new();
    if let Some(only) = args.value("--only") {
        contenders.all.retain(|one| one.name() == only);
    }
    let names: Vec<_> = contenders.all.iter().map(|one| one.name()).collect();
    println!("round trips a second over those of the ping-pong; {rounds} rounds of {slice:?} a slice\n");
    table::header(&[&["answer, depth", "ping-pong/s"], &names[1..]].concat());
    let sizes = args.numbers("--size", &ANSWER_BYTES);
    for (answer, size) in ANSWER_BYTES.iter().enumerate().filter(|(_, size)| sizes.contains(size)) {
        for depth in args.numbers("--depth", &DEPTHS) {
            (0..names.len()).for_each(|at| _ = contenders.slice(at, answer, depth, slice / 2));
            let rates = interleave(names.len(), rounds, |at, _| contenders.slice(at, answer, depth, slice));
            let case = case(&[("answer_bytes", size), ("depth", &depth)]);
            for (at, name) in names.iter().enumerate() {
                recorder.add(&case, name, METRIC, &rates[at]);
                if at > 0 {
                    recorder.add_ratio(&case, (name, &rates[at]), (names[0], &rates[0]), METRIC);
                }
            }
            let mut row =
                vec![format!("{size} B, {depth} deep"), format!("{:.0}", median(rates[0].iter().copied()))];
            row.extend(
                rates[1..].iter().map(|rates_of_one| format!("{:.2}", ratio(rates_of_one, &rates[0]))),
            );
            table::row(row);
        }
    }
    recorder.finish(args);
}
