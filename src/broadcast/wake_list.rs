//! The list of sleeping connections: many add themselves, and a producer takes some off.
//!
//! It is a ring buffer under one short lock, not a lock-free queue. Such a queue lives in blocks,
//! and allocates again and again as connections come and go. This list reserves an entry for each
//! connection when the connection joins, so going to sleep allocates nothing.
//!
//! The price: two connections that go to sleep at once wait for each other for as long as a push
//! takes, some 20 ns beside the system call that each of them comes from. If the system stops a
//! thread inside, the others wait in the kernel until it continues. Nothing is dropped or woken
//! under the lock.

use std::collections::VecDeque;

use crossbeam_utils::CachePadded;
use smallvec::SmallVec;

use crate::sync::Mutex;
use crate::sync::atomic::{AtomicUsize, Ordering};

/// Most entries that are taken under one lock.
pub(super) const MAX_TAKEN: usize = 16;
/// Reserved entries whose memory is never given back.
const MIN_RESERVED: usize = 64;

/// The entries that were taken under one lock.
pub(super) type Taken<T> = SmallVec<[T; MAX_TAKEN]>;

/// A list of sleeping connections, in the order in which they went to sleep.
#[derive(Debug)]
pub(super) struct WakeList<T> {
    /// The length of the list, to be read without the lock. Written under the lock.
    len: CachePadded<AtomicUsize>,
    list: CachePadded<Mutex<List<T>>>,
}

#[derive(Debug)]
struct List<T> {
    entries: VecDeque<T>,
    /// How many entries may be on the list at once.
    reserved: usize,
}

impl<T> WakeList<T> {
    pub(super) fn new() -> Self {
        let list = List { entries: VecDeque::new(), reserved: 0 };
        Self { len: CachePadded::new(AtomicUsize::new(0)), list: CachePadded::new(Mutex::new(list)) }
    }

    /// Entries on the list. A relaxed load: a caller that needs to see a push brings the fences.
    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Reserves memory for one more entry.
    ///
    /// # Cost
    /// One short lock; amortised O(1): the list grows by an eighth.
    pub(super) fn reserve(&self) {
        let mut list = self.list.lock();
        list.reserved += 1;
        if list.reserved > list.entries.capacity() {
            // By an eighth: doubling would waste most of what it adds.
            let capacity = list.reserved + (list.reserved / 8).max(MIN_RESERVED);
            let missing = capacity.saturating_sub(list.entries.len());
            list.entries.reserve_exact(missing);
        }
    }

    /// Takes back one reservation. Frees memory if far too much is reserved.
    ///
    /// # Cost
    /// One short lock; amortised O(1): the list shrinks by half at least.
    pub(super) fn unreserve(&self) {
        let mut list = self.list.lock();
        list.reserved = list.reserved.saturating_sub(1);
        let enough = 2 * list.reserved.max(MIN_RESERVED);
        if list.entries.capacity() > 2 * enough {
            list.entries.shrink_to(enough);
        }
    }

    /// Adds an entry at the end.
    ///
    /// # Cost
    /// One short lock; allocates only if the list has more entries than are reserved.
    pub(super) fn push(&self, entry: T) {
        let mut list = self.list.lock();
        list.entries.push_back(entry);
        self.len.store(list.entries.len(), Ordering::Relaxed);
    }

    /// Takes up to `max` of the oldest entries, [`MAX_TAKEN`] at most.
    ///
    /// # Cost
    /// One short lock; no allocation.
    pub(super) fn take(&self, max: usize) -> Taken<T> {
        let mut list = self.list.lock();
        let count = max.min(MAX_TAKEN).min(list.entries.len());
        let taken = list.entries.drain(..count).collect();
        self.len.store(list.entries.len(), Ordering::Relaxed);
        taken
    }

    #[cfg(all(test, not(peerpool_loom)))]
    fn capacity(&self) -> usize {
        self.list.lock().entries.capacity()
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn entries_are_taken_in_order_and_at_most_sixteen_at_once() {
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
    fn a_list_with_reserved_entries_never_reallocates_as_entries_come_and_go() {
        let list = WakeList::new();
        (0..1000).for_each(|_| list.reserve());
        let capacity = list.capacity();
        for round in 0..100 {
            (0..1000).for_each(|n| list.push(n));
            // Some stay, so that the ring buffer turns.
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
    fn memory_is_freed_after_many_connections_have_left() {
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
