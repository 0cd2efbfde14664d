//! Saying something to everybody, and to one peer.

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

/// A peer that took no byte for so long is to blame for its full queue.
const STALL_PENALTY_AFTER: Duration = Duration::from_secs(1);
/// How long a payment may take to be written to all.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a connection for a single message waits until there are fewer of them.
const ONE_SHOT_SLOT_TIMEOUT: Duration = Duration::from_secs(30);

/// A message as the node carries it: its text, its kind, its lane.
pub(super) fn to_message(message: &NetworkMessage) -> Result<Message, TextError> {
    let payload = message.to_bytes()?;
    let kind = message.kind();
    Ok(Message { lane: kind.lane_for(payload.len()), kind: kind.code(), payload })
}

/// Tells everybody but the connection it is about of a new peer, unless that was done lately, or it could not be dialled in
/// this network's dialect.
pub(super) fn announce_peer(
    state: &State,
    node: &NodeRef,
    info: &PeerInfo,
    about: Option<&Peer>,
) -> Result<Announced, BroadcastError> {
    if about.is_some_and(|peer| peer.connection().protocol() != PROTOCOL_NAME) {
        return Ok(Announced::NotDialable);
    }
    let but = about.map(|peer| peer.id());
    if !node.roster().iter().any(|peer| peer.is_live() && Some(peer.id()) != but) {
        return Ok(Announced::NoPeers);
    }
    let addr = state.network.stable_addr(info.address);
    let begun = state.announced.lock().try_announce(addr, node.now());
    match begun {
        AnnounceDecision::Announce => {}
        AnnounceDecision::Recent => return Ok(Announced::Recent),
        AnnounceDecision::RateLimited => return Ok(Announced::RateLimited),
    }
    let peer = PeerAddress { ip: addr.ip().to_string(), port: addr.port(), version: info.version.clone() };
    let told =
        to_message(&NetworkMessage::PeerList(vec![peer])).map_err(BroadcastError::from).and_then(|message| {
            let said = match but {
                Some(conn) => node.broadcast_except(&message, conn),
                None => node.broadcast(&message),
            };
            Ok(said.map(drop)?)
        });
    if let Err(error) = told {
        // Nobody heard it, so it is not announced.
        state.announced.lock().retract(addr);
        return Err(error);
    }
    Ok(Announced::Sent)
}

/// Queues a message for a peer, and lets its health know how that went.
pub(super) fn enqueue(node: &NodeRef, peer: &Peer, message: Message) -> Result<(), SendError> {
    let sent = peer.connection().handle().send(message);
    let now = node.now();
    match &sent {
        // Taken by the queue is a merit of the peer only while it takes from the queue too.
        Ok(()) if peer.connection().handle().stalled_for(now).is_zero() => {
            peer.reward(now);
        }
        // Full may be our own burst or our own ceiling: only a peer that takes nothing is to blame.
        Err(SendError::Full(_)) if peer.connection().handle().stalled_for(now) > STALL_PENALTY_AFTER => {
            peer.penalize(Misbehavior::Unresponsive, now);
        }
        Ok(()) | Err(_) => {}
    }
    sent
}

/// To everybody. A broadcast is encoded once, never waits, and never fails because of a peer; peers in both dialects get it,
/// in the order of the calls, unless they leave or lag first. What became of it for each, a receipt says:
/// [`PeerManager::broadcast_with_receipt`].
impl PeerManager {
    /// Sends a message to every peer.
    ///
    /// # Errors
    /// See [`BroadcastError`]; nobody got it then.
    ///
    /// # Cost
    /// One encoding to JSON, one short lock; independent of the number of peers.
    pub async fn broadcast_message(&self, message: NetworkMessage) -> Result<(), BroadcastError> {
        self.broadcast(&message)
    }

    /// As [`PeerManager::broadcast_message`], for whoever cannot await.
    ///
    /// # Errors
    /// See [`BroadcastError`]; nobody got it then.
    pub fn broadcast(&self, message: &NetworkMessage) -> Result<(), BroadcastError> {
        self.node().broadcast(&to_message(message)?)?;
        Ok(())
    }

    /// As [`PeerManager::broadcast`], keeping who was there, so that one can ask later what became of it.
    ///
    /// # Errors
    /// See [`BroadcastError`]; nobody got it then.
    ///
    /// # Cost
    /// A walk over the peers.
    pub fn broadcast_with_receipt(
        &self,
        message: &NetworkMessage,
    ) -> Result<BroadcastReceipt, BroadcastError> {
        Ok(self.node().broadcast_with_receipt(&to_message(message)?)?)
    }

    /// Sends a payment to every peer and waits until it is written to all that are still there, 2 s at the longest; to how many
    /// it was. Written means handed to the connection.
    ///
    /// # Errors
    /// See [`BroadcastError`].
    ///
    /// # Cancel safety
    /// The payment is on its way once the future was first polled.
    pub async fn broadcast_transaction(&self, tx: TransactionMessage) -> Result<usize, BroadcastError> {
        let receipt = self.broadcast_with_receipt(&NetworkMessage::Transaction(tx))?;
        let begun = Instant::now();
        let mut pause = Duration::from_micros(500);
        let waits = || receipt.statuses().any(|(_, _, status)| status == Receipt::Behind);
        while waits() && begun.elapsed() < WRITE_TIMEOUT {
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(Duration::from_millis(20));
        }
        Ok(receipt.written())
    }

    /// Tells every peer where our chain ends. Each gets the newest tip, not those between; a peer that comes later is told the
    /// newest at once.
    ///
    /// # Errors
    /// See [`BroadcastError`].
    pub async fn broadcast_tip_update(&self, height: u64, hash: String) -> Result<(), BroadcastError> {
        let text = to_message(&NetworkMessage::UpdateTip { height, hash })?;
        self.node().set_state(Kind::UpdateTip.code(), &[], text.payload)?;
        Ok(())
    }

    /// Sends a proposed block, as JSON of the application's own, to every peer.
    ///
    /// # Errors
    /// See [`BroadcastError`].
    pub async fn broadcast_block_proposal(&self, proposal: serde_json::Value) -> Result<(), BroadcastError> {
        self.broadcast(&NetworkMessage::ConsensusBlockProposal(proposal.to_string()))
    }

    /// Sends a vote on a block, as JSON of the application's own, to every peer. To know that it arrived, ask each with
    /// [`PeerManager::send_vote_with_ack`].
    ///
    /// # Errors
    /// See [`BroadcastError`].
    pub async fn broadcast_block_vote(&self, vote: serde_json::Value) -> Result<(), BroadcastError> {
        self.broadcast(&NetworkMessage::ConsensusBlockVote(vote.to_string()))
    }

    /// The same as [`PeerManager::broadcast_block_vote`].
    ///
    /// # Errors
    /// See [`BroadcastError`].
    pub async fn broadcast_vote(&self, vote: serde_json::Value) -> Result<(), BroadcastError> {
        self.broadcast_block_vote(vote).await
    }

    /// Tells every other peer of a new one: each address once in 300 s, 60 addresses a minute.
    ///
    /// # Errors
    /// See [`BroadcastError`]; it then does not count as told.
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

/// To one peer. A message taken by a connection is queued for it, not delivered.
impl PeerManager {
    /// Queues a message for the peer at this IP address. Never waits. Failing to take it costs the peer health, taking it
    /// gives it some.
    ///
    /// A question is not to be sent so, but [asked](PeerManager::request): this network's answers carry no ids, so the answer to a question
    /// that was sent as a message reaches whoever asks the peer one of that kind meanwhile; where nobody does, it reaches
    /// [`ChainSource::on_message`](crate::timecoin::ChainSource::on_message).
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

    /// Sends a message to the peer at this address: over its connection, or over one opened for this message alone, with
    /// deadlines, where there is none. A question is not to be sent so; see [`PeerManager::send_to_peer_tcp`].
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

    /// Tells the peer at this IP address that the state of an output has changed; see [`PeerManager::send_message_to_peer`].
    /// Where it is not connected, it is dialled where it was last known to listen.
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

/// Opens a connection for one message. At most as many at a time as configured; more wait.
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

/// Opens a connection for one piece of work. At most as many at a time as configured; more wait, not longer than [`ONE_SHOT_SLOT_TIMEOUT`], and
/// all end with the manager. The turn ends when the connection is over.
pub(super) async fn with_one_shot<T, E: From<ConnectionError>>(
    state: &Arc<State>,
    addr: SocketAddr,
    turn: Option<OneShotGuard>,
    work: impl AsyncFnOnce(&mut PeerConnection) -> Result<T, E>,
) -> Result<T, E> {
    let working = async {
        let place = timeout(ONE_SHOT_SLOT_TIMEOUT, state.one_shots.acquire()).await;
        // The semaphore is never closed.
        let _place = place
            .map_err(|_| ConnectionError::NoOneShotSlot(ONE_SHOT_SLOT_TIMEOUT))?
            .map_err(|_| ConnectionError::Closed)?;
        let dialled = state.connector.dial(addr).await;
        record_one_shot_dial(state, addr, &dialled);
        let mut connection = dialled?;
        let done = work(&mut connection).await?;
        // What was asked for does not wait for the farewell.
        state.tasks.spawn(async move {
            connection.close_gracefully().await;
            drop(turn);
        });
        Ok(done)
    };
    tokio::select! {
        biased;
        () = state.tasks.stopped() => Err(ConnectionError::Closed.into()),
        done = working => done,
    }
}

/// A connection for a single message tells as much of an address as any other.
fn record_one_shot_dial<T>(state: &State, addr: SocketAddr, dialled: &Result<T, ConnectionError>) {
    match dialled {
        Ok(_) => drop(state.exchange.lock().record_success(addr.ip(), crate::address_book::WallTime::now())),
        Err(ConnectionError::Connect(error)) => record_dial_failure(state, addr, error),
        // Nobody was dialled.
        Err(_) => {}
    }
}
