//! Time: whole milliseconds of a monotonic clock.

use std::time::{Duration, Instant};

/// One year: the cap of waits that would overflow a clock.
#[cfg(feature = "node")]
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Milliseconds since the start of a [`Clock`]. Every function that depends on time takes a tick as
/// `now`.
///
/// Subtraction saturates, so a reading slightly older than another never wraps into the far future.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(u64);

impl Tick {
    /// The start of the clock.
    pub const ZERO: Self = Self(0);
    /// Later than every clock reading: a deadline that never passes.
    pub const MAX: Self = Self((1 << 48) - 1);

    /// The tick `millis` milliseconds after the start, at most [`Tick::MAX`] (8,900 years).
    pub const fn from_millis(millis: u64) -> Self {
        if millis > Self::MAX.0 { Self::MAX } else { Self(millis) }
    }

    /// Milliseconds since the start of the clock; always below 2^48.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Time from `earlier` to this tick; zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// The tick `time` earlier, rounded down to a whole millisecond, at least [`Tick::ZERO`].
    pub const fn before(self, time: Duration) -> Self {
        let millis = time.as_millis();
        let millis = if millis > Self::MAX.0 as u128 { Self::MAX.0 } else { millis as u64 };
        Self::from_millis(self.0.saturating_sub(millis))
    }

    /// The tick `wait` later, rounded up to a whole millisecond, at most [`Tick::MAX`].
    pub const fn after(self, wait: Duration) -> Self {
        let nanos = wait.as_nanos().div_ceil(1_000_000);
        let millis = if nanos > Self::MAX.0 as u128 { Self::MAX.0 } else { nanos as u64 };
        Self::from_millis(self.0.saturating_add(millis))
    }
}

/// A monotonic clock that starts at zero. The pool has no clock: its owner keeps one and passes
/// `now`.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that starts now.
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }

    /// The current tick.
    ///
    /// # Cost
    /// One reading of the system's monotonic clock, about 25 ns.
    pub fn now(&self) -> Tick {
        self.at(Instant::now())
    }

    /// The tick of an instant; [`Tick::ZERO`] for instants before the start.
    pub fn at(&self, instant: Instant) -> Tick {
        Tick::from_millis(instant.saturating_duration_since(self.start).as_millis() as u64)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn subtraction_and_addition_saturate() {
        let early = Tick::from_millis(5);
        let late = Tick::from_millis(9);
        assert_eq!(late.since(early), Duration::from_millis(4));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(early.after(Duration::MAX), Tick::MAX);
        assert_eq!(early.after(Duration::from_nanos(1)), Tick::from_millis(6));
    }

    #[test]
    fn instants_before_the_start_are_zero() {
        let before = Instant::now();
        let clock = Clock::new();
        assert_eq!(clock.at(before), Tick::ZERO);
    }
}
