//! Mass failures: windows in which more than half of the peers failed, so that the fault is this
//! node's own.
//!
//! Invariant: `own_stall_is_not_a_peers_silence`
//! - Statement: in a window in which more than half of the peers fail, no peer is penalised. One
//!   host that connects, fails and leaves again and again causes no such window.
//! - Enforced by: both sides of the comparison count the peers that were connected in the window. A
//!   peer that failed and left stays counted on both sides; one that also connected within the
//!   window is forgotten when it leaves.
//! - Breaks if: a peer that has failed leaves without [`MassFailure::peer_left`].

use std::cmp::Ordering::{Equal, Greater, Less};

use crate::sync::atomic::{AtomicU64, Ordering};

/// Bits of a [`WindowCounter`] that hold its count.
const COUNT_BITS: u32 = 24;
const MAX_COUNT: u64 = (1 << COUNT_BITS) - 1;
/// Mass-failure windows that are remembered.
#[cfg(not(peerpool_loom))]
const REMEMBERED_WINDOWS: usize = 32;
#[cfg(peerpool_loom)]
const REMEMBERED_WINDOWS: usize = 2;

/// Counts the peers that fail in the present window, and remembers the windows of mass failure.
#[derive(Debug)]
pub(super) struct MassFailure {
    /// Peers that failed in the window, including those that left since.
    failing: WindowCounter,
    /// The ones among them that left.
    left: WindowCounter,
    /// Number + 1 of a mass-failure window, at its number modulo the length. Older windows are
    /// forgotten; by then most of the health they took has recovered by itself.
    windows: [AtomicU64; REMEMBERED_WINDOWS],
}

impl MassFailure {
    pub(super) fn new() -> Self {
        let windows = std::array::from_fn(|_| AtomicU64::new(0));
        Self { failing: WindowCounter::new(), left: WindowCounter::new(), windows }
    }

    /// Whether this window is one of mass failure.
    pub(super) fn contains(&self, window: u64) -> bool {
        // Relaxed: the number is the whole message. A reader that misses a window declared just now
        // sees it next time.
        self.windows[window as usize % REMEMBERED_WINDOWS].load(Ordering::Relaxed) == window + 1
    }

    /// Counts one more failing peer among `live` live ones. Returns whether this makes the window
    /// one of mass failure.
    pub(super) fn count(&self, window: u64, live: u64, quorum: u32) -> bool {
        // A window that is over is not examined any more.
        let Some(failing) = self.failing.raise(window) else { return false };
        let peers = live.saturating_add(self.left.get(window));
        let is_mass_failure = failing >= u64::from(quorum) && failing * 2 > peers;
        if is_mass_failure {
            self.windows[window as usize % REMEMBERED_WINDOWS].store(window + 1, Ordering::Relaxed);
        }
        is_mass_failure
    }

    /// A peer that failed in this window disconnected. `connected_in_window`: it also connected in
    /// this window.
    pub(super) fn peer_left(&self, window: u64, connected_in_window: bool) {
        if connected_in_window {
            self.failing.lower(window);
        } else if self.failing.is_of(window) {
            // The check matters: a health word from before a change of the window's length may name
            // a future window.
            let _ = self.left.raise(window);
        }
    }
}

/// A count that belongs to one window and starts at zero in each.
///
/// Bits 0..24: the count. Bits 24..64: the window's number. The word is the whole state, so all
/// accesses are relaxed.
#[derive(Debug)]
struct WindowCounter(AtomicU64);

impl WindowCounter {
    fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds one and returns the new count. `None` if the window is over.
    fn raise(&self, window: u64) -> Option<u64> {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let count = match (word >> COUNT_BITS).cmp(&truncated(window)) {
                Less => 1,
                Equal => (word & MAX_COUNT).min(MAX_COUNT - 1) + 1,
                Greater => return None,
            };
            let new = truncated(window) << COUNT_BITS | count;
            match self.0.compare_exchange_weak(word, new, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(count),
                Err(other) => word = other,
            }
        }
    }

    /// Subtracts one if the count belongs to this window. If another thread raises the count a
    /// moment later, it may stay one too high, once per window.
    fn lower(&self, window: u64) {
        let mut word = self.0.load(Ordering::Relaxed);
        while word >> COUNT_BITS == truncated(window) && word & MAX_COUNT > 0 {
            match self.0.compare_exchange_weak(word, word - 1, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(other) => word = other,
            }
        }
    }

    fn is_of(&self, window: u64) -> bool {
        self.0.load(Ordering::Relaxed) >> COUNT_BITS == truncated(window)
    }

    fn get(&self, window: u64) -> u64 {
        let word = self.0.load(Ordering::Relaxed);
        if word >> COUNT_BITS == truncated(window) { word & MAX_COUNT } else { 0 }
    }
}

/// A window's number in the bits that a counter has for it.
fn truncated(window: u64) -> u64 {
    window & (u64::MAX >> COUNT_BITS)
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_counter_restarts_in_each_window_and_ignores_past_ones() {
        let counter = WindowCounter::new();
        assert_eq!((counter.get(0), counter.raise(0), counter.raise(0)), (0, Some(1), Some(2)));
        assert_eq!(
            (counter.raise(7), counter.raise(6), counter.get(6), counter.get(7)),
            (Some(1), None, 0, 1)
        );
        counter.lower(6);
        counter.lower(8);
        assert_eq!(counter.get(7), 1);
        (0..3).for_each(|_| counter.lower(7));
        assert_eq!((counter.get(7), counter.raise(7)), (0, Some(1)));
    }

    #[test]
    fn a_failure_dated_in_a_future_window_is_not_counted() {
        let failures = MassFailure::new();
        failures.peer_left(500, false);
        assert!(!failures.count(3, 5, 3) && !failures.count(3, 5, 3));
        failures.peer_left(3, false);
        assert!(!failures.count(3, 5, 3), "three of six");
        assert!(failures.count(3, 5, 3), "four of six");
    }
}
