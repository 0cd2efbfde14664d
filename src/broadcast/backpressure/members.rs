//! The members of one log, the present wait for them, and which of them stand still.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use smallvec::SmallVec;

use super::LogSnapshot;
use super::slow_detector::{MAX_PROBATION, SlowDetector};
use crate::base::Tick;
use crate::broadcast::receipt::{CursorState, CursorStates};

/// Entries that are reserved for members at once, at least.
const MIN_MEMBER_GROWTH: usize = 8;

/// The members of one log. Behind the lock of [`Backpressure`](super::Backpressure).
#[derive(Debug, Default)]
pub(super) struct Members {
    pub(super) members: Vec<Option<Arc<CursorStates>>>,
    /// Index of the log in its set.
    pub(super) log_index: usize,
    /// What is known of each member, at the same index. Empty if no producer has waited for long.
    pub(super) records: Vec<MemberRecord>,
    free: Vec<u32>,
    wait: Option<Wait>,
    /// When a wait began last.
    last_wait: Tick,
    waiters: Vec<(u64, Waker)>,
    last_waiter: u64,
    /// At least one member is slow.
    pub(super) any_slow: bool,
    pub(super) slow_detector: SlowDetector,
}

/// What waits have seen of one member.
#[derive(Debug, Default)]
pub(super) struct MemberRecord {
    /// The position seen last, and since when.
    seen: u64,
    since: Tick,
    is_stalled: bool,
    pub(super) is_slow: bool,
    /// Since when it was in the way at every tick while most others were idle, and at how many.
    pub(super) in_the_way: Option<(Tick, u32)>,
    /// Of a slow member: since when it has kept up at every check.
    pub(super) keeps_up_since: Option<Tick>,
    /// Messages it had skipped at the last check.
    skipped: u64,
}

/// One wait for room, which all waiting producers share.
#[derive(Debug)]
struct Wait {
    /// The position that every member that is waited for must reach.
    need: u64,
    /// The member that is watched. Those before it have reached `need`.
    watched: usize,
    /// The latest time that anything was called with.
    now: Tick,
}

impl MemberRecord {
    /// Whether it has skipped messages since the last call.
    pub(super) fn has_skipped(&mut self, state: &CursorState) -> bool {
        let skipped = state.skipped();
        std::mem::replace(&mut self.skipped, skipped) != skipped
    }

    /// Whether a wait for `need` has to wait for this member.
    pub(super) fn is_in_the_way(&mut self, pos: u64, need: u64, log: &LogSnapshot, now: Tick) -> bool {
        // A member behind the ring has lost messages already: waiting does not help it.
        if pos >= need || pos < log.begin {
            return false;
        }
        if self.is_slow || self.is_stalled && pos == self.seen {
            return false;
        }
        if self.is_stalled {
            (self.is_stalled, self.seen, self.since) = (false, pos, now);
        }
        true
    }

    /// It is not waited for until it has kept up.
    pub(super) const fn set_slow(&mut self) {
        (self.is_slow, self.in_the_way, self.keeps_up_since) = (true, None, None);
    }
}

impl Members {
    pub(super) fn new(log_index: usize) -> Self {
        Self { log_index, ..Self::default() }
    }

    pub(super) const fn len(&self) -> usize {
        self.members.len() - self.free.len()
    }

    /// Adds a member. Returns its index and its position.
    pub(super) fn add(&mut self, states: Arc<CursorStates>) -> (u32, u64) {
        let seen = states.of_log(self.log_index).position();
        let index = match self.free.pop() {
            Some(index) => {
                self.members[index as usize] = Some(states);
                index
            }
            None => {
                // By an eighth: doubling would waste most of what it adds.
                if self.members.len() == self.members.capacity() {
                    self.members.reserve_exact((self.members.len() / 8).max(MIN_MEMBER_GROWTH));
                }
                self.members.push(Some(states));
                (self.members.len() - 1) as u32
            }
        };
        let since = self.wait.as_ref().map_or(Tick::ZERO, |wait| wait.now);
        let record = MemberRecord { seen, since, ..MemberRecord::default() };
        if let Some(old) = self.records.get_mut(index as usize) {
            *old = record;
        } else if self.wait.is_some() {
            self.records.push(record);
        }
        // A successor begins where its predecessor stood, which may be behind what the wait has
        // passed already.
        if self.wait.as_ref().is_some_and(|wait| (index as usize) < wait.watched && seen < wait.need) {
            self.unwatch_current();
            if let Some(wait) = &mut self.wait {
                wait.watched = index as usize;
            }
            if let Some(state) = self.state(index as usize) {
                state.watch();
            }
        }
        (index, seen)
    }

    /// Removes a member. Its states are dropped by the caller, outside the lock.
    pub(super) fn remove(&mut self, index: u32) -> Option<Arc<CursorStates>> {
        let removed = self.members.get_mut(index as usize).and_then(Option::take);
        self.free.push(index);
        self.slow_detector.forget(index);
        removed
    }

    pub(super) fn has_everybody_read(&self, pos: u64) -> bool {
        let states = self.members.iter().flatten().map(|states| states.of_log(self.log_index));
        states.into_iter().all(|state| state.position() >= pos)
    }

    fn state(&self, index: usize) -> Option<&CursorState> {
        Some(self.members.get(index)?.as_ref()?.of_log(self.log_index))
    }

    /// Each member with its index and its record.
    pub(super) fn with_records(&mut self) -> impl Iterator<Item = (u32, &CursorState, &mut MemberRecord)> {
        let log_index = self.log_index;
        let both = self.members.iter().zip(&mut self.records);
        (0..).zip(both).filter_map(move |(index, (states, record))| {
            Some((index, states.as_ref()?.of_log(log_index), record))
        })
    }

    /// The position that the present wait needs; `None` without a wait.
    pub(super) fn need(&self) -> Option<u64> {
        self.wait.as_ref().map(|wait| wait.need)
    }

    pub(super) fn is_watched(&self, index: u32) -> bool {
        self.wait.as_ref().is_some_and(|wait| wait.watched == index as usize)
    }

    pub(super) fn unwatch(&self, index: u32) {
        if let Some(state) = self.state(index as usize) {
            state.unwatch();
        }
    }

    fn unwatch_current(&self) {
        if let Some(wait) = &self.wait
            && let Some(state) = self.state(wait.watched)
        {
            state.unwatch();
        }
    }

    /// Watches the next member in the way. Without one, the wait is over and the producers to wake
    /// are returned.
    pub(super) fn watch_next(&mut self, log: &LogSnapshot) -> Vec<Waker> {
        let Some(wait) = &mut self.wait else { return Vec::new() };
        while let (Some(states), Some(record)) =
            (self.members.get(wait.watched), self.records.get_mut(wait.watched))
        {
            if let Some(state) = states.as_ref().map(|states| states.of_log(self.log_index))
                && record.is_in_the_way(state.position(), wait.need, log, wait.now)
            {
                if record.is_in_the_way(state.watch(), wait.need, log, wait.now) {
                    return Vec::new();
                }
                state.unwatch();
            }
            wait.watched += 1;
        }
        self.wait = None;
        self.take_wakers()
    }

    /// Scans all members, and begins a wait if one of them is too far behind. Returns the lowest
    /// position of those that are waited for.
    pub(super) fn start_wait(&mut self, log: &LogSnapshot, now: Tick) -> u64 {
        self.unwatch_current();
        self.wait = None;
        let missing = self.members.len().saturating_sub(self.records.len());
        self.records.reserve_exact(missing);
        self.records.resize_with(self.members.len(), MemberRecord::default);
        let mut floor = log.end;
        let (mut any_slow, mut skipped) = (self.any_slow, SmallVec::<[u32; 8]>::new());
        for (index, state, record) in self.with_records() {
            let pos = state.position();
            let stands_still = pos == record.seen;
            (record.seen, record.is_stalled) = (pos, record.is_stalled && stands_still);
            if !record.is_slow && record.has_skipped(state) {
                record.set_slow();
                any_slow = true;
                skipped.push(index);
            }
            if !record.is_stalled && !record.is_slow {
                // Before a producer waited, standing still meant nothing.
                record.since = now;
                if pos >= log.begin {
                    floor = floor.min(pos);
                }
            }
        }
        (self.any_slow, self.last_wait) = (any_slow, now);
        skipped.into_iter().for_each(|index| self.slow_detector.forget(index));
        if log.end - floor > log.max_lag {
            self.wait = Some(Wait { need: log.end - log.max_lag / 2, watched: 0, now });
            self.slow_detector.start_wait(log, now);
        }
        floor
    }

    /// When the watched member will have stood still for the stall time.
    pub(super) fn deadline(&self, stall: Duration) -> Option<Tick> {
        let wait = self.wait.as_ref()?;
        self.state(wait.watched)?;
        Some(self.records.get(wait.watched)?.since.after(stall))
    }

    /// Marks the members that have stood still for the stall time, and begins the search again.
    pub(super) fn check_stalled(&mut self, log: &LogSnapshot, now: Tick) {
        for (_, state, record) in self.with_records() {
            let pos = state.position();
            // A member with nothing to write does not stand still.
            if pos != record.seen || pos >= log.end {
                (record.seen, record.since, record.is_stalled) = (pos, now, false);
            } else if now.since(record.since) >= log.stall {
                record.is_stalled = true;
            }
        }
        self.unwatch_current();
        if let Some(wait) = &mut self.wait {
            (wait.watched, wait.now) = (0, now);
        }
    }

    /// Drops the records if no producer has waited for long and no record holds anything that a
    /// wait needs.
    pub(super) fn drop_records(&mut self, log: &LogSnapshot, now: Tick) {
        if self.any_slow || self.records.is_empty() || now.since(self.last_wait) < MAX_PROBATION * log.stall {
            return;
        }
        self.last_wait = now;
        if self.with_records().all(|(_, state, record)| !record.is_stalled && state.skipped() == 0) {
            self.records = Vec::new();
        }
    }

    pub(super) const fn has_waiters(&self) -> bool {
        !self.waiters.is_empty()
    }

    /// A new number for a waiting producer.
    pub(super) const fn new_waiter(&mut self) -> u64 {
        self.last_waiter += 1;
        self.last_waiter
    }

    pub(super) fn add_waiter(&mut self, waiter: u64, waker: Waker) {
        self.waiters.push((waiter, waker));
    }

    /// Removes a producer. The caller drops its waker outside the lock, because that may run code
    /// of its own.
    pub(super) fn forget_waiter(&mut self, waiter: u64) -> Option<Waker> {
        let at = self.waiters.iter().position(|(id, _)| *id == waiter)?;
        Some(self.waiters.remove(at).1)
    }

    pub(super) fn take_wakers(&mut self) -> Vec<Waker> {
        self.waiters.drain(..).map(|(_, waker)| waker).collect()
    }
}
