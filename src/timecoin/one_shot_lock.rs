//! One lock for each address that is asked over a one-shot connection.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use crate::base::PeerId;
use crate::sync::Mutex;

type Lock = Arc<tokio::sync::Mutex<()>>;

/// The addresses that are being asked over one-shot connections.
///
/// Invariant: `responses_match_id_and_connection`
///
/// - Statement: of two requests sent at the same time over one-shot connections, each gets its own
///   reply.
/// - Enforced by: a legacy node keeps one connection for each address and replies on the newest. So
///   one request at a time runs for an address, until its connection is closed, and the node does
///   not dial that address meanwhile.
/// - Breaks if: a one-shot connection for a request is opened without a [`OneShotGuard`].
#[derive(Debug, Default)]
pub(super) struct OneShotLocks(Mutex<HashMap<PeerId, Lock>>);

/// Exclusive use of one address; released when dropped.
#[derive(Debug)]
pub(super) struct OneShotGuard {
    locks: Arc<OneShotLocks>,
    peer: PeerId,
    guard: Option<OwnedMutexGuard<()>>,
}

impl OneShotLocks {
    /// Waits until no other request to this address runs.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the queue.
    pub(super) async fn lock(self: &Arc<Self>, peer: PeerId) -> OneShotGuard {
        let lock = Arc::clone(self.0.lock().entry(peer).or_default());
        // Constructed before the wait, so that a dropped future removes its entry too.
        let mut waiting = OneShotGuard { locks: Arc::clone(self), peer, guard: None };
        waiting.guard = Some(lock.lock_owned().await);
        waiting
    }

    /// Whether a request to this address runs or waits.
    pub(super) fn is_locked(&self, peer: &PeerId) -> bool {
        self.0.lock().contains_key(peer)
    }
}

impl Drop for OneShotGuard {
    fn drop(&mut self) {
        drop(self.guard.take());
        let mut all = self.locks.0.lock();
        // The map holds the last reference: no request runs or waits.
        if all.get(&self.peer).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            all.remove(&self.peer);
        }
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    #[tokio::test(start_paused = true)]
    async fn one_request_per_address_and_no_leaked_entries() {
        let locks = Arc::new(OneShotLocks::default());
        let [one, other] = [1, 2].map(|n| PeerId::from(std::net::SocketAddr::from(([10, 0, 0, n], 0))));
        let first = locks.lock(one).await;
        let elsewhere = locks.lock(other).await;
        assert!(timeout(Duration::from_secs(1), locks.lock(one)).await.is_err());
        assert!(locks.is_locked(&one) && locks.is_locked(&other));
        let second = tokio::spawn({
            let locks = Arc::clone(&locks);
            async move { locks.lock(one).await }
        });
        tokio::task::yield_now().await;
        drop(first);
        let second = second.await.unwrap();
        assert!(locks.is_locked(&one));
        drop((second, elsewhere));
        assert!(!locks.is_locked(&one) && !locks.is_locked(&other));
    }
}
