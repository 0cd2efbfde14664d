//! The published lists of live peers, in cells.
//!
//! **Statement**: a peer whose insert returned before a roster was asked for is in it. **Enforced by**: joining pushes
//! the peer and then raises the cell's generation, before the insert returns; a reader that finds the published list
//! of an older generation rebuilds it, reading the generation *before* it takes what was added. **Breaks if** the
//! generation is read after.
//!
//! A cell keeps one pointer a peer: a rebuild is the old list without the departed, plus what was added.

use std::sync::Arc;
use std::time::Duration;

use crate::base::Tick;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, SwapCell};

use super::{ConnectionHandle, Peer, PeerKey};

/// One cell of the roster.
pub(super) struct RosterShard<K: PeerKey, C: ConnectionHandle> {
    /// Raised after each change. A published list of an older generation is out of date.
    generation: AtomicU64,
    /// Joined since the last rebuild. Short-locked.
    added: Mutex<Vec<Arc<Peer<K, C>>>>,
    published: SwapCell<Published<K, C>>,
    /// Not later than any live peer of the cell was last seen, in milliseconds; so the cell need not be judged before
    /// that much time has passed. A bound: sweeps raise it, joins lower it.
    oldest: AtomicU64,
    /// Held by whoever rebuilds; the others who want the list wait for it. No peer is dropped under it.
    rebuilding: Mutex<()>,
}

struct Published<K: PeerKey, C: ConnectionHandle> {
    generation: u64,
    peers: Box<[Arc<Peer<K, C>>]>,
}

impl<K: PeerKey, C: ConnectionHandle> RosterShard<K, C> {
    pub(super) fn new() -> Self {
        Self {
            generation: AtomicU64::new(0),
            added: Mutex::new(Vec::new()),
            published: SwapCell::new(Arc::new(Published { generation: 0, peers: Box::default() })),
            oldest: AtomicU64::new(NOBODY),
            rebuilding: Mutex::new(()),
        }
    }

    /// Adds a live peer.
    ///
    /// # Cost
    /// Amortised O(1): a rebuild only when as many were added as the list is long, so that a pool whose roster nobody
    /// reads keeps no more departed peers than live ones.
    pub(super) fn join(&self, peer: &Arc<Peer<K, C>>) {
        let (peer, joined) = (Arc::clone(peer), peer.connected_at());
        let waiting = {
            let mut added = self.added.lock();
            added.push(peer);
            added.len()
        };
        self.changed();
        // After raising the generation: see `judge`. Relaxed: the generation orders it.
        self.oldest.fetch_min(joined.as_millis(), Ordering::Relaxed);
        if waiting >= MANY && waiting >= self.published.read(|list| list.peers.len()) {
            drop(self.fresh());
        }
    }

    /// A peer of this cell departed.
    pub(super) fn changed(&self) {
        // Release: pairs with the acquire in `is_fresh` and `rebuild`. Acquire: pairs with the release in `judge`.
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Of a join and what comes after this, either the join raised the generation first, and the next list contains it; or
    /// whoever joins sees what was done before this.
    pub(super) fn meet(&self) {
        // AcqRel, adding nothing: pairs with the raise in `changed`.
        self.generation.fetch_add(0, Ordering::AcqRel);
    }

    /// The peers to judge, if some may be silent for longer than this. Last-seen only rises, so *no* stays true until a
    /// judgement or until somebody joins.
    pub(super) fn judge(&self, stale_after: Duration, now: Tick) -> Option<Judgement<'_, K, C>> {
        let oldest = self.oldest.load(Ordering::Relaxed);
        if oldest == NOBODY || now.since(Tick::from_millis(oldest)) <= stale_after {
            return None;
        }
        self.oldest.store(NOBODY, Ordering::Relaxed);
        // Who joins and is not in the list below lowers the bound after it was reset.
        self.meet();
        Some(Judgement { cell: self, view: self.fresh(), oldest: Tick::MAX })
    }

    /// The list of at least the present generation.
    pub(super) fn fresh(&self) -> RosterShardView<K, C> {
        let list = self.published.load();
        if self.is_fresh(&list) {
            return RosterShardView { list };
        }
        // Declared before the guard, so dropped after it: what the old list alone held is dropped outside the lock.
        let _stale = list;
        let _replaced;
        let _guard = self.rebuilding.lock();
        let list = self.published.load();
        if self.is_fresh(&list) {
            return RosterShardView { list };
        }
        let (list, replaced) = self.rebuild(list);
        _replaced = replaced;
        RosterShardView { list }
    }

    fn is_fresh(&self, list: &Published<K, C>) -> bool {
        // Acquire: pairs with the release in `changed`; what was pushed before is seen by a rebuild.
        list.generation == self.generation.load(Ordering::Acquire)
    }

    /// Under `rebuilding`. Returns the new list and everything that may hold the last reference to a peer.
    #[expect(clippy::type_complexity, reason = "what leaves the lock, and nothing else uses it")]
    fn rebuild(
        &self,
        old: Arc<Published<K, C>>,
    ) -> (Arc<Published<K, C>>, (Arc<Published<K, C>>, Vec<Arc<Peer<K, C>>>, Arc<Published<K, C>>)) {
        // Before taking what was added. Acquire: pairs with the release in `changed`.
        let generation = self.generation.load(Ordering::Acquire);
        let added = std::mem::take(&mut *self.added.lock());
        let live = |peer: &&Arc<Peer<K, C>>| peer.is_live();
        let mut peers = Vec::with_capacity(old.peers.len() + added.len());
        peers.extend(old.peers.iter().chain(&added).filter(live).cloned());
        let list = Arc::new(Published { generation, peers: peers.into_boxed_slice() });
        let replaced = self.published.swap(Arc::clone(&list));
        (list, (old, added, replaced))
    }
}

/// The peers of one cell at one moment. Holds them; take it, use it, drop it.
pub struct RosterShardView<K: PeerKey, C: ConnectionHandle> {
    list: Arc<Published<K, C>>,
}

impl<K: PeerKey, C: ConnectionHandle> RosterShardView<K, C> {
    /// The peers that are live when they are reached.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Peer<K, C>>> {
        self.list.peers.iter().filter(|peer| peer.is_live())
    }

    /// The peers that were live when the list was made; some may have departed.
    pub fn all(&self) -> &[Arc<Peer<K, C>>] {
        &self.list.peers
    }
}

/// A sweep of one cell under way. When it ends the cell knows how old the oldest last-seen is.
pub(super) struct Judgement<'a, K: PeerKey, C: ConnectionHandle> {
    cell: &'a RosterShard<K, C>,
    pub(super) view: RosterShardView<K, C>,
    /// Not later than any of those who stay was last seen.
    pub(super) oldest: Tick,
}

impl<K: PeerKey, C: ConnectionHandle> Drop for Judgement<'_, K, C> {
    fn drop(&mut self) {
        // A user's `close` that panics ends the judgement early: who was not reached is judged the next time.
        let oldest = if std::thread::panicking() { Tick::ZERO } else { self.oldest };
        self.cell.oldest.fetch_min(oldest.as_millis(), Ordering::Relaxed);
    }
}

/// Everybody who was live when it was asked for. Holds them; take it, use it, drop it.
pub struct Roster<K: PeerKey, C: ConnectionHandle> {
    pub(super) cells: Vec<RosterShardView<K, C>>,
}

impl<K: PeerKey, C: ConnectionHandle> Roster<K, C> {
    /// The peers that are live when they are reached.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Peer<K, C>>> {
        self.cells.iter().flat_map(RosterShardView::iter)
    }

    /// Some peer that fits, each as likely as the next; `None` if nobody does. `random` returns a number below the one it is
    /// given, each as likely as the next. Departed peers are asked about as well: [`Peer::is_live`] is for `fits` to ask.
    ///
    /// # Cost
    /// A few looks, each a step a cell; a walk over everybody only where few fit.
    pub fn choose(
        &self,
        mut random: impl FnMut(usize) -> usize,
        fits: impl Fn(&Peer<K, C>) -> bool,
    ) -> Option<&Arc<Peer<K, C>>> {
        let all = self.len();
        if all == 0 {
            return None;
        }
        // Who does not fit is drawn again, which leaves the others as likely as each other.
        let drawn = (0..LOOKS).find_map(|_| self.at(random(all)).filter(|peer| fits(peer)));
        drawn.or_else(|| {
            let lists = self.cells.iter().flat_map(RosterShardView::all);
            let fitting: Vec<_> = lists.filter(|peer| fits(peer)).collect();
            if fitting.is_empty() { None } else { fitting.get(random(fitting.len())).copied() }
        })
    }

    /// The peer at this place of the lists, counted through.
    fn at(&self, place: usize) -> Option<&Arc<Peer<K, C>>> {
        let mut left = place;
        for cell in &self.cells {
            match cell.all().get(left) {
                Some(peer) => return Some(peer),
                None => left -= cell.all().len(),
            }
        }
        None
    }

    /// The cells it is made of.
    pub fn cells(&self) -> &[RosterShardView<K, C>] {
        &self.cells
    }

    /// How many were live when the lists were made.
    pub fn len(&self) -> usize {
        self.cells.iter().map(|cell| cell.list.peers.len()).sum()
    }

    /// Whether nobody was.
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

/// The bound of a cell without peers.
const NOBODY: u64 = u64::MAX;
/// Peers looked at before everybody is: where a quarter fits, one draw of a hundred comes to that.
const LOOKS: usize = 16;
/// Fewer added peers than this wait for the next reader.
const MANY: usize = 64;

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::base::Direction;
    use crate::pool::{DisconnectReason, Pool, PoolConfig};

    #[test]
    fn whoever_fits_is_drawn_as_often_as_the_others_and_nobody_else_is() {
        let pool: Arc<Pool<u32, ()>> = Pool::new(PoolConfig::test());
        assert!(pool.roster().choose(|_| unreachable!("of nobody"), |_| true).is_none());
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
        // So many that looking finds one, so few that mostly a walk does, and one alone.
        for every in [4, 100, 1_000] {
            let mut drawn = vec![0; 1_000];
            let fitting = 1_000 / every;
            for _ in 0..fitting * 200 {
                let peer = roster.choose(&mut random, |peer| peer.key() % every == every / 2).unwrap();
                drawn[*peer.key() as usize] += 1;
            }
            for (key, times) in (0..).zip(drawn) {
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
