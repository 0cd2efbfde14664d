//! The position of one connection in one log while it writes.
//!
//! A connection that sleeps has no cursor: its [`LogPositions`](super::LogPositions) hold one
//! number a log. Its writer makes a cursor of each position when there is something to write, and
//! saves the cursors when all is written:
//!
//! ```text
//! positions.cursor(i) -> fill -> (write) -> advance -> publish -> ... -> positions.save(i, &cursor)
//!                                   stream full: release, mark_blocked
//! ```

use super::batch::Batch;
use super::fast_path::TailCopy;
use super::log_set::LogMember;
use super::ring::Collected;
use super::segment::Position;
use super::LagPolicy;

/// Most bytes that a connection with a full stream keeps a copy of: the rest of one chunk and its
/// header.
pub const MAX_PARTIAL_CHUNK: usize = 16 * 1024 + 64;

/// What [`Cursor::fill`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Fill {
    /// The batch has bytes to write.
    Ready,
    /// The batch is empty: there is nothing to write.
    CaughtUp,
    /// The connection lagged. Its cursor now stands at the end of the log ([`LagPolicy::Skip`]);
    /// the batch is empty.
    Skipped {
        /// Messages skipped. Includes the peer's own messages and a message that was aborted.
        messages: u64,
        /// A chunked message is open on the wire and will not be finished: send `abort(lane)`
        /// before anything else on the lane.
        aborted: bool,
    },
    /// The connection lagged and must close, because of [`LagPolicy::Disconnect`] or because the
    /// ring no longer holds the rest of a chunk that is on the wire in part. Every further call
    /// returns the same.
    Overrun,
}

/// The position of one connection in one log while it writes. Its writer owns it.
///
/// Every method that needs the log takes the [`LogMember`] of the same log and connection.
///
/// Invariant: `skips_end_on_message_boundaries`
/// - Statement: a connection writes whole messages of the log in their order, each at most once.
///   A message that is not finished is followed by `abort` or by the end of the connection.
/// - Enforced by: positions are chunk boundaries of the index, and a skip begins and ends between
///   two messages.
/// - Breaks if: the caller sends anything else while [`Cursor::is_mid_chunk`] is true, or another
///   message of the same lane while [`Cursor::is_mid_message`] is true.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor {
    /// The end of what was collected into batches.
    collected: Position,
    /// `collected` is inside a chunk: the rest of a chunk that was begun was too long to copy.
    is_mid_chunk: bool,
    /// The end of what was written.
    written_pos: u64,
    written_seq: u64,
    /// `written_pos` as of the last [`Cursor::publish`].
    published_pos: u64,
}

impl From<Position> for Cursor {
    fn from(at: Position) -> Self {
        Self {
            collected: at,
            is_mid_chunk: false,
            written_pos: at.pos,
            written_seq: at.seq,
            published_pos: at.pos,
        }
    }
}

impl Cursor {
    /// Whether the log has bytes behind what this cursor has collected.
    ///
    /// # Cost
    /// One atomic load.
    pub fn has_unread(&self, member: LogMember<'_>) -> bool {
        member.log.end_pos() != self.collected.pos
    }

    /// Collects what comes next into `batch`, up to `max` bytes and a chunk boundary, at least one
    /// chunk, without the frames that came from this peer.
    ///
    /// The batch must be empty or hold only what [`Cursor::release`] kept, which then goes first. A
    /// batch that holds more is left as it is.
    ///
    /// # Cost
    /// The log's short lock, and a reference count a segment; up to 4 KiB of the open tail are
    /// copied. Amortised O(1) a message, whatever the number of connections. [`Cursor::has_unread`]
    /// costs one load.
    pub fn fill(&mut self, member: LogMember<'_>, max: usize, batch: &mut Batch) -> Fill {
        if batch.runs() > 0 {
            return Fill::Ready;
        }
        loop {
            match member.log.collect(self.collected, max.max(1), batch) {
                Collected::Some => {}
                // The kept rest of a chunk goes first, whatever the log says.
                _ if !batch.is_empty() => return Fill::Ready,
                Collected::CaughtUp => return Fill::CaughtUp,
                Collected::Lagging => return self.skip_to_end(member),
            }
            self.is_mid_chunk = false;
            if let Some(end) = batch.end_position() {
                self.collected = end;
            }
            // The peer's own frames go before the cut, which must not fall inside a message of
            // which nothing is on the wire.
            batch.remove_origin(member.states.conn());
            if let Some(conn) = member.state().predecessor() {
                batch.remove_origin(conn);
            }
            if let Some(cut) = batch.truncate(max) {
                self.collected = cut;
            }
            if !batch.is_empty() {
                return Fill::Ready;
            }
            self.set_written(self.collected);
        }
    }

    fn skip_to_end(&mut self, member: LogMember<'_>) -> Fill {
        if self.is_mid_chunk || member.log.lag_policy() == LagPolicy::Disconnect {
            return Fill::Overrun;
        }
        let end = member.log.end_position();
        let (messages, aborted) = (end.seq - self.collected.seq, self.collected.mid_message);
        member.state().record_gap(self.collected.seq, end.seq);
        member.log.count_skipped(messages);
        self.collected = end;
        self.set_written(end);
        Fill::Skipped { messages, aborted }
    }

    /// Takes `n` bytes off the front of the batch that this cursor filled, because the stream has
    /// taken them.
    ///
    /// # Cost
    /// No atomics but the reference counts of segments that are finished.
    pub fn advance(&mut self, batch: &mut Batch, n: usize) {
        batch.consume(n);
        if batch.is_empty() {
            self.set_written(self.collected);
        } else if !batch.has_partial_chunk()
            && let Some(front) = batch.front_position()
        {
            self.set_written(front);
        }
    }

    fn set_written(&mut self, at: Position) {
        (self.written_pos, self.written_seq) = (at.pos, at.seq);
    }

    /// Continues after a partial write of a [`TailCopy`]: `batch`, which must be empty, takes the
    /// rest of the message of which the last byte written is a part.
    pub(crate) fn continue_copy(&mut self, copy: &TailCopy, written: usize, batch: &mut Batch) {
        (self.collected, self.written_pos, self.written_seq) = copy.split(written, batch);
    }

    /// Makes what was advanced count as written: for receipts, and for producers that wait for
    /// room.
    ///
    /// Call it at the end of a round of writes and always before the task parks. Over TLS, call it
    /// only after the flush.
    ///
    /// # Cost
    /// Nothing without progress; otherwise two stores and a fence.
    pub fn publish(&mut self, member: LogMember<'_>) {
        if self.published_pos == self.written_pos {
            return;
        }
        self.published_pos = self.written_pos;
        member.publish(self.written_pos, self.written_seq);
    }

    /// Lets go of everything shared, because the stream is full. The batch keeps a copy of the rest
    /// of the current chunk, at most [`MAX_PARTIAL_CHUNK`] bytes, and the cursor moves behind that
    /// chunk. Nothing is kept of a longer rest; if the ring evicts it, [`Fill::Overrun`] follows.
    ///
    /// Invariant: `stuck_connection_pins_a_bounded_copy`
    /// - Statement: a connection with a full stream keeps a bounded copy alive, never a segment.
    /// - Enforced by: this call drops every run of the batch.
    /// - Breaks if: the connection waits for its stream without this call.
    pub fn release(&mut self, batch: &mut Batch) {
        if let Some((at, is_mid_chunk)) = batch.keep_partial_chunk(MAX_PARTIAL_CHUNK) {
            (self.collected, self.is_mid_chunk) = (at, is_mid_chunk);
        }
    }

    /// Records that the stream is full, after [`Cursor::publish`]. Until the next progress,
    /// back-pressure knows that it waits for the peer and not for this process.
    pub fn mark_blocked(&self, member: LogMember<'_>) {
        if self.published_pos != member.log.end_pos() {
            member.state().set_blocked();
        }
    }

    /// Whether a part of a chunk is on the wire. Its rest must be sent before anything else: it is
    /// at the front of `batch` or, if that is empty, comes with the next [`Cursor::fill`].
    pub fn is_mid_chunk(&self, batch: &Batch) -> bool {
        if batch.is_empty() { self.is_mid_chunk } else { batch.is_mid_chunk() }
    }

    /// Whether what was collected ends between two chunks of a message. No other source may send on
    /// this lane; other lanes may.
    pub const fn is_mid_message(&self) -> bool {
        self.collected.mid_message
    }

    /// The position as a plain number, if nothing else is needed to continue: everything collected
    /// is written and published, and no message is in progress.
    pub(super) fn resting_pos(&self) -> Option<u64> {
        let Self { collected, is_mid_chunk, written_pos, written_seq, published_pos } = *self;
        let is_level = collected.pos == written_pos
            && collected.seq == written_seq
            && published_pos == written_pos
            && !is_mid_chunk
            && !collected.mid_message;
        is_level.then_some(collected.pos)
    }
}
