//! [`Log`]: one append-only log of encoded messages, bounded in bytes, shared by all connections of
//! a protocol and lane.
//!
//! One lock guards the [`Ring`] with the content. Producers of one log take turns on it, each for
//! one copy; connections take it to collect what they have to write. A few atomics beside it are
//! written under the lock and read without it: a connection that sleeps and a producer that waits
//! look at those only.
//!
//! `append`: check the length, lock, begin a block if the current one is full, copy, publish the
//! new end, unlock, wake.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_utils::CachePadded;

use super::backpressure::{self, Backpressure, LogSnapshot, RoomWait};
use super::batch::Batch;
use super::fast_path::TailCopy;
use super::log_set::LogMember;
use super::receipt::CursorStates;
use super::ring::{Collected, Ring};
use super::segment::Position;
use super::types::{
    AppendError, Appended, LagPolicy, LogChunk, LogConfig, LogStats, check_len, clamp_ring_bytes,
};
use super::wake_set::WakeSet;
use crate::base::{ConnId, Tick};
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// Longest stall time. Its multiples must be times, too.
const MAX_STALL: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long nothing is appended before the memory is given back.
const RELEASE_AFTER: Duration = Duration::from_secs(5);
/// Blocks of a ring, at least.
const MIN_BLOCKS: usize = 8;
/// A connection may be this part of the ring behind before producers that wait for room are
/// stopped.
const LAG_DIVISOR: usize = 4;

/// A shared, bounded, append-only log of encoded messages.
#[derive(Debug)]
pub struct Log {
    wake_set: Arc<WakeSet>,
    ring: CachePadded<Mutex<Ring>>,
    /// Bytes ever appended. Written under the lock; sleeping connections and waiting producers read
    /// it.
    end: CachePadded<AtomicU64>,
    /// Position of the oldest byte held. Hint.
    begin: AtomicU64,
    /// Memory held, as of the last change. Hint for statistics; the ring's own number is the
    /// authority.
    memory: AtomicUsize,
    /// Memory that may be held. Written under the lock, and every change of the ring reads it
    /// there: otherwise a limit that was lowered meanwhile would not hold.
    limit: AtomicUsize,
    block_bytes: usize,
    stall: Duration,
    disconnects_on_lag: AtomicBool,
    skipped: AtomicU64,
    backpressure: Backpressure,
    /// The end at an earlier tick, and since when it has been that.
    idle: Mutex<(u64, Tick)>,
    /// Its index in its set.
    index: usize,
}

impl Log {
    /// An empty log that wakes the connections of `wake_set`, at `index` of its set.
    pub(super) fn new(config: LogConfig, wake_set: Arc<WakeSet>, index: usize) -> Arc<Self> {
        Arc::new(Self {
            wake_set,
            ring: CachePadded::new(Mutex::new(Ring::new())),
            end: CachePadded::new(AtomicU64::new(0)),
            begin: AtomicU64::new(0),
            memory: AtomicUsize::new(0),
            limit: AtomicUsize::new(clamp_ring_bytes(config.ring_bytes)),
            block_bytes: config.block_bytes,
            stall: config.stall.min(MAX_STALL),
            disconnects_on_lag: AtomicBool::new(config.lag == LagPolicy::Disconnect),
            skipped: AtomicU64::new(0),
            backpressure: Backpressure::new(index),
            idle: Mutex::new((0, Tick::ZERO)),
            index,
        })
    }

    /// Appends one whole encoded message that is one chunk on the wire. Never waits for a
    /// connection.
    ///
    /// From 16 KiB up, prefer [`Log::append_chunks`]: this call copies the bytes under the lock.
    ///
    /// # Errors
    /// [`AppendError`]: the message is empty, or larger than half of the ring.
    ///
    /// # Cost
    /// One short lock, a length check and a copy. A fence and a load if no connection sleeps. O(1)
    /// whatever the number of connections. Producers of one log take turns on the lock.
    #[inline]
    pub fn append(&self, encoded: &[u8], origin: Option<ConnId>) -> Result<Appended, AppendError> {
        loop {
            check_len(encoded.len(), self.ring_bytes())?;
            if let Some(seq) = self.try_append(encoded, origin) {
                return Ok(Appended { seq, origin });
            }
        }
    }

    /// Returns the number alone, which comes back in registers. A larger result goes through
    /// memory, where it is stored in parts and read as a whole, and that stalls longer than the
    /// lock takes. `None` if the ring has become too small for the message.
    #[inline(never)]
    fn try_append(&self, encoded: &[u8], origin: Option<ConnId>) -> Option<u64> {
        let mut ring = self.ring.lock();
        let mut limit = self.ring_bytes();
        while !ring.fits(encoded.len()) {
            // Only here: what fits into the current block does not raise the memory held.
            check_len(encoded.len(), limit).ok()?;
            ring = self.rotate_block(ring, self.block_bytes(limit).max(encoded.len()), limit);
            limit = self.ring_bytes();
        }
        let seq = ring.append(encoded, origin, self.block_bytes(limit));
        self.publish(ring, limit);
        self.wake_set.notify();
        Some(seq)
    }

    fn block_bytes(&self, limit: usize) -> usize {
        self.block_bytes.min(limit / MIN_BLOCKS)
    }

    /// Begins a new block of the ring. Unlocks the ring in between if segments have to be dropped
    /// outside the lock.
    #[cold]
    fn rotate_block<'a>(
        &'a self,
        mut ring: MutexGuard<'a, Ring>,
        block_bytes: usize,
        limit: usize,
    ) -> MutexGuard<'a, Ring> {
        let evicted = ring.rotate_block(block_bytes, limit);
        self.begin.store(ring.begin().pos, Ordering::Relaxed);
        if evicted.is_empty() {
            return ring;
        }
        self.store_hints(&ring);
        drop(ring);
        drop(evicted);
        self.ring.lock()
    }

    /// Appends one large message whose payload is referred to, not copied, and whose chunks other
    /// lanes may interleave.
    ///
    /// # Errors
    /// [`AppendError`]: the message is empty, or larger than half of the ring.
    ///
    /// # Cost
    /// As [`Log::append`] without the copy; allocates before the lock is taken.
    pub fn append_chunks(
        &self,
        chunks: impl IntoIterator<Item = LogChunk>,
        origin: Option<ConnId>,
    ) -> Result<Appended, AppendError> {
        let (mut chunk_ends, mut pieces, mut piece_ends, mut len) =
            (Vec::new(), Vec::new(), Vec::new(), 0usize);
        for chunk in chunks {
            for piece in [chunk.head, chunk.body] {
                if !piece.is_empty() {
                    len += piece.len();
                    pieces.push(piece);
                    piece_ends.push(u32::try_from(len).unwrap_or(u32::MAX));
                }
            }
            if piece_ends.last() != chunk_ends.last() {
                chunk_ends.push(u32::try_from(len).unwrap_or(u32::MAX));
            }
        }
        let mut ring = self.ring.lock();
        let limit = self.ring_bytes();
        check_len(len, limit)?;
        let seq = ring.append_pieces(chunk_ends, pieces, piece_ends, origin);
        self.publish(ring, limit);
        self.wake_set.notify();
        Ok(Appended { seq, origin })
    }

    /// Evicts what is too much, publishes the new end, and unlocks the ring.
    #[inline]
    fn publish(&self, ring: MutexGuard<'_, Ring>, limit: usize) {
        if ring.memory() > limit {
            return self.evict_and_publish(ring, limit);
        }
        self.store_hints(&ring);
    }

    #[cold]
    fn evict_and_publish(&self, mut ring: MutexGuard<'_, Ring>, limit: usize) {
        let evicted = ring.evict(limit);
        self.begin.store(ring.begin().pos, Ordering::Relaxed);
        self.store_hints(&ring);
        drop(ring);
        // Referenced payloads, whose owner may run code of its own: never under the lock.
        drop(evicted);
    }

    #[inline]
    fn store_hints(&self, ring: &Ring) {
        self.memory.store(ring.memory(), Ordering::Relaxed);
        // Release: a reader of this end that then takes the lock finds what was appended. Pairs
        // with `end_pos`.
        self.end.store(ring.end_pos(), Ordering::Release);
    }

    /// A producer that waits until connections leave room.
    pub fn room_wait(self: &Arc<Self>) -> RoomWait {
        RoomWait::new(Arc::clone(self))
    }

    /// Whether a [`RoomWait`] would be ready at once.
    ///
    /// # Cost
    /// Three loads, no clock.
    pub fn has_room(&self) -> bool {
        let log = self.snapshot();
        self.backpressure.has_room(&log)
    }

    /// When [`Log::tick`] is due because a producer waits for a connection that may be standing
    /// still. `None` if no producer waits.
    pub fn stall_deadline(&self) -> Option<Tick> {
        self.backpressure.deadline(self.stall)
    }

    /// Stops waiting for connections that stand still or keep most others idle; see [`RoomWait`].
    /// Call it at [`Log::stall_deadline`], and several times in a stall time, or slow connections
    /// are not found.
    ///
    /// # Cost
    /// A short lock; O(connections) while a producer waits or a connection is slow.
    ///
    /// Also gives back the memory of a log to which nothing was appended for some seconds and that
    /// every connection has read: O(connections), once.
    pub fn tick(&self, now: Tick) {
        self.backpressure.tick(&self.snapshot_with_policy(), now);
        if self.bytes() > 0 && self.is_idle(now) {
            self.release();
        }
    }

    fn is_idle(&self, now: Tick) -> bool {
        let end = self.end_pos();
        let mut idle = self.idle.lock();
        if idle.0 != end {
            *idle = (end, now);
        }
        now.since(idle.1) >= RELEASE_AFTER
    }

    /// Drops everything that is held, if every connection has read it.
    fn release(&self) {
        let end = self.end_pos();
        if !self.backpressure.has_everybody_read(end) {
            return;
        }
        let mut ring = self.ring.lock();
        // What was appended meanwhile stays.
        if ring.end_pos() == end {
            ring.retire_above(0);
            self.evict_and_publish(ring, 0);
        }
    }

    /// How often a waiting producer should poll with a new time, so that slow connections are found
    /// soon: a fiftieth of the stall time. See [`RoomWait`].
    pub fn check_interval(&self) -> Duration {
        backpressure::check_interval(self.stall)
    }

    /// Bytes of memory held: blocks, referenced payloads, indexes.
    pub fn bytes(&self) -> usize {
        self.memory.load(Ordering::Relaxed)
    }

    /// Bytes of memory that may be held.
    pub fn ring_bytes(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Changes the bytes of memory that may be held; at least 8 KiB. Evicts what is too much at
    /// once.
    pub fn set_ring_bytes(&self, ring_bytes: usize) {
        let limit = clamp_ring_bytes(ring_bytes);
        let mut ring = self.ring.lock();
        self.limit.store(limit, Ordering::Relaxed);
        ring.retire_above(limit);
        self.evict_and_publish(ring, limit);
    }

    /// What happens to a connection that falls behind the ring.
    pub fn lag_policy(&self) -> LagPolicy {
        if self.disconnects_on_lag.load(Ordering::Relaxed) { LagPolicy::Disconnect } else { LagPolicy::Skip }
    }

    /// Changes what happens to a connection that falls behind the ring, from its next
    /// [`Cursor::fill`] on.
    ///
    /// [`Cursor::fill`]: super::Cursor::fill
    pub fn set_lag_policy(&self, policy: LagPolicy) {
        self.disconnects_on_lag.store(policy == LagPolicy::Disconnect, Ordering::Relaxed);
    }

    /// The counters, read at one moment of the log.
    pub fn stats(&self) -> LogStats {
        let cursors = self.backpressure.members();
        let ring = self.ring.lock();
        let (begin, end) = (ring.begin(), ring.end());
        LogStats {
            bytes: ring.memory(),
            ring_bytes: self.ring_bytes(),
            messages: end.seq,
            appended_bytes: end.pos,
            evicted: begin.seq,
            skipped: self.skipped.load(Ordering::Relaxed),
            cursors,
        }
    }

    pub(super) const fn index(&self) -> usize {
        self.index
    }

    pub(super) fn end_pos(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    pub(super) fn end_position(&self) -> Position {
        self.ring.lock().end()
    }

    /// Where message `seq` begins. If it is evicted, a position before the ring.
    pub(super) fn position_of(&self, seq: u64) -> Position {
        let found = self.ring.lock().position_of(seq);
        found.unwrap_or(Position { segment: 0, offset: 0, pos: 0, seq, mid_message: false })
    }

    pub(super) fn collect(&self, at: Position, max: usize, batch: &mut Batch) -> Collected {
        self.ring.lock().collect(at, max, batch)
    }

    pub(super) fn copy_tail(&self, pos: u64, member: LogMember<'_>, into: &mut TailCopy) -> bool {
        self.ring.lock().copy_tail(pos, |conn| member.is_own(conn), into)
    }

    pub(super) fn count_skipped(&self, messages: u64) {
        self.skipped.fetch_add(messages, Ordering::Relaxed);
    }

    /// Adds a connection to those that producers wait for. Returns its index among them.
    pub(super) fn join(&self, states: Arc<CursorStates>) -> u32 {
        self.backpressure.join(states)
    }

    pub(super) fn leave(&self, member: u32) {
        self.backpressure.leave(member, &self.snapshot());
    }

    /// A connection that producers wait for has written something.
    pub(super) fn member_progressed(&self, member: u32) {
        self.backpressure.progressed(member, &self.snapshot());
    }

    pub(super) const fn backpressure(&self) -> &Backpressure {
        &self.backpressure
    }

    /// What back-pressure needs to know of the log. `skips_on_lag` is left out; see
    /// [`Log::snapshot_with_policy`].
    pub(super) fn snapshot(&self) -> LogSnapshot {
        // `begin` first: it never passes `end`.
        let begin = self.begin.load(Ordering::Relaxed);
        let max_lag = (self.ring_bytes() / LAG_DIVISOR) as u64;
        LogSnapshot { end: self.end_pos(), begin, max_lag, stall: self.stall, skips_on_lag: false }
    }

    /// The snapshot for a check of the members.
    pub(super) fn snapshot_with_policy(&self) -> LogSnapshot {
        LogSnapshot { skips_on_lag: self.lag_policy() == LagPolicy::Skip, ..self.snapshot() }
    }

    #[cfg(all(test, not(peerpool_loom)))]
    pub(super) fn segments(&self) -> usize {
        self.ring.lock().segments()
    }
}
