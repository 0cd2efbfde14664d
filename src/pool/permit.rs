//! Permits and claims: RAII tokens of a connection that is set up.
//!
//! Permit (by address) -> claim (by key) -> live: ownership moves and never forks. Dropping a token
//! releases everything it holds. At the deadline the sweep releases it too, whatever the handshake
//! does.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::base::{ConnId, Direction, Tick};

use super::claim_watch::ClaimRecord;
use super::pending::PendingHandshake;
use super::{ClaimError, CommitError, ConnectionHandle, Peer, PeerKey, Pool, RekeyError, ReplaceError};

/// The class of slot that a connection asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SlotClass {
    /// Bounded by the limit less the reserved slots, and by the limits of its address and subnets.
    #[default]
    Ordinary,
    /// As ordinary, but the limits of its address and subnets do not refuse it: for networks that
    /// the operator exempts.
    Exempt,
    /// For peers that the operator trusts. It may take the reserved slots, address and subnet
    /// limits count it but do not refuse it, and lowered limits do not remove it.
    Reserved,
}

/// Releases a pending handshake on drop.
pub(super) struct SlotGuard<K: PeerKey, C: ConnectionHandle> {
    pub(super) pool: Arc<Pool<K, C>>,
    pub(super) pending: Arc<PendingHandshake<K>>,
}

impl<K: PeerKey, C: ConnectionHandle> Drop for SlotGuard<K, C> {
    fn drop(&mut self) {
        self.pool.release(&self.pending);
    }
}

/// A slot for one connection, reserved by address. Dropping it releases the slot.
#[must_use = "dropping a permit releases its slot"]
pub struct Permit<K: PeerKey, C: ConnectionHandle> {
    pub(super) guard: SlotGuard<K, C>,
}

impl<K: PeerKey, C: ConnectionHandle> Permit<K, C> {
    /// The id that the connection will have.
    pub fn id(&self) -> ConnId {
        self.guard.pending.origin.id
    }

    /// The address it was admitted with, canonical.
    pub fn addr(&self) -> SocketAddr {
        self.guard.pending.origin.addr
    }

    /// The side that opened the connection.
    pub fn direction(&self) -> Direction {
        self.guard.pending.origin.direction
    }

    /// The class of its slot.
    pub fn slot_class(&self) -> SlotClass {
        self.guard.pending.origin.slot
    }

    /// Whether the sweep has revoked it.
    pub fn is_revoked(&self) -> bool {
        !self.guard.pending.is_held()
    }

    /// Claims a key for this connection, in one step of the map.
    ///
    /// # Errors
    /// The permit was revoked, or another connection holds the key. Permit and key come back.
    ///
    /// # Cost
    /// One shard's write lock, one allocation.
    pub fn claim(self, key: K) -> Result<Claim<K, C>, ClaimError<K, C>> {
        match self.guard.pool.claim_key(&self.guard.pending, key.clone()) {
            Ok(record) => Ok(Claim { guard: self.guard, record }),
            Err(cause) => Err(ClaimError { permit: self, key, cause }),
        }
    }

    /// Replaces the live connection `old` of `key`, in one step of the map.
    ///
    /// The old peer disconnects as [`Replaced`](super::DisconnectReason::Replaced), and its
    /// connection is closed before this returns.
    ///
    /// # Errors
    /// `old` is not the live connection of the key, the permit was revoked, or the pool is closed.
    /// Everything comes back.
    pub fn replace(
        self,
        key: &K,
        old: ConnId,
        conn: C,
        info: C::Info,
        now: Tick,
    ) -> Result<Replaced<K, C>, ReplaceError<K, C>> {
        match self.guard.pool.replace(&self.guard.pending, key, old, conn, info, now) {
            Ok(replaced) => Ok(replaced),
            Err((conn, info, cause)) => Err(ReplaceError { permit: self, conn, info, cause }),
        }
    }
}

/// A key for one connection that is set up. Dropping it releases key and slot.
#[must_use = "dropping a claim releases its key and slot"]
pub struct Claim<K: PeerKey, C: ConnectionHandle> {
    guard: SlotGuard<K, C>,
    record: Arc<ClaimRecord<K>>,
}

impl<K: PeerKey, C: ConnectionHandle> Claim<K, C> {
    /// The claimed key.
    pub fn key(&self) -> &K {
        &self.record.key
    }

    /// The id that the connection will have.
    pub fn id(&self) -> ConnId {
        self.record.id
    }

    /// The address it was admitted with, canonical.
    pub fn addr(&self) -> SocketAddr {
        self.guard.pending.origin.addr
    }

    /// The side that opened the connection.
    pub fn direction(&self) -> Direction {
        self.record.direction
    }

    /// The class of its slot.
    pub fn slot_class(&self) -> SlotClass {
        self.guard.pending.origin.slot
    }

    /// Whether the sweep has revoked it.
    pub fn is_revoked(&self) -> bool {
        !self.guard.pending.is_held()
    }

    /// Claims another key, then releases this one. The two shards are never locked together. The
    /// same key is no change.
    ///
    /// # Errors
    /// The claim was revoked, or another connection holds the new key. The claim on the old key
    /// comes back.
    pub fn rekey(self, key: K) -> Result<Self, RekeyError<K, C>> {
        if key == self.record.key {
            return Ok(self);
        }
        match self.guard.pool.claim_key(&self.guard.pending, key.clone()) {
            Ok(record) => {
                self.guard.pool.release_claim(&self.guard.pending, &self.record);
                Ok(Self { record, ..self })
            }
            Err(cause) => Err(RekeyError { claim: self, key, cause }),
        }
    }

    /// Releases the key and keeps the slot.
    pub fn release_key(self) -> Permit<K, C> {
        self.guard.pool.release_claim(&self.guard.pending, &self.record);
        Permit { guard: self.guard }
    }

    /// Makes the connection live under the claimed key.
    ///
    /// # Errors
    /// The claim was revoked, or the pool is closed. The connection comes back open, and the claim
    /// is released.
    ///
    /// # Cost
    /// Two allocations, one shard's write lock, and a short lock each of the address and the roster
    /// shard.
    pub fn go_live(self, conn: C, info: C::Info, now: Tick) -> Result<Arc<Peer<K, C>>, CommitError<C>> {
        self.guard.pool.commit(&self.guard.pending, &self.record, conn, info, now)
    }
}

/// Both peers of a replacement.
pub struct Replaced<K: PeerKey, C: ConnectionHandle> {
    /// The live peer.
    pub new: Arc<Peer<K, C>>,
    /// The disconnected peer. Its connection is closed.
    pub old: Arc<Peer<K, C>>,
}

impl<K: PeerKey, C: ConnectionHandle> fmt::Debug for Replaced<K, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replaced").field("new", &self.new).field("old", &self.old).finish()
    }
}

impl<K: PeerKey, C: ConnectionHandle> fmt::Debug for Permit<K, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("id", &self.id()).field("addr", &self.addr()).finish_non_exhaustive()
    }
}

impl<K: PeerKey, C: ConnectionHandle> fmt::Debug for Claim<K, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim").field("id", &self.id()).field("key", self.key()).finish_non_exhaustive()
    }
}
