//! The list of list: many put themselves on it, and whoever has news takes some off.
//!
//! It is a ring buffer under one short lock, not a lock-free queue: such a queue lives in blocks, and so asks for memory
//! again and again as list come and go. This one has a place for every link from the time the link joins, so that
//! falling asleep asks for none. What that costs: two links that fall asleep at once wait for each other for as long as
//! a push takes, some 20 ns beside the system call each of them comes from; and where the system stops a thread inside, the
//! others wait in the kernel until it goes on. Nothing is dropped or woken under the lock.

use std::collections::VecDeque;

use crossbeam_utils::CachePadded;
use smallvec::SmallVec;

use crate::sync::Mutex;
use crate::sync::atomic::{AtomicUsize, Ordering};

/// Entries that are taken under one lock.
pub(super) const MAX_TAKEN: usize = 16;

/// What was taken at once.
pub(super) type Taken<T> = SmallVec<[T; MAX_TAKEN]>;

/// A list of list, in the order in which they fell asleep.
#[derive(Debug)]
pub(super) struct WakeList<T> {
    /// The length of the list, for whoever only asks whether it is empty. Written under the lock.
    len: CachePadded<AtomicUsize>,
    list: CachePadded<Mutex<List<T>>>,
}

#[derive(Debug)]
struct List<T> {
    entries: VecDeque<T>,
    /// How many may want to be on the list at a time.
    places: usize,
}

impl<T> WakeList<T> {
    pub(super) fn new() -> Self {
        let list = List { entries: VecDeque::new(), places: 0 };
        Self { len: CachePadded::new(AtomicUsize::new(0)), list: CachePadded::new(Mutex::new(list)) }
    }

    /// How many are on the list. A relaxed load: who needs to see a push brings the fences.
    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Makes a place for one more.
    ///
    /// # Cost
    /// One short lock; amortised O(1): the list grows by an eighth.
    pub(super) fn reserve(&self) {
        let mut list = self.list.lock();
        list.places += 1;
        if list.places > list.entries.capacity() {
            // By an eighth: most of what is doubled would be in vain.
            let room = list.places + (list.places / 8).max(MIN_RESERVED);
            let missing = room.saturating_sub(list.entries.len());
            list.entries.reserve_exact(missing);
        }
    }

    /// Takes back a place. Memory that has become far too large is given back.
    ///
    /// # Cost
    /// One short lock; amortised O(1): it shrinks by half at least.
    pub(super) fn unreserve(&self) {
        let mut list = self.list.lock();
        list.places = list.places.saturating_sub(1);
        let enough = 2 * list.places.max(MIN_RESERVED);
        if list.entries.capacity() > 2 * enough {
            list.entries.shrink_to(enough);
        }
    }

    /// Puts an entry at the end.
    ///
    /// # Cost
    /// One short lock; no allocation unless more are on the list than there are places.
    pub(super) fn push(&self, entry: T) {
        let mut list = self.list.lock();
        list.entries.push_back(entry);
        self.len.store(list.entries.len(), Ordering::Relaxed);
    }

    /// Takes up to `most` of the oldest entries, and no more than a handful.
    ///
    /// # Cost
    /// One short lock; no allocation.
    pub(super) fn take(&self, most: usize) -> Taken<T> {
        let mut list = self.list.lock();
        let count = most.min(MAX_TAKEN).min(list.entries.len());
        let taken = list.entries.drain(..count).collect();
        self.len.store(list.entries.len(), Ordering::Relaxed);
        taken
    }

    #[cfg(all(test, not(peerpool_loom)))]
    pub(super) fn capacity(&self) -> usize {
        self.list.lock().entries.capacity()
    }
}

/// Places whose memory is never given back.
const MIN_RESERVED: usize = 64;

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn entries_come_out_in_order_by_the_handful() {
        let list = WakeList::new();
        (0..40).for_each(|n| list.push(n));
        assert_eq!(list.len(), 40);
        assert_eq!(list.take(3).to_vec(), [0, 1, 2]);
        assert_eq!(list.take(usize::MAX).to_vec(), (3..19).collect::<Vec<_>>());
        assert_eq!(list.take(usize::MAX).len() + list.take(usize::MAX).len(), 21);
        assert!(list.take(1).is_empty());
        assert_eq!(list.len(), 0);
    }

    #[test]
    fn a_list_with_a_place_for_everybody_keeps_its_memory_however_often_they_come_and_go() {
        let list = WakeList::new();
        (0..1000).for_each(|_| list.reserve());
        let capacity = list.capacity();
        for round in 0..100 {
            (0..1000).for_each(|n| list.push(n));
            // Some stay, so that the ring turns.
            while list.len() > round % 3 {
                assert!(!list.take(7).is_empty());
            }
            while list.len() > 0 {
                list.take(1);
            }
            assert_eq!(list.capacity(), capacity);
        }
    }

    #[test]
    fn after_a_crowd_has_left_its_memory_is_given_back() {
        let list = WakeList::new();
        for _ in 0..19_000 {
            list.reserve();
            list.push(0u64);
        }
        assert!(list.capacity() < 4 * 19_000);
        while !list.take(16).is_empty() {}
        for left in (0..19_000).rev() {
            list.unreserve();
            assert!(list.capacity() <= 4 * left.max(MIN_RESERVED), "{} for {left}", list.capacity());
        }
    }
}
