//! The writing half: four lanes, each fed by a log, the latest-value state and a queue.
//!
//! ```text
//!  control queue ----------------------+
//!  log cursor (one a lane) ------------+--> round --one vectored write--> stream
//!  state cursor (urgent lane) ---------+
//!  outbox (one queue a lane) ----------+
//! ```
//!
//! A *round* is what [`schedule`] gathers for one write, in the order control, urgent, normal,
//! bulk. A more urgent lane may fill the whole round; a lower lane with waiting data still gets a
//! sixteenth of each, one chunk at least. A connection that sleeps holds no [`WriteState`]. A few
//! small messages of one log take the [`fast_path`], which needs none.
//!
//! Invariant: `skips_end_on_message_boundaries`
//! Statement: on each lane at most one message is incomplete on the stream, and two messages never
//! interleave.
//! Enforced by: a lane's queue goes before its log within a round; while the log's cursor is inside
//! a chunked message, the lane takes from the log only; the rest of a chunk is written before
//! anything else, also a rest that was dropped while the stream was full
//! ([`WriteState::resume_partial`]).
//! Breaks if: a lane is filled without asking `Cursor::is_mid_message` and
//! [`LaneWriter::partial_message`].
//!
//! Invariant: `no_socket_write_under_a_shared_lock`
//! Statement: a peer that does not read delays only its own connection, and is not kept for ever.
//! Enforced by: only the connection's task writes to its stream, without waiting and without a
//! lock. One word of the connection records since when nothing was taken; past the write stall the
//! maintenance removes the peer.
//! Breaks if: a caller's thread writes to a stream, or progress is recorded while data waits and
//! nothing was taken.

mod buffer_cache;
mod bulk_window;
mod control_queue;
mod fast_path;
pub(super) mod outbox;
mod schedule;
mod write_state;

use std::pin::Pin;
use std::task::{Context, Poll};

use crate::base::Lane;
use crate::broadcast::LogPositions;
use crate::broadcast::state::StateCursor;
use crate::transport::Stream;
use crate::wire::Protocol;

use super::close_reason::CloseReason;
use super::handle::{Connection, ResumePoints};
use super::handler::ConnectionHandler;

pub(super) use bulk_window::{BulkAcks, MARK_BIT};
use control_queue::ControlQueue;
pub(super) use control_queue::ControlSink;
use write_state::WriteState;

/// The lanes of the application, by their index in the arrays of this module.
const LANES: [Lane; 3] = [Lane::Urgent, Lane::Normal, Lane::Bulk];
const URGENT: usize = 0;
const NORMAL: usize = 1;
const BULK: usize = 2;
/// Rounds in one poll before other tasks get their turn, unless a quarter of `write_batch_bytes`
/// was written before. The connections of a broadcast write the same bytes one after the other:
/// after a short turn those bytes are still in the cache for the next connection.
const MAX_ROUNDS_PER_POLL: usize = 2;

/// Gathers and writes.
pub(super) struct Writer {
    positions: LogPositions,
    latest_state: StateCursor,
    /// Present while something is to be written or is half written.
    active: Option<Box<WriteState>>,
}

/// What the writer works with for one poll.
pub(super) struct WriteContext<'a, D, H> {
    pub(super) protocol: &'a D,
    pub(super) connection: &'a Connection,
    pub(super) handler: &'a H,
}

/// What a writer may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteMode {
    /// Nothing: control messages and data that has begun are finished.
    FinishOnly,
    /// Everything that waits.
    All,
    /// Everything that waits, and bulk without a window. Reading is paused for our own inbox, so
    /// acknowledgements are not read; a handler may be waiting for bulk to be sent.
    IgnoreBulkWindow,
}

/// What a sleeping writer finds to write.
enum Pending {
    Nothing,
    /// Messages in the log of this lane, which is not bulk, and nothing else.
    OneLog(usize),
    Several,
}

/// The result of one poll of the writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteOutcome {
    /// Nothing is left to write.
    Drained,
    /// The stream is full and will wake the task.
    Blocked,
    /// The rest is bulk, and its window is full. The peer's acknowledgement wakes the task through
    /// the stream.
    WindowFull,
    /// There is more; the task has used up its turn.
    TurnUsed,
}

impl Writer {
    pub(super) fn new(positions: LogPositions, latest_state: StateCursor) -> Self {
        Self { positions, latest_state, active: None }
    }

    /// Whether a log or the state has something unread that may be written now.
    pub(super) fn has_unread(&self) -> bool {
        self.latest_state.has_unread()
            || match &self.active {
                None => self.positions.unread().contains(&true),
                Some(active) => self.has_unread_log(active),
            }
    }

    fn has_unread_log(&self, active: &WriteState) -> bool {
        let window_full = active.bulk_window.is_full();
        let mut lanes = active.lanes.iter().enumerate().filter(|(index, _)| *index != BULK || !window_full);
        lanes.any(|(index, lane)| {
            lane.cursor.has_unread(self.positions.member(index)) || !lane.batch.is_empty()
        })
    }

    fn pending(&self) -> Pending {
        match (self.positions.unread(), self.latest_state.has_unread()) {
            ([false, false, false], false) => Pending::Nothing,
            ([true, false, false], false) => Pending::OneLog(URGENT),
            ([false, true, false], false) => Pending::OneLog(NORMAL),
            _ => Pending::Several,
        }
    }

    /// Writes until nothing is left, the stream is full or the turn is used up.
    pub(super) fn poll<D: Protocol, S: Stream, H: ConnectionHandler>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        context: &WriteContext<'_, D, H>,
        mode: WriteMode,
    ) -> Result<WriteOutcome, CloseReason> {
        if self.active.is_none() && !context.connection.has_direct_output() {
            match self.pending() {
                Pending::Nothing => return Ok(WriteOutcome::Drained),
                Pending::OneLog(lane)
                    if mode != WriteMode::FinishOnly && self.write_tail(lane, stream, cx, context)? =>
                {
                    return Ok(WriteOutcome::Drained);
                }
                Pending::OneLog(_) | Pending::Several => {}
            }
        }
        let mut active = self.activate();
        let outcome = self.poll_active(&mut active, stream, cx, context, mode);
        if matches!(outcome, Ok(WriteOutcome::Drained)) && self.save_positions(&active) {
            let held_memory = active.reservation.take().is_some();
            buffer_cache::put(active);
            if held_memory {
                context.connection.release_account();
            }
        } else {
            self.active = Some(active);
        }
        outcome
    }

    fn poll_active<D: Protocol, S: Stream, H: ConnectionHandler>(
        &mut self,
        active: &mut WriteState,
        stream: &mut S,
        cx: &mut Context<'_>,
        context: &WriteContext<'_, D, H>,
        mode: WriteMode,
    ) -> Result<WriteOutcome, CloseReason> {
        let outcome = self.write_rounds(active, stream, cx, context, mode);
        // A full stream is flushed too: a slow peer that always has more to come makes progress,
        // and producers wait for it only while that progress is seen. So is a failed one: what it
        // took before counts as written if it is out.
        if active.needs_flush {
            match Pin::new(&mut *stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => {
                    active.needs_flush = false;
                    // Nothing else waits for the stream or the peer. The connection may sleep from
                    // here, and then nothing would end the stall.
                    if matches!(outcome, Ok(WriteOutcome::Drained | WriteOutcome::TurnUsed))
                        && !active.bulk_window.is_full()
                    {
                        context.connection.write_progressed();
                    }
                }
                Poll::Ready(Err(error)) => return Err(outcome.err().unwrap_or(CloseReason::Io(error))),
                Poll::Pending => {
                    outcome?;
                    active.note_blocked(context.connection, context.handler.now());
                    self.mark_blocked(active);
                    return Ok(WriteOutcome::Blocked);
                }
            }
        }
        self.publish(active);
        let outcome = outcome?;
        if matches!(outcome, WriteOutcome::Blocked | WriteOutcome::WindowFull) {
            self.mark_blocked(active);
        }
        Ok(outcome)
    }

    fn write_rounds<D: Protocol, S: Stream, H: ConnectionHandler>(
        &mut self,
        active: &mut WriteState,
        stream: &mut S,
        cx: &mut Context<'_>,
        context: &WriteContext<'_, D, H>,
        mode: WriteMode,
    ) -> Result<WriteOutcome, CloseReason> {
        let connection = context.connection;
        active.resume_partial(&self.positions)?;
        let written_before = active.written_bytes;
        let turn_bytes = connection.shared.config.write_batch_bytes as u64 / 4;
        for _ in 0..MAX_ROUNDS_PER_POLL {
            if active.round.is_empty() {
                self.gather(active, context, mode)?;
                if active.round.is_empty() {
                    if mode == WriteMode::All && self.is_held_back(active, connection) {
                        active.note_blocked(connection, context.handler.now());
                        return Ok(WriteOutcome::WindowFull);
                    }
                    // Bytes that wait in a flush are not written yet.
                    if !active.needs_flush {
                        connection.write_progressed();
                    }
                    return Ok(WriteOutcome::Drained);
                }
            }
            while !active.round.is_empty() {
                match active.write_once(stream, cx, connection) {
                    Poll::Ready(Ok(count)) => {
                        context.handler.on_traffic(0, count);
                        // Where bulk waits for the peer's process, bytes that its kernel takes are
                        // no progress: only an acknowledgement is.
                        if connection.is_stalled() && !active.bulk_window.is_full() {
                            active.stall_bytes += count as u64;
                            active.note_blocked(connection, context.handler.now());
                        }
                    }
                    Poll::Ready(Err(error)) => return Err(CloseReason::Io(error)),
                    Poll::Pending => {
                        active.note_blocked(connection, context.handler.now());
                        active.release(connection);
                        return Ok(WriteOutcome::Blocked);
                    }
                }
            }
            if active.written_bytes - written_before >= turn_bytes {
                break;
            }
        }
        Ok(WriteOutcome::TurnUsed)
    }

    /// Whether there is bulk that waits for the peer to acknowledge more.
    fn is_held_back(&self, active: &WriteState, connection: &Connection) -> bool {
        let lane = &active.lanes[BULK];
        active.bulk_window.room() == 0
            && (lane.partial_message.is_some()
                || lane.cursor.has_unread(self.positions.member(BULK))
                || connection.has_outgoing(LANES[BULK]))
    }

    fn mark_blocked(&self, active: &WriteState) {
        for (index, lane) in active.lanes.iter().enumerate() {
            lane.cursor.mark_blocked(self.positions.member(index));
        }
    }

    fn publish(&self, active: &mut WriteState) {
        for (index, lane) in active.lanes.iter_mut().enumerate() {
            lane.cursor.publish(self.positions.member(index));
        }
    }

    /// The state to write with: its own, or one from the thread's cache.
    fn activate(&mut self) -> Box<WriteState> {
        self.active.take().unwrap_or_else(|| {
            let mut active = buffer_cache::take();
            for (index, lane) in active.lanes.iter_mut().enumerate() {
                lane.cursor = self.positions.cursor(index);
            }
            active
        })
    }

    /// Saves where the cursors stand. `false` if something is unwritten or half written, so that
    /// `active` is still needed.
    fn save_positions(&mut self, active: &WriteState) -> bool {
        let WriteState { lanes, control, round, reservation, needs_flush, bulk_window, .. } = active;
        let holds_memory = reservation.as_ref().is_some_and(|held| held.bytes() > 0);
        if *needs_flush || holds_memory || !control.is_empty() || !round.is_empty() || bulk_window.awaits_ack() {
            return false;
        }
        lanes.iter().enumerate().all(|(index, lane)| {
            lane.partial_message.is_none()
                && lane.batch.is_empty()
                && self.positions.save(index, &lane.cursor)
        })
    }

    /// The control messages that wait; they go out with the next round.
    pub(super) fn control_queue(&mut self) -> &mut ControlQueue {
        let active = self.activate();
        &mut self.active.insert(active).control
    }

    /// Takes the acknowledgements that the reader found. One that tells something new is progress.
    pub(super) fn acknowledge(&mut self, acks: &BulkAcks, connection: &Connection) {
        let Some(active) = &mut self.active else { return };
        for ack in acks.iter() {
            if active.bulk_window.acknowledge(ack) {
                connection.write_progressed();
            }
        }
    }

    /// Where the cursors stand now.
    pub(super) fn resume_points(&self) -> ResumePoints {
        self.positions.resume_points()
    }
}
