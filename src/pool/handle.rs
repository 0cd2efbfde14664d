//! What the pool is generic over: the key of a peer, and what a connection is.

use std::fmt;
use std::hash::Hash;

/// What makes two connections "the same peer".
///
/// Implemented for everything that fits. Its `Hash` and `Eq` are the only user code that runs under a shard lock, so
/// they must not touch the pool; its `Drop` never does.
pub trait PeerKey: Clone + Eq + Hash + fmt::Debug + Send + Sync + 'static {}

impl<K: Clone + Eq + Hash + fmt::Debug + Send + Sync + 'static> PeerKey for K {}

/// The user's side of a connection: a socket, a channel to the task that owns it, anything that can be told to close.
pub trait ConnectionHandle: Send + Sync + 'static {
    /// What is known about the peer (version, height, services); it may change while the peer is connected.
    type Info: Send + Sync + 'static;

    /// Tells the connection to end. Called exactly once for a connection that went live, by whoever departs it, after
    /// the peer has left every look-up and count; never under a lock, so it may call the pool again.
    ///
    /// It should not wait: set a flag, shut a socket down, wake the owner.
    fn close(&self, reason: DisconnectReason);
}

/// A connection that is nothing: for counting peers, and for tests.
impl ConnectionHandle for () {
    type Info = ();

    fn close(&self, _reason: DisconnectReason) {}
}

/// Why a peer left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
#[repr(u8)]
pub enum DisconnectReason {
    /// The far end closed in good order.
    Closed,
    /// The line broke: reset, write deadline, end of stream inside a frame.
    Lost,
    /// Nothing was received for too long; the sweep took it.
    Stale,
    /// A newer connection of the same peer took its place.
    Replaced,
    /// It lost to another connection between the same two nodes; no failure.
    Collision,
    /// The peer is banned.
    Banned,
    /// The peer broke the protocol.
    Protocol,
    /// We could not serve it any longer: it lagged, or a queue of ours was full.
    Overloaded,
    /// A limit was lowered below what was connected.
    OverLimit,
    /// This node is shutting down.
    Shutdown,
    /// Somebody here asked for it.
    Requested,
}

impl DisconnectReason {
    /// Every reason, in order of [`DisconnectReason::index`].
    pub const ALL: [Self; 11] = [
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
    ];

    /// Position in [`DisconnectReason::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The name, as logs and metrics show it.
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
        }
    }
}

impl fmt::Display for DisconnectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
