//! Insertion: reserve a slot, claim a key, go live, or replace a live connection; and `insert`,
//! which does it in one step.
//!
//! ```text
//!   admit      reserve address, subnets, global word     -> Permit
//!   claim      map: free -> Claimed                      -> Claim
//!   go_live    map: Claimed -> Live, admission gate      -> Arc<Peer>
//!   replace    map: Live(old) -> Live(new), the gate     -> Replaced
//!   insert     reserve, then map: free -> Live
//! ```
//!
//! Each arrow into the map is one critical section of one shard. The indexes (addresses, roster)
//! follow after it.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::base::{ConnId, Direction, Tick, canonical};

use super::claim_watch::ClaimRecord;
use super::peer::Origin;
use super::pending::PendingHandshake;
use super::permit::SlotGuard;
use super::pool::PoolEntry;
use super::{
    AdmitError, ClaimFailure, ClaimHolder, ClaimWatch, CommitError, CommitFailure, ConnectionHandle,
    DisconnectReason, InsertError, InsertFailure, Peer, PeerKey, Permit, Pool, ReplaceFailure, Replaced,
    SlotClass,
};

impl<K: PeerKey, C: ConnectionHandle> Pool<K, C> {
    /// Reserves a slot for a connection from or to this address, before the caller awaits anything.
    /// From the tick `deadline` on, the sweep revokes it.
    ///
    /// # Errors
    /// The first limit that refuses, in the order address, subnet, global. Refusals by address take
    /// no global slot.
    ///
    /// # Cost
    /// A short lock each of the address, its subnets and the list of pending handshakes; one
    /// exchange of the admission word; one allocation.
    pub fn admit(
        self: &Arc<Self>,
        addr: SocketAddr,
        direction: Direction,
        slot: SlotClass,
        deadline: Tick,
    ) -> Result<Permit<K, C>, AdmitError> {
        // The id is drawn before the limits are read: see `mark_if_admitted_by_older_limits`.
        let origin = Origin { id: self.next_id(), addr: canonical(addr), direction, slot };
        self.reserve(&origin)?;
        let id = origin.id;
        let pending = Arc::new(PendingHandshake::new(origin, deadline));
        self.pending_shard_of(id).lock().insert(id, Arc::clone(&pending));
        Ok(Permit { guard: SlotGuard { pool: Arc::clone(self), pending } })
    }

    /// Inserts a connection in one step: an ordinary slot, the key, and live.
    ///
    /// # Errors
    /// No slot is free, or the key is held. Connection and info come back.
    ///
    /// # Cost
    /// Two allocations, one shard's write lock, and a short lock each of the address, its subnets
    /// and the roster shard.
    pub fn insert(
        &self,
        key: K,
        addr: SocketAddr,
        direction: Direction,
        conn: C,
        info: C::Info,
        now: Tick,
    ) -> Result<Arc<Peer<K, C>>, InsertError<C>> {
        // The id is drawn before the limits are read: see `mark_if_admitted_by_older_limits`.
        let slot = SlotClass::Ordinary;
        let origin = Origin { id: self.next_id(), addr: canonical(addr), direction, slot };
        if let Err(cause) = self.reserve(&origin) {
            return Err(InsertError { conn, info, cause: cause.into() });
        }
        let peer = Arc::new(Peer::new(key.clone(), &origin, conn, info, now, Arc::clone(&self.shared)));
        let inserted = self.put_if(
            key,
            || PoolEntry::Live(Arc::clone(&peer)),
            |present| match present {
                // The shutdown's gate, inside the critical section.
                None => self.shared.admission.go_live(direction).map_err(|_| AdmitError::Closed.into()),
                Some(PoolEntry::Live(other)) => Err(InsertFailure::KeyHeld(other.id())),
                Some(PoolEntry::Claimed(claim)) => Err(InsertFailure::KeyHeld(claim.id)),
            },
        );
        match inserted {
            Ok(_) => {
                self.index(&peer);
                Ok(peer)
            }
            Err(cause) => {
                self.unreserve(&origin);
                let (conn, info) = peer.dismantle();
                Err(InsertError { conn, info, cause })
            }
        }
    }

    /// Claims a key for a pending handshake, in one step of the map.
    ///
    /// A revocation may run at the same time. The claim is in the handshake's list before the map
    /// changes, and the handshake's state is read under the shard's lock. A revocation first ends
    /// the handshake, then takes the list, then removes the entries under the shard's lock. So
    /// either it finds this entry, or this finds the handshake ended.
    pub(super) fn claim_key(
        &self,
        pending: &Arc<PendingHandshake<K>>,
        key: K,
    ) -> Result<Arc<ClaimRecord<K>>, ClaimFailure<K, C>> {
        let claim = Arc::new(ClaimRecord::new(key.clone(), pending.origin.id, pending.origin.direction));
        pending.add_claim(Arc::clone(&claim));
        let claimed = self.put_if(
            key,
            || PoolEntry::Claimed(Arc::clone(&claim)),
            |present| match present {
                None if pending.is_held() => Ok(()),
                None => Err(ClaimFailure::Revoked),
                Some(PoolEntry::Live(peer)) => Err(ClaimFailure::Held(ClaimHolder::Live(Arc::clone(peer)))),
                Some(PoolEntry::Claimed(other)) => Err(ClaimFailure::Held(ClaimHolder::Claimed {
                    id: other.id,
                    direction: other.direction,
                    watch: ClaimWatch::new(other),
                })),
            },
        );
        match claimed {
            Ok(_) => Ok(claim),
            Err(cause) => {
                drop(pending.remove_claim(&claim));
                Err(cause)
            }
        }
    }

    /// Releases one claimed key. The pending handshake keeps its slot.
    pub(super) fn release_claim(&self, pending: &PendingHandshake<K>, claim: &Arc<ClaimRecord<K>>) {
        drop(pending.remove_claim(claim));
        self.free_key(claim);
    }

    /// Makes a claim live.
    pub(super) fn commit(
        &self,
        pending: &Arc<PendingHandshake<K>>,
        claim: &Arc<ClaimRecord<K>>,
        conn: C,
        info: C::Info,
        now: Tick,
    ) -> Result<Arc<Peer<K, C>>, CommitError<C>> {
        if !pending.begin_commit() {
            return Err(CommitError { conn, info, cause: CommitFailure::Revoked });
        }
        // From here on the sweep does not revoke the handshake, so the entry stays ours.
        let (key, origin) = (claim.key.clone(), &pending.origin);
        let peer = Arc::new(Peer::new(key.clone(), origin, conn, info, now, Arc::clone(&self.shared)));
        let inserted = self.put_if(
            key,
            || PoolEntry::Live(Arc::clone(&peer)),
            |present| match present {
                Some(PoolEntry::Claimed(present)) if Arc::ptr_eq(present, claim) => {
                    // The shutdown's gate, inside the critical section.
                    self.shared.admission.go_live(origin.direction).map_err(|_| CommitFailure::Closed)
                }
                _ => Err(CommitFailure::Revoked),
            },
        );
        match inserted {
            Ok(displaced) => {
                drop(displaced);
                self.retire(pending);
                self.index(&peer);
                claim.resolve_live();
                Ok(peer)
            }
            Err(cause) => {
                pending.abort_commit();
                let (conn, info) = peer.dismantle();
                Err(CommitError { conn, info, cause })
            }
        }
    }

    /// Replaces a live connection by another one of the same key.
    pub(super) fn replace(
        &self,
        pending: &Arc<PendingHandshake<K>>,
        key: &K,
        old: ConnId,
        conn: C,
        info: C::Info,
        now: Tick,
    ) -> Result<Replaced<K, C>, (C, C::Info, ReplaceFailure)> {
        if !pending.begin_commit() {
            return Err((conn, info, ReplaceFailure::Revoked));
        }
        let origin = &pending.origin;
        let new = Arc::new(Peer::new(key.clone(), origin, conn, info, now, Arc::clone(&self.shared)));
        let inserted = self.put_if(
            key.clone(),
            || PoolEntry::Live(Arc::clone(&new)),
            |present| match present {
                Some(PoolEntry::Live(peer)) if peer.id() == old => {
                    let gate = self.shared.admission.supersede(
                        origin.direction,
                        peer.direction(),
                        peer.slot_class(),
                    );
                    gate.map_err(|_| ReplaceFailure::Closed)?;
                    // Cannot fail: the peer of a live entry is live.
                    peer.mark_disconnected(DisconnectReason::Replaced);
                    Ok(())
                }
                _ => Err(ReplaceFailure::NotFound),
            },
        );
        match inserted {
            Ok(Some(PoolEntry::Live(old))) => {
                self.retire(pending);
                self.index(&new);
                self.finish_removal(&old, DisconnectReason::Replaced);
                Ok(Replaced { new, old })
            }
            Ok(_) => unreachable!("only a live entry is replaced"),
            Err(cause) => {
                pending.abort_commit();
                let (conn, info) = new.dismantle();
                Err((conn, info, cause))
            }
        }
    }

    /// Releases a pending handshake with its slot and claims, unless it was released or went live.
    /// True for exactly one caller.
    pub(super) fn release(&self, pending: &Arc<PendingHandshake<K>>) -> bool {
        if !pending.begin_release() {
            return false;
        }
        let claims = self.retire(pending);
        self.unreserve(&pending.origin);
        claims.iter().for_each(|claim| self.free_key(claim));
        true
    }

    /// Counts a pending connection: address, subnets, then the global word.
    fn reserve(&self, origin: &Origin) -> Result<(), AdmitError> {
        let Origin { addr, direction, slot, .. } = *origin;
        let limits = self.limits.load();
        let reserved = self.addresses.reserve(addr.ip(), slot, &limits).and_then(|()| {
            let reserved = self.shared.admission.reserve(direction, slot, &limits);
            reserved.inspect_err(|_| self.addresses.release(addr.ip()))
        });
        reserved.inspect_err(|cause| self.counters.count_refusal(*cause))
    }

    fn unreserve(&self, origin: &Origin) {
        self.shared.admission.release_pending(origin.direction, origin.slot);
        self.addresses.release(origin.addr.ip());
    }

    /// Removes a pending handshake from the sweep's list. Returns the claims it had.
    fn retire(&self, pending: &PendingHandshake<K>) -> Vec<Arc<ClaimRecord<K>>> {
        let id = pending.origin.id;
        let listed = self.pending_shard_of(id).lock().remove(&id);
        drop(listed);
        pending.take_claims()
    }

    /// Removes this very claim from the map and wakes its watchers.
    fn free_key(&self, claim: &Arc<ClaimRecord<K>>) {
        let removed = self.entries.remove_if(
            &claim.key,
            |entry| matches!(entry, PoolEntry::Claimed(present) if Arc::ptr_eq(present, claim)),
        );
        drop(removed);
        claim.resolve_released();
    }

    /// Adds a live peer to the indexes. Each handles a peer that disconnected meanwhile.
    fn index(&self, peer: &Arc<Peer<K, C>>) {
        self.addresses.list(peer);
        self.roster_shard_of(peer.id()).add(peer);
        self.mark_if_admitted_by_older_limits(peer.id());
    }
}
