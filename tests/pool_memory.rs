//! Bytes a connection at a million peers, every byte of bookkeeping counted by the allocator.
//!
//! One test to a binary: the counting is global. `cargo test --release --test pool_memory -- --nocapture` shows the
//! figures.

use std::alloc::System;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use peerpool::base::{Direction, PeerId, Tick};
use peerpool::pool::{PeerKey, Pool, PoolConfig};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Without optimisation an eighth, which fills the tables of an eighth of the shards just as badly.
const PEERS: u32 = if cfg!(debug_assertions) { 125_000 } else { 1_000_000 };

/// Bytes a connection of a pool of `PEERS`, with no connection object and an info of no size.
fn bytes_a_connection<K: PeerKey>(key: impl Fn(SocketAddr) -> K, addr: impl Fn(u32) -> SocketAddr) -> f64 {
    let mut config = PoolConfig::test();
    config.expected_peers = PEERS as usize;
    let region = Region::new(ALLOCATOR);
    let pool: Arc<Pool<K, ()>> = Pool::new(config);
    for n in 0..PEERS {
        let addr = addr(n);
        let inserted = pool.insert(key(addr), addr, Direction::Inbound, (), (), Tick::ZERO);
        assert!(inserted.is_ok(), "{n}: {inserted:?}");
    }
    assert_eq!(pool.sweep(Tick::ZERO).removed.len(), 0);
    let change = region.change();
    let bytes = change.bytes_allocated - change.bytes_deallocated;
    assert_eq!(pool.len(), PEERS as usize);
    bytes as f64 / f64::from(PEERS)
}

/// Sixteen neighbours a /24, as the dense parts of the network look.
fn dense(n: u32) -> SocketAddr {
    SocketAddr::from(((((n / 16) << 8) | (n % 16) | 0x0100_0000).to_be_bytes(), 7_000))
}

/// A /24 each: the most that counting subnets can cost.
fn sparse(n: u32) -> SocketAddr {
    SocketAddr::from((((n + 0x1_0000) << 8).to_be_bytes(), 7_000))
}

#[test]
fn a_million_connections_keep_within_their_bytes() {
    let of_ip = |addr: SocketAddr| addr.ip();
    let figures = [
        ("IpAddr keys, 16 peers a subnet", bytes_a_connection::<IpAddr>(of_ip, dense), 240.0),
        ("IpAddr keys, a subnet each", bytes_a_connection::<IpAddr>(of_ip, sparse), 240.0),
        ("PeerId keys, 16 peers a subnet", bytes_a_connection(PeerId::from_addr, dense), 384.0),
        ("PeerId keys, a subnet each", bytes_a_connection(PeerId::from_addr, sparse), 384.0),
    ];
    for (name, bytes, most) in figures {
        println!("{name}: {bytes:.1} bytes a connection, at most {most}");
        assert!(bytes <= most, "{name}: {bytes:.1} bytes a connection");
    }
}
