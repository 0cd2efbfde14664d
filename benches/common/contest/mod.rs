//! Contenders that send the same messages, each to as many receivers, in short slices that take
//! turns.
//!
//! What counts is what was received while the producer produced. Afterwards all of it must arrive,
//! the same at every peer, before the slice is over.

mod raw_write_limit;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use super::native::WireFormat;
use super::node;
use super::receivers::{Group, ReadMode, Receivers};
use super::results::Case;
use super::rounds::turns;
use super::stats::{each, median, ratio};
use super::{recorder::Recorder, system};
pub(crate) use raw_write_limit::{RAW_WRITE_LIMIT, RawWriteLimit};

/// Ways of the limit that take part in the rounds, after a short trial of all.
const LIMIT_WAYS: usize = 2;
/// Rounds of a cell that always take place.
const MIN_ROUNDS: usize = 3;
/// No more rounds of a cell after this long.
const MAX_CELL_TIME: Duration = Duration::from_secs(18);

/// When to stop producing.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    /// After this time.
    Time(Duration),
    /// After this many messages to all peers.
    Messages(u64),
}

impl Goal {
    /// Counts messages against the goal. Reads the clock once in about 8 KiB of payload.
    pub(crate) fn start(self, size: usize) -> Countdown {
        Countdown { goal: self, since: Instant::now(), clock_every: (8192 / size as u64).max(1), done: 0 }
    }
}

/// A goal under way.
#[derive(Debug)]
pub(crate) struct Countdown {
    goal: Goal,
    since: Instant,
    clock_every: u64,
    done: u64,
}

impl Countdown {
    /// Whether one more message is to be sent to all; counts it.
    pub(crate) fn next(&mut self) -> bool {
        let more = match self.goal {
            Goal::Messages(most) => self.done < most,
            Goal::Time(most) => !self.done.is_multiple_of(self.clock_every) || self.since.elapsed() < most,
        };
        self.done += u64::from(more);
        more
    }

    /// Messages counted.
    pub(crate) fn done(&self) -> u64 {
        self.done
    }
}

/// What was produced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Produced {
    /// When it began.
    pub(crate) since: Instant,
    /// Bytes that the receivers are to get, all together.
    pub(crate) bytes: u64,
}

/// One way to send the same message to many peers.
pub(crate) trait Contender {
    /// Its name in tables and results.
    fn name(&self) -> &'static str;

    /// Ways to run it, of which the best counts.
    fn variants(&self) -> Vec<String> {
        vec![String::new()]
    }

    /// Bytes on the wire of one message with a payload of `size` bytes.
    fn wire_len(&self, size: usize) -> usize;

    /// Sends until the goal is reached. What it returns is on its way, not received yet.
    fn produce(&mut self, variant: usize, size: usize, goal: Goal) -> Produced;

    /// Its receivers.
    fn group(&mut self) -> &mut Group;
}

/// Messages that may be under way to one peer: as many bytes as the shipped node lets the slowest
/// peer fall behind, and at least a few messages. Of small messages a thousand; eight times as many
/// made no contender faster.
pub(crate) fn window(size: usize) -> usize {
    (2 * 1024 * 1024 / size).clamp(32, 1024)
}

/// What one slice came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slice {
    /// Messages received by all peers together, in a second, from the first call to the last.
    pub(crate) rate: f64,
    /// CPU seconds of this process for a million of them.
    pub(crate) cpu: f64,
    /// How long it took until the last byte was received.
    pub(crate) took: Duration,
}

/// All contenders; the limit is the first.
pub(crate) struct Contest {
    pub(crate) contenders: Vec<Box<dyn Contender>>,
    pub(crate) receivers: Receivers,
    /// One for all contenders that need one; those whose turn it is not are asleep.
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) peers: usize,
    pub(crate) mode: ReadMode,
}

/// How long a cell is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    pub(crate) rounds: usize,
    pub(crate) slice: Duration,
}

/// A contender, one of its variants, and the name of that.
type Way = (usize, usize, String);

/// One contender in one cell.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) name: &'static str,
    pub(crate) variant: String,
    /// Deliveries a second, by round.
    pub(crate) rates: Vec<f64>,
    /// CPU seconds of this process a million deliveries, by round.
    pub(crate) cpu: Vec<f64>,
    /// Bytes that never came.
    pub(crate) lost: u64,
}

impl Contest {
    /// The limit alone; the caller adds contenders.
    pub(crate) fn new(peers: usize, workers: usize, mode: ReadMode, format: WireFormat) -> Self {
        let runtime = Arc::new(node::runtime(workers));
        let mut receivers = Receivers::start();
        let limit = RawWriteLimit::new(&mut receivers, peers, mode, format);
        Self { contenders: vec![Box::new(limit)], receivers, runtime, peers, mode }
    }

    /// Lets one contender send until the goal is reached, and waits until all of it is received.
    pub(crate) fn slice(&mut self, at: usize, variant: usize, size: usize, goal: Goal) -> Slice {
        let contender = &mut self.contenders[at];
        let before = system::cpu();
        let produced = contender.produce(variant, size, goal);
        // What is still under way when the producer stops does not count: the limit has no queue
        // that must run dry.
        let (early, window) = (self.receivers.received(contender.group()), produced.since.elapsed());
        // The limit writes bytes to any socket that takes them, the others write messages to all.
        let received = self.receivers.settle(contender.group(), produced.bytes, at > 0);
        let took = produced.since.elapsed();
        let wire = contender.wire_len(size) as f64;
        let cpu = (system::cpu() - before).as_secs_f64();
        Slice {
            rate: early as f64 / wire / window.as_secs_f64(),
            cpu: cpu / (received as f64 / wire) * 1e6,
            took,
        }
    }

    /// Measures one size; the first line is the limit.
    pub(crate) fn cell(&mut self, size: usize, effort: Effort) -> Vec<Line> {
        let ways = self.trial(size, effort);
        let mut slices: Vec<Vec<Slice>> = vec![Vec::new(); ways.len()];
        let begun = Instant::now();
        for round in 0..effort.rounds {
            if round >= MIN_ROUNDS && begun.elapsed() > MAX_CELL_TIME {
                break;
            }
            for at in turns(ways.len(), round) {
                let (contender, variant, _) = ways[at];
                slices[at].push(self.slice(contender, variant, size, Goal::Time(effort.slice)));
            }
        }
        let lines = ways.iter().zip(&slices).map(|((at, _, variant), slices)| {
            let contender = &mut self.contenders[*at];
            Line {
                name: contender.name(),
                variant: variant.clone(),
                rates: each(slices, |slice| slice.rate),
                cpu: each(slices, |slice| slice.cpu),
                lost: contender.group().lost,
            }
        });
        let lines: Vec<Line> = lines.collect();
        // The rounds decide which way of the limit is the best.
        let rate = |line: &Line| median(line.rates.iter().copied());
        let limits = lines.iter().filter(|line| line.name == RAW_WRITE_LIMIT);
        let best = limits.max_by(|a, b| rate(a).total_cmp(&rate(b))).expect("the limit").clone();
        std::iter::once(best).chain(lines.into_iter().filter(|line| line.name != RAW_WRITE_LIMIT)).collect()
    }

    /// Warms every way up, and keeps the best ways of the limit.
    fn trial(&mut self, size: usize, effort: Effort) -> Vec<Way> {
        let ways: Vec<Way> = self
            .contenders
            .iter()
            .enumerate()
            .flat_map(|(at, contender)| {
                contender.variants().into_iter().enumerate().map(move |(variant, name)| (at, variant, name))
            })
            .collect();
        let (mut limits, mut others) = (Vec::new(), Vec::new());
        for way in ways {
            let mut rate = || self.slice(way.0, way.1, size, Goal::Time(effort.slice / 4)).rate;
            let best = rate().max(rate());
            if way.0 == 0 { limits.push((best, way)) } else { others.push(way) }
        }
        limits.sort_by(|a, b| b.0.total_cmp(&a.0));
        limits.into_iter().take(LIMIT_WAYS).map(|(_, way)| way).chain(others).collect()
    }
}

/// Prints the lines of one cell.
pub(crate) fn show(lines: &[Line]) {
    println!("{:22} {:>8} {:>14} {:>14}", "", "of limit", "M deliveries/s", "CPU s/million");
    for line in lines {
        let lost = if line.lost > 0 { format!("{} BYTES LOST", line.lost) } else { String::new() };
        let over = ratio(&line.rates, &lines[0].rates);
        let (rate, cpu) = (median(line.rates.iter().copied()) / 1e6, median(line.cpu.iter().copied()));
        println!("{:22} {over:8.4} {rate:14.3} {cpu:14.4}  {}{lost}", line.name, line.variant);
    }
}

/// Adds the lines of one cell to the results: rates, CPU time, each over the limit, and peerpool
/// over each.
pub(crate) fn record(recorder: &mut Recorder, case: &Case, lines: &[Line]) {
    const RATE: &str = "deliveries_per_second";
    let ours = lines.iter().find(|line| line.name == "peerpool");
    for line in lines {
        recorder.add(case, line.name, RATE, &line.rates);
        recorder.add(case, line.name, "cpu_seconds_per_million", &line.cpu);
        if line.name != RAW_WRITE_LIMIT {
            recorder.add_ratio(case, (line.name, &line.rates), (RAW_WRITE_LIMIT, &lines[0].rates), RATE);
        }
        if let Some(ours) = ours
            && line.name != ours.name
            && line.name != RAW_WRITE_LIMIT
        {
            recorder.add_ratio(case, (ours.name, &ours.rates), (line.name, &line.rates), RATE);
        }
    }
}
