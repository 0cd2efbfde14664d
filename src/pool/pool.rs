//! The [`Pool`] type: its parts, its look-ups, and the settings that change at run time.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::base::{ConnId, Tick, canonical_ip};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Change, HashState, Mutex, ShardMap, SwapCell};

use super::address_index::AddressIndex;
use super::admission::Admission;
use super::claim_watch::{ClaimRecord, ClaimWatch};
use super::health::HealthRules;
use super::peer::PeerShared;
use super::pending::PendingHandshake;
use super::roster::RosterShard;
use super::stats::Counters;
use super::{
    AdmissionCounts, ConnectionHandle, HealthPolicy, Limits, LivenessPolicy, Misbehavior, Peer, PeerKey,
    PenaltyOutcome, PoolConfig, Roster, RosterShardView, SeenOutcome,
};

const PEERS_PER_ROSTER_SHARD: usize = 4_096;
/// Enough that two threads seldom meet in a shard of the map; few enough that the shards' locks
/// stay in the cache.
const MAP_SHARDS_PER_CORE: usize = 8;
/// Bounds how long a growing shard of the map hashes its keys again under its lock.
const PEERS_PER_MAP_SHARD: usize = 16_384;
/// Smaller than in the map: growing a shard of the address index reads every peer of the shard
/// through its pointer.
const PEERS_PER_ADDRESS_SHARD: usize = 2_048;
#[cfg(not(peerpool_loom))]
const MIN_ROSTER_SHARDS: usize = 16;
#[cfg(not(peerpool_loom))]
const MIN_ADDRESS_SHARDS: usize = 64;
#[cfg(not(peerpool_loom))]
const MAX_SHARDS: usize = 1_024;
#[cfg(peerpool_loom)]
const MIN_ROSTER_SHARDS: usize = 1;
#[cfg(peerpool_loom)]
const MIN_ADDRESS_SHARDS: usize = 1;
#[cfg(peerpool_loom)]
const MAX_SHARDS: usize = 1;

/// A sharded pool of unified connections. The [module page](super) lists what it guarantees.
///
/// A pool is used as `Arc<Pool>`. Permits and claims keep it alive; peers do not.
pub struct Pool<K: PeerKey, C: ConnectionHandle> {
    /// The one authority for which keys are claimed and which peers are live.
    pub(super) entries: ShardMap<K, PoolEntry<K, C>>,
    pub(super) addresses: AddressIndex<K, C>,
    pub(super) roster_shards: Box<[RosterShard<K, C>]>,
    /// Permits and claims that are not live yet, for the sweep. Sharded by connection id, as the
    /// roster is.
    pub(super) pending: Box<[Mutex<PendingShard<K>>]>,
    pub(super) shared: Arc<PeerShared>,
    pub(super) limits: SwapCell<Limits>,
    pub(super) liveness: SwapCell<LivenessPolicy>,
    /// Nonzero if a trim may find work: an id drawn when the limits changed, or when a peer went
    /// live that older limits had admitted. A trim that leaves nothing to do resets it to zero.
    pub(super) over_limit_mark: AtomicU64,
    /// An id drawn at the last change of the limits, or zero. Connections with a smaller id may
    /// have been admitted by older limits.
    pub(super) limits_changed_at: AtomicU64,
    pub(super) counters: Counters,
    last_id: AtomicU64,
}

pub(super) type PendingShard<K> = HashMap<ConnId, Arc<PendingHandshake<K>>, HashState>;

/// The value of a key in the map.
pub(super) enum PoolEntry<K: PeerKey, C: ConnectionHandle> {
    /// A connection that is being set up holds the key.
    Claimed(Arc<ClaimRecord<K>>),
    /// The key's peer is live. Its liveness word says so as long as the entry exists.
    Live(Arc<Peer<K, C>>),
}

impl<K: PeerKey, C: ConnectionHandle> Pool<K, C> {
    /// An empty pool.
    pub fn new(config: PoolConfig) -> Arc<Self> {
        let expected = config.expected_or_limit();
        let shards =
            |per_shard: usize, min: usize| (expected / per_shard).next_power_of_two().clamp(min, MAX_SHARDS);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let roster_shards = shards(PEERS_PER_ROSTER_SHARD, MIN_ROSTER_SHARDS);
        Arc::new(Self {
            entries: ShardMap::with_shards(
                (expected / PEERS_PER_MAP_SHARD).clamp(cores * MAP_SHARDS_PER_CORE, usize::MAX),
            ),
            addresses: AddressIndex::with_shards(shards(PEERS_PER_ADDRESS_SHARD, MIN_ADDRESS_SHARDS)),
            roster_shards: (0..roster_shards).map(|_| RosterShard::new()).collect(),
            pending: (0..roster_shards).map(|_| Mutex::new(HashMap::default())).collect(),
            shared: Arc::new(PeerShared {
                admission: Admission::new(),
                health_rules: SwapCell::new(Arc::new(HealthRules::new(config.health))),
            }),
            limits: SwapCell::new(Arc::new(config.limits)),
            liveness: SwapCell::new(Arc::new(config.liveness)),
            over_limit_mark: AtomicU64::new(0),
            limits_changed_at: AtomicU64::new(0),
            counters: Counters::default(),
            last_id: AtomicU64::new(1),
        })
    }

    /// The live peer with this key.
    ///
    /// # Cost
    /// One shard's read lock, one reference count.
    pub fn get(&self, key: &K) -> Option<Arc<Peer<K, C>>> {
        self.with_live(key, Arc::clone)
    }

    /// Whether a live peer has this key.
    ///
    /// # Cost
    /// One shard's read lock.
    pub fn contains(&self, key: &K) -> bool {
        self.with_live(key, |_| ()).is_some()
    }

    /// A watch on the claim that holds this key. `None` if the key is free or its peer is live.
    ///
    /// # Cost
    /// One shard's read lock.
    pub fn watch_claim(&self, key: &K) -> Option<ClaimWatch<K>> {
        let found = self.entries.read(key, |entry| match entry {
            PoolEntry::Claimed(claim) => Some(ClaimWatch::new(claim)),
            PoolEntry::Live(_) => None,
        });
        found.flatten()
    }

    /// The live peers of an IP address.
    ///
    /// # Cost
    /// One lock of one shard of the address index; independent of the number of peers of other
    /// addresses.
    pub fn by_ip(&self, ip: IpAddr) -> Vec<Arc<Peer<K, C>>> {
        let mut peers = self.addresses.peers(canonical_ip(ip));
        // Outside the lock: dropping the last reference to a disconnected peer runs the user's
        // destructor.
        peers.retain(|peer| peer.is_live());
        peers
    }

    /// Number of connections of an IP address, handshakes included. `max_per_source` bounds this
    /// number.
    pub fn count_by_ip(&self, ip: IpAddr) -> usize {
        self.addresses.count(canonical_ip(ip))
    }

    /// Marks the peer with this key as seen. Returns false if no live peer has the key.
    ///
    /// # Cost
    /// One hash, one shard's read lock, and [`Peer::seen`]. A caller that holds the peer saves hash
    /// and lock.
    pub fn seen(&self, key: &K, now: Tick) -> bool {
        self.with_live(key, |peer| peer.seen(now)) == Some(SeenOutcome::Alive)
    }

    /// Calls [`Peer::penalize`] by key. `None` if no live peer has the key.
    ///
    /// # Cost
    /// One shard's read lock and a few atomics.
    pub fn penalize(&self, key: &K, cause: Misbehavior, now: Tick) -> Option<PenaltyOutcome> {
        self.with_live(key, |peer| peer.penalize(cause, now))
    }

    /// Calls [`Peer::reward`] by key. `None` if no live peer has the key.
    ///
    /// # Cost
    /// One shard's read lock and a few atomics.
    pub fn reward(&self, key: &K, now: Tick) -> Option<u8> {
        self.with_live(key, |peer| peer.reward(now))
    }

    /// The lists of live peers. Every peer whose insert returned before the call is listed.
    ///
    /// # Cost
    /// One reference count per shard, and a rebuild of each shard that changed since the last call.
    pub fn roster(&self) -> Roster<K, C> {
        Roster { shards: self.roster_shards.iter().map(RosterShard::current).collect() }
    }

    /// The keys of the live peers.
    pub fn keys(&self) -> Vec<K> {
        self.roster().iter().map(|peer| peer.key().clone()).collect()
    }

    /// Number of roster shards; constant for the life of the pool.
    pub fn roster_shard_count(&self) -> usize {
        self.roster_shards.len()
    }

    /// One shard of the roster. Indexes start at zero and wrap around.
    pub fn roster_shard(&self, index: usize) -> RosterShardView<K, C> {
        self.roster_shards[index % self.roster_shards.len()].current()
    }

    /// Number of live peers.
    ///
    /// # Cost
    /// One load.
    pub fn len(&self) -> usize {
        self.shared.admission.live() as usize
    }

    /// Whether no peer is live.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Live and pending connections per direction, at one instant.
    ///
    /// # Cost
    /// One load.
    pub fn admission(&self) -> AdmissionCounts {
        self.shared.admission.counts()
    }

    /// The limits in force.
    pub fn limits(&self) -> Arc<Limits> {
        self.limits.load()
    }

    /// The policy that decides when a silent peer is stale.
    pub fn liveness_policy(&self) -> LivenessPolicy {
        self.liveness.read(|policy| *policy)
    }

    /// Changes when a silent peer is stale. The next sweep applies it.
    pub fn set_liveness_policy(&self, policy: LivenessPolicy) {
        self.liveness.swap(Arc::new(policy));
    }

    /// The policy that sets the price of misbehaviour.
    pub fn health_policy(&self) -> HealthPolicy {
        self.shared.health_rules.read(|rules| rules.policy)
    }

    /// Changes the price of misbehaviour. Health that peers already lost stays lost.
    pub fn set_health_policy(&self, policy: HealthPolicy) {
        self.shared.health_rules.update(|rules| rules.changed(policy));
    }

    /// Closes the pool for good: no connection goes live afterwards.
    ///
    /// Live peers stay live. The caller removes them
    /// ([`DisconnectReason::Shutdown`](super::DisconnectReason::Shutdown)) at its own pace, until
    /// [`Pool::admission`] counts none. A connection that went live just before is counted as live
    /// and holds its shard's lock, so every look-up by key that begins after this call returned
    /// finds it.
    ///
    /// # Cost
    /// One atomic exchange.
    pub fn close(&self) {
        self.shared.admission.close();
    }

    /// Whether the pool is closed.
    pub fn is_closed(&self) -> bool {
        self.admission().closed
    }

    /// Returns the memory of tables that are much larger than their content, as after a mass
    /// disconnect.
    ///
    /// # Cost
    /// Each shard's write lock in turn. All keys of a shard are hashed again under its lock.
    pub fn shrink_to_fit(&self) {
        self.entries.shrink_to_fit();
        self.addresses.shrink_to_fit();
    }

    /// Passes the live peer of a key to `inspect`, which runs under the shard's read lock: atomics
    /// and reference counts only.
    #[inline]
    fn with_live<R>(&self, key: &K, inspect: impl FnOnce(&Arc<Peer<K, C>>) -> R) -> Option<R> {
        let found = self.entries.read(key, |entry| match entry {
            PoolEntry::Live(peer) => Some(inspect(peer)),
            PoolEntry::Claimed(_) => None,
        });
        found.flatten()
    }

    /// Puts an entry into the map if `decide` returns `Ok` for the present one or its absence.
    /// Returns the displaced entry. Both closures run under the shard's write lock.
    pub(super) fn put_if<E>(
        &self,
        key: K,
        entry: impl FnOnce() -> PoolEntry<K, C>,
        decide: impl FnOnce(Option<&PoolEntry<K, C>>) -> Result<(), E>,
    ) -> Result<Option<PoolEntry<K, C>>, E> {
        let (decision, displaced) = self.entries.update(key, |present| match decide(present.as_deref()) {
            Ok(()) => (Change::Put(entry()), Ok(())),
            Err(error) => (Change::Keep, Err(error)),
        });
        decision.map(|()| displaced)
    }

    /// Draws the next connection id.
    pub(super) fn next_id(&self) -> ConnId {
        loop {
            // AcqRel: a caller that draws a larger id than a change of limits reads the changed
            // limits. Zero comes after 2^64 connections.
            if let Some(id) = ConnId::new(self.last_id.fetch_add(1, Ordering::AcqRel)) {
                return id;
            }
        }
    }

    /// The id is mixed: ids that differ by a fixed step, as those of one kind of connection do,
    /// spread over all shards, and each shard holds ids of every residue.
    pub(super) fn roster_shard_of(&self, id: ConnId) -> &RosterShard<K, C> {
        let mixed = id.get().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        &self.roster_shards[mixed as usize & (self.roster_shards.len() - 1)]
    }

    pub(super) fn pending_shard_of(&self, id: ConnId) -> &Mutex<PendingShard<K>> {
        &self.pending[id.get() as usize & (self.pending.len() - 1)]
    }
}

impl<K: PeerKey, C: ConnectionHandle> std::fmt::Debug for Pool<K, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("admission", &self.admission()).finish_non_exhaustive()
    }
}
