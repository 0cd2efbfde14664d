//! One message to N idle peers, 200 times a second: from the call to its receipt.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use peerpool::node::{Message, Node};
use tokio::runtime::Runtime;

use crate::numbers::{clock, cpu, median, percentile};
use crate::parent::{self, ChildProcess};
use crate::{Options, native};

/// Time between two broadcasts; a later one waits until the one before has arrived everywhere.
const PERIOD: Duration = Duration::from_millis(5);
/// Bytes of a message.
const SIZE: usize = 100;

/// A node and a set of plain sockets, each with as many receivers.
pub(crate) struct Pair {
    runtime: Arc<Runtime>,
    far: ChildProcess,
    peers: usize,
    node: Node,
    node_group: (u64, u64),
    sockets: Vec<TcpStream>,
    socket_group: (u64, u64),
}

/// What a slice came to.
#[derive(Debug, Default)]
pub(crate) struct Slice {
    /// Nanoseconds from the call to each receipt.
    pub(crate) samples: Vec<u64>,
    /// CPU time of this process.
    cpu: Duration,
    broadcasts: usize,
}

impl Pair {
    pub(crate) fn new(peers: usize, workers: usize) -> Self {
        let runtime = Arc::new(parent::runtime(workers));
        let mut far = ChildProcess::start();
        let how = format!("stamps:{}", native::frame(SIZE).len());
        let node = parent::start(&runtime, Node::builder().config(parent::quiet()));
        let node_group = (far.join(&node, peers, &how), 0);
        let (sockets, socket_group) = far.sockets(peers, &how);
        Self { runtime, far, peers, node, node_group, sockets, socket_group: (socket_group, 0) }
    }

    fn bytes(&self) -> u64 {
        (self.peers * native::frame(SIZE).len()) as u64
    }

    /// Broadcasts through the node, from a task of its runtime.
    pub(crate) fn broadcasts(&mut self, count: usize) -> Slice {
        let (mut slice, mut next) = (Slice::default(), Instant::now());
        for _ in 0..count {
            let node = self.node.clone();
            let at = tokio::time::Instant::from_std(next);
            let spent = self.runtime.spawn(async move {
                tokio::time::sleep_until(at).await;
                let before = cpu();
                let message = Message::new(native::KIND, stamped());
                node.broadcast(&message).expect("a legal message");
                before
            });
            // Nothing of this process runs meanwhile but the broadcast, as in the other measure.
            std::thread::sleep((next + PERIOD * 2 / 5).saturating_duration_since(Instant::now()));
            let before = self.runtime.block_on(spent).expect("the producer");
            self.node_group.1 += self.bytes();
            next = (next + PERIOD).max(Instant::now() + PERIOD / 10);
            self.far.wait(self.node_group.0, self.node_group.1);
            slice.cpu += cpu() - before;
        }
        slice.broadcasts = count;
        slice.samples = self.far.samples(self.node_group.0);
        slice
    }

    /// The same by a plain loop of writes.
    pub(crate) fn writes(&mut self, count: usize) -> Slice {
        let (mut slice, mut next) = (Slice::default(), Instant::now());
        let frame = native::frame(SIZE);
        let head = frame.len() - SIZE;
        for _ in 0..count {
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            let before = cpu();
            let payload = stamped();
            let mut message = BytesMut::from(&frame[..head]);
            message.extend_from_slice(&payload);
            for socket in &mut self.sockets {
                // So few bytes always fit an idle socket.
                let wrote = socket.write(&message).expect("a socket");
                assert_eq!(wrote, message.len());
            }
            self.socket_group.1 += self.bytes();
            std::thread::sleep((next + PERIOD * 2 / 5).saturating_duration_since(Instant::now()));
            next = (next + PERIOD).max(Instant::now() + PERIOD / 10);
            self.far.wait(self.socket_group.0, self.socket_group.1);
            slice.cpu += cpu() - before;
        }
        slice.broadcasts = count;
        slice.samples = self.far.samples(self.socket_group.0);
        slice
    }
}

/// A payload that ends with the present time.
fn stamped() -> Bytes {
    let mut payload = BytesMut::zeroed(SIZE);
    let at = SIZE - 8;
    payload[at..].copy_from_slice(&clock().to_le_bytes());
    payload.freeze()
}

pub(crate) fn run(options: &Options) {
    println!(
        "\nOne paced message to N idle peers: microseconds from the call to receipt (medians of rounds)\n"
    );
    println!(
        "| peers | plain loop p50 | p99 | peerpool p50 | p99 | ratio p50 | ratio p99 | CPU us a broadcast: loop | peerpool |"
    );
    println!("|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    for &peers in &options.peers {
        let mut pair = Pair::new(peers, options.workers);
        let count = (options.slice.as_nanos() / PERIOD.as_nanos()).max(1) as usize;
        pair.broadcasts(count / 4);
        pair.writes(count / 4);
        let mut rounds = Vec::new();
        for round in 0..options.rounds {
            // Neighbours change as well as places.
            let (mut plain, mut ours) = if round % 2 == 0 {
                let plain = pair.writes(count);
                (plain, pair.broadcasts(count))
            } else {
                let ours = pair.broadcasts(count);
                (pair.writes(count), ours)
            };
            let of = |slice: &mut Slice| {
                assert_eq!(slice.samples.len(), slice.broadcasts * peers);
                let cpu = slice.cpu.as_secs_f64() * 1e6 / slice.broadcasts as f64;
                [percentile(&mut slice.samples, 0.5) / 1e3, percentile(&mut slice.samples, 0.99) / 1e3, cpu]
            };
            rounds.push((of(&mut plain), of(&mut ours)));
        }
        let plain = |at: usize| median(rounds.iter().map(|(plain, _)| plain[at]));
        let ours = |at: usize| median(rounds.iter().map(|(_, ours)| ours[at]));
        let ratio = |at: usize| median(rounds.iter().map(|(plain, ours)| ours[at] / plain[at]));
        println!(
            "| {peers} | {:.0} | {:.0} | {:.0} | {:.0} | {:.2} | {:.2} | {:.0} | {:.0} |",
            plain(0),
            plain(1),
            ours(0),
            ours(1),
            ratio(0),
            ratio(1),
            plain(2),
            ours(2)
        );
    }
}
