//! The published lists of live peers, in shards.
//!
//! ```text
//!   insert -> added list, then generation + 1      remove -> generation + 1
//!   reader -> published list is of the present generation: share it
//!             otherwise: rebuild it from (old list - disconnected) + added
//! ```
//!
//! A shard keeps one pointer per peer. A peer belongs to the shard of its connection id.
//!
//! Guarantee: a peer whose insert returned before a roster was requested is in the roster.
//! - Enforced by: an insert adds the peer and then raises the shard's generation, before it
//!   returns. A reader that finds a published list of an older generation rebuilds it, and reads
//!   the generation before it takes the added peers.
//! - Breaks if: the generation is read after the added peers are taken.

use std::sync::Arc;
use std::time::Duration;

use crate::base::Tick;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, SwapCell};

use super::{ConnectionHandle, Peer, PeerKey};

/// The last-seen bound of a shard without peers, in milliseconds.
const NO_PEERS: u64 = u64::MAX;
/// Random draws before a choice walks over all peers: if a quarter fits, one choice in a hundred
/// walks.
const MAX_DRAWS: usize = 16;
/// Fewer added peers wait for the next reader; more may trigger a rebuild.
const MIN_ADDED_FOR_REBUILD: usize = 64;

/// One shard of the roster.
pub(super) struct RosterShard<K: PeerKey, C: ConnectionHandle> {
    /// Raised after each change. A published list of an older generation is outdated.
    generation: AtomicU64,
    /// Peers that went live since the last rebuild. Short-locked.
    added: Mutex<Vec<Arc<Peer<K, C>>>>,
    published: SwapCell<Published<K, C>>,
    /// A lower bound of the last-seen ticks of the shard's live peers, in milliseconds: the shard
    /// need not be examined before that bound is old enough. Sweeps raise it, inserts lower it.
    oldest_seen_millis: AtomicU64,
    /// Held during a rebuild; other readers of the list wait for it. No peer is dropped under it.
    rebuilding: Mutex<()>,
}

struct Published<K: PeerKey, C: ConnectionHandle> {
    generation: u64,
    peers: Box<[Arc<Peer<K, C>>]>,
}

/// What a rebuild takes out of a shard: it may hold the last references to peers, so it is dropped
/// after the lock.
struct Retired<K: PeerKey, C: ConnectionHandle> {
    _lists: [Arc<Published<K, C>>; 2],
    _added: Vec<Arc<Peer<K, C>>>,
}

impl<K: PeerKey, C: ConnectionHandle> RosterShard<K, C> {
    pub(super) fn new() -> Self {
        Self {
            generation: AtomicU64::new(0),
            added: Mutex::new(Vec::new()),
            published: SwapCell::new(Arc::new(Published { generation: 0, peers: Box::default() })),
            oldest_seen_millis: AtomicU64::new(NO_PEERS),
            rebuilding: Mutex::new(()),
        }
    }

    /// Adds a live peer.
    ///
    /// # Cost
    /// Amortised O(1). It rebuilds the list only when as many peers were added as the list is long,
    /// so that a pool whose roster nobody reads holds no more disconnected peers than live ones.
    pub(super) fn add(&self, peer: &Arc<Peer<K, C>>) {
        let (peer, connected_at) = (Arc::clone(peer), peer.connected_at());
        let added = {
            let mut added = self.added.lock();
            added.push(peer);
            added.len()
        };
        self.mark_changed();
        // After the generation is raised: see `begin_scan`. Relaxed: the generation orders it.
        self.oldest_seen_millis.fetch_min(connected_at.as_millis(), Ordering::Relaxed);
        if added >= MIN_ADDED_FOR_REBUILD && added >= self.published.read(|list| list.peers.len()) {
            drop(self.current());
        }
    }

    /// Marks the published list as outdated: a peer was added or disconnected.
    pub(super) fn mark_changed(&self) {
        // Release: pairs with the acquire in `is_current` and `rebuild`. Acquire: pairs with the
        // release in `synchronize`.
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Orders this call against a concurrent `add`. Either the add raised the generation first, and
    /// the next list contains its peer; or the adding thread sees what this thread did before this
    /// call.
    pub(super) fn synchronize(&self) {
        // AcqRel, adding nothing: pairs with the exchange in `mark_changed`.
        self.generation.fetch_add(0, Ordering::AcqRel);
    }

    /// The peers to examine, if one may be silent for longer than `stale_after`. Last-seen only
    /// rises, so `None` stays correct until a scan or an add.
    pub(super) fn begin_scan(&self, stale_after: Duration, now: Tick) -> Option<ShardScan<'_, K, C>> {
        let oldest = self.oldest_seen_millis.load(Ordering::Relaxed);
        if oldest == NO_PEERS || now.since(Tick::from_millis(oldest)) <= stale_after {
            return None;
        }
        self.oldest_seen_millis.store(NO_PEERS, Ordering::Relaxed);
        // A peer that is added and not in the list below lowers the bound after this reset.
        self.synchronize();
        Some(ShardScan { shard: self, view: self.current(), oldest_seen: Tick::MAX })
    }

    /// A list of at least the present generation.
    pub(super) fn current(&self) -> RosterShardView<K, C> {
        let list = self.published.load();
        if self.is_current(&list) {
            return RosterShardView { list };
        }
        // Declared before the guard and so dropped after it: peers that only these hold are dropped
        // outside the lock.
        let _outdated = list;
        let _retired;
        let _guard = self.rebuilding.lock();
        let list = self.published.load();
        if self.is_current(&list) {
            return RosterShardView { list };
        }
        let (list, retired) = self.rebuild(list);
        _retired = retired;
        RosterShardView { list }
    }

    fn is_current(&self, list: &Published<K, C>) -> bool {
        // Acquire: pairs with the release in `mark_changed`. A rebuild sees the peers added before.
        list.generation == self.generation.load(Ordering::Acquire)
    }

    /// Builds and publishes a new list. Runs under `rebuilding`.
    fn rebuild(&self, old: Arc<Published<K, C>>) -> (Arc<Published<K, C>>, Retired<K, C>) {
        // Before the added peers are taken. Acquire: pairs with the release in `mark_changed`.
        let generation = self.generation.load(Ordering::Acquire);
        let added = std::mem::take(&mut *self.added.lock());
        let live = |peer: &&Arc<Peer<K, C>>| peer.is_live();
        let mut peers = Vec::with_capacity(old.peers.len() + added.len());
        peers.extend(old.peers.iter().chain(&added).filter(live).cloned());
        let list = Arc::new(Published { generation, peers: peers.into_boxed_slice() });
        let replaced = self.published.swap(Arc::clone(&list));
        (list, Retired { _lists: [old, replaced], _added: added })
    }
}

/// The peers of one roster shard at one moment. It keeps them alive: use it and drop it.
pub struct RosterShardView<K: PeerKey, C: ConnectionHandle> {
    list: Arc<Published<K, C>>,
}

impl<K: PeerKey, C: ConnectionHandle> RosterShardView<K, C> {
    /// The peers that are live when the iterator reaches them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Peer<K, C>>> {
        self.list.peers.iter().filter(|peer| peer.is_live())
    }

    /// The peers that were live when the list was made. Some may have disconnected.
    pub fn all(&self) -> &[Arc<Peer<K, C>>] {
        &self.list.peers
    }
}

/// A sweep of one shard in progress. Its end stores the new last-seen bound.
pub(super) struct ShardScan<'a, K: PeerKey, C: ConnectionHandle> {
    shard: &'a RosterShard<K, C>,
    pub(super) view: RosterShardView<K, C>,
    /// A lower bound of the last-seen ticks of the peers that stay.
    pub(super) oldest_seen: Tick,
}

impl<K: PeerKey, C: ConnectionHandle> Drop for ShardScan<'_, K, C> {
    fn drop(&mut self) {
        // A panic in the user's `close` ends the scan early. The next one examines the peers that
        // were not reached.
        let oldest_seen = if std::thread::panicking() { Tick::ZERO } else { self.oldest_seen };
        self.shard.oldest_seen_millis.fetch_min(oldest_seen.as_millis(), Ordering::Relaxed);
    }
}

/// All peers that were live when the roster was requested. It keeps them alive: use it and drop it.
pub struct Roster<K: PeerKey, C: ConnectionHandle> {
    pub(super) shards: Vec<RosterShardView<K, C>>,
}

impl<K: PeerKey, C: ConnectionHandle> Roster<K, C> {
    /// The peers that are live when the iterator reaches them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Peer<K, C>>> {
        self.shards.iter().flat_map(RosterShardView::iter)
    }

    /// A uniformly random peer among those for which `fits` returns true; `None` if there is none.
    ///
    /// `random(n)` returns a uniformly random number below `n`. `fits` is called with disconnected
    /// peers too; it may check [`Peer::is_live`].
    ///
    /// # Cost
    /// Up to 16 draws of one step per shard. A walk over all peers only if few fit.
    pub fn choose(
        &self,
        mut random: impl FnMut(usize) -> usize,
        fits: impl Fn(&Peer<K, C>) -> bool,
    ) -> Option<&Arc<Peer<K, C>>> {
        let len = self.len();
        if len == 0 {
            return None;
        }
        // A peer that does not fit is drawn again, which leaves the others equally likely.
        let drawn = (0..MAX_DRAWS).find_map(|_| self.at(random(len)).filter(|peer| fits(peer)));
        drawn.or_else(|| {
            let lists = self.shards.iter().flat_map(RosterShardView::all);
            let fitting: Vec<_> = lists.filter(|peer| fits(peer)).collect();
            if fitting.is_empty() { None } else { fitting.get(random(fitting.len())).copied() }
        })
    }

    /// The peer at this index of the concatenated lists.
    fn at(&self, index: usize) -> Option<&Arc<Peer<K, C>>> {
        let mut rest = index;
        for shard in &self.shards {
            match shard.all().get(rest) {
                Some(peer) => return Some(peer),
                None => rest -= shard.all().len(),
            }
        }
        None
    }

    /// Number of peers that were live when the lists were made.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.list.peers.len()).sum()
    }

    /// Whether no peer was live when the lists were made.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: PeerKey, C: ConnectionHandle> std::fmt::Debug for RosterShardView<K, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RosterShardView").field("peers", &self.list.peers.len()).finish()
    }
}

impl<K: PeerKey, C: ConnectionHandle> std::fmt::Debug for Roster<K, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Roster").field("peers", &self.len()).finish()
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::base::Direction;
    use crate::pool::{DisconnectReason, Pool, PoolConfig};

    #[test]
    fn choose_is_uniform_over_the_fitting_peers() {
        let pool: Arc<Pool<u32, ()>> = Pool::new(PoolConfig::test());
        assert!(pool.roster().choose(|_| unreachable!("the roster is empty"), |_| true).is_none());
        for key in 0..1_000_u32 {
            let addr = SocketAddr::from((key.to_be_bytes(), 7_000));
            pool.insert(key, addr, Direction::Inbound, (), (), Tick::ZERO).unwrap();
        }
        let roster = pool.roster();
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below as u64) as usize
        };
        // Draws find one; mostly the walk finds one; only one fits.
        for every in [4, 100, 1_000] {
            let mut chosen = vec![0; 1_000];
            let fitting = 1_000 / every;
            for _ in 0..fitting * 200 {
                let peer = roster.choose(&mut random, |peer| peer.key() % every == every / 2).unwrap();
                chosen[*peer.key() as usize] += 1;
            }
            for (key, times) in (0..).zip(chosen) {
                let fits = key % every == every / 2;
                assert!(
                    if fits { (120..300).contains(&times) } else { times == 0 },
                    "{key} of {every}: {times}"
                );
            }
        }
        assert!(roster.choose(&mut random, |peer| *peer.key() == 1_000).is_none());
        (0..1_000)
            .filter(|key| *key != 7)
            .for_each(|key| drop(pool.remove_current(&key, DisconnectReason::Closed)));
        assert_eq!(roster.choose(&mut random, Peer::is_live).map(|peer| *peer.key()), Some(7));
    }
}
