//! Getting in: admit, claim, go live, replace; and insert, which does it all in one step.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::base::{ConnId, Direction, Tick, canonical};
use crate::sync::PutOutcome;

use super::claim_watch::ClaimCell;
use super::peer::Origin;
use super::pending::PendingHandshake;
use super::permit::Held;
use super::pool::PoolEntry;
use super::{
    AdmitError, ClaimFailure, ClaimHolder, ClaimWatch, CommitError, CommitFailure, ConnectionHandle,
    DisconnectReason, InsertError, InsertFailure, Peer, PeerKey, Permit, Pool, ReplaceFailure, Replaced,
    SlotClass,
};

impl<K: PeerKey, C: ConnectionHandle> Pool<K, C> {
    /// Takes a slot for a connection from or to this address, before anything is awaited (10, 13). From the tick
    /// `deadline` on the sweep revokes it.
    ///
    /// # Errors
    /// The first limit that refuses, in the order address, subnet, global: one address' refusals starve nobody (15).
    ///
    /// # Cost
    /// A short lock each of the address, its subnets and the ticket list; one exchange of the admission word.
    pub fn admit(
        self: &Arc<Self>,
        addr: SocketAddr,
        direction: Direction,
        slot: SlotClass,
        deadline: Tick,
    ) -> Result<Permit<K, C>, AdmitError> {
        let addr = canonical(addr);
        // Before the limits are read: see `recrowd`.
        let id = self.next_id();
        self.reserve(addr, direction, slot)?;
        let ticket = Arc::new(PendingHandshake::new(id, addr, direction, slot, deadline));
        self.tickets_of(ticket.origin.id).lock().insert(ticket.origin.id, Arc::clone(&ticket));
        Ok(Permit { held: Held { pool: Arc::clone(self), ticket } })
    }

    /// Inserts a connection with its info in one step: an ordinary slot, the key, and live.
    ///
    /// # Errors
    /// No slot, or the key is held; connection and info come back.
    ///
    /// # Cost
    /// Two allocations, one shard's write lock, and a short lock each of the address, its subnets and the roster cell.
    pub fn insert(
        &self,
        key: K,
        addr: SocketAddr,
        direction: Direction,
        conn: C,
        info: C::Info,
        now: Tick,
    ) -> Result<Arc<Peer<K, C>>, InsertError<C>> {
        let addr = canonical(addr);
        // Before the limits are read: see `recrowd`.
        let origin = Origin { id: self.next_id(), addr, direction, slot: SlotClass::Ordinary };
        if let Err(cause) = self.reserve(addr, direction, SlotClass::Ordinary) {
            return Err(InsertError { conn, info, cause: cause.into() });
        }
        let peer = Arc::new(Peer::new(key, &origin, conn, info, now, Arc::clone(&self.shared)));
        let put = self.put_slot(self.live(&peer), |held| {
            match held {
                // The gate of the shutdown, inside the critical step (34).
                None => self.shared.admission.go_live(direction).map_err(|_| AdmitError::Closed.into()),
                Some(PoolEntry::Live(_, other)) => Err(InsertFailure::KeyHeld(other.id())),
                Some(PoolEntry::Claimed(_, other)) => Err(InsertFailure::KeyHeld(other.id)),
            }
        });
        match put {
            PutOutcome::Put { .. } => {
                self.announce(&peer);
                Ok(peer)
            }
            PutOutcome::Rejected { cause, entry } => {
                drop(entry);
                self.unreserve(&origin);
                let (conn, info) = peer.dismantle();
                Err(InsertError { conn, info, cause })
            }
        }
    }

    /// Claims a key for a ticket, in one step of the map.
    ///
    /// Against a revocation at the same time: the claim is on the ticket's list before the map is touched, and the
    /// ticket is asked under the shard lock. A revocation first ends the ticket, then takes the list, then removes
    /// under the shard lock; so it either finds our entry, or we find the ticket ended.
    pub(super) fn claim_key(
        &self,
        ticket: &Arc<PendingHandshake<K>>,
        key: K,
    ) -> Result<Arc<ClaimCell<K>>, ClaimFailure<K, C>> {
        let cell = Arc::new(ClaimCell::new(key, ticket.origin.id, ticket.origin.direction));
        ticket.add_claim(Arc::clone(&cell));
        let put = self.put_slot(self.claimed(&cell), |held| match held {
            None if ticket.is_held() => Ok(()),
            None => Err(ClaimFailure::Revoked),
            Some(PoolEntry::Live(_, peer)) => Err(ClaimFailure::Held(ClaimHolder::Live(Arc::clone(peer)))),
            Some(PoolEntry::Claimed(_, other)) => Err(ClaimFailure::Held(ClaimHolder::Claimed {
                id: other.id,
                direction: other.direction,
                watch: ClaimWatch::new(other),
            })),
        });
        match put {
            PutOutcome::Put { .. } => Ok(cell),
            PutOutcome::Rejected { cause, .. } => {
                drop(ticket.remove_claim(&cell));
                Err(cause)
            }
        }
    }

    /// Gives one claimed key back; the ticket stays.
    pub(super) fn release_claim(&self, ticket: &PendingHandshake<K>, cell: &Arc<ClaimCell<K>>) {
        drop(ticket.remove_claim(cell));
        self.free_key(cell);
    }

    /// Makes a claim live.
    pub(super) fn commit(
        &self,
        ticket: &Arc<PendingHandshake<K>>,
        cell: &Arc<ClaimCell<K>>,
        conn: C,
        info: C::Info,
        now: Tick,
    ) -> Result<Arc<Peer<K, C>>, CommitError<C>> {
        let cause = CommitFailure::Revoked;
        if !ticket.begin_commit() {
            return Err(CommitError { conn, info, cause });
        }
        // From here the sweep leaves the ticket alone, so the entry stays ours.
        let origin = &ticket.origin;
        let peer = Arc::new(Peer::new(cell.key.clone(), origin, conn, info, now, Arc::clone(&self.shared)));
        let put = self.put_slot(self.live(&peer), |held| {
            match held {
                Some(PoolEntry::Claimed(_, held)) if Arc::ptr_eq(held, cell) => {
                    // The gate of the shutdown, inside the critical step (34).
                    self.shared.admission.go_live(origin.direction).map_err(|_| CommitFailure::Closed)
                }
                _ => Err(CommitFailure::Revoked),
            }
        });
        match put {
            PutOutcome::Put { displaced, .. } => {
                drop(displaced);
                self.retire(ticket);
                self.announce(&peer);
                cell.went_live();
                Ok(peer)
            }
            PutOutcome::Rejected { cause, entry } => {
                drop(entry);
                ticket.abort_commit();
                let (conn, info) = peer.dismantle();
                Err(CommitError { conn, info, cause })
            }
        }
    }

    /// Puts a connection in the place of a live one.
    pub(super) fn replace(
        &self,
        ticket: &Arc<PendingHandshake<K>>,
        key: &K,
        old: ConnId,
        conn: C,
        info: C::Info,
        now: Tick,
    ) -> Result<Replaced<K, C>, (C, C::Info, ReplaceFailure)> {
        if !ticket.begin_commit() {
            return Err((conn, info, ReplaceFailure::Revoked));
        }
        let origin = &ticket.origin;
        let new = Arc::new(Peer::new(key.clone(), origin, conn, info, now, Arc::clone(&self.shared)));
        let put = self.put_slot(self.live(&new), |held| {
            match held {
                Some(PoolEntry::Live(_, peer)) if peer.id() == old => {
                    let gate = self.shared.admission.supersede(origin.direction, peer.direction());
                    gate.map_err(|_| ReplaceFailure::Closed)?;
                    // Cannot fail: a live entry holds a live peer.
                    Ok(peer.mark_departed(DisconnectReason::Replaced))
                }
                _ => Err(ReplaceFailure::NotFound),
            }
        });
        match put {
            PutOutcome::Put { displaced: Some(PoolEntry::Live(_, old)), .. } => {
                self.retire(ticket);
                self.announce(&new);
                self.finish(&old, DisconnectReason::Replaced);
                Ok(Replaced { new, old })
            }
            PutOutcome::Put { .. } => unreachable!("only a live entry is replaced"),
            PutOutcome::Rejected { cause, entry } => {
                drop(entry);
                ticket.abort_commit();
                let (conn, info) = new.dismantle();
                Err((conn, info, cause))
            }
        }
    }

    /// Releases a ticket and all it holds, unless somebody has or it went live. True for exactly one caller.
    pub(super) fn release(&self, ticket: &Arc<PendingHandshake<K>>) -> bool {
        if !ticket.finish() {
            return false;
        }
        let claims = self.retire(ticket);
        self.unreserve(&ticket.origin);
        claims.iter().for_each(|cell| self.free_key(cell));
        true
    }

    /// Counts a pending connection: address, subnets, then the global word.
    fn reserve(&self, addr: SocketAddr, direction: Direction, slot: SlotClass) -> Result<(), AdmitError> {
        let limits = self.limits.load();
        let reserved = self.addresses.reserve(addr.ip(), slot, &limits).and_then(|()| {
            let reserved = self.shared.admission.reserve(direction, slot, &limits);
            reserved.inspect_err(|_| self.addresses.release(addr.ip()))
        });
        reserved.inspect_err(|cause| self.counters.refused(*cause))
    }

    fn unreserve(&self, origin: &Origin) {
        self.shared.admission.release_pending(origin.direction);
        self.addresses.release(origin.addr.ip());
    }

    /// The ticket is over: nobody needs to find it any more. Returns the claims it had.
    fn retire(&self, ticket: &PendingHandshake<K>) -> Vec<Arc<ClaimCell<K>>> {
        let id = ticket.origin.id;
        let listed = self.tickets_of(id).lock().remove(&id);
        drop(listed);
        ticket.take_claims()
    }

    /// Removes this very claim from the map and tells who waits for it.
    fn free_key(&self, cell: &Arc<ClaimCell<K>>) {
        let is_meant =
            |held: &PoolEntry<K, C>| matches!(held, PoolEntry::Claimed(_, held) if Arc::ptr_eq(held, cell));
        drop(self.remove_slot(&cell.key, is_meant));
        cell.released();
    }

    /// A peer is live in the map: let the indexes know. Each copes with its having departed already.
    fn announce(&self, peer: &Arc<Peer<K, C>>) {
        self.addresses.list(peer);
        self.cell_of(peer.key()).join(peer);
        self.recrowd(peer.id());
    }
}
