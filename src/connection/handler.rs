//! Whom a connection works for.

use std::net::SocketAddr;
use std::time::Duration;

use crate::base::{Lane, Tick};
use crate::wire::Goodbye;

use super::close_reason::CloseReason;
use super::message::{Event, Handled, Request};
use super::request::Responder;

/// The owner of a connection, called from the connection's task. No call may block; none is made under a lock of the connection.
///
/// A panic in [`ConnectionHandler::on_event`], [`ConnectionHandler::on_request`] or a future they return costs this one connection.
pub trait ConnectionHandler: Send + Sync + 'static {
    /// The present tick, on the clock that the reaper uses.
    fn now(&self) -> Tick;

    /// At least one complete frame arrived. `false`: the peer has been reaped meanwhile, the connection ends.
    fn on_frame(&self, now: Tick) -> bool;

    /// An event arrived, in its order.
    fn on_event(&self, event: Event<'_>) -> Handled;

    /// A request arrived.
    fn on_request(&self, request: Request<'_>, responder: Responder) -> Handled;

    /// Reading pauses because the inbox is full, or goes on: meanwhile the peer is not to be judged by its silence.
    fn on_read_paused(&self, paused: bool);

    /// A pong arrived.
    fn on_rtt(&self, rtt: Duration);

    /// The peer asks for addresses.
    fn on_get_peers(&self, max: usize) -> Vec<SocketAddr>;

    /// The peer tells addresses.
    fn on_peers(&self, peers: Vec<SocketAddr>);

    /// The peer says goodbye; the connection ends.
    fn on_goodbye(&self, goodbye: Goodbye);

    /// The peer was too slow for this lane's broadcasts: so many messages were left out for it.
    fn on_lagged(&self, lane: Lane, skipped: u64);

    /// The connection ends of its own accord, for this reason, and is about to tell the peer why. By now the peer should leave all
    /// look-ups; the task goes on for at most [`ConnectionConfig::linger`](super::ConnectionConfig::linger).
    fn on_close(&self, end: &CloseReason) {
        let _ = end;
    }

    /// Bytes that went over the line since the last call.
    fn on_traffic(&self, received: usize, sent: usize);
}
