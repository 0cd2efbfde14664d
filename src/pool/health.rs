//! Health of a peer, 0 to 100, in one atomic word.
//!
//! ```text
//!   penalize(cause): health - price(cause), once per cause and window      reward: health + 5
//!   time:            health + 1 per recovery step, computed on read
//! ```
//!
//! Invariant: `penalties_are_limited_per_cause`
//! - Statement: penalties have typed causes, and each cause counts once per window. If more than
//!   half of the live peers fail within one window in a way that this node's own slowness explains
//!   (no answer, no answer in time), no peer is penalised for that. Other faults always count.
//! - Enforced by: the bitmap of causes is in the same word as the value and exchanged with it.
//!   [`MassFailure`] remembers the windows of mass failure; the next reader of a word adds back
//!   what it lost in such a window, so no walk over the peers is needed. The word holds that
//!   amount.
//! - Breaks if: points are subtracted without their bit, or the bits of a window outlive the stamp
//!   that dates them.

use std::sync::Arc;
use std::time::Duration;

use crate::base::Tick;
use crate::sync::atomic::{AtomicU64, Ordering};

use super::HealthPolicy;
use super::mass_failure::MassFailure;

const MAX_HEALTH: u64 = 100;
/// Milliseconds per unit of a stamp. The stamp's 32 bits span 13 years.
const STAMP_UNIT_MILLIS: u64 = 100;
const TWELVE_YEARS_IN_STAMPS: u64 = 12 * 365 * 24 * 3_600 * 1_000 / STAMP_UNIT_MILLIS;
const MIN_WINDOW_MILLIS: u64 = HealthPolicy::MIN_WINDOW.as_millis() as u64;
/// Windows that a stamp may lie before the causes that it dates.
const MAX_STAMP_LAG_WINDOWS: u64 = 16;
const POINTS_MASK: u64 = (1 << 7) - 1;
const TAKEN_SHIFT: u32 = 7;
const CAUSES_SHIFT: u32 = 14;
const CAUSES_MASK: u64 = (1 << 13) - 1;
/// The bits of [`Misbehavior::Unresponsive`] and [`Misbehavior::Timeout`].
const OURS_MASK: u64 = 1 << 0 | 1 << 1;
const WINDOW_SHIFT: u32 = 27;
const WINDOW_MASK: u64 = (1 << 5) - 1;
const STAMP_SHIFT: u32 = 32;
const _: () = assert!(MAX_STAMP_LAG_WINDOWS + STAMP_UNIT_MILLIS / MIN_WINDOW_MILLIS < WINDOW_MASK);

/// A fault of a peer. Each counts once per peer and window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Misbehavior {
    /// A ping was not answered.
    Unresponsive,
    /// A request was not answered in time.
    Timeout,
    /// The bytes are no valid message.
    Malformed,
    /// The message is not allowed at this point of the protocol.
    Protocol,
    /// The message is larger than the cap.
    Oversized,
    /// Messages arrive faster than the rate limit.
    Flood,
    /// The data turned out to be false.
    BadData,
    /// The request makes no sense.
    BadRequest,
    /// The peer never has what is requested.
    Useless,
    /// A fault that only the application can assess, by severity: 0 mild, 1 annoying, 2 bad, 3
    /// hostile. A larger number counts as 3.
    App(u8),
}

impl Misbehavior {
    /// Every cause, in order of [`Misbehavior::index`].
    pub const ALL: [Self; 13] = [
        Self::Unresponsive,
        Self::Timeout,
        Self::Malformed,
        Self::Protocol,
        Self::Oversized,
        Self::Flood,
        Self::BadData,
        Self::BadRequest,
        Self::Useless,
        Self::App(0),
        Self::App(1),
        Self::App(2),
        Self::App(3),
    ];

    /// Whether this node's own slowness can cause it.
    const fn may_be_ours(self) -> bool {
        self.bit() & OURS_MASK != 0
    }

    /// Position in [`Misbehavior::ALL`].
    pub const fn index(self) -> usize {
        match self {
            Self::Unresponsive => 0,
            Self::Timeout => 1,
            Self::Malformed => 2,
            Self::Protocol => 3,
            Self::Oversized => 4,
            Self::Flood => 5,
            Self::BadData => 6,
            Self::BadRequest => 7,
            Self::Useless => 8,
            Self::App(0) => 9,
            Self::App(1) => 10,
            Self::App(2) => 11,
            Self::App(_) => 12,
        }
    }

    /// The cause's bit in the bitmap of a health word.
    const fn bit(self) -> u64 {
        1 << self.index()
    }
}

/// Result of [`Peer::penalize`](super::Peer::penalize).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PenaltyOutcome {
    /// The fault counted.
    Counted {
        /// The remaining health.
        health: u8,
    },
    /// The cause has already counted in this window.
    AlreadyCounted,
    /// More than half of the live peers failed in this window: the fault is this node's own, and no
    /// peer is penalised for it.
    OurFault,
}

/// A [`HealthPolicy`] in the units of the health word, and the memory of its windows.
#[derive(Debug)]
pub(super) struct HealthRules {
    pub(super) policy: HealthPolicy,
    window_millis: u64,
    /// Stamps per recovered point.
    recovery_stamps: u64,
    /// Belongs to windows of this length. After a change of the length windows have other numbers;
    /// a thread that still uses the older rules counts in the older memory.
    mass_failures: Arc<MassFailure>,
}

impl HealthRules {
    pub(super) fn new(policy: HealthPolicy) -> Self {
        Self::with(policy, Arc::new(MassFailure::new()))
    }

    /// The rules of a changed policy.
    pub(super) fn changed(&self, policy: HealthPolicy) -> Self {
        if policy.window == self.policy.window {
            Self::with(policy, Arc::clone(&self.mass_failures))
        } else {
            Self::new(policy)
        }
    }

    fn with(policy: HealthPolicy, mass_failures: Arc<MassFailure>) -> Self {
        let window_millis = millis(policy.window.max(HealthPolicy::MIN_WINDOW)).min(1 << 32);
        let recovery_stamps = millis(policy.recovery_step).div_ceil(STAMP_UNIT_MILLIS).max(1);
        Self { policy, window_millis, recovery_stamps, mass_failures }
    }

    fn window_at(&self, now: Tick) -> u64 {
        now.as_millis() / self.window_millis
    }

    /// The window in which the causes of a word with this stamp were counted. `None` without
    /// causes.
    fn window_of(&self, word: u64, stamp: u64) -> Option<u64> {
        if word >> CAUSES_SHIFT & CAUSES_MASK == 0 {
            return None;
        }
        // The causes were counted at or after the stamp and fewer than 32 windows later (see
        // `oldest_stamp`), so stamp and low bits give the window.
        let at_stamp = self.window_at(Tick::from_millis(stamp * STAMP_UNIT_MILLIS));
        Some(at_stamp + ((word >> WINDOW_SHIFT).wrapping_sub(at_stamp) & WINDOW_MASK))
    }

    /// Whether `window` is so little later than `read`, the window of a clock reading, that the
    /// reading may be old.
    fn is_just_after(&self, window: u64, read: u64) -> bool {
        let slack = (STAMP_UNIT_MILLIS / self.window_millis).max(1);
        window.checked_sub(read).is_some_and(|later| (1..=slack).contains(&later))
    }

    /// The oldest stamp that still dates causes counted now: 16 windows and a rest, which together
    /// are less than 32 of the shortest windows.
    fn oldest_stamp(&self, now: Tick) -> u64 {
        let lag = MAX_STAMP_LAG_WINDOWS * self.window_millis / STAMP_UNIT_MILLIS;
        (now.as_millis() / STAMP_UNIT_MILLIS).saturating_sub(lag)
    }
}

/// Bits 0..7: value at the stamp. Bits 7..14: points taken in the window that a mass failure gives
/// back. Bits 14..27: causes
/// counted in it. Bits 27..32: low bits of the window's number. Bits 32..64: low bits of the stamp,
/// in tenths of a second; the clock supplies the rest.
///
/// The word is the authority for the peer's health and holds the whole state, so all accesses are
/// relaxed.
#[derive(Debug)]
pub(super) struct Health(AtomicU64);

/// A health word unpacked and advanced to the present.
struct Unpacked {
    value: u64,
    stamp: u64,
    /// The present window.
    window: u64,
    /// Causes counted in it and not given back.
    causes: u64,
    /// Points that those of them took that a mass failure gives back.
    taken: u64,
}

impl Health {
    pub(super) fn new(now: Tick) -> Self {
        let stamp = now.as_millis() / STAMP_UNIT_MILLIS;
        Self(AtomicU64::new(Unpacked { value: MAX_HEALTH, stamp, window: 0, causes: 0, taken: 0 }.pack()))
    }

    /// The current health, recovery included. Writes nothing.
    pub(super) fn value(&self, now: Tick, rules: &HealthRules) -> u8 {
        Unpacked::new(self.0.load(Ordering::Relaxed), now, rules).value as u8
    }

    pub(super) fn reward(&self, now: Tick, rules: &HealthRules) -> u8 {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let current = Unpacked::new(word, now, rules);
            let value = (current.value + u64::from(rules.policy.reward)).min(MAX_HEALTH);
            let new = Unpacked { value, ..current };
            match self.0.compare_exchange_weak(word, new.pack(), Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return value as u8,
                Err(other) => word = other,
            }
        }
    }

    /// Subtracts the price of `cause`, once per window.
    ///
    /// `live_peers` is called when the number of live peers matters. It returns `None` if this peer
    /// is not live: then its failure says nothing about the others.
    pub(super) fn penalize(
        &self,
        cause: Misbehavior,
        now: Tick,
        rules: &HealthRules,
        live_peers: impl FnOnce() -> Option<u64>,
    ) -> PenaltyOutcome {
        let mut word = self.0.load(Ordering::Relaxed);
        let (before, health) = loop {
            let current = Unpacked::new(word, now, rules);
            if cause.may_be_ours() && rules.mass_failures.contains(current.window) {
                return PenaltyOutcome::OurFault;
            }
            if current.causes & cause.bit() != 0 {
                return PenaltyOutcome::AlreadyCounted;
            }
            // Points that are not there are neither taken nor given back later.
            let points = u64::from(rules.policy.penalties.get(cause)).min(current.value);
            let new = Unpacked {
                value: current.value - points,
                // With a slow recovery this drops a fraction of the next point: less than the
                // penalty takes.
                stamp: current.stamp.max(rules.oldest_stamp(now)),
                causes: current.causes | cause.bit(),
                taken: if cause.may_be_ours() {
                    (current.taken + points).min(MAX_HEALTH)
                } else {
                    current.taken
                },
                ..current
            };
            match self.0.compare_exchange_weak(word, new.pack(), Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => break (current, new.value as u8),
                Err(other) => word = other,
            }
        };
        // The exchange that set the first such bit of the window counts this peer as failing in it.
        let is_first = cause.may_be_ours() && before.causes & OURS_MASK == 0;
        let live = if is_first { live_peers() } else { None };
        let quorum = rules.policy.mass_failure_quorum;
        if live.is_some_and(|live| rules.mass_failures.count(before.window, live, quorum)) {
            return PenaltyOutcome::OurFault;
        }
        PenaltyOutcome::Counted { health }
    }

    /// Whether the word has causes that a mass failure forgives. Cost: one load.
    pub(super) fn has_failed(&self) -> bool {
        self.0.load(Ordering::Relaxed) >> CAUSES_SHIFT & OURS_MASK != 0
    }

    /// The peer, connected at `connected_at`, disconnected. If it failed in the present window, the
    /// mass-failure count treats it as a peer that left.
    pub(super) fn forget_failure(&self, connected_at: Tick, rules: &HealthRules) {
        let word = self.0.load(Ordering::Relaxed);
        if word >> CAUSES_SHIFT & OURS_MASK == 0 {
            return;
        }
        // The first stamp dates from that moment, and stamps never move back.
        let stamp = stamp_after(word, connected_at.as_millis() / STAMP_UNIT_MILLIS);
        if let Some(window) = rules.window_of(word, stamp) {
            rules.mass_failures.peer_left(window, rules.window_at(connected_at) >= window);
        }
    }
}

impl Unpacked {
    fn new(word: u64, now: Tick, rules: &HealthRules) -> Self {
        let (mut value, mut taken, mut causes) =
            (word & POINTS_MASK, word >> TAKEN_SHIFT & POINTS_MASK, word >> CAUSES_SHIFT & CAUSES_MASK);
        // Up to twelve years ago, or in the future for a clock that was read before the last
        // update.
        let earliest = (now.as_millis() / STAMP_UNIT_MILLIS).saturating_sub(TWELVE_YEARS_IN_STAMPS);
        let stamp = stamp_after(word, earliest);
        // A `now` older than the stamp recovers nothing, moves nothing back and counts in the
        // stamp's window.
        let now = now.max(Tick::from_millis(stamp * STAMP_UNIT_MILLIS));
        let mut window = rules.window_at(now);
        if let Some(counted) = rules.window_of(word, stamp) {
            // A `now` older than the causes counts in their window, or they would count twice.
            if rules.is_just_after(counted, window) {
                window = counted;
            }
            let mass_failure = rules.mass_failures.contains(counted);
            if mass_failure {
                value = (value + taken).min(MAX_HEALTH);
            }
            if counted != window {
                (causes, taken) = (0, 0);
            } else if mass_failure {
                (causes, taken) = (causes & !OURS_MASK, 0);
            }
        }
        let present = now.as_millis() / STAMP_UNIT_MILLIS;
        let steps = (present - stamp) / rules.recovery_stamps;
        let value = (value + steps.min(MAX_HEALTH)).min(MAX_HEALTH);
        // Whole steps only, so that frequent updates keep the recovered fraction of the next point.
        let stamp = if value == MAX_HEALTH { present } else { stamp + steps * rules.recovery_stamps };
        Self { value, stamp, window, causes, taken }
    }

    fn pack(&self) -> u64 {
        let Self { value, stamp, window, causes, taken } = self;
        value
            | taken << TAKEN_SHIFT
            | causes << CAUSES_SHIFT
            | (window & WINDOW_MASK) << WINDOW_SHIFT
            | stamp << STAMP_SHIFT
    }
}

/// The first stamp from `earliest` on whose low bits are those of the word.
fn stamp_after(word: u64, earliest: u64) -> u64 {
    earliest + u64::from(((word >> STAMP_SHIFT) as u32).wrapping_sub(earliest as u32))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    const LIVE: u64 = 10;

    struct Fixture {
        rules: HealthRules,
    }

    impl Fixture {
        fn new() -> Self {
            Self { rules: HealthRules::new(HealthPolicy::default()) }
        }

        fn value(&self, health: &Health, secs: u64) -> u8 {
            health.value(at(secs), &self.rules)
        }

        fn penalize(&self, health: &Health, cause: Misbehavior, secs: u64) -> PenaltyOutcome {
            health.penalize(cause, at(secs), &self.rules, || Some(LIVE))
        }

        fn reward(&self, health: &Health, secs: u64) -> u8 {
            health.reward(at(secs), &self.rules)
        }
    }

    fn at(secs: u64) -> Tick {
        Tick::from_millis(secs * 1_000)
    }

    #[test]
    fn a_cause_counts_once_per_window() {
        let (fixture, health) = (Fixture::new(), Health::new(at(0)));
        assert_eq!(
            fixture.penalize(&health, Misbehavior::Protocol, 1),
            PenaltyOutcome::Counted { health: 60 }
        );
        assert_eq!(fixture.penalize(&health, Misbehavior::Protocol, 9), PenaltyOutcome::AlreadyCounted);
        assert_eq!(fixture.penalize(&health, Misbehavior::Flood, 9), PenaltyOutcome::Counted { health: 40 });
        assert_eq!(
            fixture.penalize(&health, Misbehavior::Protocol, 10),
            PenaltyOutcome::Counted { health: 0 }
        );
        assert_eq!(fixture.value(&health, 10), 0);
    }

    #[test]
    fn a_window_with_the_same_low_bits_is_another_window() {
        let (fixture, health) = (Fixture::new(), Health::new(at(0)));
        let _ = fixture.penalize(&health, Misbehavior::Protocol, 1);
        let same_low_bits = 1 + 4096 * 10;
        assert!(matches!(
            fixture.penalize(&health, Misbehavior::Protocol, same_low_bits),
            PenaltyOutcome::Counted { health: 60 }
        ));
    }

    #[test]
    fn health_recovers_on_read_by_whole_steps() {
        let (fixture, health) = (Fixture::new(), Health::new(at(0)));
        let _ = fixture.penalize(&health, Misbehavior::Protocol, 0);
        assert_eq!(fixture.value(&health, 9), 60);
        assert_eq!(fixture.value(&health, 10), 61);
        // Rewards of zero every 3 s must not reset the fraction of the next point.
        let mut fixture = fixture;
        fixture.rules.policy.reward = 0;
        for secs in (0..=100).step_by(3) {
            let _ = fixture.reward(&health, secs);
        }
        assert_eq!(fixture.value(&health, 100), 70);
        assert_eq!(fixture.value(&health, 400), 100);
        assert_eq!(fixture.value(&health, 4_000_000), 100);
        assert_eq!(fixture.value(&health, 0), 69, "an old clock reading changes nothing");
    }

    #[test]
    fn recovery_beyond_the_maximum_is_not_saved() {
        let (fixture, health) = (Fixture::new(), Health::new(at(0)));
        assert_eq!(
            fixture.penalize(&health, Misbehavior::Protocol, 5_000),
            PenaltyOutcome::Counted { health: 60 }
        );
        assert_eq!(fixture.value(&health, 5_009), 60);
        assert_eq!(fixture.reward(&health, 5_009), 65);
    }

    #[test]
    fn a_mass_failure_penalises_no_peer() {
        let fixture = Fixture::new();
        let peers: Vec<Health> = (0..LIVE).map(|_| Health::new(at(0))).collect();
        for (n, health) in peers.iter().enumerate() {
            let outcome = fixture.penalize(health, Misbehavior::Timeout, 3);
            if n < 5 {
                assert_eq!(outcome, PenaltyOutcome::Counted { health: 90 });
            } else {
                assert_eq!(outcome, PenaltyOutcome::OurFault);
            }
        }
        assert!(peers.iter().all(|health| fixture.value(health, 3) == 100));
        assert_eq!(fixture.penalize(&peers[0], Misbehavior::Unresponsive, 4), PenaltyOutcome::OurFault);
        assert_eq!(fixture.reward(&peers[1], 4), 100);
        assert_eq!(
            fixture.penalize(&peers[0], Misbehavior::Timeout, 13),
            PenaltyOutcome::Counted { health: 90 }
        );
        assert_eq!(fixture.value(&peers[1], 13), 100);
    }

    #[test]
    fn what_our_own_slowness_cannot_cause_always_counts() {
        let fixture = Fixture::new();
        let peers: Vec<Health> = (0..LIVE).map(|_| Health::new(at(0))).collect();
        // However many do it.
        for health in &peers {
            let outcome = fixture.penalize(health, Misbehavior::Protocol, 3);
            assert_eq!(outcome, PenaltyOutcome::Counted { health: 60 });
        }
        for health in &peers {
            let _ = fixture.penalize(health, Misbehavior::Timeout, 4);
        }
        // What only a slow node explains is forgiven, and the rest is not.
        assert!(peers.iter().all(|health| fixture.value(health, 4) == 60));
        assert_eq!(fixture.penalize(&peers[0], Misbehavior::Protocol, 5), PenaltyOutcome::AlreadyCounted);
        assert_eq!(
            fixture.penalize(&peers[0], Misbehavior::Flood, 5),
            PenaltyOutcome::Counted { health: 40 }
        );
        assert_eq!(fixture.penalize(&peers[0], Misbehavior::Timeout, 5), PenaltyOutcome::OurFault);
    }

    #[test]
    fn one_failing_peer_alone_is_no_mass_failure() {
        let (fixture, health) = (Fixture::new(), Health::new(at(0)));
        let alone = health.penalize(Misbehavior::Timeout, at(1), &fixture.rules, || Some(1));
        assert_eq!(alone, PenaltyOutcome::Counted { health: 90 });
    }

    #[test]
    fn a_mass_failure_gives_back_what_it_took() {
        let mut fixture = Fixture::new();
        let penalties = fixture.rules.policy.penalties.with(Misbehavior::App(0), 99);
        fixture.rules = fixture.rules.changed(HealthPolicy { penalties, ..fixture.rules.policy });
        let peers: Vec<Health> = (0..LIVE).map(|_| Health::new(at(0))).collect();
        for health in &peers[..2] {
            assert_eq!(
                fixture.penalize(health, Misbehavior::App(0), 3),
                PenaltyOutcome::Counted { health: 1 }
            );
            assert_eq!(
                fixture.penalize(health, Misbehavior::Unresponsive, 12),
                PenaltyOutcome::Counted { health: 0 }
            );
            assert_eq!(
                fixture.penalize(health, Misbehavior::Timeout, 12),
                PenaltyOutcome::Counted { health: 0 }
            );
        }
        assert_eq!(fixture.reward(&peers[1], 12), 5);
        // Prices changed after the penalties must not change what is given back.
        let higher = penalties.with(Misbehavior::Timeout, 50);
        for (n, health) in peers.iter().enumerate().skip(2) {
            let _ = fixture.penalize(health, Misbehavior::Timeout, 12);
            if n == 3 {
                fixture.rules =
                    fixture.rules.changed(HealthPolicy { penalties: higher, ..fixture.rules.policy });
            }
        }
        assert_eq!((fixture.value(&peers[0], 12), fixture.value(&peers[0], 13)), (1, 2));
        assert_eq!((fixture.value(&peers[1], 12), fixture.value(&peers[1], 13)), (6, 7));
        assert!(peers[2..].iter().all(|health| fixture.value(health, 12) == 100));
    }

    #[test]
    fn causes_are_dated_with_slow_recovery_and_short_windows() {
        let day = 24 * 3_600;
        for window in [Duration::from_millis(1), Duration::from_millis(70), Duration::from_secs(10)] {
            let mut fixture = Fixture::new();
            let recovery_step = Duration::from_secs(day);
            fixture.rules = HealthRules::new(HealthPolicy { window, recovery_step, ..fixture.rules.policy });
            for millis in (0..30_000).step_by(7) {
                let (now, health) = (Tick::from_millis(40_000_000 + millis), Health::new(at(0)));
                let penalize = |cause, now| health.penalize(cause, now, &fixture.rules, || None);
                let _ = penalize(Misbehavior::Protocol, at(1_000));
                assert_eq!(penalize(Misbehavior::Timeout, now), PenaltyOutcome::Counted { health: 50 });
                assert_eq!(penalize(Misbehavior::Timeout, now), PenaltyOutcome::AlreadyCounted);
                assert_eq!(health.value(now.after(Duration::from_secs(day)), &fixture.rules), 51);
            }
        }
    }

    #[test]
    fn an_old_clock_reading_counts_in_the_window_of_the_last_update() {
        let (fixture, health) = (Fixture::new(), Health::new(at(0)));
        assert_eq!(
            fixture.penalize(&health, Misbehavior::Protocol, 20),
            PenaltyOutcome::Counted { health: 60 }
        );
        assert_eq!(fixture.penalize(&health, Misbehavior::Protocol, 19), PenaltyOutcome::AlreadyCounted);
        assert_eq!(
            fixture.penalize(&health, Misbehavior::Timeout, 19),
            PenaltyOutcome::Counted { health: 50 }
        );
        assert_eq!(fixture.penalize(&health, Misbehavior::Timeout, 20), PenaltyOutcome::AlreadyCounted);
        assert_eq!(
            fixture.penalize(&health, Misbehavior::Timeout, 335),
            PenaltyOutcome::Counted { health: 71 }
        );
    }

    #[test]
    fn an_old_clock_reading_does_not_count_causes_again() {
        let (fixture, health) = (Fixture::new(), Health::new(at(0)));
        assert_eq!(
            fixture.penalize(&health, Misbehavior::Protocol, 12),
            PenaltyOutcome::Counted { health: 60 }
        );
        assert_eq!(
            fixture.penalize(&health, Misbehavior::Timeout, 20),
            PenaltyOutcome::Counted { health: 50 }
        );
        assert_eq!(fixture.penalize(&health, Misbehavior::Timeout, 19), PenaltyOutcome::AlreadyCounted);
        assert_eq!(fixture.reward(&health, 19), 55);
        assert_eq!(fixture.penalize(&health, Misbehavior::Timeout, 20), PenaltyOutcome::AlreadyCounted);
        // What a mass failure gives back is known after it, too.
        for _ in 0..5 {
            let other = Health::new(at(0));
            let _ = fixture.penalize(&other, Misbehavior::Timeout, 20);
        }
        assert_eq!(fixture.value(&health, 20), 65);
    }

    #[test]
    fn with_short_windows_a_clock_reading_may_be_several_windows_old() {
        let mut fixture = Fixture::new();
        fixture.rules =
            HealthRules::new(HealthPolicy { window: Duration::from_millis(10), ..fixture.rules.policy });
        let (health, at) = (Health::new(at(0)), |millis: u64| Tick::from_millis(1_000_000 + millis));
        let penalize = |cause, millis| health.penalize(cause, at(millis), &fixture.rules, || None);
        assert_eq!(penalize(Misbehavior::Protocol, 0), PenaltyOutcome::Counted { health: 60 });
        assert_eq!(penalize(Misbehavior::Timeout, 95), PenaltyOutcome::Counted { health: 50 });
        assert_eq!(penalize(Misbehavior::Timeout, 65), PenaltyOutcome::AlreadyCounted);
        assert_eq!(penalize(Misbehavior::Timeout, 105), PenaltyOutcome::Counted { health: 40 });
    }

    #[test]
    fn the_clock_may_start_at_any_value() {
        let fixture = Fixture::new();
        for from in [0, 1 << 32, 1_700_000_000, 100_000_000_000] {
            let health = Health::new(at(from));
            assert_eq!(
                fixture.penalize(&health, Misbehavior::Protocol, from + 12),
                PenaltyOutcome::Counted { health: 60 }
            );
            assert_eq!(
                fixture.penalize(&health, Misbehavior::Protocol, from + 12),
                PenaltyOutcome::AlreadyCounted
            );
            assert_eq!((fixture.value(&health, from + 12), fixture.value(&health, from + 30)), (60, 61));
            let eleven_years = 11 * 365 * 24 * 3_600;
            assert_eq!(fixture.value(&health, from + eleven_years), 100);
        }
    }
}
