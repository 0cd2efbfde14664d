//! Last seen and phase of a peer, in one word.
//!
//! **Statement** (29): the reaper decides and removes in one conditional step; a late frame wins. **Enforced by**:
//! [`Liveness::depart_if`] exchanges the very word that was judged; a frame that came in between has changed it.
//! **Breaks if** anything is judged from another word than the one exchanged.
//!
//! **Statement** (28): last-seen never moves back. **Enforced by** [`Liveness::seen`], which only ever raises the tick.

use crate::base::Tick;
use crate::sync::atomic::{AtomicU64, Ordering};

use super::DisconnectReason;

/// Whether a frame still counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a departed peer's connection should be dropped"]
pub enum SeenOutcome {
    /// The peer is live and its last-seen is now at least this tick.
    Alive,
    /// The peer departed before this frame was counted.
    Disconnected,
}

/// Where a peer is in its life. It goes one way only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Connected.
    Live,
    /// Left, for this reason.
    Disconnected(DisconnectReason),
}

/// Bits 16..64: last-seen tick. Bits 8..16: reason. Bit 1: paused by us. Bit 0: departed.
///
/// This word is the authority for both. Nothing else is published through it (the map's shard lock does that), so
/// `seen` may be relaxed: what it races with is decided by the word's own modification order.
#[derive(Debug)]
pub(super) struct Liveness(AtomicU64);

/// One reading of [`Liveness`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading(u64);

impl Liveness {
    pub(super) fn new(now: Tick) -> Self {
        Self(AtomicU64::new(now.as_millis() << TICK))
    }

    /// A relaxed reading: a hint, until an exchange on it succeeds.
    pub(super) fn read(&self) -> Reading {
        Reading(self.0.load(Ordering::Relaxed))
    }

    /// A reading that also sees what the departing thread did before it departed the peer.
    pub(super) fn read_phase(&self) -> Reading {
        // Acquire: pairs with the release in `depart` and `depart_if`.
        Reading(self.0.load(Ordering::Acquire))
    }

    #[inline]
    pub(super) fn seen(&self, now: Tick) -> SeenOutcome {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            if word & DEPARTED != 0 {
                return SeenOutcome::Disconnected;
            }
            if word >> TICK >= now.as_millis() {
                return SeenOutcome::Alive;
            }
            let later = now.as_millis() << TICK | word & FLAGS;
            // Relaxed: races with `depart_if` are decided by this word alone.
            match self.0.compare_exchange_weak(word, later, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return SeenOutcome::Alive,
                Err(other) => word = other,
            }
        }
    }

    /// Departs a live peer whatever else its word says; false if it had departed.
    pub(super) fn depart(&self, reason: DisconnectReason) -> bool {
        let mut word = self.0.load(Ordering::Relaxed);
        while word & DEPARTED == 0 {
            // Release: pairs with the acquire in `read_phase`.
            let departed = departed(word, reason);
            match self.0.compare_exchange_weak(word, departed, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(other) => word = other,
            }
        }
        false
    }

    /// Departs a live peer only if its word is still the one that was judged.
    pub(super) fn depart_if(&self, judged: Reading, reason: DisconnectReason) -> bool {
        // Release: pairs with the acquire in `read_phase`.
        judged.is_live()
            && self
                .0
                .compare_exchange(judged.0, departed(judged.0, reason), Ordering::Release, Ordering::Relaxed)
                .is_ok()
    }

    pub(super) fn pause(&self) {
        // Relaxed: a hint to the sweep, which exchanges the word it judged.
        self.0.fetch_or(PAUSED, Ordering::Relaxed);
    }

    /// Ends the pause and counts as seen in the same step: for the time of the pause the peer is not to blame.
    pub(super) fn resume(&self, now: Tick) {
        let mut word = self.0.load(Ordering::Relaxed);
        while word & DEPARTED == 0 {
            let tick = (word >> TICK).max(now.as_millis());
            let resumed = tick << TICK | word & FLAGS & !PAUSED;
            match self.0.compare_exchange_weak(word, resumed, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(other) => word = other,
            }
        }
    }
}

impl Reading {
    pub(super) fn last_seen(self) -> Tick {
        Tick::from_millis(self.0 >> TICK)
    }

    pub(super) fn is_live(self) -> bool {
        self.0 & DEPARTED == 0
    }

    pub(super) fn is_paused(self) -> bool {
        self.0 & PAUSED != 0
    }

    pub(super) fn phase(self) -> Phase {
        if self.is_live() {
            return Phase::Live;
        }
        let index = (self.0 >> REASON & 0xFF) as usize;
        Phase::Disconnected(DisconnectReason::ALL.get(index).copied().unwrap_or(DisconnectReason::Closed))
    }
}

fn departed(word: u64, reason: DisconnectReason) -> u64 {
    word & !(0xFF << REASON) | (reason.index() as u64) << REASON | DEPARTED
}

const TICK: u32 = 16;
const REASON: u32 = 8;
const DEPARTED: u64 = 1;
const PAUSED: u64 = 2;
const FLAGS: u64 = (1 << TICK) - 1;

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    fn tick(ms: u64) -> Tick {
        Tick::from_millis(ms)
    }

    #[test]
    fn last_seen_never_moves_back() {
        let vitals = Liveness::new(tick(10));
        assert_eq!(vitals.seen(tick(20)), SeenOutcome::Alive);
        assert_eq!(vitals.seen(tick(15)), SeenOutcome::Alive);
        assert_eq!(vitals.read().last_seen(), tick(20));
        assert_eq!(vitals.seen(Tick::MAX), SeenOutcome::Alive);
        assert_eq!(vitals.read().last_seen(), Tick::MAX);
        assert!(vitals.read().is_live());
    }

    #[test]
    fn a_departure_is_final_and_keeps_its_first_reason() {
        let vitals = Liveness::new(tick(1));
        for reason in DisconnectReason::ALL {
            let fresh = Liveness::new(tick(7));
            assert!(fresh.depart(reason));
            assert_eq!(fresh.read().phase(), Phase::Disconnected(reason));
            assert_eq!(fresh.read().last_seen(), tick(7));
        }
        assert!(vitals.depart(DisconnectReason::Lost));
        assert!(!vitals.depart(DisconnectReason::Banned));
        assert_eq!(vitals.seen(tick(5)), SeenOutcome::Disconnected);
        vitals.resume(tick(9));
        assert_eq!(vitals.read().phase(), Phase::Disconnected(DisconnectReason::Lost));
    }

    #[test]
    fn a_judgement_fails_once_the_word_moved() {
        let vitals = Liveness::new(tick(1));
        let judged = vitals.read();
        assert_eq!(vitals.seen(tick(2)), SeenOutcome::Alive);
        assert!(!vitals.depart_if(judged, DisconnectReason::Stale));
        let judged = vitals.read();
        vitals.pause();
        assert!(!vitals.depart_if(judged, DisconnectReason::Stale));
        assert!(vitals.depart_if(vitals.read(), DisconnectReason::Stale));
        assert!(!vitals.depart_if(vitals.read(), DisconnectReason::Stale));
    }

    #[test]
    fn a_resumed_peer_starts_afresh() {
        let vitals = Liveness::new(tick(1));
        vitals.pause();
        assert_eq!(vitals.seen(tick(3)), SeenOutcome::Alive);
        assert!(vitals.read().is_paused());
        vitals.resume(tick(100));
        assert!(!vitals.read().is_paused());
        assert_eq!(vitals.read().last_seen(), tick(100));
    }
}
