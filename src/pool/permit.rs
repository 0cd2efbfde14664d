//! Permits and claims: what a connection holds while it is set up.
//!
//! Permit (by address) -> claim (by key) -> live: ownership moves and never forks. Dropping any of them gives
//! everything back (12); so does the sweep once the deadline has passed, whatever the handshake does (10).

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::base::{ConnId, Direction, Tick};

use super::claim_watch::ClaimCell;
use super::pending::PendingHandshake;
use super::{ClaimError, CommitError, ConnectionHandle, Peer, PeerKey, Pool, RekeyError, ReplaceError};

/// Which part of the room a connection asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SlotClass {
    /// Up to the limit less what is reserved, and within the limits of its address and subnet.
    #[default]
    Ordinary,
    /// For peers this node was told to trust: the last slots too; counted by address and subnet but not refused there;
    /// not departed when limits are lowered.
    Reserved,
}

/// What a token releases when it is dropped.
pub(super) struct Held<K: PeerKey, C: ConnectionHandle> {
    pub(super) pool: Arc<Pool<K, C>>,
    pub(super) ticket: Arc<PendingHandshake<K>>,
}

impl<K: PeerKey, C: ConnectionHandle> Drop for Held<K, C> {
    fn drop(&mut self) {
        self.pool.release(&self.ticket);
    }
}

/// A slot for one connection, by address. Dropping it gives the slot back.
#[must_use = "dropping a permit gives its slot back"]
pub struct Permit<K: PeerKey, C: ConnectionHandle> {
    pub(super) held: Held<K, C>,
}

impl<K: PeerKey, C: ConnectionHandle> Permit<K, C> {
    /// The id the connection will have.
    pub fn id(&self) -> ConnId {
        self.held.ticket.origin.id
    }

    /// The canonical address it was admitted with.
    pub fn addr(&self) -> SocketAddr {
        self.held.ticket.origin.addr
    }

    /// Who opened the connection.
    pub fn direction(&self) -> Direction {
        self.held.ticket.origin.direction
    }

    /// Which slot it has.
    pub fn slot_class(&self) -> SlotClass {
        self.held.ticket.origin.slot
    }

    /// From this tick on the sweep revokes it.
    pub fn deadline(&self) -> Tick {
        self.held.ticket.deadline
    }

    /// Whether the sweep has revoked it.
    pub fn is_revoked(&self) -> bool {
        !self.held.ticket.is_held()
    }

    /// Takes a key for this connection, in one step of the map (4).
    ///
    /// # Errors
    /// The permit was revoked, or somebody has the key; permit and key come back.
    ///
    /// # Cost
    /// One shard's write lock, one allocation.
    pub fn claim(self, key: K) -> Result<Claim<K, C>, ClaimError<K, C>> {
        match self.held.pool.claim_key(&self.held.ticket, key.clone()) {
            Ok(cell) => Ok(Claim { held: self.held, cell }),
            Err(cause) => Err(ClaimError { permit: self, key, cause }),
        }
    }

    /// Takes the place of a live connection, if it is still the live one of `key`: one step of the map, in which the
    /// old peer departs as [`Replaced`](super::DisconnectReason::Replaced). Its connection is closed before this returns.
    ///
    /// # Errors
    /// The old one is gone, the permit was revoked, or the pool is closed; everything comes back.
    pub fn replace(
        self,
        key: &K,
        old: ConnId,
        conn: C,
        info: C::Info,
        now: Tick,
    ) -> Result<Replaced<K, C>, ReplaceError<K, C>> {
        match self.held.pool.replace(&self.held.ticket, key, old, conn, info, now) {
            Ok(replaced) => Ok(replaced),
            Err((conn, info, cause)) => Err(ReplaceError { permit: self, conn, info, cause }),
        }
    }
}

/// A key for one connection that is being set up. Dropping it gives key and slot back.
#[must_use = "dropping a claim gives its key and slot back"]
pub struct Claim<K: PeerKey, C: ConnectionHandle> {
    held: Held<K, C>,
    cell: Arc<ClaimCell<K>>,
}

impl<K: PeerKey, C: ConnectionHandle> Claim<K, C> {
    /// The key.
    pub fn key(&self) -> &K {
        &self.cell.key
    }

    /// The id the connection will have.
    pub fn id(&self) -> ConnId {
        self.cell.id
    }

    /// The canonical address it was admitted with.
    pub fn addr(&self) -> SocketAddr {
        self.held.ticket.origin.addr
    }

    /// Who opened the connection.
    pub fn direction(&self) -> Direction {
        self.cell.direction
    }

    /// From this tick on the sweep revokes it.
    pub fn deadline(&self) -> Tick {
        self.held.ticket.deadline
    }

    /// Whether the sweep has revoked it.
    pub fn is_revoked(&self) -> bool {
        !self.held.ticket.is_held()
    }

    /// Claims another key and then releases this one; never both shards locked. The same key is no change.
    ///
    /// # Errors
    /// The claim was revoked, or somebody has the new key; the claim on the old one comes back.
    pub fn rekey(self, key: K) -> Result<Self, RekeyError<K, C>> {
        if key == self.cell.key {
            return Ok(self);
        }
        match self.held.pool.claim_key(&self.held.ticket, key.clone()) {
            Ok(cell) => {
                self.held.pool.release_claim(&self.held.ticket, &self.cell);
                Ok(Self { cell, ..self })
            }
            Err(cause) => Err(RekeyError { claim: self, key, cause }),
        }
    }

    /// Gives the key back and keeps the slot.
    pub fn release_key(self) -> Permit<K, C> {
        self.held.pool.release_claim(&self.held.ticket, &self.cell);
        Permit { held: self.held }
    }

    /// Makes the connection live under the claimed key.
    ///
    /// # Errors
    /// The claim was revoked or the pool is closed; the connection comes back, not closed, and the claim is released.
    ///
    /// # Cost
    /// Two allocations, one shard's write lock, and a short lock each of the address and the roster cell.
    pub fn go_live(self, conn: C, info: C::Info, now: Tick) -> Result<Arc<Peer<K, C>>, CommitError<C>> {
        self.held.pool.commit(&self.held.ticket, &self.cell, conn, info, now)
    }
}

/// Both sides of a replacement.
pub struct Replaced<K: PeerKey, C: ConnectionHandle> {
    /// Live now.
    pub new: Arc<Peer<K, C>>,
    /// Departed and closed.
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
