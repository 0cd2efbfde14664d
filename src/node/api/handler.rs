//! The handler: the application's callbacks for everything that arrives.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::base::Lane;
use crate::connection::{Event, Handled, Request, Responder};
use crate::pool::DisconnectReason;
use crate::wire::{Hello, Status};

use super::handle::NodeRef;
use crate::node::session::peer::Peer;

/// The application's callbacks.
///
/// Each call is made from the task of the connection concerned, so it must not block. Work that
/// takes time is returned as [`Handled::later`]. A panic costs that one connection (invariant:
/// `panic_costs_one_call`).
///
/// All operations of the node may be called inside, `shutdown`, `disconnect` and dropping the last
/// [`Node`](crate::node::Node) included.
pub trait Handler: Send + Sync + 'static {
    /// An event arrived. Events of one peer are handed over one at a time, in order of arrival.
    fn event(&self, cx: Context<'_>, event: Event<'_>) -> Handled {
        let _ = (cx, event);
        Handled::Done
    }

    /// A request arrived. Requests run concurrently with events and with each other, at most
    /// [`ConnectionConfig::max_inbound_requests`](crate::connection::ConnectionConfig::max_inbound_requests)
    /// for each peer.
    ///
    /// Default: rejects it as an unknown kind.
    fn request(&self, cx: Context<'_>, request: Request<'_>, responder: Responder) -> Handled {
        let _ = (cx, request);
        // The peer may no longer wait for the rejection.
        let _ = responder.decline(Status::UnknownKind, "");
        Handled::Done
    }

    /// Whether the application accepts a peer with this hello, after the node's own checks have
    /// passed. Runs before the peer is live. Default: accepts.
    fn accept_peer(&self, hello: &Hello, from: SocketAddr) -> PeerDecision {
        let _ = (hello, from);
        PeerDecision::Accept
    }

    /// A peer is live. Called before its first message, and followed by exactly one
    /// [`Handler::disconnected`].
    fn connected(&self, cx: Context<'_>) {
        let _ = cx;
    }

    /// A peer is gone. Called after its last message.
    fn disconnected(&self, cx: Context<'_>, reason: DisconnectReason) {
        let _ = (cx, reason);
    }

    /// The peer was too slow for the broadcasts of a lane, and `missed` of them were skipped for
    /// it.
    fn peer_lagged(&self, cx: Context<'_>, lane: Lane, missed: u64) {
        let _ = (cx, lane, missed);
    }

    /// This node was too slow for the peer's broadcasts of a lane: the peer says that `missed` of
    /// them were skipped for us. Called between the messages before and behind the gap.
    fn broadcasts_missed(&self, cx: Context<'_>, lane: Lane, missed: u64) {
        let _ = (cx, lane, missed);
    }
}

/// A handler that ignores events and rejects requests.
impl Handler for () {}

impl<H: Handler> Handler for Arc<H> {
    fn event(&self, cx: Context<'_>, event: Event<'_>) -> Handled {
        (**self).event(cx, event)
    }

    fn request(&self, cx: Context<'_>, request: Request<'_>, responder: Responder) -> Handled {
        (**self).request(cx, request, responder)
    }

    fn accept_peer(&self, hello: &Hello, from: SocketAddr) -> PeerDecision {
        (**self).accept_peer(hello, from)
    }

    fn connected(&self, cx: Context<'_>) {
        (**self).connected(cx);
    }

    fn disconnected(&self, cx: Context<'_>, reason: DisconnectReason) {
        (**self).disconnected(cx, reason);
    }

    fn peer_lagged(&self, cx: Context<'_>, lane: Lane, missed: u64) {
        (**self).peer_lagged(cx, lane, missed);
    }

    fn broadcasts_missed(&self, cx: Context<'_>, lane: Lane, missed: u64) {
        (**self).broadcasts_missed(cx, lane, missed);
    }
}

/// The application's decision about a new peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerDecision {
    /// The peer may connect.
    Accept,
    /// The connection is refused.
    Reject,
}

/// The node and the peer that a call to the handler concerns.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    node: &'a NodeRef,
    peer: &'a Arc<Peer>,
}

impl<'a> Context<'a> {
    pub(crate) fn new(node: &'a NodeRef, peer: &'a Arc<Peer>) -> Self {
        Self { node, peer }
    }

    /// The node. A future may hold a clone. What outlives the connection, for example the handler,
    /// keeps [`NodeRef::downgrade`] instead.
    pub fn node(&self) -> &'a NodeRef {
        self.node
    }

    /// The peer.
    pub fn peer(&self) -> &'a Arc<Peer> {
        self.peer
    }
}
