//! Time of day, for records that outlive the process.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970 (UTC).
///
/// The book stores it because it means the same after a restart, which a
/// [`Tick`](crate::base::Tick) does not. The system clock may jump either way, so subtraction
/// saturates and every comparison must expect both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WallTime(u64);

impl WallTime {
    /// The start of 1970.
    pub const EPOCH: Self = Self(0);
    /// Later than every reading: never.
    pub const MAX: Self = Self(u64::MAX);

    /// The system's time of day; [`WallTime::EPOCH`] if the clock is earlier than that.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::EPOCH.after(since)
    }

    /// The time `millis` milliseconds after the start of 1970.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the start of 1970.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to `self`; zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// The time `wait` later, rounded up to a whole millisecond, at most [`WallTime::MAX`].
    pub const fn after(self, wait: Duration) -> Self {
        let millis = wait.as_nanos().div_ceil(1_000_000);
        let millis = if millis > u64::MAX as u128 { u64::MAX } else { millis as u64 };
        Self(self.0.saturating_add(millis))
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_jumped_back_subtracts_to_zero() {
        let (early, late) = (WallTime::from_millis(1_000), WallTime::from_millis(5_000));
        assert_eq!(late.since(early), Duration::from_secs(4));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(early.after(Duration::MAX), WallTime::MAX);
        assert!(WallTime::now() > late);
    }
}
