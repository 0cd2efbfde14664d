//! A peer's life on the node's side, from up to down.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};

use crate::base::Direction;
use crate::connection::{CloseReason, ConnectionDriver};
use crate::pool::DisconnectReason;
use crate::transport::BoxStream;
use crate::wire::Protocol;

use crate::node::api::handle::NodeRef;
use crate::node::api::handler::Context;
use crate::node::session::callbacks::PeerSession;
use crate::node::session::info::Peer;
use crate::node::runtime::shared::{Shared, count};

/// What the task of a connection does, one part after the other: the handshake of one that was accepted, then its link.
///
/// A box, because the runtime rounds up the size of what it is given.
pub(crate) struct PeerTask(Pin<Box<dyn Future<Output = Option<PeerTask>> + Send>>);

impl PeerTask {
    pub(crate) fn new(part: impl Future<Output = Option<PeerTask>> + Send + 'static) -> Self {
        Self(Box::pin(part))
    }
}

impl Future for PeerTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        while let Some(next) = ready!(self.0.as_mut().poll(cx)) {
            *self = next;
        }
        Poll::Ready(())
    }
}

/// The link of a live peer.
pub(crate) struct RunConnection<D: Protocol> {
    task: Option<ConnectionDriver<D, BoxStream, PeerSession>>,
}

impl<D: Protocol> RunConnection<D> {
    pub(crate) fn new(task: ConnectionDriver<D, BoxStream, PeerSession>) -> Self {
        Self { task: Some(task) }
    }
}

impl<D: Protocol> Future for RunConnection<D> {
    /// Nothing comes after it.
    type Output = Option<PeerTask>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<PeerTask>> {
        let Some(task) = &mut self.task else { return Poll::Ready(None) };
        task.handler_mut().begin();
        match Pin::new(&mut *task).poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(end) => {
                task.handler_mut().end = Some(Box::new(end));
                self.task = None;
                Poll::Ready(None)
            }
        }
    }
}

/// Invariant 6. Statement: what begins with a peer ends with it exactly once, whatever ends it: goodbye, error, panic, a
/// runtime that is torn down. Enforced by: it all happens in this one drop, which comes after the link's own. Breaks if: a
/// peer goes live without one.
///
/// Invariant 19. Statement: cleaning up after a peer waits for nothing and spawns nothing. Enforced by: a drop cannot await, and
/// this one only tells others. Breaks if: it hands a part of its work to a task.
impl PeerSession {
    pub(crate) fn new(node: NodeRef, peer: Arc<Peer>) -> Self {
        node.shared().link_begins();
        Self { node, peer, end: None, hooked: false }
    }

    fn begin(&mut self) {
        if !self.hooked {
            self.hooked = true;
            self.guarded(|node, peer| node.shared().handler.connected(Context::new(node, peer)));
        }
    }

    /// Runs the application's code; a panic is counted and goes no further.
    fn guarded(&self, run: impl FnOnce(&NodeRef, &Arc<Peer>)) {
        let guarded = std::panic::AssertUnwindSafe(|| run(&self.node, &self.peer));
        if std::panic::catch_unwind(guarded).is_err() {
            count(&self.node.shared().counters.panics);
            tracing::error!(peer = %self.peer.key(), "a handler panicked");
        }
    }
}

impl Drop for PeerSession {
    fn drop(&mut self) {
        let shared = self.node.shared();
        // Also where something below panics.
        let _counted = Counted(shared);
        let end = self.end.as_deref();
        let said = end.map_or(DisconnectReason::Closed, CloseReason::disconnect_reason);
        // The peer's word, unless somebody here was first.
        let told = shared.pool.remove(self.peer.key(), self.peer.id(), said).is_some();
        let reason = self.peer.disconnect_reason().unwrap_or(said);
        if let Some(nonce) = self.peer.read_info(|info| info.nonce) {
            shared.instances.leave((self.peer.connection().tongue(), nonce), self.peer.id());
        }
        shared.note_session(&self.peer, reason, told);
        shared.events.down(&self.peer, reason, shared.now());
        if matches!(end, Some(CloseReason::HandlerPanic)) {
            tracing::error!(peer = %self.peer.key(), "a handler panicked; its connection is closed");
        }
        let why = end.map_or_else(|| "its task ended".to_owned(), ToString::to_string);
        tracing::info!(peer = %self.peer.key(), conn = %self.peer.id(), reason = reason.name(), %why, "peer down");
        if self.hooked {
            self.guarded(|node, peer| {
                node.shared().handler.disconnected(Context::new(node, peer), reason);
            });
        }
        // One that gave way to another is no loss to make up for (8).
        if !matches!(reason, DisconnectReason::Collision | DisconnectReason::Replaced) {
            shared.kick.notify_one();
        }
    }
}

/// Counts the link's task as ended when dropped.
struct Counted<'a>(&'a Shared);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.link_ends();
    }
}

impl Shared {
    /// What the book learns from a session that is over.
    fn note_session(&self, peer: &Peer, reason: DisconnectReason, told: bool) {
        use crate::address_book::{FailureCause, DialOutcome};
        if peer.direction() == Direction::Inbound || peer.connection().is_stable() || self.is_stopping() {
            return;
        }
        let outcome = match reason {
            // A peer that says so, and has no other connection from where it is, accepts and hangs up.
            DisconnectReason::Collision | DisconnectReason::Replaced
                if told && self.pool.count_by_ip(peer.ip()) == 0 =>
            {
                DialOutcome::Failed(FailureCause::Unstable)
            }
            DisconnectReason::Collision
            | DisconnectReason::Replaced
            | DisconnectReason::Requested
            | DisconnectReason::Shutdown => DialOutcome::Collision,
            _ => DialOutcome::Failed(FailureCause::Unstable),
        };
        self.book.record(&peer.addr(), outcome, crate::address_book::WallTime::now());
    }
}
