//! Which peers want to hear of which wallet: extended public keys and the addresses they were registered from.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use crate::base::{canonical, canonical_ip};

/// Bounds of the subscriptions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalletConfig {
    /// Longest key taken, in bytes. Default 256; a real one has 111.
    pub max_key: usize,
    /// Subscriptions of one address at the most. Default 64.
    pub max_per_peer: usize,
    /// Subscriptions at the most. Default 10,000.
    pub max_total: usize,
}

impl Default for WalletConfig {
    fn default() -> Self {
        Self { max_key: 256, max_per_peer: 64, max_total: 10_000 }
    }
}

/// Whether a subscription was new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subscribed {
    /// It is there now.
    New,
    /// It was there already; its address is the one just told.
    Known,
}

/// Why a subscription was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeRefused {
    /// No key is empty.
    #[error("an empty key")]
    Empty,
    /// No key is as long.
    #[error("a key of {size} bytes, at most {cap} are taken")]
    TooLong {
        /// Its length in bytes.
        size: usize,
        /// The longest taken.
        cap: usize,
    },
    /// The peer has as many as one may have.
    #[error("the peer has {0} subscriptions already")]
    PeerFull(usize),
    /// All peers together have as many as there may be.
    #[error("there are {0} subscriptions already")]
    Full(usize),
}

/// Who wants to hear of which key. One subscription is a key and an IP address, with the address to reach it at.
#[derive(Clone, Debug, Default)]
pub struct WalletSubscriptions {
    config: WalletConfig,
    by_key: HashMap<String, BTreeMap<IpAddr, SocketAddr>>,
    /// Derived from `by_key`.
    by_peer: HashMap<IpAddr, BTreeSet<String>>,
    total: usize,
}

impl WalletSubscriptions {
    /// Nobody is subscribed.
    pub fn new(config: WalletConfig) -> Self {
        Self { config, ..Self::default() }
    }

    /// Subscribes the peer that is reached at `at` to a key.
    ///
    /// # Errors
    /// See [`SubscribeRefused`].
    pub fn subscribe(&mut self, key: &str, at: SocketAddr) -> Result<Subscribed, SubscribeRefused> {
        let at = canonical(at);
        let ip = at.ip();
        if key.is_empty() {
            return Err(SubscribeRefused::Empty);
        }
        if key.len() > self.config.max_key {
            return Err(SubscribeRefused::TooLong { size: key.len(), cap: self.config.max_key });
        }
        if let Some(known) = self.by_key.get_mut(key).and_then(|peers| peers.get_mut(&ip)) {
            *known = at;
            return Ok(Subscribed::Known);
        }
        let of_peer = self.by_peer.get(&ip).map_or(0, BTreeSet::len);
        if of_peer >= self.config.max_per_peer {
            return Err(SubscribeRefused::PeerFull(of_peer));
        }
        if self.total >= self.config.max_total {
            return Err(SubscribeRefused::Full(self.total));
        }
        self.by_key.entry(key.into()).or_default().insert(ip, at);
        self.by_peer.entry(ip).or_default().insert(key.into());
        self.total += 1;
        Ok(Subscribed::New)
    }

    /// Ends all subscriptions of a peer; how many that were.
    pub fn unsubscribe(&mut self, ip: IpAddr) -> usize {
        let ip = canonical_ip(ip);
        let Some(keys) = self.by_peer.remove(&ip) else { return 0 };
        for key in &keys {
            if let Some(peers) = self.by_key.get_mut(key) {
                peers.remove(&ip);
                if peers.is_empty() {
                    self.by_key.remove(key);
                }
            }
        }
        self.total -= keys.len();
        keys.len()
    }

    /// Where the peers are reached that are subscribed to any key that `concerns` says yes to; each once.
    ///
    /// # Cost
    /// O(n); `concerns` is asked once a key.
    pub fn reached_at(&self, concerns: impl Fn(&str) -> bool) -> Vec<SocketAddr> {
        let concerned = self.by_key.iter().filter(|(key, _)| concerns(key));
        let mut peers: BTreeMap<IpAddr, SocketAddr> = BTreeMap::new();
        for (_, subscribers) in concerned {
            peers.extend(subscribers.iter().map(|(ip, at)| (*ip, *at)));
        }
        peers.into_values().collect()
    }

    /// The keys somebody is subscribed to. Cost: O(n), a copy.
    pub fn keys(&self) -> Vec<String> {
        self.by_key.keys().cloned().collect()
    }

    /// How many subscriptions there are.
    pub fn len(&self) -> usize {
        self.total
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn subscribing_twice_is_one_subscription_at_the_newest_address() {
        let mut wallets = WalletSubscriptions::default();
        assert_eq!(wallets.subscribe("xpub1", addr("192.0.2.1:24100")), Ok(Subscribed::New));
        assert_eq!(wallets.subscribe("xpub1", addr("192.0.2.1:30000")), Ok(Subscribed::Known));
        assert_eq!(wallets.len(), 1);
        assert_eq!(wallets.reached_at(|_| true), [addr("192.0.2.1:30000")]);
    }

    #[test]
    fn short_and_strange_keys_are_keys() {
        let mut wallets = WalletSubscriptions::default();
        for key in ["x", "äöü", "xpub\u{0}"] {
            wallets.subscribe(key, addr("192.0.2.1:1")).unwrap();
        }
        assert_eq!(wallets.subscribe("", addr("192.0.2.1:1")), Err(SubscribeRefused::Empty));
        let long = "x".repeat(257);
        let refused = wallets.subscribe(&long, addr("192.0.2.1:1"));
        assert_eq!(refused, Err(SubscribeRefused::TooLong { size: 257, cap: 256 }));
    }

    #[test]
    fn only_those_concerned_are_reached_and_each_once() {
        let mut wallets = WalletSubscriptions::default();
        wallets.subscribe("a", addr("192.0.2.1:1")).unwrap();
        wallets.subscribe("b", addr("192.0.2.1:1")).unwrap();
        wallets.subscribe("b", addr("192.0.2.2:2")).unwrap();
        assert_eq!(wallets.reached_at(|key| key == "a"), [addr("192.0.2.1:1")]);
        assert_eq!(wallets.reached_at(|_| true), [addr("192.0.2.1:1"), addr("192.0.2.2:2")]);
    }

    #[test]
    fn unsubscribing_ends_all_of_a_peer_and_nothing_else() {
        let mut wallets = WalletSubscriptions::default();
        wallets.subscribe("a", addr("[::ffff:192.0.2.1]:1")).unwrap();
        wallets.subscribe("b", addr("192.0.2.1:1")).unwrap();
        wallets.subscribe("b", addr("192.0.2.2:2")).unwrap();
        assert_eq!(wallets.unsubscribe("192.0.2.1".parse().unwrap()), 2);
        assert_eq!(wallets.unsubscribe("192.0.2.1".parse().unwrap()), 0);
        assert_eq!((wallets.len(), wallets.keys()), (1, vec!["b".to_owned()]));
    }

    #[test]
    fn one_peer_cannot_fill_it_and_all_together_stay_bounded() {
        let config = WalletConfig { max_per_peer: 2, max_total: 3, ..WalletConfig::default() };
        let mut wallets = WalletSubscriptions::new(config);
        wallets.subscribe("a", addr("192.0.2.1:1")).unwrap();
        wallets.subscribe("b", addr("192.0.2.1:1")).unwrap();
        assert_eq!(wallets.subscribe("c", addr("192.0.2.1:1")), Err(SubscribeRefused::PeerFull(2)));
        wallets.subscribe("a", addr("192.0.2.2:1")).unwrap();
        assert_eq!(wallets.subscribe("a", addr("192.0.2.3:1")), Err(SubscribeRefused::Full(3)));
        wallets.unsubscribe("192.0.2.1".parse().unwrap());
        wallets.subscribe("a", addr("192.0.2.3:1")).unwrap();
    }
}
