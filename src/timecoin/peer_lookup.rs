//! Who a pooled peer is, in the old network's terms: an IP address and the port it listens on.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::address_book::WallTime;
use crate::base::{Direction, PeerId, Tick, canonical, canonical_ip};
use crate::node::{NodeRef, Peer, PeerPolicy as _};

use super::address_policy::AddressPolicy;
use super::peer_info::{millis_u32, unix_seconds};
use super::wire::PeerSoftware;
use super::{NetworkType, PeerInfo};

/// The dialect's name.
pub(super) const PROTOCOL_NAME: &str = "timecoin";
/// Among its capabilities, what tells a node of ours from an old one.
const PEERPOOL_CAPABILITY: &str = "peerpool";

/// Where a peer can be dialled, as far as we know: the address dialled, or the port it claims at the IP address it is known by.
pub(super) fn dial_addr(peer: &Peer, network: NetworkType) -> SocketAddr {
    if peer.direction() == Direction::Outbound {
        return peer.addr();
    }
    let listen = peer.read_info(|info| info.listen);
    if peer.connection().protocol() != PROTOCOL_NAME {
        return listen.unwrap_or(peer.addr());
    }
    let port = listen.map_or(network.port(), |listen| network.stable_port(listen.port()));
    SocketAddr::new(peer_ip_addr(peer), port)
}

/// What callers of the old manager know of a peer.
pub(super) fn peer_info(peer: &Peer, network: NetworkType, now: Tick) -> PeerInfo {
    let info = peer.info();
    let software = PeerSoftware::of(&info.app).unwrap_or_default();
    let last_seen = unix_seconds(WallTime::now()).saturating_sub(now.since(peer.last_seen()).as_secs());
    PeerInfo {
        last_seen,
        commit_date: software.commit_date,
        commit_count: software.commit_count,
        wallet_address: software.wallet_address,
        latency_ms: peer.rtt().map(millis_u32),
        ..PeerInfo::with_version(dial_addr(peer, network), network, info.agent.to_string())
    }
}

/// Whether this is a node of the old kind that has dialled us: it reads nothing but the answers to its own questions and pings.
pub(super) fn is_legacy_inbound(peer: &Peer) -> bool {
    peer.direction() == Direction::Inbound
        && peer.connection().protocol() == PROTOCOL_NAME
        && !runs_peerpool(peer)
}

/// Whether this is a node of ours, whatever it speaks.
pub(super) fn runs_peerpool(peer: &Peer) -> bool {
    peer.read_info(|info| advertises_peerpool(&info.app))
}

/// Whether a hello's application bytes are those of a node of ours.
pub(super) fn advertises_peerpool(app: &[u8]) -> bool {
    PeerSoftware::of(app)
        .is_some_and(|software| software.capabilities.iter().any(|c| c == PEERPOOL_CAPABILITY))
}

/// The live peer at an address: by its IP address, or, where several nodes share one, by the port it listens on too.
pub(super) fn peer_by_addr(node: &NodeRef, policy: &AddressPolicy, addr: SocketAddr) -> Option<Arc<Peer>> {
    let addr = canonical(addr);
    let key = policy.key_at(addr);
    if let Some(peer) = key.and_then(|key| node.peer(&key)) {
        return Some(peer);
    }
    let others = node.peers_at(addr.ip());
    let listens = |peer: &Peer| peer.addr() == addr || peer.read_info(|info| info.listen == Some(addr));
    let exact = others.iter().find(|peer| listens(peer)).cloned();
    // Without a port of its own in this network, whoever speaks another dialect there will do.
    exact.or_else(|| key.and_then(|_| known_by_ip(others, addr.ip())))
}

/// The live peer at an IP address, any one of several.
pub(super) fn peer_by_ip(node: &NodeRef, ip: IpAddr) -> Option<Arc<Peer>> {
    let ip = canonical_ip(ip);
    node.peer(&AddressPolicy::key_of_ip(ip)).or_else(|| known_by_ip(node.peers_at(ip), ip))
}

/// Observed at one address, peers may be known by others.
fn known_by_ip(peers: Vec<Arc<Peer>>, ip: IpAddr) -> Option<Arc<Peer>> {
    peers.into_iter().find(|peer| peer_ip_addr(peer) == ip)
}

/// The IP address that a peer is known by.
pub(super) fn peer_ip_addr(peer: &Peer) -> IpAddr {
    match peer.key() {
        PeerId::Addr(addr) => addr.ip(),
        PeerId::Key(_) => canonical_ip(peer.ip()),
    }
}
