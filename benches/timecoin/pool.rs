//! peerpool in the comparison of structures: the pool with the legacy key and the legacy info.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use peerpool::pool::{ConnectionHandle, DisconnectReason, Peer, Pool, PoolConfig, SeenOutcome};
use peerpool::{Direction, Tick};

use crate::counting_locks::Key;
use crate::legacy::PeerInfo;

/// A connection of no size.
#[derive(Debug)]
pub(crate) struct Nothing;

impl ConnectionHandle for Nothing {
    type Info = PeerInfo;

    fn close(&self, _reason: DisconnectReason) {}
}

pub(crate) struct PoolStructure<K: Key>(Arc<Pool<K, Nothing>>);

impl<K: Key> PoolStructure<K> {
    pub(crate) fn filled(infos: Vec<(IpAddr, PeerInfo)>) -> Self {
        let mut config = PoolConfig::test();
        config.expected_peers = infos.len();
        config.liveness.stale_after = crate::STALE_AFTER;
        let structure = Self(Pool::new(config));
        for (ip, info) in infos {
            structure.insert(ip, info, 0);
        }
        structure
    }

    fn insert(&self, ip: IpAddr, info: PeerInfo, millis: u64) {
        let addr: SocketAddr = info.address;
        let inserted =
            self.0.insert(K::of(ip), addr, Direction::Inbound, Nothing, info, Tick::from_millis(millis));
        assert!(inserted.is_ok(), "{ip}");
    }

    pub(crate) fn get(&self, key: &K) -> Option<Arc<Peer<K, Nothing>>> {
        self.0.get(key)
    }

    /// By key.
    pub(crate) fn seen(&self, key: &K, millis: u64) -> bool {
        self.0.seen(key, Tick::from_millis(millis))
    }

    /// By handle.
    pub(crate) fn mark(peer: &Peer<K, Nothing>, millis: u64) -> bool {
        peer.seen(Tick::from_millis(millis)) == SeenOutcome::Alive
    }
}

impl PoolStructure<IpAddr> {
    /// Removes and inserts all peers in this order, some at a time, so that a walk in the order of
    /// arrival is not one in the order of addresses.
    pub(crate) fn scatter(&self, order: &[IpAddr]) {
        for some in order.chunks(order.len().div_ceil(8).max(1)) {
            for ip in some {
                assert!(self.0.remove_current(ip, DisconnectReason::Closed).is_some());
            }
            // The published lists hold the removed peers.
            drop(self.0.roster());
            for ip in some {
                self.insert(*ip, PeerInfo::new(*ip), 0);
            }
        }
    }

    /// How long the sweep takes that removes exactly the late peers. They are inserted again
    /// afterwards.
    pub(crate) fn swept(&self, (heard, late): (&[IpAddr], &[IpAddr]), [seen, now]: [u64; 2]) -> Duration {
        for key in heard {
            assert!(self.seen(key, seen));
        }
        let since = Instant::now();
        let gone = self.0.sweep(Tick::from_millis(now)).removed.len();
        let took = since.elapsed();
        assert_eq!(gone, late.len());
        for key in late {
            self.insert(*key, PeerInfo::new(*key), seen);
        }
        took
    }
}
