//! What the others get while some peers read slowly or not at all, and what memory that takes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use peerpool::base::Lane;
use peerpool::node::{Message, Node};
use tokio::runtime::Runtime;

use crate::numbers::{forget_peak, median, peak};
use crate::parent::{self, ChildProcess};
use crate::{Options, native};

/// Bytes of a message.
const SIZE: usize = 1024;

/// A node with receivers that read, and perhaps some that do not keep up.
pub(crate) struct Receivers {
    runtime: Arc<Runtime>,
    pub(crate) node: Node,
    /// The group of those that read.
    others: u64,
    count: usize,
    seen: u64,
}

/// What a slice came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slice {
    /// Messages a second that each of the others got.
    pub(crate) rate: f64,
    /// Bytes that the node's own stats say it holds, at most of what they said at every 1,024th message.
    held: u64,
    /// Resident bytes of the process, at most while the node sent.
    resident: u64,
}

impl Receivers {
    pub(crate) fn new(runtime: &Arc<Runtime>, far: &mut ChildProcess, others: usize) -> Self {
        let node = parent::start(runtime, Node::builder().config(parent::quiet()));
        let group = far.join(&node, others, "count");
        Self { runtime: Arc::clone(runtime), node, others: group, count: others, seen: 0 }
    }

    /// Broadcasts as quickly as `ready` allows.
    pub(crate) fn slice(&mut self, far: &mut ChildProcess, long: Duration) -> Slice {
        forget_peak();
        let since = Instant::now();
        let node = self.node.clone();
        let producer = self.runtime.spawn(async move {
            let message = Message::new(native::KIND, native::payload(SIZE));
            let (mut sent, mut held) = (0u64, 0);
            // A wait that a slow peer prolongs must not prolong the slice.
            let _ = tokio::time::timeout(long, async {
                loop {
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
                    if since.elapsed() >= long {
                        return;
                    }
                }
            })
            .await;
            (sent, held)
        });
        let (sent, held) = self.runtime.block_on(producer).expect("the producer");
        let early = far.received(self.others) - self.seen;
        let window = since.elapsed();
        let resident = peak();
        let wire = native::frame(SIZE).len() as u64;
        self.seen += sent * wire * self.count as u64;
        // All of it must arrive at those that keep up.
        far.wait(self.others, self.seen);
        let rate = early as f64 / (wire * self.count as u64) as f64 / window.as_secs_f64();
        Slice { rate, held, resident }
    }
}

/// Four nodes: with and without those that do not keep up.
pub(crate) struct Contenders {
    pub(crate) far: ChildProcess,
    pub(crate) nodes: Vec<Receivers>,
    pub(crate) slow_rate: usize,
}

impl Contenders {
    /// With readers at 1 % of what one of the nodes gets in a moment.
    pub(crate) fn new(workers: usize) -> Self {
        let mut contenders = Self::fresh(workers, None);
        let full = contenders.slice(2, Duration::from_millis(300)).rate;
        contenders.slow_rate = (full * native::frame(SIZE).len() as f64 / 100.0) as usize;
        contenders.far.join(&contenders.nodes[3].node, 16, &format!("slow:{}", contenders.slow_rate));
        contenders
    }

    /// Nobody has been sent anything yet.
    fn fresh(workers: usize, slow_rate: Option<usize>) -> Self {
        let runtime = Arc::new(parent::runtime(workers));
        let mut far = ChildProcess::start();
        let nodes: Vec<Receivers> =
            [63, 63, 48, 48].into_iter().map(|others| Receivers::new(&runtime, &mut far, others)).collect();
        far.join(&nodes[1].node, 1, "never");
        if let Some(rate) = slow_rate {
            far.join(&nodes[3].node, 16, &format!("slow:{rate}"));
        }
        Self { far, nodes, slow_rate: slow_rate.unwrap_or(0) }
    }

    pub(crate) fn slice(&mut self, at: usize, long: Duration) -> Slice {
        self.nodes[at].slice(&mut self.far, long)
    }
}

/// What the first second of a node with slow readers gives the others, over that of a node without, each from its first
/// message: with one that does not read, and with sixteen at 1 %.
fn first_seconds(options: &Options, slow_rate: usize) -> [Vec<f64>; 2] {
    let mut ratios: [Vec<f64>; 2] = Default::default();
    for round in 0..options.rounds {
        let mut contenders = Contenders::fresh(options.workers, Some(slow_rate));
        let mut rates = [0.0; 4];
        for turn in 0..4 {
            let at = (turn + round) % 4;
            rates[at] = contenders.slice(at, Duration::from_secs(1)).rate;
        }
        ratios[0].push(rates[1] / rates[0]);
        ratios[1].push(rates[3] / rates[2]);
    }
    ratios
}

pub(crate) fn run(options: &Options) {
    println!("\nSlow readers: what the others get of {SIZE}-byte broadcasts\n");
    let mut contenders = Contenders::new(options.workers);
    let limit = contenders.nodes[0].node.stats().memory.limit;
    // Until it has been found out who does not keep up, the others wait: measured apart, and not counted below.
    let seconds: Vec<Vec<f64>> = [1, 3]
        .map(|at| (0..20).map(|_| contenders.slice(at, Duration::from_millis(100)).rate / 1e3).collect())
        .into();
    let first = first_seconds(options, contenders.slow_rate);
    contenders.slice(0, options.slice);
    contenders.slice(2, options.slice);
    let mut slices: [Vec<Slice>; 4] = Default::default();
    for round in 0..options.rounds {
        for turn in 0..4 {
            let at = (turn + round) % 4;
            slices[at].push(contenders.slice(at, options.slice));
        }
    }
    println!(
        "| | thousand messages/s to each other peer | of those without | from the first message: first second, of those without (least) | MB held by stats, most | MB resident in the process, peak |"
    );
    println!("|---|--:|--:|--:|--:|--:|");
    let slow = format!("48 of 64, 16 at 1 % ({} KB/s)", contenders.slow_rate / 1000);
    for (at, name) in ["63 alone", "63 of 64, 1 not reading", "48 alone", &slow].into_iter().enumerate() {
        let rate = median(slices[at].iter().map(|slice| slice.rate));
        let base = &slices[at / 2 * 2];
        let ratio = median(slices[at].iter().zip(base).map(|(one, base)| one.rate / base.rate));
        let begun = if at % 2 == 1 {
            let ratios = &first[at / 2];
            let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
            format!("{:.3} ({least:.3})", median(ratios.iter().copied()))
        } else {
            String::new()
        };
        let held = slices[at].iter().map(|slice| slice.held).max().unwrap_or(0);
        let most = slices[at].iter().map(|slice| slice.resident).max().unwrap_or(0);
        println!(
            "| {name} | {:.1} | {ratio:.3} | {begun} | {:.1} | {:.1} |",
            rate / 1e3,
            held as f64 / 1e6,
            most as f64 / 1e6
        );
        // Four nodes live in this process.
        assert!(most <= limit, "{most} bytes resident, {limit} allowed to one node");
    }
    for (rates, name) in seconds.iter().zip(["1 not reading", "16 at 1 %"]) {
        let shown: Vec<String> = rates.iter().map(|rate| format!("{rate:.0}")).collect();
        println!("\nfirst 2 s with {name}, thousand messages/s by tenths: {}", shown.join(", "));
    }
    let missed: Vec<u64> =
        contenders.nodes.iter().map(|receivers| receivers.node.stats().missed_broadcasts).collect();
    println!(
        "\nbroadcasts missed by slow peers, by node: {missed:?}; ceiling {} MB a node",
        limit / 1_000_000
    );
}
