//! What the pool is generic over: the key of a peer, and the handle of a connection.

use std::fmt;
use std::hash::Hash;

/// The identity that makes two connections the same peer.
///
/// Implemented for every type that satisfies the bounds. Its `Hash` and `Eq` are the only user code
/// that runs under a shard's lock, so they must not use the pool. Its `Drop` never runs under a
/// lock.
pub trait PeerKey: Clone + Eq + Hash + fmt::Debug + Send + Sync + 'static {}

impl<K: Clone + Eq + Hash + fmt::Debug + Send + Sync + 'static> PeerKey for K {}

/// The user's handle of a connection: a socket, a channel to the task that owns it, anything that
/// can be closed.
pub trait ConnectionHandle: Send + Sync + 'static {
    /// Facts about the peer (version, height, services). They may change while the peer is
    /// connected.
    type Info: Send + Sync + 'static;

    /// Ends the connection.
    ///
    /// The pool calls it exactly once for a connection that went live, from the thread that removes
    /// the peer, after the peer has left every look-up and count. No lock is held, so it may call
    /// the pool.
    ///
    /// It should not block: set a flag, shut down a socket, wake the owner.
    fn close(&self, reason: DisconnectReason);
}

/// A handle without a connection, for counting peers and for tests.
impl ConnectionHandle for () {
    type Info = ();

    fn close(&self, _reason: DisconnectReason) {}
}

/// Why a peer disconnected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
#[repr(u8)]
pub enum DisconnectReason {
    /// The remote application closed the connection in an orderly way.
    Closed,
    /// The connection broke: reset, write deadline, end of the stream without a goodbye.
    Lost,
    /// The sweep removed the peer because nothing arrived for too long.
    Stale,
    /// A newer connection of the same peer replaced it.
    Replaced,
    /// It lost the tie-break against another connection between the same two nodes. No failure.
    Collision,
    /// The peer is banned.
    Banned,
    /// The peer violated the protocol.
    Protocol,
    /// This node could not keep up with the peer: it lagged, or one of this node's queues was full.
    Overloaded,
    /// A limit was lowered below the number of connections.
    OverLimit,
    /// This node is shutting down.
    Shutdown,
    /// The application requested it.
    Requested,
    /// The remote node said that it shuts down.
    PeerShutdown,
    /// The remote node said that this node reads too slowly.
    TooSlow,
    /// The remote node ended the connection for another reason that it said: a ban, a limit, a
    /// violation of the protocol.
    Rejected,
    /// A handler of this node panicked before it had taken on the peer.
    HandlerPanic,
    /// The peer's health fell to zero.
    Misbehaved,
    /// A message of the peer grew too slowly.
    NoProgress,
}

impl DisconnectReason {
    /// Every reason, in order of [`DisconnectReason::index`].
    pub const ALL: [Self; 17] = [
        Self::Closed,
        Self::Lost,
        Self::Stale,
        Self::Replaced,
        Self::Collision,
        Self::Banned,
        Self::Protocol,
        Self::Overloaded,
        Self::OverLimit,
        Self::Shutdown,
        Self::Requested,
        Self::PeerShutdown,
        Self::TooSlow,
        Self::Rejected,
        Self::HandlerPanic,
        Self::Misbehaved,
        Self::NoProgress,
    ];

    /// Position in [`DisconnectReason::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Lost => "lost",
            Self::Stale => "stale",
            Self::Replaced => "replaced",
            Self::Collision => "collision",
            Self::Banned => "banned",
            Self::Protocol => "protocol",
            Self::Overloaded => "overloaded",
            Self::OverLimit => "over_limit",
            Self::Shutdown => "shutdown",
            Self::Requested => "requested",
            Self::PeerShutdown => "peer_shutdown",
            Self::TooSlow => "too_slow",
            Self::Rejected => "rejected",
            Self::HandlerPanic => "handler_panic",
            Self::Misbehaved => "misbehaved",
            Self::NoProgress => "no_progress",
        }
    }
}

impl fmt::Display for DisconnectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
