//! The writing side: four lanes, each fed by a log, the state table and a queue, into one vectored write at a time.
//!
//! A *round* is what is gathered for one write: control first, then urgent, normal, bulk. A more urgent lane may fill the
//! whole round; a lower lane that waits still gets a sixteenth of each, a chunk at least.
//!
//! Invariant 42. Statement: per lane at most one message is open on the line, and two are never glued together. Enforced
//! by: within a round a lane's own messages stand before its share of the log, and while the log's cursor is inside a
//! chunked message the lane takes from the log only; chunks are written whole before anything else, also one whose rest
//! had to be let go of while the stream was full ([`WriteState::mend`]). Breaks if: a source of a lane is filled without asking
//! [`Cursor::in_message`] or [`LaneWriter::open`].
//!
//! Invariant 17. Statement: a peer that takes nothing costs nobody but itself, and is not kept for ever. Enforced by: only the
//! connection's own task writes to its stream, without waiting and with no lock held; since when it takes nothing is one word of the
//! connection, and past the write stall the maintenance departs the peer. Breaks if: a caller's thread writes to a stream, or
//! progress is noted while something waits and nothing was taken.

mod buffer_cache;
mod bulk_window;
mod fast_path;
pub(super) mod outbox;
mod schedule;
mod write_state;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use crate::base::Lane;
use crate::transport::Stream;
use crate::wire::{Chunks, Control, Protocol};

use super::budget::MemoryReservation;
use super::close_reason::CloseReason;
use super::handle::{Connection, ResumePoints};
use super::handler::ConnectionHandler;
use crate::broadcast::state::StateCursor;
use crate::broadcast::{Batch, Cursor, LogPositions};

use bulk_window::BulkWindow;

/// Gathers and writes.
pub(super) struct Writer<D: Protocol> {
    protocol: Arc<D>,
    positions: LogPositions,
    state: StateCursor,
    /// There while something is to be written, or half written.
    busy: Option<Box<WriteState>>,
}

/// What only a writer that writes needs; a connection that sleeps has none. See [`buffer_cache`].
#[derive(Default)]
struct WriteState {
    lanes: [LaneWriter; 3],
    /// Control messages that wait for the next round.
    control: BytesMut,
    /// The present round, in order; empty between rounds.
    round: VecDeque<Piece>,
    /// Bytes of the round that are our own copies.
    own: usize,
    /// Covers `own`, and each large message of a queue until its last byte is written: a slice pins the whole. None where there
    /// was nothing to cover yet.
    held: Option<MemoryReservation>,
    /// Something was written since the stream was last flushed.
    unflushed: bool,
    /// Bytes written since the writer last slept.
    written: u64,
    /// Bulk that the peer has not taken yet.
    flight: BulkWindow,
}

/// Where the bytes of one lane come from.
#[derive(Default)]
struct LaneWriter {
    stride: Cursor,
    batch: Batch,
    /// A message of the queue whose first chunks are in a round or on the line already.
    open: Option<Box<Chunks>>,
    /// Bytes of the queue's large messages that the round refers to, `open` included.
    pinned: usize,
    /// Bytes of `open`, whole.
    opened: usize,
    /// A large message of the queue has ended, or the log was passed over because the stream was full: now it is the log's
    /// turn, if it has something.
    logs_turn: bool,
    /// [`WriteState::written`] when the log last wrote or had nothing to write.
    served: u64,
}

enum Piece {
    Bytes(Bytes),
    /// Out of the bulk lane's queue.
    Bulk(Bytes),
    /// All that is in this lane's batch.
    Log(usize),
}

/// What a writer may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gather {
    /// Nothing: what has begun is finished.
    None,
    /// Whatever waits.
    All,
    /// Whatever waits, and nobody hears what the peer has taken, because reading waits for our own inbox: nothing bounds the bulk
    /// under way, so that a handler may wait for it to be sent.
    Deaf,
}

/// What a writer that sleeps finds to write.
enum News {
    None,
    /// Something in the log of this lane, which is not the bulk lane, and nothing else.
    Only(usize),
    Some,
}

/// What a poll of the writer came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// Nothing is left to write.
    All,
    /// The stream takes no more now and will wake the task.
    Blocked,
    /// What is left is bulk, and enough of it is under way: the peer's answer will come by the stream.
    Held,
    /// The task has had its share.
    More,
}

impl<D: Protocol> Writer<D> {
    pub(super) fn new(protocol: Arc<D>, positions: LogPositions, state: StateCursor) -> Self {
        Self { protocol, positions, state, busy: None }
    }

    /// What goes out before anything else.
    pub(super) fn greet(&mut self, greeting: &[u8]) {
        let mut busy = self.wake();
        busy.control.extend_from_slice(greeting);
        self.busy = Some(busy);
    }

    /// Queues a control message for the next round.
    pub(super) fn control(&mut self, control: &Control) -> Result<(), CloseReason> {
        let mut busy = self.wake();
        let queued = self.say(&mut busy, control);
        self.busy = Some(busy);
        queued
    }

    fn say(&self, busy: &mut WriteState, control: &Control) -> Result<(), CloseReason> {
        if busy.control.len() > MAX_CONTROL {
            return Err(CloseReason::Flood);
        }
        // What the protocol has no word for is left out.
        let _ = self.protocol.encode_control(control, &mut busy.control);
        Ok(())
    }

    /// Whether a log or the state table has something that was not taken yet and may go.
    pub(super) fn has_news(&self) -> bool {
        match &self.busy {
            None => self.state.has_unread() || self.positions.unread().contains(&true),
            Some(busy) => self.state.has_unread() || self.has_more(busy),
        }
    }

    fn has_more(&self, busy: &WriteState) -> bool {
        let held = busy.flight.holds();
        let mut lanes = busy.lanes.iter().enumerate().filter(|(at, _)| *at != BULK || !held);
        lanes.any(|(at, lane)| lane.stride.has_unread(self.positions.member(at)) || !lane.batch.is_empty())
    }

    /// What a writer that sleeps finds.
    fn news(&self) -> News {
        match (self.positions.unread(), self.state.has_unread()) {
            ([false, false, false], false) => News::None,
            ([true, false, false], false) => News::Only(URGENT),
            ([false, true, false], false) => News::Only(NORMAL),
            _ => News::Some,
        }
    }

    /// Writes until everything is written, the stream is full or the task has had its share. `gather` says what
    /// may be begun.
    pub(super) fn poll<S: Stream, H: ConnectionHandler>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        connection: &Connection,
        handler: &H,
        gather: Gather,
    ) -> Result<Written, CloseReason> {
        if self.busy.is_none() && !connection.has_orders() {
            match self.news() {
                News::None => return Ok(Written::All),
                News::Only(at)
                    if gather != Gather::None && self.glance(at, stream, cx, connection, handler)? =>
                {
                    return Ok(Written::All);
                }
                News::Only(_) | News::Some => {}
            }
        }
        let mut busy = self.wake();
        let written = self.poll_awake(&mut busy, stream, cx, connection, handler, gather);
        let rests = matches!(written, Ok(Written::All)) && self.follow(&busy);
        if rests {
            buffer_cache::put(busy);
        } else {
            self.busy = Some(busy);
        }
        written
    }

    fn poll_awake<S: Stream, H: ConnectionHandler>(
        &mut self,
        busy: &mut WriteState,
        stream: &mut S,
        cx: &mut Context<'_>,
        connection: &Connection,
        handler: &H,
        gather: Gather,
    ) -> Result<Written, CloseReason> {
        let written = self.poll_rounds(busy, stream, cx, connection, handler, gather);
        // Also where the stream is full: a slow peer that always has more to come makes progress too, and producers wait
        // for it only while that is seen. Also where it has failed: what it took before was written, if it is out.
        if busy.unflushed {
            match Pin::new(&mut *stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => {
                    busy.unflushed = false;
                    // What hung in the flush is written, and nothing else waits for the stream or the peer: the connection may
                    // sleep from here, and nobody would end the stall then.
                    if matches!(written, Ok(Written::All | Written::More)) && !busy.flight.holds() {
                        connection.write_progress(None);
                    }
                }
                Poll::Ready(Err(error)) => return Err(written.err().unwrap_or(CloseReason::Io(error))),
                Poll::Pending => {
                    written?;
                    connection.write_waits(handler.now());
                    self.block(busy);
                    return Ok(Written::Blocked);
                }
            }
        }
        self.publish(busy);
        let written = written?;
        if matches!(written, Written::Blocked | Written::Held) {
            self.block(busy);
        }
        Ok(written)
    }

    fn block(&self, busy: &WriteState) {
        busy.lanes
            .iter()
            .enumerate()
            .for_each(|(at, lane)| lane.stride.mark_blocked(self.positions.member(at)));
    }

    fn publish(&self, busy: &mut WriteState) {
        busy.lanes.iter_mut().enumerate().for_each(|(at, lane)| lane.stride.publish(self.positions.member(at)));
    }

    /// What it writes with: what it has, or the thread's.
    fn wake(&mut self) -> Box<WriteState> {
        self.busy.take().unwrap_or_else(|| {
            let mut busy = buffer_cache::take();
            for (at, lane) in busy.lanes.iter_mut().enumerate() {
                lane.stride = self.positions.cursor(at);
            }
            busy
        })
    }

    /// Whether nothing is left to write, nothing half written: then the positions is where the strides were.
    fn follow(&mut self, busy: &WriteState) -> bool {
        let WriteState { lanes, control, round, held, unflushed, flight, .. } = busy;
        let covers = held.as_ref().is_some_and(|held| held.bytes() > 0);
        if *unflushed || covers || !control.is_empty() || !round.is_empty() || flight.is_awaited() {
            return false;
        }
        let mut lanes = lanes.iter().enumerate();
        lanes.all(|(at, lane)| {
            lane.open.is_none() && lane.batch.is_empty() && self.positions.save(at, &lane.stride)
        })
    }

    fn poll_rounds<S: Stream, H: ConnectionHandler>(
        &mut self,
        busy: &mut WriteState,
        stream: &mut S,
        cx: &mut Context<'_>,
        connection: &Connection,
        handler: &H,
        gather: Gather,
    ) -> Result<Written, CloseReason> {
        busy.mend(&self.positions)?;
        let (before, turn) = (busy.written, connection.shared.config.write_batch_bytes as u64 / 4);
        for _ in 0..ROUNDS {
            if busy.round.is_empty() {
                self.gather(busy, connection, handler, gather)?;
                if busy.round.is_empty() {
                    if gather == Gather::All && self.holds_back(busy, connection) {
                        connection.write_waits(handler.now());
                        return Ok(Written::Held);
                    }
                    // What hangs in a flush is not written yet.
                    if !busy.unflushed {
                        connection.write_progress(None);
                    }
                    return Ok(Written::All);
                }
            }
            while !busy.round.is_empty() {
                match busy.write_once(stream, cx, connection) {
                    Poll::Ready(Ok(count)) => {
                        handler.on_traffic(0, count);
                        // Where bulk waits for the peer's process, what its kernel takes is no progress: only an answer is.
                        if !busy.flight.holds() {
                            connection.write_progress(None);
                        }
                    }
                    Poll::Ready(Err(error)) => return Err(CloseReason::Io(error)),
                    Poll::Pending => {
                        connection.write_waits(handler.now());
                        busy.release(connection);
                        return Ok(Written::Blocked);
                    }
                }
            }
            if busy.written - before >= turn {
                break;
            }
        }
        Ok(Written::More)
    }

    /// Whether there is bulk that must wait until the peer has taken more.
    fn holds_back(&self, busy: &WriteState, connection: &Connection) -> bool {
        let lane = &busy.lanes[BULK];
        busy.flight.room() == 0
            && (lane.open.is_some()
                || lane.stride.has_unread(self.positions.member(BULK))
                || connection.has_outgoing(LANES[BULK]))
    }

    /// The peer has answered a mark in our bulk; `false` if the token is not one of those.
    pub(super) fn answered(&mut self, token: u64, connection: &Connection) -> bool {
        if !BulkWindow::is_mark(token) {
            return false;
        }
        if let Some(busy) = &mut self.busy
            && busy.flight.answered(token, Instant::now())
        {
            connection.write_progress(None);
        }
        true
    }

    /// Where the cursors stand now.
    pub(super) fn positions(&self) -> ResumePoints {
        self.positions.resume_points()
    }
}

/// The lanes, by their place in the arrays.
const LANES: [Lane; 3] = [Lane::Urgent, Lane::Normal, Lane::Bulk];
const URGENT: usize = 0;
const NORMAL: usize = 1;
const BULK: usize = 2;
/// Rounds in one poll before other tasks get their turn, unless a quarter of the largest was written before. The connections of a broadcast
/// write the same bytes one after the other: what one has written is still in the cache for the next, if it was not too much.
const ROUNDS: usize = 2;
/// Control bytes that may wait. A peer that makes us answer more than it reads is flooding.
const MAX_CONTROL: usize = 32 * 1024;
