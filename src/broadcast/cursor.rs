//! One link's place in the log.

use std::sync::Arc;

use super::batch::Batch;
use super::fast_path::TailCopy;
use super::receipt::{CursorState, CursorStates, CursorView};
use super::ring::Collected;
use super::segment::Position;
use super::{LagPolicy, Log};
use crate::base::ConnId;

/// The most that a stuck link keeps a copy of: the rest of one chunk and its header.
pub const MAX_PARTIAL_CHUNK: usize = 16 * 1024 + 64;

/// What [`Cursor::fill`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Fill {
    /// The batch has bytes to write.
    Ready,
    /// The batch is empty: there is nothing to write.
    CaughtUp,
    /// The link lagged and now stands behind the newest message ([`LagPolicy::Skip`]); the batch is empty.
    Skipped {
        /// Messages passed by, the peer's own among them, an aborted one too.
        messages: u64,
        /// A chunked message was open on the line and will not be finished: tell the peer with `abort(lane)` before
        /// anything else is sent on the lane.
        aborted: bool,
    },
    /// The link lagged and cannot go on: by [`LagPolicy::Disconnect`], or because what is gone is the rest of a chunk
    /// that it had begun. It stays so.
    Overrun,
}

/// One link's place in the log. Owned by the link's task; dropping it leaves the log.
///
/// # Invariants
/// 42. *Statement*: what a link writes is a sequence of whole messages of the log in their order, each at most once;
///     an unfinished one is followed by `abort` or by the end of the link. *Enforced by*: places are chunk boundaries of the
///     index, and a gap begins and ends between messages. *Breaks if*: the caller sends something else while
///     [`Cursor::is_mid_chunk`] says so, or something of the same lane while [`Cursor::is_mid_message`] does.
#[derive(Debug)]
pub struct Cursor {
    log: Arc<Log>,
    views: Arc<CursorStates>,
    /// Where its entry is among those that producers may wait for.
    seat: u32,
    stride: LogCursor,
}

/// What a stride is taken from: a log, and what is known there of whose stride it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogMember<'a> {
    pub(super) log: &'a Log,
    /// Knows the bytes and messages behind it, at the log's place.
    pub(super) views: &'a CursorStates,
    pub(super) seat: u32,
}

/// How far a cursor is ahead of its member, while its link writes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LogCursor {
    /// Behind what was gathered.
    at: Position,
    /// A chunk was begun whose rest was too long to copy: `at` is inside it.
    is_mid_chunk: bool,
    /// Behind what was written.
    done_pos: u64,
    done_seq: u64,
    published: u64,
}

impl Cursor {
    pub(super) fn new(log: Arc<Log>, views: Arc<CursorStates>, seat: u32, at: Position) -> Self {
        Self { log, views, seat, stride: LogCursor::from(at) }
    }

    /// Whether anything was appended behind what this cursor has gathered.
    ///
    /// # Cost
    /// One atomic load.
    pub fn has_unread(&self) -> bool {
        self.stride.has_unread(self.member())
    }

    /// Gathers what comes next, up to `max` bytes and a chunk boundary, at least one chunk, without this peer's own
    /// frames. The batch must be empty or hold only what [`Cursor::release`] kept, which then goes first; one that holds
    /// more is left as it is.
    ///
    /// # Cost
    /// The log's short lock, and a reference count a segment; up to 4 KiB of the open tail are copied. Amortised O(1) a
    /// message, whatever the number of links. [`Cursor::has_unread`] tells for one load whether there is anything.
    pub fn fill(&mut self, max: usize, batch: &mut Batch) -> Fill {
        let Self { log, views, seat, stride } = self;
        stride.fill(LogMember { log, views, seat: *seat }, max, batch)
    }

    /// Takes `n` bytes off the batch that this cursor filled: the stream has them.
    ///
    /// # Cost
    /// No atomics but the reference counts of segments that are done with.
    pub fn advance(&mut self, batch: &mut Batch, n: usize) {
        self.stride.advance(batch, n);
    }

    /// Makes what was advanced count as written: for receipts, and for producers that wait for room.
    ///
    /// Call it when a round of writing ends and always before parking; over TLS only once the flush is through.
    ///
    /// # Cost
    /// Nothing if there was no progress; otherwise two stores and a fence.
    pub fn publish(&mut self) {
        let Self { log, views, seat, stride } = self;
        stride.publish(LogMember { log, views, seat: *seat });
    }

    /// Lets go of everything shared, because the stream would block: the batch keeps a copy of the rest of the current
    /// chunk, at most [`MAX_PARTIAL_CHUNK`] bytes, and the cursor stands behind that chunk. Of a longer rest nothing is kept;
    /// if the ring passes it by, [`Fill::Overrun`] follows. Until progress is published, producers that wait for this link
    /// know that it is the far end that does not take anything.
    ///
    /// # Invariants
    /// 41. *Statement*: a stuck link pins a bounded copy, never a segment. *Enforced by*: this call drops every run.
    ///     *Breaks if*: the link waits for its stream without it.
    pub fn release(&mut self, batch: &mut Batch) {
        self.stride.release(batch);
        self.stride.mark_blocked(self.member());
    }

    /// Whether a part of a chunk is on the line: nothing else may be sent before its rest, which is the next of `batch`
    /// or, if that is empty, of [`Cursor::fill`].
    pub fn is_mid_chunk(&self, batch: &Batch) -> bool {
        self.stride.is_mid_chunk(batch)
    }

    /// Whether what was gathered ends inside a chunked message: no other source of this lane may send; other lanes may.
    pub const fn is_mid_message(&self) -> bool {
        self.stride.is_mid_message()
    }

    /// What others may know of this cursor.
    pub fn view(&self) -> CursorView {
        self.views.view(self.log.place)
    }

    fn member(&self) -> LogMember<'_> {
        let Self { log, views, seat, .. } = self;
        LogMember { log, views, seat: *seat }
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        self.publish();
        self.member().leave();
    }
}

impl LogMember<'_> {
    pub(super) fn view(&self) -> &CursorState {
        self.views.at(self.log.place)
    }

    /// Whether what came from this connection came from the peer itself: over this link, or the one it took the place of.
    pub(super) fn is_own(&self, conn: ConnId) -> bool {
        conn == self.views.conn() || self.view().also() == Some(conn)
    }

    /// Says how far it has come.
    pub(super) fn publish(&self, pos: u64, seq: u64) {
        if self.view().publish(pos, seq) {
            self.log.progressed(self.seat);
        }
    }

    pub(super) fn leave(&self) {
        self.view().leave();
        self.log.leave(self.seat);
    }
}

impl From<Position> for LogCursor {
    fn from(at: Position) -> Self {
        Self { at, is_mid_chunk: false, done_pos: at.pos, done_seq: at.seq, published: at.pos }
    }
}

/// As the methods of [`Cursor`].
impl LogCursor {
    pub(crate) fn has_unread(&self, member: LogMember<'_>) -> bool {
        member.log.end_pos() != self.at.pos
    }

    /// Takes over where a part of what was copied is written; see [`TailCopy::split`].
    pub(crate) fn continue_copy(&mut self, glance: &TailCopy, written: usize, batch: &mut Batch) {
        (self.at, self.done_pos, self.done_seq) = glance.split(written, batch);
    }

    pub(crate) fn fill(&mut self, member: LogMember<'_>, max: usize, batch: &mut Batch) -> Fill {
        if batch.runs() > 0 {
            return Fill::Ready;
        }
        loop {
            match member.log.collect(self.at, max.max(1), batch) {
                Collected::Some => {}
                // What was kept of a chunk goes first, whatever came after.
                _ if !batch.is_empty() => return Fill::Ready,
                Collected::CaughtUp => return Fill::CaughtUp,
                Collected::Lagging => return self.lag(member),
            }
            self.is_mid_chunk = false;
            if let Some(end) = batch.end_position() {
                self.at = end;
            }
            // OriginRange frames go before the cut: it must not fall inside a message of which nothing is on the line.
            batch.remove_origin(member.views.conn());
            if let Some(conn) = member.view().also() {
                batch.remove_origin(conn);
            }
            if let Some(cut) = batch.trim(max) {
                self.at = cut;
            }
            if !batch.is_empty() {
                return Fill::Ready;
            }
            (self.done_pos, self.done_seq) = (self.at.pos, self.at.seq);
        }
    }

    fn lag(&mut self, member: LogMember<'_>) -> Fill {
        let (log, view) = (member.log, member.view());
        if self.is_mid_chunk || log.lag_policy() == LagPolicy::Disconnect {
            return Fill::Overrun;
        }
        let end = log.end_position();
        let (messages, aborted) = (end.seq - self.at.seq, self.at.open);
        view.record_gap(self.at.seq, end.seq);
        log.count_skipped(messages);
        self.at = end;
        (self.done_pos, self.done_seq) = (end.pos, end.seq);
        Fill::Skipped { messages, aborted }
    }

    pub(crate) fn advance(&mut self, batch: &mut Batch, n: usize) {
        batch.consume(n);
        if batch.is_empty() {
            (self.done_pos, self.done_seq) = (self.at.pos, self.at.seq);
        } else if !batch.has_partial_chunk()
            && let Some(mark) = batch.front_position()
        {
            (self.done_pos, self.done_seq) = (mark.pos, mark.seq);
        }
    }

    pub(crate) fn publish(&mut self, member: LogMember<'_>) {
        if self.published == self.done_pos {
            return;
        }
        self.published = self.done_pos;
        member.publish(self.done_pos, self.done_seq);
    }

    pub(crate) fn release(&mut self, batch: &mut Batch) {
        if let Some((mark, is_mid_chunk)) = batch.keep_partial_chunk(MAX_PARTIAL_CHUNK) {
            self.at = mark;
            self.is_mid_chunk = is_mid_chunk;
        }
    }

    /// Says that the stream is full, once what was written is published: who waits for this link waits for its far end.
    pub(crate) fn mark_blocked(&self, member: LogMember<'_>) {
        if self.published != member.log.end_pos() {
            member.view().set_blocked();
        }
    }

    pub(crate) fn is_mid_chunk(&self, batch: &Batch) -> bool {
        if batch.is_empty() { self.is_mid_chunk } else { batch.is_mid_chunk() }
    }

    pub(crate) const fn is_mid_message(&self) -> bool {
        self.at.open
    }

    /// Where it stands, if it may be given up: everything gathered is written and published, and nothing is half written.
    pub(super) fn resting_pos(&self) -> Option<u64> {
        let Self { at, is_mid_chunk, done_pos, done_seq, published } = *self;
        let level =
            at.pos == done_pos && at.seq == done_seq && published == done_pos && !is_mid_chunk && !at.open;
        level.then_some(at.pos)
    }
}
