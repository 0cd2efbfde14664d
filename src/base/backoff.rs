//! Exponential backoff as a pure function: the caller keeps the number of failures and supplies the
//! randomness.

use std::time::Duration;

/// Delay before the next attempt: it doubles from `base` up to `cap`, and then loses up to half as
/// jitter.
///
/// The jitter comes after the cap, so that peers at the cap are spread out too. Before the cap, all
/// of them would wait equally long and reconnect together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct Backoff {
    /// Delay after the first failure, before jitter.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub base: Duration,
    /// Longest delay, before jitter.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub cap: Duration,
}

impl Backoff {
    /// Delay after `failures` consecutive failures; `random` is any uniformly random number.
    ///
    /// It is zero after zero failures, and otherwise between half and all of the capped doubling.
    pub fn delay(&self, failures: u32, random: u64) -> Duration {
        let Some(doublings) = failures.checked_sub(1) else { return Duration::ZERO };
        let factor = 1u32.checked_shl(doublings).unwrap_or(u32::MAX);
        let capped = self.base.saturating_mul(factor).min(self.cap);
        let half = (capped.as_nanos() / 2).min(u128::from(u64::MAX)) as u64;
        // Multiply-shift maps the random number onto 0..=half without the bias of a division.
        let jitter = ((u128::from(random) * (u128::from(half) + 1)) >> 64) as u64;
        capped.saturating_sub(Duration::from_nanos(jitter))
    }
}

impl Default for Backoff {
    /// One second doubling up to ten minutes.
    fn default() -> Self {
        Self { base: Duration::from_secs(1), cap: Duration::from_secs(600) }
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_cap() {
        let backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(10) };
        let delays: Vec<u64> = (0..7).map(|n| backoff.delay(n, 0).as_secs()).collect();
        assert_eq!(delays, [0, 1, 2, 4, 8, 10, 10]);
        assert_eq!(backoff.delay(u32::MAX, 0), Duration::from_secs(10));
    }

    #[test]
    fn jitter_spreads_delays_at_the_cap() {
        let backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(10) };
        assert_eq!(backoff.delay(30, u64::MAX), Duration::from_secs(5));
        let middle = backoff.delay(30, u64::MAX / 2);
        assert!(middle > Duration::from_secs(7) && middle < Duration::from_secs(8), "{middle:?}");
    }
}
