//! Handshakes of accepted connections, and which of them gives way when all slots are taken.
//!
//! Invariant: `one_source_cannot_exhaust_accepts`.
//! - Statement: while all pending slots are taken, a newcomer gets the slot of the oldest handshake
//!   of the source that holds most; of several such sources, that of the subnet that holds most.
//! - Enforced by: every handshake of a stranger is registered here until its stream and its slot
//!   are dropped. [`PendingInbound::evict_and_wait`] walks the registered sources.
//! - Breaks if: a handshake reserves a slot without being registered.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::base::Source;
use crate::base::counts::SourceCounts;
use crate::sync::Mutex;

/// The registered handshakes.
#[derive(Debug, Default)]
pub(crate) struct PendingInbound {
    state: Mutex<State>,
    /// A handshake has ended.
    ended: Notify,
}

#[derive(Debug, Default)]
struct State {
    last_id: u64,
    /// Ids in the order of their arrival. No empty sets.
    sources: HashMap<Source, BTreeSet<u64>>,
    counts: SourceCounts,
    evictions: HashMap<u64, Arc<Notify>>,
}

/// One registered handshake. Drop it after the stream and the slot.
#[derive(Debug)]
pub(crate) struct PendingGuard {
    registered: Arc<PendingInbound>,
    source: Source,
    id: u64,
    eviction: Arc<Notify>,
}

impl PendingInbound {
    pub(crate) fn register(self: &Arc<Self>, source: Source) -> PendingGuard {
        let mut state = self.state.lock();
        state.last_id += 1;
        let (id, eviction) = (state.last_id, Arc::new(Notify::new()));
        state.sources.entry(source).or_default().insert(id);
        state.counts.add(source);
        state.evictions.insert(id, Arc::clone(&eviction));
        PendingGuard { registered: Arc::clone(self), source, id, eviction }
    }

    /// Tells one handshake to end. `false` if there is none. A handshake is told once.
    ///
    /// # Cost
    /// A walk over the sources that have handshakes.
    fn evict(&self) -> bool {
        let mut state = self.state.lock();
        let Some((source, id)) = state.victim() else { return false };
        let eviction = state.remove(source, id);
        drop(state);
        // The notification waits for a handshake that has not been polled yet.
        eviction.inspect(|eviction| eviction.notify_one()).is_some()
    }

    /// Tells one handshake to end and waits until one has ended, at most `limit`. `false` if there
    /// is none.
    pub(crate) async fn evict_and_wait(&self, limit: Duration) -> bool {
        let mut ended = pin!(self.ended.notified());
        // Registered before the eviction, so that its end is not missed.
        ended.as_mut().enable();
        let evicted = self.evict();
        if evicted {
            let _ = timeout(limit, ended).await;
        }
        evicted
    }
}

impl State {
    fn victim(&self) -> Option<(Source, u64)> {
        let rank = |(source, ids): &(&Source, &BTreeSet<u64>)| {
            (ids.len(), self.counts.of_subnet(**source), Reverse(ids.first().copied()))
        };
        let (source, ids) = self.sources.iter().max_by_key(rank)?;
        Some((*source, *ids.first()?))
    }

    fn remove(&mut self, source: Source, id: u64) -> Option<Arc<Notify>> {
        let eviction = self.evictions.remove(&id)?;
        self.counts.subtract(source);
        if let Some(ids) = self.sources.get_mut(&source) {
            ids.remove(&id);
            if ids.is_empty() {
                self.sources.remove(&source);
            }
        }
        Some(eviction)
    }
}

impl PendingGuard {
    /// Resolves when the handshake has to end.
    pub(crate) async fn evicted(&self) {
        self.eviction.notified().await;
    }
}

impl Drop for PendingGuard {
    fn drop(&mut self) {
        drop(self.registered.state.lock().remove(self.source, self.id));
        self.registered.ended.notify_waiters();
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    fn source(subnet: u8, host: u8) -> Source {
        Source::of([192, 0, subnet, host].into())
    }

    fn is_evicted(guard: &PendingGuard) -> bool {
        use futures_util::FutureExt as _;
        guard.evicted().now_or_never().is_some()
    }

    #[test]
    fn the_oldest_handshake_of_the_source_that_holds_most_gives_way() {
        let pending = Arc::new(PendingInbound::default());
        let honest = pending.register(source(1, 1));
        let attackers: Vec<_> = (0..3).map(|_| pending.register(source(2, 1))).collect();
        for attacker in &attackers[..2] {
            assert!(pending.evict());
            assert!(is_evicted(attacker));
        }
        assert!(!is_evicted(&attackers[2]) && !is_evicted(&honest));
    }

    #[test]
    fn of_sources_that_hold_equally_many_one_in_the_largest_subnet_gives_way() {
        let pending = Arc::new(PendingInbound::default());
        let honest = pending.register(source(1, 1));
        let attackers: Vec<_> = (1..5).map(|host| pending.register(source(2, host))).collect();
        for attacker in &attackers[..3] {
            assert!(pending.evict());
            assert!(is_evicted(attacker));
        }
        assert!(!is_evicted(&honest));
    }

    #[test]
    fn an_ended_handshake_leaves_nothing_behind() {
        let pending = Arc::new(PendingInbound::default());
        let guards: Vec<_> = (0..4).map(|host| pending.register(source(1, host))).collect();
        assert!(pending.evict());
        drop(guards);
        let state = pending.state.lock();
        assert!(state.sources.is_empty() && state.evictions.is_empty() && state.counts.is_empty());
        drop(state);
        assert!(!pending.evict());
    }
}
