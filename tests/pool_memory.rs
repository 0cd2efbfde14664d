//! Bytes per connection at a million peers, as the allocator counts them.
//!
//! One test per binary: the counter is global.
//! `cargo test --release --test pool_memory -- --nocapture` prints the figures.

use std::alloc::System;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use peerpool::pool::{PeerKey, Pool, PoolConfig};
use peerpool::{Direction, PeerId, Tick};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// An eighth without optimisation: the tables of an eighth of the shards have the same load.
const PEERS: u32 = if cfg!(debug_assertions) { 125_000 } else { 1_000_000 };

/// Bytes per connection of a pool of `PEERS`, without a connection object and with an info of size
/// zero.
fn bytes_per_connection<K: PeerKey>(key: impl Fn(SocketAddr) -> K, addr: impl Fn(u32) -> SocketAddr) -> f64 {
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

/// Sixteen peers per /24, as in dense parts of the network.
fn dense(n: u32) -> SocketAddr {
    SocketAddr::from(((((n / 16) << 8) | (n % 16) | 0x0100_0000).to_be_bytes(), 7_000))
}

/// One peer per /24: the maximum cost of counting subnets.
fn sparse(n: u32) -> SocketAddr {
    SocketAddr::from((((n + 0x1_0000) << 8).to_be_bytes(), 7_000))
}

#[test]
fn a_million_connections_stay_within_the_memory_bound() {
    let of_ip = |addr: SocketAddr| addr.ip();
    let figures = [
        ("IpAddr keys, 16 peers per subnet", bytes_per_connection::<IpAddr>(of_ip, dense), 288.0),
        ("IpAddr keys, one peer per subnet", bytes_per_connection::<IpAddr>(of_ip, sparse), 288.0),
        ("PeerId keys, 16 peers per subnet", bytes_per_connection(PeerId::from_addr, dense), 384.0),
        ("PeerId keys, one peer per subnet", bytes_per_connection(PeerId::from_addr, sparse), 384.0),
    ];
    for (name, bytes, max) in figures {
        println!("{name}: {bytes:.1} bytes per connection, at most {max}");
        assert!(bytes <= max, "{name}: {bytes:.1} bytes per connection");
    }
}
