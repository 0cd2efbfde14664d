//! Why something a manager was asked for did not happen: one enum per kind of operation.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::connection::{RequestError, SendError};
use crate::node::{ConnectError, StateError};
use crate::timecoin::connection::ConnectionError;
use crate::timecoin::wire::{DecodeError, Kind, NetworkMessage, TextError};
use crate::wire::EncodeError;

use super::snapshot::SnapshotFault;

/// Text that names no peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no address; an IP address is needed, with or without a port")]
pub struct BadAddress {
    /// What was given.
    pub text: String,
}

/// Why a peer is not connected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerConnectError {
    /// It is in quarantine. Cure: wait, or [release](crate::timecoin::PeerQuarantine::release_peer) it.
    #[error("{0} is in quarantine")]
    Quarantined(IpAddr),
    /// It did not become a peer; see [`ConnectError`].
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// Why a connection made elsewhere was not taken over. The connection is closed then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdoptError {
    /// The connection was closed, or handed over before.
    #[error("the connection is not open any more")]
    NotOpen,
    /// The peer is in quarantine.
    #[error("{0} is in quarantine")]
    Quarantined(IpAddr),
    /// It did not become a peer; see [`ConnectError`].
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// Why there is nobody to begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SeedError {
    /// No source named an address. Why those that could not be asked failed is in the log.
    #[error("no seed address found; configure seeds, TIMECOIN_SEEDS or a seed provider")]
    NoneFound,
}

/// Why a message was not sent to a peer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerSendError {
    /// It has no text; see [`TextError`].
    #[error(transparent)]
    Text(#[from] TextError),
    /// There is no connection to this address. The message comes back.
    #[error("not connected to {0}")]
    NotConnected(IpAddr, Box<NetworkMessage>),
    /// The address is in quarantine. The message comes back.
    #[error("{0} is in quarantine")]
    Quarantined(IpAddr, Box<NetworkMessage>),
    /// The connection did not take it. It comes back as text.
    #[error(transparent)]
    Queue(#[from] SendError),
    /// There was no connection, and a connection for this one message failed.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
}

/// Why a message was not broadcast.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BroadcastError {
    /// It has no text; see [`TextError`].
    #[error(transparent)]
    Text(#[from] TextError),
    /// It is larger than a message may be.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The newest value of a state was not taken; it comes back.
    #[error(transparent)]
    State(#[from] StateError),
    /// Its contents have no JSON text.
    #[error("no JSON text: {0}")]
    Json(#[from] serde_json::Error),
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerRequestError {
    /// No address; see [`BadAddress`].
    #[error(transparent)]
    Address(#[from] BadAddress),
    /// The question has no text; see [`TextError`].
    #[error(transparent)]
    Text(#[from] TextError),
    /// This kind of message asks nothing.
    #[error("{0} is no question")]
    NotARequest(Kind),
    /// There is no connection to this address, and none was wanted for this question alone.
    #[error("not connected to {0}")]
    NotConnected(SocketAddr),
    /// The address is in quarantine.
    #[error("{0} is in quarantine")]
    Quarantined(IpAddr),
    /// The peer has just dialled us and, being an old node, reads nothing at first; the question's own time would have ended
    /// before, and it could not be dialled for the question. It was not sent.
    #[error("the peer reads nothing for the next {left:?}")]
    ReadPaused {
        /// How long it goes on.
        left: Duration,
    },
    /// See [`RequestError`].
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A connection for this one question failed.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The answer is no message. The peer's health has suffered.
    #[error("an unreadable answer: {0}")]
    Unreadable(#[from] DecodeError),
    /// The answer's text is not what this kind of message holds. The peer's health has suffered.
    #[error("an answer that cannot be read: {0}")]
    BadContents(#[from] serde_json::Error),
    /// What came answers another question. The peer's health has suffered.
    #[error("{asked} was answered by {got}")]
    WrongAnswer {
        /// What was asked.
        asked: Kind,
        /// What came.
        got: Kind,
    },
}

impl PeerRequestError {
    /// Whether the question may be asked again at once in another way: the connection is gone or cannot take it now.
    pub(super) fn allows_one_shot_retry(&self) -> bool {
        matches!(
            self,
            Self::Request(
                RequestError::NotSent(SendError::Full(_) | SendError::Closed(_))
                    | RequestError::ReplyOutstanding(_)
                    | RequestError::TooMany(_)
                    | RequestError::Closed
            ) | Self::NotConnected(_)
        )
    }
}

/// Why there are no blocks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The question has no answer.
    #[error(transparent)]
    Request(#[from] PeerRequestError),
    /// The peer does not have this block.
    #[error("the peer has no block {0}")]
    NoSuchBlock(u64),
    /// The peer sent other blocks than those asked for. Its health has suffered.
    #[error("block {asked} was asked for, block {got} came")]
    WrongHeight {
        /// The height asked for.
        asked: u64,
        /// The height that came.
        got: u64,
    },
    /// The peer sent more blocks than were asked for. Its health has suffered.
    #[error("{asked} blocks were asked for, {got} came")]
    TooMany {
        /// How many were asked for.
        asked: u64,
        /// How many came.
        got: usize,
    },
    /// The last height is below the first, or there are too many between.
    #[error("blocks {from} to {to}: at least one and at most {most} can be asked for")]
    BadRange {
        /// The first height asked for.
        from: u64,
        /// The last height asked for.
        to: u64,
        /// How many at the most.
        most: u64,
    },
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The question has no answer.
    #[error(transparent)]
    Request(#[from] PeerRequestError),
    /// The peer's chain has no first block.
    #[error("the peer has no chain")]
    NoChain,
    /// The snapshot is of another height than asked for. The peer's health has suffered.
    #[error("a snapshot of height {asked} was asked for, one of {got} came")]
    WrongHeight {
        /// The height asked for.
        asked: u64,
        /// The height that came.
        got: u64,
    },
    /// The outputs cannot be read. The peer's health has suffered.
    #[error("the snapshot cannot be read: {0}")]
    Unreadable(#[from] SnapshotFault),
}

/// Why a vote was not acknowledged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VoteError {
    /// Only a vote on a block is acknowledged in this network. The message comes back.
    #[error("{} is not acknowledged", .0.kind())]
    NoVote(Box<NetworkMessage>),
    /// There is no acknowledgement.
    #[error(transparent)]
    Request(#[from] PeerRequestError),
    /// Another block was acknowledged.
    #[error("a vote on {expected} was acknowledged as one on {got}")]
    WrongBlock {
        /// The block voted on.
        expected: String,
        /// The block acknowledged.
        got: String,
    },
}

/// Why a ping has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PingError {
    /// There is no connection to this address.
    #[error("not connected to {0}")]
    NotConnected(IpAddr),
    /// No answer in time. The peer's health has suffered.
    #[error("no answer to a ping in time")]
    Timeout,
    /// The connection ended first.
    #[error("the connection ended before the ping was answered")]
    Closed,
}
