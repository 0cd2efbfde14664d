//! Who a pooled peer is, in the old network's terms: an IP address and the port it listens on.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::address_book::WallTime;
use crate::base::{Direction, PeerId, Tick, canonical, canonical_ip};
use crate::node::{NodeRef, Peer, PeerPolicy as _};

use super::info::{unix_seconds, whole_millis};
use super::rules::AddressRules;
use super::wire::PeerSoftware;
use super::{NetworkType, PeerInfo};

/// The dialect's name.
pub(super) const DIALECT: &str = "timecoin";
/// Among its capabilities, what tells a node of ours from an old one.
const OURS: &str = "peerpool";

/// Where a peer can be dialled, as far as we know: the address dialled, or the port it claims at the IP address it is known by.
pub(super) fn address_of(peer: &Peer, network: NetworkType) -> SocketAddr {
    if peer.direction() == Direction::Outbound {
        return peer.addr();
    }
    let listen = peer.read_info(|info| info.listen);
    if peer.connection().protocol() != DIALECT {
        return listen.unwrap_or(peer.addr());
    }
    let port = listen.map_or(network.port(), |listen| network.lasting_port(listen.port()));
    SocketAddr::new(ip_of(peer), port)
}

/// What callers of the old manager know of a peer.
pub(super) fn info_of(peer: &Peer, network: NetworkType, now: Tick) -> PeerInfo {
    let info = peer.info();
    let software = PeerSoftware::of(&info.app).unwrap_or_default();
    let last_seen = unix_seconds(WallTime::now()).saturating_sub(now.since(peer.last_seen()).as_secs());
    PeerInfo {
        last_seen,
        commit_date: software.commit_date,
        commit_count: software.commit_count,
        wallet_address: software.wallet_address,
        latency_ms: peer.rtt().map(whole_millis),
        ..PeerInfo::with_version(address_of(peer, network), network, info.agent.to_string())
    }
}

/// Whether this is a node of the old kind that has dialled us: it reads nothing but the answers to its own questions and pings.
pub(super) fn is_old_dialler(peer: &Peer) -> bool {
    peer.direction() == Direction::Inbound
        && peer.connection().protocol() == DIALECT
        && !has_our_software(peer)
}

/// Whether this is a node of ours, whatever it speaks.
pub(super) fn has_our_software(peer: &Peer) -> bool {
    peer.read_info(|info| is_ours(&info.app))
}

/// Whether a hello's application bytes are those of a node of ours.
pub(super) fn is_ours(app: &[u8]) -> bool {
    PeerSoftware::of(app).is_some_and(|software| software.capabilities.iter().any(|c| c == OURS))
}

/// The live peer at an address: by its IP address, or, where several nodes share one, by the port it listens on too.
pub(super) fn peer_at(node: &NodeRef, rules: &AddressRules, addr: SocketAddr) -> Option<Arc<Peer>> {
    let addr = canonical(addr);
    let key = rules.key_at(addr);
    if let Some(peer) = key.and_then(|key| node.peer(&key)) {
        return Some(peer);
    }
    let others = node.peers_at(addr.ip());
    let listens = |peer: &Peer| peer.addr() == addr || peer.read_info(|info| info.listen == Some(addr));
    let exact = others.iter().find(|peer| listens(peer)).cloned();
    // Without a port of its own in this network, whoever speaks another dialect there will do.
    exact.or_else(|| key.and_then(|_| any_of(others, addr.ip())))
}

/// The live peer at an IP address, any one of several.
pub(super) fn peer_of(node: &NodeRef, ip: IpAddr) -> Option<Arc<Peer>> {
    let ip = canonical_ip(ip);
    node.peer(&AddressRules::key(ip)).or_else(|| any_of(node.peers_at(ip), ip))
}

/// Observed at one address, peers may be known by others.
fn any_of(peers: Vec<Arc<Peer>>, ip: IpAddr) -> Option<Arc<Peer>> {
    peers.into_iter().find(|peer| ip_of(peer) == ip)
}

/// The IP address that a peer is known by.
pub(super) fn ip_of(peer: &Peer) -> IpAddr {
    match peer.key() {
        PeerId::Addr(addr) => addr.ip(),
        PeerId::Key(_) => canonical_ip(peer.ip()),
    }
}
