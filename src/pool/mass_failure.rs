//! The windows in which the fault was ours: more than half of the peers failed.
//!
//! **Statement** (32): one host that connects, fails and leaves, as often as it likes, makes no storm. **Enforced by**
//! counting on both sides whoever was connected in the window: who failed and left is one of those that were there, and
//! one that had also come within the window is forgotten when it leaves. **Breaks if** a peer that has failed leaves
//! without [`MassFailure::left`].

use std::cmp::Ordering::{Equal, Greater, Less};

use crate::sync::atomic::{AtomicU64, Ordering};

/// Counts the peers that failed in the present window, and remembers the windows in which they were too many.
#[derive(Debug)]
pub(super) struct MassFailure {
    /// Peers that failed in the window, those that left since included.
    failing: Tally,
    /// Of those the ones that left.
    gone: Tally,
    /// Number + 1 of a window that was a storm, at its number modulo the length. Older ones are forgotten, when what
    /// they took has mostly recovered by itself.
    stormy: [AtomicU64; REMEMBERED],
}

impl MassFailure {
    pub(super) fn new() -> Self {
        let stormy = std::array::from_fn(|_| AtomicU64::new(0));
        Self { failing: Tally::new(), gone: Tally::new(), stormy }
    }

    pub(super) fn contains(&self, window: u64) -> bool {
        // Relaxed: the number says it all; a reader that misses a storm just declared reads it the next time.
        self.stormy[window as usize % REMEMBERED].load(Ordering::Relaxed) == window + 1
    }

    /// Counts one more failing peer, one of so many live ones; says whether that makes the window a storm.
    pub(super) fn count(&self, window: u64, live: u64, quorum: u32) -> bool {
        // A window that is already over: too late to tell.
        let Some(failing) = self.failing.raise(window) else { return false };
        let peers = live.saturating_add(self.gone.get(window));
        let storm = failing >= u64::from(quorum) && failing * 2 > peers;
        if storm {
            self.stormy[window as usize % REMEMBERED].store(window + 1, Ordering::Relaxed);
        }
        storm
    }

    /// A peer that failed in this window has departed; `fresh`: it had come in this window, too.
    pub(super) fn left(&self, window: u64, fresh: bool) {
        if fresh {
            self.failing.lower(window);
        } else if self.failing.is_of(window) {
            // Asked, because a word from before the windows changed may name one that is yet to come.
            let _ = self.gone.raise(window);
        }
    }
}

/// A number that belongs to one window, and is zero at the beginning of each.
///
/// Bits 0..24: the number. Bits 24..64: the window's. The word says it all, so all accesses are relaxed.
#[derive(Debug)]
struct Tally(AtomicU64);

impl Tally {
    fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// One more; the number then. `None` if the window is over.
    fn raise(&self, window: u64) -> Option<u64> {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let count = match (word >> BITS).cmp(&number(window)) {
                Less => 1,
                Equal => (word & MOST).min(MOST - 1) + 1,
                Greater => return None,
            };
            let new = number(window) << BITS | count;
            match self.0.compare_exchange_weak(word, new, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(count),
                Err(other) => word = other,
            }
        }
    }

    /// One less, if it is this window's. What is to be raised a moment later by another thread may stay one too high: once
    /// a window at the most, since the next is taken from that.
    fn lower(&self, window: u64) {
        let mut word = self.0.load(Ordering::Relaxed);
        while word >> BITS == number(window) && word & MOST > 0 {
            match self.0.compare_exchange_weak(word, word - 1, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(other) => word = other,
            }
        }
    }

    fn is_of(&self, window: u64) -> bool {
        self.0.load(Ordering::Relaxed) >> BITS == number(window)
    }

    fn get(&self, window: u64) -> u64 {
        let word = self.0.load(Ordering::Relaxed);
        if word >> BITS == number(window) { word & MOST } else { 0 }
    }
}

fn number(window: u64) -> u64 {
    window & (u64::MAX >> BITS)
}

const BITS: u32 = 24;
const MOST: u64 = (1 << BITS) - 1;
#[cfg(not(peerpool_loom))]
const REMEMBERED: usize = 32;
#[cfg(peerpool_loom)]
const REMEMBERED: usize = 2;

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_tally_is_zero_in_each_new_window_and_no_late_change_touches_it() {
        let tally = Tally::new();
        assert_eq!((tally.get(0), tally.raise(0), tally.raise(0)), (0, Some(1), Some(2)));
        assert_eq!((tally.raise(7), tally.raise(6), tally.get(6), tally.get(7)), (Some(1), None, 0, 1));
        tally.lower(6);
        tally.lower(8);
        assert_eq!(tally.get(7), 1);
        (0..3).for_each(|_| tally.lower(7));
        assert_eq!((tally.get(7), tally.raise(7)), (0, Some(1)));
    }

    #[test]
    fn who_leaves_with_a_failure_of_a_window_to_come_is_not_counted_in_it() {
        let storms = MassFailure::new();
        storms.left(500, false);
        assert!(!storms.count(3, 5, 3) && !storms.count(3, 5, 3));
        storms.left(3, false);
        assert!(!storms.count(3, 5, 3), "three of six");
        assert!(storms.count(3, 5, 3), "four of six");
    }
}
