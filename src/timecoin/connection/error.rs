//! Errors of a connection outside of the pool.

use std::time::Duration;

use crate::connection::{RequestError, SendError};
use crate::node::ConnectError;
use crate::timecoin::wire::{DecodeError, Kind, TextError};
use crate::wire::{EncodeError, Status, WireError};

/// Why an operation on a connection failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// Dialling or the handshake failed; see [`ConnectError`].
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// All one-shot connections were in use for the whole time.
    #[error("no one-shot connection was available within {0:?}")]
    NoOneShotSlot(Duration),
    /// An I/O error. The connection is closed.
    #[error("connection error: {0}")]
    Io(#[from] std::io::Error),
    /// The far end closed the connection.
    #[error("closed by the peer")]
    Eof,
    /// A write exceeded its time limit. The frame may be sent in part, so the connection is closed.
    #[error("writing exceeded {0:?}")]
    WriteTimeout(Duration),
    /// Nothing arrived in time. The connection can still be used, and a frame in progress is not
    /// lost. The reply to a request may still arrive.
    #[error("nothing received within {0:?}")]
    ReadTimeout(Duration),
    /// A frame announced more bytes than allowed. The connection is closed.
    #[error("a frame of {size} bytes exceeds the limit of {cap}")]
    TooLarge {
        /// The announced size, in bytes.
        size: usize,
        /// The limit, in bytes.
        cap: usize,
    },
    /// A frame is not a message. The connection can still be used.
    #[error("not a message: {0}")]
    Unreadable(#[from] DecodeError),
    /// The message has no JSON text.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The message is larger than a frame may be.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// Messages of this kind are not requests.
    #[error("{0} is not a request")]
    NotARequest(Kind),
    /// An earlier request is unanswered, and its reply could be mistaken for this one's. This
    /// request was not sent. The connection can still be used.
    #[error("{0} not sent: the reply to an earlier request is outstanding")]
    ReplyOutstanding(Kind),
    /// A peerpool node refused the request. The connection can still be used.
    #[error("refused: {0:?}")]
    Declined(Status),
    /// More unrequested frames arrived than are kept. The connection is closed.
    #[error("too many unrequested messages")]
    Flooded,
    /// The connection is closed.
    #[error("the connection is closed")]
    Closed,
    /// The connection was handed over to a node, which reads it.
    #[error("the connection was handed over")]
    HandedOver,
    /// The pool did not accept the message.
    #[error(transparent)]
    Send(#[from] SendError),
    /// A request through the pool failed.
    #[error(transparent)]
    Request(#[from] RequestError),
}

impl From<WireError> for ConnectionError {
    fn from(error: WireError) -> Self {
        Self::Connect(error.into())
    }
}
