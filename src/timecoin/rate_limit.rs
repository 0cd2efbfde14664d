//! Limits on requests and bytes for each source, an IPv4 address or an IPv6 /64, over a sliding
//! window.
//!
//! [`SlidingWindowLimiter`] is the policy alone and takes `now`. [`RateLimiter`] adds a lock and a
//! clock, and has the method names of the legacy crate.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use crate::base::{Clock, Source, Tick, canonical_ip};
use crate::sync::Mutex;

const BURST_WINDOW: Duration = Duration::from_secs(1);
/// Largest single request, in bytes; slightly below the network's limit for a message.
const MAX_REQUEST_BYTES: u64 = 10_000_000;

/// Limits for one source: an IPv4 address or an IPv6 /64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimiterConfig {
    /// Maximum number of requests within the window. Default 100.
    pub max_requests: u32,
    /// Length of the window. Default 60 s.
    pub window: Duration,
    /// Maximum number of requests within one second. Default 20.
    pub burst_size: u32,
    /// Maximum number of bytes within the window. Default 1,000,000.
    pub max_bytes: u64,
    /// Maximum number of sources remembered. Default 10,000. When full, the one whose last
    /// admitted request is oldest is forgotten.
    pub max_ips: usize,
}

impl Default for RateLimiterConfig {
    fn default() -> Self {
        Self {
            max_requests: 100,
            window: Duration::from_secs(60),
            burst_size: 20,
            max_bytes: 1_000_000,
            max_ips: 10_000,
        }
    }
}

/// Why a request is refused. A refused request does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RateLimitError {
    /// Too many requests within the window.
    #[error("Rate limit exceeded for {ip}: {limit} requests per {window:?}")]
    RateLimitExceeded {
        /// The requester.
        ip: IpAddr,
        /// The limit.
        limit: u32,
        /// The window.
        window: Duration,
    },
    /// Too many requests within one second.
    #[error("Burst limit exceeded for {ip}: {limit} requests per second")]
    BurstLimitExceeded {
        /// The requester.
        ip: IpAddr,
        /// The limit.
        limit: u32,
    },
    /// Too many bytes within the window, or in a single request.
    #[error("Byte limit exceeded for {ip}: {bytes} bytes per minute (max 1MB)")]
    ByteLimitExceeded {
        /// The requester.
        ip: IpAddr,
        /// The number of bytes with this request.
        bytes: u64,
    },
}

/// The requests of one source admitted within the window. Never longer than the limit on requests.
#[derive(Clone, Debug, Default)]
struct RequestHistory {
    /// Oldest first: time and size in bytes.
    requests: VecDeque<(Tick, u64)>,
    bytes: u64,
}

impl RequestHistory {
    fn drop_older_than(&mut self, window: Duration, now: Tick) {
        while let Some((at, bytes)) = self.requests.front().copied() {
            if now.since(at) < window {
                break;
            }
            self.requests.pop_front();
            self.bytes -= bytes;
        }
    }
}

/// The policy alone: no lock, no clock.
#[derive(Clone, Debug)]
pub struct SlidingWindowLimiter {
    config: RateLimiterConfig,
    histories: HashMap<Source, RequestHistory>,
    /// Ordered by the latest admitted request, so that the oldest is found without a scan.
    by_last_request: BTreeSet<(Tick, Source)>,
}

impl SlidingWindowLimiter {
    /// A limiter without history.
    pub fn new(config: RateLimiterConfig) -> Self {
        Self { config, histories: HashMap::new(), by_last_request: BTreeSet::new() }
    }

    /// Admits a request of `bytes` bytes and counts it, or refuses it.
    ///
    /// # Errors
    /// See [`RateLimitError`]. Checked in this order: the size of the request, the burst, the
    /// bytes, the requests.
    ///
    /// # Cost
    /// O(log n), amortised.
    pub fn check(&mut self, ip: IpAddr, bytes: u64, now: Tick) -> Result<(), RateLimitError> {
        let (ip, source) = (canonical_ip(ip), Source::of(ip));
        if bytes > MAX_REQUEST_BYTES {
            return Err(RateLimitError::ByteLimitExceeded { ip, bytes });
        }
        let window = self.config.window;
        self.remove_older_than(window, now);
        if let Some(history) = self.histories.get_mut(&source) {
            history.drop_older_than(window, now);
        }
        let (count, total, burst) = self.histories.get(&source).map_or((0, 0, 0), |history| {
            let recent = history.requests.iter().rev().take_while(|(at, _)| now.since(*at) < BURST_WINDOW);
            (history.requests.len(), history.bytes, recent.count())
        });
        if burst >= self.config.burst_size as usize {
            return Err(RateLimitError::BurstLimitExceeded { ip, limit: self.config.burst_size });
        }
        let sum = total.saturating_add(bytes);
        if sum > self.config.max_bytes {
            return Err(RateLimitError::ByteLimitExceeded { ip, bytes: sum });
        }
        if count >= self.config.max_requests as usize {
            return Err(RateLimitError::RateLimitExceeded { ip, limit: self.config.max_requests, window });
        }
        self.record(source, bytes, now);
        Ok(())
    }

    /// Number of requests admitted within the window.
    pub fn request_count(&self, ip: IpAddr, now: Tick) -> u32 {
        let history = self.histories.get(&Source::of(ip));
        let in_window = |history: &RequestHistory| {
            history.requests.iter().filter(|(at, _)| now.since(*at) < self.config.window).count()
        };
        history.map_or(0, in_window) as u32
    }

    /// Forgets the source of an address. Returns `false` if it was not remembered.
    pub fn reset(&mut self, ip: IpAddr) -> bool {
        self.forget(Source::of(ip))
    }

    fn forget(&mut self, source: Source) -> bool {
        let Some(history) = self.histories.remove(&source) else { return false };
        if let Some((at, _)) = history.requests.back() {
            self.by_last_request.remove(&(*at, source));
        }
        true
    }

    /// Forgets sources whose last admitted request is at least `max_age` old, and returns how
    /// many. Cost: O(log n) each.
    pub fn remove_older_than(&mut self, max_age: Duration, now: Tick) -> usize {
        let mut gone = 0;
        while let Some((at, source)) = self.by_last_request.first().copied() {
            if now.since(at) < max_age {
                break;
            }
            self.forget(source);
            gone += 1;
        }
        gone
    }

    /// Number of sources remembered.
    pub fn tracked(&self) -> usize {
        self.histories.len()
    }

    fn record(&mut self, source: Source, bytes: u64, now: Tick) {
        let no_room =
            !self.histories.contains_key(&source) && self.histories.len() >= self.config.max_ips.max(1);
        if let (true, Some((_, oldest))) = (no_room, self.by_last_request.first().copied()) {
            self.forget(oldest);
        }
        let history = self.histories.entry(source).or_default();
        if let Some((at, _)) = history.requests.back() {
            self.by_last_request.remove(&(*at, source));
        }
        history.requests.push_back((now, bytes));
        history.bytes += bytes;
        self.by_last_request.insert((now, source));
    }
}

/// A limiter to share. Every call takes one short lock. Methods are `async` only where the legacy
/// ones were.
#[derive(Debug)]
pub struct RateLimiter {
    state: Mutex<SlidingWindowLimiter>,
    clock: Clock,
}

impl RateLimiter {
    /// A limiter with the default limits.
    pub fn new() -> Self {
        Self::with_config(RateLimiterConfig::default())
    }

    /// A limiter.
    pub fn with_config(config: RateLimiterConfig) -> Self {
        Self { state: Mutex::new(SlidingWindowLimiter::new(config)), clock: Clock::new() }
    }

    /// Admits a request of `bytes` bytes and counts it, or refuses it.
    ///
    /// # Errors
    /// See [`RateLimitError`].
    pub async fn check_rate_limit(&self, ip: IpAddr, bytes: u64) -> Result<(), RateLimitError> {
        self.state.lock().check(ip, bytes, self.clock.now())
    }

    /// Forgets the requests of an address. Returns `false` if there were none.
    pub async fn reset(&self, ip: IpAddr) -> bool {
        self.state.lock().reset(ip)
    }

    /// Number of requests of an address admitted within the window.
    pub async fn get_request_count(&self, ip: IpAddr) -> u32 {
        self.state.lock().request_count(ip, self.clock.now())
    }

    /// Forgets sources whose last admitted request is at least `max_age` old, and returns how
    /// many. Every check forgets addresses outside of the window, so calling this only frees memory
    /// sooner.
    pub async fn cleanup_stale_entries(&self, max_age: Duration) -> usize {
        self.state.lock().remove_older_than(max_age, self.clock.now())
    }
}

impl Default for RateLimiter {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn at(millis: u64) -> Tick {
        Tick::from_millis(millis)
    }

    fn limiter() -> SlidingWindowLimiter {
        SlidingWindowLimiter::new(RateLimiterConfig::default())
    }

    #[test]
    fn twenty_a_second_are_admitted_and_the_next_a_second_later() {
        let mut limiter = limiter();
        for _ in 0..20 {
            limiter.check(ip(1), 10, at(0)).unwrap();
        }
        let refused = limiter.check(ip(1), 10, at(999)).unwrap_err();
        assert_eq!(refused.to_string(), "Burst limit exceeded for 192.0.2.1: 20 requests per second");
        limiter.check(ip(1), 10, at(1000)).unwrap();
        limiter.check(ip(2), 10, at(0)).unwrap();
    }

    #[test]
    fn an_ipv6_slash_64_is_one_requester() {
        let mut limiter = limiter();
        let ip = |net: u16, host: u16| IpAddr::from([0x2a00, 1, 2, net, 0, 0, 0, host]);
        for host in 0..20 {
            limiter.check(ip(3, host), 10, at(0)).unwrap();
        }
        assert!(limiter.check(ip(3, 99), 10, at(0)).is_err());
        limiter.check(ip(4, 99), 10, at(0)).unwrap();
        assert_eq!((limiter.tracked(), limiter.request_count(ip(3, 7), at(0))), (2, 20));
    }

    #[test]
    fn a_hundred_a_minute_are_admitted_and_the_window_slides() {
        let mut limiter = limiter();
        for n in 0..100 {
            limiter.check(ip(1), 1, at(n * 100)).unwrap();
        }
        let refused = limiter.check(ip(1), 1, at(59_999)).unwrap_err();
        assert_eq!(refused.to_string(), "Rate limit exceeded for 192.0.2.1: 100 requests per 60s");
        limiter.check(ip(1), 1, at(60_000)).unwrap();
        assert!(limiter.check(ip(1), 1, at(60_000)).is_err());
        assert_eq!(limiter.request_count(ip(1), at(60_000)), 100);
    }

    #[test]
    fn a_peer_below_the_rate_is_never_refused() {
        let mut limiter = limiter();
        // One request in five seconds for a day: fixed counters would refuse from the hundredth on.
        for n in 0..17_280 {
            limiter.check(ip(1), 9_000, at(n * 5_000)).unwrap();
        }
    }

    #[test]
    fn bytes_are_bounded_over_the_window_and_at_once() {
        let mut limiter = limiter();
        limiter.check(ip(1), 600_000, at(0)).unwrap();
        let refused = limiter.check(ip(1), 400_001, at(2_000)).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "Byte limit exceeded for 192.0.2.1: 1000001 bytes per minute (max 1MB)"
        );
        limiter.check(ip(1), 400_000, at(2_000)).unwrap();
        limiter.check(ip(1), 600_000, at(60_000)).unwrap();
        assert!(matches!(
            limiter.check(ip(2), 10_000_001, at(0)),
            Err(RateLimitError::ByteLimitExceeded { bytes: 10_000_001, .. })
        ));
        assert_eq!(limiter.request_count(ip(2), at(0)), 0);
    }

    #[test]
    fn a_refused_request_does_not_count() {
        let mut limiter = limiter();
        for _ in 0..20 {
            limiter.check(ip(1), 1, at(0)).unwrap();
        }
        for _ in 0..1_000 {
            assert!(limiter.check(ip(1), 1, at(500)).is_err());
        }
        assert_eq!(limiter.request_count(ip(1), at(500)), 20);
        limiter.check(ip(1), 1, at(1_000)).unwrap();
    }

    #[test]
    fn a_flood_of_addresses_stays_within_the_bound() {
        let config = RateLimiterConfig { max_ips: 50, ..RateLimiterConfig::default() };
        let mut limiter = SlidingWindowLimiter::new(config);
        for n in 0..10_000u32 {
            limiter.check(IpAddr::from(n.to_be_bytes()), 1, at(u64::from(n))).unwrap();
            assert!(limiter.tracked() <= 50);
        }
        // The newest fifty are remembered.
        assert_eq!(limiter.request_count(IpAddr::from(9_999u32.to_be_bytes()), at(10_000)), 1);
        assert_eq!(limiter.request_count(IpAddr::from(9_949u32.to_be_bytes()), at(10_000)), 0);
    }

    #[test]
    fn only_idle_addresses_are_removed() {
        let mut limiter = limiter();
        limiter.check(ip(1), 1, at(0)).unwrap();
        limiter.check(ip(2), 1, at(5_000)).unwrap();
        assert_eq!(limiter.remove_older_than(Duration::from_secs(6), at(6_000)), 1);
        assert_eq!(
            (limiter.request_count(ip(1), at(6_000)), limiter.request_count(ip(2), at(6_000))),
            (0, 1)
        );
        // An address outside of the window is forgotten by the next check of any address.
        limiter.check(ip(3), 1, at(65_000)).unwrap();
        assert_eq!(limiter.tracked(), 1);
        assert!(limiter.reset(ip(3)) && !limiter.reset(ip(3)));
    }

    #[tokio::test]
    async fn rate_limiter_has_the_legacy_names() {
        let limiter = RateLimiter::with_config(RateLimiterConfig { burst_size: 1, ..Default::default() });
        limiter.check_rate_limit(ip(1), 5).await.unwrap();
        assert!(limiter.check_rate_limit(ip(1), 5).await.is_err());
        assert_eq!(limiter.get_request_count(ip(1)).await, 1);
        assert!(limiter.reset(ip(1)).await);
        limiter.check_rate_limit(ip(1), 5).await.unwrap();
        assert_eq!(limiter.cleanup_stale_entries(Duration::ZERO).await, 1);
    }
}
