//! The addresses that peers are told when they ask.
//!
//! Invariant: `told_addresses_fit_the_listener`.
//! - Statement: a peer is told addresses that it can use. However many connections ask, the book is
//!   read once a second at most, and once in ten minutes if it is large; a source that asks again
//!   gets the same addresses.
//! - Enforced by: one sample for all. What a source gets is a slice of it that depends on the
//!   source and a secret of this node.
//! - Breaks if: an answer reads the book.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::address_book::{AddressBook, WallTime};
use crate::base::{Scope, Source, Tick};
use crate::node::config::DiscoveryConfig;
use crate::node::protocol::ProtocolId;
use crate::sync::Mutex;

use super::seen_set::SeenSet;

/// How long a sample is kept. Who asks from many sources learns no more of the book within this
/// time.
const KEPT_FOR: Duration = Duration::from_secs(600);
/// How long a small one is kept: a young node learns much in a second.
const SMALL_KEPT_FOR: Duration = Duration::from_secs(1);
/// Up to this many addresses a sample is small.
const SMALL: usize = 64;
/// The part of the book that a sample is.
const BOOK_DIVISOR: usize = 4;

/// The present sample.
#[derive(Debug, Default)]
pub(crate) struct AddrSample(Mutex<Sample>);

#[derive(Debug, Default)]
struct Sample {
    made_at: Option<Tick>,
    addrs: Arc<[(SocketAddr, ProtocolId)]>,
}

/// A peer that asks for addresses.
pub(crate) struct Asker {
    pub(crate) ip: IpAddr,
    pub(crate) protocol: ProtocolId,
}

impl AddrSample {
    /// Up to `max` addresses for a peer: in its protocol, and in a scope that it can use.
    ///
    /// # Cost
    /// A walk over the sample. At most once a second also a walk over the book, under its lock.
    pub(crate) fn for_peer(
        &self,
        asker: &Asker,
        max: usize,
        config: &DiscoveryConfig,
        book: &AddressBook,
        secret: &SeenSet,
        (now, protocol_of): (Tick, impl Fn(SocketAddr) -> ProtocolId),
    ) -> Vec<SocketAddr> {
        let sample = self.current(book, now, protocol_of);
        let usable = |(addr, protocol): &&(SocketAddr, ProtocolId)| {
            *protocol == asker.protocol && config.may_tell(asker.ip, addr.ip())
        };
        // The source decides where its slice begins.
        let digest = secret.digest(0, Source::of(asker.ip).to_string().as_bytes());
        let begin = digest.index_below(sample.len().max(1));
        let (before, behind) = sample.split_at(begin.min(sample.len()));
        behind.iter().chain(before).filter(usable).take(max).map(|(addr, _)| *addr).collect()
    }

    fn current(
        &self,
        book: &AddressBook,
        now: Tick,
        protocol_of: impl Fn(SocketAddr) -> ProtocolId,
    ) -> Arc<[(SocketAddr, ProtocolId)]> {
        let mut sample = self.0.lock();
        let kept_for = if sample.addrs.len() <= SMALL { SMALL_KEPT_FOR } else { KEPT_FOR };
        if sample.made_at.is_none_or(|made| now.since(made) >= kept_for) {
            let size = (book.len() / BOOK_DIVISOR).max(SMALL);
            let addrs = book.sample(WallTime::now(), size);
            sample.addrs = addrs.into_iter().map(|addr| (addr, protocol_of(addr))).collect();
            sample.made_at = Some(now);
        }
        Arc::clone(&sample.addrs)
    }
}

impl DiscoveryConfig {
    /// Whether an address may be told to a peer, or believed from it: a public one always, others
    /// within one network of the operator, or where private ones are allowed to those in whose
    /// scope they are.
    pub(crate) fn may_tell(&self, peer: IpAddr, addr: IpAddr) -> bool {
        let scope = Scope::of(addr);
        let is_shared = || self.private_networks.iter().any(|net| net.contains(peer) && net.contains(addr));
        match scope {
            Scope::Public => true,
            Scope::Special => false,
            _ => is_shared() || (self.allow_private && Scope::of(peer).may_use(scope)),
        }
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;
    use crate::address_book::{AddressBookConfig, DialOutcome, ReportedBy};

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn private_addresses_stay_within_the_networks_of_the_operator() {
        let strict = DiscoveryConfig { private_networks: vec!["10.0.0.0/8".parse().unwrap()], ..DiscoveryConfig::recommended() };
        assert!(strict.may_tell(ip("9.9.9.9"), ip("8.8.8.8")));
        assert!(strict.may_tell(ip("10.0.0.1"), ip("10.2.0.1")));
        assert!(!strict.may_tell(ip("9.9.9.9"), ip("10.2.0.1")), "a public peer");
        assert!(!strict.may_tell(ip("192.168.0.1"), ip("192.168.0.2")), "another network");
        assert!(!strict.may_tell(ip("127.0.0.1"), ip("127.0.0.1")));
        for special in ["64:ff9b::1", "2002::1", "::1.2.3.4", "192.0.2.1", "198.18.0.1", "2001:db8::1"] {
            assert!(!DiscoveryConfig::local().may_tell(ip("127.0.0.1"), ip(special)), "{special}");
        }
    }

    #[test]
    fn where_private_addresses_are_allowed_they_stay_in_their_scope() {
        let local = DiscoveryConfig::local();
        assert!(local.may_tell(ip("127.0.0.1"), ip("127.0.0.1")));
        assert!(local.may_tell(ip("192.168.0.1"), ip("10.0.0.1")));
        assert!(!local.may_tell(ip("9.9.9.9"), ip("10.0.0.1")));
        assert!(!local.may_tell(ip("192.168.0.1"), ip("127.0.0.1")));
        assert!(!local.may_tell(ip("192.168.0.1"), ip("169.254.0.1")));
    }

    #[test]
    fn a_source_gets_the_same_slice_of_one_sample_for_ten_minutes() {
        let book = AddressBook::in_memory(AddressBookConfig {
            max_per_source: std::num::NonZeroUsize::MAX,
            ..AddressBookConfig::default()
        });
        for n in 0..4_000u16 {
            let addr = SocketAddr::from(([20, 1, (n >> 8) as u8, n as u8], 9));
            book.add(addr, ReportedBy::Operator, WallTime::now()).unwrap();
            book.record(&addr, DialOutcome::Connected, WallTime::now());
        }
        let (sample, secret, config) = (AddrSample::default(), SeenSet::new((1, 2)), DiscoveryConfig::recommended());
        let ask = |from: [u8; 4], at: u64| {
            let asker = Asker { ip: from.into(), protocol: ProtocolId::FIRST };
            let now = (Tick::from_millis(at), |_| ProtocolId::FIRST);
            sample.for_peer(&asker, 100, &config, &book, &secret, now)
        };
        let first = ask([9, 9, 9, 9], 0);
        assert_eq!(first.len(), 100);
        assert_eq!(ask([9, 9, 9, 9], 599_000), first);
        // All sources together learn a quarter of the book.
        let all: std::collections::HashSet<_> =
            (0..2_000u16).flat_map(|n| ask([30, 0, (n >> 8) as u8, n as u8], 1_000)).collect();
        assert!((500..=1_000).contains(&all.len()), "{}", all.len());
        assert_ne!(ask([9, 9, 9, 9], 600_000), first);
    }
}
