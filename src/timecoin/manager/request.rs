//! Asking one peer, over its connection or over one opened for the question.

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

/// What names a peer: a socket address, an IP address (its port is then the standard one), or either as text, IPv6 with a port in
/// brackets.
pub trait ToPeerAddr {
    /// The address, with `port` where there is none.
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

/// Asks over a peer's connection. Its health is the caller's affair.
pub(super) async fn request_over(
    peer: &Peer,
    question: &NetworkMessage,
    within: Duration,
) -> Result<NetworkMessage, PeerRequestError> {
    let answer = peer.connection().handle().request(to_message(question)?, within).await?;
    Ok(NetworkMessage::decode(&answer)?)
}

/// Asks a peer whom it knows, and learns it; how many were new.
pub(super) async fn request_peers_from(state: Arc<State>, node: WeakNode, peer: Arc<Peer>) -> usize {
    let asked = request_over(&peer, &NetworkMessage::GetPeerList, PEER_LIST_TIMEOUT).await;
    let Ok(NetworkMessage::PeerList(peers)) = asked else {
        // Not answering this is no fault: an old node that was dialled may have nobody who reads.
        tracing::debug!(peer = %peer.key(), "told of no peers");
        return 0;
    };
    let from = peer_ip_addr(&peer);
    let new = state.learn_peers(&peers, from);
    if let Some(node) = node.upgrade() {
        peer.reward(node.now());
    }
    tracing::debug!(peer = %from, new, "told of peers");
    new
}

/// Questions.
impl PeerManager {
    /// Sends a question and waits for its answer, so many seconds at the longest. Over the peer's connection; where there is none,
    /// or it cannot take the question now, or an old node dialled it and so reads no question there, over one opened for this
    /// question alone, with deadlines. `None` never comes: no answer is an error.
    ///
    /// # Errors
    /// See [`PeerRequestError`].
    ///
    /// # Cancel safety
    /// Dropping the future gives the question up; a late answer reaches [`ChainSource::on_message`].
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

    /// As [`PeerManager::send_message_to_peer_with_response`], with an address in any form and a duration.
    ///
    /// # Errors
    /// See [`PeerRequestError`].
    ///
    /// # Cancel safety
    /// As [`PeerManager::send_message_to_peer_with_response`].
    pub async fn request(
        &self,
        peer_addr: impl ToPeerAddr,
        question: NetworkMessage,
        within: Duration,
    ) -> Result<NetworkMessage, PeerRequestError> {
        let asked = question.kind();
        if asked.request_slot().is_none() {
            return Err(PeerRequestError::NotARequest(asked));
        }
        let addr = peer_addr.to_peer_addr(self.network.port())?;
        match self.state().peer_by_addr(self.node(), addr) {
            Some(peer) => self.request_from_peer(&peer, question, within).await,
            None if self.allows_one_shots() => self.request_one_shot(addr, question, within).await,
            None => Err(PeerRequestError::NotConnected(addr)),
        }
    }

    /// Whether a connection may be opened for one question.
    fn allows_one_shots(&self) -> bool {
        self.state().config.max_one_shots > 0
    }

    /// Asks a peer: over its connection, or over one of the question's own.
    ///
    /// An old node keeps one connection an address. One whose address is smaller than ours drops a second one; for any other the second
    /// one takes the first one's place, which ends, and so does the second once it has served. So a second one is opened only where the
    /// first is of no use: where it cannot take the question now, or where the peer dialled it, and then reads no questions there.
    pub(super) async fn request_from_peer(
        &self,
        peer: &Arc<Peer>,
        question: NetworkMessage,
        within: Duration,
    ) -> Result<NetworkMessage, PeerRequestError> {
        let asked = question.kind();
        let begun = Instant::now();
        let left = || within.saturating_sub(begun.elapsed());
        // Not where it was asked for: that may be an IP address alone, or the port that it dialled us from.
        let listens = dial_addr(peer, self.network);
        let unread = self.allows_one_shots() && is_legacy_inbound(peer);
        if unread {
            match self.request_one_shot(listens, question.clone(), left()).await {
                // Nobody can be dialled there: what it may read of its own accord is all that is left.
                Err(PeerRequestError::Connection(ConnectionError::Connect(error))) => {
                    tracing::debug!(%listens, %asked, %error, "asked over the peer's connection after all");
                }
                answered => return answered,
            }
        }
        match self.request_pooled(peer, &question, left()).await {
            // Another dialect's peers have ids, and no need for it; a node of ours refuses a second connection.
            Err(error)
                if self.allows_one_shots()
                    && !unread
                    && error.allows_one_shot_retry()
                    && peer.connection().protocol() == PROTOCOL_NAME
                    && !(peer.is_live() && runs_peerpool(peer)) =>
            {
                tracing::debug!(%listens, %asked, %error, "asked over a connection of its own");
                self.request_one_shot(listens, question, left()).await
            }
            answered => answered,
        }
    }

    /// Asks over the peer's connection, waits while it is mute, and lets its health know how it went.
    pub(super) async fn request_pooled(
        &self,
        peer: &Arc<Peer>,
        question: &NetworkMessage,
        within: Duration,
    ) -> Result<NetworkMessage, PeerRequestError> {
        let begun = Instant::now();
        while let Some(pause) = self.state().read_pause_left(peer, self.node().now()) {
            if pause >= within.saturating_sub(begun.elapsed()) {
                return Err(PeerRequestError::ReadPaused { left: pause });
            }
            // It may turn out to be longer meanwhile.
            tokio::time::sleep(pause).await;
        }
        let answer = request_over(peer, question, within.saturating_sub(begun.elapsed())).await;
        let now = self.node().now();
        match &answer {
            Ok(answer) => {
                return self.check_reply_kind(question.kind(), answer, Some(peer)).map(|()| answer.clone());
            }
            // An old node that dialled us reads next to nothing: that it does not answer is no fault of its.
            Err(PeerRequestError::Request(RequestError::Timeout)) if !is_legacy_inbound(peer) => {
                peer.penalize(Misbehavior::Timeout, now);
            }
            Err(PeerRequestError::Unreadable(_)) => drop(peer.penalize(Misbehavior::Malformed, now)),
            Err(_) => {}
        }
        answer
    }

    /// Opens a connection for one question.
    async fn request_one_shot(
        &self,
        addr: SocketAddr,
        question: NetworkMessage,
        within: Duration,
    ) -> Result<NetworkMessage, PeerRequestError> {
        let state = self.state();
        if state.quarantine.contains(&addr.ip()) {
            return Err(PeerRequestError::Quarantined(addr.ip()));
        }
        let asked = question.kind();
        let begun = Instant::now();
        let left = || within.saturating_sub(begun.elapsed());
        let asking = async {
            let turn = state.one_shot_locks.lock(state.policy.lock_key(addr)).await;
            let work = async |connection: &mut PeerConnection| {
                Ok::<_, PeerRequestError>(connection.request_exclusive(question, left()).await?)
            };
            with_one_shot(state, addr, Some(turn), work).await
        };
        let late = || PeerRequestError::Connection(ConnectionError::ReadTimeout(within));
        let answer = timeout(within, asking).await.map_err(|_| late())??;
        self.check_reply_kind(asked, &answer, None)?;
        Ok(answer)
    }

    /// Whether this kind of message answers that kind of question; health follows.
    fn check_reply_kind(
        &self,
        asked: Kind,
        answer: &NetworkMessage,
        peer: Option<&Peer>,
    ) -> Result<(), PeerRequestError> {
        let got = answer.kind();
        if asked.request_slot() == got.reply_slot() {
            peer.map(|peer| peer.reward(self.node().now()));
            return Ok(());
        }
        peer.map(|peer| peer.penalize(Misbehavior::BadData, self.node().now()));
        Err(PeerRequestError::WrongAnswer { asked, got })
    }

    /// What came was not what this kind of answer holds: health follows, where the peer is pooled.
    pub(super) fn penalize_addr(&self, peer_addr: &impl ToPeerAddr, cause: Misbehavior) {
        if let Ok(addr) = peer_addr.to_peer_addr(self.network.port())
            && let Some(peer) = self.state().peer_by_addr(self.node(), addr)
        {
            peer.penalize(cause, self.node().now());
        }
    }

    /// An answer of another variant than the one wanted, although it answers the question: two answers share a place.
    pub(super) fn unexpected_reply(asked: Kind, got: &NetworkMessage) -> PeerRequestError {
        PeerRequestError::WrongAnswer { asked, got: got.kind() }
    }
}
