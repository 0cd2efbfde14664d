//! Sending messages: to all peers, and to one peer.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::connection::{Message, SendError};
use crate::node::{BroadcastReceipt, NodeRef, Peer, Receipt};
use crate::pool::Misbehavior;
use crate::timecoin::PeerInfo;
use crate::timecoin::announce::AnnounceDecision;
use crate::timecoin::connection::{ConnectionError, PeerConnection};
use crate::timecoin::one_shot_lock::OneShotGuard;
use crate::timecoin::peer_lookup::PROTOCOL_NAME;
use crate::timecoin::wire::{
    Kind, NetworkMessage, PeerAddress, TextError, TransactionMessage, UTXOStateNotification,
};

use super::connect::record_dial_failure;
use super::error::{BroadcastError, PeerSendError};
use super::state::State;
use super::{Announced, PeerManager};

/// A peer that accepted no byte for longer than this is penalised for a full queue.
const STALL_PENALTY_AFTER: Duration = Duration::from_secs(1);
/// How long `broadcast_transaction` waits until the payment is written to all peers.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a one-shot connection waits for a free slot.
const ONE_SHOT_SLOT_TIMEOUT: Duration = Duration::from_secs(30);

/// The message as the node carries it: JSON text, kind and lane.
pub(super) fn to_message(message: &NetworkMessage) -> Result<Message, TextError> {
    let payload = message.to_bytes()?;
    let kind = message.kind();
    Ok(Message { lane: kind.lane_for(payload.len()), kind: kind.code(), payload })
}

/// Announces a new peer to all others. Does nothing if that was done lately, or if the peer could
/// not be dialled in this network's protocol, or not by all of them.
pub(super) fn announce_peer(
    state: &State,
    node: &NodeRef,
    info: &PeerInfo,
    about: Option<&Peer>,
) -> Result<Announced, BroadcastError> {
    if about.is_some_and(|peer| peer.connection().protocol() != PROTOCOL_NAME) {
        return Ok(Announced::NotDialable);
    }
    let except = about.map(|peer| peer.id());
    if !node.roster().iter().any(|peer| peer.is_live() && Some(peer.id()) != except) {
        return Ok(Announced::NoPeers);
    }
    let addr = state.network.stable_addr(info.address);
    // One message goes to all peers, so it must be fit for each of them.
    let discovery = &state.config.node.runtime.discovery;
    if !node.roster().iter().all(|peer| discovery.may_tell(peer.ip(), addr.ip())) {
        return Ok(Announced::NotDialable);
    }
    let decision = state.announced.lock().try_announce(addr, node.now());
    match decision {
        AnnounceDecision::Announce => {}
        AnnounceDecision::Recent => return Ok(Announced::Recent),
        AnnounceDecision::RateLimited => return Ok(Announced::RateLimited),
    }
    let peer = PeerAddress { ip: addr.ip().to_string(), port: addr.port(), version: info.version.clone() };
    let sent =
        to_message(&NetworkMessage::PeerList(vec![peer])).map_err(BroadcastError::from).and_then(|message| {
            let broadcast = match except {
                Some(conn) => node.broadcast_except(&message, conn),
                None => node.broadcast(&message),
            };
            Ok(broadcast.map(drop)?)
        });
    if let Err(error) = sent {
        // It reached no peer, so it does not count.
        state.announced.lock().retract(addr);
        return Err(error);
    }
    Ok(Announced::Sent)
}

/// Queues a message for a peer and updates the peer's health.
pub(super) fn enqueue(node: &NodeRef, peer: &Peer, message: Message) -> Result<(), SendError> {
    let sent = peer.connection().handle().send(message);
    let now = node.now();
    match &sent {
        // Accepting a message is rewarded only while the peer also drains its queue.
        Ok(()) if peer.connection().handle().stalled_for(now).is_zero() => {
            peer.reward(now);
        }
        // A full queue may be due to our own burst or memory limit. Only a peer that accepts
        // nothing is penalised.
        Err(SendError::Full(_)) if peer.connection().handle().stalled_for(now) > STALL_PENALTY_AFTER => {
            peer.penalize(Misbehavior::Unresponsive, now);
        }
        Ok(()) | Err(_) => {}
    }
    sent
}

/// Broadcasts. A message is encoded once and never waits for a peer, and no peer can make it fail.
/// Peers of all protocols receive it in call order, unless they disconnect or lag first.
/// [`PeerManager::broadcast_with_receipt`] reports the outcome for each peer.
impl PeerManager {
    /// Sends a message to every peer.
    ///
    /// # Errors
    /// See [`BroadcastError`]; no peer received the message.
    ///
    /// # Cost
    /// One encoding to JSON and one short lock, independent of the number of peers.
    pub async fn broadcast_message(&self, message: NetworkMessage) -> Result<(), BroadcastError> {
        self.broadcast(&message)
    }

    /// [`PeerManager::broadcast_message`] for synchronous callers.
    ///
    /// # Errors
    /// See [`BroadcastError`]; no peer received the message.
    pub fn broadcast(&self, message: &NetworkMessage) -> Result<(), BroadcastError> {
        self.node().broadcast(&to_message(message)?)?;
        Ok(())
    }

    /// [`PeerManager::broadcast`] with a receipt that reports the outcome for each peer.
    ///
    /// # Errors
    /// See [`BroadcastError`]; no peer received the message.
    ///
    /// # Cost
    /// A walk over the peers.
    pub fn broadcast_with_receipt(
        &self,
        message: &NetworkMessage,
    ) -> Result<BroadcastReceipt, BroadcastError> {
        Ok(self.node().broadcast_with_receipt(&to_message(message)?)?)
    }

    /// Sends a payment to every peer and waits, for at most 2 s, until it is written to all that
    /// are still connected. Returns how many it was written to. Written means accepted by the
    /// connection's stream.
    ///
    /// # Errors
    /// See [`BroadcastError`].
    ///
    /// # Cancel safety
    /// Once polled, the payment is queued; dropping the future does not undo that.
    pub async fn broadcast_transaction(&self, tx: TransactionMessage) -> Result<usize, BroadcastError> {
        let receipt = self.broadcast_with_receipt(&NetworkMessage::Transaction(tx))?;
        let started = Instant::now();
        let mut pause = Duration::from_micros(500);
        let waits = || receipt.statuses().any(|(_, _, status)| status == Receipt::Behind);
        while waits() && started.elapsed() < WRITE_TIMEOUT {
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(Duration::from_millis(20));
        }
        Ok(receipt.written())
    }

    /// Sends our chain tip to every peer. Intermediate tips are skipped: each peer gets the newest,
    /// and a new peer gets it when it connects.
    ///
    /// # Errors
    /// See [`BroadcastError`].
    pub async fn broadcast_tip_update(&self, height: u64, hash: String) -> Result<(), BroadcastError> {
        let text = to_message(&NetworkMessage::UpdateTip { height, hash })?;
        self.node().set_state(Kind::UpdateTip.code(), &[], text.payload)?;
        Ok(())
    }

    /// Sends a proposed block, as the application's JSON, to every peer.
    ///
    /// # Errors
    /// See [`BroadcastError`].
    pub async fn broadcast_block_proposal(&self, proposal: serde_json::Value) -> Result<(), BroadcastError> {
        self.broadcast(&NetworkMessage::ConsensusBlockProposal(proposal.to_string()))
    }

    /// Sends a vote on a block, as the application's JSON, to every peer. For an acknowledgement
    /// use [`PeerManager::send_vote_with_ack`] with each peer.
    ///
    /// # Errors
    /// See [`BroadcastError`].
    pub async fn broadcast_block_vote(&self, vote: serde_json::Value) -> Result<(), BroadcastError> {
        self.broadcast(&NetworkMessage::ConsensusBlockVote(vote.to_string()))
    }

    /// An alias of [`PeerManager::broadcast_block_vote`].
    ///
    /// # Errors
    /// See [`BroadcastError`].
    pub async fn broadcast_vote(&self, vote: serde_json::Value) -> Result<(), BroadcastError> {
        self.broadcast_block_vote(vote).await
    }

    /// Announces a new peer to all others: each address once in 300 s, at most 60 addresses a
    /// minute.
    ///
    /// # Errors
    /// See [`BroadcastError`]; the peer does not count as announced.
    pub async fn broadcast_new_peer(&self, new_peer_info: &PeerInfo) -> Result<Announced, BroadcastError> {
        let about = self.state().peer_by_addr(self.node(), new_peer_info.address);
        announce_peer(self.state(), self.node(), new_peer_info, about.as_deref())
    }

    /// Tells every peer that the state of an output has changed.
    ///
    /// # Errors
    /// See [`BroadcastError`].
    pub async fn broadcast_utxo_notification(
        &self,
        notification: &UTXOStateNotification,
    ) -> Result<(), BroadcastError> {
        let notification = serde_json::to_string(notification)?;
        self.broadcast(&NetworkMessage::UTXOStateNotification { notification })
    }
}

/// Messages to one peer. An accepted message is queued, not delivered.
impl PeerManager {
    /// Queues a message for the peer at this IP address; never waits. Acceptance gives the peer
    /// health; not draining its queue costs it health.
    ///
    /// Do not send a request this way; use [`PeerManager::request`]. Replies carry no ids in this
    /// network. The reply to a request sent as a message goes to a concurrent request of the same
    /// kind, or else to [`ChainSource::on_message`](crate::timecoin::ChainSource::on_message).
    ///
    /// # Errors
    /// See [`PeerSendError`].
    pub async fn send_to_peer_tcp(
        &self,
        peer_ip: IpAddr,
        message: NetworkMessage,
    ) -> Result<(), PeerSendError> {
        let Some(peer) = self.state().peer_by_ip(self.node(), peer_ip) else {
            return Err(PeerSendError::NotConnected(peer_ip, Box::new(message)));
        };
        Ok(enqueue(self.node(), &peer, to_message(&message)?)?)
    }

    /// Sends a message to the peer at this address: over its connection, or over a one-shot
    /// connection with time limits. Do not send a request this way; see
    /// [`PeerManager::send_to_peer_tcp`].
    ///
    /// # Errors
    /// See [`PeerSendError`].
    ///
    /// # Cancel safety
    /// Dropping the future may leave the message unsent; nothing else.
    pub async fn send_message_to_peer(
        &self,
        peer_addr: SocketAddr,
        message: NetworkMessage,
    ) -> Result<(), PeerSendError> {
        if let Some(peer) = self.state().peer_by_addr(self.node(), peer_addr) {
            return Ok(enqueue(self.node(), &peer, to_message(&message)?)?);
        }
        send_one_shot(self.state(), peer_addr, message).await
    }

    /// Tells the peer at this IP address that the state of an output has changed; see
    /// [`PeerManager::send_message_to_peer`]. A peer that is not connected is dialled at its last
    /// known listening address.
    ///
    /// # Errors
    /// See [`PeerSendError`].
    pub async fn send_utxo_notification_to_peer(
        &self,
        peer_ip: IpAddr,
        notification: &UTXOStateNotification,
    ) -> Result<(), PeerSendError> {
        let notification = match serde_json::to_string(notification) {
            Ok(notification) => notification,
            Err(error) => return Err(TextError::Json(error).into()),
        };
        let addr = self.last_known_addr(peer_ip);
        self.send_message_to_peer(addr, NetworkMessage::UTXOStateNotification { notification }).await
    }
}

/// Sends one message over a one-shot connection.
pub(super) async fn send_one_shot(
    state: &Arc<State>,
    addr: SocketAddr,
    message: NetworkMessage,
) -> Result<(), PeerSendError> {
    if state.quarantine.contains(&addr.ip()) {
        return Err(PeerSendError::Quarantined(addr.ip(), Box::new(message)));
    }
    with_one_shot(state, addr, None, async |connection| Ok(connection.send_message(message).await?)).await
}

/// Runs `work` over a one-shot connection. The number of such connections is limited; a call waits
/// at most [`ONE_SHOT_SLOT_TIMEOUT`] for a slot. All end with the manager. The guard is released
/// when the connection is closed.
pub(super) async fn with_one_shot<T, E: From<ConnectionError>>(
    state: &Arc<State>,
    addr: SocketAddr,
    guard: Option<OneShotGuard>,
    work: impl AsyncFnOnce(&mut PeerConnection) -> Result<T, E>,
) -> Result<T, E> {
    let run = async {
        let slot = timeout(ONE_SHOT_SLOT_TIMEOUT, state.one_shots.acquire()).await;
        // The semaphore is never closed.
        let _slot = slot
            .map_err(|_| ConnectionError::NoOneShotSlot(ONE_SHOT_SLOT_TIMEOUT))?
            .map_err(|_| ConnectionError::Closed)?;
        let dial = state.connector.dial(addr).await;
        record_one_shot_dial(state, addr, &dial);
        let mut connection = dial?;
        let done = work(&mut connection).await?;
        // The caller gets the result without waiting for the close.
        state.tasks.spawn(async move {
            connection.close_gracefully().await;
            drop(guard);
        });
        Ok(done)
    };
    tokio::select! {
        biased;
        () = state.tasks.stopped() => Err(ConnectionError::Closed.into()),
        done = run => done,
    }
}

/// Records the outcome of a one-shot dial like that of any other dial.
fn record_one_shot_dial<T>(state: &State, addr: SocketAddr, dial: &Result<T, ConnectionError>) {
    match dial {
        Ok(_) => drop(state.exchange.lock().record_success(addr.ip(), crate::address_book::WallTime::now())),
        Err(ConnectionError::Connect(error)) => record_dial_failure(state, addr, error),
        // Nothing was dialled.
        Err(_) => {}
    }
}
