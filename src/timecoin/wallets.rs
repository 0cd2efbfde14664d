//! Subscriptions of peers to wallets: extended public keys, and the addresses they were registered
//! from.
//!
//! Pure and bounded: calls that depend on time take `now`.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::base::counts::{add_one, subtract_one};
use crate::base::{Backoff, Source, Tick, canonical, canonical_ip};

/// Limits of the subscriptions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalletConfig {
    /// Longest key, in bytes. Default 256; a real one has 111.
    pub max_key_bytes: usize,
    /// Maximum number of subscriptions of one source, an IPv4 address or an IPv6 /64. Default 64.
    pub max_per_peer: usize,
    /// Maximum number of subscriptions. Default 10,000.
    pub max_total: usize,
    /// How long an unreachable subscriber is not dialled again. Default one minute, doubled with
    /// each failure up to one hour. A connected subscriber is notified regardless.
    pub retry_backoff: Backoff,
    /// A subscriber that was not reached for this long and did not subscribe again loses its
    /// subscriptions at its next failure. Default one day.
    pub expire_after: Duration,
}

impl Default for WalletConfig {
    fn default() -> Self {
        Self {
            max_key_bytes: 256,
            max_per_peer: 64,
            max_total: 10_000,
            retry_backoff: Backoff { base: Duration::from_secs(60), cap: Duration::from_secs(3600) },
            expire_after: Duration::from_secs(24 * 3600),
        }
    }
}

/// Whether a subscription was new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subscribed {
    /// The subscription was added.
    New,
    /// The subscription existed; its address was updated.
    Known,
}

/// Why a subscription was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeRefused {
    /// The key is empty.
    #[error("an empty key")]
    Empty,
    /// The key is too long.
    #[error("a key of {size} bytes, the limit is {cap}")]
    TooLong {
        /// Its length, in bytes.
        size: usize,
        /// The limit, in bytes.
        cap: usize,
    },
    /// The peer has the maximum number of subscriptions.
    #[error("the peer already has {0} subscriptions")]
    PeerFull(usize),
    /// All peers together have the maximum number of subscriptions.
    #[error("there are already {0} subscriptions")]
    Full(usize),
}

/// The subscriptions. Each is a key and an IP address. An IP address is reached at the socket
/// address that it registered last.
#[derive(Clone, Debug, Default)]
pub struct WalletSubscriptions {
    config: WalletConfig,
    by_key: HashMap<String, BTreeSet<IpAddr>>,
    /// Its key sets are derived from `by_key`.
    by_peer: HashMap<IpAddr, Subscriber>,
    /// Subscriptions by source, derived from `by_peer`.
    by_source: HashMap<Source, u32>,
    total: usize,
}

#[derive(Clone, Debug)]
struct Subscriber {
    addr: SocketAddr,
    keys: BTreeSet<String>,
    /// When it last subscribed or was reached.
    last_reached: Tick,
    /// Number of failures since then.
    failures: u32,
    /// It is not dialled before this time.
    retry_at: Tick,
}

impl Subscriber {
    fn new(addr: SocketAddr, now: Tick) -> Self {
        Self { addr, keys: BTreeSet::new(), last_reached: now, failures: 0, retry_at: now }
    }

    fn mark_reached(&mut self, now: Tick) {
        self.last_reached = now;
        self.failures = 0;
        self.retry_at = now;
    }
}

impl WalletSubscriptions {
    /// No subscriptions.
    pub fn new(config: WalletConfig) -> Self {
        Self { config, ..Self::default() }
    }

    /// Subscribes the peer that listens at `at` to a key.
    ///
    /// # Errors
    /// See [`SubscribeRefused`].
    pub fn subscribe(
        &mut self,
        key: &str,
        at: SocketAddr,
        now: Tick,
    ) -> Result<Subscribed, SubscribeRefused> {
        let at = canonical(at);
        let ip = at.ip();
        if key.is_empty() {
            return Err(SubscribeRefused::Empty);
        }
        if key.len() > self.config.max_key_bytes {
            return Err(SubscribeRefused::TooLong { size: key.len(), cap: self.config.max_key_bytes });
        }
        let source = Source::of(ip);
        let of_source = self.by_source.get(&source).map_or(0, |count| *count as usize);
        let known = self.by_peer.get(&ip).is_some_and(|peer| peer.keys.contains(key));
        if !known && of_source >= self.config.max_per_peer {
            return Err(SubscribeRefused::PeerFull(of_source));
        }
        if !known && self.total >= self.config.max_total {
            return Err(SubscribeRefused::Full(self.total));
        }
        let peer = self.by_peer.entry(ip).or_insert_with(|| Subscriber::new(at, now));
        peer.addr = at;
        peer.mark_reached(now);
        if known {
            return Ok(Subscribed::Known);
        }
        peer.keys.insert(key.into());
        self.by_key.entry(key.into()).or_default().insert(ip);
        add_one(&mut self.by_source, source, u32::MAX);
        self.total += 1;
        Ok(Subscribed::New)
    }

    /// Ends all subscriptions of a peer and returns how many there were.
    pub fn unsubscribe(&mut self, ip: IpAddr) -> usize {
        let ip = canonical_ip(ip);
        let Some(peer) = self.by_peer.remove(&ip) else { return 0 };
        for key in &peer.keys {
            subtract_one(&mut self.by_source, &Source::of(ip));
            if let Some(peers) = self.by_key.get_mut(key) {
                peers.remove(&ip);
                if peers.is_empty() {
                    self.by_key.remove(key);
                }
            }
        }
        self.total -= peer.keys.len();
        peer.keys.len()
    }

    /// The addresses of the peers subscribed to any key for which `concerns` is true, each once.
    ///
    /// # Cost
    /// O(n); `concerns` is called once for each key.
    pub fn interested_addrs(&self, concerns: impl Fn(&str) -> bool) -> Vec<SocketAddr> {
        let concerned = self.by_key.iter().filter(|(key, _)| concerns(key));
        let peers: BTreeSet<IpAddr> = concerned.flat_map(|(_, peers)| peers.iter().copied()).collect();
        peers.iter().filter_map(|ip| self.by_peer.get(ip)).map(|peer| peer.addr).collect()
    }

    /// Records that a subscriber was reached.
    pub fn record_reached(&mut self, ip: IpAddr, now: Tick) {
        if let Some(peer) = self.by_peer.get_mut(&canonical_ip(ip)) {
            peer.mark_reached(now);
        }
    }

    /// Whether an unreachable subscriber is not dialled for now.
    pub fn is_backing_off(&self, ip: IpAddr, now: Tick) -> bool {
        self.by_peer.get(&canonical_ip(ip)).is_some_and(|peer| peer.retry_at > now)
    }

    /// Records that a subscriber could not be reached. After [`WalletConfig::expire_after`] without
    /// contact all its subscriptions end; returns how many.
    pub fn record_failure(&mut self, ip: IpAddr, now: Tick) -> usize {
        let Some(peer) = self.by_peer.get_mut(&canonical_ip(ip)) else { return 0 };
        if now.since(peer.last_reached) >= self.config.expire_after {
            return self.unsubscribe(ip);
        }
        // Concurrent attempts count as one failure.
        if peer.retry_at <= now {
            peer.failures = peer.failures.saturating_add(1);
            peer.retry_at = now.after(self.config.retry_backoff.delay(peer.failures, 0));
        }
        0
    }

    /// The keys with subscriptions. Cost: O(n), copied.
    pub fn keys(&self) -> Vec<String> {
        self.by_key.keys().cloned().collect()
    }

    /// Number of subscriptions.
    pub fn len(&self) -> usize {
        self.total
    }

    /// Whether there are no subscriptions.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    const NOW: Tick = Tick::from_millis(1_000);

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_ipv6_slash_64_has_the_subscriptions_of_one_peer() {
        let config = WalletConfig { max_per_peer: 3, ..WalletConfig::default() };
        let mut wallets = WalletSubscriptions::new(config);
        for host in 1..4 {
            let at = addr(&format!("[2a00:1:2:3::{host}]:24100"));
            assert_eq!(wallets.subscribe("key", at, NOW), Ok(Subscribed::New));
        }
        let next = addr("[2a00:1:2:3::9]:24100");
        assert_eq!(wallets.subscribe("key", next, NOW), Err(SubscribeRefused::PeerFull(3)));
        assert_eq!(wallets.subscribe("key", addr("[2a00:1:2:4::9]:24100"), NOW), Ok(Subscribed::New));
        assert_eq!(wallets.unsubscribe("2a00:1:2:3::1".parse().unwrap()), 1);
        assert_eq!(wallets.subscribe("key", next, NOW), Ok(Subscribed::New));
    }

    #[test]
    fn subscribing_twice_is_one_subscription_at_the_newest_address() {
        let mut wallets = WalletSubscriptions::default();
        assert_eq!(wallets.subscribe("xpub1", addr("192.0.2.1:24100"), NOW), Ok(Subscribed::New));
        assert_eq!(wallets.subscribe("xpub1", addr("192.0.2.1:30000"), NOW), Ok(Subscribed::Known));
        assert_eq!(wallets.len(), 1);
        assert_eq!(wallets.interested_addrs(|_| true), [addr("192.0.2.1:30000")]);
    }

    #[test]
    fn short_and_unusual_keys_are_accepted() {
        let mut wallets = WalletSubscriptions::default();
        for key in ["x", "äöü", "xpub\u{0}"] {
            wallets.subscribe(key, addr("192.0.2.1:1"), NOW).unwrap();
        }
        assert_eq!(wallets.subscribe("", addr("192.0.2.1:1"), NOW), Err(SubscribeRefused::Empty));
        let long = "x".repeat(257);
        let refused = wallets.subscribe(&long, addr("192.0.2.1:1"), NOW);
        assert_eq!(refused, Err(SubscribeRefused::TooLong { size: 257, cap: 256 }));
    }

    #[test]
    fn interested_peers_are_listed_once() {
        let mut wallets = WalletSubscriptions::default();
        wallets.subscribe("a", addr("192.0.2.1:1"), NOW).unwrap();
        wallets.subscribe("b", addr("192.0.2.1:1"), NOW).unwrap();
        wallets.subscribe("b", addr("192.0.2.2:2"), NOW).unwrap();
        assert_eq!(wallets.interested_addrs(|key| key == "a"), [addr("192.0.2.1:1")]);
        assert_eq!(wallets.interested_addrs(|_| true), [addr("192.0.2.1:1"), addr("192.0.2.2:2")]);
    }

    #[test]
    fn unsubscribing_ends_all_of_a_peer_and_nothing_else() {
        let mut wallets = WalletSubscriptions::default();
        wallets.subscribe("a", addr("[::ffff:192.0.2.1]:1"), NOW).unwrap();
        wallets.subscribe("b", addr("192.0.2.1:1"), NOW).unwrap();
        wallets.subscribe("b", addr("192.0.2.2:2"), NOW).unwrap();
        assert_eq!(wallets.unsubscribe("192.0.2.1".parse().unwrap()), 2);
        assert_eq!(wallets.unsubscribe("192.0.2.1".parse().unwrap()), 0);
        assert_eq!((wallets.len(), wallets.keys()), (1, vec!["b".to_owned()]));
    }

    #[test]
    fn one_peer_cannot_fill_it_and_all_together_stay_bounded() {
        let config = WalletConfig { max_per_peer: 2, max_total: 3, ..WalletConfig::default() };
        let mut wallets = WalletSubscriptions::new(config);
        wallets.subscribe("a", addr("192.0.2.1:1"), NOW).unwrap();
        wallets.subscribe("b", addr("192.0.2.1:1"), NOW).unwrap();
        assert_eq!(wallets.subscribe("c", addr("192.0.2.1:1"), NOW), Err(SubscribeRefused::PeerFull(2)));
        wallets.subscribe("a", addr("192.0.2.2:1"), NOW).unwrap();
        assert_eq!(wallets.subscribe("a", addr("192.0.2.3:1"), NOW), Err(SubscribeRefused::Full(3)));
        wallets.unsubscribe("192.0.2.1".parse().unwrap());
        wallets.subscribe("a", addr("192.0.2.3:1"), NOW).unwrap();
    }
    #[test]
    fn unreachable_subscribers_back_off_until_they_are_reached() {
        let ip = "192.0.2.1".parse().unwrap();
        let mut wallets = WalletSubscriptions::default();
        wallets.subscribe("a", addr("192.0.2.1:1"), NOW).unwrap();
        let mut now = NOW;
        for minutes in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(wallets.record_failure(ip, now), 0);
            assert_eq!(wallets.record_failure(ip, now), 0, "under way together");
            let rest = Duration::from_secs(minutes * 60);
            assert!(wallets.is_backing_off(ip, now.after(rest - Duration::from_millis(1))));
            now = now.after(rest);
            assert!(!wallets.is_backing_off(ip, now));
        }
        wallets.record_failure(ip, now);
        wallets.record_reached(ip, now);
        assert!(!wallets.is_backing_off(ip, now));
        wallets.record_failure(ip, now);
        assert!(!wallets.is_backing_off(ip, now.after(Duration::from_secs(60))), "it begins anew");
    }

    #[test]
    fn subscribers_unreached_for_a_day_are_removed() {
        let config = WalletConfig { max_total: 2, ..WalletConfig::default() };
        let mut wallets = WalletSubscriptions::new(config);
        wallets.subscribe("a", addr("192.0.2.1:1"), NOW).unwrap();
        wallets.subscribe("b", addr("192.0.2.1:1"), NOW).unwrap();
        let ip = "192.0.2.1".parse().unwrap();
        let day = Duration::from_secs(24 * 3600);
        let then = NOW.after(day / 2);
        wallets.subscribe("a", addr("192.0.2.1:1"), then).unwrap();
        assert_eq!(wallets.record_failure(ip, NOW.after(day)), 0, "it has subscribed since");
        assert_eq!(wallets.record_failure(ip, then.after(day)), 2);
        assert!(wallets.is_empty() && wallets.keys().is_empty());
        wallets.subscribe("a", addr("192.0.2.2:1"), then).unwrap();
        wallets.subscribe("b", addr("192.0.2.2:1"), then).unwrap();
    }
}
