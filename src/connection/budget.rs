//! The memory ceiling: what peers can make us hold is counted by connection, source and subnet.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use tokio::time::Instant;

use crate::base::Source;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Bytes that every connection may hold, whatever its source holds, while the ceiling allows it at
/// all: a small message always comes through.
const GUARANTEED_BYTES: usize = 160 * 1024;

/// Limits the bytes that are held for all peers together: inboxes, outboxes, reassembly, partial
/// chunks, payloads in handlers, responses on their way to the asker.
///
/// ```text
///  limit: what we send, trusted peers, and the guaranteed bytes of each connection
///  |- three quarters: what strangers send
///     |- at most three quarters of these: one subnet
///     |- at most half of these: one source
/// ```
///
/// Invariant: `everything_is_bounded`, `stuck_connection_pins_a_bounded_copy`,
/// `held_memory_is_counted_until_released`, `shares_belong_to_a_source`
/// Statement: the sum of all live [`MemoryReservation`]s does not exceed the limit that was in
/// force when the last of them was granted. Exceptions are what connections have read already at
/// the ceiling, one read buffer each at most. No source takes the room of others.
/// Enforced by: a reservation is one compare-exchange loop on the sum, before the bytes are held.
/// Overdrawn bytes count, so nothing more is granted, near the ceiling a connection reads one frame
/// at a time, and one that has overdrawn does not read until there is room again.
/// Breaks if: peer-given bytes are held without a reservation, or are overdrawn where they could
/// have been refused.
#[derive(Debug)]
pub struct MemoryBudget {
    limit: AtomicUsize,
    used: AtomicUsize,
    refused: AtomicU64,
    /// Connections that do not read until there is room.
    waiting: AtomicUsize,
    /// How often one of them went on.
    resumed: AtomicU64,
    origins: Mutex<Origins>,
}

/// The sources and subnets that hold memory now. Entries leave with the last account.
#[derive(Debug, Default)]
struct Origins {
    sources: HashMap<u64, Weak<SourceAccount>, foldhash::fast::RandomState>,
    subnets: HashMap<u64, Weak<AtomicUsize>, foldhash::fast::RandomState>,
}

/// Where a connection comes from, for the shares of the memory: a source in eight bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemoryOrigin(u64);

impl MemoryOrigin {
    /// Bound by the ceiling alone: trusted peers.
    pub const EXEMPT: Self = Self(0);

    /// A source.
    pub fn of(source: Source) -> Self {
        Self(source.as_u64())
    }

    /// The /24 or the /48.
    fn subnet(self) -> u64 {
        // An IPv4 address has the upper half zero, which no IPv6 prefix in use has.
        if self.0 >> 32 == 0 { self.0 >> 8 } else { self.0 >> 16 | 1 << 63 }
    }
}

/// What one source holds.
#[derive(Debug)]
struct SourceAccount {
    budget: Arc<MemoryBudget>,
    origin: MemoryOrigin,
    used: AtomicUsize,
    subnet: Arc<AtomicUsize>,
}

/// What one connection holds. It exists while the connection holds anything.
#[derive(Debug)]
pub struct MemoryAccount {
    source: Arc<SourceAccount>,
    used: AtomicUsize,
    /// Bytes that moved since the account was opened.
    progress: AtomicU64,
    opened: Instant,
}

/// For what bytes are reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// What a peer sends us.
    Receive,
    /// What we send.
    Send,
}

impl MemoryBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit: AtomicUsize::new(limit),
            used: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            resumed: AtomicU64::new(0),
            origins: Mutex::default(),
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

    /// Bytes that strangers may make us hold.
    fn pool(&self) -> usize {
        Self::pool_of(self.limit())
    }

    const fn pool_of(limit: usize) -> usize {
        limit / 4 * 3
    }

    /// Bytes that one source may hold under this limit.
    pub(crate) const fn source_share(limit: usize) -> usize {
        Self::pool_of(limit) / 2
    }

    /// Bytes that could be reserved now for what a stranger sends.
    pub fn free(&self) -> usize {
        self.pool().saturating_sub(self.used())
    }

    /// How often a reservation was refused. A rising number means that the ceiling is too low for
    /// this many peers.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Connections that do not read until there is room.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// How often a connection that waited for room went on.
    pub(crate) fn resumed(&self) -> u64 {
        self.resumed.load(Ordering::Relaxed)
    }

    /// Changes the ceiling. Reservations stay; nothing more is granted until the sum is below the
    /// new one.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Opens an account for a connection from there.
    ///
    /// # Cost
    /// A short lock of the budget and two look-ups; an allocation.
    pub fn account(self: &Arc<Self>, origin: MemoryOrigin) -> Arc<MemoryAccount> {
        let source = self.source_account(origin);
        Arc::new(MemoryAccount {
            source,
            used: AtomicUsize::new(0),
            progress: AtomicU64::new(0),
            opened: Instant::now(),
        })
    }

    fn source_account(self: &Arc<Self>, origin: MemoryOrigin) -> Arc<SourceAccount> {
        let mut origins = self.origins.lock();
        if let Some(known) = origins.sources.get(&origin.0).and_then(Weak::upgrade) {
            return known;
        }
        if origins.subnets.len() > 2 * origins.sources.len() + 64 {
            origins.subnets.retain(|_, subnet| subnet.strong_count() > 0);
        }
        let subnet = origins.subnets.get(&origin.subnet()).and_then(Weak::upgrade);
        let subnet = subnet.unwrap_or_else(|| Arc::new(AtomicUsize::new(0)));
        origins.subnets.insert(origin.subnet(), Arc::downgrade(&subnet));
        let opened =
            Arc::new(SourceAccount { budget: Arc::clone(self), origin, used: AtomicUsize::new(0), subnet });
        origins.sources.insert(origin.0, Arc::downgrade(&opened));
        opened
    }

    /// Reserves `bytes` in an account of their own, bound by the ceiling alone; `None` if it does not
    /// allow it.
    pub fn reserve(self: &Arc<Self>, bytes: usize) -> Option<MemoryReservation> {
        let mut reservation = MemoryReservation::empty(&self.account(MemoryOrigin::EXEMPT));
        reservation.resize(bytes).then_some(reservation)
    }

    /// The share of each source that holds memory now.
    fn equal_share(&self) -> usize {
        self.pool() / self.origins.lock().sources.len().max(1)
    }
}

impl SourceAccount {
    /// Whether what it holds is within the bounds of one source and one subnet.
    fn is_within(&self, more: usize) -> bool {
        let share = MemoryBudget::source_share(self.budget.limit());
        self.used.load(Ordering::Relaxed).saturating_add(more) <= share
            && self.subnet.load(Ordering::Relaxed).saturating_add(more) <= share / 2 * 3
    }
}

impl Drop for SourceAccount {
    fn drop(&mut self) {
        let mut origins = self.budget.origins.lock();
        // A new account of the same source may be there already.
        if origins.sources.get(&self.origin.0).is_some_and(|known| known.strong_count() == 0) {
            origins.sources.remove(&self.origin.0);
        }
        // This account holds the last reference but one, if any.
        if Arc::strong_count(&self.subnet) == 1 {
            origins.subnets.remove(&self.origin.subnet());
        }
    }
}

impl MemoryAccount {
    /// Bytes that the connection holds.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// The memory of all connections.
    pub(super) fn budget(&self) -> &Arc<MemoryBudget> {
        &self.source.budget
    }

    /// Notes that bytes of the connection moved.
    pub(super) fn moved(&self, bytes: usize) {
        self.progress.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes that moved in a second for each byte held: the less, the less is lost with the
    /// connection.
    pub(crate) fn progress_per_byte(&self) -> f64 {
        let moved = self.progress.load(Ordering::Relaxed) as f64;
        moved / self.used().max(1) as f64 / self.opened.elapsed().as_secs_f64().max(0.001)
    }

    /// Whether its source holds more than its equal share.
    pub(crate) fn is_above_share(&self) -> bool {
        self.source.origin != MemoryOrigin::EXEMPT
            && self.source.used.load(Ordering::Relaxed) > self.budget().equal_share()
    }

    /// Whether the connection alone holds more than there can be for it.
    pub(super) fn is_beyond_hope(&self) -> bool {
        let budget = self.budget();
        let is_exempt = self.source.origin == MemoryOrigin::EXEMPT;
        let most = if is_exempt { budget.limit() } else { MemoryBudget::source_share(budget.limit()) };
        self.used() > most.max(GUARANTEED_BYTES)
    }

    /// Whether nothing of this connection is in the way of reserving more.
    pub(super) fn has_room(&self) -> bool {
        self.limit_for(0, Purpose::Receive).is_some_and(|limit| self.budget().used() <= limit)
    }

    /// The bound of the sum for `more` bytes; `None` if a share refuses them.
    fn limit_for(&self, more: usize, purpose: Purpose) -> Option<usize> {
        let budget = self.budget();
        let is_guaranteed = self.used().saturating_add(more) <= GUARANTEED_BYTES;
        if is_guaranteed || self.source.origin == MemoryOrigin::EXEMPT {
            return Some(budget.limit());
        }
        let limit = if purpose == Purpose::Send { budget.limit() } else { budget.pool() };
        self.source.is_within(more).then_some(limit)
    }

    fn take(&self, bytes: usize, purpose: Purpose) -> bool {
        let budget = self.budget();
        // Relaxed: the sums are counts and guard no other data. The shares are read first: two takes
        // at one moment may exceed one by a message.
        let limit = self.limit_for(bytes, purpose);
        let taken = limit.is_some_and(|limit| {
            let add = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= limit);
            budget.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
        });
        if taken {
            self.add(bytes);
        } else {
            budget.refused.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    /// Adds to all sums but that of the budget.
    fn add(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        self.source.used.fetch_add(bytes, Ordering::Relaxed);
        self.source.subnet.fetch_add(bytes, Ordering::Relaxed);
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        self.source.used.fetch_sub(bytes, Ordering::Relaxed);
        self.source.subnet.fetch_sub(bytes, Ordering::Relaxed);
        self.budget().used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A connection that does not read until there is room. Dropped, it no longer waits.
#[derive(Debug)]
pub(super) struct MemoryWait(Arc<MemoryBudget>);

impl MemoryWait {
    pub(super) fn new(account: &MemoryAccount) -> Self {
        let budget = Arc::clone(account.budget());
        budget.waiting.fetch_add(1, Ordering::Relaxed);
        Self(budget)
    }

    /// There is room.
    pub(super) fn resume(self) {
        self.0.resumed.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for MemoryWait {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bytes held against a [`MemoryBudget`]; dropping it gives them back.
#[derive(Debug)]
pub struct MemoryReservation {
    account: Arc<MemoryAccount>,
    bytes: usize,
}

impl MemoryReservation {
    /// An empty reservation, to grow later.
    pub fn empty(account: &Arc<MemoryAccount>) -> Self {
        Self { account: Arc::clone(account), bytes: 0 }
    }

    /// The bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn account(&self) -> &Arc<MemoryAccount> {
        &self.account
    }

    /// Moves up to `bytes` to another reservation of the same connection. The sum does not change.
    pub fn give(&mut self, bytes: usize, to: &mut Self) {
        debug_assert!(Arc::ptr_eq(&self.account, &to.account), "reservations of two connections");
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        to.bytes += bytes;
    }

    /// Moves up to `bytes` to a reservation of their own.
    pub(super) fn split(&mut self, bytes: usize) -> Self {
        let mut part = Self::empty(&self.account);
        self.give(bytes, &mut part);
        part
    }

    /// Grows or shrinks to `bytes`, which are held already, even above the ceiling. Nothing more is
    /// granted until the sum is below the ceiling again.
    pub(super) fn overdraw(&mut self, bytes: usize) {
        if bytes > self.bytes {
            let more = bytes - self.bytes;
            self.account.budget().used.fetch_add(more, Ordering::Relaxed);
            self.account.add(more);
            self.bytes = bytes;
        } else {
            self.resize(bytes);
        }
    }

    /// Grows or shrinks to `bytes` of what a peer sends. Returns `false` and changes nothing if the
    /// ceiling, or a share, does not allow the growth.
    pub fn resize(&mut self, bytes: usize) -> bool {
        self.resize_as(bytes, Purpose::Receive)
    }

    /// The same for what we send: a quarter of the memory is kept for it.
    pub(super) fn resize_to_send(&mut self, bytes: usize) -> bool {
        self.resize_as(bytes, Purpose::Send)
    }

    fn resize_as(&mut self, bytes: usize, purpose: Purpose) -> bool {
        if bytes > self.bytes {
            if !self.account.take(bytes - self.bytes, purpose) {
                return false;
            }
        } else if bytes < self.bytes {
            self.account.give_back(self.bytes - bytes);
        }
        self.bytes = bytes;
        true
    }
}

impl Drop for MemoryReservation {
    fn drop(&mut self) {
        self.account.give_back(self.bytes);
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
        let mut one = budget.reserve(60).unwrap();
        let mut other = MemoryReservation::empty(one.account());
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
        let mut one = budget.reserve(60).unwrap();
        let mut other = MemoryReservation::empty(one.account());
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

    const MIB: usize = 1 << 20;

    fn origin(ip: [u8; 4]) -> MemoryOrigin {
        MemoryOrigin::of(Source::of(ip.into()))
    }

    fn held_by(budget: &Arc<MemoryBudget>, ip: [u8; 4], bytes: usize) -> Option<MemoryReservation> {
        let mut held = MemoryReservation::empty(&budget.account(origin(ip)));
        held.resize(bytes).then_some(held)
    }

    #[test]
    fn neither_a_source_nor_a_subnet_takes_the_room_of_others() {
        // 96 MiB for strangers: 48 for a source, 72 for a subnet.
        let budget = MemoryBudget::new(128 * MIB);
        let mut held: Vec<_> = (0..9).map_while(|_| held_by(&budget, [20, 0, 0, 1], 8 * MIB)).collect();
        assert_eq!(held.len(), 6, "a source");
        held.extend((2..9).map_while(|host| held_by(&budget, [20, 0, 0, host], 8 * MIB)));
        assert_eq!(held.len(), 9, "a subnet");
        held.extend((1..9).map_while(|net| held_by(&budget, [20, 0, net, 1], 8 * MIB)));
        assert_eq!(held.len(), 12, "strangers");
        // What is kept: for us, for trusted peers, and for a small message of any connection.
        assert!(held_by(&budget, [20, 0, 0, 1], GUARANTEED_BYTES).is_some());
        let mut ours = MemoryReservation::empty(&budget.account(origin([30, 0, 0, 1])));
        assert!(!ours.resize(16 * MIB) && ours.resize_to_send(16 * MIB));
        assert!(budget.reserve(16 * MIB).is_some());
        drop((held, ours));
        assert_eq!(budget.used(), 0);
        let origins = budget.origins.lock();
        assert!(origins.sources.is_empty() && origins.subnets.is_empty(), "{origins:?}");
    }

    #[test]
    fn a_source_is_above_its_share_by_what_all_its_connections_hold() {
        let budget = MemoryBudget::new(128 * MIB);
        let few = held_by(&budget, [20, 0, 0, 1], 40 * MIB).expect("room");
        let many: Vec<_> =
            (0..6).map(|_| held_by(&budget, [20, 1, 0, 1], 8 * MIB).expect("room")).collect();
        // An equal share is 48 MiB.
        assert!(!few.account().is_above_share() && !many[0].account().is_above_share());
        let third = held_by(&budget, [20, 2, 0, 1], MIB).expect("room");
        assert!(few.account().is_above_share() && many[0].account().is_above_share());
        assert!(!third.account().is_above_share());
    }

    #[test]
    fn an_ipv6_network_and_an_ipv4_address_are_different_origins() {
        let of = |text: &str| MemoryOrigin::of(Source::of(text.parse().expect("an address")));
        assert_eq!(of("2a00:1:2:3::1"), of("2a00:1:2:3::9"));
        assert_ne!(of("2a00:1:2:3::1"), of("2a00:1:2:4::1"));
        assert_eq!(of("2a00:1:2:3::1").subnet(), of("2a00:1:2:ffff::1").subnet());
        assert_ne!(of("2a00:1:2:3::1").subnet(), of("2a00:1:3:3::1").subnet());
        assert_eq!(of("20.0.0.1").subnet(), of("20.0.0.200").subnet());
        assert_ne!(of("20.0.0.1").subnet(), of("20.0.1.1").subnet());
    }
}
