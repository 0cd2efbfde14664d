//! What a node would use instead of the pool, each as well written as it can be, behind one face.
//!
//! All have the same keys, visited in a shuffled order, and the pool's fast hasher; but the maps behind tokio's locks have the
//! standard one, as nodes write them, and one of them is there with both. The tokio locks are taken inside a
//! runtime, as a node would, so no blocking bridge is measured.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use peerpool::base::{Direction, PeerId, Tick};
use peerpool::pool::{DisconnectReason, Peer, Pool, PoolConfig};
use tokio::sync::RwLock;

pub(crate) type TestPool = Pool<PeerId, ()>;
pub(crate) type Fast = foldhash::fast::RandomState;
type Slow = std::hash::RandomState;

/// How a run marks peers as seen.
#[derive(Clone, Copy)]
pub(crate) struct Plan<'a> {
    /// Visited in this order, again and again.
    pub(crate) keys: &'a [PeerId],
    /// Come and go, one leaving and one joining every [`CHURN_EVERY`] marks; empty: no churn.
    pub(crate) guests: &'a [PeerId],
    /// Where this thread's share of all peers begins.
    pub(crate) share: usize,
    pub(crate) marks: usize,
    /// The first tick; it moves on by one a mark, so that every mark has something to write.
    pub(crate) from: u64,
}

/// How many marks to one departure and one arrival.
pub(crate) const CHURN_EVERY: usize = 256;

impl Plan<'_> {
    /// The key, the tick and, if it is time for it, the guest of each mark.
    pub(crate) fn steps(&self) -> impl Iterator<Item = (&PeerId, Tick, Option<&PeerId>)> {
        let mut guests = self.guests.iter().cycle();
        // No division in here: at these speeds it would be half of what is measured.
        self.keys.iter().cycle().take(self.marks).enumerate().map(move |(n, key)| {
            let guest = if n % CHURN_EVERY == 0 { guests.next() } else { None };
            (key, Tick::from_millis(self.from + n as u64), guest)
        })
    }
}

pub(crate) trait Competitor: Sync {
    fn name(&self) -> &'static str;
    fn fill(&self, keys: &[PeerId]);
    fn mark(&self, plan: Plan<'_>);
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

pub(crate) fn join(pool: &TestPool, key: PeerId, now: Tick) -> Arc<Peer<PeerId, ()>> {
    match pool.insert(key, addr_of(&key), Direction::Inbound, (), (), now) {
        Ok(peer) => peer,
        Err(error) => panic!("{error:?}"),
    }
}

/// Makes a sweep of the pool judge everybody, and depart nobody, however often it comes: in each cell one peer was last heard
/// at this tick or before, but is paused by us, and all others were heard just now. Returns the time for that sweep.
pub(crate) fn judge_all(pool: &TestPool, from: Tick) -> Tick {
    let late = Tick::from_millis(from.as_millis() + 10).after(pool.liveness_policy().stale_after);
    for cell in 0..pool.roster_shard_count() {
        pool.roster_shard(cell).iter().take(1).for_each(|peer| peer.pause());
    }
    for peer in pool.roster().iter().filter(|peer| !peer.is_paused()) {
        let _ = peer.seen(late);
    }
    late
}

pub(crate) struct ByKey(pub(crate) Arc<TestPool>);

impl Competitor for ByKey {
    fn name(&self) -> &'static str {
        "pool, by key"
    }

    fn fill(&self, keys: &[PeerId]) {
        for key in keys {
            join(&self.0, *key, Tick::ZERO);
        }
    }

    fn mark(&self, plan: Plan<'_>) {
        for (key, now, guest) in plan.steps() {
            black_box(self.0.seen(key, now));
            if let Some(guest) = guest {
                self.0.remove_current(guest, DisconnectReason::Closed);
                join(&self.0, *guest, now);
            }
        }
    }
}

/// A map and one atomic in it, and nothing else: nobody can hold a peer, there is no phase, no health, no index, no
/// count. The floor of what a map costs.
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
        for (key, now, guest) in plan.steps() {
            if let Some(seen) = self.0.get(key) {
                seen.store(now.as_millis(), Ordering::Relaxed);
            }
            if let Some(guest) = guest {
                self.0.remove(guest);
                self.0.insert(*guest, AtomicU64::new(now.as_millis()));
            }
        }
    }
}

/// What the pool keeps of a connection, as plain fields.
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

    /// So that no field is optimised away.
    pub(crate) fn look(&self) -> impl Sized {
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

/// A map of entries that can be held, as the pool's can: get and store.
#[derive(Default)]
pub(crate) struct SharedDashMap(dashmap::DashMap<PeerId, Arc<(AtomicU64, Unified)>, Fast>);

impl Competitor for SharedDashMap {
    fn name(&self) -> &'static str {
        "DashMap<K, Arc<entry>>"
    }

    fn fill(&self, keys: &[PeerId]) {
        for key in keys {
            self.0.insert(*key, Arc::new((AtomicU64::new(0), Unified::new(key))));
        }
    }

    fn mark(&self, plan: Plan<'_>) {
        for (key, now, guest) in plan.steps() {
            if let Some(entry) = self.0.get(key) {
                entry.0.store(now.as_millis(), Ordering::Relaxed);
            }
            if let Some(guest) = guest {
                black_box(self.0.remove(guest).map(|(_, entry)| drop(entry.1.look())));
                self.0.insert(*guest, Arc::new((AtomicU64::new(now.as_millis()), Unified::new(guest))));
            }
        }
    }
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
        Self { name: "  the same, our hasher", ..Self::default() }
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
            for (key, now, guest) in plan.steps() {
                if let Some(entry) = self.map.write().await.get_mut(key) {
                    entry.mark(now);
                }
                if let Some(guest) = guest {
                    let left = self.map.write().await.remove(guest);
                    black_box(left.map(|entry| drop(entry.look())));
                    self.map.write().await.insert(*guest, Unified::new(guest));
                }
            }
        });
    }
}

/// Connections, info and last-seen in three maps, updated one after another: the shape most nodes start with.
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
            for (key, now, guest) in plan.steps() {
                if self.connections.read().await.contains_key(key) {
                    if let Some(seen) = self.last_seen.write().await.get_mut(key) {
                        *seen = now.as_millis();
                    }
                    if let Some(info) = self.infos.write().await.get_mut(key) {
                        info.mark(now);
                    }
                }
                if let Some(guest) = guest {
                    self.connections.write().await.remove(guest);
                    self.infos.write().await.remove(guest);
                    self.last_seen.write().await.remove(guest);
                    self.connections.write().await.insert(*guest, 0);
                    self.infos.write().await.insert(*guest, Unified::new(guest));
                    self.last_seen.write().await.insert(*guest, now.as_millis());
                }
            }
        });
    }
}

/// Not a competitor but the other half of the pool: whoever holds the peer needs no map.
pub(crate) struct ByHandle {
    pub(crate) pool: ByKey,
    pub(crate) peers: Vec<Arc<Peer<PeerId, ()>>>,
}

impl Competitor for ByHandle {
    fn name(&self) -> &'static str {
        "pool, holding the peer"
    }

    fn fill(&self, _keys: &[PeerId]) {}

    fn mark(&self, plan: Plan<'_>) {
        // Each thread has its share of the peers, as each link has its one; of the keys only the number counts.
        let share = &self.peers[plan.share..][..plan.keys.len()];
        for (peer, (_, now, guest)) in share.iter().cycle().zip(plan.steps()) {
            let _ = black_box(peer.seen(now));
            if let Some(guest) = guest {
                self.pool.0.remove_current(guest, DisconnectReason::Closed);
                join(&self.pool.0, *guest, now);
            }
        }
    }
}

thread_local! {
    /// Made once a thread: what is measured is the locks, not the making of runtimes.
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

/// A core to each thread: on the same one they would take turns, and none would ever wait for another's lock.
pub(crate) fn pin(thread: usize) {
    #[cfg(target_os = "linux")]
    {
        use rustix::thread::{CpuSet, sched_setaffinity};
        let mut cores = CpuSet::new();
        cores.set(thread % std::thread::available_parallelism().map_or(1, usize::from));
        // Where it may not be, the figures are those of whatever the scheduler does.
        let _ = sched_setaffinity(None, &cores);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = thread;
}

/// Distinct addresses in a random order.
pub(crate) fn keys(count: usize, seed: u64) -> Vec<PeerId> {
    let key = |n: usize| PeerId::from(SocketAddr::from((((0x0A00_0000 + n) as u32).to_be_bytes(), 7_000)));
    let mut keys: Vec<PeerId> = (0..count).map(key).collect();
    shuffle(&mut keys, seed);
    keys
}

/// Addresses that [`keys`] does not give.
pub(crate) fn guests(thread: usize) -> Vec<PeerId> {
    let key = |n: usize| PeerId::from(SocketAddr::from(([172, 16, thread as u8, n as u8], 7_000)));
    (0..64).map(key).collect()
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
