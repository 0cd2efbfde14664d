//! The sharded map: one short-locked hash table a shard, and no guard that ever leaves.

use std::hash::Hash;

/// What to do with an entry that [`ShardMap::update`] looked at.
#[derive(Debug)]
pub enum Change<V> {
    /// Leave it as it is (a missing one stays missing).
    Keep,
    /// Put this value there.
    Put(V),
    /// Take it out.
    Remove,
}

#[cfg(not(peerpool_loom))]
type Shards<K, V> = dashmap::DashMap<K, V, foldhash::fast::RandomState>;

/// A concurrent hash map whose every operation is one critical section on one shard.
///
/// Closures run under the shard's lock: they must be short, must not call user code and must not touch the map again.
/// Values that leave are returned, so that they are dropped after the lock is released.
#[cfg(not(peerpool_loom))]
pub struct ShardMap<K, V> {
    shards: Shards<K, V>,
}

#[cfg(not(peerpool_loom))]
impl<K: Eq + Hash, V> ShardMap<K, V> {
    /// An empty map with this many shards, rounded up to a power of two and at least two.
    pub fn with_shards(shards: usize) -> Self {
        let shards = shards.next_power_of_two().max(2);
        Self { shards: Shards::with_hasher_and_shard_amount(foldhash::fast::RandomState::default(), shards) }
    }

    /// Looks at an entry. Cost: one shard's read lock.
    pub fn read<R>(&self, key: &K, look: impl FnOnce(&V) -> R) -> Option<R> {
        self.shards.get(key).map(|entry| look(entry.value()))
    }

    /// Looks at an entry, or at its absence, and decides what becomes of it, in one step.
    /// Returns what the closure returned and the value that was displaced. Cost: one shard's write lock.
    pub fn update<R>(&self, key: K, decide: impl FnOnce(Option<&mut V>) -> (Change<V>, R)) -> (R, Option<V>) {
        match self.shards.entry(key) {
            dashmap::Entry::Occupied(mut entry) => match decide(Some(entry.get_mut())) {
                (Change::Keep, result) => (result, None),
                (Change::Put(value), result) => (result, Some(entry.insert(value))),
                (Change::Remove, result) => (result, Some(entry.remove())),
            },
            dashmap::Entry::Vacant(entry) => match decide(None) {
                (Change::Put(value), result) => {
                    drop(entry.insert(value));
                    (result, None)
                }
                (Change::Keep | Change::Remove, result) => (result, None),
            },
        }
    }

    /// Takes an entry out if it is the one that was meant. Cost: one shard's write lock.
    pub fn remove_if(&self, key: &K, is_meant: impl FnOnce(&V) -> bool) -> Option<V> {
        self.shards.remove_if(key, |_, value| is_meant(value)).map(|(_, value)| value)
    }

    /// The number of entries, counted shard by shard. Cost: a read lock a shard.
    pub fn len(&self) -> usize {
        self.shards.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.shards.is_empty()
    }

    /// Gives back the memory of tables that have become far too large. Cost: each shard's write lock in turn.
    pub fn shrink(&self) {
        self.shards.shrink_to_fit();
    }
}

/// The loom twin: two shards, so that models see both "same shard" and "another shard".
#[cfg(peerpool_loom)]
pub struct ShardMap<K, V> {
    shards: [super::Mutex<Vec<(K, V)>>; 2],
}

#[cfg(peerpool_loom)]
impl<K: Eq + Hash, V> ShardMap<K, V> {
    /// An empty map; always two shards.
    pub fn with_shards(_shards: usize) -> Self {
        Self { shards: [super::Mutex::new(Vec::new()), super::Mutex::new(Vec::new())] }
    }

    fn shard(&self, key: &K) -> &super::Mutex<Vec<(K, V)>> {
        // A fixed hasher: loom replays executions and needs the same shard each time.
        let hash = std::hash::BuildHasher::hash_one(&foldhash::fast::FixedState::with_seed(0), key);
        &self.shards[(hash & 1) as usize]
    }

    /// Looks at an entry.
    pub fn read<R>(&self, key: &K, look: impl FnOnce(&V) -> R) -> Option<R> {
        let shard = self.shard(key).lock();
        shard.iter().find(|(k, _)| k == key).map(|(_, value)| look(value))
    }

    /// Looks at an entry, or at its absence, and decides what becomes of it, in one step.
    pub fn update<R>(&self, key: K, decide: impl FnOnce(Option<&mut V>) -> (Change<V>, R)) -> (R, Option<V>) {
        let mut shard = self.shard(&key).lock();
        match shard.iter().position(|(k, _)| *k == key) {
            Some(at) => match decide(Some(&mut shard[at].1)) {
                (Change::Keep, result) => (result, None),
                (Change::Put(value), result) => (result, Some(std::mem::replace(&mut shard[at].1, value))),
                (Change::Remove, result) => (result, Some(shard.swap_remove(at).1)),
            },
            None => match decide(None) {
                (Change::Put(value), result) => {
                    shard.push((key, value));
                    (result, None)
                }
                (Change::Keep | Change::Remove, result) => (result, None),
            },
        }
    }

    /// Takes an entry out if it is the one that was meant.
    pub fn remove_if(&self, key: &K, is_meant: impl FnOnce(&V) -> bool) -> Option<V> {
        let mut shard = self.shard(key).lock();
        let at = shard.iter().position(|(k, _)| k == key)?;
        is_meant(&shard[at].1).then(|| shard.swap_remove(at).1)
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Gives nothing back: models are small.
    pub fn shrink(&self) {}
}

impl<K, V> std::fmt::Debug for ShardMap<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardMap").finish_non_exhaustive()
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_update_is_one_step_and_hands_the_displaced_value_out() {
        let map = ShardMap::with_shards(4);
        assert_eq!(map.update(1, |old: Option<&mut &str>| (Change::Put("a"), old.is_none())), (true, None));
        assert_eq!(map.update(1, |_| (Change::Put("b"), ())), ((), Some("a")));
        assert_eq!(map.update(1, |_| (Change::Keep, ())), ((), None));
        assert_eq!(map.remove_if(&1, |value| *value == "a"), None);
        assert_eq!(map.read(&1, |value| *value), Some("b"));
        assert_eq!(map.update(1, |_| (Change::Remove, ())), ((), Some("b")));
        assert_eq!(map.update(1, |_| (Change::Remove, ())), ((), None));
        assert!(map.is_empty());
    }
}
