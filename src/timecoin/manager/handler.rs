//! The node's handler: dispatches incoming messages.
//!
//! Requests go to `responder`, which asks the application's
//! [`ChainSource`](crate::timecoin::ChainSource). Peer lists are learnt. Everything else goes to
//! `ChainSource::on_message`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::address_book::WallTime;
use crate::base::Direction;
use crate::connection::{Event, Handled, Request, Responder};
use crate::node::{Context, Handler, NodeRef, Peer, PeerDecision};
use crate::pool::{DisconnectReason, Misbehavior};
use crate::timecoin::chain::{Incoming, Reply, Sender};
use crate::timecoin::peer_info::millis_u32;
use crate::timecoin::peer_lookup::{PROTOCOL_NAME, dial_addr, is_legacy_inbound, peer_info};
use crate::timecoin::wire::{Kind, NetworkMessage};
use crate::wire::{Hello, Status};

use super::connect::is_quarantined_peer;
use super::request::request_peers_from;
use super::responder::{follow_up, reply_to};
use super::state::State;
use super::truncate::truncated_to_frame;

/// A legacy node's first request follows its handshake at once.
const FIRST_REQUEST_WINDOW: Duration = Duration::from_millis(500);
/// A peer list requested later than this is not the one that follows a dial, so reading does not
/// pause.
const FRESH_CONNECTION: Duration = Duration::from_secs(5);
/// Allowed difference between the peer's clock and ours.
const CLOCK_SLACK: Duration = Duration::from_millis(200);

/// The node's handler. Holds the manager's state but no node.
pub(super) struct ManagerHandler(pub(super) Arc<State>);

impl Handler for ManagerHandler {
    fn event(&self, cx: Context<'_>, event: Event<'_>) -> Handled {
        let Some(kind) = Kind::from_code(event.kind) else {
            return self.unreadable(cx, event.payload.into_bytes());
        };
        if !self.is_wanted(kind) {
            return Handled::Done;
        }
        let message = match NetworkMessage::decode(&event.payload) {
            Ok(message) => message,
            Err(_) => return self.malformed(cx, event.payload.into_bytes()),
        };
        if kind.request_slot().is_some() {
            // A request that was broadcast, such as a vote. The reply is a message of its own.
            return self.handle_request(cx, message, None);
        }
        self.handle_event(cx, message)
    }

    fn request(&self, cx: Context<'_>, request: Request<'_>, responder: Responder) -> Handled {
        let decoded = Kind::from_code(request.kind).map(|_| NetworkMessage::decode(&request.payload));
        let Some(Ok(message)) = decoded else {
            let payload = request.payload.into_bytes();
            // Nothing to do if the peer no longer waits for the refusal.
            let _ = responder.decline(Status::Failed, "not a message");
            return if decoded.is_some() {
                self.malformed(cx, payload)
            } else {
                self.unreadable(cx, payload)
            };
        };
        self.handle_request(cx, message, Some(responder))
    }

    fn accept_peer(&self, hello: &Hello, from: SocketAddr) -> PeerDecision {
        // On loopback all peers share one observed address and are identified by the announced one.
        let claimed =
            hello.listen.map(|listen| listen.ip()).filter(|ip| ip.is_loopback() && from.ip().is_loopback());
        let quarantined = |ip: &IpAddr| self.0.quarantine.contains(ip);
        if quarantined(&from.ip()) || claimed.as_ref().is_some_and(quarantined) {
            tracing::debug!(%from, "rejected: quarantined");
            return PeerDecision::Reject;
        }
        PeerDecision::Accept
    }

    fn connected(&self, cx: Context<'_>) {
        let (state, node, peer) = (&self.0, cx.node(), cx.peer());
        // The peer may have been quarantined during its handshake.
        let kept_out = is_quarantined_peer(state, peer);
        if kept_out {
            node.disconnect(peer.key());
        }
        // Legacy nodes cannot dial the listening address of a peer of another protocol.
        if peer.connection().protocol() == PROTOCOL_NAME {
            let (addr, now) = (dial_addr(peer, state.network), WallTime::now());
            let version = peer.read_info(|info| info.agent.to_string());
            let mut exchange = state.exchange.lock();
            exchange.add_peer(addr, version, now);
            // An inbound connection does not prove that the peer can be dialled.
            if peer.direction() == Direction::Outbound {
                exchange.record_success(addr.ip(), now);
            }
        }
        if is_legacy_inbound(peer) {
            // Its first request comes at once; from then on it reads nothing but the reply.
            let until = node.now().after(FIRST_REQUEST_WINDOW.min(state.config.legacy_read_pause));
            state.read_paused_until.lock().insert(peer.id(), until);
        }
        if peer.direction() == Direction::Outbound && !kept_out {
            let request = request_peers_from(Arc::clone(state), node.downgrade(), Arc::clone(peer));
            state.tasks.spawn(async move {
                // The number of new addresses is in the log.
                let _ = request.await;
            });
        }
        if !kept_out {
            announce_connected(state, node, peer);
        }
        state.chain.connected(&state.sender(peer));
    }

    fn disconnected(&self, cx: Context<'_>, reason: DisconnectReason) {
        let (state, peer) = (&self.0, cx.peer());
        let is_lost =
            matches!(reason, DisconnectReason::Lost | DisconnectReason::Closed | DisconnectReason::Stale);
        if is_lost && peer.direction() == Direction::Inbound && peer.connection().protocol() == PROTOCOL_NAME
        {
            state.remember_lost_inbound(peer);
        }
        state.read_paused_until.lock().remove(&peer.id());
        if let Some(rtt) = peer.rtt() {
            let millis = millis_u32(rtt);
            state.exchange.lock().update_latency(dial_addr(peer, state.network).ip(), millis);
        }
        state.chain.disconnected(&state.sender(peer));
    }
}

impl ManagerHandler {
    /// Whether a message of this kind, which is not a reply to our request, is used at all.
    fn is_wanted(&self, kind: Kind) -> bool {
        kind == Kind::PeerList || kind.request_slot().is_some() || self.0.chain.wants(kind)
    }

    fn handle_event(&self, cx: Context<'_>, message: NetworkMessage) -> Handled {
        let from = self.0.sender(cx.peer());
        if let NetworkMessage::PeerList(peers) = &message {
            let new = self.0.learn_peers(peers, from.ip());
            tracing::debug!(peer = %from.ip(), new, "peer list received");
        }
        self.pass_to_chain(cx, &from, Incoming::Message(message))
    }

    fn handle_request(
        &self,
        cx: Context<'_>,
        message: NetworkMessage,
        responder: Option<Responder>,
    ) -> Handled {
        let state = Arc::clone(&self.0);
        let (node, peer) = (cx.node().clone(), Arc::clone(cx.peer()));
        if matches!(message, NetworkMessage::GetPeerList) {
            extend_read_pause(&state, &node, &peer);
        }
        Handled::later(async move {
            let from = state.sender(&peer);
            if state.config.enforce_rate_limit {
                let size = message.to_bytes().map_or(0, |text| text.len() as u64);
                if let Err(limit) = state.limiter.check_rate_limit(from.ip(), size).await {
                    tracing::debug!(peer = %from.ip(), %limit, "request refused: rate limit");
                    peer.penalize(Misbehavior::Flood, node.now());
                    // Refused where the protocol can express it.
                    let _ = responder.map(|responder| responder.decline(Status::Busy, ""));
                    return;
                }
            }
            let wallet = match &message {
                NetworkMessage::RegisterXpub { xpub } => Some(xpub.clone()),
                _ => None,
            };
            let reply = reply_to(&state, &node, &from, message).await;
            let Some(reply) = reply else {
                let _ = responder.map(|responder| responder.decline(Status::NoReply, ""));
                return;
            };
            send_reply(&peer, &reply, responder);
            if let (NetworkMessage::XpubRegistered { success: true, .. }, Some(xpub)) = (&reply, wallet)
                && let Some(follow_up_message) = follow_up(&state, &from, xpub).await
            {
                send_reply(&peer, &follow_up_message, None);
            }
        })
    }

    fn malformed(&self, cx: Context<'_>, text: Bytes) -> Handled {
        cx.peer().penalize(Misbehavior::Malformed, cx.node().now());
        self.unreadable(cx, text)
    }

    fn unreadable(&self, cx: Context<'_>, text: Bytes) -> Handled {
        let from = self.0.sender(cx.peer());
        self.pass_to_chain(cx, &from, Incoming::Unreadable(text))
    }

    fn pass_to_chain(&self, cx: Context<'_>, from: &Sender, message: Incoming) -> Handled {
        match self.0.chain.on_message(from, message) {
            Reply::None => Handled::Done,
            Reply::Now(reply) => {
                send_reply(cx.peer(), &reply, None);
                Handled::Done
            }
            Reply::Later(reply) => {
                let peer = Arc::clone(cx.peer());
                Handled::later(async move {
                    if let Some(reply) = reply.await {
                        send_reply(&peer, &reply, None);
                    }
                })
            }
        }
    }
}

/// Extends the pause of a legacy node that has just dialled: it requests peers first and reads
/// nothing but the reply for 15 s. Requests wait until then.
fn extend_read_pause(state: &State, node: &NodeRef, peer: &Peer) {
    let now = node.now();
    if let Some(until) = state.read_paused_until.lock().get_mut(&peer.id())
        && peer.uptime(now) <= FRESH_CONNECTION
    {
        *until = now.after(state.config.legacy_read_pause.saturating_add(CLOCK_SLACK));
    }
}

fn send_reply(peer: &Arc<Peer>, reply: &NetworkMessage, responder: Option<Responder>) {
    let message = match truncated_to_frame(reply) {
        Ok(message) => message,
        Err(error) => {
            tracing::warn!(peer = %peer.key(), %error, "reply has no JSON text");
            return;
        }
    };
    let kind = reply.kind();
    match responder {
        Some(responder) => {
            if let Err(error) = responder.on(message.lane).respond(message.payload) {
                tracing::debug!(peer = %peer.key(), %kind, %error, "reply not sent");
            }
        }
        None => {
            if let Err(error) = peer.connection().handle().send(message) {
                tracing::debug!(peer = %peer.key(), %kind, %error, "reply not sent");
            }
        }
    }
}

/// Announces a newly connected peer to all others.
fn announce_connected(state: &Arc<State>, node: &NodeRef, peer: &Arc<Peer>) {
    let info = peer_info(peer, state.network, node.now());
    if let Err(error) = super::broadcast::announce_peer(state, node, &info, Some(peer)) {
        tracing::debug!(%error, "peer not announced");
    }
}
