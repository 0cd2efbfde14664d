//! Times in which this process stood still.
//!
//! Invariant: `own_stall_is_not_a_peers_silence`.
//! - Statement: time in which this node did not run counts against no peer: not as silence, not as
//!   an unanswered ping, not as a write without progress, not as a slow handshake.
//! - Enforced by: the maintenance measures how late each tick comes, and judges as if that time had
//!   not passed, until a deadline's length after it.
//! - Breaks if: a step of the maintenance compares the plain time with a deadline.

use std::collections::VecDeque;
use std::time::Duration;

use crate::base::Tick;

/// A tick that comes later than this, and later than one period, shows a stall.
const MIN_LATENESS: Duration = Duration::from_millis(100);
/// Stalls remembered. More of them than this in a deadline's length count in part.
const MAX_STALLS: usize = 64;

/// Measures stalls at the ticks of the maintenance.
#[derive(Debug)]
pub(super) struct StallMeter {
    last_tick: Tick,
    /// When each stall ended, and how long it took.
    stalls: VecDeque<(Tick, Duration)>,
}

impl StallMeter {
    pub(super) fn new(now: Tick) -> Self {
        Self { last_tick: now, stalls: VecDeque::new() }
    }

    /// Notes a tick of this period. Returns how late it came, if that was a stall.
    pub(super) fn tick(&mut self, period: Duration, now: Tick) -> Option<Duration> {
        let late = now.since(self.last_tick).saturating_sub(period);
        self.last_tick = now;
        if late <= MIN_LATENESS.max(period) {
            return None;
        }
        if self.stalls.len() == MAX_STALLS {
            self.stalls.pop_front();
        }
        self.stalls.push_back((now, late));
        Some(late)
    }

    /// The sum of the stalls that a deadline of this length, judged now, may contain.
    pub(super) fn within(&self, length: Duration, now: Tick) -> Duration {
        let mut sum = Duration::ZERO;
        for (end, took) in self.stalls.iter().rev() {
            // Its own stalls lengthen a deadline, so that it reaches further back.
            if now.since(*end) > length.saturating_add(sum) {
                break;
            }
            sum += *took;
        }
        sum
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_stall_extends_deadlines_once_and_for_their_own_length() {
        let (at, ms) = (Tick::from_millis, Duration::from_millis);
        let mut meter = StallMeter::new(at(0));
        assert_eq!(meter.tick(ms(250), at(250)), None);
        assert_eq!(meter.tick(ms(250), at(700)), None, "late, but no stall");
        assert_eq!(meter.tick(ms(250), at(3_450)), Some(ms(2_500)));
        assert_eq!(meter.within(ms(1_000), at(3_450)), ms(2_500));
        assert_eq!(meter.within(ms(1_000), at(4_450)), ms(2_500));
        assert_eq!(meter.within(ms(1_000), at(4_451)), Duration::ZERO);
    }

    #[test]
    fn remembered_stalls_are_bounded() {
        let mut meter = StallMeter::new(Tick::ZERO);
        for n in 1..1_000 {
            meter.tick(Duration::from_millis(10), Tick::from_millis(n * 1_000));
        }
        assert_eq!(meter.stalls.len(), MAX_STALLS);
    }
}
