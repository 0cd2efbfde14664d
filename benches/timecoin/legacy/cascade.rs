//! Three maps, each behind a lock of its own, used one after another.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{PeerInfo, Shared, Sink, Structure};
use crate::counting_locks::{ConnectionLock, Key, MapLock};

pub(crate) struct Cascade<K, C> {
    connections: MapLock<HashMap<K, Shared<C, K>>, K>,
    peers: MapLock<HashMap<K, PeerInfo>, K>,
    last_seen: MapLock<HashMap<K, Instant>, K>,
    /// The seconds of an info count from here.
    since: Instant,
}

impl<K: Key, C> Default for Cascade<K, C> {
    fn default() -> Self {
        Self {
            connections: MapLock::default(),
            peers: MapLock::default(),
            last_seen: MapLock::default(),
            since: Instant::now(),
        }
    }
}

impl<K: Key, C: Sink> Structure<K, C> for Cascade<K, C> {
    const NAME: &'static str = "cascade";

    async fn insert(&self, key: K, info: PeerInfo, sink: C, now: Instant) {
        let connection = Arc::new(ConnectionLock::new(sink));
        self.connections.write().await.insert(key, connection);
        self.peers.write().await.insert(key, info);
        self.last_seen.write().await.insert(key, now);
    }

    async fn remove(&self, key: &K) -> bool {
        let there = self.connections.write().await.remove(key).is_some();
        self.peers.write().await.remove(key);
        self.last_seen.write().await.remove(key);
        there
    }

    async fn connection(&self, key: &K) -> Option<Shared<C, K>> {
        self.connections.read().await.get(key).map(Arc::clone)
    }

    async fn peer_seen(&self, key: &K, now: Instant) -> bool {
        match self.last_seen.write().await.get_mut(key) {
            Some(seen) => *seen = now,
            None => return false,
        }
        if let Some(info) = self.peers.write().await.get_mut(key) {
            info.last_seen = now.saturating_duration_since(self.since).as_secs();
        }
        true
    }

    async fn keys(&self) -> Vec<K> {
        self.connections.read().await.keys().copied().collect()
    }

    async fn sweep(&self, now: Instant, stale: Duration) -> usize {
        let silent = |seen: &Instant| now.saturating_duration_since(*seen) > stale;
        let late: Vec<K> = {
            let last_seen = self.last_seen.read().await;
            last_seen.iter().filter(|(_, seen)| silent(seen)).map(|(key, _)| *key).collect()
        };
        for key in &late {
            self.remove(key).await;
        }
        late.len()
    }
}
