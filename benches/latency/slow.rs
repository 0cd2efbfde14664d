//! What the other peers get while some read slowly or not at all, and how much memory that takes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use peerpool::{Lane, Message, Node};
use tokio::runtime::Runtime;

use crate::Options;
use crate::child::patient_config;
use crate::common::args::Args;
use crate::common::native;
use crate::common::node::{runtime, start};
use crate::common::receivers::{Group, ReadMode, Receivers};
use crate::common::recorder::Recorder;
use crate::common::results::case;
use crate::common::rounds::{interleave, turns};
use crate::common::stats::{each, median, ratio};
use crate::common::system::{peak_resident, reset_peak_resident};
use crate::common::table;

/// Bytes of a payload.
const PAYLOAD_BYTES: usize = 1024;
/// Peers that read at 1 % of the rate of the others.
const SLOW_PEERS: usize = 16;

/// The four nodes: with and without peers that do not keep up. Only the peers that keep up are
/// counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peers {
    /// 63, and no others.
    Alone63,
    /// 63, and a receiver that does not read.
    OneNotReading,
    /// 48, and no others.
    Alone48,
    /// 48, and 16 that read at 1 %.
    SixteenSlow,
}

impl Peers {
    pub(crate) const ALL: [Self; 4] = [Self::Alone63, Self::OneNotReading, Self::Alone48, Self::SixteenSlow];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Alone63 => "63 alone",
            Self::OneNotReading => "63 and 1 not reading",
            Self::Alone48 => "48 alone",
            Self::SixteenSlow => "48 and 16 at 1 %",
        }
    }

    fn count(self) -> usize {
        match self {
            Self::Alone63 | Self::OneNotReading => 63,
            Self::Alone48 | Self::SixteenSlow => 48,
        }
    }

    /// The node with as many peers, all of which keep up.
    fn without_slow(self) -> Self {
        match self {
            Self::Alone63 | Self::OneNotReading => Self::Alone63,
            Self::Alone48 | Self::SixteenSlow => Self::Alone48,
        }
    }
}

/// A node with receivers that read, and perhaps some that do not keep up.
struct Sender {
    node: Node,
    /// The receivers that keep up.
    group: Group,
}

/// What a slice came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slice {
    /// Messages a second that each of the others got.
    pub(crate) rate: f64,
    /// The most bytes that the node's stats reported, read at every 1,024th message.
    held: u64,
    /// The most resident bytes of the process while the node sent.
    resident: u64,
}

/// The four nodes in one process.
pub(crate) struct Trial {
    runtime: Arc<Runtime>,
    receivers: Receivers,
    senders: Vec<Sender>,
    /// Bytes a second that a slow reader takes.
    slow_rate: usize,
}

impl Trial {
    /// With readers at 1 % of what one of the nodes delivers in a moment.
    pub(crate) fn new(workers: usize) -> Self {
        let mut trial = Self::fresh(workers, None);
        let full = trial.slice(Peers::Alone48 as usize, Duration::from_millis(300)).rate;
        trial.slow_rate = (full * native::frame(PAYLOAD_BYTES).len() as f64 / 100.0) as usize;
        trial.add_slow_readers();
        trial
    }

    /// Nothing has been sent yet. Without a rate there are no slow readers yet.
    fn fresh(workers: usize, slow_rate: Option<usize>) -> Self {
        let runtime = Arc::new(runtime(workers));
        let mut receivers = Receivers::start();
        let mut sender = |peers: Peers| {
            let node = start(&runtime, Node::builder().config(patient_config()));
            let group = receivers.join(&node, peers.count(), ReadMode::Discard);
            Sender { node, group }
        };
        let senders: Vec<Sender> = Peers::ALL.into_iter().map(&mut sender).collect();
        receivers.join(&senders[Peers::OneNotReading as usize].node, 1, ReadMode::Never);
        let mut trial = Self { runtime, receivers, senders, slow_rate: slow_rate.unwrap_or(0) };
        if slow_rate.is_some() {
            trial.add_slow_readers();
        }
        trial
    }

    fn add_slow_readers(&mut self) {
        let node = &self.senders[Peers::SixteenSlow as usize].node;
        self.receivers.join(node, SLOW_PEERS, ReadMode::Slow(self.slow_rate));
    }

    /// Broadcasts from one node, as quickly as `ready` allows.
    pub(crate) fn slice(&mut self, at: usize, long: Duration) -> Slice {
        let sender = &mut self.senders[at];
        reset_peak_resident();
        let since = Instant::now();
        let producer = self.runtime.spawn(produce(sender.node.clone(), long));
        let (sent, held) = self.runtime.block_on(producer).expect("the producer");
        let early = self.receivers.received(&sender.group);
        let window = since.elapsed();
        let resident = peak_resident();
        let (wire, peers) = (native::frame(PAYLOAD_BYTES).len() as u64, sender.group.peers);
        // All of it must arrive at the peers that keep up.
        self.receivers.settle_all(&mut sender.group, sent * wire * peers);
        let rate = early as f64 / (wire * peers) as f64 / window.as_secs_f64();
        Slice { rate, held, resident }
    }
}

/// Broadcasts for `long`; how many messages, and the most memory that the node's stats reported.
async fn produce(node: Node, long: Duration) -> (u64, u64) {
    let since = Instant::now();
    let message = Message::new(native::KIND, native::payload(PAYLOAD_BYTES));
    let (mut sent, mut held) = (0u64, 0);
    // A wait that a slow peer prolongs must not prolong the slice.
    let _ = tokio::time::timeout(long, async {
        while since.elapsed() < long {
            node.ready(Lane::Normal).await;
            node.broadcast(&message).expect("a legal message");
            sent += 1;
            if sent.is_multiple_of(1024) {
                let memory = node.stats().memory;
                held = held.max(memory.connections + memory.logs);
                assert!(held <= memory.limit, "{held} bytes held, {} allowed", memory.limit);
            }
            if sent.is_multiple_of(64) {
                tokio::task::consume_budget().await;
            }
        }
    })
    .await;
    (sent, held)
}

/// What the first second of each node delivers, from its first message, by round.
fn first_seconds(options: &Options, slow_rate: usize) -> Vec<Vec<f64>> {
    let mut rates = vec![Vec::new(); Peers::ALL.len()];
    for round in 0..options.rounds {
        let mut trial = Trial::fresh(options.workers, Some(slow_rate));
        for at in turns(Peers::ALL.len(), round) {
            rates[at].push(trial.slice(at, Duration::from_secs(1)).rate);
        }
    }
    rates
}

pub(crate) fn run(args: &Args, options: &Options) {
    let mut recorder = Recorder::new("slow_readers", options.rounds);
    println!("\nSlow readers: what the other peers get of {PAYLOAD_BYTES}-byte broadcasts\n");
    let mut trial = Trial::new(options.workers);
    let limit = trial.senders[0].node.stats().memory.limit;
    // Until the slow peers are detected the others wait: measured apart, and not counted below.
    let tenths = [Peers::OneNotReading, Peers::SixteenSlow].map(|peers| {
        let tenth = |_| trial.slice(peers as usize, Duration::from_millis(100)).rate / 1e3;
        (peers, (0..20).map(tenth).collect::<Vec<f64>>())
    });
    let first = first_seconds(options, trial.slow_rate);
    for alone in [Peers::Alone63, Peers::Alone48] {
        trial.slice(alone as usize, options.slice);
    }
    let slices = interleave(Peers::ALL.len(), options.rounds, |at, _| trial.slice(at, options.slice));
    table::header(&[
        "",
        "thousand messages/s to each other peer",
        "of those without",
        "first second, of those without (least)",
        "MB held by stats, most",
        "MB resident in the process, peak",
    ]);
    for peers in Peers::ALL {
        let (at, base) = (peers as usize, peers.without_slow());
        let rates = each(&slices[at], |slice| slice.rate);
        let without = each(&slices[base as usize], |slice| slice.rate);
        let held = each(&slices[at], |slice| slice.held as f64);
        let resident = each(&slices[at], |slice| slice.resident as f64);
        let case = case(&[("peers", &peers.name())]);
        recorder.add(&case, "peerpool", "messages_per_second", &rates);
        recorder.add(&case, "peerpool", "held_bytes", &held);
        recorder.add(&case, "peerpool", "resident_bytes", &resident);
        let mut first_text = String::new();
        if peers != base {
            let metric = "messages_per_second";
            recorder.add_ratio(&case, ("peerpool", &rates), (base.name(), &without), metric);
            let (slow, alone) = (&first[at], &first[base as usize]);
            let metric = "messages_in_first_second";
            recorder.add_ratio(&case, ("peerpool", slow), (base.name(), alone), metric);
            let least =
                slow.iter().zip(alone).map(|(slow, alone)| slow / alone).fold(f64::INFINITY, f64::min);
            first_text = format!("{:.3} ({least:.3})", ratio(slow, alone));
        }
        let most = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
        table::row([
            peers.name().to_owned(),
            format!("{:.1}", median(rates.iter().copied()) / 1e3),
            format!("{:.3}", ratio(&rates, &without)),
            first_text,
            format!("{:.1}", most(&held) / 1e6),
            format!("{:.1}", most(&resident) / 1e6),
        ]);
        // Four nodes live in this process.
        assert!(most(&resident) <= limit as f64, "resident above the {limit} bytes that one node is allowed");
    }
    println!("\nslow readers take {} KB/s", trial.slow_rate / 1000);
    for (peers, rates) in &tenths {
        let shown: Vec<String> = rates.iter().map(|rate| format!("{rate:.0}")).collect();
        println!("first 2 s with {}, thousand messages/s by tenths: {}", peers.name(), shown.join(", "));
    }
    let missed: Vec<u64> = trial.senders.iter().map(|sender| sender.node.stats().missed_broadcasts).collect();
    println!("broadcasts missed by slow peers, by node: {missed:?}; ceiling {} MB a node", limit / 1_000_000);
    recorder.finish(args);
}
