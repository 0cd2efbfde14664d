//! The steady state does not allocate: counted by the allocator of this program.
//!
//! One test in the binary, because the counters are global. `cargo test --test allocations --
//! --nocapture` shows the figures.
#![cfg(all(feature = "node", feature = "unstable"))]

use std::alloc::System;
use std::future::Future;
use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use peerpool::broadcast::{LOGS_PER_SET, LogConfig, LogSet, WakeSet};
use peerpool::pool::{Pool, PoolConfig, SeenOutcome};
use peerpool::wire::{FirstFrame, Hello, MessageHeader, Native, Protocol};
use peerpool::{
    Context, Direction, Event, Handled, Handler, Lane, Message, Node, NodeConfig, Nonce, PeerId, Tick,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::yield_now;
use tokio::time::timeout;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Allocations and reallocations so far.
fn allocations() -> usize {
    let stats = ALLOCATOR.stats();
    stats.allocations + stats.reallocations
}

/// Messages to warm up, and messages that are counted after them. The warm-up passes the 1,024th,
/// where the index of the log's open tail doubles. The counted ones end before the 2,048th, and
/// before the log's first block is full.
const WARM_UP: usize = 1_100;
const MESSAGES: usize = 900;
const PAYLOAD_BYTES: usize = 100;
const TIMEOUT: Duration = Duration::from_secs(60);

/// Counts what arrives.
#[derive(Clone, Default)]
struct Counting(Arc<AtomicU64>);

impl Handler for Counting {
    fn event(&self, _: Context<'_>, event: Event<'_>) -> Handled {
        assert_eq!(event.payload.len(), PAYLOAD_BYTES);
        self.0.fetch_add(1, Ordering::Relaxed);
        Handled::Done
    }
}

/// A node on loopback TCP whose maintenance sleeps, and peers that the test drives by hand.
struct TestBed {
    node: Node,
    counter: Counting,
    peers: Vec<TcpStream>,
    frame: Vec<u8>,
    message: Message,
}

impl TestBed {
    async fn with_peers(count: usize) -> Self {
        let mut config = NodeConfig::local();
        let hour = Duration::from_secs(3600);
        config.listen.push(([127, 0, 0, 1], 0).into());
        config.runtime.limits = PoolConfig::test().limits;
        config.runtime.target_outbound = 0;
        (config.runtime.maintenance_interval, config.runtime.ping_interval) = (hour, hour);
        config.runtime.liveness.stale_after = 3 * hour;
        let counter = Counting::default();
        let node = Node::builder().config(config).handler(counter.clone()).start().await.unwrap();
        let mut peers = Vec::with_capacity(count);
        for number in 0..count {
            peers.push(connect(node.local_addrs()[0], number).await);
        }
        while node.roster().iter().count() < count {
            yield_now().await;
        }
        let mut frame = BytesMut::new();
        let head = MessageHeader::Event { kind: 7 };
        Native::default().encode(Lane::Normal, &head, &[b'x'; PAYLOAD_BYTES], &mut frame).unwrap();
        let message = Message::new(7, vec![b'x'; PAYLOAD_BYTES]);
        Self { node, counter, peers, frame: frame.to_vec(), message }
    }

    /// Broadcasts, `burst` messages at a time, and waits until every peer has read them.
    async fn broadcast(&mut self, messages: usize, burst: usize) {
        let mut discarded = [0; 4096];
        for _ in 0..messages / burst {
            for _ in 0..burst {
                self.node.broadcast(&self.message).unwrap();
            }
            for peer in &mut self.peers {
                let mut left = burst * self.frame.len();
                while left > 0 {
                    let max = left.min(discarded.len());
                    left -= peer.read(&mut discarded[..max]).await.unwrap();
                }
            }
        }
        black_box(&discarded);
    }

    /// Every peer sends `bytes`, `burst` messages, in one write, and the node handles them all.
    async fn receive(&mut self, messages: usize, burst: usize, bytes: &[u8]) {
        for _ in 0..messages / burst {
            let wanted = self.counter.0.load(Ordering::Relaxed) + (burst * self.peers.len()) as u64;
            for peer in &mut self.peers {
                peer.write_all(bytes).await.unwrap();
            }
            while self.counter.0.load(Ordering::Relaxed) < wanted {
                yield_now().await;
            }
        }
    }
}

async fn connect(addr: SocketAddr, number: usize) -> TcpStream {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut nonce = [1; 16];
    nonce[..8].copy_from_slice(&(number as u64).to_le_bytes());
    let mut hello = BytesMut::new();
    Native::default().encode_hello(&Hello::new(Native::VERSION, 0, Nonce(nonce)), &mut hello).unwrap();
    stream.write_all(&hello).await.unwrap();
    let mut answer = BytesMut::new();
    loop {
        if let Some((greeting, used)) = Native::default().decode_first_frame(&answer).unwrap() {
            assert!(matches!(greeting, FirstFrame::Hello(_)));
            assert_eq!(used, answer.len(), "nothing follows the hello");
            return stream;
        }
        assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "refused");
    }
}

/// The allocations of `work`.
async fn count_allocations(work: impl Future<Output = ()>) -> usize {
    let before = allocations();
    timeout(TIMEOUT, work).await.expect("in time");
    allocations() - before
}

#[test]
fn the_steady_state_allocates_nothing_per_peer_or_frame() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut sent = Vec::new();
    runtime.block_on(async {
        for peers in [8, 64] {
            let mut bed = TestBed::with_peers(peers).await;
            for burst in [1, 50] {
                bed.broadcast(WARM_UP, burst).await;
                let count = count_allocations(bed.broadcast(MESSAGES, burst)).await;
                println!("{MESSAGES} broadcasts to {peers} peers in bursts of {burst}: {count} allocations");
                sent.push(count);
                let bytes = bed.frame.repeat(burst);
                bed.receive(WARM_UP / 5, burst, &bytes).await;
                let count = count_allocations(bed.receive(MESSAGES / 5, burst, &bytes)).await;
                println!("{} received from each: {count} allocations", MESSAGES / 5);
                assert_eq!(count, 0, "received from {peers} peers in bursts of {burst}");
            }
            bed.node.shutdown(Duration::from_secs(5)).await;
        }
    });
    let [few_single, few_burst, many_single, many_burst] = sent[..] else { unreachable!("four runs") };
    // Each message wakes every connection, and finds all of them asleep again.
    assert_eq!((few_single, many_single), (0, 0), "{MESSAGES} broadcasts, one by one");
    // A burst that is too large to copy becomes a segment, once for all peers: the segment, the
    // growth of the next index, and now and then that of the ring.
    let max = MESSAGES / 50 * 6 + 2;
    assert!(few_burst <= max, "{few_burst} allocations for {MESSAGES} broadcasts in bursts, at most {max}");
    assert_eq!(few_burst, many_burst, "bursts to 8 peers and to 64");
    // Its threads for blocking work end here; until then they may still allocate and free.
    drop(runtime);
    marking_seen_allocates_nothing();
    a_full_ring_reuses_its_blocks();
}

fn a_full_ring_reuses_its_blocks() {
    let config = LogConfig { ring_bytes: 1 << 20, block_bytes: 64 << 10, ..LogConfig::recommended() };
    let logs = LogSet::new([config; LOGS_PER_SET], &WakeSet::new());
    let log = &logs.logs()[0];
    let message = [7; PAYLOAD_BYTES];
    let append =
        |bytes: usize| (0..bytes / PAYLOAD_BYTES).for_each(|_| _ = log.append(&message, None).unwrap());
    append(2 << 20);
    let before = ALLOCATOR.stats().bytes_allocated;
    append(16 << 20);
    let allocated = ALLOCATOR.stats().bytes_allocated - before;
    // Only indexes are allocated: four bytes a message, in vectors that grow by doubling.
    assert!(allocated < 4 << 20, "{allocated} bytes for 16 MiB of messages");
}

fn marking_seen_allocates_nothing() {
    let pool: Arc<Pool<PeerId, ()>> = Pool::new(PoolConfig::test());
    let addr = |n: u8| SocketAddr::from(([10, 0, 0, n], 7_000));
    let keys: Vec<PeerId> = (0..200).map(|n| PeerId::from_addr(addr(n))).collect();
    let join = |n: u8| {
        let key = PeerId::from_addr(addr(n));
        pool.insert(key, addr(n), Direction::Inbound, (), (), Tick::ZERO).unwrap()
    };
    let peers: Vec<_> = (0..200).map(join).collect();
    let before = allocations();
    for round in 1..=100 {
        let (by_handle, by_key) = (Tick::from_millis(2 * round), Tick::from_millis(2 * round + 1));
        for (key, peer) in keys.iter().zip(&peers) {
            assert_eq!(black_box(peer.seen(by_handle)), SeenOutcome::Alive);
            assert!(black_box(pool.seen(key, by_key)));
        }
    }
    assert_eq!(allocations() - before, 0, "marking a peer seen allocates");
}
