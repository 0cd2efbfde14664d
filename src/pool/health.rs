//! Health of a peer, 0 to 100, in one word; and the memory of the windows in which the fault was ours.
//!
//! **Statement** (32): penalties are typed and each cause counts once a window; a failure of our own (more than half
//! of the live peers failing within one window) penalises nobody. **Enforced by** the bitmap of causes beside the
//! value, exchanged together with it, and by [`MassFailure`]: what was taken in a window that turns out to be a storm is
//! given back by whoever reads the word next, so no walk over the peers is needed; the word says how much that was.
//! **Breaks if** a penalty is taken without its bit, or the bits of a window outlive the stamp that dates them.

use std::sync::Arc;
use std::time::Duration;

use crate::base::Tick;
use crate::sync::atomic::{AtomicU64, Ordering};

use super::HealthPolicy;
use super::mass_failure::MassFailure;

/// What a peer did wrong. Each counts once a peer and window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Misbehavior {
    /// It did not answer a ping.
    Unresponsive,
    /// It did not answer a request in time.
    Timeout,
    /// It sent bytes that are no message.
    Malformed,
    /// It sent what is not allowed at that point.
    Protocol,
    /// It sent more than the cap.
    Oversized,
    /// It sent more often than it may.
    Flood,
    /// It sent data that turned out to be false.
    BadData,
    /// It asked for what makes no sense.
    BadRequest,
    /// It never has what is asked for.
    Useless,
    /// A fault that only the application can judge, by severity: 0 mild, 1 annoying, 2 bad, 3 hostile. A larger number
    /// counts as 3.
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
}

/// What a penalty did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PenaltyOutcome {
    /// It counted.
    Counted {
        /// What is left.
        health: u8,
    },
    /// This cause has already counted in this window.
    AlreadyCounted,
    /// More than half of the live peers failed in this window: the fault is ours, nobody is penalised.
    OurFault,
}

/// A [`HealthPolicy`] in the units of the word, and what is remembered of its windows.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) policy: HealthPolicy,
    window: u64,
    step: u64,
    /// Those of these windows only: where their length changes they have other numbers, and whoever still goes by the
    /// rules of before counts in the storms of before.
    storms: Arc<MassFailure>,
}

impl Rules {
    pub(super) fn new(policy: HealthPolicy) -> Self {
        Self::with(policy, Arc::new(MassFailure::new()))
    }

    /// The rules that follow these.
    pub(super) fn changed(&self, policy: HealthPolicy) -> Self {
        if policy.window == self.policy.window {
            Self::with(policy, Arc::clone(&self.storms))
        } else {
            Self::new(policy)
        }
    }

    fn with(policy: HealthPolicy, storms: Arc<MassFailure>) -> Self {
        let window = millis(policy.window.max(HealthPolicy::MIN_WINDOW)).min(1 << 32);
        let step = millis(policy.recovery_step).div_ceil(UNIT).max(1);
        Self { policy, window, step, storms }
    }

    fn window_at(&self, now: Tick) -> u64 {
        now.as_millis() / self.window
    }

    /// The window in which the causes of a word with this stamp were counted; `None` without any.
    fn window_of(&self, word: u64, stamp: u64) -> Option<u64> {
        if word >> CAUSES & CAUSES_MASK == 0 {
            return None;
        }
        // The causes were counted at or after the stamp and fewer than 32 windows later (see `oldest_stamp`), which dates
        // their window.
        let at_stamp = self.window_at(Tick::from_millis(stamp * UNIT));
        Some(at_stamp + ((word >> WINDOW).wrapping_sub(at_stamp) & WINDOW_MASK))
    }

    /// Whether a window is so little later than that of a reading of the clock that the reading may be an old one.
    fn is_just_after(&self, window: u64, read: u64) -> bool {
        window.checked_sub(read).is_some_and(|later| (1..=(UNIT / self.window).max(1)).contains(&later))
    }

    /// The oldest stamp that still dates causes counted now: in tenths of a second, 16 windows and a rest, which together
    /// are less than 32 of the shortest windows.
    fn oldest_stamp(&self, now: Tick) -> u64 {
        (now.as_millis() / UNIT).saturating_sub(LAG * self.window / UNIT)
    }
}

/// Bits 0..7: value at the stamp. Bits 7..14: points taken in the window. Bits 14..27: causes counted in it. Bits 27..32: low
/// bits of its number. Bits 32..64: low bits of the stamp, in tenths of a second; the clock says the rest.
///
/// Authority for the peer's health. Everything is in the word, so all accesses are relaxed.
#[derive(Debug)]
pub(super) struct Health(AtomicU64);

/// The word unpacked and brought up to `now`.
struct Now {
    value: u64,
    stamp: u64,
    /// The present one.
    window: u64,
    /// Causes counted in it and not given back, and what they took.
    causes: u64,
    taken: u64,
}

impl Health {
    pub(super) fn new(now: Tick) -> Self {
        let stamp = now.as_millis() / UNIT;
        Self(AtomicU64::new(Now { value: FULL, stamp, window: 0, causes: 0, taken: 0 }.pack()))
    }

    /// What the health is now, recovery included. Nothing is written.
    pub(super) fn value(&self, now: Tick, rules: &Rules) -> u8 {
        unpack(self.0.load(Ordering::Relaxed), now, rules).value as u8
    }

    pub(super) fn reward(&self, now: Tick, rules: &Rules) -> u8 {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let at = unpack(word, now, rules);
            let value = (at.value + u64::from(rules.policy.reward)).min(FULL);
            let new = Now { value, ..at };
            match self.0.compare_exchange_weak(word, new.pack(), Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return value as u8,
                Err(other) => word = other,
            }
        }
    }

    /// Takes what `cause` costs, once a window. `live` is asked for the number of live peers when it matters; `None` if
    /// this is none of them any more, and so tells nothing of the others.
    pub(super) fn penalize(
        &self,
        cause: Misbehavior,
        now: Tick,
        rules: &Rules,
        live: impl FnOnce() -> Option<u64>,
    ) -> PenaltyOutcome {
        let mut word = self.0.load(Ordering::Relaxed);
        let (at, health) = loop {
            let at = unpack(word, now, rules);
            if rules.storms.contains(at.window) {
                return PenaltyOutcome::OurFault;
            }
            if at.causes & bit(cause) != 0 {
                return PenaltyOutcome::AlreadyCounted;
            }
            // What is not there cannot be taken, nor given back.
            let points = u64::from(rules.policy.penalties.get(cause)).min(at.value);
            let new = Now {
                value: at.value - points,
                // Where points come back more slowly, what has come of the next one is lost: less than is taken.
                stamp: at.stamp.max(rules.oldest_stamp(now)),
                causes: at.causes | bit(cause),
                taken: (at.taken + points).min(FULL),
                ..at
            };
            match self.0.compare_exchange_weak(word, new.pack(), Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => break (at, new.value as u8),
                Err(other) => word = other,
            }
        };
        // The exchange that set the first bit of the window is the one that counts this peer as failing in it.
        let live = if at.causes == 0 { live() } else { None };
        if live.is_some_and(|live| rules.storms.count(at.window, live, rules.policy.mass_failure_quorum)) {
            return PenaltyOutcome::OurFault;
        }
        PenaltyOutcome::Counted { health }
    }

    /// Whether a failure is noted. Cost: one load.
    pub(super) fn has_failed(&self) -> bool {
        self.0.load(Ordering::Relaxed) >> CAUSES & CAUSES_MASK != 0
    }

    /// The peer, which was connected since then, has departed: if it failed in the present window, that is counted as
    /// somebody's who has left.
    pub(super) fn depart(&self, since: Tick, rules: &Rules) {
        let word = self.0.load(Ordering::Relaxed);
        // The first stamp was that moment's, and none is older than the one before.
        let stamp = stamp_after(word, since.as_millis() / UNIT);
        if let Some(window) = rules.window_of(word, stamp) {
            rules.storms.left(window, rules.window_at(since) >= window);
        }
    }
}

impl Now {
    fn pack(&self) -> u64 {
        let Self { value, stamp, window, causes, taken } = self;
        value | taken << TAKEN | causes << CAUSES | (window & WINDOW_MASK) << WINDOW | stamp << STAMP
    }
}

/// The stamp of a word that is not older than this.
fn stamp_after(word: u64, tenths: u64) -> u64 {
    tenths + u64::from(((word >> STAMP) as u32).wrapping_sub(tenths as u32))
}

fn unpack(word: u64, now: Tick, rules: &Rules) -> Now {
    let (mut value, mut taken, mut causes) =
        (word & POINTS, word >> TAKEN & POINTS, word >> CAUSES & CAUSES_MASK);
    // Up to twelve years ago, or one to come for a clock that was read before the last update.
    let stamp = stamp_after(word, (now.as_millis() / UNIT).saturating_sub(TWELVE_YEARS));
    // A `now` older than the stamp recovers nothing, moves nothing back and counts in the stamp's window.
    let now = now.max(Tick::from_millis(stamp * UNIT));
    let mut window = rules.window_at(now);
    if let Some(counted) = rules.window_of(word, stamp) {
        // Nor does an older one than the causes: it would have them count again.
        if rules.is_just_after(counted, window) {
            window = counted;
        }
        let stormy = rules.storms.contains(counted);
        if stormy {
            value = (value + taken).min(FULL);
        }
        if stormy || counted != window {
            (causes, taken) = (0, 0);
        }
    }
    let tenths = now.as_millis() / UNIT;
    let steps = (tenths - stamp) / rules.step;
    let value = (value + steps.min(FULL)).min(FULL);
    // Whole steps only, so that frequent updates do not eat what has been recovered of the next point.
    let stamp = if value == FULL { tenths } else { stamp + steps * rules.step };
    Now { value, stamp, window, causes, taken }
}

fn bit(cause: Misbehavior) -> u64 {
    1 << cause.index()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

const FULL: u64 = 100;
/// Milliseconds a stamp counts in: 2^32 of them are 13 years.
const UNIT: u64 = 100;
const TWELVE_YEARS: u64 = 12 * 365 * 24 * 3_600 * 1_000 / UNIT;
const SHORTEST: u64 = HealthPolicy::MIN_WINDOW.as_millis() as u64;
/// Windows that a stamp may be behind the causes it dates.
const LAG: u64 = 16;
const POINTS: u64 = (1 << 7) - 1;
const TAKEN: u32 = 7;
const CAUSES: u32 = 14;
const CAUSES_MASK: u64 = (1 << 13) - 1;
const WINDOW: u32 = 27;
const WINDOW_MASK: u64 = (1 << 5) - 1;
const STAMP: u32 = 32;
const _: () = assert!(LAG + UNIT / SHORTEST < WINDOW_MASK);

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    const LIVE: u64 = 10;

    struct World {
        rules: Rules,
    }

    impl World {
        fn new() -> Self {
            Self { rules: Rules::new(HealthPolicy::default()) }
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
    fn a_cause_counts_once_a_window() {
        let (world, health) = (World::new(), Health::new(at(0)));
        assert_eq!(world.penalize(&health, Misbehavior::Protocol, 1), PenaltyOutcome::Counted { health: 60 });
        assert_eq!(world.penalize(&health, Misbehavior::Protocol, 9), PenaltyOutcome::AlreadyCounted);
        assert_eq!(world.penalize(&health, Misbehavior::Flood, 9), PenaltyOutcome::Counted { health: 40 });
        assert_eq!(world.penalize(&health, Misbehavior::Protocol, 10), PenaltyOutcome::Counted { health: 0 });
        assert_eq!(world.value(&health, 10), 0);
    }

    #[test]
    fn a_window_thousands_later_is_another_one() {
        let (world, health) = (World::new(), Health::new(at(0)));
        let _ = world.penalize(&health, Misbehavior::Protocol, 1);
        let same_low_bits = 1 + 4096 * 10;
        assert!(matches!(
            world.penalize(&health, Misbehavior::Protocol, same_low_bits),
            PenaltyOutcome::Counted { health: 60 }
        ));
    }

    #[test]
    fn health_recovers_on_read_by_whole_steps() {
        let (world, health) = (World::new(), Health::new(at(0)));
        let _ = world.penalize(&health, Misbehavior::Protocol, 0);
        assert_eq!(world.value(&health, 9), 60);
        assert_eq!(world.value(&health, 10), 61);
        // Rewards of zero every 3 s must not keep the next point away for ever.
        let mut world = world;
        world.rules.policy.reward = 0;
        for secs in (0..=100).step_by(3) {
            let _ = world.reward(&health, secs);
        }
        assert_eq!(world.value(&health, 100), 70);
        assert_eq!(world.value(&health, 400), 100);
        assert_eq!(world.value(&health, 4_000_000), 100);
        assert_eq!(world.value(&health, 0), 69, "an old reading takes nothing back and gives nothing");
    }

    #[test]
    fn no_point_is_saved_up_beyond_the_hundred() {
        let (world, health) = (World::new(), Health::new(at(0)));
        assert_eq!(
            world.penalize(&health, Misbehavior::Protocol, 5_000),
            PenaltyOutcome::Counted { health: 60 }
        );
        assert_eq!(world.value(&health, 5_009), 60);
        assert_eq!(world.reward(&health, 5_009), 65);
    }

    #[test]
    fn when_more_than_half_fail_in_a_window_nobody_is_penalised() {
        let world = World::new();
        let peers: Vec<Health> = (0..LIVE).map(|_| Health::new(at(0))).collect();
        for (n, health) in peers.iter().enumerate() {
            let outcome = world.penalize(health, Misbehavior::Timeout, 3);
            if n < 5 {
                assert_eq!(outcome, PenaltyOutcome::Counted { health: 90 });
            } else {
                assert_eq!(outcome, PenaltyOutcome::OurFault);
            }
        }
        assert!(peers.iter().all(|health| world.value(health, 3) == 100));
        assert_eq!(world.penalize(&peers[0], Misbehavior::Protocol, 4), PenaltyOutcome::OurFault);
        assert_eq!(world.reward(&peers[1], 4), 100);
        assert_eq!(
            world.penalize(&peers[0], Misbehavior::Timeout, 13),
            PenaltyOutcome::Counted { health: 90 }
        );
        assert_eq!(world.value(&peers[1], 13), 100);
    }

    #[test]
    fn one_failing_peer_is_not_our_fault_even_alone() {
        let (world, health) = (World::new(), Health::new(at(0)));
        let alone = health.penalize(Misbehavior::Timeout, at(1), &world.rules, || Some(1));
        assert_eq!(alone, PenaltyOutcome::Counted { health: 90 });
    }

    #[test]
    fn a_storm_gives_back_no_more_than_it_took() {
        let mut world = World::new();
        let penalties = world.rules.policy.penalties.with(Misbehavior::App(0), 99);
        world.rules = world.rules.changed(HealthPolicy { penalties, ..world.rules.policy });
        let peers: Vec<Health> = (0..LIVE).map(|_| Health::new(at(0))).collect();
        for health in &peers[..2] {
            assert_eq!(world.penalize(health, Misbehavior::App(0), 3), PenaltyOutcome::Counted { health: 1 });
            assert_eq!(
                world.penalize(health, Misbehavior::Protocol, 12),
                PenaltyOutcome::Counted { health: 0 }
            );
            assert_eq!(world.penalize(health, Misbehavior::Flood, 12), PenaltyOutcome::Counted { health: 0 });
        }
        assert_eq!(world.reward(&peers[1], 12), 5);
        // What they cost by now is not what they cost then.
        let dearer = penalties.with(Misbehavior::Timeout, 50);
        for (n, health) in peers.iter().enumerate().skip(2) {
            let _ = world.penalize(health, Misbehavior::Timeout, 12);
            if n == 3 {
                world.rules = world.rules.changed(HealthPolicy { penalties: dearer, ..world.rules.policy });
            }
        }
        assert_eq!((world.value(&peers[0], 12), world.value(&peers[0], 13)), (1, 2));
        assert_eq!((world.value(&peers[1], 12), world.value(&peers[1], 13)), (6, 7));
        assert!(peers[2..].iter().all(|health| world.value(health, 12) == 100));
    }

    #[test]
    fn causes_are_dated_however_slowly_points_come_back_and_however_short_the_windows() {
        let day = 24 * 3_600;
        for window in [Duration::from_millis(1), Duration::from_millis(70), Duration::from_secs(10)] {
            let mut world = World::new();
            let recovery_step = Duration::from_secs(day);
            world.rules = Rules::new(HealthPolicy { window, recovery_step, ..world.rules.policy });
            for millis in (0..30_000).step_by(7) {
                let (now, health) = (Tick::from_millis(40_000_000 + millis), Health::new(at(0)));
                let penalize = |cause, now| health.penalize(cause, now, &world.rules, || None);
                let _ = penalize(Misbehavior::Protocol, at(1_000));
                assert_eq!(penalize(Misbehavior::Timeout, now), PenaltyOutcome::Counted { health: 50 });
                assert_eq!(penalize(Misbehavior::Timeout, now), PenaltyOutcome::AlreadyCounted);
                assert_eq!(health.value(now.after(Duration::from_secs(day)), &world.rules), 51);
            }
        }
    }

    #[test]
    fn a_clock_read_before_the_last_update_counts_in_the_window_of_that() {
        let (world, health) = (World::new(), Health::new(at(0)));
        assert_eq!(
            world.penalize(&health, Misbehavior::Protocol, 20),
            PenaltyOutcome::Counted { health: 60 }
        );
        assert_eq!(world.penalize(&health, Misbehavior::Protocol, 19), PenaltyOutcome::AlreadyCounted);
        assert_eq!(world.penalize(&health, Misbehavior::Timeout, 19), PenaltyOutcome::Counted { health: 50 });
        assert_eq!(world.penalize(&health, Misbehavior::Timeout, 20), PenaltyOutcome::AlreadyCounted);
        assert_eq!(
            world.penalize(&health, Misbehavior::Timeout, 335),
            PenaltyOutcome::Counted { health: 71 }
        );
    }

    #[test]
    fn nor_does_it_have_causes_count_again_whose_stamp_is_of_the_window_before() {
        let (world, health) = (World::new(), Health::new(at(0)));
        assert_eq!(
            world.penalize(&health, Misbehavior::Protocol, 12),
            PenaltyOutcome::Counted { health: 60 }
        );
        assert_eq!(world.penalize(&health, Misbehavior::Timeout, 20), PenaltyOutcome::Counted { health: 50 });
        assert_eq!(world.penalize(&health, Misbehavior::Timeout, 19), PenaltyOutcome::AlreadyCounted);
        assert_eq!(world.reward(&health, 19), 55);
        assert_eq!(world.penalize(&health, Misbehavior::Timeout, 20), PenaltyOutcome::AlreadyCounted);
        // What a storm gives back is known after it, too.
        for _ in 0..5 {
            let other = Health::new(at(0));
            let _ = world.penalize(&other, Misbehavior::Timeout, 20);
        }
        assert_eq!(world.value(&health, 20), 65);
    }

    #[test]
    fn where_windows_are_short_a_clock_may_have_been_read_some_of_them_before() {
        let mut world = World::new();
        world.rules = Rules::new(HealthPolicy { window: Duration::from_millis(10), ..world.rules.policy });
        let (health, at) = (Health::new(at(0)), |millis: u64| Tick::from_millis(1_000_000 + millis));
        let penalize = |cause, millis| health.penalize(cause, at(millis), &world.rules, || None);
        assert_eq!(penalize(Misbehavior::Protocol, 0), PenaltyOutcome::Counted { health: 60 });
        assert_eq!(penalize(Misbehavior::Timeout, 95), PenaltyOutcome::Counted { health: 50 });
        assert_eq!(penalize(Misbehavior::Timeout, 65), PenaltyOutcome::AlreadyCounted);
        assert_eq!(penalize(Misbehavior::Timeout, 105), PenaltyOutcome::Counted { health: 40 });
    }

    #[test]
    fn the_clock_may_count_from_any_moment() {
        let world = World::new();
        for from in [0, 1 << 32, 1_700_000_000, 100_000_000_000] {
            let health = Health::new(at(from));
            assert_eq!(
                world.penalize(&health, Misbehavior::Protocol, from + 12),
                PenaltyOutcome::Counted { health: 60 }
            );
            assert_eq!(
                world.penalize(&health, Misbehavior::Protocol, from + 12),
                PenaltyOutcome::AlreadyCounted
            );
            assert_eq!((world.value(&health, from + 12), world.value(&health, from + 30)), (60, 61));
            let eleven_years = 11 * 365 * 24 * 3_600;
            assert_eq!(world.value(&health, from + eleven_years), 100);
        }
    }
}
