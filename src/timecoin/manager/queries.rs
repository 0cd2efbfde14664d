//! Read access: this node, its live peers, and its known peers.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::address_book::{ReportedBy, WallTime};
use crate::node::{NodeStats, Peer};
use crate::pool::PoolStats;
use crate::timecoin::chain::ChainSource;
use crate::timecoin::exchange::PersistentPeerInfo;
use crate::timecoin::peer_info::millis_u32;
use crate::timecoin::peer_lookup::{dial_addr, is_legacy_inbound, peer_info, peer_ip_addr};
use crate::timecoin::wire::NetworkMessage;
use crate::timecoin::{PeerInfo, PeerQuarantine, RateLimitError, RateLimiter, UnifiedPeerConnection};

use super::PeerManager;
use super::error::{BadAddress, PeerRequestError};
use super::request::ToPeerAddr;
use super::responder::{chain_reply, peer_list};

/// This node.
impl PeerManager {
    /// The IP address that others reach us at, as text.
    pub async fn get_public_ip(&self) -> String {
        self.state().public.ip().to_string()
    }

    /// The identity of this node in the network: its IP address. Always `Some`; the legacy
    /// signature is kept.
    pub async fn get_node_id(&self) -> Option<String> {
        Some(self.get_public_ip().await)
    }

    /// Admits and counts a request, or refuses it; see [`RateLimiter`].
    ///
    /// # Errors
    /// See [`RateLimitError`].
    pub async fn check_rate_limit(&self, peer: IpAddr, bytes: u64) -> Result<(), RateLimitError> {
        self.state().limiter.check_rate_limit(peer, bytes).await
    }

    /// The rate limiter.
    pub fn rate_limiter(&self) -> Arc<RateLimiter> {
        Arc::clone(&self.state().limiter)
    }

    /// The quarantine. Quarantined peers are neither dialled nor accepted.
    pub fn quarantine(&self) -> Arc<PeerQuarantine> {
        Arc::clone(&self.state().quarantine)
    }

    /// The pool's statistics: total, healthy, stale, mean health, longest uptime, and more.
    ///
    /// # Cost
    /// One walk over the roster.
    pub async fn get_pool_stats(&self) -> PoolStats {
        self.node().stats().pool
    }

    /// The node's statistics, which include the pool's.
    ///
    /// # Cost
    /// One walk over the roster.
    pub fn stats(&self) -> NodeStats {
        self.node().stats()
    }
}

/// Live peers.
impl PeerManager {
    /// What is known of each live peer. Cost: a walk over the roster, one copy each.
    pub async fn get_connected_peers(&self) -> Vec<PeerInfo> {
        self.live_peers().iter().map(|peer| self.info_of(peer)).collect()
    }

    /// An alias of [`PeerManager::get_connected_peers`].
    pub async fn get_peers(&self) -> Vec<PeerInfo> {
        self.get_connected_peers().await
    }

    /// The distinct IP addresses of the live peers, as text.
    pub async fn get_peer_ips(&self) -> Vec<String> {
        let ips: std::collections::BTreeSet<IpAddr> =
            self.live_peers().iter().map(|peer| peer_ip_addr(peer)).collect();
        ips.into_iter().map(|ip| ip.to_string()).collect()
    }

    /// Number of live peers. Cost: one load.
    pub async fn active_peer_count(&self) -> usize {
        self.node().peer_count()
    }

    /// An alias of [`PeerManager::active_peer_count`].
    pub async fn peer_count(&self) -> usize {
        self.active_peer_count().await
    }

    /// The pool entry of the peer at this IP address.
    pub fn connection(&self, peer_ip: IpAddr) -> Option<UnifiedPeerConnection> {
        let peer = self.state().peer_by_ip(self.node(), peer_ip)?;
        Some(UnifiedPeerConnection::from_arc(peer, self.node(), self.network))
    }

    /// The pool entries of all live peers. Cost: a walk over the roster.
    pub fn connections(&self) -> Vec<UnifiedPeerConnection> {
        let unified = |peer| UnifiedPeerConnection::from_arc(peer, self.node(), self.network);
        self.live_peers().into_iter().map(unified).collect()
    }

    /// The peer list as sent in a reply, without excluding a requester.
    pub async fn handle_get_peer_list(&self) -> NetworkMessage {
        peer_list(self.state(), self.node(), None)
    }

    /// The reply of a [`ChainSource`] to a request from the peer at this IP address; `None` for no
    /// reply.
    ///
    /// # Errors
    /// [`PeerRequestError::NotConnected`].
    pub async fn handle_utxo_message(
        &self,
        message: &NetworkMessage,
        peer_ip: IpAddr,
        utxo_handler: &dyn ChainSource,
    ) -> Result<Option<NetworkMessage>, PeerRequestError> {
        let Some(peer) = self.state().peer_by_ip(self.node(), peer_ip) else {
            return Err(PeerRequestError::NotConnected(SocketAddr::new(peer_ip, self.network.port())));
        };
        let from = self.state().sender(&peer);
        Ok(chain_reply(utxo_handler, &from, message.clone()).await)
    }

    pub(super) fn live_peers(&self) -> Vec<Arc<Peer>> {
        self.node().roster().iter().filter(|peer| peer.is_live()).cloned().collect()
    }

    /// Live peers that take requests on their connection, in order of preference. Cost: O(n log n).
    pub(super) fn peers_taking_requests(&self) -> Vec<Arc<Peer>> {
        let mut peers = self.peers_by_preference();
        peers.retain(|peer| !is_legacy_inbound(peer));
        peers
    }

    /// Live peers in order of preference: those that take requests, then healthy ones, then the
    /// lowest round-trip time. Cost: O(n log n).
    pub(super) fn peers_by_preference(&self) -> Vec<Arc<Peer>> {
        let now = self.node().now();
        let mut peers = self.live_peers();
        peers.sort_by_cached_key(|peer| {
            (is_legacy_inbound(peer), !peer.is_healthy(now), peer.rtt().unwrap_or_default(), peer.id())
        });
        peers
    }

    fn info_of(&self, peer: &Peer) -> PeerInfo {
        let mut info = peer_info(peer, self.network, self.node().now());
        if let Some(known) = self.state().exchange.lock().get(info.address.ip()) {
            info.successful_connections = known.successful_connections;
            info.failed_connections = known.failed_connections;
        }
        info
    }
}

/// Known peers.
impl PeerManager {
    /// Remembers a peer to be dialled when one is needed. An ephemeral port becomes the standard
    /// one.
    ///
    /// # Errors
    /// [`BadAddress`].
    pub async fn add_discovered_peer(
        &self,
        address: impl ToPeerAddr,
        port: u16,
        version: String,
    ) -> Result<(), BadAddress> {
        let ip = address.to_peer_addr(port)?.ip();
        self.state().remember_peer(SocketAddr::new(ip, port), version, ReportedBy::Seed);
        Ok(())
    }

    /// Up to `count` peers to dial, best first; see [`PeerExchange::get_best_peers`].
    ///
    /// [`PeerExchange::get_best_peers`]: crate::timecoin::PeerExchange::get_best_peers
    pub async fn get_best_peers(&self, count: usize) -> Vec<PersistentPeerInfo> {
        let mut exchange = self.state().exchange.lock();
        for peer in self.node().roster().iter() {
            if let Some(rtt) = peer.rtt() {
                let millis = millis_u32(rtt);
                exchange.update_latency(peer_ip_addr(peer), millis);
            }
        }
        exchange.get_best_peers(count, WallTime::now())
    }

    /// Records a successful connection to an address. Returns `false` for an unknown address.
    pub async fn record_peer_success(&self, address: impl ToPeerAddr) -> bool {
        let addr = address.to_peer_addr(self.network.port());
        addr.is_ok_and(|addr| self.state().exchange.lock().record_success(addr.ip(), WallTime::now()))
    }

    /// Records a failed connection to an address. Returns `false` for an unknown address.
    pub async fn record_peer_failure(&self, address: impl ToPeerAddr) -> bool {
        let addr = address.to_peer_addr(self.network.port());
        addr.is_ok_and(|addr| self.state().exchange.lock().record_failure(addr.ip()))
    }

    /// Number of known peers, connected or not.
    pub async fn known_peer_count(&self) -> usize {
        self.state().exchange.lock().peer_count()
    }

    /// The listening address of the peer at this IP address: of its connection, or last known, or
    /// at the standard port.
    pub(super) fn last_known_addr(&self, ip: IpAddr) -> SocketAddr {
        if let Some(peer) = self.state().peer_by_ip(self.node(), ip) {
            return dial_addr(&peer, self.network);
        }
        let known = self.state().exchange.lock().get(ip).map(PersistentPeerInfo::addr);
        known.unwrap_or(SocketAddr::new(ip, self.network.port()))
    }
}
