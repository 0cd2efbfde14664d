//! Limits that change at run time: lowering a limit marks the pool, and trims remove the surplus
//! peers in steps.
//!
//! A trim may run beside connections that older limits admitted. They are found all the same:
//! - A connection draws its id before it reads the limits. A change of limits draws an id after the
//!   change.
//! - A connection whose id is smaller marks the pool again, after it went live and is listed.
//! - A trim clears the mark by comparing its value, so a mark set meanwhile survives.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use crate::base::{ConnId, Direction, Subnet, Tick};
use crate::sync::atomic::Ordering;

use super::address_index::subnet_limit;
use super::roster::RosterShard;
use super::{ConnectionHandle, DisconnectReason, EvictOutcome, Limits, Peer, PeerKey, Pool, SlotClass};

/// One call of [`Pool::trim`].
struct Trim<'a, K: PeerKey, C: ConnectionHandle> {
    pool: &'a Pool<K, C>,
    limits: Arc<Limits>,
    now: Tick,
    removed: Vec<Arc<Peer<K, C>>>,
    /// Another trim may find work.
    more: bool,
}

impl<K: PeerKey, C: ConnectionHandle> Pool<K, C> {
    /// Changes the limits at once. [`Pool::trim`] removes the peers beyond them, a few per call.
    pub fn set_limits(&self, limits: Limits) {
        self.limits.swap(Arc::new(limits));
        // Drawn after the change; connections draw theirs before they read the limits. Release:
        // pairs with the acquire in `mark_if_admitted_by_older_limits`.
        self.limits_changed_at.fetch_max(self.next_id().get(), Ordering::Release);
        self.mark_over_limit();
    }

    /// Removes peers beyond lowered limits ([`DisconnectReason::OverLimit`]).
    ///
    /// The order is by address, by subnet, then global. One call removes at most `trim_step` peers:
    /// the least healthy first, and the newest among them. Live peers never fall below the floor,
    /// and reserved slots stay. [`Pool::sweep`] calls this; a loop over [`Pool::sweep_shard`] calls
    /// it once per round.
    ///
    /// # Cost
    /// One load, unless the limits changed since the last trim without work, or a peer went live
    /// that older limits had admitted. Then a walk over the address counts, and over the peers if a
    /// limit is exceeded.
    pub fn trim(&self, now: Tick) -> Vec<Arc<Peer<K, C>>> {
        // Acquire: pairs with the release in `mark_over_limit`.
        let mark = self.over_limit_mark.load(Ordering::Acquire);
        if mark == 0 {
            return Vec::new();
        }
        self.roster_shards.iter().for_each(RosterShard::synchronize);
        let mut trim = Trim { pool: self, limits: self.limits.load(), now, removed: Vec::new(), more: false };
        trim.addresses();
        trim.subnets();
        trim.direction(Direction::Inbound);
        trim.direction(Direction::Outbound);
        if !trim.more {
            // Fails if the pool was marked again, and so leaves that to the next trim. AcqRel:
            // pairs with `mark_over_limit`.
            let _ = self.over_limit_mark.compare_exchange(mark, 0, Ordering::AcqRel, Ordering::Relaxed);
        }
        trim.removed
    }

    /// Makes the next trim look for surplus peers.
    fn mark_over_limit(&self) {
        // AcqRel, and an exchange as the one that clears it, so that all changes have one order:
        // pairs with the acquire in `trim`, which then reads the new limits.
        self.over_limit_mark.swap(self.next_id().get(), Ordering::AcqRel);
    }

    /// Called after a connection went live and is listed: a running trim by newer limits may have
    /// missed it.
    ///
    /// A trim first touches every lock and generation that a listing touches after its peer is
    /// added. If the listing came first, the trim finds the peer. Otherwise the change of limits
    /// that the trim applies is visible here.
    pub(super) fn mark_if_admitted_by_older_limits(&self, id: ConnId) {
        // Acquire: pairs with the release in `set_limits`.
        if id.get() < self.limits_changed_at.load(Ordering::Acquire) {
            self.mark_over_limit();
        }
    }
}

impl<K: PeerKey, C: ConnectionHandle> Trim<'_, K, C> {
    fn addresses(&mut self) {
        let max = self.limits.max_per_source as usize;
        for peers in self.pool.addresses.ips_over(max) {
            self.evict_worst(peers, max);
        }
    }

    fn subnets(&mut self) {
        let over = self.pool.addresses.subnets_over(&self.limits);
        if over.is_empty() {
            return;
        }
        let mut members: HashMap<Subnet, Vec<Arc<Peer<K, C>>>> = HashMap::new();
        for peer in self.pool.roster().iter() {
            for subnet in Subnet::of(peer.ip()).filter(|subnet| over.contains(subnet)) {
                members.entry(subnet).or_default().push(Arc::clone(peer));
            }
        }
        for (subnet, peers) in members {
            self.evict_worst(peers, subnet_limit(subnet, &self.limits) as usize);
        }
    }

    fn direction(&mut self, direction: Direction) {
        let counts = self.pool.admission();
        let (live, max) = match direction {
            Direction::Inbound => (counts.live_inbound, self.limits.max_inbound),
            Direction::Outbound => (counts.live_outbound, self.limits.max_outbound),
        };
        if live > max {
            let roster = self.pool.roster();
            let peers = roster.iter().filter(|peer| peer.direction() == direction).cloned().collect();
            self.evict_worst(peers, max as usize);
        }
    }

    /// Evicts the worst of `peers` until `max` remain, within the rest of `trim_step`.
    fn evict_worst(&mut self, mut peers: Vec<Arc<Peer<K, C>>>, max: usize) {
        let budget = (self.limits.trim_step as usize).saturating_sub(self.removed.len());
        // Peers that disconnected meanwhile, by this trim or otherwise, and pending connections are
        // no surplus.
        peers.retain(|peer| peer.is_live());
        let surplus = peers.len().saturating_sub(max);
        peers.retain(|peer| peer.slot_class() != SlotClass::Reserved);
        // Reserved peers may exceed the limit and stay.
        let surplus = surplus.min(peers.len());
        let now = self.now;
        peers.sort_by_cached_key(|peer| (peer.health(now), Reverse(peer.connected_at()), Reverse(peer.id())));
        for peer in peers.into_iter().take(surplus.min(budget)) {
            match self.pool.evict(peer.key(), peer.id(), DisconnectReason::OverLimit) {
                EvictOutcome::Evicted(peer) => self.removed.push(peer),
                EvictOutcome::NotFound => {}
                EvictOutcome::AtFloor => {
                    // The rest stays until there are more peers, or the limits change again.
                    self.more = true;
                    return;
                }
            }
        }
        self.more |= surplus > budget;
    }
}
