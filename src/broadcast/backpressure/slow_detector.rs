//! The slow-member rule: a member that keeps most others idle is not waited for.
//!
//! While producers wait, a member that has written everything is *idle*. The members are checked
//! every 20 ms (a fiftieth of the stall time). If most are idle at a check, each member in the way
//! is charged a *delay*: the time since the check before, if most were idle at that one too. At 80
//! ms of delay the member is slow, if it had not gone half of the way when the others began to
//! idle: then it takes less than half as much as they do.
//!
//! How much a delay counts depends on the evidence:
//! - It counts in full if at least eight members and two thirds of all are idle, the stream of the
//!   member is full, and a member that falls behind only skips messages
//!   ([`LagPolicy::Skip`](crate::broadcast::LagPolicy)).
//! - It counts a 25th otherwise, if more than half of the members that are waited for are idle.
//!   Then a member is slow after 2 s.
//!
//! What keeps the rule from being hasty:
//! - A check counts for at most a quarter of the limit, however late it comes. A machine or process
//!   that stands still makes no member slow.
//! - Members that read alike are behind alike, whatever their pace: then most are not idle.
//! - Time in which a member delays nothing pays back a quarter of that time.
//! - A delay before the last producer gave up waiting does not count.
//!
//! What keeps it from making all members slow: slow members do not count as idle while they are
//! behind, so at most a third is found slow early.
//!
//! A slow member is waited for again once it has kept up for one stall time, and twice as long each
//! further time, up to ten. It is ten at once on weak evidence, or if the member has skipped
//! messages.

use std::collections::BTreeMap;
use std::time::Duration;

use super::LogSnapshot;
use super::members::Members;
use crate::base::Tick;

/// Checks in a stall time.
const CHECKS_PER_STALL: u32 = 50;
/// Checks that a member may delay the others for.
const MAX_DELAY_CHECKS: u32 = 4;
/// Part of a delay that counts on weak evidence.
const WEAK_EVIDENCE_DIVISOR: u32 = 25;
/// Part of the time without a delay that is paid back.
const PAYBACK_DIVISOR: u32 = 4;
/// Fewest idle members that are strong evidence.
const MIN_IDLE_PEERS: usize = 8;
/// Most stall times that a slow member must keep up for.
pub(super) const MAX_PROBATION: u32 = 10;

/// Time between two checks.
pub(in super::super) fn check_interval(stall: Duration) -> Duration {
    stall / CHECKS_PER_STALL
}

/// What is known of the few members that have delayed others.
#[derive(Debug, Default)]
pub(super) struct SlowDetector {
    strikes: BTreeMap<u32, Strike>,
    /// No check before this.
    next_check: Tick,
    /// The last check of this wait, if most members were idle.
    last_idle_check: Option<Tick>,
    /// End of the log at the last check of this wait.
    last_end: Option<u64>,
}

#[derive(Debug, Default)]
struct Strike {
    delay: Duration,
    /// The last check at which it delayed others.
    last: Tick,
    /// It had not gone half of the way when the others began to idle.
    is_far_behind: bool,
    is_slow: bool,
    /// How often it was found slow.
    times: u32,
}

/// How many members are idle at a check.
#[derive(Clone, Copy, Debug, Default)]
struct IdleCount {
    all: usize,
    idle: usize,
    /// Those that are waited for, and how many of these are idle.
    waited_for: usize,
    waited_for_idle: usize,
}

/// A check at which most members are idle.
#[derive(Clone, Copy, Debug)]
struct Check {
    now: Tick,
    /// The check before, if most were idle.
    previous: Option<Tick>,
    /// A full delay may be charged, to members with a full stream.
    is_strong: bool,
    /// A 25th may be charged.
    is_weak: bool,
}

impl SlowDetector {
    pub(super) fn start_wait(&mut self, log: &LogSnapshot, now: Tick) {
        self.next_check = now.after(check_interval(log.stall));
        (self.last_idle_check, self.last_end) = (None, None);
    }

    fn is_due(&self, now: Tick) -> bool {
        now >= self.next_check
    }

    /// The position at which a member is idle: what was appended since the last check does not
    /// count.
    fn idle_pos(&self, log: &LogSnapshot) -> u64 {
        self.last_end.unwrap_or(log.end)
    }

    /// Begins a check. `None` if not enough members are idle.
    fn start_check(&mut self, log: &LogSnapshot, now: Tick, count: IdleCount) -> Option<Check> {
        self.next_check = now.after(check_interval(log.stall));
        self.last_end = Some(log.end);
        self.strikes.retain(|_, strike| strike.is_slow || now.since(strike.last) < MAX_PROBATION * log.stall);
        let previous = self.last_idle_check.take();
        let is_strong =
            log.skips_on_lag && count.idle >= MIN_IDLE_PEERS && 3 * count.idle >= 2 * count.all;
        let is_weak = 2 * count.waited_for_idle > count.waited_for;
        if !is_strong && !is_weak {
            return None;
        }
        self.last_idle_check = Some(now);
        Some(Check { now, previous, is_strong, is_weak })
    }

    /// Charges a member that is in the way and `behind` bytes behind the end. Returns whether it is
    /// slow now.
    fn record_delay(
        &mut self,
        index: u32,
        behind: u64,
        is_blocked: bool,
        log: &LogSnapshot,
        check: Check,
    ) -> bool {
        let divisor = match check {
            Check { is_strong: true, .. } if is_blocked => 1,
            Check { is_weak: true, .. } => WEAK_EVIDENCE_DIVISOR,
            _ => return false,
        };
        let (now, interval) = (check.now, check_interval(log.stall));
        let limit = MAX_DELAY_CHECKS * interval;
        let strike = self.strikes.entry(index).or_insert(Strike { last: now, ..Strike::default() });
        let passed = now.since(strike.last);
        if check.previous == Some(strike.last) {
            strike.delay = (strike.delay + (passed / divisor).min(interval)).min(2 * limit);
        } else {
            strike.delay = strike.delay.saturating_sub(passed / PAYBACK_DIVISOR);
            strike.is_far_behind = behind > log.max_lag / 4 * 3;
        }
        strike.last = now;
        if strike.delay < limit || !strike.is_far_behind {
            return false;
        }
        (strike.delay, strike.is_slow) = (Duration::ZERO, true);
        strike.times = strike.times.saturating_add(1);
        if divisor == WEAK_EVIDENCE_DIVISOR {
            // Without a strike, the probation is the longest.
            self.strikes.remove(&index);
        }
        true
    }

    /// How long a slow member must keep up.
    fn probation(&self, index: u32, stall: Duration) -> Duration {
        let times = self.strikes.get(&index).map_or(u32::MAX, |strike| strike.times);
        let longest = MAX_PROBATION * stall;
        match times.checked_sub(1) {
            Some(doublings) if doublings < MAX_PROBATION => longest.min(stall * (1 << doublings)),
            _ => longest,
        }
    }

    /// A slow member is waited for again.
    fn reinstate(&mut self, index: u32, now: Tick) {
        if let Some(strike) = self.strikes.get_mut(&index) {
            (strike.is_slow, strike.last) = (false, now);
        }
    }

    /// A member has left, or is slow because it has skipped.
    pub(super) fn forget(&mut self, index: u32) {
        self.strikes.remove(&index);
    }
}

impl Members {
    /// Checks which members delay the others, if a check is due. Returns whether one of them is
    /// slow now.
    pub(super) fn check_delays(&mut self, log: &LogSnapshot, now: Tick) -> bool {
        let Some(need) = self.need() else { return false };
        // Without a producer, no member delays anything.
        if !self.has_waiters() || !self.slow_detector.is_due(now) {
            return false;
        }
        let idle_pos = self.slow_detector.idle_pos(log);
        let mut count = IdleCount::default();
        for (_, state, record) in self.with_records() {
            let pos = state.position();
            let (is_idle, is_waited_for) = (pos >= idle_pos, !record.is_slow && pos >= log.begin);
            count.all += 1;
            count.idle += usize::from(is_idle);
            count.waited_for += usize::from(is_waited_for);
            count.waited_for_idle += usize::from(is_waited_for && is_idle);
        }
        let Some(check) = self.slow_detector.start_check(log, now, count) else { return false };
        let mut found = false;
        for (index, (states, record)) in (0..).zip(self.members.iter().zip(&mut self.records)) {
            let Some(state) = states.as_ref().map(|states| states.of_log(self.log_index)) else { continue };
            let pos = state.position();
            if !record.is_in_the_way(pos, need, log, now) {
                continue;
            }
            let behind = log.end.saturating_sub(pos);
            if self.slow_detector.record_delay(index, behind, state.is_blocked(), log, check) {
                record.set_slow();
                found = true;
            }
        }
        self.any_slow |= found;
        found
    }

    /// Forgets the delays if the last producer has given up.
    pub(super) fn clear_delays_without_producers(&mut self) {
        if !self.has_waiters() {
            self.slow_detector.strikes.values_mut().for_each(|strike| strike.delay = Duration::ZERO);
        }
    }

    /// Waits again for slow members that have kept up for long enough.
    pub(super) fn reinstate(&mut self, log: &LogSnapshot, now: Tick) {
        if !self.any_slow {
            return;
        }
        self.any_slow = false;
        for (index, (states, record)) in (0..).zip(self.members.iter().zip(&mut self.records)) {
            let Some(states) = states.as_ref().filter(|_| record.is_slow) else { continue };
            let state = states.of_log(self.log_index);
            let has_skipped = record.has_skipped(state);
            if has_skipped {
                self.slow_detector.forget(index);
            }
            if has_skipped || log.end.saturating_sub(state.position()) > log.max_lag / 2 {
                record.keeps_up_since = None;
            } else {
                let since = *record.keeps_up_since.get_or_insert(now);
                if now.since(since) >= self.slow_detector.probation(index, log.stall) {
                    record.is_slow = false;
                    self.slow_detector.reinstate(index, now);
                }
            }
            self.any_slow |= record.is_slow;
        }
    }
}
