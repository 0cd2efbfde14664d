//! Requests in both directions.
//!
//! ```text
//!  request() / RequestPipeline --> OutboundRequests --by id--------> response
//!                                         +--by slot (PendingByKind), in a protocol without ids
//!  request of the peer --> InboundRequests --> handler --> Responder --> response
//! ```

mod inbound_requests;
mod outbound_requests;
mod pending_by_kind;
mod pipeline;
mod responder;

use std::pin::pin;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout};

use crate::base::Lane;
use crate::wire::{EncodeError, MessageHeader, Status};

use super::budget::MemoryReservation;
use super::handle::Connection;
use super::message::{Message, RequestError, Response, SendError};

pub(super) use inbound_requests::{Admission, InboundRequests};
use outbound_requests::RegisterError;
pub(super) use outbound_requests::OutboundRequests;
pub use pipeline::RequestPipeline;
pub use responder::{RespondError, Responder};

/// A response, or that there is none and why.
type RequestResult = Result<Delivery, RequestDeclined>;

/// A response on its way to the asker, counted until it is taken.
#[derive(Debug)]
struct Delivery {
    response: Response,
    _counted: Option<MemoryReservation>,
}

/// Where the response to a request arrives. Fails if the connection ends first.
type ResponseReceiver = oneshot::Receiver<RequestResult>;

/// Why a peer did not respond.
#[derive(Debug)]
struct RequestDeclined {
    status: Status,
    detail: Response,
}

impl Connection {
    /// Sends a request and waits for its response, `within` at the longest. While
    /// [`max_outbound_requests`](super::ConnectionConfig::max_outbound_requests) await theirs, it
    /// waits for room first. In a protocol without ids one request at a time waits for each kind of
    /// response; others wait for their turn first.
    ///
    /// # Errors
    /// See [`RequestError`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind. A request that was not sent is taken back, one
    /// that was is cancelled at the peer, and a late response is dropped.
    ///
    /// Invariant: `dropped_futures_leave_nothing_behind`
    /// Statement: a request that is dropped at any of its awaits leaves no entry, and passes on a
    /// turn it was given.
    /// Enforced by: two guards.
    /// Breaks if: an await comes between taking a slot and making its guard.
    pub async fn request(&self, message: Message, within: Duration) -> Result<Response, RequestError> {
        let (lane, kind) = (message.lane, message.kind);
        let mut left = within;
        let mut turn: Option<TurnGuard<'_>> = None;
        let (id, response) = loop {
            let (slot, receiver) = match self.register_request(kind, &message.payload, turn.is_some()) {
                Ok(registered) => {
                    if let Some(turn) = &mut turn {
                        turn.has_turn = false;
                    }
                    break registered;
                }
                Err(RegisterError::SlotTaken { slot, turn }) => (slot, turn),
                Err(RegisterError::Closed) => return Err(SendError::Closed(message).into()),
                Err(RegisterError::TooMany { ended: Some(ended) }) => {
                    let begun = Instant::now();
                    if timeout(left, self.room_for_request(&ended)).await.is_err() {
                        return Err(RequestError::TooMany(message));
                    }
                    left = left.saturating_sub(begun.elapsed());
                    continue;
                }
                Err(RegisterError::TooMany { ended: None }) => return Err(RequestError::TooMany(message)),
                Err(RegisterError::ReplyOutstanding) if self.can_reuse_slot(kind, &message.payload) => continue,
                Err(RegisterError::ReplyOutstanding) => return Err(RequestError::ReplyOutstanding(message)),
                Err(RegisterError::Unsupported) => {
                    let cause = EncodeError::Unsupported { what: "request of this kind" };
                    return Err(SendError::Refused { message, cause }.into());
                }
            };
            let mut waiting = TurnGuard { connection: self, slot, receiver, has_turn: false };
            let begun = Instant::now();
            match timeout(left, &mut waiting.receiver).await {
                Err(_) => return Err(RequestError::TooMany(message)),
                Ok(Ok(())) => {
                    waiting.has_turn = true;
                    turn = Some(waiting);
                }
                // No turn will come: the next attempt says why.
                Ok(Err(_)) => {}
            }
            left = left.saturating_sub(begun.elapsed());
        };
        let mut registered = RequestGuard { connection: self, lane, id, is_open: true };
        if let Err(error) = self.send_as(MessageHeader::Request { id, kind }, message) {
            registered.is_open = false;
            self.unregister(id);
            return Err(error.into());
        }
        let result = await_response(response, left).await;
        // A response has removed the entry already.
        registered.is_open = !matches!(result, Ok(_) | Err(RequestError::Declined { .. }));
        result
    }
}

impl Connection {
    /// Resolves when a request has ended since too many were found, or the connection is closed.
    async fn room_for_request(&self, ended: &Notify) {
        let mut notified = pin!(ended.notified());
        // Registered before the table is looked at, so that an end in between is not missed.
        notified.as_mut().enable();
        let max = self.shared.config.max_outbound_requests;
        if self.is_open() && self.outbound.with(|outbound| outbound.len() >= max) == Some(true) {
            notified.await;
        }
    }
}

async fn await_response(response: ResponseReceiver, within: Duration) -> Result<Response, RequestError> {
    match timeout(within, response).await {
        Err(_) => Err(RequestError::Timeout),
        Ok(Err(_)) => Err(RequestError::Closed),
        Ok(Ok(Ok(delivery))) => Ok(delivery.response),
        Ok(Ok(Err(declined))) => Err(declined.into()),
    }
}

impl From<RequestDeclined> for RequestError {
    fn from(RequestDeclined { status, detail }: RequestDeclined) -> Self {
        Self::Declined { status, detail }
    }
}

/// A request in the queue of a slot. Dropping it passes on a turn that it was given and did not
/// use.
struct TurnGuard<'a> {
    connection: &'a Connection,
    slot: u32,
    receiver: oneshot::Receiver<()>,
    has_turn: bool,
}

impl Drop for TurnGuard<'_> {
    fn drop(&mut self) {
        // From here on a turn that is sent here fails, and goes to the next request.
        self.receiver.close();
        if self.has_turn || self.receiver.try_recv().is_ok() {
            self.connection.pass_turn(self.slot);
        }
    }
}

/// A registered request. Dropping it removes the entry, unless a response has.
struct RequestGuard<'a> {
    connection: &'a Connection,
    lane: Lane,
    id: u32,
    is_open: bool,
}

impl Drop for RequestGuard<'_> {
    fn drop(&mut self) {
        if self.is_open {
            self.connection.abandon_request(self.lane, self.id);
        }
    }
}
