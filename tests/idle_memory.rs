//! The memory of an idle connection of a node, counted by the allocator of this program.
//!
//! One test in the binary, because the counters are global. `cargo test --test idle_memory --
//! --nocapture` shows the figures. The bench `idle` measures the same with many more connections in
//! separate processes.
#![cfg(all(feature = "node", feature = "unstable"))]

use std::alloc::System;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use peerpool::pool::PoolConfig;
use peerpool::wire::{Control, DecodeStep, Decoder, FirstFrame, Hello, MessageHeader, Native, Protocol};
use peerpool::{Lane, Message, Node, NodeConfig, Nonce};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const PEERS: usize = 900;
/// Connections before the counting begins, for what threads and runtime allocate once.
const WARM_UP_PEERS: usize = 100;
/// Bytes of one connection: a twentieth above what was measured with this few. Fixed costs weigh
/// less with more connections: the bench measures 1,489 with 19,000.
const MAX_IDLE_BYTES: usize = 1_660;
/// Bytes that a connection may hold in addition after it has sent and received something.
const MAX_EXTRA_BYTES: usize = 64;
const TIMEOUT: Duration = Duration::from_secs(60);
const PAYLOAD_BYTES: usize = 100;

/// Allocated bytes, once they no longer change.
fn settled_bytes() -> usize {
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
        assert!(begun.elapsed() < TIMEOUT, "the node does not come to rest");
    }
}

fn connect(addr: SocketAddr, number: usize) -> TcpStream {
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
    assert!(files == 0 || files > 2 * (PEERS + WARM_UP_PEERS) as u64 + 100, "{files} files may be open");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut config = NodeConfig::local();
    let hour = Duration::from_secs(3600);
    config.listen.push(([127, 0, 0, 1], 0).into());
    config.runtime.limits = PoolConfig::test().limits;
    config.runtime.target_outbound = 0;
    (config.runtime.maintenance_interval, config.runtime.ping_interval) = (hour, hour);
    config.runtime.liveness.stale_after = 3 * hour;
    let node = runtime.block_on(Node::builder().config(config).start()).expect("a node");
    let addr = node.local_addrs()[0];
    let mut peers = Vec::with_capacity(WARM_UP_PEERS + PEERS);
    peers.extend((0..WARM_UP_PEERS).map(|number| connect(addr, number)));
    exchange_messages(&node, &mut peers);
    let before = settled_bytes();
    peers.extend((WARM_UP_PEERS..WARM_UP_PEERS + PEERS).map(|number| connect(addr, number)));
    let idle = (settled_bytes() - before) / PEERS;
    println!("an idle connection: {idle} bytes, at most {MAX_IDLE_BYTES}");
    exchange_messages(&node, &mut peers);
    let afterwards = (settled_bytes() - before) / PEERS;
    println!("after a ping, a broadcast and a message: {afterwards} bytes");
    assert_eq!(node.roster().iter().count(), WARM_UP_PEERS + PEERS);
    assert!(idle <= MAX_IDLE_BYTES, "{idle} bytes an idle connection");
    assert!(afterwards <= idle + MAX_EXTRA_BYTES, "{idle} bytes before, {afterwards} after an exchange");
    drop(peers);
    runtime.block_on(node.shutdown(Duration::from_secs(5)));
}

/// Sends every peer a message and a ping; each responds with a pong and a message.
fn exchange_messages(node: &Node, peers: &mut [TcpStream]) {
    node.broadcast(&Message::new(7, vec![b'x'; PAYLOAD_BYTES])).expect("a legal message");
    node.roster().iter().for_each(|peer| peer.connection().handle().ping());
    let mut out = BytesMut::new();
    for peer in &mut *peers {
        let (token, messages) = read_ping_and_message(peer);
        assert_eq!(messages, 1);
        out.clear();
        Native::default().encode_control(&Control::Pong { token }, &mut out).expect("a pong");
        let head = MessageHeader::Event { kind: 7 };
        Native::default()
            .encode(Lane::Normal, &head, &[b'x'; PAYLOAD_BYTES], &mut out)
            .expect("a legal message");
        peer.write_all(&out).expect("the node lives");
    }
    let begun = Instant::now();
    while node.roster().iter().any(|peer| peer.connection().handle().has_unanswered_ping()) {
        assert!(begun.elapsed() < TIMEOUT, "a pong was not heard");
        std::thread::yield_now();
    }
}

/// Reads until a ping and a message arrived. Returns the ping's token and the number of messages.
fn read_ping_and_message(peer: &mut TcpStream) -> (u64, usize) {
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
