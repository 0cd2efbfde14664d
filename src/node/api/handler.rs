//! The application's side: one handler for everything that arrives.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::connection::{Event, Handled, Request, Responder};
use crate::pool::DisconnectReason;
use crate::wire::{Hello, Status};

use crate::node::api::handle::NodeRef;
use crate::node::session::info::Peer;

/// The application. Every call is made from the task of the link concerned, so it must not block; what takes time is
/// returned as [`Handled::later`]. A panic costs that one link.
///
/// All verbs are legal inside, `shutdown`, `disconnect` and dropping the last [`Node`](crate::node::Node) included.
pub trait Handler: Send + Sync + 'static {
    /// An event arrived. Events of one peer come one at a time, in the order of arrival.
    fn event(&self, cx: Context<'_>, event: Event<'_>) -> Handled {
        let _ = (cx, event);
        Handled::Done
    }

    /// A request arrived. Requests run beside events and beside each other, at most
    /// [`ConnectionConfig::requests`](crate::connection::ConnectionConfig::requests) a peer.
    fn request(&self, cx: Context<'_>, request: Request<'_>, responder: Responder) -> Handled {
        let _ = (cx, request);
        // Whether the peer still waits for the refusal does not matter.
        let _ = responder.decline(Status::UnknownKind, "");
        Handled::Done
    }

    /// A peer's hello arrived, and everything the node checks itself is in order: does the application want it? Runs before
    /// anything is live.
    fn accept_peer(&self, hello: &Hello, from: SocketAddr) -> PeerDecision {
        let _ = (hello, from);
        PeerDecision::Accept
    }

    /// A peer is live. Comes before its first message, and is paired with exactly one [`Handler::disconnected`].
    fn connected(&self, cx: Context<'_>) {
        let _ = cx;
    }

    /// A peer is gone. Comes after its last message.
    fn disconnected(&self, cx: Context<'_>, reason: DisconnectReason) {
        let _ = (cx, reason);
    }

    /// The peer was too slow for a lane's broadcasts and missed so many.
    fn peer_lagged(&self, cx: Context<'_>, lane: crate::base::Lane, missed: u64) {
        let _ = (cx, lane, missed);
    }
}

/// A handler that ignores events and refuses requests.
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

    fn peer_lagged(&self, cx: Context<'_>, lane: crate::base::Lane, missed: u64) {
        (**self).peer_lagged(cx, lane, missed);
    }
}

/// The application's answer to a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerDecision {
    /// Welcome.
    Accept,
    /// Not wanted.
    Reject,
}

/// Where a call to the handler comes from.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    node: &'a NodeRef,
    peer: &'a Arc<Peer>,
}

impl<'a> Context<'a> {
    pub(crate) fn new(node: &'a NodeRef, peer: &'a Arc<Peer>) -> Self {
        Self { node, peer }
    }

    /// The node. A future may take a clone along; what outlives the connection (the handler itself) keeps
    /// [`NodeRef::downgrade`] instead.
    pub fn node(&self) -> &'a NodeRef {
        self.node
    }

    /// The peer concerned.
    pub fn peer(&self) -> &'a Arc<Peer> {
        self.peer
    }
}
