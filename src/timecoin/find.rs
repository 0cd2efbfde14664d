//! Who a pooled peer is, in the old network's terms: an IP address and the port it listens on.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::base::{Direction, PeerId, Tick, canonical, canonical_ip};
use crate::book::WallTime;
use crate::node::{NodeRef, Peer, Rules as _};

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
    if peer.connection().dialect() != DIALECT {
        return listen.unwrap_or(peer.addr());
    }
    let ip = match peer.key() {
        PeerId::Addr(addr) => addr.ip(),
        PeerId::Key(_) => peer.ip(),
    };
    let port = listen.map_or(network.port(), |listen| network.lasting_port(listen.port()));
    SocketAddr::new(ip, port)
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
        ..PeerInfo::with_version(address_of(peer, network), network, info.agent.clone())
    }
}

/// Whether this is a node of the old kind that has dialled us: it reads nothing but the answers to its own questions and pings.
pub(super) fn is_old_dialler(peer: &Peer) -> bool {
    peer.direction() == Direction::Inbound
        && peer.connection().dialect() == DIALECT
        && !has_our_software(peer)
}

fn has_our_software(peer: &Peer) -> bool {
    let says = |app: &[u8]| {
        PeerSoftware::of(app).is_some_and(|software| software.capabilities.iter().any(|c| c == OURS))
    };
    peer.read_info(|info| says(&info.app))
}

/// The live peer at an IP address; of several the one that listens at this port, else any.
pub(super) fn peer_at(node: &NodeRef, rules: &AddressRules, addr: SocketAddr) -> Option<Arc<Peer>> {
    let addr = canonical(addr);
    if let Some(peer) = rules.key_at(addr).and_then(|key| node.peer(&key)) {
        return Some(peer);
    }
    let mut others = node.peers_at(addr.ip());
    let exact = others.iter().position(|peer| {
        peer.addr() == addr || peer.read_info(|info| info.listen.is_some_and(|listen| listen == addr))
    });
    match exact {
        Some(at) => Some(others.swap_remove(at)),
        // Observed as one address, several peers may be others: only those that are known by none but this one count.
        None => others.into_iter().find(|peer| ip_of(peer) == addr.ip()),
    }
}

/// The IP address that a peer is known by.
pub(super) fn ip_of(peer: &Peer) -> IpAddr {
    match peer.key() {
        PeerId::Addr(addr) => addr.ip(),
        PeerId::Key(_) => canonical_ip(peer.ip()),
    }
}
