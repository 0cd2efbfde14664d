//! Back-pressure: producers wait until the slowest connection that is waited for leaves room in the
//! log.
//!
//! No append and no write looks at all connections. The lowest position is cached as `floor`. Only
//! when the cache says that there is no room are the members scanned, once; then one of those too
//! far behind is *watched*. When it has come far enough, it moves the search on to the next one.
//! Positions only grow, so the search never goes back: a whole wait costs O(members), for at least
//! half a window of bytes.
//!
//! ```text
//! RoomWait::poll -> has_room? -> scan all members -> watch one -> its publish: progressed -> watch the next ...
//!                                                                 none left: wake all producers
//! ```
//!
//! Two kinds of members are not waited for:
//! - *Stalled*: it stood still for the stall time. Until it moves.
//! - *Slow*: it kept most others idle (see `slow_detector`), or it has skipped messages. Until it
//!   has kept up for a while.

mod members;
mod room_wait;
mod slow_detector;

#[cfg(all(test, not(peerpool_loom)))]
mod tests;

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crossbeam_utils::CachePadded;

pub use room_wait::RoomWait;
pub(super) use slow_detector::check_interval;

use self::members::Members;
use super::receipt::CursorStates;
use crate::base::Tick;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};

/// What back-pressure needs to know of the log, at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogSnapshot {
    /// Bytes ever appended.
    pub(super) end: u64,
    /// Position of the oldest byte held.
    pub(super) begin: u64,
    /// Bytes that the slowest member may be behind.
    pub(super) max_lag: u64,
    /// How long a member may stand still and be waited for.
    pub(super) stall: Duration,
    /// A member that falls behind the ring skips messages. Otherwise it is disconnected.
    pub(super) skips_on_lag: bool,
}

/// The back-pressure of one log: its members, and the producers that wait for them.
#[derive(Debug)]
pub(super) struct Backpressure {
    /// No member that is waited for is behind this. Hint: read without the lock, and too high at
    /// times because of members that join or move again meanwhile.
    floor: CachePadded<AtomicU64>,
    members: Mutex<Members>,
}

impl Backpressure {
    /// For the log at `log_index` of its set.
    pub(super) fn new(log_index: usize) -> Self {
        Self { floor: CachePadded::new(AtomicU64::new(0)), members: Mutex::new(Members::new(log_index)) }
    }

    /// Adds a connection. Returns its index. O(1).
    pub(super) fn join(&self, states: Arc<CursorStates>) -> u32 {
        let mut members = self.members.lock();
        let (index, pos) = members.add(states);
        self.floor.fetch_min(pos, Ordering::Relaxed);
        index
    }

    /// Removes a member. O(1), unless it was watched.
    pub(super) fn leave(&self, index: u32, log: &LogSnapshot) {
        let mut members = self.members.lock();
        let removed = members.remove(index);
        let wake = if members.is_watched(index) { self.watch_next(&mut members, log) } else { Vec::new() };
        drop(members);
        drop(removed);
        wake.into_iter().for_each(Waker::wake);
    }

    /// Watches the next member in the way. Returns the producers to wake if there is none.
    fn watch_next(&self, members: &mut Members, log: &LogSnapshot) -> Vec<Waker> {
        let need = members.need();
        let wake = members.watch_next(log);
        if let (Some(need), None) = (need, members.need()) {
            self.floor.store(need, Ordering::Relaxed);
        }
        wake
    }

    /// Scans the members for a new wait. Returns the producers to wake if no wait is necessary.
    fn start_wait(&self, members: &mut Members, log: &LogSnapshot, now: Tick) -> Vec<Waker> {
        let floor = members.start_wait(log, now);
        if members.need().is_some() {
            return self.watch_next(members, log);
        }
        self.floor.store(floor, Ordering::Relaxed);
        members.take_wakers()
    }

    /// A member that was watched has moved.
    pub(super) fn progressed(&self, index: u32, log: &LogSnapshot) {
        let mut members = self.members.lock();
        members.unwatch(index);
        if !members.is_watched(index) {
            return;
        }
        let wake = self.watch_next(&mut members, log);
        drop(members);
        wake.into_iter().for_each(Waker::wake);
    }

    /// Whether there is room according to the cache.
    pub(super) fn has_room(&self, log: &LogSnapshot) -> bool {
        log.end.saturating_sub(self.floor.load(Ordering::Relaxed)) <= log.max_lag
    }

    fn new_waiter(&self) -> u64 {
        self.members.lock().new_waiter()
    }

    fn forget_waiter(&self, waiter: u64) {
        let forgotten = self.members.lock().forget_waiter(waiter);
        drop(forgotten);
    }

    fn poll(&self, waiter: u64, log: &LogSnapshot, now: Tick, cx: &mut Context<'_>) -> Poll<()> {
        // Cloned outside the lock, as it is dropped there.
        let mut waker = Some(cx.waker().clone());
        let mut members = self.members.lock();
        let mut wake = Vec::new();
        if members.need().is_none() || members.check_delays(log, now) {
            wake = self.start_wait(&mut members, log, now);
        } else if members.deadline(log.stall).is_none_or(|deadline| now >= deadline) {
            members.check_stalled(log, now);
            wake = self.watch_next(&mut members, log);
        }
        let forgotten = members.forget_waiter(waiter);
        let is_ready = members.need().is_none();
        if !is_ready && let Some(waker) = waker.take() {
            members.add_waiter(waiter, waker);
        }
        drop(members);
        drop((forgotten, waker));
        wake.into_iter().for_each(Waker::wake);
        if is_ready { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Looks for stalled and slow members, if a producer waits.
    pub(super) fn tick(&self, log: &LogSnapshot, now: Tick) {
        let mut members = self.members.lock();
        members.reinstate(log, now);
        if members.need().is_none() {
            members.drop_records(log, now);
            return;
        }
        let wake = if members.check_delays(log, now) {
            self.start_wait(&mut members, log, now)
        } else {
            let found = members.check_in_the_way(log, now);
            if !found && members.deadline(log.stall).is_some_and(|deadline| now < deadline) {
                return;
            }
            members.check_stalled(log, now);
            self.watch_next(&mut members, log)
        };
        drop(members);
        wake.into_iter().for_each(Waker::wake);
    }

    /// When a waiting producer must be told the time. `None` if no producer waits, even if the wait
    /// of one that has left continues.
    pub(super) fn deadline(&self, stall: Duration) -> Option<Tick> {
        let members = self.members.lock();
        if members.has_waiters() { members.deadline(stall) } else { None }
    }

    /// Whether every connection has written what is before this position.
    pub(super) fn has_everybody_read(&self, pos: u64) -> bool {
        self.members.lock().has_everybody_read(pos)
    }

    pub(super) fn members(&self) -> usize {
        self.members.lock().len()
    }
}
