//! A claimed key and those who wait for what becomes of it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::base::{ConnId, Direction};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU8, Ordering};

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimOutcome {
    /// It went live as this connection.
    Live(ConnId),
    /// It was given up, revoked or moved to another key; the key is free.
    Released,
}

/// A key held by a connection that is being set up.
pub(super) struct ClaimCell<K> {
    pub(super) key: K,
    pub(super) id: ConnId,
    pub(super) direction: Direction,
    /// Authority for the outcome. Goes one way.
    state: AtomicU8,
    waiting: Mutex<Vec<Option<Waker>>>,
}

impl<K> ClaimCell<K> {
    pub(super) fn new(key: K, id: ConnId, direction: Direction) -> Self {
        Self { key, id, direction, state: AtomicU8::new(OPEN), waiting: Mutex::new(Vec::new()) }
    }

    pub(super) fn went_live(&self) {
        self.settle(LIVE);
    }

    pub(super) fn released(&self) {
        self.settle(RELEASED);
    }

    fn settle(&self, state: u8) {
        // Release: pairs with the acquire in `outcome`. A watcher that registered before we take the list is woken;
        // one that registers after it reads the outcome under the same lock.
        self.state.store(state, Ordering::Release);
        let waiting = std::mem::take(&mut *self.waiting.lock());
        waiting.into_iter().flatten().for_each(Waker::wake);
    }

    fn outcome(&self) -> Option<ClaimOutcome> {
        // Acquire: pairs with the release in `settle`; the map already shows what this says.
        match self.state.load(Ordering::Acquire) {
            LIVE => Some(ClaimOutcome::Live(self.id)),
            RELEASED => Some(ClaimOutcome::Released),
            _ => None,
        }
    }
}

/// Resolves when a claim has gone live or is gone. Works under any runtime; any number may watch one claim.
///
/// # Cancel safety
/// Dropping it leaves nothing behind.
#[must_use = "a watch does nothing unless awaited"]
pub struct ClaimWatch<K> {
    cell: Arc<ClaimCell<K>>,
    place: Option<usize>,
}

impl<K> ClaimWatch<K> {
    pub(super) fn new(cell: &Arc<ClaimCell<K>>) -> Self {
        Self { cell: Arc::clone(cell), place: None }
    }

    /// The outcome, if there is one by now.
    pub fn now(&self) -> Option<ClaimOutcome> {
        self.cell.outcome()
    }

    /// Takes this watch's waker from the list; it is dropped by the caller, outside the lock.
    fn forget(&mut self) -> Option<Waker> {
        let place = self.place.take()?;
        self.cell.waiting.lock().get_mut(place)?.take()
    }
}

impl<K> Future for ClaimWatch<K> {
    type Output = ClaimOutcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<ClaimOutcome> {
        // The user's waker is cloned and dropped outside the lock (39).
        let mut waker = Some(context.waker().clone());
        let cell = Arc::clone(&self.cell);
        let replaced = {
            let mut waiting = cell.waiting.lock();
            if let Some(outcome) = cell.outcome() {
                return Poll::Ready(outcome);
            }
            let free = self.place.or_else(|| waiting.iter().position(Option::is_none));
            let place = free.unwrap_or_else(|| {
                waiting.push(None);
                waiting.len() - 1
            });
            self.place = Some(place);
            std::mem::replace(&mut waiting[place], waker.take())
        };
        drop(replaced);
        Poll::Pending
    }
}

impl<K> Drop for ClaimWatch<K> {
    fn drop(&mut self) {
        drop(self.forget());
    }
}

impl<K> std::fmt::Debug for ClaimWatch<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClaimWatch").field("id", &self.cell.id).field("outcome", &self.now()).finish()
    }
}

const OPEN: u8 = 0;
const LIVE: u8 = 1;
const RELEASED: u8 = 2;
