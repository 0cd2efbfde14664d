//! Answering a request of the peer.

use std::sync::Arc;

use bytes::Bytes;

use crate::base::Lane;
use crate::connection::handle::Connection;
use crate::connection::write::outbox::{Outgoing, QueueBound, Rejected};
use crate::wire::{MessageHeader, Status};

/// The one chance to answer a request. Dropping it sends [`Status::NoReply`].
#[derive(Debug)]
#[must_use = "dropping a responder tells the peer that there is no response"]
pub struct Responder {
    connection: Arc<Connection>,
    /// The peer's id, which it may use again.
    id: u32,
    /// Our number of the request.
    number: u32,
    lane: Lane,
    is_open: bool,
}

impl Responder {
    pub(in crate::connection) fn new(connection: Arc<Connection>, id: u32, number: u32, lane: Lane) -> Self {
        Self { connection, id, number, lane, is_open: true }
    }

    /// Sends the response on another lane than the request's: bulk for a large one.
    pub fn on(mut self, lane: Lane) -> Self {
        self.lane = if lane == Lane::Control { Lane::Normal } else { lane };
        self
    }

    /// Whether the peer still wants a response: it has not cancelled, and the connection is open.
    pub fn is_wanted(&self) -> bool {
        self.connection.is_open() && self.connection.is_response_wanted(self.number)
    }

    /// Sends the response. Never waits.
    ///
    /// # Errors
    /// See [`RespondError`]; the response comes back. Where the lane is full the peer gets
    /// [`Status::Busy`].
    pub fn respond(self, response: impl Into<Bytes>) -> Result<(), RespondError> {
        self.finish(Status::Ok, response.into())
    }

    /// Tells the peer that there is no response, and why.
    ///
    /// # Errors
    /// As for [`Responder::respond`].
    pub fn decline(self, status: Status, detail: impl Into<Bytes>) -> Result<(), RespondError> {
        self.finish(status, detail.into())
    }

    fn finish(mut self, status: Status, payload: Bytes) -> Result<(), RespondError> {
        self.is_open = false;
        if !self.connection.finish_request(self.number) {
            return Err(RespondError::Unwanted(payload));
        }
        if status != Status::Ok && self.connection.suppresses_declines() {
            self.connection.wake.notify();
            return Ok(());
        }
        let header = MessageHeader::Response { id: self.id, status };
        let bound = if payload.is_empty() { QueueBound::Extended } else { QueueBound::Normal };
        match self.connection.enqueue(self.lane, Outgoing { header, payload }, bound) {
            Ok(()) => Ok(()),
            Err((Rejected::Closed, out)) => Err(RespondError::Unwanted(out.payload)),
            Err((Rejected::Full, out)) => {
                self.send_status(Status::Busy);
                Err(RespondError::Full(out.payload))
            }
            Err((Rejected::Refused(_), out)) => {
                self.send_status(Status::TooLarge);
                Err(RespondError::TooLarge(out.payload))
            }
        }
    }

    fn send_status(&self, status: Status) {
        if self.connection.suppresses_declines() {
            // Nothing is queued that would tell the task of the free entry.
            return self.connection.wake.notify();
        }
        let header = MessageHeader::Response { id: self.id, status };
        // A closed connection has failed the request at the peer already.
        let outgoing = Outgoing { header, payload: Bytes::new() };
        let _ = self.connection.enqueue(self.lane, outgoing, QueueBound::Extended);
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if self.is_open && self.connection.finish_request(self.number) {
            // A panicking handler drops it too.
            self.send_status(if std::thread::panicking() { Status::Failed } else { Status::NoReply });
        }
    }
}

/// Why a response was not sent. It contains the response.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RespondError {
    /// The peer reads too slowly: the lane is full. The peer got [`Status::Busy`].
    #[error("the peer's lane is full")]
    Full(Bytes),
    /// It exceeds the cap of its lane. The peer got [`Status::TooLarge`].
    #[error("the response exceeds the cap of its lane")]
    TooLarge(Bytes),
    /// The request was cancelled, or the connection ended.
    #[error("the peer no longer waits for this response")]
    Unwanted(Bytes),
}
