//! The reaper: revokes overdue handshakes and removes stale peers, one roster shard at a time.
//!
//! Invariant: `late_frame_beats_reaper`
//! - Statement: a peer is examined by `(liveness word, policy, now)`, and a frame that arrives
//!   after the scan wins.
//! - Enforced by: the removal exchanges the very word that was examined, under the map shard's
//!   lock.
//! - Breaks if: the exchange uses another reading than the one examined.

use std::sync::Arc;

use crate::base::{ConnId, Tick};

use super::liveness::LivenessReading;
use super::{ConnectionHandle, DisconnectReason, Peer, PeerKey, Pool};

/// Peers whose words a walk loads before it uses the first, so that their cache misses overlap.
pub(super) const PREFETCH_PEERS: usize = 16;

/// The peers and handshakes that a sweep ended. The peers' connections are closed.
pub struct SweepReport<K: PeerKey, C: ConnectionHandle> {
    /// Peers it removed: stale ones, and ones beyond lowered limits.
    pub removed: Vec<Arc<Peer<K, C>>>,
    /// Permits and claims it revoked at their deadline.
    pub revoked: Vec<ConnId>,
}

// A derive would require `Debug` of the user's connection.
impl<K: PeerKey, C: ConnectionHandle> std::fmt::Debug for SweepReport<K, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SweepReport").field("removed", &self.removed).field("revoked", &self.revoked).finish()
    }
}

impl<K: PeerKey, C: ConnectionHandle> Pool<K, C> {
    /// Sweeps one roster shard: one step of a maintenance loop. Indexes start at zero and wrap
    /// around.
    ///
    /// Peers that this node paused are not examined.
    ///
    /// # Cost
    /// One load per peer, and only if the last sweep found that a peer may be stale by now. If all
    /// peers send now and then, most sweeps read no peer. No lock of the map or of an address is
    /// held during the walk. Each removed peer costs what [`Pool::remove`] costs.
    pub fn sweep_shard(&self, index: usize, now: Tick) -> SweepReport<K, C> {
        let index = index % self.roster_shards.len();
        let mut report = SweepReport { removed: Vec::new(), revoked: self.revoke_overdue(index, now) };
        let stale_after = self.liveness.read(|policy| policy.stale_after);
        let shard = &self.roster_shards[index];
        let Some(mut scan) = shard.begin_scan(stale_after, now) else {
            drop(shard.current());
            return report;
        };
        // Whole milliseconds, and no decision before a batch's words are loaded: the walk is bound
        // by how many cache misses overlap.
        let stale_after = u64::try_from(stale_after.as_millis()).unwrap_or(u64::MAX);
        let is_stale = |seen: Tick| seen.as_millis().saturating_add(stale_after) < now.as_millis();
        let mut oldest = Tick::MAX;
        for batch in scan.view.all().chunks(PREFETCH_PEERS) {
            let oldest_of_batch =
                batch.iter().fold(Tick::MAX, |oldest, peer| oldest.min(peer.liveness_reading().last_seen()));
            if !is_stale(oldest_of_batch) {
                oldest = oldest.min(oldest_of_batch);
                continue;
            }
            for peer in batch {
                let examined = peer.liveness_reading();
                let stale = is_stale(examined.last_seen()) && !examined.is_paused();
                if stale && self.reap(peer, examined, &mut report) {
                    continue;
                }
                // If a late frame won, the older reading is the safe bound.
                oldest = oldest.min(examined.last_seen());
            }
        }
        scan.oldest_seen = oldest;
        drop(scan);
        // Otherwise the published list would keep the removed peers alive.
        drop(shard.current());
        report
    }

    /// Sweeps all shards, then calls [`Pool::trim`].
    pub fn sweep(&self, now: Tick) -> SweepReport<K, C> {
        let mut all = SweepReport { removed: Vec::new(), revoked: Vec::new() };
        for index in 0..self.roster_shards.len() {
            let report = self.sweep_shard(index, now);
            all.removed.extend(report.removed);
            all.revoked.extend(report.revoked);
        }
        all.removed.extend(self.trim(now));
        all
    }

    /// Removes a stale peer if its liveness word is still the one that was examined.
    #[cold]
    fn reap(&self, peer: &Peer<K, C>, examined: LivenessReading, report: &mut SweepReport<K, C>) -> bool {
        let removed = self.remove_if(peer.key(), DisconnectReason::Stale, |current| {
            let won =
                current.id() == peer.id() && current.mark_disconnected_if(examined, DisconnectReason::Stale);
            if won {
                self.shared.admission.release_live(current.direction(), current.slot_class());
            }
            won
        });
        let won = removed.is_some();
        report.removed.extend(removed);
        won
    }

    fn revoke_overdue(&self, index: usize, now: Tick) -> Vec<ConnId> {
        let overdue: Vec<_> = {
            let pending = self.pending[index].lock();
            pending.values().filter(|pending| now >= pending.deadline).cloned().collect()
        };
        let mut revoked = Vec::new();
        for pending in overdue {
            if self.release(&pending) {
                self.counters.count_revocation();
                revoked.push(pending.origin.id);
            }
        }
        revoked
    }
}
