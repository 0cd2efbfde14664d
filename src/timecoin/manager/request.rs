//! Sending a request to one peer, over its connection or over a one-shot connection.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::base::{canonical, canonical_ip};
use crate::connection::RequestError;
use crate::node::{Peer, WeakNode};
use crate::pool::Misbehavior;
use crate::timecoin::connection::{ConnectionError, PeerConnection};
use crate::timecoin::peer_lookup::{
    PROTOCOL_NAME, dial_addr, is_legacy_inbound, peer_ip_addr, runs_peerpool,
};
use crate::timecoin::wire::{Kind, NetworkMessage};

use super::PeerManager;
use super::broadcast::{to_message, with_one_shot};
use super::error::{BadAddress, PeerRequestError};
use super::requests::PEER_LIST_TIMEOUT;
use super::state::State;

/// A value that names a peer: a socket address, an IP address (with the standard port), or either
/// as text. IPv6 with a port stands in brackets.
pub trait ToPeerAddr {
    /// The address, with `port` if the value has none.
    ///
    /// # Errors
    /// [`BadAddress`].
    fn to_peer_addr(&self, port: u16) -> Result<SocketAddr, BadAddress>;
}

impl ToPeerAddr for SocketAddr {
    fn to_peer_addr(&self, _: u16) -> Result<SocketAddr, BadAddress> {
        Ok(canonical(*self))
    }
}

impl ToPeerAddr for IpAddr {
    fn to_peer_addr(&self, port: u16) -> Result<SocketAddr, BadAddress> {
        Ok(SocketAddr::new(canonical_ip(*self), port))
    }
}

impl ToPeerAddr for &str {
    fn to_peer_addr(&self, port: u16) -> Result<SocketAddr, BadAddress> {
        if let Ok(addr) = self.parse::<SocketAddr>() {
            return addr.to_peer_addr(port);
        }
        let ip = self.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(self);
        ip.parse::<IpAddr>().map_err(|_| BadAddress { text: truncated(self) })?.to_peer_addr(port)
    }
}

impl ToPeerAddr for String {
    fn to_peer_addr(&self, port: u16) -> Result<SocketAddr, BadAddress> {
        self.as_str().to_peer_addr(port)
    }
}

impl<T: ToPeerAddr> ToPeerAddr for &T {
    fn to_peer_addr(&self, port: u16) -> Result<SocketAddr, BadAddress> {
        (**self).to_peer_addr(port)
    }
}

fn truncated(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Sends a request over a peer's connection. The caller updates the peer's health.
pub(super) async fn request_over(
    peer: &Peer,
    request: &NetworkMessage,
    time_limit: Duration,
) -> Result<NetworkMessage, PeerRequestError> {
    let reply = peer.connection().handle().request(to_message(request)?, time_limit).await?;
    Ok(NetworkMessage::decode(&reply)?)
}

/// Asks a peer for its peers and remembers them. Returns how many were new.
pub(super) async fn request_peers_from(state: Arc<State>, node: WeakNode, peer: Arc<Peer>) -> usize {
    let reply = request_over(&peer, &NetworkMessage::GetPeerList, PEER_LIST_TIMEOUT).await;
    let Ok(NetworkMessage::PeerList(peers)) = reply else {
        // No fault: on a legacy node that was dialled, possibly nothing reads.
        tracing::debug!(peer = %peer.key(), "no peer list received");
        return 0;
    };
    let from = peer_ip_addr(&peer);
    let new = state.learn_peers(&peers, from);
    if let Some(node) = node.upgrade() {
        peer.reward(node.now());
    }
    tracing::debug!(peer = %from, new, "peer list received");
    new
}

/// Requests of any kind.
impl PeerManager {
    /// Sends a request and waits for its reply, at most `timeout_secs` seconds. Never returns
    /// `Ok(None)`: a missing reply is an error.
    ///
    /// The request goes over the peer's connection. It goes over a one-shot connection if
    ///
    /// - there is no connection,
    /// - the connection cannot take the request now, or
    /// - a legacy node dialled us and so takes no requests on the connection.
    ///
    /// # Errors
    /// See [`PeerRequestError`].
    ///
    /// # Cancel safety
    /// Dropping the future abandons the request; a late reply reaches [`ChainSource::on_message`].
    ///
    /// [`ChainSource::on_message`]: crate::timecoin::ChainSource::on_message
    pub async fn send_message_to_peer_with_response(
        &self,
        peer_addr: SocketAddr,
        message: NetworkMessage,
        timeout_secs: u64,
    ) -> Result<Option<NetworkMessage>, PeerRequestError> {
        self.request(peer_addr, message, Duration::from_secs(timeout_secs)).await.map(Some)
    }

    /// [`PeerManager::send_message_to_peer_with_response`] with an address in any form and a
    /// [`Duration`].
    ///
    /// # Errors
    /// See [`PeerRequestError`].
    ///
    /// # Cancel safety
    /// As for [`PeerManager::send_message_to_peer_with_response`].
    pub async fn request(
        &self,
        peer_addr: impl ToPeerAddr,
        request: NetworkMessage,
        time_limit: Duration,
    ) -> Result<NetworkMessage, PeerRequestError> {
        let kind = request.kind();
        if kind.request_slot().is_none() {
            return Err(PeerRequestError::NotARequest(kind));
        }
        let addr = peer_addr.to_peer_addr(self.network.port())?;
        match self.state().peer_by_addr(self.node(), addr) {
            Some(peer) => self.request_from_peer(&peer, request, time_limit).await,
            None if self.allows_one_shots() => self.request_one_shot(addr, request, time_limit).await,
            None => Err(PeerRequestError::NotConnected(addr)),
        }
    }

    /// Whether requests may use one-shot connections.
    fn allows_one_shots(&self) -> bool {
        self.state().config.max_one_shots > 0
    }

    /// Sends a request over the peer's connection, or over a one-shot connection.
    ///
    /// A legacy node keeps one connection for each address. If its address is smaller than ours, it
    /// drops the second connection. Otherwise the second replaces the first, and ends after the
    /// request. So a one-shot connection is opened only where the first is of no use: it cannot
    /// take the request now, or the peer dialled it and takes no requests there.
    pub(super) async fn request_from_peer(
        &self,
        peer: &Arc<Peer>,
        request: NetworkMessage,
        time_limit: Duration,
    ) -> Result<NetworkMessage, PeerRequestError> {
        let kind = request.kind();
        let started = Instant::now();
        let left = || time_limit.saturating_sub(started.elapsed());
        // The listening address, not the requested one: that may lack a port, or name an ephemeral
        // one.
        let listens = dial_addr(peer, self.network);
        let takes_no_requests = self.allows_one_shots() && is_legacy_inbound(peer);
        if takes_no_requests {
            match self.request_one_shot(listens, request.clone(), left()).await {
                // The peer cannot be dialled. The remaining way is its own connection, which it may
                // read.
                Err(PeerRequestError::Connection(ConnectionError::Connect(error))) => {
                    tracing::debug!(%listens, %kind, %error, "one-shot dial failed, using the peer's connection");
                }
                result => return result,
            }
        }
        match self.request_pooled(peer, &request, left()).await {
            // Peers of other protocols use request ids and need no second connection; a peerpool
            // node refuses one.
            Err(error)
                if self.allows_one_shots()
                    && !takes_no_requests
                    && error.allows_one_shot_retry()
                    && peer.connection().protocol() == PROTOCOL_NAME
                    && !(peer.is_live() && runs_peerpool(peer)) =>
            {
                tracing::debug!(%listens, %kind, %error, "using a one-shot connection");
                self.request_one_shot(listens, request, left()).await
            }
            result => result,
        }
    }

    /// Sends a request over the peer's connection, after its read pause, and updates its health.
    pub(super) async fn request_pooled(
        &self,
        peer: &Arc<Peer>,
        request: &NetworkMessage,
        time_limit: Duration,
    ) -> Result<NetworkMessage, PeerRequestError> {
        let started = Instant::now();
        while let Some(pause) = self.state().read_pause_left(peer, self.node().now()) {
            if pause >= time_limit.saturating_sub(started.elapsed()) {
                return Err(PeerRequestError::ReadPaused { left: pause });
            }
            // The pause may have been extended meanwhile.
            tokio::time::sleep(pause).await;
        }
        let reply = request_over(peer, request, time_limit.saturating_sub(started.elapsed())).await;
        let now = self.node().now();
        match &reply {
            Ok(reply) => {
                return self.check_reply_kind(request.kind(), reply, Some(peer)).map(|()| reply.clone());
            }
            // A legacy node that dialled us hardly reads, so a timeout is not its fault.
            Err(PeerRequestError::Request(RequestError::Timeout)) if !is_legacy_inbound(peer) => {
                peer.penalize(Misbehavior::Timeout, now);
            }
            Err(PeerRequestError::Unreadable(_)) => drop(peer.penalize(Misbehavior::Malformed, now)),
            Err(_) => {}
        }
        reply
    }

    /// Sends a request over a one-shot connection.
    async fn request_one_shot(
        &self,
        addr: SocketAddr,
        request: NetworkMessage,
        time_limit: Duration,
    ) -> Result<NetworkMessage, PeerRequestError> {
        let state = self.state();
        if state.quarantine.contains(&addr.ip()) {
            return Err(PeerRequestError::Quarantined(addr.ip()));
        }
        let kind = request.kind();
        let started = Instant::now();
        let left = || time_limit.saturating_sub(started.elapsed());
        let requesting = async {
            let guard = state.one_shot_locks.lock(state.policy.lock_key(addr)).await;
            let work = async |connection: &mut PeerConnection| {
                Ok::<_, PeerRequestError>(connection.request_exclusive(request, left()).await?)
            };
            with_one_shot(state, addr, Some(guard), work).await
        };
        let timed_out = || PeerRequestError::Connection(ConnectionError::ReadTimeout(time_limit));
        let reply = timeout(time_limit, requesting).await.map_err(|_| timed_out())??;
        self.check_reply_kind(kind, &reply, None)?;
        Ok(reply)
    }

    /// Checks that the reply is of the right kind, and updates the peer's health.
    fn check_reply_kind(
        &self,
        kind: Kind,
        reply: &NetworkMessage,
        peer: Option<&Peer>,
    ) -> Result<(), PeerRequestError> {
        let received = reply.kind();
        if kind.request_slot() == received.reply_slot() {
            peer.map(|peer| peer.reward(self.node().now()));
            return Ok(());
        }
        peer.map(|peer| peer.penalize(Misbehavior::BadData, self.node().now()));
        Err(PeerRequestError::WrongReply { requested: kind, received })
    }

    /// Penalises the peer at this address, if it is connected, for the contents of a reply.
    pub(super) fn penalize_addr(&self, peer_addr: &impl ToPeerAddr, cause: Misbehavior) {
        if let Ok(addr) = peer_addr.to_peer_addr(self.network.port())
            && let Some(peer) = self.state().peer_by_addr(self.node(), addr)
        {
            peer.penalize(cause, self.node().now());
        }
    }

    /// The error for a reply of another variant in the same slot.
    pub(super) fn unexpected_reply(requested: Kind, reply: &NetworkMessage) -> PeerRequestError {
        PeerRequestError::WrongReply { requested, received: reply.kind() }
    }
}
