//! Identifies the peers of this network, and states what they support.
//!
//! The handshake has no nonce, so the address is the identity. Of two connections between the same
//! two addresses, the one dialled by the smaller address survives. Legacy nodes apply the same
//! rule.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::base::{Direction, Nonce, PeerId, canonical};
use crate::node::{Identity, PeerCapabilities, PeerPolicy};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::wire::Hello;

use super::one_shot_lock::OneShotLocks;
use super::peer_lookup::advertises_peerpool;
use super::quarantine::PeerQuarantine;
use super::wire::NetworkType;

/// Legacy nodes ping every 30 s, which shows that they live. They also take a ping that they did
/// not expect for the reply to their own, so they are pinged late.
const DEFAULT_PING_AFTER: Duration = Duration::from_secs(60);

/// A third of the time after which a legacy acceptor stops reading.
const MAX_OWN_SILENCE: Duration = Duration::from_secs(20);

/// The [`PeerPolicy`] of this network, for a [`ProtocolConfig`](crate::node::ProtocolConfig) of
/// [`TimeCoin`](super::wire::TimeCoin).
///
/// A peer's key is its IP address with port 0, so ports are not distinguished
/// ([`AddressPolicy::key_of_ip`]). An inbound peer is identified by the address that its connection
/// comes from. A loopback address proves nothing: then the peer is identified by the loopback
/// address that it announces, so that nodes on one machine can have an address each.
#[derive(Clone, Debug)]
pub struct AddressPolicy {
    public: SocketAddr,
    port: u16,
    distinguish_ports: bool,
    /// In milliseconds, shared by clones. Relaxed: a hint.
    ping_after: Arc<AtomicU64>,
    write_stall_timeout: Duration,
    /// The node does not dial quarantined addresses by itself.
    quarantine: Option<Arc<PeerQuarantine>>,
    /// Nor addresses that are being asked over a one-shot connection.
    one_shot_locks: Option<Arc<OneShotLocks>>,
}

impl AddressPolicy {
    /// The policy of a node that peers reach at `public`.
    ///
    /// - Peers are pinged after 60 s of silence: legacy nodes ping every 30 s, and take an
    ///   unexpected frame for the reply to their own ping.
    /// - A peer may accept no byte for 300 s: a legacy node reads one unrequested frame in 30 s.
    pub fn new(network: NetworkType, public: SocketAddr) -> Self {
        Self {
            public: canonical(public),
            port: network.port(),
            distinguish_ports: false,
            ping_after: Arc::new(AtomicU64::new(DEFAULT_PING_AFTER.as_millis() as u64)),
            write_stall_timeout: Duration::from_secs(300),
            quarantine: None,
            one_shot_locks: None,
        }
    }

    /// Excludes addresses from dialling that are being asked over a one-shot connection.
    pub(super) fn with_one_shot_locks(mut self, one_shot_locks: Arc<OneShotLocks>) -> Self {
        self.one_shot_locks = Some(one_shot_locks);
        self
    }

    /// The one-shot lock of an address: the peer's key, or the address where ports are
    /// distinguished.
    pub(super) fn lock_key(&self, addr: SocketAddr) -> PeerId {
        self.key_at(addr).unwrap_or_else(|| PeerId::from_addr(addr))
    }

    /// Excludes quarantined addresses from dialling.
    pub(super) fn with_quarantine(mut self, quarantine: Arc<PeerQuarantine>) -> Self {
        self.quarantine = Some(quarantine);
        self
    }

    /// Identifies nodes by address and port, so that several can share an IP address. Legacy nodes
    /// do not support this.
    #[must_use]
    pub fn distinguish_ports(mut self) -> Self {
        self.distinguish_ports = true;
        self
    }

    /// Sets how long a peer must be silent before it is pinged.
    #[must_use]
    pub fn ping_after(self, silence: Duration) -> Self {
        let millis = u64::try_from(silence.as_millis()).unwrap_or(u64::MAX);
        self.ping_after.store(millis, Ordering::Relaxed);
        self
    }

    /// Shortens the silence before a ping so that a reply can arrive before the peer is stale.
    /// Never longer than the default. Applies to all clones, including those in a running node.
    pub(super) fn ping_before_stale(&self, stale_after: Duration) {
        self.ping_after.store(DEFAULT_PING_AFTER.min(stale_after / 4).as_millis() as u64, Ordering::Relaxed);
    }

    /// Sets how long a peer may accept no byte.
    #[must_use]
    pub fn write_stall_timeout(mut self, stall: Duration) -> Self {
        self.write_stall_timeout = stall;
        self
    }

    /// The key of the peer at an IP address.
    pub fn key_of_ip(ip: IpAddr) -> PeerId {
        PeerId::from_addr(SocketAddr::new(ip, 0))
    }

    fn identified_addr(&self, hello: &Hello, addr: SocketAddr, direction: Direction) -> SocketAddr {
        let Some(claimed) = hello.listen.filter(|_| direction == Direction::Inbound) else { return addr };
        let claimed = canonical(claimed);
        let proves_nothing = addr.ip().is_loopback() && claimed.ip().is_loopback();
        SocketAddr::new(if proves_nothing { claimed.ip() } else { addr.ip() }, claimed.port())
    }

    fn instance_at(&self, addr: SocketAddr) -> Nonce {
        let ip = match addr.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let mut bytes = ip.octets();
        if self.distinguish_ports {
            // A mapped IPv4 address begins with zeros, so the port replaces nothing. Of an IPv6
            // address the interface identifier and the rest of the prefix stay.
            bytes[..2].copy_from_slice(&addr.port().to_be_bytes());
        }
        Nonce(bytes)
    }
}

impl PeerPolicy for AddressPolicy {
    fn instance(&self) -> Option<Nonce> {
        Some(self.instance_at(self.public))
    }

    fn identify(&self, hello: &Hello, addr: SocketAddr, direction: Direction) -> Identity {
        let addr = self.identified_addr(hello, addr, direction);
        let key = (!self.distinguish_ports).then(|| Self::key_of_ip(addr.ip()));
        Identity { key, instance: Some(self.instance_at(addr)) }
    }

    fn key_at(&self, addr: SocketAddr) -> Option<PeerId> {
        (!self.distinguish_ports).then(|| Self::key_of_ip(addr.ip()))
    }

    fn capabilities(&self, hello: &Hello, direction: Direction) -> PeerCapabilities {
        let peerpool = advertises_peerpool(&hello.app);
        // A legacy node that dials for one request takes the first frame for its reply, and no
        // legacy node understands a refusal.
        PeerCapabilities { rejections: peerpool, initial_state: peerpool || direction == Direction::Outbound }
    }

    fn matches_addr(&self, addr: SocketAddr) -> bool {
        addr.port() == self.port
    }

    fn may_dial(&self, addr: SocketAddr) -> bool {
        !self.quarantine.as_ref().is_some_and(|quarantine| quarantine.contains(&addr.ip()))
            && !self.one_shot_locks.as_ref().is_some_and(|locks| locks.is_locked(&self.lock_key(addr)))
    }

    fn ping_after(&self) -> Duration {
        Duration::from_millis(self.ping_after.load(Ordering::Relaxed))
    }

    /// A legacy acceptor stops reading for good after 60 s without a frame from us, whatever it
    /// sends itself. A legacy dialler must not be sent what it did not ask for.
    fn max_own_silence(&self, direction: Direction) -> Option<Duration> {
        (direction == Direction::Outbound).then_some(MAX_OWN_SILENCE)
    }

    fn write_stall_timeout(&self) -> Option<Duration> {
        Some(self.write_stall_timeout)
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn hello(listen: &str) -> Hello {
        Hello { nonce: None, listen: Some(at(listen)), ..Hello::new(1, 0, Nonce([0; 16])) }
    }

    fn policy() -> AddressPolicy {
        AddressPolicy::new(NetworkType::Testnet, at("192.0.2.9:24100"))
    }

    fn key(policy: &AddressPolicy, listen: &str, from: &str, direction: Direction) -> Option<PeerId> {
        policy.identify(&hello(listen), at(from), direction).key
    }

    #[test]
    fn a_peer_is_identified_by_its_ip_address() {
        let policy = policy();
        let known = Some(AddressPolicy::key_of_ip(at("192.0.2.1:0").ip()));
        assert_eq!(key(&policy, "198.51.100.1:24100", "192.0.2.1:50000", Direction::Inbound), known);
        assert_eq!(key(&policy, "0.0.0.0:24100", "192.0.2.1:24100", Direction::Outbound), known);
        assert_eq!(key(&policy, "0.0.0.0:1", "[::ffff:192.0.2.1]:7", Direction::Inbound), known);
        assert_eq!(policy.key_at(at("192.0.2.1:24100")), known);
    }

    #[test]
    fn on_loopback_the_announced_address_identifies_a_peer() {
        let policy = policy();
        let of = |last| Some(AddressPolicy::key_of_ip(IpAddr::from([127, 0, 0, last])));
        assert_eq!(key(&policy, "127.0.0.3:24100", "127.0.0.1:50000", Direction::Inbound), of(3));
        assert_eq!(key(&policy, "192.0.2.7:24100", "127.0.0.1:50000", Direction::Inbound), of(1));
        assert_eq!(key(&policy, "127.0.0.3:24100", "127.0.0.2:24100", Direction::Outbound), of(2));
    }

    #[test]
    fn both_ends_compute_the_same_instances() {
        let (a, b) = (at("127.0.0.2:24100"), at("127.0.0.3:24100"));
        for several in [false, true] {
            let of = |addr| {
                let policy = AddressPolicy::new(NetworkType::Testnet, addr);
                if several { policy.distinguish_ports() } else { policy }
            };
            let (at_a, at_b) = (of(a), of(b));
            // A dials B: B observes an ephemeral port of the loopback address, and A's announced
            // address.
            let seen_by_b =
                at_b.identify(&hello("127.0.0.2:24100"), at("127.0.0.1:50000"), Direction::Inbound);
            let seen_by_a = at_a.identify(&hello("127.0.0.3:24100"), b, Direction::Outbound);
            assert_eq!(seen_by_b.instance, at_a.instance());
            assert_eq!(seen_by_a.instance, at_b.instance());
            assert_ne!(at_a.instance(), at_b.instance());
        }
    }

    #[test]
    fn peers_on_one_ip_can_be_distinguished_by_port() {
        let of = |port| {
            let addr = SocketAddr::from(([127, 0, 0, 1], port));
            AddressPolicy::new(NetworkType::Testnet, addr).distinguish_ports().instance()
        };
        assert_ne!(of(1), of(2));
    }
}
