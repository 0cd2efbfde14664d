//! The relay's memory: which messages this node has already passed on.
//!
//! Invariant: `duplicates_are_decided_in_one_step`.
//! - Statement: within the retention each digest is new exactly once, whichever peers bring it, on
//!   however many connections at the same time.
//! - Enforced by: [`SeenSet::insert`] is one test-and-set under the lock of the digest's shard.
//!   Digests are keyed and computed here, so that nobody can claim an id in advance.
//! - Breaks if: a caller relays without asking, or ids are taken from the wire.
//!
//! Invariant: `shares_belong_to_a_source`.
//! - Statement: what one source, or one subnet, brings first takes a bounded part of the memory,
//!   over any number of connections, and a part is kept for messages of our own and of trusted
//!   peers.
//! - Enforced by: every remembered digest is charged to the source that brought it until it
//!   expires.
//! - Breaks if: a digest is charged to a connection, whose end forgets the charge.

use std::collections::{HashMap, VecDeque};
use std::hash::Hasher as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use siphasher::sip128::{Hasher128, SipHasher13};

use crate::base::counts::SourceCounts;
use crate::base::{Source, Tick};
use crate::node::config::{ConfigError, within};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};

const SHARDS: usize = 16;
/// The part of the capacity that every source may use of the room that is kept for our own
/// messages, so that strangers who fill the common room do not silence a peer that sends little.
const GUARANTEED_DIVISOR: usize = 1024;

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
    /// The memory is full of young ids, or the share of the source or its subnet is. The message
    /// was neither relayed nor remembered.
    Full,
}

/// What brought a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RelayOrigin {
    /// This node, or a trusted peer: no share of their own.
    Trusted,
    /// A peer at this source.
    Source(Source),
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
    /// How many of the remembered digests each source brought first.
    brought: SourceCounts,
    /// The sum of all sources.
    charged: usize,
}

#[derive(Debug)]
struct Arrival {
    digest: u128,
    from: RelayOrigin,
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
    /// The share of the capacity that ids first brought by one source may take, in percent: an IPv4
    /// address, or an IPv6 /64. Default 25.
    pub source_share_percent: u8,
    /// The same for a subnet: a /24, or a /48. Default 40.
    pub subnet_share_percent: u8,
    /// The share of the capacity that only ids of this node's own messages and of trusted peers may
    /// take, in percent. Default 25.
    pub own_share_percent: u8,
}

impl RelayConfig {
    /// Bytes of memory for an id: the map, the queue, and its share of the counts by source.
    const BYTES_PER_ID: usize = 80;

    /// The memory that a full set takes, in bytes. It is part of
    /// [`memory_limit`](crate::node::RuntimeConfig::memory_limit).
    pub const fn max_bytes(&self) -> usize {
        self.capacity.saturating_mul(Self::BYTES_PER_ID)
    }

    pub(in crate::node) fn check(&self) -> Result<(), ConfigError> {
        let (of_source, of_subnet) = (self.source_share_percent, self.subnet_share_percent);
        within("relay.source_share_percent", of_source, 0..=100)?;
        within("relay.subnet_share_percent", of_subnet, 0..=100)?;
        within("relay.own_share_percent", self.own_share_percent, 0..=100)?;
        within("relay.capacity", self.capacity, 1..=usize::MAX)?;
        if of_source > of_subnet {
            let why = format!("is {of_source}, above `relay.subnet_share_percent`, {of_subnet}");
            return Err(ConfigError { field: "relay.source_share_percent", why });
        }
        if self.retention.is_zero() {
            return Err(ConfigError { field: "relay.retention", why: "must not be zero".into() });
        }
        Ok(())
    }
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self { retention: Duration::from_secs(60), capacity: 1 << 18, source_share_percent: 25, subnet_share_percent: 40, own_share_percent: 25 }
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

    /// Remembers a digest, and says whether it is new. `from` is asked for a new one only.
    ///
    /// # Cost
    /// One shard's lock, amortised O(1).
    pub(crate) fn insert(
        &self,
        digest: Digest,
        from: impl FnOnce() -> RelayOrigin,
        config: &RelayConfig,
        now: Tick,
    ) -> RelayOutcome {
        let mut shard = self.shard(digest).lock();
        shard.expire(config.retention, now);
        if shard.digests.contains_key(&digest.0) {
            return RelayOutcome::Duplicate;
        }
        let from = from();
        if !shard.has_room(from, config) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return RelayOutcome::Full;
        }
        shard.digests.insert(digest.0, ());
        shard.arrivals.push_back(Arrival { digest: digest.0, from, at: now });
        shard.charge(from);
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

    /// How many new digests were refused because the set or a share of it was full.
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
            self.release(old.from);
        }
    }

    fn has_room(&self, from: RelayOrigin, config: &RelayConfig) -> bool {
        let capacity = (config.capacity / SHARDS).max(1);
        if self.digests.len() >= capacity {
            return false;
        }
        let RelayOrigin::Source(source) = from else { return true };
        let share = |percent: u8| (capacity.saturating_mul(usize::from(percent)) / 100).max(1);
        let held = self.brought.of_source(source);
        if held >= share(config.source_share_percent)
            || self.brought.of_subnet(source) >= share(config.subnet_share_percent)
        {
            return false;
        }
        let kept = capacity.saturating_mul(usize::from(config.own_share_percent)) / 100;
        let common = capacity - kept.min(capacity);
        let guaranteed = held < capacity / GUARANTEED_DIVISOR && self.charged < common + kept / 2;
        self.charged < common || guaranteed
    }

    fn charge(&mut self, from: RelayOrigin) {
        if let RelayOrigin::Source(source) = from {
            self.charged += 1;
            self.brought.add(source);
        }
    }

    fn release(&mut self, from: RelayOrigin) {
        if let RelayOrigin::Source(source) = from {
            self.charged -= 1;
            self.brought.subtract(source);
        }
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    const OWN: RelayOrigin = RelayOrigin::Trusted;

    fn source(n: u8) -> RelayOrigin {
        RelayOrigin::Source(Source::of([192, 0, n, 1].into()))
    }

    fn digests(set: &SeenSet, numbers: std::ops::Range<u32>) -> impl Iterator<Item = Digest> + '_ {
        numbers.map(|n| set.digest(0, &n.to_le_bytes()))
    }

    /// How many of these are new.
    fn insert(set: &SeenSet, numbers: std::ops::Range<u32>, from: RelayOrigin, config: &RelayConfig) -> usize {
        digests(set, numbers).filter(|digest| set.insert(*digest, || from, config, Tick::ZERO) == RelayOutcome::New).count()
    }

    #[test]
    fn a_digest_is_new_once_within_the_retention_and_again_after_it() {
        let set = SeenSet::new((1, 2));
        let config = RelayConfig { retention: Duration::from_secs(1), ..RelayConfig::default() };
        let digest = set.digest(7, b"block");
        let at = Tick::from_millis;
        assert_eq!(set.insert(digest, || source(1), &config, at(0)), RelayOutcome::New);
        assert_eq!(set.insert(digest, || source(2), &config, at(1_000)), RelayOutcome::Duplicate);
        assert!(set.contains(digest, config.retention, at(1_000)));
        assert_eq!(set.insert(digest, || source(2), &config, at(1_001)), RelayOutcome::New);
        set.expire(config.retention, at(9_000));
        assert_eq!(set.len(), 0);
    }

    #[test]
    fn a_full_set_refuses_new_digests_before_it_forgets_young_ones() {
        let set = SeenSet::new((1, 2));
        let config = RelayConfig { capacity: 16 * 4, ..RelayConfig::default() };
        let new: Vec<_> =
            digests(&set, 0..1_000).map(|digest| set.insert(digest, || OWN, &config, Tick::ZERO)).collect();
        assert_eq!(set.len(), 64);
        assert_eq!(set.refused(), 1_000 - 64);
        for (digest, new) in digests(&set, 0..1_000).zip(new) {
            assert_eq!(set.contains(digest, config.retention, Tick::ZERO), new == RelayOutcome::New);
        }
    }

    #[test]
    fn sources_and_subnets_take_no_more_than_their_shares() {
        let set = SeenSet::new((3, 4));
        let config = RelayConfig { capacity: 16 * 1_000, ..RelayConfig::default() };
        assert_eq!(insert(&set, 0..10_000, source(1), &config), 16 * 250);
        let sibling = RelayOrigin::Source(Source::of([192, 0, 1, 2].into()));
        assert_eq!(insert(&set, 10_000..20_000, sibling, &config), 16 * 150, "the rest of its subnet");
        let v6 = |n: u16| RelayOrigin::Source(Source::of(std::net::Ipv6Addr::new(0x2600, 1, 2, 3, n, n, n, n).into()));
        assert_eq!(insert(&set, 20_000..40_000, v6(1), &config), 16 * 250);
        assert_eq!(insert(&set, 40_000..60_000, v6(2), &config), 0, "another address of the same /64");
    }

    #[test]
    fn strangers_leave_room_for_our_own_messages_and_for_peers_that_send_little() {
        let set = SeenSet::new((3, 4));
        let config = RelayConfig { capacity: 16 * 4_096, ..RelayConfig::default() };
        let taken: usize = (0..20).map(|n| insert(&set, u32::from(n) * 50_000..u32::from(n + 1) * 50_000, source(n), &config)).sum();
        assert!(taken >= 16 * 4_096 * 3 / 4, "{taken}");
        assert_eq!(insert(&set, 2_000_000..2_000_010, source(99), &config), 10, "of a peer that sends little");
        assert_eq!(insert(&set, 3_000_000..3_005_000, OWN, &config), 5_000, "our own");
    }

    #[test]
    fn shares_are_given_back_when_digests_expire() {
        let set = SeenSet::new((3, 4));
        let config = RelayConfig { capacity: 16 * 100, ..RelayConfig::default() };
        assert_eq!(insert(&set, 0..5_000, source(1), &config), 16 * 25);
        set.expire(config.retention, Tick::from_millis(61_000));
        assert!(set.shards.iter().all(|shard| {
            let shard = shard.lock();
            shard.charged == 0 && shard.brought.is_empty()
        }));
    }

    #[test]
    fn an_unlimited_capacity_leaves_each_source_its_share() {
        let set = SeenSet::new((3, 4));
        let config = RelayConfig { capacity: usize::MAX, ..RelayConfig::default() };
        assert_eq!(insert(&set, 0..100, source(1), &config), 100);
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
                        if set.insert(digest, || source(thread), config, Tick::ZERO) == RelayOutcome::New {
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
