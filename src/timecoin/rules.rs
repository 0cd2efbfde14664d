//! Whom a connection of the old network belongs to: one peer an IP address, since its handshake proves nothing and its ports are
//! borrowed.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::base::{Direction, Nonce, PeerId, canonical, canonical_ip};
use crate::node::{Identity, Rules};
use crate::wire::Hello;

use super::{NetworkType, PeerQuarantine};

/// The rules of the old network's dialect.
///
/// Of two connections between the same two nodes the one dialled by the smaller IP address survives, as it always did there:
/// the address stands in for the instance nonce that the handshake lacks.
#[derive(Clone, Debug)]
pub struct TimeCoinRules {
    network: NetworkType,
    public: SocketAddr,
    shared_host: bool,
    quarantine: Option<Arc<PeerQuarantine>>,
    everywhere: bool,
}

impl TimeCoinRules {
    /// The rules of a node that others reach at `public`.
    pub fn new(network: NetworkType, public: SocketAddr) -> Self {
        Self { network, public: canonical(public), shared_host: false, quarantine: None, everywhere: true }
    }

    /// Several nodes share an IP address and differ by the port they listen on: for tests and meshes on one host. A peer is then
    /// its IP address and the port it says it listens on.
    #[must_use]
    pub fn shared_host(self, shared: bool) -> Self {
        Self { shared_host: shared, ..self }
    }

    /// Whether an address of which nothing is known is dialled in this dialect. Default yes. Where another dialect is spoken
    /// too, that one is asked first if it comes first.
    #[must_use]
    pub fn everywhere(self, everywhere: bool) -> Self {
        Self { everywhere, ..self }
    }

    /// Addresses that are kept out by this quarantine are not dialled in this dialect of the node's own accord.
    #[must_use]
    pub fn quarantine(self, quarantine: Arc<PeerQuarantine>) -> Self {
        Self { quarantine: Some(quarantine), ..self }
    }

    /// The key of the peer at this address.
    pub fn key(&self, addr: SocketAddr) -> PeerId {
        if self.shared_host { PeerId::from_addr(addr) } else { self.network.key_of(addr.ip()) }
    }

    /// What stands for the process at this address.
    fn instance_of(&self, addr: SocketAddr) -> Nonce {
        let mut bytes = mapped(addr.ip()).octets();
        if self.shared_host {
            // Zero in every IPv4 address, and nobody shares a host in the others.
            let [high, low] = addr.port().to_be_bytes();
            bytes[0] ^= high;
            bytes[1] ^= low;
        }
        Nonce(bytes)
    }

    /// The address that a greeted connection belongs to. Where it was observed, not what was claimed: a claim proves nothing.
    /// Only on one host's loopback, where all are observed as one, the claim counts.
    fn address(&self, hello: &Hello, addr: SocketAddr, direction: Direction) -> SocketAddr {
        if direction == Direction::Outbound {
            return canonical(addr);
        }
        let claimed = hello.listen.map(canonical);
        let port = claimed.map_or(self.network.port(), |claimed| claimed.port());
        let ip = match claimed.map(|claimed| claimed.ip()) {
            Some(claimed) if claimed.is_loopback() && addr.ip().is_loopback() => claimed,
            _ => addr.ip(),
        };
        canonical(SocketAddr::new(ip, self.network.lasting_port(port)))
    }
}

impl Rules for TimeCoinRules {
    fn instance(&self) -> Option<Nonce> {
        Some(self.instance_of(self.public))
    }

    fn identify(&self, hello: &Hello, addr: SocketAddr, direction: Direction) -> Identity {
        let at = self.address(hello, addr, direction);
        Identity { key: Some(self.key(at)), instance: Some(self.instance_of(at)) }
    }

    fn dial_key(&self, addr: SocketAddr) -> PeerId {
        self.key(addr)
    }

    fn speaks_at(&self, addr: SocketAddr) -> bool {
        self.everywhere && self.quarantine.as_ref().is_none_or(|quarantine| !quarantine.holds(&addr.ip()))
    }

    /// An old node pings every 30 s, which shows that it lives; a ping of ours that it did not ask for would be taken for the
    /// answer to its next one.
    fn ping_after(&self) -> Duration {
        Duration::from_secs(60)
    }

    /// An old node reads one unasked frame every 30 s.
    fn write_stall(&self) -> Option<Duration> {
        Some(Duration::from_secs(300))
    }
}

fn mapped(ip: IpAddr) -> Ipv6Addr {
    match canonical_ip(ip) {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    fn hello(listen: &str) -> Hello {
        let mut hello = Hello::new(1, NetworkType::Testnet.id(), Nonce([0; 16]));
        hello.nonce = None;
        hello.listen = Some(listen.parse().unwrap());
        hello
    }

    fn rules(public: &str) -> TimeCoinRules {
        TimeCoinRules::new(NetworkType::Testnet, public.parse().unwrap())
    }

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_claimed_address_does_not_make_another_peer() {
        let rules = rules("192.0.2.1:24100");
        let seen = rules.identify(&hello("198.51.100.9:24100"), addr("192.0.2.7:50000"), Direction::Inbound);
        assert_eq!(seen.key, Some(NetworkType::Testnet.key_of("192.0.2.7".parse().unwrap())));
        let dialled = rules.identify(&hello("0.0.0.0:24100"), addr("192.0.2.7:24100"), Direction::Outbound);
        assert_eq!(dialled, seen);
        assert_eq!(rules.dial_key(addr("192.0.2.7:9")), seen.key.unwrap());
    }

    #[test]
    fn on_loopback_the_claim_tells_nodes_apart_but_nobody_claims_loopback_from_outside() {
        let rules = rules("127.0.0.2:24100");
        let local = rules.identify(&hello("127.0.0.3:24100"), addr("127.0.0.1:50000"), Direction::Inbound);
        assert_eq!(local.key, Some(NetworkType::Testnet.key_of("127.0.0.3".parse().unwrap())));
        let outside = rules.identify(&hello("127.0.0.2:24100"), addr("192.0.2.7:50000"), Direction::Inbound);
        assert_ne!(outside.instance, rules.instance());
    }

    #[test]
    fn our_own_address_is_our_own_instance() {
        let rules = rules("192.0.2.1:24100");
        let own = rules.identify(&hello("0.0.0.0:24100"), addr("192.0.2.1:24100"), Direction::Outbound);
        assert_eq!(own.instance, rules.instance());
    }

    #[test]
    fn the_smaller_ip_address_is_the_smaller_instance() {
        let (small, large) = (rules("9.0.0.1:1"), rules("10.0.0.1:1"));
        assert!(small.instance() < large.instance());
        assert!(rules("192.0.2.1:1").instance() < rules("[2001:db8::1]:1").instance());
    }

    #[test]
    fn on_a_shared_host_the_port_tells_nodes_apart() {
        let rules = rules("127.0.0.1:1000").shared_host(true);
        let one = rules.identify(&hello("127.0.0.1:1001"), addr("127.0.0.1:50000"), Direction::Inbound);
        let other = rules.identify(&hello("127.0.0.1:1002"), addr("127.0.0.1:50001"), Direction::Inbound);
        assert_ne!(one.key, other.key);
        assert_ne!(one.instance, other.instance);
        assert_eq!(one.key, Some(rules.dial_key(addr("127.0.0.1:1001"))));
    }

    #[tokio::test]
    async fn a_quarantined_address_is_not_spoken_to() {
        let quarantine = Arc::new(PeerQuarantine::new());
        let rules = rules("192.0.2.1:24100").quarantine(Arc::clone(&quarantine));
        assert!(rules.speaks_at(addr("192.0.2.7:24100")));
        let reason = super::super::QuarantineReason::ConnectionFailures { count: 9 };
        quarantine.quarantine_peer("192.0.2.7".parse().unwrap(), reason).await;
        assert!(!rules.speaks_at(addr("192.0.2.7:24100")));
    }
}
