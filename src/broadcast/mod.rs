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
//! Further: 21 at [`Waiter`], 40 in [`WakeSet`]'s module, 41 at [`Cursor::release`], 42 at [`Cursor`].
//!
//! # Not promised
//! Order between logs, between a log and unicasts, and between a log and the state table.

mod batch;
mod cursor;
mod family;
mod gate;
mod glance;
mod hub;
mod ring;
mod segment;
mod sleepers;
pub mod state;
mod view;
mod waiter;
mod words;

use std::sync::Arc;
use std::time::Duration;

use crossbeam_utils::CachePadded;

pub use batch::Batch;
pub use cursor::{Cursor, Fill, RESIDUE_MAX};
pub(super) use cursor::{CursorShared, LogCursor};
pub use family::{FAMILY, LogPositions, LogSet};
pub(super) use glance::Glance;
pub(super) use hub::ParkedWaker;
pub use hub::{Parked, Parker, WakeSet, WakerTask};
pub(super) use view::CursorStates;
pub use view::{CursorView, Receipt, ResumePoint};
pub use waiter::Waiter;
pub use words::{AppendError, Appended, LagPolicy, LogChunk, LogConfig, LogStats};

use crate::base::{ConnId, Tick};
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard};
use gate::{Gate, Span};
use ring::{Gather, Ring};
use segment::Position;
use words::{check_len, limit_of};

/// A shared, bounded, append-only log of encoded messages.
#[derive(Debug)]
pub struct Log {
    hub: Arc<WakeSet>,
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
    gate: Gate,
    /// Its place in its family.
    place: usize,
}

impl Log {
    /// An empty log whose links sleep in `hub`.
    pub fn new(config: LogConfig, hub: Arc<WakeSet>) -> Arc<Self> {
        Self::at_place(config, hub, 0)
    }

    fn at_place(config: LogConfig, hub: Arc<WakeSet>, place: usize) -> Arc<Self> {
        Arc::new(Self {
            hub,
            ring: CachePadded::new(Mutex::new(Ring::new())),
            end: CachePadded::new(AtomicU64::new(0)),
            begin: AtomicU64::new(0),
            bytes: AtomicUsize::new(0),
            limit: AtomicUsize::new(limit_of(config.ring_bytes)),
            block: config.block_bytes,
            stall: config.stall.min(LONGEST_STALL),
            disconnect: AtomicBool::new(config.lag == LagPolicy::Disconnect),
            skipped: AtomicU64::new(0),
            gate: Gate::new(place),
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
            ring = self.roll(ring, self.block.min(limit / 8).max(encoded.len()), limit);
            limit = self.ring_bytes();
        }
        let seq = ring.append(encoded, origin, self.block.min(limit / 8));
        self.settle(ring, limit);
        self.hub.notify();
        Some(seq)
    }

    /// Begins a new block of the ring.
    #[cold]
    fn roll<'a>(
        &'a self,
        mut ring: MutexGuard<'a, Ring>,
        block: usize,
        limit: usize,
    ) -> MutexGuard<'a, Ring> {
        let evicted = ring.roll(block, limit);
        self.begin.store(ring.begin().pos, Ordering::Relaxed);
        if evicted.is_empty() {
            return ring;
        }
        self.show(&ring);
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
        self.settle(ring, limit);
        self.hub.notify();
        Ok(Appended { seq, origin })
    }

    /// Evicts what is too much, shows the world how the ring stands, and lets go of it.
    #[inline]
    fn settle(&self, ring: MutexGuard<'_, Ring>, limit: usize) {
        if ring.charge() > limit {
            return self.make_room(ring, limit);
        }
        self.show(&ring);
    }

    #[cold]
    fn make_room(&self, mut ring: MutexGuard<'_, Ring>, limit: usize) {
        let evicted = ring.evict(limit);
        self.begin.store(ring.begin().pos, Ordering::Relaxed);
        self.show(&ring);
        drop(ring);
        // Memory of others, whose owner may run code of its own: never under the lock.
        drop(evicted);
    }

    #[inline]
    fn show(&self, ring: &Ring) {
        self.bytes.store(ring.charge(), Ordering::Relaxed);
        // Release: who reads this end and then takes the lock finds what was appended. Pairs with `end_pos`.
        self.end.store(ring.end_pos(), Ordering::Release);
    }

    /// A cursor behind the newest message. Take it before the peer's key goes live.
    ///
    /// # Cost
    /// Two short locks; O(1).
    pub fn join(self: &Arc<Self>, conn: ConnId) -> Cursor {
        let at = self.end_mark();
        self.enter(CursorStates::new(conn, [(at, None); FAMILY]), at)
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
        self.enter(CursorStates::new(conn, [(at, Some(from.conn)); FAMILY]), at)
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
    pub fn waiter(self: &Arc<Self>) -> Waiter {
        Waiter::new(Arc::clone(self))
    }

    /// Whether a producer need not wait: a [`Waiter`] would say so at once.
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

    /// Stops waiting for links that stand still or hold most others up; see [`Waiter`]. Call it at [`Log::stall_deadline`],
    /// and several times a stall time, or slow links are not found out.
    ///
    /// # Cost
    /// A short lock; O(links) while somebody waits or a link is slow.
    pub fn tick(&self, now: Tick) {
        self.gate.tick(&self.judged(), now);
    }

    /// How often whoever waits should bring the clock, so that links which most others idle for are found out soon: a
    /// fiftieth of the stall time. See [`Waiter`].
    pub fn look_pause(&self) -> Duration {
        gate::pause(self.stall)
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

    fn end_mark(&self) -> Position {
        self.ring.lock().end()
    }

    fn gather(&self, at: Position, max: usize, batch: &mut Batch) -> Gather {
        self.ring.lock().gather(at, max, batch)
    }

    fn glance(&self, pos: u64, foothold: CursorShared<'_>, into: &mut Glance) -> bool {
        self.ring.lock().glance(pos, |conn| foothold.is_own(conn), into)
    }

    fn count_skipped(&self, messages: u64) {
        self.skipped.fetch_add(messages, Ordering::Relaxed);
    }

    fn span(&self) -> Span {
        // `begin` first: it never passes `end`.
        let begin = self.begin.load(Ordering::Relaxed);
        let window = (self.ring_bytes() / 4) as u64;
        Span { end: self.end_pos(), begin, window, stall: self.stall, skips: false }
    }

    /// The span for whoever judges links.
    fn judged(&self) -> Span {
        Span { skips: self.lag_policy() == LagPolicy::Skip, ..self.span() }
    }

    fn progressed(&self, seat: u32) {
        self.gate.progressed(seat, &self.span());
    }

    fn leave(&self, seat: u32) {
        self.gate.leave(seat, &self.span());
    }
}

/// More than anybody waits; its multiples are times, too.
const LONGEST_STALL: Duration = Duration::from_secs(365 * 24 * 3600);

#[cfg(all(test, peerpool_loom))]
mod models;
#[cfg(all(test, not(peerpool_loom)))]
mod tests;
