//! Rate limit for announcing new peers to the others.
//!
//! An address is announced at most once in 300 s, and at most 60 addresses a minute. Pure: every
//! call takes `now`.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use crate::base::{Tick, canonical};

const MINUTE: Duration = Duration::from_secs(60);

/// Limits for announcements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnounceConfig {
    /// Minimum time between two announcements of one address. Default 300 s.
    pub min_interval: Duration,
    /// Maximum number of announcements a minute. Default 60.
    pub max_per_minute: usize,
}

impl Default for AnnounceConfig {
    fn default() -> Self {
        Self { min_interval: Duration::from_secs(300), max_per_minute: 60 }
    }
}

/// Whether to announce an address now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnnounceDecision {
    /// Announce it. It counts against the limits unless it is [retracted](Announcements::retract).
    Announce,
    /// It was announced less than [`AnnounceConfig::min_interval`] ago.
    Recent,
    /// The limit per minute is reached. The address does not count as announced.
    RateLimited,
}

/// The recent announcements. Bounded by the limit per minute and the minimum interval.
#[derive(Clone, Debug)]
pub struct Announcements {
    config: AnnounceConfig,
    /// Announcements that a limit still needs, oldest first.
    order: VecDeque<(Tick, SocketAddr)>,
    /// The latest announcement of each address in `order`.
    known: HashMap<SocketAddr, Tick>,
}

impl Announcements {
    /// An empty history.
    pub fn new(config: AnnounceConfig) -> Self {
        Self { config, order: VecDeque::new(), known: HashMap::new() }
    }

    /// Whether to announce an address now. [`AnnounceDecision::Announce`] is recorded.
    ///
    /// # Cost
    /// O(1) amortised, plus a scan of the announcements of the last minute.
    pub fn try_announce(&mut self, addr: SocketAddr, now: Tick) -> AnnounceDecision {
        let addr = canonical(addr);
        self.remove_expired(now);
        if self.known.get(&addr).is_some_and(|at| now.since(*at) < self.config.min_interval) {
            return AnnounceDecision::Recent;
        }
        let recent = self.order.iter().rev().take_while(|(at, _)| now.since(*at) < MINUTE).count();
        if recent >= self.config.max_per_minute {
            return AnnounceDecision::RateLimited;
        }
        self.order.push_back((now, addr));
        self.known.insert(addr, now);
        AnnounceDecision::Announce
    }

    /// Undoes the last announcement of an address, for one that reached no peer. Returns `false` if
    /// there was none.
    pub fn retract(&mut self, addr: SocketAddr) -> bool {
        let addr = canonical(addr);
        let Some(at) = self.known.remove(&addr) else { return false };
        self.order.retain(|entry| *entry != (at, addr));
        true
    }

    /// Number of recorded announcements.
    pub fn tracked(&self) -> usize {
        self.order.len()
    }

    fn remove_expired(&mut self, now: Tick) {
        let keep = self.config.min_interval.max(MINUTE);
        while let Some((at, addr)) = self.order.front().copied() {
            if now.since(at) < keep {
                break;
            }
            self.order.pop_front();
            // A later announcement of the address has its own entry.
            if self.known.get(&addr) == Some(&at) {
                self.known.remove(&addr);
            }
        }
    }
}

impl Default for Announcements {
    fn default() -> Self {
        Self::new(AnnounceConfig::default())
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    fn addr(n: u32) -> SocketAddr {
        let [a, b, c, d] = n.to_be_bytes();
        SocketAddr::from(([a, b, c, d], 24_100))
    }

    fn at(secs: u64) -> Tick {
        Tick::from_millis(secs * 1000)
    }

    #[test]
    fn an_address_is_announced_once_in_300_seconds() {
        let mut announced = Announcements::default();
        assert_eq!(announced.try_announce(addr(1), at(0)), AnnounceDecision::Announce);
        assert_eq!(announced.try_announce(addr(1), at(299)), AnnounceDecision::Recent);
        assert_eq!(announced.try_announce(addr(1), at(300)), AnnounceDecision::Announce);
        let other_port = SocketAddr::new(addr(1).ip(), 5);
        assert_eq!(announced.try_announce(other_port, at(300)), AnnounceDecision::Announce);
    }

    #[test]
    fn a_rate_limited_address_does_not_count_as_announced() {
        let mut announced = Announcements::default();
        for n in 0..60 {
            assert_eq!(announced.try_announce(addr(n), at(0)), AnnounceDecision::Announce);
        }
        assert_eq!(announced.try_announce(addr(60), at(59)), AnnounceDecision::RateLimited);
        assert_eq!(announced.try_announce(addr(60), at(60)), AnnounceDecision::Announce);
    }

    #[test]
    fn a_retracted_address_may_be_announced_again() {
        let mut announced = Announcements::default();
        assert_eq!(announced.try_announce(addr(1), at(0)), AnnounceDecision::Announce);
        assert!(announced.retract(addr(1)) && !announced.retract(addr(1)));
        assert_eq!(announced.try_announce(addr(1), at(1)), AnnounceDecision::Announce);
        assert_eq!(announced.tracked(), 1);
    }

    #[test]
    fn a_short_interval_does_not_weaken_the_limit() {
        let config = AnnounceConfig { min_interval: Duration::from_secs(1), max_per_minute: 2 };
        let mut announced = Announcements::new(config);
        assert_eq!(announced.try_announce(addr(1), at(0)), AnnounceDecision::Announce);
        assert_eq!(announced.try_announce(addr(1), at(1)), AnnounceDecision::Announce);
        assert_eq!(announced.try_announce(addr(1), at(2)), AnnounceDecision::RateLimited);
        assert_eq!(announced.try_announce(addr(1), at(60)), AnnounceDecision::Announce);
    }

    #[test]
    fn memory_is_bounded_by_the_limit() {
        let mut announced = Announcements::default();
        for n in 0..100_000 {
            announced.try_announce(addr(n), at(u64::from(n) / 10));
            assert!(announced.tracked() <= 300);
        }
    }
}
