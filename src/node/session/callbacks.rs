//! What a link calls: from bytes on one connection to the application and the pool.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::address_book::{Source, WallTime};
use crate::base::{Lane, Tick};
use crate::connection::{CloseReason, ConnectionHandler, Event, Handled, Request, Responder};
use crate::pool::{ConnectionHandle as _, SeenOutcome};
use crate::wire::Goodbye;

use crate::node::api::events::NodeEvent;
use crate::node::api::handle::NodeRef;
use crate::node::api::handler::Context;
use crate::node::session::info::Peer;
use crate::node::runtime::shared::count;

/// The owner of one link, and the peer's life on the node's side: see [`life`](super::task).
pub(crate) struct PeerSession {
    pub(crate) node: NodeRef,
    pub(crate) peer: Arc<Peer>,
    /// What the link ended of.
    pub(crate) end: Option<Box<CloseReason>>,
    /// The handler was told of the peer.
    pub(crate) hooked: bool,
}

impl ConnectionHandler for PeerSession {
    fn now(&self) -> Tick {
        self.node.shared().now()
    }

    fn on_frame(&self, now: Tick) -> bool {
        let alive = self.peer.seen(now) == SeenOutcome::Alive;
        if let (false, Some(reason)) = (alive, self.peer.disconnect_reason()) {
            // Whoever departed it closes it next; the reason must stand before the link looks for one.
            self.peer.connection().close(reason);
        }
        alive
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
        let tongue = self.peer.connection().tongue();
        // It can dial only what speaks its dialect.
        let mut known = shared.book.sample(WallTime::now(), shared.tongues.count().saturating_mul(max));
        known.retain(|addr| shared.tongues.at(*addr) == tongue);
        known.truncate(max);
        known
    }

    fn on_peers(&self, peers: Vec<SocketAddr>) {
        let shared = self.node.shared();
        let now = WallTime::now();
        let source = Source::Peer(self.peer.addr().ip());
        let mut new = 0;
        for addr in peers {
            if matches!(shared.book.add(addr, source, now), Ok(crate::address_book::Added::New)) {
                shared.tongues.learn(addr, self.peer.connection().tongue());
                new += 1;
            }
        }
        tracing::debug!(peer = %self.peer.key(), new, "told addresses");
        if new > 0 {
            shared.kick.notify_one();
        }
    }

    fn on_goodbye(&self, goodbye: Goodbye) {
        tracing::debug!(peer = %self.peer.key(), reason = ?goodbye.reason, retry_after = ?goodbye.retry_after, "goodbye");
    }

    fn on_lagged(&self, lane: Lane, skipped: u64) {
        let shared = self.node.shared();
        shared.counters.missed_broadcasts.fetch_add(skipped, crate::sync::atomic::Ordering::Relaxed);
        tracing::warn!(peer = %self.peer.key(), ?lane, skipped, "the peer is too slow and missed broadcasts");
        let at = shared.now();
        shared.events.send(NodeEvent::PeerLagged {
            key: *self.peer.key(),
            conn: self.peer.id(),
            lane,
            missed: skipped,
            at,
        });
        let tell = || shared.handler.peer_lagged(Context::new(&self.node, &self.peer), lane, skipped);
        if catch_unwind(AssertUnwindSafe(tell)).is_err() {
            count(&shared.counters.panics);
            tracing::error!(peer = %self.peer.key(), "a handler panicked");
        }
    }

    fn on_close(&self, end: &CloseReason) {
        let shared = self.node.shared();
        if matches!(end, CloseReason::HandlerPanic) {
            count(&shared.counters.panics);
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
