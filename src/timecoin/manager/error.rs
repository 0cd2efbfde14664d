//! Errors of [`PeerManager`](super::PeerManager), one enum for each kind of operation.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::connection::{RequestError, SendError};
use crate::node::{ConnectError, StartError, StateError};
use crate::timecoin::connection::ConnectionError;
use crate::timecoin::peers_json::ImportError;
use crate::timecoin::wire::{DecodeError, Kind, NetworkMessage, TextError};

use super::snapshot::SnapshotFault;

/// A text that is not an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an IP address, with or without a port")]
pub struct BadAddress {
    /// The text, cut to 64 characters.
    pub text: String,
}

/// Why a peer was not connected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerConnectError {
    /// The peer is quarantined. Cure: wait, or
    /// [release](crate::timecoin::PeerQuarantine::release_peer) it.
    #[error("{0} is quarantined")]
    Quarantined(IpAddr),
    /// The connection failed; see [`ConnectError`].
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// Why a connection was not adopted. The connection is closed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdoptError {
    /// The connection is closed, or was handed over before.
    #[error("the connection is not open")]
    NotOpen,
    /// The peer is quarantined.
    #[error("{0} is quarantined")]
    Quarantined(IpAddr),
    /// The peer did not go live; see [`ConnectError`].
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// Why no seeds were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SeedError {
    /// No source named an address. The log has the failures of the sources.
    #[error("no seed address found; configure seeds, TIMECOIN_SEEDS or a seed provider")]
    NoneFound,
}

/// Why a message was not sent to a peer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerSendError {
    /// The message has no JSON text; see [`TextError`].
    #[error(transparent)]
    Text(#[from] TextError),
    /// No connection to this address. Returns the message.
    #[error("not connected to {0}")]
    NotConnected(IpAddr, Box<NetworkMessage>),
    /// The address is quarantined. Returns the message.
    #[error("{0} is quarantined")]
    Quarantined(IpAddr, Box<NetworkMessage>),
    /// The connection's queue did not accept the message, which is returned as text.
    #[error(transparent)]
    Queue(#[from] SendError),
    /// A one-shot connection for the message failed.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
}

/// Why a manager could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManagerStartError {
    /// See [`StartError`].
    #[error(transparent)]
    Node(#[from] StartError),
    /// The configured `peers.json` was not imported. Remove it from the configuration to start
    /// without.
    #[error(transparent)]
    PeersJson(#[from] ImportError),
}

/// Why a message was not broadcast.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BroadcastError {
    /// The message has no JSON text; see [`TextError`].
    #[error(transparent)]
    Text(#[from] TextError),
    /// The message is too large, or the node shuts down.
    #[error(transparent)]
    Node(#[from] crate::node::BroadcastError),
    /// The newest value of a state was refused and is returned.
    #[error(transparent)]
    State(#[from] StateError),
    /// The contents have no JSON text.
    #[error("no JSON text: {0}")]
    Json(#[from] serde_json::Error),
}

/// Why a request got no reply.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerRequestError {
    /// Not an address; see [`BadAddress`].
    #[error(transparent)]
    Address(#[from] BadAddress),
    /// The request has no JSON text; see [`TextError`].
    #[error(transparent)]
    Text(#[from] TextError),
    /// Messages of this kind are not requests.
    #[error("{0} is not a request")]
    NotARequest(Kind),
    /// No connection to this address, and one-shot connections are disabled.
    #[error("not connected to {0}")]
    NotConnected(SocketAddr),
    /// The address is quarantined.
    #[error("{0} is quarantined")]
    Quarantined(IpAddr),
    /// The peer is a legacy node that has just dialled us and reads nothing yet. The request's time
    /// limit ends earlier, and the peer could not be dialled for it. The request was not sent.
    #[error("the peer does not read for the next {left:?}")]
    ReadPaused {
        /// How long the pause lasts.
        left: Duration,
    },
    /// See [`RequestError`].
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A one-shot connection for the request failed.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The reply is not a message. The peer lost health.
    #[error("unreadable reply: {0}")]
    Unreadable(#[from] DecodeError),
    /// The text inside the reply is invalid. The peer lost health.
    #[error("invalid reply contents: {0}")]
    BadContents(#[from] serde_json::Error),
    /// The reply answers another request. The peer lost health.
    #[error("{requested} was answered by {received}")]
    WrongReply {
        /// The kind of the request.
        requested: Kind,
        /// The kind of the reply.
        received: Kind,
    },
}

impl PeerRequestError {
    /// Whether a one-shot connection may succeed: the connection is gone, or cannot take the
    /// request now.
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

/// Why no blocks were received.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The request failed.
    #[error(transparent)]
    Request(#[from] PeerRequestError),
    /// The peer does not have this block.
    #[error("the peer has no block {0}")]
    NoSuchBlock(u64),
    /// The peer sent blocks of other heights. It lost health.
    #[error("block {requested} was requested, block {received} arrived")]
    WrongHeight {
        /// The requested height.
        requested: u64,
        /// The received height.
        received: u64,
    },
    /// The peer sent more blocks than requested. It lost health.
    #[error("{requested} blocks were requested, {received} arrived")]
    TooMany {
        /// Number of requested blocks.
        requested: u64,
        /// Number of received blocks.
        received: usize,
    },
    /// The range is empty or too long.
    #[error("blocks {from} to {to}: a request is for 1 to {most} blocks")]
    BadRange {
        /// The first requested height.
        from: u64,
        /// The last requested height.
        to: u64,
        /// The maximum number of blocks.
        most: u64,
    },
}

/// Why no snapshot was received.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The request failed.
    #[error(transparent)]
    Request(#[from] PeerRequestError),
    /// The peer's chain has no genesis block.
    #[error("the peer has no chain")]
    NoChain,
    /// The snapshot is of another height. The peer lost health.
    #[error("a snapshot of height {requested} was requested, one of {received} arrived")]
    WrongHeight {
        /// The requested height.
        requested: u64,
        /// The received height.
        received: u64,
    },
    /// The outputs cannot be decoded. The peer lost health.
    #[error("invalid snapshot: {0}")]
    Unreadable(#[from] SnapshotFault),
}

/// Why a vote was not acknowledged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VoteError {
    /// Not a vote on a block; only those are acknowledged. Returns the message.
    #[error("{} is never acknowledged", .0.kind())]
    NoVote(Box<NetworkMessage>),
    /// No acknowledgement arrived.
    #[error(transparent)]
    Request(#[from] PeerRequestError),
    /// The acknowledgement is for another block.
    #[error("the acknowledgement is for block {got}, the vote for {expected}")]
    WrongBlock {
        /// The block that was voted on.
        expected: String,
        /// The acknowledged block.
        got: String,
    },
}

/// Why a ping got no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PingError {
    /// No connection to this address.
    #[error("not connected to {0}")]
    NotConnected(IpAddr),
    /// No reply in time. The peer lost health.
    #[error("ping timed out")]
    Timeout,
    /// The connection ended first.
    #[error("the connection ended before the pong arrived")]
    Closed,
}
