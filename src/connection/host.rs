//! Whom a link works for.

use std::net::SocketAddr;
use std::time::Duration;

use crate::base::{Lane, Tick};
use crate::wire::Goodbye;

use super::end::CloseReason;
use super::message::{Event, Handled, Request};
use super::request::Responder;

/// The owner of a link, called from the link's task. No call may block; none is made under a lock of the link.
///
/// A panic in [`ConnectionHandler::event`], [`ConnectionHandler::request`] or a future they return costs this one link.
pub trait ConnectionHandler: Send + Sync + 'static {
    /// The present tick, on the clock that the reaper uses.
    fn now(&self) -> Tick;

    /// At least one complete frame arrived. `false`: the peer has been reaped meanwhile, the link ends.
    fn seen(&self, now: Tick) -> bool;

    /// An event arrived, in its order.
    fn event(&self, event: Event<'_>) -> Handled;

    /// A request arrived.
    fn request(&self, request: Request<'_>, responder: Responder) -> Handled;

    /// Reading pauses because the inbox is full, or goes on: meanwhile the peer is not to be judged by its silence.
    fn paused(&self, paused: bool);

    /// A pong arrived.
    fn rtt(&self, rtt: Duration);

    /// The peer asks for addresses.
    fn peers_asked(&self, max: usize) -> Vec<SocketAddr>;

    /// The peer tells addresses.
    fn peers_told(&self, peers: Vec<SocketAddr>);

    /// The peer says goodbye; the link ends.
    fn goodbye(&self, goodbye: Goodbye);

    /// The peer was too slow for this lane's broadcasts: so many messages were left out for it.
    fn gap(&self, lane: Lane, skipped: u64);

    /// The link ends of its own accord, for this reason, and is about to tell the peer why. By now the peer should leave all
    /// look-ups; the task goes on for at most [`ConnectionConfig::linger`](super::ConnectionConfig::linger).
    fn leaving(&self, end: &CloseReason) {
        let _ = end;
    }

    /// Bytes that went over the line since the last call.
    fn traffic(&self, received: usize, sent: usize);
}
