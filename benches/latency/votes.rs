//! A vote past bulk: one urgent message a millisecond to a peer, on an idle link and while 10 MB blocks stream to it.
//!
//! Each process keeps to a processor of its own, as if they were two hosts: otherwise the scheduler now and then puts the
//! reader behind the writer, and what is measured is its time slice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use peerpool::base::Lane;
use peerpool::node::{Message, Node, Peer};
use tokio::runtime::Runtime;

use crate::numbers::{clock, median, percentile, pin};
use crate::parent::{self, ChildProcess};
use crate::{Options, Sockets, child, native};

/// Bytes of a block.
const BLOCK: usize = 10_000_000;
/// Bytes of a vote.
const VOTE: usize = 100;
/// Time between votes.
const PERIOD: Duration = Duration::from_millis(1);
/// Blocks that wait to be sent.
const QUEUED: usize = 4;
/// What a block is called.
const BLOCKS: u16 = native::KIND + 1;

/// How blocks are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bulk {
    None,
    Broadcast,
    Send,
}

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseReason {
    /// A thread that takes frames apart and puts no message together.
    Raw,
    /// A node with a handler.
    Node,
}

/// A node and a far end, in two processes.
pub(crate) struct Connection {
    runtime: Runtime,
    far: ChildProcess,
    node: Node,
    peer: Arc<Peer>,
    votes: u64,
    blocks: u64,
    sent: u64,
    /// Bytes of a block as the far end counts them.
    block: u64,
}

/// What a slice came to.
#[derive(Debug, Default)]
pub(crate) struct Slice {
    /// Nanoseconds from the call to the far handler.
    pub(crate) samples: Vec<u64>,
    /// Bytes of blocks a second.
    rate: f64,
}

impl Connection {
    pub(crate) fn new(workers: usize, sockets: Sockets, end: CloseReason, pinned: bool) -> Self {
        pin(pinned.then_some(0));
        let runtime = parent::runtime(workers);
        let mut far = ChildProcess::start_on(pinned.then_some(1));
        let word = |size: Option<usize>| size.map_or("-".to_owned(), |size| size.to_string());
        let (lowat, send) = (word(sockets.lowat.map(|size| size as usize)), word(sockets.send_buffer));
        let mut config = parent::quiet();
        // A message may take half of the ring.
        config.log_ring_bytes = 32 << 20;
        config.connection.outbox_bytes = (QUEUED + 1) * BLOCK;
        let node =
            parent::start(&runtime, Node::builder().config(config).transport(child::transport(sockets)));
        let (peer, votes, blocks, block) = match end {
            CloseReason::Raw => {
                let group = far.join(&node, 1, "frames");
                // The first chunk begins with the message's kind.
                (node.roster().iter().next().cloned(), group, group, BLOCK as u64 + 2)
            }
            CloseReason::Node => {
                let told = far.ask(&format!("node {lowat} {send} {}", word(sockets.recv_buffer)));
                let addr = ([127, 0, 0, 1], told[0] as u16).into();
                (runtime.block_on(node.connect(addr)).ok(), told[1], told[2], BLOCK as u64)
            }
        };
        Self { runtime, far, node, peer: peer.expect("a peer"), votes, blocks, sent: 0, block }
    }

    /// Sends votes for so long, blocks beside them.
    pub(crate) fn slice(&mut self, bulk: Bulk, long: Duration) -> Slice {
        let stop = Arc::new(AtomicBool::new(false));
        let streaming = {
            let (node, peer, stop) = (self.node.clone(), Arc::clone(&self.peer), Arc::clone(&stop));
            self.runtime.spawn(stream(node, peer, bulk, stop))
        };
        // The stream is under way before the first vote.
        std::thread::sleep(Duration::from_millis(50));
        self.far.samples(self.votes);
        let before = (self.far.received(self.blocks), Instant::now());
        let voting = {
            let (node, peer) = (self.node.clone(), Arc::clone(&self.peer));
            self.runtime.spawn(vote(node, peer, long))
        };
        let sent = self.runtime.block_on(voting).expect("votes");
        let rate = (self.far.received(self.blocks) - before.0) as f64 / before.1.elapsed().as_secs_f64();
        stop.store(true, Ordering::Release);
        let blocks = self.runtime.block_on(streaming).expect("blocks");
        self.sent += blocks * self.block;
        self.far.wait(self.blocks, self.sent);
        let since = Instant::now();
        while self.far.ask(&format!("noted {}", self.votes))[0] < sent as u64 {
            assert!(since.elapsed() < Duration::from_secs(10), "votes were lost");
        }
        let samples = self.far.samples(self.votes);
        assert_eq!(samples.len(), sent, "votes came twice");
        Slice { samples, rate }
    }
}

/// Sends blocks as quickly as they go; how many.
async fn stream(node: Node, peer: Arc<Peer>, bulk: Bulk, stop: Arc<AtomicBool>) -> u64 {
    let block = Message::new(BLOCKS, Bytes::from(vec![7u8; BLOCK])).bulk();
    let mut blocks = 0;
    while bulk != Bulk::None && !stop.load(Ordering::Acquire) {
        match bulk {
            Bulk::Broadcast => {
                node.ready(Lane::Bulk).await;
                node.broadcast(&block).expect("a legal message");
            }
            _ => {
                // Some always wait; looking more often would take the processor away from the writer.
                while peer.connection().handle().pending_counts().queued_messages >= QUEUED {
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
        let mut payload = vec![0; VOTE];
        payload[VOTE - 8..].copy_from_slice(&clock().to_le_bytes());
        node.send(peer.key(), Message::new(native::KIND, payload).urgent()).expect("room");
        sent += 1;
    }
    sent
}

pub(crate) fn run(options: &Options) {
    if !options.sweep.is_empty() {
        options.ends.iter().for_each(|end| sweep(options, *end));
        return pin(None);
    }
    options.ends.iter().for_each(|end| table(options, *end));
    pin(None);
}

fn table(options: &Options, end: CloseReason) {
    println!(
        "\nVotes past 10 MB blocks to the same peer: microseconds from the call to the far handler; far end: {end:?}\n"
    );
    println!("sockets: {:?}\n", child::transport(options.sockets).config());
    let mut link = Connection::new(options.workers, options.sockets, end, options.pin);
    let ways = [Bulk::None, Bulk::Broadcast, Bulk::Send];
    let _ = ways.map(|bulk| link.slice(bulk, options.slice / 4));
    let mut slices: [Vec<Slice>; 3] = Default::default();
    for round in 0..options.rounds {
        for turn in 0..3 {
            let at = (turn + round) % 3;
            slices[at].push(link.slice(ways[at], options.slice));
        }
    }
    let p99s: Vec<Vec<f64>> = slices
        .iter_mut()
        .map(|slices| slices.iter_mut().map(|slice| percentile(&mut slice.samples, 0.99) / 1e3).collect())
        .collect();
    println!(
        "| | p50 | p99 (rounds' median) | p99 (all votes) | ratio p99 (rounds' median) | ratio p99 (all) | MB/s of blocks | sent of due |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|");
    let mut idle = f64::NAN;
    for (at, name) in ["idle link", "blocks broadcast", "blocks sent"].into_iter().enumerate() {
        let mut all: Vec<u64> = slices[at].iter().flat_map(|slice| slice.samples.iter().copied()).collect();
        let (p50, p99) = (percentile(&mut all, 0.5) / 1e3, percentile(&mut all, 0.99) / 1e3);
        if at == 0 {
            idle = p99;
        }
        let rounds = median(p99s[at].iter().zip(&p99s[0]).map(|(one, idle)| one / idle));
        let rate = median(slices[at].iter().map(|slice| slice.rate)) / 1e6;
        let middle = median(p99s[at].iter().copied());
        // A voter that gets no processor sends late, and leaves out what is due meanwhile: that is not in the latencies.
        let due = slices[at].len() as f64 * options.slice.as_secs_f64() / PERIOD.as_secs_f64();
        println!(
            "| {name} | {p50:.0} | {middle:.0} | {p99:.0} | {rounds:.2} | {:.2} | {rate:.0} | {:.3} |",
            p99 / idle,
            all.len() as f64 / due
        );
    }
}

/// Bytes unsent in the kernel, several bounds beside each other.
fn sweep(options: &Options, end: CloseReason) {
    println!("\nVotes past broadcast blocks by TCP_NOTSENT_LOWAT (0: none); far end: {end:?}\n");
    let mut links: Vec<Connection> = options
        .sweep
        .iter()
        .map(|lowat| {
            let sockets = Sockets { lowat: Some(*lowat as u32), ..options.sockets };
            Connection::new(options.workers, sockets, end, options.pin)
        })
        .collect();
    let mut rounds: Vec<Vec<[f64; 5]>> = vec![Vec::new(); links.len()];
    let count = links.len();
    for round in 0..=options.rounds {
        for turn in 0..count {
            let at = (turn + round) % count;
            let mut idle = links[at].slice(Bulk::None, options.slice);
            let mut full = links[at].slice(Bulk::Broadcast, options.slice);
            if round > 0 {
                let idle = percentile(&mut idle.samples, 0.99) / 1e3;
                let [p50, p99] = [0.5, 0.99].map(|share| percentile(&mut full.samples, share) / 1e3);
                rounds[at].push([idle, p50, p99, p99 / idle, full.rate / 1e6]);
            }
        }
    }
    println!("| bytes | idle p99 | p50 | p99 | ratio p99 | MB/s of blocks |");
    println!("|--:|--:|--:|--:|--:|--:|");
    for (lowat, rounds) in options.sweep.iter().zip(&rounds) {
        let of = |at: usize| median(rounds.iter().map(|round| round[at]));
        println!("| {lowat} | {:.0} | {:.0} | {:.0} | {:.2} | {:.0} |", of(0), of(1), of(2), of(3), of(4));
    }
}
