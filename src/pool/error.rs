//! Errors of the pool. Rejected values come back inside the error.

use std::fmt;
use std::sync::Arc;

use crate::base::{ConnId, Direction};

use super::{Claim, ClaimWatch, ConnectionHandle, Peer, PeerKey, Permit};

/// Why a connection was not admitted, in the order of the checks: address, subnet, then global.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum AdmitError {
    /// The source, an IPv4 address or an IPv6 /64, has `max_per_source` connections.
    #[error("the source has reached its connection limit, `limits.max_per_source`")]
    PerSource,
    /// A subnet of the address has `max_per_subnet` or `max_per_site` connections.
    #[error("the subnet has reached its connection limit, `limits.max_per_subnet` or `limits.max_per_site`")]
    PerSubnet,
    /// `max_inbound` or `max_outbound` is reached. The caller may evict a peer or request a
    /// reserved slot.
    #[error("all {side} slots are taken, `limits.max_{side}`", side = direction_name(.0))]
    Full(Direction),
    /// `max_pending_inbound` or `max_pending_outbound` is reached. Handshakes start faster than
    /// they end: a flood, or an overloaded machine.
    #[error("too many {side} handshakes are in progress, `limits.max_pending_{side}`", side = direction_name(.0))]
    TooManyPending(Direction),
    /// The pool is closed.
    #[error("the pool is closed")]
    Closed,
}

fn direction_name(direction: &Direction) -> &'static str {
    match direction {
        Direction::Inbound => "inbound",
        Direction::Outbound => "outbound",
    }
}

/// The connection that holds a key.
pub enum ClaimHolder<K: PeerKey, C: ConnectionHandle> {
    /// A live peer.
    Live(Arc<Peer<K, C>>),
    /// A connection that is set up.
    Claimed {
        /// Its id.
        id: ConnId,
        /// Its direction.
        direction: Direction,
        /// Resolves when its claim ends.
        watch: ClaimWatch<K>,
    },
}

impl<K: PeerKey, C: ConnectionHandle> fmt::Debug for ClaimHolder<K, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Live(peer) => f.debug_tuple("Live").field(&peer.id()).finish(),
            Self::Claimed { id, direction, .. } => {
                f.debug_tuple("Claimed").field(id).field(direction).finish()
            }
        }
    }
}

/// Why a key could not be claimed.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ClaimFailure<K: PeerKey, C: ConnectionHandle> {
    /// The permit's deadline passed, and the sweep revoked it.
    #[error("the permit was revoked")]
    Revoked,
    /// Another connection holds the key.
    #[error("the key is held: {0:?}")]
    Held(ClaimHolder<K, C>),
}

/// A key could not be claimed. Permit and key come back.
#[derive(thiserror::Error)]
#[error("cannot claim key {key:?}")]
pub struct ClaimError<K: PeerKey, C: ConnectionHandle> {
    /// The permit, unchanged.
    pub permit: Permit<K, C>,
    /// The key.
    pub key: K,
    /// The cause.
    #[source]
    pub cause: ClaimFailure<K, C>,
}

/// A key could not be claimed in place of another. The claim on the old key comes back.
#[derive(thiserror::Error)]
#[error("cannot change the claim to key {key:?}")]
pub struct RekeyError<K: PeerKey, C: ConnectionHandle> {
    /// The claim, unchanged.
    pub claim: Claim<K, C>,
    /// The requested key.
    pub key: K,
    /// The cause.
    #[source]
    pub cause: ClaimFailure<K, C>,
}

/// Why a claim did not go live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommitFailure {
    /// The deadline passed, and the sweep revoked the claim: the handshake took too long.
    #[error("the claim was revoked")]
    Revoked,
    /// The pool is closed.
    #[error("the pool is closed")]
    Closed,
}

/// A connection did not go live. It comes back; its claim and permit are released.
#[derive(thiserror::Error)]
#[error("the connection cannot go live")]
pub struct CommitError<C: ConnectionHandle> {
    /// The connection, still open.
    pub conn: C,
    /// Its info.
    pub info: C::Info,
    /// The cause.
    #[source]
    pub cause: CommitFailure,
}

/// Why a live connection was not replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplaceFailure {
    /// The connection to replace is not the live one of the key.
    #[error("the connection to replace is gone")]
    NotFound,
    /// The permit's deadline passed, and the sweep revoked it.
    #[error("the permit was revoked")]
    Revoked,
    /// The pool is closed.
    #[error("the pool is closed")]
    Closed,
}

/// A live connection was not replaced. Everything comes back.
#[derive(thiserror::Error)]
#[error("cannot replace the connection")]
pub struct ReplaceError<K: PeerKey, C: ConnectionHandle> {
    /// The permit, unchanged.
    pub permit: Permit<K, C>,
    /// The connection, still open.
    pub conn: C,
    /// Its info.
    pub info: C::Info,
    /// The cause.
    #[source]
    pub cause: ReplaceFailure,
}

/// Why an insert was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InsertFailure {
    /// No slot is free.
    #[error(transparent)]
    Admit(#[from] AdmitError),
    /// This connection holds the key, live or in setup.
    #[error("the key is held by connection {0}")]
    KeyHeld(ConnId),
}

/// A connection was not inserted. It comes back.
#[derive(thiserror::Error)]
#[error("cannot insert the connection")]
pub struct InsertError<C: ConnectionHandle> {
    /// The connection, still open.
    pub conn: C,
    /// Its info.
    pub info: C::Info,
    /// The cause.
    #[source]
    pub cause: InsertFailure,
}

// A derive would require `Debug` of the user's connection.
impl<K: PeerKey, C: ConnectionHandle> fmt::Debug for ClaimFailure<K, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Revoked => f.write_str("Revoked"),
            Self::Held(holder) => f.debug_tuple("Held").field(holder).finish(),
        }
    }
}

impl<K: PeerKey, C: ConnectionHandle> fmt::Debug for ClaimError<K, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClaimError")
            .field("key", &self.key)
            .field("cause", &self.cause)
            .finish_non_exhaustive()
    }
}

impl<K: PeerKey, C: ConnectionHandle> fmt::Debug for RekeyError<K, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RekeyError")
            .field("key", &self.key)
            .field("cause", &self.cause)
            .finish_non_exhaustive()
    }
}

impl<C: ConnectionHandle> fmt::Debug for CommitError<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommitError").field("cause", &self.cause).finish_non_exhaustive()
    }
}

impl<K: PeerKey, C: ConnectionHandle> fmt::Debug for ReplaceError<K, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplaceError").field("cause", &self.cause).finish_non_exhaustive()
    }
}

impl<C: ConnectionHandle> fmt::Debug for InsertError<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InsertError").field("cause", &self.cause).finish_non_exhaustive()
    }
}
