//! One message to N idle peers, 200 times a second: from the call to its receipt.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use peerpool::{Message, Node};
use tokio::runtime::Runtime;

use crate::Options;
use crate::child::patient_config;
use crate::common::args::Args;
use crate::common::native;
use crate::common::node::{runtime, start};
use crate::common::receivers::{Group, ReadMode, Receivers};
use crate::common::recorder::Recorder;
use crate::common::results::case;
use crate::common::rounds::interleave;
use crate::common::stats::{each, median, percentile, ratio};
use crate::common::system::{clock, cpu};
use crate::common::table;

/// Time between two broadcasts. A broadcast waits until the one before has arrived everywhere.
const PERIOD: Duration = Duration::from_millis(5);
/// After a broadcast this process does nothing else for this long.
const QUIET: Duration = Duration::from_millis(2);
/// Bytes of a payload.
const PAYLOAD_BYTES: usize = 100;

/// Who sends, and from where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// One thread writes to each of as many plain sockets.
    LoopOfWrites,
    /// A task of the node's runtime calls `broadcast`.
    Task,
    /// A thread outside of the node's runtime calls `broadcast`.
    Thread,
}

impl Caller {
    pub(crate) const ALL: [Self; 3] = [Self::LoopOfWrites, Self::Task, Self::Thread];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::LoopOfWrites => "loop of writes",
            Self::Task => "peerpool",
            Self::Thread => "peerpool, outside",
        }
    }
}

/// A node and a set of plain sockets, each with as many receivers.
pub(crate) struct Pair {
    runtime: Arc<Runtime>,
    receivers: Receivers,
    node: Node,
    node_group: Group,
    sockets: Vec<TcpStream>,
    socket_group: Group,
}

/// What a slice came to.
#[derive(Debug, Default)]
pub(crate) struct Slice {
    /// Nanoseconds from the call to each receipt.
    pub(crate) latencies: Vec<u64>,
    /// CPU time of this process.
    cpu: Duration,
}

impl Pair {
    pub(crate) fn new(peers: usize, workers: usize) -> Self {
        let runtime = Arc::new(runtime(workers));
        let mut receivers = Receivers::start();
        let mode = ReadMode::Stamps(native::frame(PAYLOAD_BYTES).len());
        let node = start(&runtime, Node::builder().config(patient_config()));
        let node_group = receivers.join(&node, peers, mode);
        let (sockets, socket_group) = receivers.sockets(peers, mode);
        Self { runtime, receivers, node, node_group, sockets, socket_group }
    }

    /// Sends `count` messages to all peers.
    pub(crate) fn slice(&mut self, caller: Caller, count: usize) -> Slice {
        let (mut slice, mut next) = (Slice::default(), Instant::now());
        let bytes = (self.sockets.len() * native::frame(PAYLOAD_BYTES).len()) as u64;
        for _ in 0..count {
            let before = match caller {
                Caller::LoopOfWrites => self.write_to_each(next),
                Caller::Task => self.broadcast_from_task(next),
                Caller::Thread => self.broadcast_from_thread(next),
            };
            next = (next + PERIOD).max(Instant::now() + PERIOD / 10);
            let group =
                if caller == Caller::LoopOfWrites { &mut self.socket_group } else { &mut self.node_group };
            self.receivers.settle_all(group, bytes);
            slice.cpu += cpu() - before;
        }
        let group = if caller == Caller::LoopOfWrites { &self.socket_group } else { &self.node_group };
        slice.latencies = self.receivers.latencies(group);
        assert_eq!(slice.latencies.len(), count * self.sockets.len());
        slice
    }

    /// Broadcasts at `at`; the CPU time before. Nothing else of this process runs meanwhile.
    fn broadcast_from_task(&self, at: Instant) -> Duration {
        let node = self.node.clone();
        let task = self.runtime.spawn(async move {
            tokio::time::sleep_until(tokio::time::Instant::from_std(at)).await;
            broadcast(&node)
        });
        thread::sleep((at + QUIET).saturating_duration_since(Instant::now()));
        self.runtime.block_on(task).expect("the producer")
    }

    fn broadcast_from_thread(&self, at: Instant) -> Duration {
        thread::sleep(at.saturating_duration_since(Instant::now()));
        let before = broadcast(&self.node);
        thread::sleep((at + QUIET).saturating_duration_since(Instant::now()));
        before
    }

    fn write_to_each(&mut self, at: Instant) -> Duration {
        let frame = native::frame(PAYLOAD_BYTES);
        thread::sleep(at.saturating_duration_since(Instant::now()));
        let before = cpu();
        let payload = stamped();
        let mut message = BytesMut::from(&frame[..frame.len() - PAYLOAD_BYTES]);
        message.extend_from_slice(&payload);
        for socket in &mut self.sockets {
            // So few bytes always fit an idle socket.
            let written = socket.write(&message).expect("a socket");
            assert_eq!(written, message.len());
        }
        thread::sleep((at + QUIET).saturating_duration_since(Instant::now()));
        before
    }
}

/// Broadcasts; the CPU time before.
fn broadcast(node: &Node) -> Duration {
    let before = cpu();
    let message = Message::new(native::KIND, stamped());
    node.broadcast(&message).expect("a legal message");
    before
}

/// A payload that ends with the present time.
fn stamped() -> Bytes {
    let mut payload = BytesMut::zeroed(PAYLOAD_BYTES);
    payload[PAYLOAD_BYTES - 8..].copy_from_slice(&clock().to_le_bytes());
    payload.freeze()
}

/// The figures of a slice and their names.
const METRICS: [&str; 3] = ["latency_p50_us", "latency_p99_us", "cpu_us_per_broadcast"];

pub(crate) fn run(args: &Args, options: &Options) {
    let mut recorder = Recorder::new("paced", options.rounds);
    println!(
        "\nOne paced message to N idle peers: microseconds from the call to receipt, medians of rounds\n"
    );
    table::header(&["peers, caller", "p50", "p99", "CPU a broadcast", "p50 of the loop's", "p99", "CPU"]);
    for &peers in &options.peers {
        let mut pair = Pair::new(peers, options.workers);
        let count = (options.slice.as_nanos() / PERIOD.as_nanos()).max(1) as usize;
        Caller::ALL.iter().for_each(|caller| drop(pair.slice(*caller, count / 4)));
        let rounds = interleave(Caller::ALL.len(), options.rounds, |at, _| {
            let mut slice = pair.slice(Caller::ALL[at], count);
            let [p50, p99] = [0.5, 0.99].map(|share| percentile(&mut slice.latencies, share) / 1e3);
            [p50, p99, slice.cpu.as_secs_f64() * 1e6 / count as f64]
        });
        let case = case(&[("peers", &peers)]);
        for (caller, slices) in Caller::ALL.iter().zip(&rounds) {
            let mut row = vec![format!("{peers}, {}", caller.name())];
            let mut ratios = Vec::new();
            for (at, metric) in METRICS.iter().enumerate() {
                let (values, base) = (each(slices, |slice| slice[at]), each(&rounds[0], |slice| slice[at]));
                recorder.add(&case, caller.name(), metric, &values);
                row.push(format!("{:.0}", median(values.iter().copied())));
                ratios.push(format!("{:.2}", ratio(&values, &base)));
                if *caller != Caller::LoopOfWrites {
                    let loop_of_writes = (Caller::LoopOfWrites.name(), &base[..]);
                    recorder.add_ratio(&case, (caller.name(), &values), loop_of_writes, metric);
                }
            }
            row.extend(ratios);
            table::row(row);
        }
    }
    recorder.finish(args);
}
