//! Admission: one packed word counts live and pending connections per direction, and holds the
//! closed flag.
//!
//! Invariant: `pending_and_live_are_counted_together`, `counters_never_wrap_or_drift`,
//! `nothing_enters_after_shutdown`, `stats_come_from_the_deciding_words`
//! - Statement: a slot is reserved before the caller awaits anything, and pending and live slots
//!   count together. No field wraps or drifts. After closing, nothing goes live. Statistics read
//!   the same word that decides.
//! - Enforced by: one `AtomicU64`. Every change is one exchange that checks its conditions in the
//!   same word.
//! - Breaks if: a field can outgrow its bits (limits are clamped to them), or a count is kept
//!   elsewhere.

use crate::base::Direction;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::{AdmitError, Limits, SlotClass};

const LIVE_IN: Field = Field { shift: 0, bits: 20 };
const LIVE_OUT: Field = Field { shift: 20, bits: 20 };
const PENDING_IN: Field = Field { shift: 40, bits: 12 };
const PENDING_OUT: Field = Field { shift: 52, bits: 11 };
const CLOSED: u64 = 1 << 63;
const _: () = assert!(LIVE_IN.max() == LIVE_OUT.max());

/// One reading of the admission word: the connections at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct AdmissionCounts {
    /// Live connections that the remote side dialled.
    pub live_inbound: u32,
    /// Live connections that this node dialled.
    pub live_outbound: u32,
    /// Permits of inbound connections that are not live yet.
    pub pending_inbound: u32,
    /// Permits of outbound connections that are not live yet.
    pub pending_outbound: u32,
    /// Whether the pool is closed: no connection goes live any more.
    pub closed: bool,
}

impl AdmissionCounts {
    /// Live connections of both directions.
    pub fn live(&self) -> u32 {
        self.live_inbound + self.live_outbound
    }

    /// Permits that are not live yet, of both directions.
    pub fn pending(&self) -> u32 {
        self.pending_inbound + self.pending_outbound
    }

    fn of(word: u64) -> Self {
        Self {
            live_inbound: field(word, LIVE_IN),
            live_outbound: field(word, LIVE_OUT),
            pending_inbound: field(word, PENDING_IN),
            pending_outbound: field(word, PENDING_OUT),
            closed: word & CLOSED != 0,
        }
    }
}

/// Bits 0..20: live in. 20..40: live out. 40..52: pending in. 52..63: pending out. 63: closed.
///
/// The authority for the number of connections. All exchanges are `AcqRel`, the closing one too: a
/// thread that finds the pool closed sees what happened before it was closed.
#[derive(Debug)]
pub(super) struct Admission {
    word: AtomicU64,
    /// Connections of [`SlotClass::Reserved`], pending or live, by direction. They take the kept
    /// slots first: as many fewer are kept from ordinary connections. A hint beside the word, so a
    /// connection that is admitted at the same moment may see one more or less; the word bounds the
    /// total.
    reserved: [AtomicU32; 2],
}

/// Error: the pool is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PoolClosed;

impl Admission {
    pub(super) fn new() -> Self {
        Self { word: AtomicU64::new(0), reserved: [AtomicU32::new(0), AtomicU32::new(0)] }
    }

    pub(super) fn counts(&self) -> AdmissionCounts {
        // Acquire: pairs with the release half of every exchange below.
        AdmissionCounts::of(self.word.load(Ordering::Acquire))
    }

    pub(super) fn live(&self) -> u64 {
        u64::from(AdmissionCounts::of(self.word.load(Ordering::Relaxed)).live())
    }

    /// Reserves one pending slot.
    pub(super) fn reserve(
        &self,
        direction: Direction,
        slot: SlotClass,
        limits: &Limits,
    ) -> Result<(), AdmitError> {
        let (live, pending) = fields(direction);
        let (max, reserved, max_pending) = match direction {
            Direction::Inbound => (limits.max_inbound, limits.reserved_inbound, limits.max_pending_inbound),
            Direction::Outbound => {
                (limits.max_outbound, limits.reserved_outbound, limits.max_pending_outbound)
            }
        };
        let room = match slot {
            SlotClass::Ordinary | SlotClass::Exempt => {
                max.saturating_sub(reserved.saturating_sub(self.reserved_in_use(direction)))
            }
            SlotClass::Reserved => max,
        };
        let (room, room_pending) = (room.min(live.max()), max_pending.min(pending.max()));
        self.exchange(|word| {
            if word & CLOSED != 0 {
                return Err(AdmitError::Closed);
            }
            if field(word, live) + field(word, pending) >= room {
                return Err(AdmitError::Full(direction));
            }
            if field(word, pending) >= room_pending {
                return Err(AdmitError::TooManyPending(direction));
            }
            Ok(word + pending.one())
        })?;
        if slot == SlotClass::Reserved {
            self.reserved[direction as usize].fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Connections in this direction that are pending or live in a reserved slot.
    fn reserved_in_use(&self, direction: Direction) -> u32 {
        self.reserved[direction as usize].load(Ordering::Relaxed)
    }

    fn release_reserved(&self, direction: Direction, slot: SlotClass) {
        if slot == SlotClass::Reserved {
            self.reserved[direction as usize].fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Turns one pending slot into a live one. Fails once the pool is closed.
    pub(super) fn go_live(&self, direction: Direction) -> Result<(), PoolClosed> {
        let (live, pending) = fields(direction);
        self.exchange(|word| {
            if word & CLOSED != 0 {
                return Err(PoolClosed);
            }
            Ok(decrement(word, pending) + live.one())
        })
    }

    /// Turns one pending slot into a live one and releases a live one, in one step.
    pub(super) fn supersede(
        &self,
        new: Direction,
        old: Direction,
        old_slot: SlotClass,
    ) -> Result<(), PoolClosed> {
        let (live, pending) = fields(new);
        self.exchange(|word| {
            if word & CLOSED != 0 {
                return Err(PoolClosed);
            }
            Ok(decrement(decrement(word, pending), fields(old).0) + live.one())
        })?;
        self.release_reserved(old, old_slot);
        Ok(())
    }

    pub(super) fn release_pending(&self, direction: Direction, slot: SlotClass) {
        self.release_reserved(direction, slot);
        let _ = self.exchange(|word| Ok::<_, PoolClosed>(decrement(word, fields(direction).1)));
    }

    pub(super) fn release_live(&self, direction: Direction, slot: SlotClass) {
        self.release_reserved(direction, slot);
        let _ = self.exchange(|word| Ok::<_, PoolClosed>(decrement(word, fields(direction).0)));
    }

    /// Releases a live slot only if at least `floor` live ones remain.
    pub(super) fn release_live_above(&self, direction: Direction, slot: SlotClass, floor: u32) -> bool {
        let released = self.exchange(|word| {
            if AdmissionCounts::of(word).live() <= floor {
                return Err(());
            }
            Ok(decrement(word, fields(direction).0))
        });
        if released.is_ok() {
            self.release_reserved(direction, slot);
        }
        released.is_ok()
    }

    pub(super) fn close(&self) {
        // AcqRel: pairs with every exchange above.
        self.word.fetch_or(CLOSED, Ordering::AcqRel);
    }

    fn exchange<E>(&self, change: impl Fn(u64) -> Result<u64, E>) -> Result<(), E> {
        let mut word = self.word.load(Ordering::Acquire);
        loop {
            let new = change(word)?;
            // AcqRel: pairs with the other exchanges, with `close` and with `counts`.
            match self.word.compare_exchange_weak(word, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(()),
                Err(other) => word = other,
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Field {
    shift: u32,
    bits: u32,
}

impl Field {
    const fn max(self) -> u32 {
        (1 << self.bits) - 1
    }

    const fn one(self) -> u64 {
        1 << self.shift
    }
}

fn fields(direction: Direction) -> (Field, Field) {
    match direction {
        Direction::Inbound => (LIVE_IN, PENDING_IN),
        Direction::Outbound => (LIVE_OUT, PENDING_OUT),
    }
}

const fn field(word: u64, field: Field) -> u32 {
    (word >> field.shift) as u32 & field.max()
}

/// The word with one less in this field. Tokens are released once, so the field is not zero; if it
/// were, it would stay zero rather than borrow from its neighbour.
fn decrement(word: u64, part: Field) -> u64 {
    debug_assert!(field(word, part) > 0, "a slot was released twice");
    if field(word, part) > 0 { word - part.one() } else { word }
}

impl Limits {
    /// Upper bound of [`Limits::max_inbound`] and [`Limits::max_outbound`]; a larger number counts
    /// as this.
    pub const MAX_LIVE: u32 = LIVE_IN.max();
    /// Upper bound of [`Limits::max_pending_inbound`]; a larger number counts as this.
    pub const MAX_PENDING_INBOUND: u32 = PENDING_IN.max();
    /// Upper bound of [`Limits::max_pending_outbound`]; a larger number counts as this.
    pub const MAX_PENDING_OUTBOUND: u32 = PENDING_OUT.max();
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            max_inbound: 3,
            max_outbound: u32::MAX,
            max_pending_inbound: 2,
            max_pending_outbound: u32::MAX,
            reserved_inbound: 1,
            ..Limits::default()
        }
    }

    #[test]
    fn pending_and_live_are_counted_together() {
        let (word, limits) = (Admission::new(), limits());
        let reserve = |slot| word.reserve(Direction::Inbound, slot, &limits);
        assert_eq!(reserve(SlotClass::Ordinary), Ok(()));
        assert_eq!(word.go_live(Direction::Inbound), Ok(()));
        assert_eq!(reserve(SlotClass::Ordinary), Ok(()));
        assert_eq!(reserve(SlotClass::Ordinary), Err(AdmitError::Full(Direction::Inbound)));
        assert_eq!(reserve(SlotClass::Reserved), Ok(()));
        assert_eq!(reserve(SlotClass::Reserved), Err(AdmitError::Full(Direction::Inbound)));
        word.release_live(Direction::Inbound, SlotClass::Ordinary);
        assert_eq!(reserve(SlotClass::Reserved), Err(AdmitError::TooManyPending(Direction::Inbound)));
        let counts = word.counts();
        assert_eq!((counts.live(), counts.pending(), counts.pending_inbound), (0, 2, 2));
    }

    #[test]
    fn reserved_connections_take_the_kept_slots_first() {
        let word = Admission::new();
        let limits = Limits { max_inbound: 10, reserved_inbound: 2, ..Limits::default() };
        let reserve = |slot| word.reserve(Direction::Inbound, slot, &limits);
        let fill = || (0..20).filter(|_| reserve(SlotClass::Ordinary).is_ok()).count();
        // Three reserved ones: two in the kept slots, one in an ordinary slot.
        (0..3).for_each(|_| assert_eq!(reserve(SlotClass::Reserved), Ok(())));
        assert_eq!(fill(), 7);
        // One of them leaves: its slot is kept again once fewer than two are there.
        word.release_pending(Direction::Inbound, SlotClass::Reserved);
        assert_eq!(fill(), 1);
        word.release_pending(Direction::Inbound, SlotClass::Reserved);
        assert_eq!(fill(), 0, "kept");
        assert_eq!(reserve(SlotClass::Reserved), Ok(()));
        assert_eq!(reserve(SlotClass::Reserved), Err(AdmitError::Full(Direction::Inbound)));
    }

    #[test]
    fn no_field_outgrows_its_bits() {
        let (word, limits) = (Admission::new(), limits());
        for _ in 0..PENDING_OUT.max() {
            assert_eq!(word.reserve(Direction::Outbound, SlotClass::Ordinary, &limits), Ok(()));
        }
        let refused = word.reserve(Direction::Outbound, SlotClass::Ordinary, &limits);
        assert_eq!(refused, Err(AdmitError::TooManyPending(Direction::Outbound)));
        assert_eq!(word.counts().pending_outbound, 2_047);
        assert!(LIVE_IN.max() >= 1_000_000 && LIVE_OUT.max() >= 1_000_000);
        assert!(!word.counts().closed);
    }

    #[test]
    fn a_closed_pool_admits_nothing_and_releases_slots() {
        let (word, limits) = (Admission::new(), limits());
        for _ in 0..2 {
            assert_eq!(word.reserve(Direction::Inbound, SlotClass::Ordinary, &limits), Ok(()));
        }
        assert_eq!(word.go_live(Direction::Inbound), Ok(()));
        word.close();
        assert_eq!(word.go_live(Direction::Inbound), Err(PoolClosed));
        assert_eq!(
            word.supersede(Direction::Inbound, Direction::Inbound, SlotClass::Ordinary),
            Err(PoolClosed)
        );
        assert_eq!(word.reserve(Direction::Outbound, SlotClass::Reserved, &limits), Err(AdmitError::Closed));
        word.release_pending(Direction::Inbound, SlotClass::Ordinary);
        word.release_live(Direction::Inbound, SlotClass::Ordinary);
        assert_eq!(word.counts(), AdmissionCounts { closed: true, ..AdmissionCounts::default() });
    }

    #[test]
    fn live_slots_are_not_released_below_the_floor() {
        let (word, limits) = (Admission::new(), limits());
        for _ in 0..2 {
            assert_eq!(word.reserve(Direction::Outbound, SlotClass::Ordinary, &limits), Ok(()));
            assert_eq!(word.go_live(Direction::Outbound), Ok(()));
        }
        assert!(word.release_live_above(Direction::Outbound, SlotClass::Ordinary, 1));
        assert!(!word.release_live_above(Direction::Outbound, SlotClass::Ordinary, 1));
        assert_eq!(word.counts().live_outbound, 1);
    }
}
