//! A claimed key, and the futures that wait for the claim's outcome.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::base::{ConnId, Direction};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU8, Ordering};

const OPEN: u8 = 0;
const LIVE: u8 = 1;
const RELEASED: u8 = 2;

/// How a claim ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimOutcome {
    /// It went live as this connection.
    Live(ConnId),
    /// It was released, revoked or moved to another key. The key is free.
    Released,
}

/// A key that a connection holds while it is set up.
pub(super) struct ClaimRecord<K> {
    pub(super) key: K,
    pub(super) id: ConnId,
    pub(super) direction: Direction,
    /// Authority for the outcome. Changes once, from [`OPEN`].
    state: AtomicU8,
    waiting: Mutex<Vec<Option<Waker>>>,
}

impl<K> ClaimRecord<K> {
    pub(super) fn new(key: K, id: ConnId, direction: Direction) -> Self {
        Self { key, id, direction, state: AtomicU8::new(OPEN), waiting: Mutex::new(Vec::new()) }
    }

    /// The claim went live: wakes the watchers.
    pub(super) fn resolve_live(&self) {
        self.resolve(LIVE);
    }

    /// The key is free: wakes the watchers.
    pub(super) fn resolve_released(&self) {
        self.resolve(RELEASED);
    }

    fn resolve(&self, state: u8) {
        // Release: pairs with the acquire in `outcome`. A watcher that registered before the list
        // is taken is woken; one that registers later reads the outcome under the same lock.
        self.state.store(state, Ordering::Release);
        let waiting = std::mem::take(&mut *self.waiting.lock());
        waiting.into_iter().flatten().for_each(Waker::wake);
    }

    fn outcome(&self) -> Option<ClaimOutcome> {
        // Acquire: pairs with the release in `resolve`. The map already shows this outcome.
        match self.state.load(Ordering::Acquire) {
            LIVE => Some(ClaimOutcome::Live(self.id)),
            RELEASED => Some(ClaimOutcome::Released),
            _ => None,
        }
    }
}

/// A future that resolves when a claim has gone live or was released.
///
/// It works under any runtime, and any number of watches may wait for one claim.
///
/// # Cancel safety
/// Dropping the watch leaves nothing behind.
#[must_use = "a watch does nothing unless awaited"]
pub struct ClaimWatch<K> {
    claim: Arc<ClaimRecord<K>>,
    /// Index of this watch's waker in the claim's list.
    waker_index: Option<usize>,
}

impl<K> ClaimWatch<K> {
    pub(super) fn new(claim: &Arc<ClaimRecord<K>>) -> Self {
        Self { claim: Arc::clone(claim), waker_index: None }
    }

    /// The outcome, if the claim has ended.
    pub fn now(&self) -> Option<ClaimOutcome> {
        self.claim.outcome()
    }

    /// Removes this watch's waker from the list. The caller drops it outside the lock.
    fn take_waker(&mut self) -> Option<Waker> {
        let index = self.waker_index.take()?;
        self.claim.waiting.lock().get_mut(index)?.take()
    }
}

impl<K> Future for ClaimWatch<K> {
    type Output = ClaimOutcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<ClaimOutcome> {
        // The caller's waker is cloned and dropped outside the lock: both may run user code.
        let mut waker = Some(context.waker().clone());
        let claim = Arc::clone(&self.claim);
        let replaced = {
            let mut waiting = claim.waiting.lock();
            if let Some(outcome) = claim.outcome() {
                return Poll::Ready(outcome);
            }
            let free = self.waker_index.or_else(|| waiting.iter().position(Option::is_none));
            let index = free.unwrap_or_else(|| {
                waiting.push(None);
                waiting.len() - 1
            });
            self.waker_index = Some(index);
            std::mem::replace(&mut waiting[index], waker.take())
        };
        drop(replaced);
        Poll::Pending
    }
}

impl<K> Drop for ClaimWatch<K> {
    fn drop(&mut self) {
        drop(self.take_waker());
    }
}

impl<K> std::fmt::Debug for ClaimWatch<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClaimWatch").field("id", &self.claim.id).field("outcome", &self.now()).finish()
    }
}
