//! Requests: round trips a second over one connection on loopback TCP, beside a ping-pong written by hand.
//!
//! ```text
//! cargo bench --bench requests                    criterion, every cell; takes a filter
//! cargo bench --bench requests -- --ratios        the table; also --depth 16 --size 100 --rounds 9 --slice-ms 300
//!                                                 --only peerpool (for a profile)
//! ```
//!
//! Whoever answers lives in a second process that the bench starts itself. *Ping-pong* is tokio's length-delimited codec on
//! both ends: answers come in order, so it needs no ids, no table and no deadlines, and both ends flush once for all that
//! one read brought. *Ping-pong, tasks* adds what makes it requests: a task per request in flight, and a one-shot channel for each
//! answer; still no ids and no deadlines. Contenders take turns in short slices, in an order that rotates; a ratio is the median over rounds of the
//! quotient within one round.
#![allow(clippy::print_stdout)]

mod baseline;
mod child;
mod node;

use std::cell::RefCell;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use tokio::runtime::Runtime;

use child::Second;

/// Bytes of a request.
pub(crate) const ASK: usize = 100;
/// Answers, small and large. The first byte of a request says which.
pub(crate) const ANSWERS: [usize; 2] = [100, 64 * 1024];
const DEPTHS: [usize; 3] = [1, 16, 256];

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    Until(Instant),
    Requests(u64),
}

/// One way to ask.
pub(crate) trait Contender {
    fn name(&self) -> &'static str;

    /// Asks with so many requests in flight, and returns how many were answered.
    fn ask(&mut self, runtime: &Runtime, answer: usize, depth: usize, goal: Goal) -> u64;
}

struct Contenders {
    runtime: Runtime,
    contenders: Vec<Box<dyn Contender>>,
    _second: Second,
}

impl Contenders {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let second = Second::start();
        let asked = node::Asked::new(&runtime, second.node);
        let contenders: Vec<Box<dyn Contender>> = vec![
            Box::new(baseline::PingPong::new(&runtime, second.baseline)),
            Box::new(node::Pipelined(asked.clone())),
            Box::new(baseline::Tasks::new(&runtime, second.baseline)),
            Box::new(node::Tasks(asked)),
        ];
        Self { runtime, contenders, _second: second }
    }

    /// Round trips a second.
    fn slice(&mut self, at: usize, answer: usize, depth: usize, slice: Duration) -> f64 {
        let begun = Instant::now();
        let done = self.contenders[at].ask(&self.runtime, answer, depth, Goal::Until(begun + slice));
        done as f64 / begun.elapsed().as_secs_f64()
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == child::FLAG) {
        return child::main();
    }
    if args.iter().any(|arg| arg == "--ratios") {
        return ratios(&args);
    }
    let mut criterion = Criterion::default().configure_from_args();
    let contenders = RefCell::new(Contenders::new());
    let names: Vec<_> = contenders.borrow().contenders.iter().map(|one| one.name()).collect();
    for (answer, size) in ANSWERS.iter().enumerate() {
        for depth in DEPTHS {
            let mut group = criterion.benchmark_group(format!("requests/{size} B/{depth} deep"));
            group.sample_size(10).warm_up_time(Duration::from_millis(200));
            group.measurement_time(Duration::from_secs(1)).throughput(Throughput::Elements(1));
            for (at, name) in names.iter().enumerate() {
                group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
                    bencher.iter_custom(|requests| {
                        let Contenders { runtime, contenders, .. } = &mut *contenders.borrow_mut();
                        let begun = Instant::now();
                        let goal = Goal::Requests(requests.max(depth as u64));
                        let done = contenders[at].ask(runtime, answer, depth, goal);
                        begun.elapsed().mul_f64(requests as f64 / done as f64)
                    });
                });
            }
            group.finish();
        }
    }
    criterion.final_summary();
}

fn ratios(args: &[String]) {
    let number = |flag: &str| {
        let at = args.iter().position(|arg| arg == flag)?;
        args.get(at + 1).and_then(|value| value.parse::<usize>().ok())
    };
    let rounds = number("--rounds").unwrap_or(9).max(1);
    let slice = Duration::from_millis(number("--slice-ms").unwrap_or(300) as u64);
    let depths = number("--depth").map_or(DEPTHS.to_vec(), |depth| vec![depth]);
    let mut contenders = Contenders::new();
    if let Some(only) = args.iter().position(|arg| arg == "--only").and_then(|at| args.get(at + 1)) {
        contenders.contenders.retain(|one| one.name() == only);
    }
    let names: Vec<_> = contenders.contenders.iter().map(|one| one.name()).collect();
    println!("round trips a second over those of the ping-pong; {rounds} rounds of {slice:?} a slice\n");
    println!("| answer, depth | ping-pong/s | {} |", names[1..].join(" | "));
    println!("|---|--:|{}", "--:|".repeat(names.len() - 1));
    for answer in (0..ANSWERS.len()).filter(|at| number("--size").is_none_or(|size| size == ANSWERS[*at])) {
        for &depth in &depths {
            let mut rates = vec![Vec::new(); names.len()];
            (0..names.len()).for_each(|at| _ = contenders.slice(at, answer, depth, slice / 2));
            for round in 0..rounds {
                for turn in 0..names.len() {
                    let turn = if round % 2 == 0 { turn } else { names.len() - 1 - turn };
                    let at = (turn + round) % names.len();
                    rates[at].push(contenders.slice(at, answer, depth, slice));
                }
            }
            let ratio = |at: usize| median(rates[at].iter().zip(&rates[0]).map(|(one, first)| one / first));
            let ratios: Vec<_> = (1..names.len()).map(|at| format!("{:.2}", ratio(at))).collect();
            let rate = median(rates[0].iter().copied());
            println!("| {} B, {depth} deep | {rate:.0} | {} |", ANSWERS[answer], ratios.join(" | "));
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
