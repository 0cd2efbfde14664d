//! Removal: exactly one caller wins, look-ups stop finding the peer first, and its connection is
//! closed last.
//!
//! ```text
//!   under the shard's lock:  check the connection id, mark the peer disconnected,
//!                            release its live slot, take the entry out
//!   after the lock:          address index, roster, counters, then ConnectionHandle::close
//! ```

use std::sync::Arc;

use crate::base::ConnId;

use super::pool::PoolEntry;
use super::{ConnectionHandle, DisconnectReason, Peer, PeerKey, Pool};

/// Result of [`Pool::evict`].
#[must_use = "the eviction may have been refused"]
pub enum EvictOutcome<K: PeerKey, C: ConnectionHandle> {
    /// The peer was removed and its connection closed.
    Evicted(Arc<Peer<K, C>>),
    /// The peer stays: its removal would leave fewer live peers than the floor.
    AtFloor,
    /// This connection is not the live one of the key.
    NotFound,
}

// A derive would require `Debug` of the user's connection.
impl<K: PeerKey, C: ConnectionHandle> std::fmt::Debug for EvictOutcome<K, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Evicted(peer) => f.debug_tuple("Evicted").field(peer).finish(),
            Self::AtFloor => f.write_str("AtFloor"),
            Self::NotFound => f.write_str("NotFound"),
        }
    }
}

impl<K: PeerKey, C: ConnectionHandle> Pool<K, C> {
    /// Removes this connection of this peer and closes it.
    ///
    /// `Some` for exactly one caller. `None` if it is not the live connection of the key, or not
    /// any more; then nothing changes.
    ///
    /// # Cost
    /// One shard's write lock, and a short lock each of the address and its subnets.
    pub fn remove(&self, key: &K, id: ConnId, reason: DisconnectReason) -> Option<Arc<Peer<K, C>>> {
        self.remove_if(key, reason, |peer| peer.id() == id && self.release_slot(peer, reason))
    }

    /// Removes the live connection of this key, whichever it is, and closes it.
    pub fn remove_current(&self, key: &K, reason: DisconnectReason) -> Option<Arc<Peer<K, C>>> {
        self.remove_if(key, reason, |peer| self.release_slot(peer, reason))
    }

    /// Removes a peer by choice (a ban, or to make room), but only if at least the configured floor
    /// of live peers remains. Concurrent evictions keep the floor too.
    pub fn evict(&self, key: &K, id: ConnId, reason: DisconnectReason) -> EvictOutcome<K, C> {
        let floor = self.limits.read(|limits| limits.floor);
        let mut at_floor = false;
        let removed = self.remove_if(key, reason, |peer| {
            if peer.id() != id {
                return false;
            }
            at_floor = !self.shared.admission.release_live_above(peer.direction(), peer.slot_class(), floor);
            // The mark cannot fail: under the shard's lock the peer of a live entry is live.
            !at_floor && peer.mark_disconnected(reason)
        });
        match removed {
            Some(peer) => EvictOutcome::Evicted(peer),
            None if at_floor => EvictOutcome::AtFloor,
            None => EvictOutcome::NotFound,
        }
    }

    /// Removes a live entry if `release` returns true. `release` runs under the shard's lock: it
    /// marks the peer disconnected and releases its slot.
    pub(super) fn remove_if(
        &self,
        key: &K,
        reason: DisconnectReason,
        release: impl FnOnce(&Peer<K, C>) -> bool,
    ) -> Option<Arc<Peer<K, C>>> {
        let removed = self.entries.remove_if(key, |entry| match entry {
            PoolEntry::Live(peer) => release(peer),
            PoolEntry::Claimed(_) => false,
        });
        match removed {
            Some(PoolEntry::Live(peer)) => {
                self.finish_removal(&peer, reason);
                Some(peer)
            }
            Some(PoolEntry::Claimed(_)) | None => None,
        }
    }

    /// Under the shard's lock: marks the peer disconnected and releases its live slot.
    fn release_slot(&self, peer: &Peer<K, C>, reason: DisconnectReason) -> bool {
        let won = peer.mark_disconnected(reason);
        if won {
            self.shared.admission.release_live(peer.direction(), peer.slot_class());
        }
        won
    }

    /// The rest of a removal, called by its one winner after the lock: indexes first, the user's
    /// `close` last, so that a panic in `close` leaves nothing behind.
    pub(super) fn finish_removal(&self, peer: &Arc<Peer<K, C>>, reason: DisconnectReason) {
        self.addresses.unlist(peer);
        self.roster_shard_of(peer.id()).mark_changed();
        peer.forget_failure();
        self.counters.count_disconnect(reason);
        peer.connection().close(reason);
    }
}
