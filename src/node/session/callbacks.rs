//! The callbacks of one connection: from complete messages to the application's handler and the
//! pool.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::address_book::{DialOutcome, FailureCause, WallTime};
use crate::base::{Direction, Lane, Source, Tick};
use crate::connection::{CloseReason, ConnectionHandler, Event, Handled, Request, Responder};
use crate::node::api::events::NodeEvent;
use crate::node::api::handle::NodeRef;
use crate::node::api::handler::Context;
use crate::node::runtime::addr_exchange;
use crate::node::runtime::addr_sample::Asker;
use crate::node::runtime::log_budget::LogKind;
use crate::node::runtime::shared::{Shared, count};
use crate::pool::{ConnectionHandle as _, DisconnectReason, SeenOutcome};
use crate::sync::atomic::Ordering;
use crate::wire::{Goodbye, GoodbyeReason};

use super::peer::Peer;

/// The owner of one connection, and the life of its peer on the node's side.
///
/// Invariant: `disconnect_runs_exactly_once`.
/// - Statement: what begins with a peer ends with it exactly once, whatever ends it: goodbye,
///   error, panic, a runtime that is torn down.
/// - Enforced by: all of it happens in this type's drop, which follows the drop of the connection.
/// - Breaks if: a peer goes live without a session.
///
/// Invariant: `cleanup_awaits_nothing_and_spawns_nothing`.
/// - Statement: the clean-up after a peer waits for nothing and spawns nothing.
/// - Enforced by: a drop cannot await, and this one only changes indexes and notifies.
/// - Breaks if: it hands a part of its work to a task.
pub(crate) struct PeerSession {
    node: NodeRef,
    peer: Arc<Peer>,
    /// Why the connection closed; `None` while it is open, or if its task was dropped.
    close_reason: Option<Box<CloseReason>>,
    /// Whether the handler's `connected` was called.
    is_announced: bool,
}

impl PeerSession {
    /// Counts as a running connection until dropped.
    pub(crate) fn new(node: NodeRef, peer: Arc<Peer>) -> Self {
        node.shared().tasks.connection_begins();
        node.shared().connecting.sessions.lock().add(Source::of(peer.ip()));
        Self { node, peer, close_reason: None, is_announced: false }
    }

    /// Calls the handler's `connected` hook, once, from the connection's own task and before its
    /// first message.
    pub(crate) fn on_first_poll(&mut self) {
        if !self.is_announced {
            self.is_announced = true;
            let panicked = !self.call_handler(|cx, shared| shared.handler.connected(cx));
            if panicked {
                // The application knows the peer in part only.
                let goodbye = Goodbye::new(GoodbyeReason::Failed);
                self.peer.connection().handle().close(DisconnectReason::HandlerPanic, Some(goodbye));
            }
        }
    }

    pub(crate) fn set_close_reason(&mut self, reason: CloseReason) {
        self.close_reason = Some(Box::new(reason));
    }

    /// Calls the application's code. A panic is counted and ends here; `false` then.
    fn call_handler(&self, call: impl FnOnce(Context<'_>, &Shared)) -> bool {
        let guarded = AssertUnwindSafe(|| call(Context::new(&self.node, &self.peer), self.node.shared()));
        let result = catch_unwind(guarded);
        if result.is_err() {
            self.on_panic();
        }
        result.is_ok()
    }

    /// Records a session of an address that we dialled, if it ended before it was stable.
    ///
    /// Invariant: `backoff_resets_after_a_stable_session`: only a stable session resets the
    /// backoff, see [`Maintenance`](crate::node::runtime::maintenance::Maintenance).
    fn record_unstable(&self, reason: DisconnectReason, departed_now: bool) {
        let (shared, peer) = (self.node.shared(), &self.peer);
        if peer.direction() == Direction::Inbound || peer.connection().is_stable() || shared.is_stopping() {
            return;
        }
        let outcome = match reason {
            // A peer that reports a duplicate while it has no other connection from its address: it
            // accepts and hangs up.
            DisconnectReason::Collision | DisconnectReason::Replaced
                if departed_now && shared.pool.count_by_ip(peer.ip()) == 0 =>
            {
                DialOutcome::Failed(FailureCause::Unstable)
            }
            DisconnectReason::Collision
            | DisconnectReason::Replaced
            | DisconnectReason::Requested
            | DisconnectReason::Shutdown => DialOutcome::Collision,
            _ => DialOutcome::Failed(FailureCause::Unstable),
        };
        shared.book.record(&peer.addr(), outcome, WallTime::now());
    }
}

impl ConnectionHandler for PeerSession {
    fn now(&self) -> Tick {
        self.node.shared().now()
    }

    fn on_frame(&self, now: Tick) -> bool {
        let is_alive = self.peer.seen(now) == SeenOutcome::Alive;
        if let (false, Some(reason)) = (is_alive, self.peer.disconnect_reason()) {
            // The caller that made it depart closes it next. The reason must be set before the
            // connection reads it.
            self.peer.connection().close(reason);
        }
        is_alive
    }

    fn on_event(&self, event: Event<'_>) -> Handled {
        let shared = self.node.shared();
        count(&shared.counters.events);
        shared.handler.event(Context::new(&self.node, &self.peer), event)
    }

    fn on_request(&self, request: Request<'_>, responder: Responder) -> Handled {
        let shared = self.node.shared();
        count(&shared.counters.requests);
        shared.handler.request(Context::new(&self.node, &self.peer), request, responder)
    }

    fn on_read_paused(&self, paused: bool) {
        if paused {
            self.peer.pause();
        } else {
            self.peer.resume(self.now());
        }
    }

    fn on_rtt(&self, rtt: Duration) {
        self.peer.set_rtt(rtt);
        self.peer.reward(self.now());
    }

    fn on_get_peers(&self, max: usize) -> Vec<SocketAddr> {
        let shared = self.node.shared();
        let asker = Asker { ip: self.peer.ip(), protocol: self.peer.connection().protocol_id() };
        addr_exchange::tell(shared, &asker, max)
    }

    fn on_peers(&self, peers: Vec<SocketAddr>) {
        let shared = self.node.shared();
        let protocol = self.peer.connection().protocol_id();
        let new = addr_exchange::learn(shared, self.peer.ip(), protocol, peers);
        tracing::debug!(peer = %self.peer.key(), new, "received addresses");
        if new > 0 {
            shared.wake_maintenance();
        }
    }

    fn on_goodbye(&self, goodbye: Goodbye) {
        tracing::debug!(peer = %self.peer.key(), reason = ?goodbye.reason, retry_after = ?goodbye.retry_after, "goodbye");
    }

    fn on_lagged(&self, lane: Lane, skipped: u64) {
        let shared = self.node.shared();
        shared.counters.missed_broadcasts.fetch_add(skipped, Ordering::Relaxed);
        if shared.may_log(LogKind::PeerSlow, self.peer.ip()) {
            tracing::warn!(peer = %self.peer.key(), ?lane, skipped, "a slow peer missed broadcasts");
        }
        let (key, conn, at) = (*self.peer.key(), self.peer.id(), shared.now());
        shared.events.send(NodeEvent::PeerLagged { key, conn, lane, missed: skipped, at });
        self.call_handler(|cx, shared| shared.handler.peer_lagged(cx, lane, skipped));
    }

    fn on_missed(&self, lane: Lane, missed: u64) {
        let shared = self.node.shared();
        // The number is the peer's claim.
        let _ = shared.counters.missed_from_peers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |sum| {
            Some(sum.saturating_add(missed))
        });
        if shared.may_log(LogKind::SelfSlow, self.peer.ip()) {
            tracing::warn!(peer = %self.peer.key(), ?lane, missed, "we read too slowly and missed broadcasts");
        }
        let (key, conn, at) = (*self.peer.key(), self.peer.id(), shared.now());
        shared.events.send(NodeEvent::BroadcastsMissed { key, conn, lane, missed, at });
        self.call_handler(|cx, shared| shared.handler.broadcasts_missed(cx, lane, missed));
    }

    fn on_panic(&self) {
        count(&self.node.shared().counters.panics);
        if self.node.shared().may_log(LogKind::HandlerPanic, self.peer.ip()) {
            tracing::error!(peer = %self.peer.key(), "a handler panicked");
        }
    }

    fn on_close(&self, end: &CloseReason) {
        let shared = self.node.shared();
        if let Some(fault) = end.misbehavior() {
            self.peer.penalize(fault, self.now());
        }
        shared.pool.remove(self.peer.key(), self.peer.id(), end.disconnect_reason());
    }

    fn on_traffic(&self, received: usize, sent: usize) {
        if received > 0 {
            self.peer.add_bytes_in(received as u64);
        }
        if sent > 0 {
            self.peer.add_bytes_out(sent as u64);
        }
    }
}

impl Drop for PeerSession {
    fn drop(&mut self) {
        let shared = self.node.shared();
        // Also if something below panics.
        let _counted = CountedConnection { shared, source: Source::of(self.peer.ip()) };
        let (peer, close_reason) = (&self.peer, self.close_reason.as_deref());
        let own_reason = close_reason.map_or(DisconnectReason::Closed, CloseReason::disconnect_reason);
        // The connection's own reason counts, unless somebody made the peer depart before.
        let departed_now = shared.pool.remove(peer.key(), peer.id(), own_reason).is_some();
        let reason = peer.disconnect_reason().unwrap_or(own_reason);
        if let Some(nonce) = peer.read_info(|info| info.nonce) {
            let processes = &shared.connecting.processes;
            let process = processes.process(peer.connection().protocol_id(), nonce, peer.ip());
            processes.remove(process, peer.id());
        }
        self.record_unstable(reason, departed_now);
        shared.events.down(peer, reason, shared.now());
        if shared.may_log(LogKind::PeerDown, peer.ip()) {
            let why = close_reason.map_or_else(|| "its task ended".to_owned(), ToString::to_string);
            tracing::info!(peer = %peer.key(), conn = %peer.id(), reason = reason.name(), %why, "peer down");
        }
        if self.is_announced {
            self.call_handler(|cx, shared| shared.handler.disconnected(cx, reason));
        }
        // A peer that gave way to another connection needs no replacement
        // (`collision_is_not_a_failure`).
        if !matches!(reason, DisconnectReason::Collision | DisconnectReason::Replaced) {
            shared.wake_maintenance();
        }
    }
}

/// Counts a connection as over when dropped.
struct CountedConnection<'a> {
    shared: &'a Shared,
    source: Source,
}

impl Drop for CountedConnection<'_> {
    fn drop(&mut self) {
        self.shared.connecting.sessions.lock().subtract(self.source);
        self.shared.tasks.connection_ends();
    }
}
