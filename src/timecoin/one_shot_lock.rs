//! Addresses that are being asked over a connection of the question's own: one question at a time each.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use crate::base::PeerId;
use crate::sync::Mutex;

type Lock = Arc<tokio::sync::Mutex<()>>;

/// Who is being asked.
///
/// Invariant 26. Statement: of questions that are asked at the same time over connections of their own, each has its own answer.
/// Enforced by: an old node keeps one connection an address and answers on the newest, so there is one question at a time an address,
/// until its connection is over, and no dial of the node's own meanwhile. Breaks if: a connection for a question is opened without a
/// [`OneShotGuard`].
#[derive(Debug, Default)]
pub(super) struct OneShotLocks(Mutex<HashMap<PeerId, Lock>>);

/// The turn of one question; over when dropped.
#[derive(Debug)]
pub(super) struct OneShotGuard {
    locks: Arc<OneShotLocks>,
    peer: PeerId,
    guard: Option<OwnedMutexGuard<()>>,
}

impl OneShotLocks {
    /// Waits until nobody else asks there.
    ///
    /// # Cancel safety
    /// Dropping the future gives the turn up.
    pub(super) async fn lock(self: &Arc<Self>, peer: PeerId) -> OneShotGuard {
        let lock = Arc::clone(self.0.lock().entry(peer).or_default());
        // Made first, so that whoever gives up while it waits leaves nothing behind.
        let mut turn = OneShotGuard { locks: Arc::clone(self), peer, guard: None };
        turn.guard = Some(lock.lock_owned().await);
        turn
    }

    /// Whether somebody is being asked there.
    pub(super) fn is_locked(&self, peer: &PeerId) -> bool {
        self.0.lock().contains_key(peer)
    }
}

impl Drop for OneShotGuard {
    fn drop(&mut self) {
        drop(self.guard.take());
        let mut all = self.locks.0.lock();
        // The table's own reference is the last one: nobody asks there, and nobody waits to.
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
    async fn one_at_a_time_an_address_and_nothing_is_left_behind() {
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
