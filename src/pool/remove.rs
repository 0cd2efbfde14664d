//! Leaving: exactly one caller wins, the peer is gone from look-ups first, and its connection is closed last.

use std::sync::Arc;

use crate::base::ConnId;

use super::pool::PoolEntry;
use super::{ConnectionHandle, DisconnectReason, Peer, PeerKey, Pool};

/// What became of an eviction.
pub enum EvictOutcome<K: PeerKey, C: ConnectionHandle> {
    /// It departed.
    Evicted(Arc<Peer<K, C>>),
    /// It stays: fewer live peers than the floor would remain (37).
    AtFloor,
    /// This connection is not the live one of that key.
    NotFound,
}

// By hand: deriving would ask the user's connection for `Debug`.
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
    /// Departs this connection of this peer and closes it. `Some` for exactly one caller; `None` if it was not, or is
    /// no longer, the live one: then nothing is touched (1).
    ///
    /// # Cost
    /// One shard's write lock, and a short lock each of the address and its subnets.
    pub fn remove(&self, key: &K, id: ConnId, reason: DisconnectReason) -> Option<Arc<Peer<K, C>>> {
        self.take(key, reason, |peer| peer.id() == id && self.leave(peer, reason))
    }

    /// Departs whoever is live under this key, and closes the connection.
    pub fn remove_current(&self, key: &K, reason: DisconnectReason) -> Option<Arc<Peer<K, C>>> {
        self.take(key, reason, |peer| self.leave(peer, reason))
    }

    /// Departs a peer that we could keep (a ban, making room): not if that would leave fewer live peers than the
    /// floor. However many evict at once, the floor holds.
    pub fn evict(&self, key: &K, id: ConnId, reason: DisconnectReason) -> EvictOutcome<K, C> {
        let floor = self.limits.read(|limits| limits.floor);
        let mut at_floor = false;
        let taken = self.take(key, reason, |peer| {
            if peer.id() != id {
                return false;
            }
            at_floor = !self.shared.admission.release_live_above(peer.direction(), floor);
            // Under the shard lock a live entry holds a live peer: the mark cannot fail.
            !at_floor && peer.mark_departed(reason)
        });
        match taken {
            Some(peer) => EvictOutcome::Evicted(peer),
            None if at_floor => EvictOutcome::AtFloor,
            None => EvictOutcome::NotFound,
        }
    }

    /// Removes a live entry if `claim`, run under the shard lock, marked its peer departed and released its slot.
    pub(super) fn take(
        &self,
        key: &K,
        reason: DisconnectReason,
        claim: impl FnOnce(&Peer<K, C>) -> bool,
    ) -> Option<Arc<Peer<K, C>>> {
        let taken = self.remove_slot(key, |held| match held {
            PoolEntry::Live(_, peer) => claim(peer),
            PoolEntry::Claimed(..) => false,
        });
        match taken {
            Some(PoolEntry::Live(_, peer)) => {
                self.finish(&peer, reason);
                Some(peer)
            }
            Some(PoolEntry::Claimed(..)) | None => None,
        }
    }

    /// Under the shard lock: marks the peer departed and gives its live slot back.
    fn leave(&self, peer: &Peer<K, C>, reason: DisconnectReason) -> bool {
        let won = peer.mark_departed(reason);
        if won {
            self.shared.admission.release_live(peer.direction());
        }
        won
    }

    /// The rest of a departure, by its one winner: indexes first, the user's `close` last, so that a panic in it leaves
    /// nothing behind (6).
    pub(super) fn finish(&self, peer: &Arc<Peer<K, C>>, reason: DisconnectReason) {
        self.addresses.unlist(peer);
        self.cell_of(peer.key()).changed();
        peer.forget_failure();
        self.counters.departed(reason);
        peer.connection().close(reason);
    }
}
