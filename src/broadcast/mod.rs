//! The broadcast log: why a broadcast costs the same for 8 peers and for 1,000.
//!
//! One append-only log a dialect and class, shared by all links. A broadcast is one copy to its end; each link keeps a
//! [`Cursor`], takes what lies behind it as slices of shared segments, and writes that with one vectored write.
//!
//! ```text
//!  append(bytes) --> | segment 7 | segment 8 (large, uncopied) | segment 9 | open tail |     one short lock
//!                         ^                     ^                                ^
//!                   cursor of link A      cursor of link B               cursor of link C: asleep in the WakeSet
//! ```
//!
//! The log knows neither runtime nor dialect nor clock: messages come encoded, with their chunk boundaries; tasks are
//! woken through [`std::task::Waker`]; what depends on time takes `now`.
//!
//! # Invariants
//! 22. *Statement*: the log holds at most [`LogConfig::ring_bytes`], payloads it only refers to and indexes included.
//!     *Enforced by*: every append evicts the oldest segments before it returns, whoever still needs them; the places of
//!     links hold no reference. *Breaks if*: a link keeps a [`Batch`] with runs across a wait.
//! 24. *Statement*: a message is encoded once and its bytes are shared. *Enforced by*: the log takes encoded bytes; links get
//!     slices. A link that finds less than 4 KiB in the open tail copies that instead, so that the segments stay large.
//! 43. *Statement*: what joined before an append gets the message, or the lag policy says why not. *Enforced by*: joining
//!     and appending take the same lock. *Breaks if*: a key goes live before its cursors were taken.
//!
//! Further: 21 at [`RoomWait`], 40 in [`WakeSet`]'s module, 41 at [`Cursor::release`], 42 at [`Cursor`].
//!
//! # Not promised
//! Order between logs, between a log and unicasts, and between a log and the state table.

mod backpressure;
mod batch;
mod cursor;
mod fast_path;
mod log_set;
mod receipt;
mod ring;
mod segment;
pub mod state;
mod types;
mod wake_list;
mod wake_set;

use std::sync::Arc;
use std::time::Duration;

use crossbeam_utils::CachePadded;

pub use backpressure::RoomWait;
pub use batch::Batch;
pub use cursor::{Cursor, Fill, MAX_PARTIAL_CHUNK};
pub(super) use cursor::{LogCursor, LogMember};
pub(super) use fast_path::TailCopy;
pub use log_set::{LOGS_PER_SET, LogPositions, LogSet};
pub(super) use receipt::CursorStates;
pub use receipt::{CursorView, Receipt, ResumePoint};
pub use types::{AppendError, Appended, LagPolicy, LogChunk, LogConfig, LogStats};
pub(super) use wake_set::ParkedWaker;
pub use wake_set::{Parked, Parker, WakeSet, WakerTask};

use crate::base::{ConnId, Tick};
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard};
use backpressure::{Backpressure, LogSnapshot};
use ring::{Collected, Ring};
use segment::Position;
use types::{check_len, limit_of};

/// A shared, bounded, append-only log of encoded messages.
#[derive(Debug)]
pub struct Log {
    wake_set: Arc<WakeSet>,
    ring: CachePadded<Mutex<Ring>>,
    /// Bytes ever appended. Written under the lock; the word that sleeping links and waiting producers read.
    end: CachePadded<AtomicU64>,
    /// Where the oldest byte held stands. Hint.
    begin: AtomicU64,
    /// Memory held, as of the last change. Hint for whoever adds up the ceiling; the ring's own number is the authority.
    bytes: AtomicUsize,
    /// Memory that may be held. Written under the ring's lock, and what changes the ring reads it there: otherwise a bound
    /// that was lowered meanwhile would not hold.
    limit: AtomicUsize,
    block: usize,
    stall: Duration,
    disconnect: AtomicBool,
    skipped: AtomicU64,
    gate: Backpressure,
    /// Its place in its log_set.
    place: usize,
}

impl Log {
    /// An empty log whose links sleep in `wake_set`.
    pub fn new(config: LogConfig, wake_set: Arc<WakeSet>) -> Arc<Self> {
        Self::at_place(config, wake_set, 0)
    }

    fn at_place(config: LogConfig, wake_set: Arc<WakeSet>, place: usize) -> Arc<Self> {
        Arc::new(Self {
            wake_set,
            ring: CachePadded::new(Mutex::new(Ring::new())),
            end: CachePadded::new(AtomicU64::new(0)),
            begin: AtomicU64::new(0),
            bytes: AtomicUsize::new(0),
            limit: AtomicUsize::new(limit_of(config.ring_bytes)),
            block: config.block_bytes,
            stall: config.stall.min(MAX_STALL),
            disconnect: AtomicBool::new(config.lag == LagPolicy::Disconnect),
            skipped: AtomicU64::new(0),
            gate: Backpressure::new(place),
            place,
        })
    }

    /// Appends one whole encoded message that is one chunk on the line. Never waits for a link.
    ///
    /// From 16 KiB up, prefer [`Log::append_chunks`]: here the bytes are copied under the lock.
    ///
    /// # Errors
    /// [`AppendError`]: an empty message, or one larger than half the ring.
    ///
    /// # Cost
    /// One short lock, a length check and a copy; a fence and a load if no link sleeps. O(1) whatever the number of links.
    #[inline]
    pub fn append(&self, encoded: &[u8], origin: Option<ConnId>) -> Result<Appended, AppendError> {
        loop {
            check_len(encoded.len(), self.ring_bytes())?;
            if let Some(seq) = self.push(encoded, origin) {
                return Ok(Appended { seq, origin });
            }
        }
    }

    /// Returns the number alone, which comes back in registers: a result that goes through memory is stored in parts and read
    /// as a whole, and that stalls longer than the lock takes. `None` if the ring has become too small for this.
    #[inline(never)]
    fn push(&self, encoded: &[u8], origin: Option<ConnId>) -> Option<u64> {
        let mut ring = self.ring.lock();
        let mut limit = self.ring_bytes();
        while !ring.fits(encoded.len()) {
            // Only here: what fits into the present block makes the ring hold no more.
            check_len(encoded.len(), limit).ok()?;
            ring = self.rotate_block(ring, self.block.min(limit / 8).max(encoded.len()), limit);
            limit = self.ring_bytes();
        }
        let seq = ring.append(encoded, origin, self.block.min(limit / 8));
        self.publish(ring, limit);
        self.wake_set.notify();
        Some(seq)
    }

    /// Begins a new block of the ring.
    #[cold]
    fn rotate_block<'a>(
        &'a self,
        mut ring: MutexGuard<'a, Ring>,
        block: usize,
        limit: usize,
    ) -> MutexGuard<'a, Ring> {
        let evicted = ring.rotate_block(block, limit);
        self.begin.store(ring.begin().pos, Ordering::Relaxed);
        if evicted.is_empty() {
            return ring;
        }
        self.store_hints(&ring);
        drop(ring);
        drop(evicted);
        self.ring.lock()
    }

    /// Appends one large message whose payload is referred to, not copied, and whose chunks other lanes may interleave.
    ///
    /// # Errors
    /// [`AppendError`]: an empty message, or one larger than half the ring.
    ///
    /// # Cost
    /// As [`Log::append`], without the copy; the allocation of a segment before the lock is taken.
    pub fn append_chunks(
        &self,
        chunks: impl IntoIterator<Item = LogChunk>,
        origin: Option<ConnId>,
    ) -> Result<Appended, AppendError> {
        let (mut chunk_ends, mut pieces, mut ends, mut len) = (Vec::new(), Vec::new(), Vec::new(), 0usize);
        for chunk in chunks {
            for piece in [chunk.head, chunk.body] {
                if !piece.is_empty() {
                    len += piece.len();
                    pieces.push(piece);
                    ends.push(u32::try_from(len).unwrap_or(u32::MAX));
                }
            }
            if ends.last() != chunk_ends.last() {
                chunk_ends.push(u32::try_from(len).unwrap_or(u32::MAX));
            }
        }
        let mut ring = self.ring.lock();
        let limit = self.ring_bytes();
        check_len(len, limit)?;
        let seq = ring.append_pieces(chunk_ends, pieces, ends, origin);
        self.publish(ring, limit);
        self.wake_set.notify();
        Ok(Appended { seq, origin })
    }

    /// Evicts what is too much, shows the world how the ring stands, and lets go of it.
    #[inline]
    fn publish(&self, ring: MutexGuard<'_, Ring>, limit: usize) {
        if ring.charge() > limit {
            return self.make_room(ring, limit);
        }
        self.store_hints(&ring);
    }

    #[cold]
    fn make_room(&self, mut ring: MutexGuard<'_, Ring>, limit: usize) {
        let evicted = ring.evict(limit);
        self.begin.store(ring.begin().pos, Ordering::Relaxed);
        self.store_hints(&ring);
        drop(ring);
        // Memory of others, whose owner may run code of its own: never under the lock.
        drop(evicted);
    }

    #[inline]
    fn store_hints(&self, ring: &Ring) {
        self.bytes.store(ring.charge(), Ordering::Relaxed);
        // Release: who reads this end and then takes the lock finds what was appended. Pairs with `end_pos`.
        self.end.store(ring.end_pos(), Ordering::Release);
    }

    /// A cursor behind the newest message. Take it before the peer's key goes live.
    ///
    /// # Cost
    /// Two short locks; O(1).
    pub fn join(self: &Arc<Self>, conn: ConnId) -> Cursor {
        let at = self.end_position();
        self.enter(CursorStates::new(conn, [(at, None); LOGS_PER_SET]), at)
    }

    /// A cursor where the link that this one replaces stood: at the first message that one has not written whole. Frames
    /// of either connection are written around.
    ///
    /// If that message has left the ring, the first [`Cursor::fill`] says so by the lag policy.
    ///
    /// # Cost
    /// Two short locks and a binary search.
    pub fn join_at(self: &Arc<Self>, conn: ConnId, from: ResumePoint) -> Cursor {
        let at = self.find(from.seq);
        self.enter(CursorStates::new(conn, [(at, Some(from.conn)); LOGS_PER_SET]), at)
    }

    /// Where this message is.
    fn find(&self, seq: u64) -> Position {
        let found = self.ring.lock().find(seq);
        // What is gone lies before the ring; where exactly does not matter.
        found.unwrap_or(Position { number: 0, offset: 0, pos: 0, seq, open: false })
    }

    fn enter(self: &Arc<Self>, views: Arc<CursorStates>, at: Position) -> Cursor {
        let seat = self.gate.join(Arc::clone(&views));
        Cursor::new(Arc::clone(self), views, seat, at)
    }

    /// Somebody who waits until links leave room.
    pub fn room_wait(self: &Arc<Self>) -> RoomWait {
        RoomWait::new(Arc::clone(self))
    }

    /// Whether a producer need not wait: a [`RoomWait`] would say so at once.
    ///
    /// # Cost
    /// Three loads, no clock.
    pub fn has_room(&self) -> bool {
        let span = self.span();
        self.gate.has_room(span.end, span.window)
    }

    /// When [`Log::tick`] is due, because a producer waits for a link that may be standing still. `None` if nobody waits.
    pub fn stall_deadline(&self) -> Option<Tick> {
        self.gate.deadline(self.stall)
    }

    /// Stops waiting for links that stand still or hold most others up; see [`RoomWait`]. Call it at [`Log::stall_deadline`],
    /// and several times a stall time, or slow links are not found out.
    ///
    /// # Cost
    /// A short lock; O(links) while somebody waits or a link is slow.
    pub fn tick(&self, now: Tick) {
        self.gate.tick(&self.judged(), now);
    }

    /// How often whoever waits should bring the clock, so that links which most others idle for are found out soon: a
    /// fiftieth of the stall time. See [`RoomWait`].
    pub fn check_interval(&self) -> Duration {
        backpressure::pause(self.stall)
    }

    /// Bytes of memory held: blocks, referenced payloads, indexes.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Bytes of memory that may be held.
    pub fn ring_bytes(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Changes how much may be held; at least 8 KiB. What is too much is evicted at once.
    pub fn set_ring_bytes(&self, ring_bytes: usize) {
        let limit = limit_of(ring_bytes);
        let mut ring = self.ring.lock();
        self.limit.store(limit, Ordering::Relaxed);
        ring.retire_above(limit);
        self.make_room(ring, limit);
    }

    /// What happens to a link that falls behind the ring.
    pub fn lag_policy(&self) -> LagPolicy {
        if self.disconnect.load(Ordering::Relaxed) { LagPolicy::Disconnect } else { LagPolicy::Skip }
    }

    /// Changes what happens to a link that falls behind the ring, from its next fill on.
    pub fn set_lag_policy(&self, policy: LagPolicy) {
        self.disconnect.store(policy == LagPolicy::Disconnect, Ordering::Relaxed);
    }

    /// The counters, read at one moment of the log.
    pub fn stats(&self) -> LogStats {
        let cursors = self.gate.members();
        let ring = self.ring.lock();
        let (begin, end) = (ring.begin(), ring.end());
        LogStats {
            bytes: ring.charge(),
            ring_bytes: self.ring_bytes(),
            messages: end.seq,
            appended_bytes: end.pos,
            evicted: begin.seq,
            skipped: self.skipped.load(Ordering::Relaxed),
            cursors,
        }
    }

    fn end_pos(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    fn end_position(&self) -> Position {
        self.ring.lock().end()
    }

    fn collect(&self, at: Position, max: usize, batch: &mut Batch) -> Collected {
        self.ring.lock().collect(at, max, batch)
    }

    fn copy_tail(&self, pos: u64, member: LogMember<'_>, into: &mut TailCopy) -> bool {
        self.ring.lock().copy_tail(pos, |conn| member.is_own(conn), into)
    }

    fn count_skipped(&self, messages: u64) {
        self.skipped.fetch_add(messages, Ordering::Relaxed);
    }

    fn span(&self) -> LogSnapshot {
        // `begin` first: it never passes `end`.
        let begin = self.begin.load(Ordering::Relaxed);
        let window = (self.ring_bytes() / 4) as u64;
        LogSnapshot { end: self.end_pos(), begin, window, stall: self.stall, skips: false }
    }

    /// The span for whoever judges links.
    fn judged(&self) -> LogSnapshot {
        LogSnapshot { skips: self.lag_policy() == LagPolicy::Skip, ..self.span() }
    }

    fn progressed(&self, seat: u32) {
        self.gate.progressed(seat, &self.span());
    }

    fn leave(&self, seat: u32) {
        self.gate.leave(seat, &self.span());
    }
}

/// More than anybody waits; its multiples are times, too.
const MAX_STALL: Duration = Duration::from_secs(365 * 24 * 3600);

#[cfg(all(test, peerpool_loom))]
mod models;
#[cfg(all(test, not(peerpool_loom)))]
mod tests;
