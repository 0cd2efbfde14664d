//! The memory ceiling: one counter for everything that peers can make us hold.

use std::sync::Arc;

use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Limits the bytes that are held for all peers together: inboxes, outboxes, reassembly, partial
/// chunks.
///
/// Invariant: `everything_is_bounded`, `stuck_connection_pins_a_bounded_copy`
/// Statement: the sum of all live [`MemoryReservation`]s does not exceed the limit that was in
/// force when the last of them was granted. Exceptions are what connections have read already at
/// the ceiling, less than two frames each, and one read buffer where the last room went while it
/// was being decoded.
/// Enforced by: a reservation is one compare-exchange loop on the sum, before the bytes are held.
/// Overdrawn bytes count, so nothing more is granted, and near the ceiling a connection reads one
/// frame at a time.
/// Breaks if: peer-given bytes are held without a reservation, or are overdrawn where they could
/// have been refused.
#[derive(Debug)]
pub struct MemoryBudget {
    limit: AtomicUsize,
    used: AtomicUsize,
    refused: AtomicU64,
}

impl MemoryBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit: AtomicUsize::new(limit),
            used: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
        })
    }

    /// Bytes that are reserved now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// The ceiling in bytes.
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Bytes that could be reserved now.
    pub fn free(&self) -> usize {
        self.limit().saturating_sub(self.used())
    }

    /// How often a reservation was refused. A rising number means that the ceiling is too low for
    /// this many peers.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Changes the ceiling. Reservations stay; nothing more is granted until the sum is below the
    /// new one.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Reserves `bytes`; `None` if the ceiling does not allow it.
    pub fn reserve(self: &Arc<Self>, bytes: usize) -> Option<MemoryReservation> {
        let mut reservation = MemoryReservation { budget: Arc::clone(self), bytes: 0 };
        reservation.resize(bytes).then_some(reservation)
    }

    fn take(&self, bytes: usize) -> bool {
        // Relaxed: the sum is a count and guards no other data.
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|sum| *sum <= self.limit.load(Ordering::Relaxed))
        });
        if taken.is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        taken.is_ok()
    }
}

/// Bytes held against a [`MemoryBudget`]; dropping it gives them back.
#[derive(Debug)]
pub struct MemoryReservation {
    budget: Arc<MemoryBudget>,
    bytes: usize,
}

impl MemoryReservation {
    /// An empty reservation, to grow later.
    pub fn empty(budget: &Arc<MemoryBudget>) -> Self {
        Self { budget: Arc::clone(budget), bytes: 0 }
    }

    /// The bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Moves up to `bytes` to another reservation of the same budget. The sum does not change.
    pub fn give(&mut self, bytes: usize, to: &mut Self) {
        debug_assert!(Arc::ptr_eq(&self.budget, &to.budget), "reservations of two budgets");
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        to.bytes += bytes;
    }

    /// Grows or shrinks to `bytes`, which are held already, even above the ceiling. Nothing more is
    /// granted until the sum is below the ceiling again.
    pub(super) fn overdraw(&mut self, bytes: usize) {
        if bytes > self.bytes {
            self.budget.used.fetch_add(bytes - self.bytes, Ordering::Relaxed);
            self.bytes = bytes;
        } else {
            self.resize(bytes);
        }
    }

    /// Grows or shrinks to `bytes`. Returns `false` and changes nothing if the ceiling does not
    /// allow the growth.
    pub fn resize(&mut self, bytes: usize) -> bool {
        if bytes > self.bytes {
            if !self.budget.take(bytes - self.bytes) {
                return false;
            }
        } else if bytes < self.bytes {
            self.budget.used.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
        true
    }
}

impl Drop for MemoryReservation {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_holds_and_released_bytes_return() {
        let budget = MemoryBudget::new(100);
        let mut first = budget.reserve(60).unwrap();
        assert!(budget.reserve(41).is_none());
        assert_eq!(budget.refused(), 1);
        assert!(!first.resize(101));
        assert_eq!(first.bytes(), 60);
        assert!(first.resize(100));
        assert!(first.resize(1));
        assert_eq!(budget.used(), 1);
        drop(first);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn overdrawn_bytes_count_until_they_are_released() {
        let budget = MemoryBudget::new(100);
        let (mut one, mut other) = (budget.reserve(60).unwrap(), MemoryReservation::empty(&budget));
        other.overdraw(70);
        assert_eq!((other.bytes(), budget.used(), budget.free()), (70, 130, 0));
        assert!(!one.resize(61) && one.resize(20));
        assert!(budget.reserve(11).is_none());
        other.overdraw(10);
        assert_eq!((other.bytes(), budget.used()), (10, 30));
    }

    #[test]
    fn moving_bytes_between_reservations_keeps_the_sum() {
        let budget = MemoryBudget::new(100);
        let (mut one, mut other) = (budget.reserve(60).unwrap(), MemoryReservation::empty(&budget));
        budget.set_limit(10);
        one.give(50, &mut other);
        assert_eq!((one.bytes(), other.bytes(), budget.used()), (10, 50, 60));
        one.give(50, &mut other);
        assert_eq!((one.bytes(), other.bytes(), budget.used()), (0, 60, 60));
        drop(other);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_lower_ceiling_keeps_reservations_and_grants_nothing_more() {
        let budget = MemoryBudget::new(100);
        let held = budget.reserve(80).unwrap();
        budget.set_limit(50);
        assert!(budget.reserve(1).is_none());
        drop(held);
        assert!(budget.reserve(50).is_some());
    }
}
