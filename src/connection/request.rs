//! Asking a peer, and answering one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::base::Lane;
use crate::wire::{EncodeError, MessageHeader, Status};

use super::message::{Message, RequestError, Response, SendError};
use super::outbox::{Outgoing, Rejected};
use super::shared::{Answer, Connection, NoPlace, RequestDeclined};

impl Connection {
    /// Sends a request and waits for its answer, `within` at the longest. In a dialect without ids one request at a time waits
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
                Err(NoPlace::LazyBox) => return Err(RequestError::AnswerOpen(message)),
                Err(NoPlace::NoQuestion) => {
                    let cause = EncodeError::Unsupported { what: "request of this kind" };
                    return Err(SendError::Refused { message, cause }.into());
                }
            };
            let mut waits = TurnGuard { link: self, place, called, told: false };
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
        let mut waiting = WaiterGuard { link: self, lane, id, open: true };
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
    link: &'a Connection,
    place: u32,
    called: oneshot::Receiver<()>,
    told: bool,
}

impl Drop for TurnGuard<'_> {
    fn drop(&mut self) {
        // From here on whoever calls finds nobody, and calls the next one.
        self.called.close();
        if self.told || self.called.try_recv().is_ok() {
            self.link.pass_on(self.place);
        }
    }
}

/// Removes its own waiter, whatever way the request ends; one that was answered is gone already.
struct WaiterGuard<'a> {
    link: &'a Connection,
    lane: Lane,
    id: u32,
    open: bool,
}

impl Drop for WaiterGuard<'_> {
    fn drop(&mut self) {
        if self.open {
            self.link.give_up(self.lane, self.id);
        }
    }
}

/// The one chance to answer a request. Dropping it answers "no reply".
#[derive(Debug)]
#[must_use = "dropping a responder answers that there is no reply"]
pub struct Responder {
    link: Arc<Connection>,
    id: u32,
    /// The request's own: ids are the peer's to use again.
    number: u32,
    lane: Lane,
    open: bool,
}

impl Responder {
    pub(super) fn new(link: Arc<Connection>, id: u32, number: u32, lane: Lane) -> Self {
        Self { link, id, number, lane, open: true }
    }

    /// Takes another lane for the answer than the request came on: bulk for a large one.
    pub fn on(mut self, lane: Lane) -> Self {
        self.lane = if lane == Lane::Control { Lane::Normal } else { lane };
        self
    }

    /// Whether the peer still wants an answer: it has not cancelled, and the connection is open.
    pub fn is_wanted(&self) -> bool {
        self.link.is_open() && self.link.is_wanted(self.number)
    }

    /// Answers. Never waits.
    ///
    /// # Errors
    /// The answer comes back if the lane is full (the peer is told "busy" then) or nobody wants it any more.
    pub fn answer(self, answer: impl Into<Bytes>) -> Result<(), AnswerError> {
        self.finish(Status::Ok, answer.into())
    }

    /// Answers that there is no answer, and why.
    ///
    /// # Errors
    /// As for [`Responder::answer`].
    pub fn decline(self, status: Status, detail: impl Into<Bytes>) -> Result<(), AnswerError> {
        self.finish(status, detail.into())
    }

    fn finish(mut self, status: Status, payload: Bytes) -> Result<(), AnswerError> {
        self.open = false;
        if !self.link.end_answer(self.number) {
            return Err(AnswerError::Unwanted(payload));
        }
        if status != Status::Ok && self.link.is_silent() {
            self.link.answered_silently();
            return Ok(());
        }
        let head = MessageHeader::Response { id: self.id, status };
        let unbounded = payload.is_empty();
        match self.link.queue(self.lane, Outgoing { head, payload }, unbounded) {
            Ok(()) => Ok(()),
            Err((Rejected::Closed, out)) => Err(AnswerError::Unwanted(out.payload)),
            Err((Rejected::Full, out)) => {
                self.say(Status::Busy);
                Err(AnswerError::Full(out.payload))
            }
            Err((Rejected::Refused(_), out)) => {
                self.say(Status::TooLarge);
                Err(AnswerError::TooLarge(out.payload))
            }
        }
    }

    fn say(&self, status: Status) {
        if self.link.is_silent() {
            return self.link.answered_silently();
        }
        let head = MessageHeader::Response { id: self.id, status };
        // A closed link has failed the request at the peer already.
        let _ = self.link.queue(self.lane, Outgoing { head, payload: Bytes::new() }, true);
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if self.open && self.link.end_answer(self.number) {
            self.say(Status::NoReply);
        }
    }
}

/// Why an answer was not sent. It comes back.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The peer reads too slowly: the lane is full. It was told that we are busy.
    #[error("the peer's lane is full")]
    Full(Bytes),
    /// It exceeds the cap of its lane. The peer was told so.
    #[error("the answer exceeds the cap of its lane")]
    TooLarge(Bytes),
    /// The request was cancelled, or the connection ended.
    #[error("nobody waits for this answer")]
    Unwanted(Bytes),
}
