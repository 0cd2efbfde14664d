//! What goes through a connection, as its owner sees it.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;

use crate::base::Lane;
use crate::wire::{EncodeError, Payload, Status};

/// A message to send: the application's kind, its bytes, and the lane it takes.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// Order class; [`Lane::Control`] is refused.
    pub lane: Lane,
    /// What the application calls it.
    pub kind: u16,
    /// Its bytes.
    pub payload: Bytes,
}

impl Message {
    /// A message on [`Lane::Normal`].
    pub fn new(kind: u16, payload: impl Into<Bytes>) -> Self {
        Self { lane: Lane::Normal, kind, payload: payload.into() }
    }

    /// The same message on [`Lane::Urgent`].
    #[must_use]
    pub fn urgent(self) -> Self {
        Self { lane: Lane::Urgent, ..self }
    }

    /// The same message on [`Lane::Bulk`].
    #[must_use]
    pub fn bulk(self) -> Self {
        Self { lane: Lane::Bulk, ..self }
    }
}

/// Without the payload itself: messages end up in errors, and errors in logs.
impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { lane, kind, payload } = self;
        write!(f, "Message {{ lane: {lane:?}, kind: {kind}, payload: {} bytes }}", payload.len())
    }
}

/// An event that arrived.
#[derive(Debug)]
pub struct Event<'a> {
    /// The lane it came on.
    pub lane: Lane,
    /// What the application calls it.
    pub kind: u16,
    /// Its bytes, still in the read buffer if it is small: [`Payload::into_bytes`] makes them the keeper's own.
    pub payload: Payload<'a>,
}

impl Event<'_> {
    /// The same as a message of one's own, to be passed on: on the lane it came on. Cost: copies a payload that is still in the read
    /// buffer.
    pub fn into_message(self) -> Message {
        Message { lane: self.lane, kind: self.kind, payload: self.payload.into_bytes() }
    }
}

/// A request that arrived; it is answered through the [`Responder`](super::Responder) that came with it.
#[derive(Debug)]
pub struct Request<'a> {
    /// The lane it came on; the answer takes the same unless told otherwise.
    pub lane: Lane,
    /// What the application calls it.
    pub kind: u16,
    /// Its bytes; see [`Event::payload`].
    pub payload: Payload<'a>,
}

/// What a handler made of a message.
pub enum Handled {
    /// It is dealt with. Allocates nothing.
    Done,
    /// The rest takes time: this future is polled by the connection's task. Events wait for it in order; requests run beside.
    Later(Pin<Box<dyn Future<Output = ()> + Send>>),
}

impl Handled {
    /// The rest takes time.
    pub fn later(rest: impl Future<Output = ()> + Send + 'static) -> Self {
        Self::Later(Box::pin(rest))
    }
}

impl std::fmt::Debug for Handled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Done => "Done",
            Self::Later(_) => "Later(..)",
        })
    }
}

/// Why a message was not taken for sending. The message comes back.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The lane's queue is full, or the memory ceiling is reached: the peer reads too slowly. Cure: drop the message, or try again
    /// later.
    #[error("the peer's {:?} lane is full", .0.lane)]
    Full(Message),
    /// The connection is closed or closing.
    #[error("the connection is closed")]
    Closed(Message),
    /// The protocol cannot say this: too large for its lane, on the control lane, or of a kind that it has no word for.
    #[error("{cause}")]
    Refused {
        /// The message.
        message: Message,
        /// What is wrong with it.
        cause: EncodeError,
    },
}

impl SendError {
    /// The message that was not taken.
    pub fn into_message(self) -> Message {
        match self {
            Self::Full(message) | Self::Closed(message) | Self::Refused { message, .. } => message,
        }
    }
}

/// The answer to a request.
pub type Response = Bytes;

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// It was not sent; see [`SendError`].
    #[error("the request was not sent: {0}")]
    NotSent(#[from] SendError),
    /// Too many of our requests await an answer on this connection; in a protocol without ids also: no turn came in time. It
    /// was not sent.
    #[error("too many requests await an answer")]
    TooMany(Message),
    /// The protocol has no ids, and an earlier request was given up whose answer may still come: it would be taken for this
    /// one's. Over with that answer, or with the connection. It was not sent.
    #[error("an earlier request of this kind is still unanswered")]
    ReplyOutstanding(Message),
    /// No answer came in time. One that had not been sent yet was taken back; else the peer was told that none is wanted any more, where
    /// the protocol has a word for it.
    #[error("no answer in time")]
    Timeout,
    /// The connection ended before the answer came.
    #[error("the connection ended before the answer came")]
    Closed,
    /// The peer answered that it has no answer.
    #[error("the peer did not answer: {status:?}")]
    Declined {
        /// Its reason.
        status: Status,
        /// What it said about it.
        detail: Bytes,
    },
}
