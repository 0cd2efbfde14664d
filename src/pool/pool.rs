//! The pool itself: its parts, and everything that only looks.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::base::{ConnId, Tick, canonical_ip};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{HashState, Hashed, Mutex, PutOutcome, ShardSet, SwapCell};

use super::address_index::Addresses;
use super::admission::Admission;
use super::claim_watch::{ClaimCell, ClaimWatch};
use super::health::Rules;
use super::peer::Shared;
use super::pending::PendingHandshake;
use super::roster::RosterShard;
use super::stats::Counters;
use super::{
    AdmissionCounts, ConnectionHandle, HealthPolicy, Limits, LivenessPolicy, Misbehavior, Peer, PeerKey,
    PenaltyOutcome, PoolConfig, Roster, RosterShardView, SeenOutcome,
};

/// One sharded pool of unified connections. See the [module](super) for what it promises.
///
/// Used as `Arc<Pool>`: permits and claims keep it alive, peers do not.
pub struct Pool<K: PeerKey, C: ConnectionHandle> {
    /// The one authority.
    pub(super) slots: ShardSet<PoolEntry<K, C>>,
    pub(super) addresses: Addresses<K, C>,
    pub(super) cells: Box<[RosterShard<K, C>]>,
    /// Permits and claims under way, for the sweep; sharded by id like the cells.
    pub(super) tickets: Box<[Mutex<Tickets<K>>]>,
    pub(super) shared: Arc<Shared>,
    pub(super) limits: SwapCell<Limits>,
    pub(super) liveness: SwapCell<LivenessPolicy>,
    /// A trim may find work: an id drawn when limits were changed or when somebody went live whom older limits had let in, or
    /// zero. A trim that has nothing more to do clears it.
    pub(super) crowded: AtomicU64,
    /// An id drawn at the last change of the limits, or zero: whoever has an older one may have been let in by older limits.
    limited_at: AtomicU64,
    pub(super) counters: Counters,
    hasher: HashState,
    last_id: AtomicU64,
}

pub(super) type Tickets<K> = HashMap<ConnId, Arc<PendingHandshake<K>>, HashState>;

/// A slot of the map: one pointer to what holds the key, and the key's hash.
///
/// The hash is kept so that a table that grows, under its shard's lock, need not visit every peer, and so that a
/// look-up visits no peer but the one that is meant. It costs nothing: a pointer and a tag leave room for it.
pub(super) enum PoolEntry<K: PeerKey, C: ConnectionHandle> {
    Claimed(u32, Arc<ClaimCell<K>>),
    Live(u32, Arc<Peer<K, C>>),
}

impl<K: PeerKey, C: ConnectionHandle> PoolEntry<K, C> {
    #[inline]
    pub(super) fn key(&self) -> &K {
        match self {
            Self::Claimed(_, cell) => &cell.key,
            Self::Live(_, peer) => peer.key(),
        }
    }
}

impl<K: PeerKey, C: ConnectionHandle> Hashed for PoolEntry<K, C> {
    #[inline]
    fn hash(&self) -> u32 {
        match self {
            Self::Claimed(hash, _) | Self::Live(hash, _) => *hash,
        }
    }
}

impl<K: PeerKey, C: ConnectionHandle> Pool<K, C> {
    /// An empty pool.
    pub fn new(config: PoolConfig) -> Arc<Self> {
        let layout = config.layout_for();
        let cells = (layout / PEERS_A_CELL).next_power_of_two().clamp(FEWEST_CELLS, MOST_CELLS);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let shards = (layout / PEERS_A_SHARD).next_power_of_two().clamp(FEWEST_SHARDS, MOST_SHARDS);
        Arc::new(Self {
            slots: ShardSet::with_shards(cores * SHARDS_A_CORE),
            addresses: Addresses::with_shards(shards),
            cells: (0..cells).map(|_| RosterShard::new()).collect(),
            tickets: (0..cells).map(|_| Mutex::new(HashMap::with_hasher(HashState::default()))).collect(),
            shared: Arc::new(Shared {
                admission: Admission::new(),
                rules: SwapCell::new(Arc::new(Rules::new(config.health))),
            }),
            limits: SwapCell::new(Arc::new(config.limits)),
            liveness: SwapCell::new(Arc::new(config.liveness)),
            crowded: AtomicU64::new(0),
            limited_at: AtomicU64::new(0),
            counters: Counters::default(),
            hasher: HashState::default(),
            last_id: AtomicU64::new(1),
        })
    }

    /// The live peer with this key. Cost: one shard's read lock, one reference count.
    pub fn get(&self, key: &K) -> Option<Arc<Peer<K, C>>> {
        self.with(key, Arc::clone)
    }

    /// Whether a live peer has this key. Cost: one shard's read lock.
    pub fn contains(&self, key: &K) -> bool {
        self.with(key, |_| ()).is_some()
    }

    /// A watch on the claim that holds this key; `None` if the key is free or live. Cost: one shard's read lock.
    pub fn watch_claim(&self, key: &K) -> Option<ClaimWatch<K>> {
        let found = self.slots.read(
            self.hash(key),
            |entry| entry.key() == key,
            |entry| match entry {
                PoolEntry::Claimed(_, cell) => Some(ClaimWatch::new(cell)),
                PoolEntry::Live(..) => None,
            },
        );
        found.flatten()
    }

    /// The live peers of an IP address. Cost: one lock of one shard, O(1) in the number of all peers.
    pub fn by_ip(&self, ip: IpAddr) -> Vec<Arc<Peer<K, C>>> {
        let mut peers = Vec::new();
        self.addresses.each(canonical_ip(ip), |peer| peers.push(Arc::clone(peer)));
        // Outside the lock: dropping the last reference to a departed peer runs the user's destructor.
        peers.retain(|peer| peer.is_live());
        peers
    }

    /// How many connections an IP address has, handshakes included: what `max_per_ip` is compared with.
    pub fn count_by_ip(&self, ip: IpAddr) -> usize {
        self.addresses.count(canonical_ip(ip))
    }

    /// Marks the peer with this key as seen; false if there is none. Cost: one shard's read lock and
    /// [`Peer::seen`]; whoever holds the peer saves the lock.
    pub fn seen(&self, key: &K, now: Tick) -> bool {
        self.with(key, |peer| peer.seen(now)) == Some(SeenOutcome::Alive)
    }

    /// Marks every peer of an IP address as seen; returns how many. Cost: one lock of one shard, then
    /// [`Peer::seen`] each.
    pub fn seen_by_ip(&self, ip: IpAddr, now: Tick) -> usize {
        let mut alive = 0;
        let mark = |peer: &Arc<Peer<K, C>>| alive += usize::from(peer.seen(now) == SeenOutcome::Alive);
        self.addresses.each(canonical_ip(ip), mark);
        alive
    }

    /// [`Peer::penalize`] by key; `None` if there is no such peer. Cost: one shard's read lock and a few atomics.
    pub fn penalize(&self, key: &K, cause: Misbehavior, now: Tick) -> Option<PenaltyOutcome> {
        self.with(key, |peer| peer.penalize(cause, now))
    }

    /// [`Peer::reward`] by key; `None` if there is no such peer. Cost: one shard's read lock and a few atomics.
    pub fn reward(&self, key: &K, now: Tick) -> Option<u8> {
        self.with(key, |peer| peer.reward(now))
    }

    /// Whether there is such a peer and it is healthy. Cost: one shard's read lock.
    pub fn is_healthy(&self, key: &K, now: Tick) -> bool {
        self.with(key, |peer| peer.is_healthy(now)) == Some(true)
    }

    /// Everybody who is live, in cells. A peer whose insert returned before is in it. Cost: a reference count a cell,
    /// and a rebuild of the cells that changed since somebody last looked.
    pub fn roster(&self) -> Roster<K, C> {
        Roster { cells: self.cells.iter().map(RosterShard::fresh).collect() }
    }

    /// The keys of the live peers.
    pub fn keys(&self) -> Vec<K> {
        self.roster().iter().map(|peer| peer.key().clone()).collect()
    }

    /// The addresses of the live peers.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.roster().iter().map(|peer| peer.addr()).collect()
    }

    /// How many cells the roster has; fixed for the life of the pool.
    pub fn roster_shard_count(&self) -> usize {
        self.cells.len()
    }

    /// One cell of the roster; cells are counted from zero and wrap around.
    pub fn roster_shard(&self, index: usize) -> RosterShardView<K, C> {
        self.cells[index % self.cells.len()].fresh()
    }

    /// How many peers are live. Cost: one load.
    pub fn len(&self) -> usize {
        self.shared.admission.live() as usize
    }

    /// Whether nobody is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Live and pending each way, at one instant. Cost: one load.
    pub fn admission(&self) -> AdmissionCounts {
        self.shared.admission.counts()
    }

    /// The limits in force.
    pub fn limits(&self) -> Arc<Limits> {
        self.limits.load()
    }

    /// Changes the limits at once. What is connected beyond them is departed by [`Pool::trim`], a few at a time.
    pub fn set_limits(&self, limits: Limits) {
        self.limits.swap(Arc::new(limits));
        // Drawn after the change, as others are before limits are read. Release: pairs with the acquire in `recrowd`.
        self.limited_at.fetch_max(self.next_id().get(), Ordering::Release);
        self.crowd();
    }

    /// Has the next trim look.
    fn crowd(&self) {
        // AcqRel, and an exchange like the one that clears it, so that all changes are in one order: pairs with the acquire in
        // `trim`, which then reads the new limits.
        self.crowded.swap(self.next_id().get(), Ordering::AcqRel);
    }

    /// Somebody has gone live, and is listed, whom limits of before may have let in: a trim under way may have missed it.
    ///
    /// Whoever trims first touches every lock and generation that a listing touches after its peer is in: either that was
    /// before and the trim finds the peer, or the change of limits that the trim goes by is seen here.
    pub(super) fn recrowd(&self, id: ConnId) {
        // Acquire: pairs with the release in `set_limits`.
        if id.get() < self.limited_at.load(Ordering::Acquire) {
            self.crowd();
        }
    }

    /// When a silent peer is stale.
    pub fn liveness_policy(&self) -> LivenessPolicy {
        self.liveness.read(|policy| *policy)
    }

    /// Changes when a silent peer is stale; the next sweep judges by it.
    pub fn set_liveness_policy(&self, policy: LivenessPolicy) {
        self.liveness.swap(Arc::new(policy));
    }

    /// What misbehaviour costs.
    pub fn health_policy(&self) -> HealthPolicy {
        self.shared.rules.read(|rules| rules.policy)
    }

    /// Changes what misbehaviour costs; health already lost stays lost.
    pub fn set_health_policy(&self, policy: HealthPolicy) {
        self.shared.rules.update(|rules| rules.changed(policy));
    }

    /// Closes the pool for good: nothing goes live any more. Who is live stays live; the caller departs them
    /// ([`DisconnectReason::Shutdown`](super::DisconnectReason::Shutdown)) in its own time, until [`Pool::admission`] counts none.
    ///
    /// Who passed the gate before it shut is already counted as live and holds its shard's lock: a look-up by key that
    /// begins after this has returned finds it, and nobody else comes. Cost: one exchange.
    pub fn close(&self) {
        self.shared.admission.close();
    }

    /// Whether it is closed.
    pub fn is_closed(&self) -> bool {
        self.admission().closed
    }

    /// Gives back the memory of tables that have become far too large. Cost: each shard's write lock in turn, with
    /// re-hashing under it; for after a large exodus.
    pub fn shrink(&self) {
        self.slots.shrink();
    }

    /// Runs under the shard's read lock: atomics and reference counts only.
    fn with<R>(&self, key: &K, look: impl FnOnce(&Arc<Peer<K, C>>) -> R) -> Option<R> {
        // A claimed key is as good as none here, and is told from a live one before anything behind it is looked at.
        let is_it = |entry: &PoolEntry<K, C>| matches!(entry, PoolEntry::Live(_, peer) if peer.key() == key);
        let found = self.slots.read(self.hash(key), is_it, |entry| match entry {
            PoolEntry::Live(_, peer) => Some(look(peer)),
            PoolEntry::Claimed(..) => None,
        });
        found.flatten()
    }

    /// Takes out the entry of this key if it is the one that was meant.
    pub(super) fn remove_slot(
        &self,
        key: &K,
        is_meant: impl FnOnce(&PoolEntry<K, C>) -> bool,
    ) -> Option<PoolEntry<K, C>> {
        self.slots.remove_if(self.hash(key), |entry| entry.key() == key, is_meant)
    }

    /// Puts an entry in, over the one with the same key, if `decide` says `Ok` to that one or its absence.
    pub(super) fn put_slot<R, X>(
        &self,
        entry: PoolEntry<K, C>,
        decide: impl FnOnce(Option<&PoolEntry<K, C>>) -> Result<R, X>,
    ) -> PutOutcome<PoolEntry<K, C>, R, X> {
        self.slots.put_if(entry, |held, new| held.key() == new.key(), decide)
    }

    /// The entry of a claimed key.
    pub(super) fn claimed(&self, cell: &Arc<ClaimCell<K>>) -> PoolEntry<K, C> {
        PoolEntry::Claimed(self.hash(&cell.key), Arc::clone(cell))
    }

    /// The entry of a live peer.
    pub(super) fn live(&self, peer: &Arc<Peer<K, C>>) -> PoolEntry<K, C> {
        PoolEntry::Live(self.hash(peer.key()), Arc::clone(peer))
    }

    fn hash(&self, key: &K) -> u32 {
        self.hasher.hash_one(key) as u32
    }

    pub(super) fn next_id(&self) -> ConnId {
        loop {
            // AcqRel: whoever draws a later id than a change of limits reads those limits. Zero comes after 2^64 connections.
            if let Some(id) = ConnId::new(self.last_id.fetch_add(1, Ordering::AcqRel)) {
                return id;
            }
        }
    }

    pub(super) fn cell_of(&self, key: &K) -> &RosterShard<K, C> {
        &self.cells[self.hash(key) as usize & (self.cells.len() - 1)]
    }

    pub(super) fn tickets_of(&self, id: ConnId) -> &Mutex<Tickets<K>> {
        &self.tickets[id.get() as usize & (self.tickets.len() - 1)]
    }
}

impl<K: PeerKey, C: ConnectionHandle> std::fmt::Debug for Pool<K, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("admission", &self.admission()).finish_non_exhaustive()
    }
}

/// Four to a line of the cache.
const _: () = assert!(size_of::<Option<PoolEntry<u8, ()>>>() == 16);
const PEERS_A_CELL: usize = 4_096;
/// Enough that two threads seldom meet, few enough that the shards themselves stay in the cache.
const SHARDS_A_CORE: usize = 8;
/// Of the address tables: few peers, because growing a shard re-hashes it under its lock, and each key is behind a
/// pointer.
const PEERS_A_SHARD: usize = 2_048;
#[cfg(not(peerpool_loom))]
const FEWEST_CELLS: usize = 16;
#[cfg(not(peerpool_loom))]
const FEWEST_SHARDS: usize = 64;
#[cfg(peerpool_loom)]
const FEWEST_CELLS: usize = 1;
#[cfg(peerpool_loom)]
const FEWEST_SHARDS: usize = 1;
#[cfg(not(peerpool_loom))]
const MOST_CELLS: usize = 1_024;
#[cfg(not(peerpool_loom))]
const MOST_SHARDS: usize = 1_024;
#[cfg(peerpool_loom)]
const MOST_CELLS: usize = 1;
#[cfg(peerpool_loom)]
const MOST_SHARDS: usize = 1;
