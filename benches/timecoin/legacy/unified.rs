//! One map of unified connections behind one lock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{PeerInfo, Shared, Sink, Structure};
use crate::counting_locks::{ConnectionLock, Key, MapLock};

/// Connection, info and liveness in one entry.
struct Entry<C, K> {
    connection: Shared<C, K>,
    info: PeerInfo,
    last_seen: Instant,
    connected_at: Instant,
    health: u8,
}

pub(crate) struct Unified<K, C>(MapLock<HashMap<K, Entry<C, K>>, K>);

impl<K: Key, C> Default for Unified<K, C> {
    fn default() -> Self {
        Self(MapLock::default())
    }
}

impl<K: Key, C: Sink> Structure<K, C> for Unified<K, C> {
    const NAME: &'static str = "unified map";

    async fn insert(&self, key: K, info: PeerInfo, sink: C, now: Instant) {
        let connection = Arc::new(ConnectionLock::new(sink));
        let entry = Entry { connection, info, last_seen: now, connected_at: now, health: 100 };
        self.0.write().await.insert(key, entry);
    }

    async fn remove(&self, key: &K) -> bool {
        let entry = self.0.write().await.remove(key);
        // Nothing that an entry holds may be optimised away.
        entry.is_some_and(|entry| {
            std::hint::black_box((&entry.info, entry.connected_at, entry.health));
            true
        })
    }

    async fn connection(&self, key: &K) -> Option<Shared<C, K>> {
        self.0.read().await.get(key).map(|entry| Arc::clone(&entry.connection))
    }

    async fn peer_seen(&self, key: &K, now: Instant) -> bool {
        self.0.write().await.get_mut(key).is_some_and(|entry| {
            entry.last_seen = now;
            true
        })
    }

    async fn keys(&self) -> Vec<K> {
        self.0.read().await.keys().copied().collect()
    }

    async fn sweep(&self, now: Instant, stale: Duration) -> usize {
        let mut entries = self.0.write().await;
        let before = entries.len();
        entries.retain(|_, entry| now.saturating_duration_since(entry.last_seen) <= stale);
        before - entries.len()
    }
}
