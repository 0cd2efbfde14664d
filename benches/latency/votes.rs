//! A vote past bulk: one urgent message a millisecond to a peer, on an idle connection and while 10
//! MB blocks stream to it.
//!
//! Each process keeps to a processor of its own, as if they were two hosts. Otherwise the scheduler
//! now and then puts the reader behind the writer, and the measured latency is its time slice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use peerpool::{Lane, Message, Node, Peer};
use tokio::runtime::Runtime;

use crate::child::{patient_config, transport};
use crate::common::args::Args;
use crate::common::native::KIND;
use crate::common::node::{runtime, start};
use crate::common::receivers::{Group, ReadMode, Receivers};
use crate::common::recorder::Recorder;
use crate::common::results::case;
use crate::common::rounds::interleave;
use crate::common::stats::{each, median, percentile, ratio};
use crate::common::system::{clock, pin};
use crate::common::table;
use crate::{Options, Sockets};

const BLOCK_BYTES: usize = 10_000_000;
const VOTE_BYTES: usize = 100;
/// Time between votes.
const PERIOD: Duration = Duration::from_millis(1);
/// Blocks that wait to be sent.
const QUEUED_BLOCKS: usize = 4;
/// The kind of a block.
const BLOCK_KIND: u16 = KIND + 1;

/// How blocks are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bulk {
    None,
    Broadcast,
    Send,
}

impl Bulk {
    pub(crate) const ALL: [Self; 3] = [Self::None, Self::Broadcast, Self::Send];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "idle connection",
            Self::Broadcast => "blocks broadcast",
            Self::Send => "blocks sent",
        }
    }
}

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RemoteEnd {
    /// A thread that takes frames apart and puts no message together.
    Reader,
    /// A node with a handler.
    Node,
}

impl RemoteEnd {
    fn name(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Node => "node",
        }
    }
}

/// A node and a remote end, in two processes.
pub(crate) struct Scene {
    runtime: Runtime,
    receivers: Receivers,
    node: Node,
    peer: Arc<Peer>,
    votes: Group,
    blocks: Group,
    /// Bytes of a block as the remote end counts them.
    block_bytes: u64,
}

/// What a slice came to.
#[derive(Debug, Default)]
pub(crate) struct Slice {
    /// Nanoseconds from the call to the remote handler.
    pub(crate) latencies: Vec<u64>,
    /// Bytes of blocks a second.
    rate: f64,
}

impl Scene {
    pub(crate) fn new(workers: usize, sockets: Sockets, end: RemoteEnd, pinned: bool) -> Self {
        pin(pinned.then_some(0));
        let runtime = runtime(workers);
        let mut receivers = Receivers::start_on(pinned.then_some(1));
        let mut config = patient_config();
        // A message may take half of the ring.
        config.log_ring_bytes = 32 << 20;
        config.connection.outbox_bytes = (QUEUED_BLOCKS + 1) * BLOCK_BYTES;
        let node = start(&runtime, Node::builder().config(config).transport(transport(sockets)));
        let (peer, votes, blocks, block_bytes) = match end {
            RemoteEnd::Reader => {
                let group = receivers.join(&node, 1, ReadMode::Frames);
                let votes = Receivers::group(group.id, 1);
                // The first chunk begins with the message's kind.
                (node.roster().iter().next().cloned(), votes, group, BLOCK_BYTES as u64 + 2)
            }
            RemoteEnd::Node => {
                let word = |size: Option<usize>| size.map_or("-".to_owned(), |size| size.to_string());
                let lowat = word(sockets.lowat.map(|size| size as usize));
                let (send, recv) = (word(sockets.send_buffer), word(sockets.recv_buffer));
                let answer = receivers.ask(&format!("node {lowat} {send} {recv}"));
                let addr = ([127, 0, 0, 1], answer[0] as u16).into();
                let [votes, blocks] = [1, 2].map(|at| Receivers::group(answer[at] as usize, 1));
                (runtime.block_on(node.connect(addr)).ok(), votes, blocks, BLOCK_BYTES as u64)
            }
        };
        Self { runtime, receivers, node, peer: peer.expect("a peer"), votes, blocks, block_bytes }
    }

    /// Sends votes for `long`, blocks beside them.
    pub(crate) fn slice(&mut self, bulk: Bulk, long: Duration) -> Slice {
        let stop = Arc::new(AtomicBool::new(false));
        let (node, peer) = (self.node.clone(), Arc::clone(&self.peer));
        let streaming = self.runtime.spawn(stream_blocks(node, peer, bulk, Arc::clone(&stop)));
        // The stream is under way before the first vote.
        std::thread::sleep(Duration::from_millis(50));
        self.receivers.latencies(&self.votes);
        let (before, since) = (self.receivers.received(&self.blocks), Instant::now());
        let voting = self.runtime.spawn(vote(self.node.clone(), Arc::clone(&self.peer), long));
        let sent = self.runtime.block_on(voting).expect("votes");
        let rate = (self.receivers.received(&self.blocks) - before) as f64 / since.elapsed().as_secs_f64();
        stop.store(true, Ordering::Release);
        let blocks = self.runtime.block_on(streaming).expect("blocks");
        self.receivers.settle_all(&mut self.blocks, blocks * self.block_bytes);
        let since = Instant::now();
        while self.receivers.latency_count(&self.votes) < sent {
            assert!(since.elapsed() < Duration::from_secs(10), "votes were lost");
        }
        let latencies = self.receivers.latencies(&self.votes);
        assert_eq!(latencies.len(), sent, "votes came twice");
        Slice { latencies, rate }
    }
}

/// Sends blocks as quickly as they go; how many.
async fn stream_blocks(node: Node, peer: Arc<Peer>, bulk: Bulk, stop: Arc<AtomicBool>) -> u64 {
    let block = Message::new(BLOCK_KIND, Bytes::from(vec![7u8; BLOCK_BYTES])).bulk();
    let mut blocks = 0;
    while bulk != Bulk::None && !stop.load(Ordering::Acquire) {
        match bulk {
            Bulk::Broadcast => {
                node.ready(Lane::Bulk).await;
                node.broadcast(&block).expect("a legal message");
            }
            _ => {
                // Some always wait. To look more often would take the processor away from the
                // writer.
                while peer.connection().handle().pending_counts().queued_messages >= QUEUED_BLOCKS {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                node.send(peer.key(), block.clone()).expect("room");
            }
        }
        blocks += 1;
    }
    blocks
}

/// Sends a vote every period; how many.
async fn vote(node: Node, peer: Arc<Peer>, long: Duration) -> usize {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let (since, mut sent) = (Instant::now(), 0);
    while since.elapsed() < long {
        ticks.tick().await;
        let mut payload = vec![0; VOTE_BYTES];
        payload[VOTE_BYTES - 8..].copy_from_slice(&clock().to_le_bytes());
        node.send(peer.key(), Message::new(KIND, payload).urgent()).expect("room");
        sent += 1;
    }
    sent
}

pub(crate) fn run(args: &Args, options: &Options) {
    if options.sweep.is_empty() {
        let mut recorder = Recorder::new("votes", options.rounds);
        options.ends.iter().for_each(|end| measure(&mut recorder, options, *end));
        recorder.finish(args);
    } else {
        options.ends.iter().for_each(|end| sweep(options, *end));
    }
    pin(None);
}

fn measure(recorder: &mut Recorder, options: &Options, end: RemoteEnd) {
    println!(
        "\nVotes past 10 MB blocks to the same peer: microseconds from the call to the remote handler; remote end: {end:?}"
    );
    println!("sockets: {:?}\n", transport(options.sockets).config());
    let mut scene = Scene::new(options.workers, options.sockets, end, options.pin);
    Bulk::ALL.iter().for_each(|bulk| drop(scene.slice(*bulk, options.slice / 4)));
    let mut slices =
        interleave(Bulk::ALL.len(), options.rounds, |at, _| scene.slice(Bulk::ALL[at], options.slice));
    let mut percentiles = |share: f64| -> Vec<Vec<f64>> {
        let figure = |slice: &mut Slice| percentile(&mut slice.latencies, share) / 1e3;
        slices.iter_mut().map(|slices| slices.iter_mut().map(figure).collect()).collect()
    };
    let (p50, p99) = (percentiles(0.5), percentiles(0.99));
    table::header(&["", "p50", "p99", "p99, most", "p99 of the idle one's", "MB/s of blocks", "sent of due"]);
    for (at, bulk) in Bulk::ALL.into_iter().enumerate() {
        let rates = each(&slices[at], |slice| slice.rate);
        // A sender that gets no processor sends late and leaves out what is due meanwhile. The
        // latencies do not show that.
        let due = options.slice.as_secs_f64() / PERIOD.as_secs_f64();
        let sent = each(&slices[at], |slice| slice.latencies.len() as f64 / due);
        let case = case(&[("remote_end", &end.name())]);
        recorder.add(&case, bulk.name(), "latency_p50_us", &p50[at]);
        recorder.add(&case, bulk.name(), "latency_p99_us", &p99[at]);
        recorder.add(&case, bulk.name(), "sent_of_due", &sent);
        if bulk != Bulk::None {
            recorder.add(&case, bulk.name(), "block_bytes_per_second", &rates);
            let idle = (Bulk::None.name(), &p99[0][..]);
            recorder.add_ratio(&case, (bulk.name(), &p99[at]), idle, "latency_p99_us");
        }
        table::row([
            bulk.name().to_owned(),
            format!("{:.0}", median(p50[at].iter().copied())),
            format!("{:.0}", median(p99[at].iter().copied())),
            format!("{:.0}", p99[at].iter().copied().fold(0.0, f64::max)),
            format!("{:.2}", ratio(&p99[at], &p99[0])),
            format!("{:.0}", median(rates) / 1e6),
            format!("{:.3}", median(sent)),
        ]);
    }
}

/// Several values of `TCP_NOTSENT_LOWAT` beside each other.
fn sweep(options: &Options, end: RemoteEnd) {
    println!("\nVotes past broadcast blocks by TCP_NOTSENT_LOWAT (0: none); remote end: {end:?}\n");
    let scene = |lowat: &usize| {
        let sockets = Sockets { lowat: Some(*lowat as u32), ..options.sockets };
        Scene::new(options.workers, sockets, end, options.pin)
    };
    let mut scenes: Vec<Scene> = options.sweep.iter().map(scene).collect();
    // The first round warms up.
    let rounds = interleave(scenes.len(), options.rounds + 1, |at, _| {
        let mut idle = scenes[at].slice(Bulk::None, options.slice);
        let mut full = scenes[at].slice(Bulk::Broadcast, options.slice);
        let idle = percentile(&mut idle.latencies, 0.99) / 1e3;
        let [p50, p99] = [0.5, 0.99].map(|share| percentile(&mut full.latencies, share) / 1e3);
        [idle, p50, p99, p99 / idle, full.rate / 1e6]
    });
    table::header(&["bytes", "idle p99", "p50", "p99", "ratio p99", "MB/s of blocks"]);
    for (lowat, rounds) in options.sweep.iter().zip(&rounds) {
        let figures: Vec<f64> = (0..5).map(|at| median(rounds[1..].iter().map(|round| round[at]))).collect();
        table::numbers(&lowat.to_string(), &figures, 2);
    }
}
