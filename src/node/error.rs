//! Errors of a node: one type for each kind of operation.

use std::io;
use std::net::SocketAddr;

use crate::address_book::FailureCause;
use crate::base::{Lane, PeerId};
use crate::connection::{Message, RequestError, SendError};
use crate::pool::AdmitError;
use crate::transport::AcceptErrorKind;
use crate::wire::{EncodeError, Goodbye, GoodbyeReason, WireError};

use crate::node::config::ConfigError;

/// Why a connection did not become a live peer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address, or the peer, is banned.
    #[error("banned")]
    Banned,
    /// No slot is free.
    #[error("no slot: {0}")]
    Admission(#[from] AdmitError),
    /// A connection to this key exists, and it stays. Not a failure.
    #[error("already connected to {0}")]
    AlreadyConnected(PeerId),
    /// Another dial to this address is under way.
    #[error("a dial to this address is under way")]
    InProgress,
    /// The connection could not be opened, or broke during the handshake.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The other end closed the connection during the handshake, without a goodbye.
    #[error("closed during the handshake")]
    Eof,
    /// The other end does not speak our protocol.
    #[error("not our protocol: {0}")]
    Wire(#[from] WireError),
    /// The handshake took too long.
    #[error("the handshake took too long")]
    Timeout,
    /// The other end refused us.
    #[error("refused: {:?}", .0.reason)]
    Refused(Goodbye),
    /// The other end is of another network.
    #[error("another network: {theirs}, ours is {ours}")]
    WrongNetwork {
        /// Ours.
        ours: u64,
        /// Theirs.
        theirs: u64,
    },
    /// The other end speaks another version of the protocol.
    #[error("another version: {theirs}, ours is {ours}")]
    WrongVersion {
        /// Ours.
        ours: u32,
        /// Theirs.
        theirs: u32,
    },
    /// The other end has another genesis.
    #[error("another genesis")]
    WrongGenesis,
    /// The address is our own.
    #[error("our own address")]
    SelfDial,
    /// The application rejected this peer.
    #[error("rejected by the application")]
    Rejected,
    /// The other end only asked who listens here. It has its answer.
    #[error("only a probe")]
    Probe,
    /// The node shuts down.
    #[error("the node shuts down")]
    Shutdown,
    /// The node does not speak a protocol of this name.
    #[error("the node does not speak this protocol")]
    UnknownProtocol,
}

impl ConnectError {
    /// The goodbye for the other end, if there is one.
    pub(super) fn goodbye(&self, retry_after: std::time::Duration) -> Option<Goodbye> {
        let reason = match self {
            Self::Banned => GoodbyeReason::Banned,
            Self::Admission(_) => return Some(Goodbye::new(GoodbyeReason::Full).retry_after(retry_after)),
            Self::AlreadyConnected(_) | Self::InProgress => GoodbyeReason::Duplicate,
            Self::Wire(_) => GoodbyeReason::Protocol,
            Self::Timeout => GoodbyeReason::Timeout,
            Self::WrongNetwork { .. } => GoodbyeReason::WrongNetwork,
            Self::WrongVersion { .. } => GoodbyeReason::WrongVersion,
            Self::WrongGenesis => GoodbyeReason::WrongGenesis,
            Self::SelfDial => GoodbyeReason::SelfDial,
            Self::Rejected => GoodbyeReason::Rejected,
            Self::Shutdown => GoodbyeReason::Shutdown,
            Self::Io(_) | Self::Eof | Self::Refused(_) | Self::Probe | Self::UnknownProtocol => return None,
        };
        Some(Goodbye::new(reason))
    }

    /// Whether the connection gave way to another one between the same two nodes, which is not a
    /// failure.
    pub fn is_collision(&self) -> bool {
        match self {
            Self::AlreadyConnected(_) | Self::InProgress => true,
            Self::Refused(goodbye) => {
                matches!(goodbye.reason, GoodbyeReason::Duplicate | GoodbyeReason::Replaced)
            }
            _ => false,
        }
    }

    /// Whether the error says something about the address, rather than about our own limits or an
    /// existing connection.
    pub fn is_address_fault(&self) -> bool {
        self.fail_cause().is_some()
    }

    /// Whether we could not dial at all, for lack of descriptors or memory.
    pub(super) fn is_exhaustion(&self) -> bool {
        matches!(self, Self::Io(error) if AcceptErrorKind::of(error) == AcceptErrorKind::Exhausted)
    }

    /// Whether the address is unreachable from here. Our own network may be down, or have no ports
    /// left.
    pub(super) fn is_unreachable(&self) -> bool {
        use std::io::ErrorKind as Kind;
        matches!(self, Self::Io(error) if matches!(
            error.kind(),
            Kind::NetworkUnreachable | Kind::NetworkDown | Kind::HostUnreachable | Kind::AddrNotAvailable
        ))
    }

    /// Whether nothing came back.
    pub(super) fn is_silence(&self) -> bool {
        matches!(self, Self::Timeout)
            || matches!(self, Self::Io(error) if error.kind() == std::io::ErrorKind::TimedOut)
    }

    /// Whether the failed dial got an answer of any kind, if only that nobody listens.
    pub(super) fn has_reached_somebody(&self) -> bool {
        match self {
            Self::Io(_) => !self.is_unreachable() && !self.is_silence() && !self.is_exhaustion(),
            Self::Eof | Self::Wire(_) | Self::Refused(_) | Self::Rejected | Self::SelfDial => true,
            Self::WrongNetwork { .. } | Self::WrongVersion { .. } | Self::WrongGenesis => true,
            _ => false,
        }
    }

    /// The cause for the address book; `None` if the error says nothing about the address.
    pub(super) fn fail_cause(&self) -> Option<FailureCause> {
        Some(match self {
            Self::Io(error) if AcceptErrorKind::of(error) == AcceptErrorKind::Exhausted => return None,
            Self::Io(error) => FailureCause::of(error),
            Self::Eof => FailureCause::Handshake,
            Self::Wire(_) => FailureCause::Protocol,
            Self::Timeout => FailureCause::Timeout,
            Self::WrongNetwork { .. } | Self::WrongVersion { .. } | Self::WrongGenesis => {
                FailureCause::WrongNetwork
            }
            Self::Refused(_) | Self::Rejected => FailureCause::Rejected,
            _ => return None,
        })
    }
}

/// Why a node could not start, or not listen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration is invalid.
    #[error("configuration: {0}")]
    Config(#[from] ConfigError),
    /// An address could not be bound.
    #[error("cannot listen on {addr}: {cause}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// The error of the system.
        #[source]
        cause: io::Error,
    },
    /// The node does not speak a protocol of this name.
    #[error("the node does not speak this protocol")]
    UnknownProtocol,
    /// The node shuts down.
    #[error("the node shuts down")]
    Shutdown,
    /// Called outside of a tokio runtime.
    #[error("a node needs a tokio runtime to start in")]
    NoRuntime,
    /// The runtime was built without timers, which keep-alive, deadlines and maintenance need.
    #[error("a node needs a tokio runtime with timers: call `enable_time` or `enable_all` on its builder")]
    NoTimers,
    /// The system returned no random bytes.
    #[error("no random numbers: {0}")]
    Random(String),
}

/// Why a message was not broadcast.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BroadcastError {
    /// See [`EncodeError`].
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The message does not fit the log that all connections read from.
    #[error(
        "a broadcast of {size} bytes on the {lane:?} lane, at most {cap} fit: half of `log_ring_bytes`"
    )]
    TooLargeForLog {
        /// The lane.
        lane: Lane,
        /// The payload, in bytes.
        size: usize,
        /// Half of the lane's ring, in bytes.
        cap: usize,
    },
    /// The node shuts down, or has.
    #[error("the node shuts down")]
    Shutdown,
}

impl BroadcastError {
    /// Whether another protocol of the node may be able to express the message.
    pub(super) fn is_unsupported(&self) -> bool {
        matches!(self, Self::Encode(EncodeError::Unsupported { .. }))
    }
}

/// Why a message was not queued for a peer. The message comes back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerSendError {
    /// No live peer has this key.
    #[error("not connected to {0}")]
    NotConnected(PeerId, Message),
    /// See [`SendError`].
    #[error(transparent)]
    Connection(#[from] SendError),
}

/// Why a request got no response.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerRequestError {
    /// No live peer has this key.
    #[error("not connected to {0}")]
    NotConnected(PeerId),
    /// There is no live peer.
    #[error("no peer to ask")]
    NoPeers,
    /// See [`RequestError`]. If several peers were asked, the error of the last one.
    #[error(transparent)]
    Request(#[from] RequestError),
}
