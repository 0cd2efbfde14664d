//! Messages, as the owner of a connection sees them.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;

use crate::base::Lane;
use crate::wire::{EncodeError, Payload, Status};

/// A message to send.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// The lane to send it on; [`Lane::Control`] is refused.
    pub lane: Lane,
    /// The application's kind.
    pub kind: u16,
    /// The payload.
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

/// Shows the length of the payload only: messages end up in errors, and errors in logs.
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
    /// The application's kind.
    pub kind: u16,
    /// The payload, borrowed from the read buffer if it is small. [`Payload::into_bytes`] makes it
    /// an owned one.
    pub payload: Payload<'a>,
}

impl Event<'_> {
    /// A message with the same lane, kind and payload, to be passed on.
    ///
    /// # Cost
    /// Copies a payload that is still in the read buffer.
    pub fn into_message(self) -> Message {
        Message { lane: self.lane, kind: self.kind, payload: self.payload.into_bytes() }
    }
}

/// A request that arrived. The [`Responder`](super::Responder) that comes with it answers it.
#[derive(Debug)]
pub struct Request<'a> {
    /// The lane it came on. The response takes the same lane unless
    /// [`Responder::on`](super::Responder::on) sets another.
    pub lane: Lane,
    /// The application's kind.
    pub kind: u16,
    /// The payload; see [`Event::payload`].
    pub payload: Payload<'a>,
}

/// Whether a handler is done with a message.
pub enum Handled {
    /// The message is handled. Allocates nothing.
    Done,
    /// The rest takes time: the connection's task polls this future. Later events wait for an
    /// event's future; requests run beside each other.
    Later(Pin<Box<dyn Future<Output = ()> + Send>>),
}

impl Handled {
    /// Wraps a future that does the rest. Cost: one allocation.
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

/// Why a message was not queued. It contains the message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The lane's queue is full, or the memory ceiling is reached: the peer reads too slowly. Drop
    /// the message or try again later.
    #[error("the peer's {:?} lane is full", .0.lane)]
    Full(Message),
    /// The connection is closed or closing.
    #[error("the connection is closed")]
    Closed(Message),
    /// The protocol cannot carry it: it is too large for its lane, on the control lane, or of an
    /// unknown kind.
    #[error("{cause}")]
    Refused {
        /// The message.
        message: Message,
        /// Why it was refused.
        #[source]
        cause: EncodeError,
    },
}

impl SendError {
    /// The message that was not queued.
    pub fn into_message(self) -> Message {
        match self {
            Self::Full(message) | Self::Closed(message) | Self::Refused { message, .. } => message,
        }
    }
}

/// The response to a request.
pub type Response = Bytes;

/// Why a request got no response.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// It was not sent; see [`SendError`].
    #[error("the request was not sent: {0}")]
    NotSent(#[from] SendError),
    /// As many of our requests as
    /// [`max_outbound_requests`](super::ConnectionConfig::max_outbound_requests) await a response on
    /// this connection, or, in a protocol without ids, one of this kind, and that did not change in
    /// time. The request was not sent.
    #[error("too many requests await a response (`connection.max_outbound_requests`)")]
    TooMany(Message),
    /// The protocol has no ids, and the response to an earlier, abandoned request may still come:
    /// it would be taken for this one's. Ends with that response, or with the connection. The
    /// request was not sent.
    #[error("an earlier request of this kind is still unanswered")]
    ReplyOutstanding(Message),
    /// No response came in time. A request that was not sent yet was taken back; otherwise it was
    /// cancelled at the peer, if the protocol has a cancel.
    #[error("no response in time")]
    Timeout,
    /// The connection ended before the response came.
    #[error("the connection ended before the response came")]
    Closed,
    /// The peer declined.
    #[error("the peer declined the request: {status:?}{}", detail_text(.detail))]
    Declined {
        /// Its reason.
        status: Status,
        /// Details from the peer.
        detail: Bytes,
    },
}

/// What a peer says beside its status, if it is text. At most 200 characters, on one line.
fn detail_text(detail: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(detail) else {
        return format!(" ({} bytes of detail)", detail.len());
    };
    let line: String = text.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.trim().is_empty() { String::new() } else { format!(": {}", line.trim()) }
}
