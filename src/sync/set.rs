//! The sharded set: entries that carry their own key and its hash, and no guard that ever leaves.

use crossbeam_utils::CachePadded;

use super::RwLock;
use super::lines::Lines;

/// The seeded hasher of every table: fast, and random per table, so that nobody chooses colliding keys.
#[cfg(not(peerpool_loom))]
pub type HashState = foldhash::fast::RandomState;
/// A fixed hasher: loom replays executions and needs the same shard each time.
#[cfg(peerpool_loom)]
pub type HashState = foldhash::fast::FixedState;

/// An entry of a [`ShardSet`].
///
/// It keeps a good (seeded) hash of its key, so that a table that grows under its lock looks at nothing behind the
/// pointers, and a look-up at nothing but what is meant.
pub trait Hashed {
    /// The hash of its key; the same as long as it lives.
    fn hash(&self) -> u32;
}

/// What [`ShardSet::put_if`] did.
#[derive(Debug)]
pub enum PutOutcome<E, R, X> {
    /// The entry is in the set; what it displaced left the critical section.
    Put {
        /// What the closure returned.
        result: R,
        /// The entry of the same key that was there before.
        displaced: Option<E>,
    },
    /// The set is as it was.
    Rejected {
        /// What the closure returned.
        cause: X,
        /// The entry that was offered.
        entry: E,
    },
}

/// A concurrent hash set whose every operation is one critical section on one shard.
///
/// An entry may be one pointer to what holds its key: a look-up brings the hash and a comparison. Closures run under
/// the shard's lock: they must be short and must not call user code or touch the set again; of the user's code only the
/// key's `Eq` runs there. Entries that leave are returned, so that they are dropped after the lock is released.
pub struct ShardSet<E> {
    /// A power of two. The lowest bits of a hash choose the shard, the highest the line in it.
    shards: Box<[CachePadded<RwLock<Lines<E>>>]>,
}

impl<E: Hashed> ShardSet<E> {
    /// An empty set with this many shards, rounded up to a power of two. Under loom always two, so that models see both
    /// "same shard" and "another shard".
    pub fn with_shards(shards: usize) -> Self {
        let shards = if cfg!(peerpool_loom) { 2 } else { shards.next_power_of_two() };
        Self { shards: (0..shards).map(|_| CachePadded::new(RwLock::new(Lines::new()))).collect() }
    }

    /// Looks at an entry. Cost: one shard's read lock.
    pub fn read<R>(&self, hash: u32, is_it: impl Fn(&E) -> bool, look: impl FnOnce(&E) -> R) -> Option<R> {
        self.shard(hash).read().get(hash, is_it).map(look)
    }

    /// Puts an entry in, over the one with the same key if there is one, if the closure says `Ok` to what is there.
    /// Cost: one shard's write lock.
    pub fn put_if<R, X>(
        &self,
        entry: E,
        is_same: impl Fn(&E, &E) -> bool,
        decide: impl FnOnce(Option<&E>) -> Result<R, X>,
    ) -> PutOutcome<E, R, X> {
        let mut lines = self.shard(entry.hash()).write();
        let held = lines.get_mut(entry.hash(), |held| is_same(held, &entry));
        match (decide(held.as_deref()), held) {
            (Err(cause), _) => PutOutcome::Rejected { cause, entry },
            (Ok(result), Some(held)) => {
                PutOutcome::Put { result, displaced: Some(std::mem::replace(held, entry)) }
            }
            (Ok(result), None) => {
                lines.add(entry);
                PutOutcome::Put { result, displaced: None }
            }
        }
    }

    /// Takes an entry out if it is the one that was meant. Cost: one shard's write lock.
    pub fn remove_if(
        &self,
        hash: u32,
        is_it: impl Fn(&E) -> bool,
        is_meant: impl FnOnce(&E) -> bool,
    ) -> Option<E> {
        let mut lines = self.shard(hash).write();
        let place = lines.find(hash, is_it)?;
        if is_meant(lines.at(place)?) { lines.take(place) } else { None }
    }

    /// Gives back the memory of tables that have become far too large. Cost: each shard's write lock in turn.
    pub fn shrink(&self) {
        self.shards.iter().for_each(|shard| shard.write().shrink());
    }

    fn shard(&self, hash: u32) -> &RwLock<Lines<E>> {
        &self.shards[hash as usize & (self.shards.len() - 1)]
    }
}

impl<E> std::fmt::Debug for ShardSet<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardSet").finish_non_exhaustive()
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;
    use std::sync::Arc;

    struct Named(Arc<String>);

    impl Hashed for Named {
        fn hash(&self) -> u32 {
            7
        }
    }

    #[test]
    fn what_a_put_displaces_or_rejects_is_handed_out() {
        let set = ShardSet::with_shards(4);
        let (first, second) = (Arc::new("a".to_owned()), Arc::new("a".to_owned()));
        let same = |one: &Named, other: &Named| one.0 == other.0;
        let is_a = |entry: &Named| *entry.0 == "a";
        let put = set.put_if(Named(Arc::clone(&first)), same, |old| old.is_none().then_some(()).ok_or(()));
        assert!(matches!(put, PutOutcome::Put { displaced: None, .. }));
        let put = set.put_if(Named(Arc::clone(&second)), same, |old| old.is_none().then_some(()).ok_or(()));
        assert!(matches!(put, PutOutcome::Rejected { entry, .. } if Arc::ptr_eq(&entry.0, &second)));
        let put = set.put_if(Named(Arc::clone(&second)), same, |_| Ok::<(), ()>(()));
        assert!(matches!(put, PutOutcome::Put { displaced: Some(old), .. } if Arc::ptr_eq(&old.0, &first)));
        assert_eq!(set.read(7, is_a, |entry| Arc::ptr_eq(&entry.0, &second)), Some(true));
        assert!(set.remove_if(7, is_a, |entry| Arc::ptr_eq(&entry.0, &first)).is_none());
        assert!(set.remove_if(7, is_a, |entry| Arc::ptr_eq(&entry.0, &second)).is_some());
        assert!(set.read(7, is_a, |_| ()).is_none());
    }
}
