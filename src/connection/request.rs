//! Asking a peer, and answering one.

mod inbound_requests;
mod outbound_requests;
mod pending_by_kind;
pub(super) mod pipeline;
mod responder;

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::base::Lane;
use crate::wire::{EncodeError, MessageHeader, Status};

pub(super) use inbound_requests::{Answering, Begun};
pub(super) use outbound_requests::{NoPlace, Waiters};
pub use pipeline::RequestPipeline;
pub use responder::{RespondError, Responder};

use super::handle::Connection;
use super::message::{Message, RequestError, Response, SendError};

/// Where the answer to a request arrives.
pub(super) type Answer = oneshot::Receiver<Answered>;

/// An answer, or that there is none and why.
pub(super) type Answered = Result<Response, RequestDeclined>;

/// Why a peer did not answer.
#[derive(Debug)]
pub(super) struct RequestDeclined {
    pub(super) status: Status,
    pub(super) detail: Response,
}

impl Connection {
    /// Sends a request and waits for its answer, `within` at the longest. In a protocol without ids one request at a time waits
    /// for each kind of answer; another one waits for its turn first.
    ///
    /// # Errors
    /// See [`RequestError`].
    ///
    /// # Invariants
    /// 20. *Statement*: a request that is dropped at any of its awaits leaves no waiter, and passes on a turn that it was told of.
    ///     *Enforced by*: two guards. *Breaks if*: an await comes between taking a place and making its guard.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind: a request that was not sent is taken back, one that was is cancelled at
    /// the peer, and a late answer reaches nobody.
    pub async fn request(&self, message: Message, within: Duration) -> Result<Response, RequestError> {
        let (lane, kind) = (message.lane, message.kind);
        let mut left = within;
        let mut turn: Option<TurnGuard<'_>> = None;
        let (id, answer) = loop {
            let (place, called) = match self.add_waiter(kind, &message.payload, turn.is_some()) {
                Ok(waiter) => {
                    if let Some(turn) = &mut turn {
                        turn.told = false;
                    }
                    break waiter;
                }
                Err(NoPlace::Taken { place, turn }) => (place, turn),
                Err(NoPlace::Closed) => return Err(SendError::Closed(message).into()),
                Err(NoPlace::TooMany) => return Err(RequestError::TooMany(message)),
                Err(NoPlace::LazyBox) if self.may_follow(kind, &message.payload) => continue,
                Err(NoPlace::LazyBox) => return Err(RequestError::ReplyOutstanding(message)),
                Err(NoPlace::NoQuestion) => {
                    let cause = EncodeError::Unsupported { what: "request of this kind" };
                    return Err(SendError::Refused { message, cause }.into());
                }
            };
            let mut waits = TurnGuard { connection: self, place, called, told: false };
            let begun = Instant::now();
            match timeout(left, &mut waits.called).await {
                Err(_) => return Err(RequestError::TooMany(message)),
                Ok(Ok(())) => {
                    waits.told = true;
                    turn = Some(waits);
                }
                // No turn will come: the next look says why.
                Ok(Err(_)) => {}
            }
            left = left.saturating_sub(begun.elapsed());
        };
        let mut waiting = WaiterGuard { connection: self, lane, id, open: true };
        if let Err(error) = self.submit(MessageHeader::Request { id, kind }, message) {
            waiting.open = false;
            self.unask(id);
            return Err(error.into());
        }
        let answer = await_answer(answer, left).await;
        // Whoever answered took the waiter out of the table.
        waiting.open = !matches!(answer, Ok(_) | Err(RequestError::Declined { .. }));
        answer
    }
}

async fn await_answer(answer: Answer, within: Duration) -> Result<Response, RequestError> {
    match timeout(within, answer).await {
        Err(_) => Err(RequestError::Timeout),
        Ok(Err(_)) => Err(RequestError::Closed),
        Ok(Ok(Ok(response))) => Ok(response),
        Ok(Ok(Err(declined))) => Err(declined.into()),
    }
}

impl From<RequestDeclined> for RequestError {
    fn from(RequestDeclined { status, detail }: RequestDeclined) -> Self {
        Self::Declined { status, detail }
    }
}

/// Passes its turn on if it was told that it has come, and does not take it.
struct TurnGuard<'a> {
    connection: &'a Connection,
    place: u32,
    called: oneshot::Receiver<()>,
    told: bool,
}

impl Drop for TurnGuard<'_> {
    fn drop(&mut self) {
        // From here on whoever calls finds nobody, and calls the next one.
        self.called.close();
        if self.told || self.called.try_recv().is_ok() {
            self.connection.pass_on(self.place);
        }
    }
}

/// Removes its own waiter, whatever way the request ends; one that was answered is gone already.
struct WaiterGuard<'a> {
    connection: &'a Connection,
    lane: Lane,
    id: u32,
    open: bool,
}

impl Drop for WaiterGuard<'_> {
    fn drop(&mut self) {
        if self.open {
            self.connection.give_up(self.lane, self.id);
        }
    }
}
