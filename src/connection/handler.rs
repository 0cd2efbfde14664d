//! Callbacks from a connection to its owner.

use std::net::SocketAddr;
use std::time::Duration;

use crate::base::{Lane, Tick};
use crate::wire::Goodbye;

use super::close_reason::CloseReason;
use super::message::{Event, Handled, Request};
use super::request::Responder;

/// The owner of a connection. The connection's task calls it; no call may block. No call is made
/// under a lock of the connection.
///
/// A panic in [`ConnectionHandler::on_event`], [`ConnectionHandler::on_request`] or a future that
/// they return closes this one connection.
pub trait ConnectionHandler: Send + Sync + 'static {
    /// The current tick of the clock that the reaper uses.
    fn now(&self) -> Tick;

    /// At least one complete frame arrived. `false` closes the connection: the peer was reaped
    /// meanwhile.
    fn on_frame(&self, now: Tick) -> bool;

    /// An event arrived. Events come one at a time, in arrival order.
    fn on_event(&self, event: Event<'_>) -> Handled;

    /// A request arrived.
    fn on_request(&self, request: Request<'_>, responder: Responder) -> Handled;

    /// Reading pauses because the inbox is full (`true`), or resumes. While it is paused the peer's
    /// silence says nothing about the peer.
    fn on_read_paused(&self, paused: bool);

    /// A pong arrived.
    fn on_rtt(&self, rtt: Duration);

    /// The peer asks for addresses. Returns at most `max`.
    fn on_get_peers(&self, max: usize) -> Vec<SocketAddr>;

    /// The peer sent the addresses that we asked for.
    fn on_peers(&self, peers: Vec<SocketAddr>);

    /// The peer says goodbye. The connection ends.
    fn on_goodbye(&self, goodbye: Goodbye);

    /// The peer was too slow for this lane's broadcasts: `skipped` messages were left out for it.
    fn on_lagged(&self, lane: Lane, skipped: u64);

    /// The peer says that we read too slowly: `missed` of its broadcasts on this lane were left out
    /// for us.
    fn on_missed(&self, lane: Lane, missed: u64);

    /// A call of the application's code panicked. Only that call is lost.
    fn on_panic(&self) {}

    /// The connection failed and is about to tell the peer why. From now on look-ups should not
    /// find the peer. The task goes on for at most
    /// [`ConnectionConfig::linger`](super::ConnectionConfig::linger).
    fn on_close(&self, reason: &CloseReason) {
        let _ = reason;
    }

    /// Bytes that were received and sent since the last call.
    fn on_traffic(&self, received: usize, sent: usize);
}
