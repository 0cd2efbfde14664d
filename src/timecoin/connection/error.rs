//! Why something on a connection failed.

use std::time::Duration;

use crate::connection::{RequestError, SendError};
use crate::node::ConnectError;
use crate::timecoin::wire::{DecodeError, Kind, TextError};
use crate::wire::{EncodeError, Status, WireError};

/// Why something on a connection failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The connection was not opened, or its handshake failed; see [`ConnectError`].
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// As many connections for single messages are open as may be, and were all the time.
    #[error("no connection for this message alone could be opened time_limit {0:?}: too many are")]
    NoOneShotSlot(Duration),
    /// The connection broke. It is closed.
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    /// The other end closed the connection.
    #[error("closed by the other end")]
    Eof,
    /// Writing took too long. A frame may be sent halfway, so the connection is closed.
    #[error("writing took longer than {0:?}")]
    WriteTimeout(Duration),
    /// Nothing came in time. The connection can still be used, and a frame that has begun to arrive is not lost; where it was the
    /// answer to a question, that may still come.
    #[error("nothing came time_limit {0:?}")]
    ReadTimeout(Duration),
    /// A frame announced more than a frame may have. The connection is closed.
    #[error("a frame of {size} bytes, at most {cap} are allowed")]
    TooLarge {
        /// What it announced, in bytes.
        size: usize,
        /// The cap, in bytes.
        cap: usize,
    },
    /// A frame was read that is no message. The connection can still be used.
    #[error("no message: {0}")]
    Unreadable(#[from] DecodeError),
    /// The message has no text.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The message is larger than a frame may be.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// This kind of message asks nothing.
    #[error("{0} is no question")]
    NotARequest(Kind),
    /// The answer to an earlier question, which would be taken for this one's, was still to come and did not. This one was not sent.
    /// The connection can still be used.
    #[error("{0} was not asked: an earlier question is still unanswered")]
    ReplyOutstanding(Kind),
    /// The peer, a node of ours, says that the question has no answer, and why. The connection can still be used.
    #[error("declined: {0:?}")]
    Declined(Status),
    /// More frames came that were not asked for than are kept. The connection is closed.
    #[error("too many unasked messages")]
    Flooded,
    /// The connection is closed.
    #[error("the connection is closed")]
    Closed,
    /// The connection is in the pool, whose node reads it.
    #[error("the connection was handed over")]
    HandedOver,
    /// It is in the pool, which did not take the message.
    #[error(transparent)]
    Send(#[from] SendError),
    /// It is in the pool, and the question has no answer.
    #[error(transparent)]
    Request(#[from] RequestError),
}

impl From<WireError> for ConnectionError {
    fn from(error: WireError) -> Self {
        Self::Connect(error.into())
    }
}
