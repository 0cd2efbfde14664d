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
/// [`Turn`].
#[derive(Debug, Default)]
pub(super) struct Alone(Mutex<HashMap<PeerId, Lock>>);

/// The turn of one question; over when dropped.
#[derive(Debug)]
pub(super) struct Turn {
    alone: Arc<Alone>,
    whom: PeerId,
    held: Option<OwnedMutexGuard<()>>,
}

impl Alone {
    /// Waits until nobody else asks there.
    ///
    /// # Cancel safety
    /// Dropping the future gives the turn up.
    pub(super) async fn turn(self: &Arc<Self>, whom: PeerId) -> Turn {
        let lock = Arc::clone(self.0.lock().entry(whom).or_default());
        // Made first, so that whoever gives up while it waits leaves nothing behind.
        let mut turn = Turn { alone: Arc::clone(self), whom, held: None };
        turn.held = Some(lock.lock_owned().await);
        turn
    }

    /// Whether somebody is being asked there.
    pub(super) fn holds(&self, whom: &PeerId) -> bool {
        self.0.lock().contains_key(whom)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        drop(self.held.take());
        let mut all = self.alone.0.lock();
        // The table's own reference is the last one: nobody asks there, and nobody waits to.
        if all.get(&self.whom).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            all.remove(&self.whom);
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
        let alone = Arc::new(Alone::default());
        let [one, other] = [1, 2].map(|n| PeerId::from(std::net::SocketAddr::from(([10, 0, 0, n], 0))));
        let first = alone.turn(one).await;
        let elsewhere = alone.turn(other).await;
        assert!(timeout(Duration::from_secs(1), alone.turn(one)).await.is_err());
        assert!(alone.holds(&one) && alone.holds(&other));
        let second = tokio::spawn({
            let alone = Arc::clone(&alone);
            async move { alone.turn(one).await }
        });
        tokio::task::yield_now().await;
        drop(first);
        let second = second.await.unwrap();
        assert!(alone.holds(&one));
        drop((second, elsewhere));
        assert!(!alone.holds(&one) && !alone.holds(&other));
    }
}
