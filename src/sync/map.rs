//! A sharded hash map: `dashmap::DashMap` in a normal build, two mutex-guarded lists under loom.
//!
//! The facade exists for two reasons:
//! - Models of the pool run on loom's locks without a second implementation of the pool.
//! - No guard leaves the map. Every operation is one critical section on one shard, and every value
//!   that leaves the map is returned to the caller, who drops it after the lock is released.
//!
//! Invariant: `no_user_destructor_under_a_lock`
//! - Statement: no key and no value is dropped while a shard is locked.
//! - Enforced by: every operation moves what it takes out of the table into its return value, or
//!   into a local that outlives the guard.
//! - Breaks if: an operation uses `dashmap`'s `OccupiedEntry::remove`, which drops the stored key
//!   under the lock.

use std::hash::Hash;

/// The seeded hasher of every table. The seed is random per table, so that no peer can choose
/// colliding keys.
#[cfg(not(peerpool_loom))]
pub type HashState = foldhash::fast::RandomState;
/// A fixed hasher: loom replays executions and needs the same shard each time.
#[cfg(peerpool_loom)]
pub type HashState = foldhash::fast::FixedState;

/// What [`ShardMap::update`] does with the entry that its closure inspected.
#[derive(Debug)]
pub enum Change<V> {
    /// Leaves the entry as it is. A missing entry stays missing.
    Keep,
    /// Inserts this value, or replaces the present one.
    Put(V),
    /// Removes the entry.
    Remove,
}

/// A concurrent hash map in which every operation is one critical section on one shard.
///
/// Closures run under the shard's lock. They must be short, must not call user code, and must not
/// use the map again. The key's `Hash` and `Eq` are the only user code that runs under the lock.
#[cfg(not(peerpool_loom))]
pub struct ShardMap<K, V> {
    shards: dashmap::DashMap<K, V, HashState>,
}

#[cfg(not(peerpool_loom))]
impl<K: Eq + Hash, V> ShardMap<K, V> {
    /// An empty map with this many shards, rounded up to a power of two and at least two.
    pub fn with_shards(shards: usize) -> Self {
        let shards = shards.next_power_of_two().max(2);
        Self { shards: dashmap::DashMap::with_hasher_and_shard_amount(HashState::default(), shards) }
    }

    /// Passes an entry to `inspect`. `None` if the key is missing.
    ///
    /// # Cost
    /// One hash, one shard's read lock.
    #[inline]
    pub fn read<R>(&self, key: &K, inspect: impl FnOnce(&V) -> R) -> Option<R> {
        self.shards.get(key).map(|entry| inspect(entry.value()))
    }

    /// Inspects an entry or its absence and changes it in one step. Returns the closure's result
    /// and the displaced value.
    ///
    /// # Cost
    /// One hash, one shard's write lock. An insert may grow the shard's table and hash all its keys
    /// again.
    pub fn update<R>(&self, key: K, decide: impl FnOnce(Option<&mut V>) -> (Change<V>, R)) -> (R, Option<V>) {
        match self.shards.entry(key) {
            dashmap::Entry::Occupied(mut entry) => match decide(Some(entry.get_mut())) {
                (Change::Keep, result) => (result, None),
                (Change::Put(value), result) => (result, Some(entry.insert(value))),
                (Change::Remove, result) => {
                    let (_key, value) = entry.remove_entry();
                    (result, Some(value))
                }
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

    /// Removes an entry if `matches` returns true for it. Returns the removed value.
    ///
    /// # Cost
    /// One hash, one shard's write lock.
    pub fn remove_if(&self, key: &K, matches: impl FnOnce(&V) -> bool) -> Option<V> {
        self.shards.remove_if(key, |_, value| matches(value)).map(|(_key, value)| value)
    }

    /// Number of entries, counted shard by shard.
    ///
    /// # Cost
    /// One read lock per shard.
    pub fn len(&self) -> usize {
        self.shards.len()
    }

    /// Whether the map has no entry.
    pub fn is_empty(&self) -> bool {
        self.shards.is_empty()
    }

    /// Shrinks every shard's table to its number of entries.
    ///
    /// # Cost
    /// Each shard's write lock in turn. All keys of a shard are hashed again under its lock.
    pub fn shrink_to_fit(&self) {
        self.shards.shrink_to_fit();
    }
}

/// The loom implementation: two shards, so that models see both "same shard" and "another shard".
#[cfg(peerpool_loom)]
pub struct ShardMap<K, V> {
    shards: [super::Mutex<Vec<(K, V)>>; 2],
}

#[cfg(peerpool_loom)]
impl<K: Eq + Hash, V> ShardMap<K, V> {
    /// An empty map. Always two shards.
    pub fn with_shards(_shards: usize) -> Self {
        Self { shards: [super::Mutex::new(Vec::new()), super::Mutex::new(Vec::new())] }
    }

    fn shard(&self, key: &K) -> &super::Mutex<Vec<(K, V)>> {
        let hash = std::hash::BuildHasher::hash_one(&HashState::with_seed(0), key);
        &self.shards[(hash & 1) as usize]
    }

    /// Passes an entry to `inspect`.
    pub fn read<R>(&self, key: &K, inspect: impl FnOnce(&V) -> R) -> Option<R> {
        let shard = self.shard(key).lock();
        shard.iter().find(|(k, _)| k == key).map(|(_, value)| inspect(value))
    }

    /// Inspects an entry or its absence and changes it in one step.
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

    /// Removes an entry if `matches` returns true for it.
    pub fn remove_if(&self, key: &K, matches: impl FnOnce(&V) -> bool) -> Option<V> {
        let mut shard = self.shard(key).lock();
        let at = shard.iter().position(|(k, _)| k == key)?;
        matches(&shard[at].1).then(|| shard.swap_remove(at).1)
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Whether the map has no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Does nothing: the maps of models are small.
    pub fn shrink_to_fit(&self) {}
}

impl<K, V> std::fmt::Debug for ShardMap<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardMap").finish_non_exhaustive()
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn update_is_one_step_and_returns_the_displaced_value() {
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

    /// A key whose destructor uses the map: it deadlocks if it runs under the shard's lock.
    #[derive(Clone)]
    struct ReentrantKey(u8, std::sync::Weak<ShardMap<ReentrantKey, u8>>);

    impl PartialEq for ReentrantKey {
        fn eq(&self, other: &Self) -> bool {
            self.0 == other.0
        }
    }

    impl Eq for ReentrantKey {}

    impl Hash for ReentrantKey {
        fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
            self.0.hash(state);
        }
    }

    impl Drop for ReentrantKey {
        fn drop(&mut self) {
            if let Some(map) = self.1.upgrade() {
                map.len();
            }
        }
    }

    #[test]
    fn keys_are_dropped_outside_the_lock() {
        let map = Arc::new(ShardMap::with_shards(2));
        let key = || ReentrantKey(1, Arc::downgrade(&map));
        for value in 0..3 {
            map.update(key(), |_| (Change::Put(value), ()));
            map.update(key(), |_| (Change::Keep, ()));
        }
        map.update(key(), |_| (Change::Remove, ()));
        map.update(key(), |_| (Change::Remove, ()));
        map.update(key(), |_| (Change::Put(3), ()));
        assert_eq!(map.remove_if(&key(), |_| true), Some(3));
    }
}
