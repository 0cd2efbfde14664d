//! The single reaper: revokes what is overdue, departs the stale, and trims what is beyond lowered limits.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use crate::base::{ConnId, Direction, Subnet, Tick};
use crate::sync::atomic::Ordering;

use super::address_index::limit_of;
use super::liveness::Reading;
use super::roster::RosterShard;
use super::{ConnectionHandle, DisconnectReason, EvictOutcome, Limits, Peer, PeerKey, Pool, SlotClass};

/// What a sweep did. The departed are closed already.
pub struct SweepReport<K: PeerKey, C: ConnectionHandle> {
    /// Peers it departed: as stale, or beyond lowered limits.
    pub removed: Vec<Arc<Peer<K, C>>>,
    /// Permits and claims it revoked at their deadline.
    pub revoked: Vec<ConnId>,
}

// By hand: deriving would ask the user's connection for `Debug`.
impl<K: PeerKey, C: ConnectionHandle> std::fmt::Debug for SweepReport<K, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SweepReport").field("removed", &self.removed).field("revoked", &self.revoked).finish()
    }
}

impl<K: PeerKey, C: ConnectionHandle> SweepReport<K, C> {
    fn nothing() -> Self {
        Self { removed: Vec::new(), revoked: Vec::new() }
    }
}

impl<K: PeerKey, C: ConnectionHandle> Pool<K, C> {
    /// Sweeps one cell: one step of a maintenance loop. Cells are counted from zero and wrap around.
    ///
    /// A peer is judged by `(vitals, policy, now)` and departed by an exchange of the very word that was judged, inside
    /// the removal from the map: a frame that comes in between wins (29). Peers paused by us are not judged (38).
    ///
    /// # Cost
    /// A load a peer, and only if by what the last sweep saw somebody may be stale: where all peers send now and then,
    /// most sweeps judge nobody. No lock of the map or of an address is held meanwhile. For each peer departed, what
    /// [`Pool::remove`] costs.
    pub fn sweep_shard(&self, index: usize, now: Tick) -> SweepReport<K, C> {
        let index = index % self.cells.len();
        let mut swept = SweepReport { revoked: self.revoke_overdue(index, now), ..SweepReport::nothing() };
        let stale_after = self.liveness.read(|policy| policy.stale_after);
        let cell = &self.cells[index];
        let Some(mut judgement) = cell.judge(stale_after, now) else {
            drop(cell.fresh());
            return swept;
        };
        // In whole milliseconds, and a few peers at once, with nothing to decide before all their words were asked for:
        // the walk is bound by how many of them can be on their way from memory together.
        let patience = u64::try_from(stale_after.as_millis()).unwrap_or(u64::MAX);
        let is_stale = |seen: Tick| seen.as_millis().saturating_add(patience) < now.as_millis();
        let mut oldest = Tick::MAX;
        for few in judgement.view.all().chunks(AT_ONCE) {
            let first = few.iter().fold(Tick::MAX, |first, peer| first.min(peer.reading().last_seen()));
            if !is_stale(first) {
                oldest = oldest.min(first);
                continue;
            }
            for peer in few {
                let judged = peer.reading();
                let stale = is_stale(judged.last_seen());
                if stale && !judged.is_paused() && self.reap(peer, judged, &mut swept) {
                    continue;
                }
                // If a late frame won, the older reading is the careful one.
                oldest = oldest.min(judged.last_seen());
            }
        }
        judgement.oldest = oldest;
        drop(judgement);
        // So that the published list does not pin whom we just departed.
        drop(cell.fresh());
        swept
    }

    /// Departs a stale peer if its word is still the one that was judged.
    #[cold]
    fn reap(&self, peer: &Peer<K, C>, judged: Reading, swept: &mut SweepReport<K, C>) -> bool {
        let departed = self.take(peer.key(), DisconnectReason::Stale, |held| {
            let won = held.id() == peer.id() && held.mark_departed_if(judged, DisconnectReason::Stale);
            if won {
                self.shared.admission.release_live(held.direction());
            }
            won
        });
        let won = departed.is_some();
        swept.removed.extend(departed);
        won
    }

    /// Sweeps all cells, then trims.
    pub fn sweep(&self, now: Tick) -> SweepReport<K, C> {
        let mut all = SweepReport::nothing();
        for index in 0..self.cells.len() {
            let swept = self.sweep_shard(index, now);
            all.removed.extend(swept.removed);
            all.revoked.extend(swept.revoked);
        }
        all.removed.extend(self.trim(now));
        all
    }

    /// Departs what is beyond the limits after they were lowered ([`DisconnectReason::OverLimit`]): by address, by subnet,
    /// then global; at most `trim_step` a call, the least healthy first and the newest among them; never below the
    /// floor, and never a reserved slot. [`Pool::sweep`] does it; who sweeps cell by cell calls it once a round.
    ///
    /// # Cost
    /// One load, unless limits were changed since the last trim that found nothing to do, or somebody went live whom older
    /// limits had let in: then a walk over the address counts, and over the peers if some are too many.
    pub fn trim(&self, now: Tick) -> Vec<Arc<Peer<K, C>>> {
        // Acquire: pairs with the release in `crowd`.
        let crowded = self.crowded.load(Ordering::Acquire);
        if crowded == 0 {
            return Vec::new();
        }
        self.cells.iter().for_each(RosterShard::meet);
        let limits = self.limits.load();
        let mut departed = Vec::new();
        let mut more = self.trim_addresses(&limits, now, &mut departed);
        more |= self.trim_subnets(&limits, now, &mut departed);
        for direction in [Direction::Inbound, Direction::Outbound] {
            more |= self.trim_direction(direction, &limits, now, &mut departed);
        }
        if !more {
            // Fails, and so leaves the next trim to it, if there is more since. AcqRel: pairs with `crowd`.
            let _ = self.crowded.compare_exchange(crowded, 0, Ordering::AcqRel, Ordering::Relaxed);
        }
        departed
    }

    fn revoke_overdue(&self, index: usize, now: Tick) -> Vec<ConnId> {
        let overdue: Vec<_> = {
            let tickets = self.tickets[index].lock();
            tickets.values().filter(|ticket| now >= ticket.deadline).cloned().collect()
        };
        let mut revoked = Vec::new();
        for ticket in overdue {
            if self.release(&ticket) {
                self.counters.revoked();
                revoked.push(ticket.origin.id);
            }
        }
        revoked
    }

    fn trim_addresses(&self, limits: &Limits, now: Tick, departed: &mut Vec<Arc<Peer<K, C>>>) -> bool {
        let max = limits.max_per_ip as usize;
        let mut more = false;
        for peers in self.addresses.crowded_ips(max) {
            more |= self.evict_worst(peers, max, limits, now, departed);
        }
        more
    }

    fn trim_subnets(&self, limits: &Limits, now: Tick, departed: &mut Vec<Arc<Peer<K, C>>>) -> bool {
        let crowded = self.addresses.crowded_nets(limits);
        if crowded.is_empty() {
            return false;
        }
        let mut members: HashMap<Subnet, Vec<Arc<Peer<K, C>>>> = HashMap::new();
        for peer in self.roster().iter() {
            for net in Subnet::of(peer.ip()).filter(|net| crowded.contains(net)) {
                members.entry(net).or_default().push(Arc::clone(peer));
            }
        }
        let mut more = false;
        for (net, peers) in members {
            more |= self.evict_worst(peers, limit_of(net, limits) as usize, limits, now, departed);
        }
        more
    }

    fn trim_direction(
        &self,
        direction: Direction,
        limits: &Limits,
        now: Tick,
        departed: &mut Vec<Arc<Peer<K, C>>>,
    ) -> bool {
        let counts = self.admission();
        let (live, max) = match direction {
            Direction::Inbound => (counts.live_inbound, limits.max_inbound),
            Direction::Outbound => (counts.live_outbound, limits.max_outbound),
        };
        if live <= max {
            return false;
        }
        let roster = self.roster();
        let peers = roster.iter().filter(|peer| peer.direction() == direction).cloned().collect();
        self.evict_worst(peers, max as usize, limits, now, departed)
    }

    /// Evicts the worst of `peers` until `max` are left, within what is left of this trim. True if another trim may find more
    /// to do.
    fn evict_worst(
        &self,
        mut peers: Vec<Arc<Peer<K, C>>>,
        max: usize,
        limits: &Limits,
        now: Tick,
        departed: &mut Vec<Arc<Peer<K, C>>>,
    ) -> bool {
        let left = (limits.trim_step as usize).saturating_sub(departed.len());
        // Whoever has left meanwhile, by this trim or by itself, is not too many; nor is who is only pending.
        peers.retain(|peer| peer.is_live());
        let over = peers.len().saturating_sub(max);
        peers.retain(|peer| peer.slot_class() == SlotClass::Ordinary);
        // Reserved ones may be too many, but stay.
        let over = over.min(peers.len());
        peers.sort_by_cached_key(|peer| (peer.health(now), Reverse(peer.connected_at()), Reverse(peer.id())));
        for peer in peers.into_iter().take(over.min(left)) {
            match self.evict(peer.key(), peer.id(), DisconnectReason::OverLimit) {
                EvictOutcome::Evicted(peer) => departed.push(peer),
                EvictOutcome::NotFound => {}
                // The rest stays until there are more peers, or the limits change again.
                EvictOutcome::AtFloor => return true,
            }
        }
        over > left
    }
}

/// Peers whose words a walk asks for together.
pub(super) const AT_ONCE: usize = 16;
