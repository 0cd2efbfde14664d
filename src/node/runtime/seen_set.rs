//! The relay's memory: which messages this node has already passed on.
//!
//! Invariant: `duplicates_are_decided_in_one_step`.
//! - Statement: within the retention each digest is new exactly once, whichever peers bring it, on
//!   however many connections at the same time.
//! - Enforced by: [`SeenSet::insert`] is one test-and-set under the lock of the digest's shard.
//!   Digests are keyed and computed here, so that nobody can claim an id in advance.
//! - Breaks if: a caller relays without asking, or ids are taken from the wire.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::hash::Hasher as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use siphasher::sip128::{Hasher128, SipHasher13};

use crate::base::{ConnId, Tick};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};

const SHARDS: usize = 16;

/// A keyed 128-bit digest of a message: SipHash-1-3 with a key that is random per node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(u128);

/// The result of [`NodeRef::relay`](crate::node::NodeRef::relay).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayOutcome {
    /// The message is new within the retention, and was relayed.
    New,
    /// The message was seen before.
    Duplicate,
    /// The memory is full of young ids, or this peer's share of it is. The message was neither
    /// relayed nor remembered.
    Full,
}

/// A set of digests that is exact within its retention and bounded in entries.
#[derive(Debug)]
pub(crate) struct SeenSet {
    key: (u64, u64),
    shards: Box<[Mutex<Shard>]>,
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct Shard {
    digests: HashMap<u128, (), foldhash::fast::RandomState>,
    /// In order of arrival: expiry reads the front only.
    arrivals: VecDeque<Arrival>,
    /// How many of the remembered digests each connection brought first; no entry at zero.
    shares: HashMap<ConnId, u32, foldhash::fast::RandomState>,
}

#[derive(Debug)]
struct Arrival {
    digest: u128,
    from: Option<ConnId>,
    at: Tick,
}

/// Bounds of the memory of relayed messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RelayConfig {
    /// How long a message is remembered after it was first seen. Default 60 s. Must exceed the time
    /// in which copies of a message still travel through the mesh.
    #[serde(with = "humantime_serde")]
    pub retention: Duration,
    /// The most ids that are remembered. Default 262,144 (about 20 MiB). A full set refuses new ids
    /// before it forgets young ones.
    pub capacity: usize,
    /// The share of the capacity that ids first brought by one connection may take, in percent.
    /// Default 50.
    pub peer_share_percent: u8,
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self { retention: Duration::from_secs(60), capacity: 1 << 18, peer_share_percent: 50 }
    }
}

impl SeenSet {
    pub(crate) fn new(key: (u64, u64)) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { key, shards, refused: AtomicU64::new(0) }
    }

    /// The digest of a message: of its kind and its bytes.
    ///
    /// # Cost
    /// About 1 ns a byte up to 1 KiB.
    pub(crate) fn digest(&self, kind: u16, payload: &[u8]) -> Digest {
        let mut hasher = SipHasher13::new_with_keys(self.key.0, self.key.1);
        hasher.write_u16(kind);
        hasher.write(payload);
        Digest(hasher.finish128().as_u128())
    }

    /// Remembers a digest, and says whether it is new.
    ///
    /// # Cost
    /// One shard's lock, amortised O(1).
    pub(crate) fn insert(
        &self,
        digest: Digest,
        from: Option<ConnId>,
        config: &RelayConfig,
        now: Tick,
    ) -> RelayOutcome {
        let per_shard = (config.capacity / SHARDS).max(1);
        let percent = usize::from(config.peer_share_percent.min(100));
        let per_peer = (per_shard.saturating_mul(percent) / 100).max(1);
        let mut shard = self.shard(digest).lock();
        shard.expire(config.retention, now);
        if shard.digests.contains_key(&digest.0) {
            return RelayOutcome::Duplicate;
        }
        let share = from.and_then(|conn| shard.shares.get(&conn)).copied().unwrap_or(0);
        if shard.digests.len() >= per_shard || share as usize >= per_peer {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return RelayOutcome::Full;
        }
        shard.digests.insert(digest.0, ());
        shard.arrivals.push_back(Arrival { digest: digest.0, from, at: now });
        if let Some(conn) = from {
            *shard.shares.entry(conn).or_insert(0) += 1;
        }
        RelayOutcome::New
    }

    /// Whether a digest is remembered.
    ///
    /// # Cost
    /// One shard's lock.
    pub(crate) fn contains(&self, digest: Digest, retention: Duration, now: Tick) -> bool {
        let mut shard = self.shard(digest).lock();
        shard.expire(retention, now);
        shard.digests.contains_key(&digest.0)
    }

    /// How many new digests were refused because the set or a peer's share of it was full.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Digests remembered now.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().digests.len()).sum()
    }

    /// Forgets digests older than the retention, also in shards that are not used.
    ///
    /// # Cost
    /// Each shard's lock in turn.
    pub(crate) fn expire(&self, retention: Duration, now: Tick) {
        for shard in &self.shards {
            shard.lock().expire(retention, now);
        }
    }

    fn shard(&self, digest: Digest) -> &Mutex<Shard> {
        &self.shards[(digest.0 >> 64) as usize % SHARDS]
    }
}

impl Shard {
    fn expire(&mut self, retention: Duration, now: Tick) {
        while self.arrivals.front().is_some_and(|first| now.since(first.at) > retention) {
            let Some(old) = self.arrivals.pop_front() else { return };
            self.digests.remove(&old.digest);
            if let Some(conn) = old.from
                && let Some(share) = self.shares.get_mut(&conn)
            {
                *share -= 1;
                if *share == 0 {
                    self.shares.remove(&conn);
                }
            }
        }
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    fn conn(n: u64) -> Option<ConnId> {
        ConnId::new(n)
    }

    #[test]
    fn a_digest_is_new_once_within_the_retention_and_again_after_it() {
        let set = SeenSet::new((1, 2));
        let config = RelayConfig { retention: Duration::from_secs(1), ..RelayConfig::default() };
        let digest = set.digest(7, b"block");
        let at = Tick::from_millis;
        assert_eq!(set.insert(digest, conn(1), &config, at(0)), RelayOutcome::New);
        assert_eq!(set.insert(digest, conn(2), &config, at(1_000)), RelayOutcome::Duplicate);
        assert!(set.contains(digest, config.retention, at(1_000)));
        assert_eq!(set.insert(digest, conn(2), &config, at(1_001)), RelayOutcome::New);
        set.expire(config.retention, at(9_000));
        assert_eq!(set.len(), 0);
    }

    #[test]
    fn a_full_set_refuses_new_digests_before_it_forgets_young_ones() {
        let set = SeenSet::new((1, 2));
        let config = RelayConfig { capacity: 16 * 4, peer_share_percent: 100, ..RelayConfig::default() };
        let digests: Vec<_> = (0..1_000u32).map(|n| set.digest(0, &n.to_le_bytes())).collect();
        let new: Vec<_> = digests.iter().map(|d| set.insert(*d, None, &config, Tick::ZERO)).collect();
        assert_eq!(set.len(), 64);
        assert_eq!(set.refused(), 1_000 - 64);
        for (digest, new) in digests.iter().zip(new) {
            assert_eq!(set.contains(*digest, config.retention, Tick::ZERO), new == RelayOutcome::New);
        }
    }

    #[test]
    fn one_peer_cannot_fill_the_set_for_the_others() {
        let set = SeenSet::new((3, 4));
        let config = RelayConfig { capacity: 16 * 10, peer_share_percent: 50, ..RelayConfig::default() };
        for n in 0..1_000u32 {
            set.insert(set.digest(0, &n.to_le_bytes()), conn(1), &config, Tick::ZERO);
        }
        assert_eq!(set.len(), 80);
        let other: usize = (1_000..1_040u32)
            .filter(|n| {
                set.insert(set.digest(0, &n.to_le_bytes()), conn(2), &config, Tick::ZERO) == RelayOutcome::New
            })
            .count();
        assert!(other > 30, "{other}");
    }

    #[test]
    fn an_unlimited_capacity_leaves_each_peer_its_share() {
        let set = SeenSet::new((3, 4));
        let config = RelayConfig { capacity: usize::MAX, peer_share_percent: 50, ..RelayConfig::default() };
        for n in 0..100u32 {
            let digest = set.digest(0, &n.to_le_bytes());
            assert_eq!(set.insert(digest, conn(1), &config, Tick::ZERO), RelayOutcome::New);
        }
    }

    #[test]
    fn concurrent_arrivals_of_one_digest_are_new_exactly_once() {
        let set = SeenSet::new((5, 6));
        let config = RelayConfig::default();
        let new = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for thread in 1..=4 {
                let (set, new, config) = (&set, &new, &config);
                scope.spawn(move || {
                    for n in 0..10_000u32 {
                        let digest = set.digest(1, &n.to_le_bytes());
                        if set.insert(digest, conn(thread), config, Tick::ZERO) == RelayOutcome::New {
                            new.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(new.into_inner(), 10_000);
    }

    #[test]
    fn another_node_computes_another_digest() {
        let (one, two) = (SeenSet::new((1, 2)), SeenSet::new((1, 3)));
        assert_ne!(one.digest(1, b"x"), two.digest(1, b"x"));
        assert_ne!(one.digest(1, b"x"), one.digest(2, b"x"));
    }
}
