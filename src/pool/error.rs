//! Why something was refused. The rejected values come back.

use std::fmt;
use std::sync::Arc;

use crate::base::{ConnId, Direction};

use super::{Claim, ClaimWatch, ConnectionHandle, Peer, PeerKey, Permit};

/// Why nobody else is let in. In the order in which it is asked: address, subnet, then global.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum AdmitError {
    /// Raise `max_per_ip`, or let the address wait.
    #[error("this address has as many connections as one may have")]
    PerIp,
    /// Raise `max_per_subnet` or `max_per_site`, or look for peers elsewhere.
    #[error("this subnet has as many connections as one may have")]
    PerSubnet,
    /// Raise `max_inbound` or `max_outbound`, evict somebody, or ask for a reserved slot.
    #[error("all {} slots are taken", way(.0))]
    Full(Direction),
    /// Handshakes come faster than they end; a rising rate is a flood or an overloaded machine.
    #[error("too many {} handshakes are under way", way(.0))]
    TooManyPending(Direction),
    /// The pool was closed.
    #[error("the pool is closed")]
    Closed,
}

fn way(direction: &Direction) -> &'static str {
    match direction {
        Direction::Inbound => "inbound",
        Direction::Outbound => "outbound",
    }
}

/// Who has the key.
pub enum ClaimHolder<K: PeerKey, C: ConnectionHandle> {
    /// A live peer.
    Live(Arc<Peer<K, C>>),
    /// Another connection that is being set up.
    Claimed {
        /// Its id.
        id: ConnId,
        /// Its direction.
        direction: Direction,
        /// Tells what becomes of it.
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
    /// The permit's deadline passed and the sweep revoked it.
    #[error("the permit was revoked")]
    Revoked,
    /// Somebody has it.
    #[error("the key is held: {0:?}")]
    Held(ClaimHolder<K, C>),
}

/// A key that could not be claimed; permit and key come back.
#[derive(thiserror::Error)]
#[error("cannot claim {key:?}: {cause}")]
pub struct ClaimError<K: PeerKey, C: ConnectionHandle> {
    /// The permit, unchanged.
    pub permit: Permit<K, C>,
    /// The key.
    pub key: K,
    /// The cause.
    pub cause: ClaimFailure<K, C>,
}

/// A key that could not be claimed in place of another; the claim on the old one comes back.
#[derive(thiserror::Error)]
#[error("cannot claim {key:?} instead: {cause}")]
pub struct RekeyError<K: PeerKey, C: ConnectionHandle> {
    /// The claim, unchanged.
    pub claim: Claim<K, C>,
    /// The key that was wanted.
    pub key: K,
    /// The cause.
    pub cause: ClaimFailure<K, C>,
}

/// Why a claim could not go live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommitFailure {
    /// The deadline passed and the sweep revoked it: the handshake took too long.
    #[error("the claim was revoked")]
    Revoked,
    /// The pool was closed.
    #[error("the pool is closed")]
    Closed,
}

/// A connection that could not go live; it comes back, its claim and permit are released.
#[derive(thiserror::Error)]
#[error("cannot go live: {cause}")]
pub struct CommitError<C: ConnectionHandle> {
    /// The connection, not closed.
    pub conn: C,
    /// Its info.
    pub info: C::Info,
    /// The cause.
    pub cause: CommitFailure,
}

/// Why a connection could not take a live one's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplaceFailure {
    /// The connection to replace is not the live one of that key any more.
    #[error("the connection to replace is gone")]
    NotFound,
    /// The permit's deadline passed and the sweep revoked it.
    #[error("the permit was revoked")]
    Revoked,
    /// The pool was closed.
    #[error("the pool is closed")]
    Closed,
}

/// A connection that could not take a live one's place; everything comes back.
#[derive(thiserror::Error)]
#[error("cannot replace: {cause}")]
pub struct ReplaceError<K: PeerKey, C: ConnectionHandle> {
    /// The permit, unchanged.
    pub permit: Permit<K, C>,
    /// The connection, not closed.
    pub conn: C,
    /// Its info.
    pub info: C::Info,
    /// The cause.
    pub cause: ReplaceFailure,
}

/// Why an insert was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InsertFailure {
    /// No slot.
    #[error(transparent)]
    Admit(#[from] AdmitError),
    /// This connection has the key, live or being set up.
    #[error("the key is held by connection {0}")]
    KeyHeld(ConnId),
}

/// A connection that was not inserted; it comes back.
#[derive(thiserror::Error)]
#[error("cannot insert: {cause}")]
pub struct InsertError<C: ConnectionHandle> {
    /// The connection, not closed.
    pub conn: C,
    /// Its info.
    pub info: C::Info,
    /// The cause.
    pub cause: InsertFailure,
}

// By hand: deriving would ask the user's connection for `Debug`.
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
