//! Looking up pooled peers, and reading their identity, in this network's terms: an IP address and
//! a listening port.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::address_book::WallTime;
use crate::base::{Direction, PeerId, Tick, canonical, canonical_ip};
use crate::node::{NodeRef, Peer, PeerPolicy as _};

use super::address_policy::AddressPolicy;
use super::peer_info::{millis_u32, unix_seconds};
use super::wire::PeerSoftware;
use super::{NetworkType, PeerInfo};

/// The protocol's name.
pub(super) const PROTOCOL_NAME: &str = "timecoin";
/// The capability that distinguishes a peerpool node from a legacy node.
const PEERPOOL_CAPABILITY: &str = "peerpool";

/// The address to dial a peer at, as far as known: the one dialled, or the port it announces at its
/// identified IP address.
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

/// What [`PeerInfo`] says of a pooled peer.
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

/// Whether a legacy node dialled us. It then reads only replies to its own requests and pings.
pub(super) fn is_legacy_inbound(peer: &Peer) -> bool {
    peer.direction() == Direction::Inbound
        && peer.connection().protocol() == PROTOCOL_NAME
        && !runs_peerpool(peer)
}

/// Whether this is a peerpool node, in any protocol.
pub(super) fn runs_peerpool(peer: &Peer) -> bool {
    peer.read_info(|info| advertises_peerpool(&info.app))
}

/// Whether a hello's application bytes are those of a peerpool node.
pub(super) fn advertises_peerpool(app: &[u8]) -> bool {
    PeerSoftware::of(app)
        .is_some_and(|software| software.capabilities.iter().any(|c| c == PEERPOOL_CAPABILITY))
}

/// The live peer at an address: by IP address, or also by listening port where several nodes share
/// one IP address.
pub(super) fn peer_by_addr(node: &NodeRef, policy: &AddressPolicy, addr: SocketAddr) -> Option<Arc<Peer>> {
    let addr = canonical(addr);
    let key = policy.key_at(addr);
    if let Some(peer) = key.and_then(|key| node.peer(&key)) {
        return Some(peer);
    }
    let others = node.peers_at(addr.ip());
    let listens = |peer: &Peer| peer.addr() == addr || peer.read_info(|info| info.listen == Some(addr));
    let exact = others.iter().find(|peer| listens(peer)).cloned();
    // A peer that speaks another protocol at this IP address has no port in this network.
    exact.or_else(|| key.and_then(|_| known_by_ip(others, addr.ip())))
}

/// A live peer at an IP address.
pub(super) fn peer_by_ip(node: &NodeRef, ip: IpAddr) -> Option<Arc<Peer>> {
    let ip = canonical_ip(ip);
    node.peer(&AddressPolicy::key_of_ip(ip)).or_else(|| known_by_ip(node.peers_at(ip), ip))
}

/// Peers observed at one IP address may be identified by others.
fn known_by_ip(peers: Vec<Arc<Peer>>, ip: IpAddr) -> Option<Arc<Peer>> {
    peers.into_iter().find(|peer| peer_ip_addr(peer) == ip)
}

/// The IP address that identifies a peer.
pub(super) fn peer_ip_addr(peer: &Peer) -> IpAddr {
    match peer.key() {
        PeerId::Addr(addr) => addr.ip(),
        PeerId::Key(_) => canonical_ip(peer.ip()),
    }
}
