//! Bytes that an idle connection of a node takes, every one counted by the allocator of this very program.
//!
//! One test to a binary: the counting is global. `cargo test --test idle_memory -- --nocapture` shows the figures; the bench
//! `idle` measures the same with many more connections and in processes apart.
#![cfg(feature = "node")]

use std::alloc::System;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use peerpool::base::{Lane, Nonce};
use peerpool::node::{Message, Node, NodeConfig};
use peerpool::pool::PoolConfig;
use peerpool::wire::{Control, DecodeStep, Decoder, FirstFrame, Hello, MessageHeader, Native, Protocol};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const PEERS: usize = 900;
/// So many come before the counting begins, for what the threads and the runtime make once.
const BEFORE: usize = 100;
/// Bytes a connection at most, a twentieth above what was measured with so few; what the tables have whatever the number weighs
/// less with more: the bench has 1,489 with 19,000.
const MOST: usize = 1_660;
/// What one that has said and heard something may hold beyond.
const AFTERWARDS: usize = 64;
const WAIT: Duration = Duration::from_secs(60);
const BODY: usize = 100;

/// Bytes allocated, once nothing moves any more.
fn settled() -> usize {
    let read = || {
        let stats = ALLOCATOR.stats();
        (stats.allocations, stats.bytes_allocated.wrapping_sub(stats.bytes_deallocated))
    };
    let begun = Instant::now();
    loop {
        let before = read();
        std::thread::sleep(Duration::from_millis(100));
        if read() == before {
            return before.1;
        }
        assert!(begun.elapsed() < WAIT, "the node does not come to rest");
    }
}

fn enter(addr: SocketAddr, number: usize) -> TcpStream {
    let mut stream = TcpStream::connect(addr).expect("the node listens");
    let mut nonce = [1; 16];
    nonce[..8].copy_from_slice(&(number as u64).to_le_bytes());
    let mut hello = Hello::new(Native::VERSION, 0, Nonce(nonce));
    hello.agent = "a peer of the test/1.0".into();
    let mut bytes = BytesMut::new();
    Native::default().encode_hello(&hello, &mut bytes).expect("a legal hello");
    stream.write_all(&bytes).expect("the node lives");
    let mut answer = Vec::with_capacity(512);
    loop {
        if let Some((greeting, _)) = Native::default().decode_first_frame(&answer).expect("a greeting") {
            assert!(matches!(greeting, FirstFrame::Hello(_)), "{greeting:?}");
            return stream;
        }
        let mut some = [0; 512];
        let count = stream.read(&mut some).expect("an answer");
        assert!(count > 0, "refused");
        answer.extend_from_slice(&some[..count]);
    }
}

#[test]
fn an_idle_connection_stays_below_its_memory_bound() {
    let files = rlimit::increase_nofile_limit(4096).unwrap_or(0);
    assert!(files == 0 || files > 2 * (PEERS + BEFORE) as u64 + 100, "{files} files may be open");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut config = NodeConfig::local();
    let hour = Duration::from_secs(3600);
    config.listen.push(([127, 0, 0, 1], 0).into());
    config.runtime.limits = PoolConfig::test().limits;
    config.runtime.target_peers = 0;
    (config.runtime.maintenance_interval, config.runtime.ping_interval) = (hour, hour);
    config.runtime.liveness.stale_after = 3 * hour;
    let node = runtime.block_on(Node::builder().config(config).start()).expect("a node");
    let addr = node.local_addrs()[0];
    let mut peers = Vec::with_capacity(BEFORE + PEERS);
    peers.extend((0..BEFORE).map(|number| enter(addr, number)));
    talk(&node, &mut peers);
    let before = settled();
    peers.extend((BEFORE..BEFORE + PEERS).map(|number| enter(addr, number)));
    let idle = (settled() - before) / PEERS;
    println!("an idle connection: {idle} bytes, at most {MOST}");
    talk(&node, &mut peers);
    let afterwards = (settled() - before) / PEERS;
    println!("one that has been pinged, has heard a broadcast and said something: {afterwards} bytes");
    assert_eq!(node.roster().iter().count(), BEFORE + PEERS);
    assert!(idle <= MOST, "{idle} bytes an idle connection");
    assert!(afterwards <= idle + AFTERWARDS, "{idle} bytes before, {afterwards} after something was said");
    drop(peers);
    runtime.block_on(node.shutdown(Duration::from_secs(5)));
}

/// Every peer is sent a message and a ping, answers it and sends a message.
fn talk(node: &Node, peers: &mut [TcpStream]) {
    node.broadcast(&Message::new(7, vec![b'x'; BODY])).expect("a legal message");
    node.roster().iter().for_each(|peer| peer.connection().handle().ping());
    let mut said = BytesMut::new();
    for peer in &mut *peers {
        let (token, messages) = hear(peer);
        assert_eq!(messages, 1);
        said.clear();
        Native::default().encode_control(&Control::Pong { token }, &mut said).expect("a pong");
        let head = MessageHeader::Event { kind: 7 };
        Native::default().encode(Lane::Normal, &head, &[b'x'; BODY], &mut said).expect("a legal message");
        peer.write_all(&said).expect("the node lives");
    }
    let begun = Instant::now();
    while node.roster().iter().any(|peer| peer.connection().handle().has_unanswered_ping()) {
        assert!(begun.elapsed() < WAIT, "a pong was not heard");
        std::thread::yield_now();
    }
}

/// Reads until a ping and a message came: the ping's token, and how many messages.
fn hear(peer: &mut TcpStream) -> (u64, usize) {
    let (mut decoder, mut bytes) = (Native::default().decoder(), Vec::new());
    let (mut token, mut messages, mut at) = (None, 0, 0);
    loop {
        if let (Some(token), true) = (token, messages > 0) {
            return (token, messages);
        }
        let step = decoder.step(&bytes[at..]).expect("legal bytes");
        at += step.used();
        match step {
            DecodeStep::Control { control: Control::Ping { token: its }, .. } => token = Some(its),
            DecodeStep::Message { .. } => messages += 1,
            DecodeStep::NeedMore => {
                let mut some = [0; 512];
                let count = peer.read(&mut some).expect("the node lives");
                assert!(count > 0, "the node closed the connection");
                bytes.extend_from_slice(&some[..count]);
            }
            other => panic!("{other:?}"),
        }
    }
}
