//! What a node would use instead of the pool, each as well written as it can be, behind one trait.
//!
//! All have the same keys, visited in a shuffled order, and the pool's fast hasher. The maps behind
//! tokio's locks have the standard hasher, as nodes write them; one of them is there with both. The
//! tokio locks are taken inside a runtime, as in a node, so no blocking bridge is measured.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use peerpool::pool::{DisconnectReason, Peer, Pool, PoolConfig};
use peerpool::{Direction, PeerId, Tick};
use tokio::sync::RwLock;

use crate::maps::{Papaya, ParkingLot, SccIndex};

pub(crate) type TestPool = Pool<PeerId, ()>;
pub(crate) type Fast = foldhash::fast::RandomState;
type Slow = std::hash::RandomState;

/// Marks between one removal and one insertion, with churn.
const CHURN_EVERY: usize = 256;
/// Peers of each thread that are removed and inserted.
const CHURN_PEERS: usize = 64;

/// How one thread marks peers as seen.
#[derive(Clone, Copy)]
pub(crate) struct Plan<'a> {
    /// Visited in this order, again and again.
    pub(crate) keys: &'a [PeerId],
    /// One of these is removed and inserted every [`CHURN_EVERY`] marks; empty without churn.
    pub(crate) churn: &'a [PeerId],
    /// Where this thread's share of all peers begins.
    pub(crate) share: usize,
    pub(crate) marks: usize,
    /// The first tick. It advances by one a mark, so that every mark has something to write.
    pub(crate) from: u64,
}

impl Plan<'_> {
    /// The key, the tick and, when churn is due, the peer to remove and insert of each mark.
    pub(crate) fn steps(&self) -> impl Iterator<Item = (&PeerId, Tick, Option<&PeerId>)> {
        let mut churn = self.churn.iter().cycle();
        // No division per mark: it would be half of what is measured.
        self.keys.iter().cycle().take(self.marks).enumerate().map(move |(n, key)| {
            let churned = if n % CHURN_EVERY == 0 { churn.next() } else { None };
            (key, Tick::from_millis(self.from + n as u64), churned)
        })
    }
}

/// A way to keep peers and mark them as seen.
pub(crate) trait Competitor: Sync {
    fn name(&self) -> &'static str;
    /// Inserts these peers.
    fn fill(&self, keys: &[PeerId]);
    fn mark(&self, plan: Plan<'_>);
}

/// The names that results refer to.
pub(crate) const BY_KEY: &str = "pool, by key";
pub(crate) const BY_HANDLE: &str = "pool, by handle";

/// All competitors with as many peers, the pool by key first; and the order in which peers are
/// visited.
pub(crate) fn all(peers: usize) -> (Vec<Box<dyn Competitor>>, Vec<PeerId>) {
    let keys = keys(peers, 0x5EED);
    let pool = new_pool(peers);
    let mut handles: Vec<_> = keys.iter().map(|key| insert(&pool, *key, Tick::ZERO)).collect();
    shuffle(&mut handles, 0xF00D);
    let mut order = keys.clone();
    shuffle(&mut order, 0xBEEF);
    let all: Vec<Box<dyn Competitor>> = vec![
        Box::new(ByKey(Arc::clone(&pool))),
        Box::new(ByHandle { pool: ByKey(pool), peers: handles }),
        Box::<SharedDashMap<true>>::default(),
        Box::<SharedDashMap<false>>::default(),
        Box::<BareDashMap>::default(),
        Box::<Papaya>::default(),
        Box::<SccIndex>::default(),
        Box::<ParkingLot>::default(),
        Box::new(LockedMap::plain()),
        Box::new(LockedMap::fast()),
        Box::<Cascade>::default(),
    ];
    // The first two are the same pool, which is filled.
    all.iter().skip(2).for_each(|competitor| competitor.fill(&keys));
    (all, order)
}

pub(crate) fn addr_of(key: &PeerId) -> SocketAddr {
    match key {
        PeerId::Addr(addr) => *addr,
        PeerId::Key(_) => unreachable!("the benches use addresses"),
    }
}

pub(crate) fn new_pool(peers: usize) -> Arc<TestPool> {
    let mut config = PoolConfig::test();
    config.expected_peers = peers;
    config.limits.max_inbound = peerpool::pool::Limits::MAX_LIVE;
    Pool::new(config)
}

pub(crate) fn insert(pool: &TestPool, key: PeerId, now: Tick) -> Arc<Peer<PeerId, ()>> {
    match pool.insert(key, addr_of(&key), Direction::Inbound, (), (), now) {
        Ok(peer) => peer,
        Err(error) => panic!("{error:?}"),
    }
}

/// Prepares the pool so that a sweep at the returned tick examines every peer and removes none,
/// however often it runs.
///
/// In each shard one peer was last seen at `from` or before, but is paused. All others were seen at
/// the returned tick.
pub(crate) fn examine_all(pool: &TestPool, from: Tick) -> Tick {
    let late = Tick::from_millis(from.as_millis() + 10).after(pool.liveness_policy().stale_after);
    for shard in 0..pool.roster_shard_count() {
        pool.roster_shard(shard).iter().take(1).for_each(|peer| peer.pause());
    }
    for peer in pool.roster().iter().filter(|peer| !peer.is_paused()) {
        let _ = peer.seen(late);
    }
    late
}

pub(crate) struct ByKey(pub(crate) Arc<TestPool>);

impl Competitor for ByKey {
    fn name(&self) -> &'static str {
        BY_KEY
    }

    fn fill(&self, keys: &[PeerId]) {
        for key in keys {
            insert(&self.0, *key, Tick::ZERO);
        }
    }

    fn mark(&self, plan: Plan<'_>) {
        for (key, now, churned) in plan.steps() {
            black_box(self.0.seen(key, now));
            if let Some(churned) = churned {
                self.0.remove_current(churned, DisconnectReason::Closed);
                insert(&self.0, *churned, now);
            }
        }
    }
}

/// A map of one atomic each and nothing else: no handles, no phase, no health, no index, no count.
/// The least that a map can cost.
#[derive(Default)]
pub(crate) struct BareDashMap(dashmap::DashMap<PeerId, AtomicU64, Fast>);

impl Competitor for BareDashMap {
    fn name(&self) -> &'static str {
        "DashMap<K, AtomicU64>"
    }

    fn fill(&self, keys: &[PeerId]) {
        for key in keys {
            self.0.insert(*key, AtomicU64::new(0));
        }
    }

    fn mark(&self, plan: Plan<'_>) {
        for (key, now, churned) in plan.steps() {
            if let Some(seen) = self.0.get(key) {
                seen.store(now.as_millis(), Ordering::Relaxed);
            }
            if let Some(churned) = churned {
                self.0.remove(churned);
                self.0.insert(*churned, AtomicU64::new(now.as_millis()));
            }
        }
    }
}

/// The fields that the pool keeps of a connection, without atomics.
#[derive(Clone)]
pub(crate) struct Unified {
    id: u64,
    addr: SocketAddr,
    last_seen: u64,
    connected_at: u64,
    health: u64,
    bytes: [u64; 2],
    rtt: u32,
    inbound: bool,
    info: Arc<()>,
}

impl Unified {
    pub(crate) fn new(key: &PeerId) -> Self {
        let (addr, info) = (addr_of(key), Arc::new(()));
        Self {
            id: 1,
            addr,
            last_seen: 0,
            connected_at: 0,
            health: 100,
            bytes: [0; 2],
            rtt: 0,
            inbound: true,
            info,
        }
    }

    pub(crate) fn mark(&mut self, now: Tick) {
        self.last_seen = now.as_millis();
    }

    /// Reads every field, so that none is optimised away.
    pub(crate) fn read(&self) -> impl Sized {
        (
            self.id,
            self.addr,
            self.connected_at,
            self.health,
            self.bytes,
            self.rtt,
            self.inbound,
            self.info.clone(),
        )
    }
}

/// A map of entries that have handles, as the pool's do. `EXCHANGE`: it marks as the pool does, so
/// that no mark moves back and no flag is lost: a load, two checks and a compare-exchange.
/// Otherwise it stores.
#[derive(Default)]
pub(crate) struct SharedDashMap<const EXCHANGE: bool>(
    dashmap::DashMap<PeerId, Arc<(AtomicU64, Unified)>, Fast>,
);

impl<const EXCHANGE: bool> Competitor for SharedDashMap<EXCHANGE> {
    fn name(&self) -> &'static str {
        if EXCHANGE { "DashMap<K, Arc<entry>>, exchange" } else { "DashMap<K, Arc<entry>>" }
    }

    fn fill(&self, keys: &[PeerId]) {
        for key in keys {
            self.0.insert(*key, Arc::new((AtomicU64::new(0), Unified::new(key))));
        }
    }

    fn mark(&self, plan: Plan<'_>) {
        for (key, now, churned) in plan.steps() {
            if let Some(entry) = self.0.get(key) {
                if EXCHANGE {
                    black_box(exchange_later(&entry.0, now));
                } else {
                    entry.0.store(now.as_millis(), Ordering::Relaxed);
                }
            }
            if let Some(churned) = churned {
                black_box(self.0.remove(churned).map(|(_, entry)| drop(entry.1.read())));
                self.0.insert(*churned, Arc::new((AtomicU64::new(now.as_millis()), Unified::new(churned))));
            }
        }
    }
}

/// Raises the tick of a word whose low 16 bits are flags, one of which ends all marks.
#[inline]
fn exchange_later(word: &AtomicU64, now: Tick) -> bool {
    let (tick, mut present) = (now.as_millis() << 16, word.load(Ordering::Relaxed));
    while present & 1 == 0 && present < tick {
        let later = tick | present & 0xFFFF;
        match word.compare_exchange_weak(present, later, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return true,
            Err(other) => present = other,
        }
    }
    present & 1 == 0
}

/// One write-locked map of unified entries.
#[derive(Default)]
pub(crate) struct LockedMap<S> {
    map: RwLock<HashMap<PeerId, Unified, S>>,
    name: &'static str,
}

impl LockedMap<Slow> {
    pub(crate) fn plain() -> Self {
        Self { name: "tokio RwLock<HashMap>, unified", ..Self::default() }
    }
}

impl LockedMap<Fast> {
    pub(crate) fn fast() -> Self {
        Self { name: "tokio RwLock<HashMap>, our hasher", ..Self::default() }
    }
}

impl<S: BuildHasher + Send + Sync> Competitor for LockedMap<S> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn fill(&self, keys: &[PeerId]) {
        let mut map = self.map.blocking_write();
        for key in keys {
            map.insert(*key, Unified::new(key));
        }
    }

    fn mark(&self, plan: Plan<'_>) {
        in_runtime(async {
            for (key, now, churned) in plan.steps() {
                if let Some(entry) = self.map.write().await.get_mut(key) {
                    entry.mark(now);
                }
                if let Some(churned) = churned {
                    let left = self.map.write().await.remove(churned);
                    black_box(left.map(|entry| drop(entry.read())));
                    self.map.write().await.insert(*churned, Unified::new(churned));
                }
            }
        });
    }
}

/// Connections, info and last-seen in three maps, updated one after another: the shape most nodes
/// start with.
#[derive(Default)]
pub(crate) struct Cascade {
    connections: RwLock<HashMap<PeerId, u64, Slow>>,
    infos: RwLock<HashMap<PeerId, Unified, Slow>>,
    last_seen: RwLock<HashMap<PeerId, u64, Slow>>,
}

impl Competitor for Cascade {
    fn name(&self) -> &'static str {
        "three tokio RwLock<HashMap>"
    }

    fn fill(&self, keys: &[PeerId]) {
        let (mut connections, mut infos) = (self.connections.blocking_write(), self.infos.blocking_write());
        let mut last_seen = self.last_seen.blocking_write();
        for key in keys {
            connections.insert(*key, 0);
            infos.insert(*key, Unified::new(key));
            last_seen.insert(*key, 0);
        }
    }

    fn mark(&self, plan: Plan<'_>) {
        in_runtime(async {
            for (key, now, churned) in plan.steps() {
                if self.connections.read().await.contains_key(key) {
                    if let Some(seen) = self.last_seen.write().await.get_mut(key) {
                        *seen = now.as_millis();
                    }
                    if let Some(info) = self.infos.write().await.get_mut(key) {
                        info.mark(now);
                    }
                }
                if let Some(churned) = churned {
                    self.connections.write().await.remove(churned);
                    self.infos.write().await.remove(churned);
                    self.last_seen.write().await.remove(churned);
                    self.connections.write().await.insert(*churned, 0);
                    self.infos.write().await.insert(*churned, Unified::new(churned));
                    self.last_seen.write().await.insert(*churned, now.as_millis());
                }
            }
        });
    }
}

/// The pool again: the holder of a peer's handle needs no map.
pub(crate) struct ByHandle {
    pub(crate) pool: ByKey,
    pub(crate) peers: Vec<Arc<Peer<PeerId, ()>>>,
}

impl Competitor for ByHandle {
    fn name(&self) -> &'static str {
        BY_HANDLE
    }

    fn fill(&self, _keys: &[PeerId]) {}

    fn mark(&self, plan: Plan<'_>) {
        // Each thread has a share of the peers, as each connection has one. Of the keys only the
        // number counts.
        let share = &self.peers[plan.share..][..plan.keys.len()];
        for (peer, (_, now, churned)) in share.iter().cycle().zip(plan.steps()) {
            let _ = black_box(peer.seen(now));
            if let Some(churned) = churned {
                self.pool.0.remove_current(churned, DisconnectReason::Closed);
                insert(&self.pool.0, *churned, now);
            }
        }
    }
}

thread_local! {
    /// One a thread: the locks are measured, not the creation of runtimes.
    static RUNTIME: Option<tokio::runtime::Runtime> = tokio::runtime::Builder::new_current_thread().build().ok();
}

/// Makes this thread's runtime.
pub(crate) fn warm_up() {
    in_runtime(async {});
}

fn in_runtime(run: impl Future<Output = ()>) {
    RUNTIME.with(|runtime| match runtime {
        Some(runtime) => runtime.block_on(run),
        None => panic!("no runtime"),
    });
}

/// Distinct addresses in a random order.
pub(crate) fn keys(count: usize, seed: u64) -> Vec<PeerId> {
    let key = |n: usize| PeerId::from(SocketAddr::from((((0x0A00_0000 + n) as u32).to_be_bytes(), 7_000)));
    let mut keys: Vec<PeerId> = (0..count).map(key).collect();
    shuffle(&mut keys, seed);
    keys
}

/// Peers for churn, none of them among [`keys`].
pub(crate) fn churn_keys(thread: usize) -> Vec<PeerId> {
    let key = |n: usize| PeerId::from(SocketAddr::from(([172, 16, thread as u8, n as u8], 7_000)));
    (0..CHURN_PEERS).map(key).collect()
}

pub(crate) fn shuffle<T>(items: &mut [T], seed: u64) {
    let mut state = seed | 1;
    for n in (1..items.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        items.swap(n, (state % (n as u64 + 1)) as usize);
    }
}
