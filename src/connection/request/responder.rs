//! Answering a request of the peer.

use std::sync::Arc;

use bytes::Bytes;

use crate::base::Lane;
use crate::connection::handle::Connection;
use crate::connection::write::outbox::{Outgoing, Rejected};
use crate::wire::{MessageHeader, Status};

/// The one chance to answer a request. Dropping it answers "no reply".
#[derive(Debug)]
#[must_use = "dropping a responder answers that there is no reply"]
pub struct Responder {
    connection: Arc<Connection>,
    id: u32,
    /// The request's own: ids are the peer's to use again.
    number: u32,
    lane: Lane,
    open: bool,
}

impl Responder {
    pub(in crate::connection) fn new(connection: Arc<Connection>, id: u32, number: u32, lane: Lane) -> Self {
        Self { connection, id, number, lane, open: true }
    }

    /// Takes another lane for the answer than the request came on: bulk for a large one.
    pub fn on(mut self, lane: Lane) -> Self {
        self.lane = if lane == Lane::Control { Lane::Normal } else { lane };
        self
    }

    /// Whether the peer still wants an answer: it has not cancelled, and the connection is open.
    pub fn is_wanted(&self) -> bool {
        self.connection.is_open() && self.connection.is_wanted(self.number)
    }

    /// Answers. Never waits.
    ///
    /// # Errors
    /// The answer comes back if the lane is full (the peer is told "busy" then) or nobody wants it any more.
    pub fn respond(self, response: impl Into<Bytes>) -> Result<(), RespondError> {
        self.finish(Status::Ok, response.into())
    }

    /// Answers that there is no answer, and why.
    ///
    /// # Errors
    /// As for [`Responder::respond`].
    pub fn decline(self, status: Status, detail: impl Into<Bytes>) -> Result<(), RespondError> {
        self.finish(status, detail.into())
    }

    fn finish(mut self, status: Status, payload: Bytes) -> Result<(), RespondError> {
        self.open = false;
        if !self.connection.end_answer(self.number) {
            return Err(RespondError::Unwanted(payload));
        }
        if status != Status::Ok && self.connection.is_silent() {
            self.connection.answered_silently();
            return Ok(());
        }
        let head = MessageHeader::Response { id: self.id, status };
        let unbounded = payload.is_empty();
        match self.connection.queue(self.lane, Outgoing { head, payload }, unbounded) {
            Ok(()) => Ok(()),
            Err((Rejected::Closed, out)) => Err(RespondError::Unwanted(out.payload)),
            Err((Rejected::Full, out)) => {
                self.say(Status::Busy);
                Err(RespondError::Full(out.payload))
            }
            Err((Rejected::Refused(_), out)) => {
                self.say(Status::TooLarge);
                Err(RespondError::TooLarge(out.payload))
            }
        }
    }

    fn say(&self, status: Status) {
        if self.connection.is_silent() {
            return self.connection.answered_silently();
        }
        let head = MessageHeader::Response { id: self.id, status };
        // A closed connection has failed the request at the peer already.
        let _ = self.connection.queue(self.lane, Outgoing { head, payload: Bytes::new() }, true);
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if self.open && self.connection.end_answer(self.number) {
            self.say(Status::NoReply);
        }
    }
}

/// Why an answer was not sent. It comes back.
#[derive(Debug, thiserror::Error)]
pub enum RespondError {
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
