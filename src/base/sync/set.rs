//! The sharded set: entries that carry their own key, and no guard that ever leaves.

use std::borrow::Borrow;
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// The seeded hasher of every table: fast, and random per table, so that nobody chooses colliding keys.
#[cfg(not(peerpool_loom))]
pub type HashState = foldhash::fast::RandomState;
/// A fixed hasher: loom replays executions and needs the same shard each time.
#[cfg(peerpool_loom)]
pub type HashState = foldhash::fast::FixedState;

/// The hasher of a [`ShardSet`], whose entries bring a hash: spreads the 32 bits that they write over 64.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, hash: u32) {
        // Odd, so no two of the 32-bit values meet; the high bits depend on all of them.
        self.0 = (self.0.rotate_left(5) ^ u64::from(hash)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
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
        why: X,
        /// The entry that was offered.
        entry: E,
    },
}

/// A concurrent hash set whose every operation is one critical section on one shard.
///
/// It is a [`DashMap`](dashmap::DashMap) of entries that borrow as their key, so an entry may be one pointer to what
/// holds the key, and a look-up by key finds it. An entry's `Hash` writes one `u32`, a good (seeded) hash of its key
/// that it keeps: so a table that grows under its lock looks at nothing behind the pointers. Closures run under the shard's lock: they must be short and must not
/// call user code or touch the set again; of the user's code only the key's `Hash` and `Eq` run there. Entries that
/// leave are returned, so that they are dropped after the lock is released.
#[cfg(not(peerpool_loom))]
pub struct ShardSet<E> {
    shards: dashmap::DashMap<E, (), BuildHasherDefault<Spread>>,
}

#[cfg(not(peerpool_loom))]
impl<E: Eq + Hash> ShardSet<E> {
    /// An empty set with this many shards, rounded up to a power of two and at least two.
    pub fn with_shards(shards: usize) -> Self {
        let shards = shards.next_power_of_two().max(2);
        Self { shards: dashmap::DashMap::with_hasher_and_shard_amount(BuildHasherDefault::default(), shards) }
    }

    /// Looks at an entry. Cost: one shard's read lock.
    pub fn read<Q, R>(&self, key: &Q, look: impl FnOnce(&E) -> R) -> Option<R>
    where
        E: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.shards.get(key).map(|entry| look(entry.key()))
    }

    /// Puts an entry in, over the one with the same key if there is one, if the closure says `Ok` to what is there.
    /// Cost: one shard's write lock.
    pub fn put_if<R, X>(
        &self,
        entry: E,
        decide: impl FnOnce(Option<&E>) -> Result<R, X>,
    ) -> PutOutcome<E, R, X> {
        match self.shards.entry(entry) {
            dashmap::Entry::Occupied(place) => match decide(Some(place.key())) {
                Ok(result) => PutOutcome::Put { result, displaced: Some(place.replace_entry(()).0) },
                Err(why) => PutOutcome::Rejected { why, entry: place.into_key() },
            },
            dashmap::Entry::Vacant(place) => match decide(None) {
                Ok(result) => {
                    drop(place.insert(()));
                    PutOutcome::Put { result, displaced: None }
                }
                Err(why) => PutOutcome::Rejected { why, entry: place.into_key() },
            },
        }
    }

    /// Takes an entry out if it is the one that was meant. Cost: one shard's write lock.
    pub fn remove_if<Q>(&self, key: &Q, is_meant: impl FnOnce(&E) -> bool) -> Option<E>
    where
        E: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.shards.remove_if(key, |entry, ()| is_meant(entry)).map(|(entry, ())| entry)
    }

    /// Gives back the memory of tables that have become far too large. Cost: each shard's write lock in turn.
    pub fn shrink(&self) {
        self.shards.shrink_to_fit();
    }
}

/// The loom twin: two shards, so that models see both "same shard" and "another shard".
#[cfg(peerpool_loom)]
pub struct ShardSet<E> {
    shards: [super::Mutex<Vec<E>>; 2],
}

#[cfg(peerpool_loom)]
impl<E: Eq + Hash> ShardSet<E> {
    /// An empty set; always two shards.
    pub fn with_shards(_shards: usize) -> Self {
        Self { shards: [super::Mutex::new(Vec::new()), super::Mutex::new(Vec::new())] }
    }

    fn shard<Q: Hash + ?Sized>(&self, key: &Q) -> &super::Mutex<Vec<E>> {
        let hash = std::hash::BuildHasher::hash_one(&BuildHasherDefault::<Spread>::default(), key);
        &self.shards[(hash >> 63) as usize]
    }

    /// Looks at an entry.
    pub fn read<Q, R>(&self, key: &Q, look: impl FnOnce(&E) -> R) -> Option<R>
    where
        E: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.shard(key).lock().iter().find(|entry| (*entry).borrow() == key).map(look)
    }

    /// Puts an entry in if the closure says `Ok` to what is there.
    pub fn put_if<R, X>(
        &self,
        entry: E,
        decide: impl FnOnce(Option<&E>) -> Result<R, X>,
    ) -> PutOutcome<E, R, X> {
        let mut shard = self.shard(&entry).lock();
        let at = shard.iter().position(|old| *old == entry);
        match decide(at.map(|at| &shard[at])) {
            Err(why) => PutOutcome::Rejected { why, entry },
            Ok(result) => {
                let displaced = match at {
                    Some(at) => Some(std::mem::replace(&mut shard[at], entry)),
                    None => {
                        shard.push(entry);
                        None
                    }
                };
                PutOutcome::Put { result, displaced }
            }
        }
    }

    /// Takes an entry out if it is the one that was meant.
    pub fn remove_if<Q>(&self, key: &Q, is_meant: impl FnOnce(&E) -> bool) -> Option<E>
    where
        E: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let mut shard = self.shard(key).lock();
        let at = shard.iter().position(|entry| (*entry).borrow() == key)?;
        is_meant(&shard[at]).then(|| shard.swap_remove(at))
    }

    /// Gives nothing back: models are small.
    pub fn shrink(&self) {}
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

    #[derive(PartialEq, Eq, Hash)]
    struct Named(Arc<String>);

    impl Borrow<String> for Named {
        fn borrow(&self) -> &String {
            &self.0
        }
    }

    #[test]
    fn what_a_put_displaces_or_rejects_is_handed_out() {
        let set = ShardSet::with_shards(4);
        let (first, second) = (Arc::new("a".to_owned()), Arc::new("a".to_owned()));
        let put = set.put_if(Named(Arc::clone(&first)), |old| old.is_none().then_some(()).ok_or(()));
        assert!(matches!(put, PutOutcome::Put { displaced: None, .. }));
        let put = set.put_if(Named(Arc::clone(&second)), |old| old.is_none().then_some(()).ok_or(()));
        assert!(matches!(put, PutOutcome::Rejected { entry, .. } if Arc::ptr_eq(&entry.0, &second)));
        let put = set.put_if(Named(Arc::clone(&second)), |_| Ok::<(), ()>(()));
        assert!(matches!(put, PutOutcome::Put { displaced: Some(old), .. } if Arc::ptr_eq(&old.0, &first)));
        let key = "a".to_owned();
        assert_eq!(set.read(&key, |entry| Arc::ptr_eq(&entry.0, &second)), Some(true));
        assert!(set.remove_if(&key, |entry| Arc::ptr_eq(&entry.0, &first)).is_none());
        assert!(set.remove_if(&key, |entry| Arc::ptr_eq(&entry.0, &second)).is_some());
        assert!(set.read(&key, |_| ()).is_none());
    }
}
