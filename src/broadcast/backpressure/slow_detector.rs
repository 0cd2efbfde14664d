//! Whom most links idle for: the quick judgement of those that producers wait for.
//!
//! While producers wait, a link that has written everything idles. Time counts as *cost* where it goes by from one look to
//! the next while two thirds of all links idle at both: whoever is in the way then has kept the others from having
//! anything to do. Who has cost four looks, and had not gone half of the way for which the producers wait when the others
//! began to idle, takes less than half as much as they do: it is let go.
//!
//! What keeps this from being hasty: only a link whose stream is full is charged, not one whose task has not had its turn; a
//! look counts for one look's time, however late it comes, so that a machine or a process that stands still convicts nobody; those who read alike are behind alike, whatever their pace; and time in which
//! a link cost nothing pays off what it cost. What keeps it from letting everybody go: two thirds must idle, those that
//! were let go before count as not idling, and fewer than eight that idle prove nothing.
//!
//! Who was let go is waited for again once it has kept up for one stall time, and twice as long each further time.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{FORGIVEN, LogSnapshot, Members};
use crate::base::Tick;

/// What is known of the few links that were in the way.
#[derive(Debug, Default)]
pub(super) struct SlowDetector {
    strikes: BTreeMap<u32, Strike>,
    /// No look before this.
    due: Tick,
    /// The last look of this wait, if most links idled.
    idle_at: Option<Tick>,
    /// How far the log went at the last look of this wait.
    end: Option<u64>,
}

#[derive(Debug, Default)]
struct Strike {
    cost: Duration,
    /// When it was last in the way of idle links.
    last: Tick,
    /// Whether it had less than half of its way behind it when the others began to idle.
    far: bool,
    /// How often it was let go.
    times: u32,
    let_go: bool,
}

/// What a look found, as far as it concerns everybody.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    now: Tick,
    /// The last look, if most idled since.
    before: Option<Tick>,
}

impl SlowDetector {
    /// A wait begins.
    pub(super) fn begin(&mut self, span: &LogSnapshot, now: Tick) {
        (self.due, self.idle_at, self.end) = (now.after(pause(span.stall)), None, None);
    }

    /// Whether it is time to look.
    pub(super) fn is_due(&self, span: &LogSnapshot, now: Tick) -> bool {
        span.skips && now >= self.due
    }

    /// Where a link must have come to count as idle: what came since the last look it need not have.
    pub(super) fn end(&self, span: &LogSnapshot) -> u64 {
        self.end.unwrap_or(span.end)
    }

    /// Looks, where `idle` of `all` links have nothing left to write. `None` if nobody is to blame.
    pub(super) fn look(&mut self, span: &LogSnapshot, now: Tick, idle: usize, all: usize) -> Option<Look> {
        self.due = now.after(pause(span.stall));
        self.end = Some(span.end);
        self.strikes.retain(|_, strike| strike.let_go || now.since(strike.last) < FORGIVEN * span.stall);
        let before = self.idle_at.take();
        if idle < MIN_IDLE_PEERS || 3 * idle < 2 * all {
            return None;
        }
        self.idle_at = Some(now);
        Some(Look { now, before })
    }

    /// Charges a link that is in the way and `behind` the end by so much; whether it is let go.
    pub(super) fn record_delay(&mut self, seat: u32, behind: u64, span: &LogSnapshot, look: Look) -> bool {
        let Look { now, before } = look;
        let strike = self.strikes.entry(seat).or_insert(Strike { last: now, ..Strike::default() });
        let (passed, pause) = (now.since(strike.last), pause(span.stall));
        if before == Some(strike.last) {
            strike.cost = (strike.cost + passed.min(pause)).min(2 * COST * pause);
        } else {
            strike.cost = strike.cost.saturating_sub(passed / PAID_OFF);
            strike.far = behind > span.window / 4 * 3;
        }
        strike.last = now;
        if strike.cost < COST * pause || !strike.far {
            return false;
        }
        (strike.cost, strike.let_go) = (Duration::ZERO, true);
        strike.times = strike.times.saturating_add(1);
        true
    }

    /// How long a link that is not waited for must keep up.
    pub(super) fn term(&self, seat: u32, stall: Duration) -> Duration {
        let times = self.strikes.get(&seat).map_or(u32::MAX, |strike| strike.times);
        let longest = FORGIVEN * stall;
        match times.checked_sub(1) {
            Some(doubled) if doubled < FORGIVEN => longest.min(stall * (1 << doubled)),
            _ => longest,
        }
    }

    /// A link that was let go is waited for again.
    pub(super) fn reinstated(&mut self, seat: u32, now: Tick) {
        if let Some(strike) = self.strikes.get_mut(&seat) {
            (strike.let_go, strike.last) = (false, now);
        }
    }

    /// A link has left, or is not waited for because of something worse.
    pub(super) fn forget(&mut self, seat: u32) {
        self.strikes.remove(&seat);
    }
}

impl Members {
    /// Looks at whom most others idle for, if it is time; whether somebody is let go.
    pub(super) fn copy_tail(&mut self, span: &LogSnapshot, now: Tick) -> bool {
        let Some(need) = self.wait.as_ref().map(|wait| wait.need) else { return false };
        // Without a producer it is not this link that the others idle for.
        if self.waiters.is_empty() || !self.slow_detector.is_due(span, now) {
            return false;
        }
        let (mut all, mut idle, end) = (0, 0, self.slow_detector.end(span));
        for views in self.members.iter().flatten() {
            all += 1;
            idle += usize::from(views.at(self.place).position() >= end);
        }
        let Some(look) = self.slow_detector.look(span, now, idle, all) else { return false };
        let mut found = false;
        for (seat, (view, face)) in (0..).zip(self.members.iter().zip(&mut self.faces)) {
            let Some(view) = view.as_ref().map(|views| views.at(self.place)) else { continue };
            let pos = view.position();
            if face.is_behind(pos, need, span, now)
                && view.is_blocked()
                && self.slow_detector.record_delay(seat, span.end.saturating_sub(pos), span, look)
            {
                face.call_slow();
                found = true;
            }
        }
        self.slow |= found;
        found
    }

    /// Somebody was let go: unless another is as far behind, there is room.
    pub(super) fn reopen(&mut self, span: &LogSnapshot, now: Tick) -> u64 {
        self.unwatch();
        self.wait = None;
        self.begin(span, now)
    }
}

/// Between two looks.
pub(in super::super) fn pause(stall: Duration) -> Duration {
    stall / LOOKS
}

/// Looks in a stall time.
const LOOKS: u32 = 50;
/// Looks that a link may cost.
const COST: u32 = 4;
/// How many times as long a link must cost nothing to pay off what it cost.
const PAID_OFF: u32 = 4;
/// Fewest idle links that store_hints that another is slow.
const MIN_IDLE_PEERS: usize = 8;
