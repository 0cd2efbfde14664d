//! Last-seen tick, phase and pause flag of a peer, in one atomic word.
//!
//! Invariant: `late_frame_beats_reaper`
//! - Statement: the reaper decides and removes in one conditional step, and a late frame wins.
//! - Enforced by: [`Liveness::disconnect_if`] exchanges the very word that was examined. A frame
//!   that arrived in between has changed it.
//! - Breaks if: the examined word and the exchanged word differ.
//!
//! Invariant: `complete_frame_refreshes_last_seen`
//! - Statement: last-seen never moves back.
//! - Enforced by: [`Liveness::seen`] only raises the tick.
//! - Breaks if: a store replaces the compare-exchange.

use crate::base::Tick;
use crate::sync::atomic::{AtomicU64, Ordering};

use super::DisconnectReason;

const TICK_SHIFT: u32 = 16;
const REASON_SHIFT: u32 = 8;
const DISCONNECTED: u64 = 1;
const PAUSED: u64 = 2;
/// All bits below the tick.
const FLAGS_MASK: u64 = (1 << TICK_SHIFT) - 1;

/// Result of [`Peer::seen`](super::Peer::seen).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the connection of a disconnected peer should be dropped"]
pub enum SeenOutcome {
    /// The peer is live, and its last-seen is now at least this tick.
    Alive,
    /// The peer disconnected before this frame was counted.
    Disconnected,
}

/// Phase of a peer's life. It changes once, from live to disconnected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Connected.
    Live,
    /// Disconnected, for this reason.
    Disconnected(DisconnectReason),
}

/// Bits 16..64: last-seen tick. Bits 8..16: reason. Bit 1: paused by this node. Bit 0:
/// disconnected.
///
/// The word is the authority for all four. Nothing else is published through it (the map shard's
/// lock does that), so `seen` may be relaxed: the word's own modification order decides its races.
#[derive(Debug)]
pub(super) struct Liveness(AtomicU64);

/// One reading of [`Liveness`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LivenessReading(u64);

impl Liveness {
    pub(super) fn new(now: Tick) -> Self {
        Self(AtomicU64::new(now.as_millis() << TICK_SHIFT))
    }

    /// A relaxed reading: a hint until an exchange on it succeeds.
    pub(super) fn read(&self) -> LivenessReading {
        LivenessReading(self.0.load(Ordering::Relaxed))
    }

    /// A reading that also sees what the disconnecting thread did before.
    pub(super) fn read_phase(&self) -> LivenessReading {
        // Acquire: pairs with the release in `disconnect` and `disconnect_if`.
        LivenessReading(self.0.load(Ordering::Acquire))
    }

    #[inline]
    pub(super) fn seen(&self, now: Tick) -> SeenOutcome {
        let tick = now.as_millis() << TICK_SHIFT;
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            if word & DISCONNECTED != 0 {
                return SeenOutcome::Disconnected;
            }
            // The flags are below the tick, so they do not change the comparison.
            if word >= tick {
                return SeenOutcome::Alive;
            }
            let later = tick | word & FLAGS_MASK;
            // Relaxed: races with `disconnect_if` are decided by this word alone.
            match self.0.compare_exchange_weak(word, later, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return SeenOutcome::Alive,
                Err(other) => word = other,
            }
        }
    }

    /// Disconnects a live peer, whatever else its word contains. False if it was disconnected
    /// already.
    pub(super) fn disconnect(&self, reason: DisconnectReason) -> bool {
        let mut word = self.0.load(Ordering::Relaxed);
        while word & DISCONNECTED == 0 {
            // Release: pairs with the acquire in `read_phase`.
            let after = disconnected(word, reason);
            match self.0.compare_exchange_weak(word, after, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(other) => word = other,
            }
        }
        false
    }

    /// Disconnects a live peer only if its word is still the one that was examined.
    pub(super) fn disconnect_if(&self, examined: LivenessReading, reason: DisconnectReason) -> bool {
        let after = disconnected(examined.0, reason);
        // Release: pairs with the acquire in `read_phase`.
        examined.is_live()
            && self.0.compare_exchange(examined.0, after, Ordering::Release, Ordering::Relaxed).is_ok()
    }

    pub(super) fn pause(&self) {
        // Relaxed: a hint to the sweep, which exchanges the word it examined.
        self.0.fetch_or(PAUSED, Ordering::Relaxed);
    }

    /// Ends the pause and marks the peer as seen in the same step: silence during the pause does
    /// not count.
    pub(super) fn resume(&self, now: Tick) {
        let mut word = self.0.load(Ordering::Relaxed);
        while word & DISCONNECTED == 0 {
            let tick = (word >> TICK_SHIFT).max(now.as_millis());
            let resumed = tick << TICK_SHIFT | word & FLAGS_MASK & !PAUSED;
            match self.0.compare_exchange_weak(word, resumed, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(other) => word = other,
            }
        }
    }
}

impl LivenessReading {
    pub(super) fn last_seen(self) -> Tick {
        Tick::from_millis(self.0 >> TICK_SHIFT)
    }

    pub(super) fn is_live(self) -> bool {
        self.0 & DISCONNECTED == 0
    }

    pub(super) fn is_paused(self) -> bool {
        self.0 & PAUSED != 0
    }

    pub(super) fn phase(self) -> Phase {
        if self.is_live() {
            return Phase::Live;
        }
        let index = (self.0 >> REASON_SHIFT & 0xFF) as usize;
        Phase::Disconnected(DisconnectReason::ALL.get(index).copied().unwrap_or(DisconnectReason::Closed))
    }
}

fn disconnected(word: u64, reason: DisconnectReason) -> u64 {
    word & !(0xFF << REASON_SHIFT) | (reason.index() as u64) << REASON_SHIFT | DISCONNECTED
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    fn tick(millis: u64) -> Tick {
        Tick::from_millis(millis)
    }

    #[test]
    fn last_seen_never_moves_back() {
        let liveness = Liveness::new(tick(10));
        assert_eq!(liveness.seen(tick(20)), SeenOutcome::Alive);
        assert_eq!(liveness.seen(tick(15)), SeenOutcome::Alive);
        assert_eq!(liveness.read().last_seen(), tick(20));
        assert_eq!(liveness.seen(Tick::MAX), SeenOutcome::Alive);
        assert_eq!(liveness.read().last_seen(), Tick::MAX);
        assert!(liveness.read().is_live());
    }

    #[test]
    fn a_disconnect_is_final_and_keeps_its_first_reason() {
        let liveness = Liveness::new(tick(1));
        for reason in DisconnectReason::ALL {
            let fresh = Liveness::new(tick(7));
            assert!(fresh.disconnect(reason));
            assert_eq!(fresh.read().phase(), Phase::Disconnected(reason));
            assert_eq!(fresh.read().last_seen(), tick(7));
        }
        assert!(liveness.disconnect(DisconnectReason::Lost));
        assert!(!liveness.disconnect(DisconnectReason::Banned));
        assert_eq!(liveness.seen(tick(5)), SeenOutcome::Disconnected);
        liveness.resume(tick(9));
        assert_eq!(liveness.read().phase(), Phase::Disconnected(DisconnectReason::Lost));
    }

    #[test]
    fn a_conditional_disconnect_fails_once_the_word_changed() {
        let liveness = Liveness::new(tick(1));
        let examined = liveness.read();
        assert_eq!(liveness.seen(tick(2)), SeenOutcome::Alive);
        assert!(!liveness.disconnect_if(examined, DisconnectReason::Stale));
        let examined = liveness.read();
        liveness.pause();
        assert!(!liveness.disconnect_if(examined, DisconnectReason::Stale));
        assert!(liveness.disconnect_if(liveness.read(), DisconnectReason::Stale));
        assert!(!liveness.disconnect_if(liveness.read(), DisconnectReason::Stale));
    }

    #[test]
    fn resume_clears_the_pause_and_raises_last_seen() {
        let liveness = Liveness::new(tick(1));
        liveness.pause();
        assert_eq!(liveness.seen(tick(3)), SeenOutcome::Alive);
        assert!(liveness.read().is_paused());
        liveness.resume(tick(100));
        assert!(!liveness.read().is_paused());
        assert_eq!(liveness.read().last_seen(), tick(100));
    }
}
