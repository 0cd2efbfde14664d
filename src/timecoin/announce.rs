//! When a new peer is worth telling everybody about: each address once in 300 s, 60 addresses a minute.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use crate::base::{Tick, canonical};

const MINUTE: Duration = Duration::from_secs(60);

/// Bounds of announcing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnounceConfig {
    /// How long an address that was announced is not announced again. Default 300 s.
    pub min_interval: Duration,
    /// Announcements a minute at the most. Default 60.
    pub max_per_minute: usize,
}

impl Default for AnnounceConfig {
    fn default() -> Self {
        Self { min_interval: Duration::from_secs(300), max_per_minute: 60 }
    }
}

/// Whether an address is to be announced now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnnounceDecision {
    /// Yes. It counts from now on, unless it is [taken back](Announcements::retract).
    Announce,
    /// It was, a short while ago.
    Recent,
    /// Too many others were within the minute. It does not count as announced.
    RateLimited,
}

/// What was announced lately: never more than the limit a minute allows within the min_interval time.
#[derive(Clone, Debug)]
pub struct Announcements {
    config: AnnounceConfig,
    /// Those that one of the two bounds still looks at, oldest first.
    order: VecDeque<(Tick, SocketAddr)>,
    /// When each of them was announced last.
    known: HashMap<SocketAddr, Tick>,
}

impl Announcements {
    /// Nothing was announced so far.
    pub fn new(config: AnnounceConfig) -> Self {
        Self { config, order: VecDeque::new(), known: HashMap::new() }
    }

    /// Whether to announce an address now; a yes is remembered.
    ///
    /// # Cost
    /// O(1) amortised, and a look at those of the last minute.
    pub fn try_announce(&mut self, addr: SocketAddr, now: Tick) -> AnnounceDecision {
        let addr = canonical(addr);
        self.remove_expired(now);
        if self.known.get(&addr).is_some_and(|at| now.since(*at) < self.config.min_interval) {
            return AnnounceDecision::Recent;
        }
        let lately = self.order.iter().rev().take_while(|(at, _)| now.since(*at) < MINUTE).count();
        if lately >= self.config.max_per_minute {
            return AnnounceDecision::RateLimited;
        }
        self.order.push_back((now, addr));
        self.known.insert(addr, now);
        AnnounceDecision::Announce
    }

    /// Nobody was told after all: the next one who asks gets a yes again. `false` if there was none.
    pub fn retract(&mut self, addr: SocketAddr) -> bool {
        let addr = canonical(addr);
        let Some(at) = self.known.remove(&addr) else { return false };
        self.order.retain(|told| *told != (at, addr));
        true
    }

    /// How many are remembered.
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
            // Announced again since, it has a later entry.
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
    fn what_the_limit_held_back_does_not_count_as_announced() {
        let mut announced = Announcements::default();
        for n in 0..60 {
            assert_eq!(announced.try_announce(addr(n), at(0)), AnnounceDecision::Announce);
        }
        assert_eq!(announced.try_announce(addr(60), at(59)), AnnounceDecision::RateLimited);
        assert_eq!(announced.try_announce(addr(60), at(60)), AnnounceDecision::Announce);
    }

    #[test]
    fn what_nobody_heard_may_be_announced_again() {
        let mut announced = Announcements::default();
        assert_eq!(announced.try_announce(addr(1), at(0)), AnnounceDecision::Announce);
        assert!(announced.retract(addr(1)) && !announced.retract(addr(1)));
        assert_eq!(announced.try_announce(addr(1), at(1)), AnnounceDecision::Announce);
        assert_eq!(announced.tracked(), 1);
    }

    #[test]
    fn a_short_quiet_time_does_not_weaken_the_limit() {
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
