//! The slow-member rules: a member that keeps most others idle is not waited for.
//!
//! While producers wait, a member that has written everything is *idle*. There are two rules,
//! because they have different evidence:
//!
//! | | quick rule | patient rule |
//! |---|---|---|
//! | applies if | a member that falls behind only skips messages ([`LagPolicy::Skip`](crate::broadcast::LagPolicy)) | always |
//! | checked | every 20 ms (a fiftieth of the stall time) while a wait lasts | at the maintenance's ticks |
//! | others idle | eight members and two thirds of all | more than half of those that are waited for |
//! | the member | is in the way, its stream is full, and it had not gone half of the way when the others began to idle | is in the way at every tick |
//! | slow after | 80 ms of delay, collected over waits | two stall times and four ticks in a row |
//!
//! One rule for both was tried: a delay that counts a 25th on weak evidence. Between short waits it
//! is paid back faster than it is charged, so that a peer in the way of every wait is never found.
//!
//! What keeps the quick rule from being hasty:
//! - A check counts for at most a quarter of the limit, however late it comes. A machine or process
//!   that stands still makes no member slow.
//! - Members that read alike are behind alike, whatever their pace: then most are not idle.
//! - Time in which a member delays nothing pays back a quarter of that time.
//!
//! What keeps it from making all members slow: slow members do not count as idle while they are
//! behind, so at most a third is found slow early.
//!
//! A slow member is waited for again once it has kept up for one stall time, and twice as long each
//! further time, up to ten. It is ten at once after the patient rule, or if the member has skipped
//! messages.

use std::collections::BTreeMap;
use std::time::Duration;

use smallvec::SmallVec;

use super::LogSnapshot;
use super::members::Members;
use crate::base::Tick;

/// Checks in a stall time.
const CHECKS_PER_STALL: u32 = 50;
/// Checks that a member may delay the others for.
const MAX_DELAY_CHECKS: u32 = 4;
/// Fewest ticks in a row that a member must be in the way for, by the patient rule.
const MIN_TICKS_IN_THE_WAY: u32 = 4;
/// Stall times that a member must be in the way for, by the patient rule.
const STALLS_IN_THE_WAY: u32 = 2;
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

/// A check of the quick rule at which enough members are idle.
#[derive(Clone, Copy, Debug)]
struct Check {
    now: Tick,
    /// The check before, if enough were idle at it.
    previous: Option<Tick>,
}

impl SlowDetector {
    pub(super) fn start_wait(&mut self, log: &LogSnapshot, now: Tick) {
        self.next_check = now.after(check_interval(log.stall));
        (self.last_idle_check, self.last_end) = (None, None);
    }

    fn is_due(&self, log: &LogSnapshot, now: Tick) -> bool {
        log.skips_on_lag && now >= self.next_check
    }

    /// The position at which a member is idle: what was appended since the last check does not
    /// count.
    fn idle_pos(&self, log: &LogSnapshot) -> u64 {
        self.last_end.unwrap_or(log.end)
    }

    /// Begins a check at which `idle` of `all` members are idle. `None` if these are not enough.
    fn start_check(&mut self, log: &LogSnapshot, now: Tick, idle: usize, all: usize) -> Option<Check> {
        self.next_check = now.after(check_interval(log.stall));
        self.last_end = Some(log.end);
        self.strikes.retain(|_, strike| strike.is_slow || now.since(strike.last) < MAX_PROBATION * log.stall);
        let previous = self.last_idle_check.take();
        if idle < MIN_IDLE_PEERS || 3 * idle < 2 * all {
            return None;
        }
        self.last_idle_check = Some(now);
        Some(Check { now, previous })
    }

    /// Charges a member that is in the way and `behind` bytes behind the end. Returns whether it is
    /// slow now.
    fn record_delay(&mut self, index: u32, behind: u64, log: &LogSnapshot, check: Check) -> bool {
        let Check { now, previous } = check;
        let interval = check_interval(log.stall);
        let limit = MAX_DELAY_CHECKS * interval;
        let strike = self.strikes.entry(index).or_insert(Strike { last: now, ..Strike::default() });
        let passed = now.since(strike.last);
        if previous == Some(strike.last) {
            strike.delay = (strike.delay + passed.min(interval)).min(2 * limit);
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
    /// The quick rule, if a check is due. Returns whether a member is slow now.
    pub(super) fn check_delays(&mut self, log: &LogSnapshot, now: Tick) -> bool {
        let Some(need) = self.need() else { return false };
        // Without a producer, no member delays anything.
        if !self.has_waiters() || !self.slow_detector.is_due(log, now) {
            return false;
        }
        let idle_pos = self.slow_detector.idle_pos(log);
        let (mut all, mut idle) = (0, 0);
        for states in self.members.iter().flatten() {
            all += 1;
            idle += usize::from(states.of_log(self.log_index).position() >= idle_pos);
        }
        let Some(check) = self.slow_detector.start_check(log, now, idle, all) else { return false };
        let mut found = false;
        for (index, (states, record)) in (0..).zip(self.members.iter().zip(&mut self.records)) {
            let Some(state) = states.as_ref().map(|states| states.of_log(self.log_index)) else { continue };
            let pos = state.position();
            if record.is_in_the_way(pos, need, log, now)
                && state.is_blocked()
                && self.slow_detector.record_delay(index, log.end.saturating_sub(pos), log, check)
            {
                record.set_slow();
                found = true;
            }
        }
        self.any_slow |= found;
        found
    }

    /// The patient rule. Returns whether a member is slow now.
    pub(super) fn check_in_the_way(&mut self, log: &LogSnapshot, now: Tick) -> bool {
        let Some(need) = self.need() else { return false };
        if !self.has_waiters() {
            self.with_records().for_each(|(_, _, record)| record.in_the_way = None);
            return false;
        }
        let (mut waited_for, mut idle) = (0usize, 0usize);
        for (_, state, _) in self.with_records().filter(|(_, _, record)| !record.is_slow) {
            let pos = state.position();
            waited_for += usize::from(pos >= log.begin);
            idle += usize::from(pos >= log.end);
        }
        let mut found = SmallVec::<[u32; 8]>::new();
        for (index, state, record) in self.with_records().filter(|(_, _, record)| !record.is_slow) {
            if 2 * idle <= waited_for || state.position() >= need {
                record.in_the_way = None;
                continue;
            }
            let (since, ticks) = record.in_the_way.get_or_insert((now, 0));
            *ticks += 1;
            if *ticks >= MIN_TICKS_IN_THE_WAY && now.since(*since) >= STALLS_IN_THE_WAY * log.stall {
                record.set_slow();
                found.push(index);
            }
        }
        self.any_slow |= !found.is_empty();
        // Without a strike, the probation is the longest.
        found.iter().for_each(|index| self.slow_detector.forget(*index));
        !found.is_empty()
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
