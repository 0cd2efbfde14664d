//! What a writer holds while it writes: the current round, and the source of each lane.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};

use crate::base::Tick;
use crate::broadcast::{Batch, Cursor, Fill, LogPositions};
use crate::connection::budget::MemoryReservation;
use crate::connection::close_reason::CloseReason;
use crate::connection::handle::Connection;
use crate::transport::Stream;
use crate::wire::Chunks;

use super::bulk_window::BulkWindow;
use super::control_queue::ControlQueue;
use super::{BULK, LANES};

/// Slices in one write: enough for half a mebibyte of large messages, in chunks of 16 KiB with a
/// header each. The kernel takes up to 1,024, but this array is built for every write.
const MAX_WRITE_SLICES: usize = 96;

/// What only a writer that writes needs. A sleeping connection has none; see
/// [`super::buffer_cache`].
#[derive(Default)]
pub(super) struct WriteState {
    pub(super) lanes: [LaneWriter; 3],
    /// Control messages for the next round.
    pub(super) control: ControlQueue,
    /// The current round, in order. Empty between rounds.
    pub(super) round: VecDeque<RoundPiece>,
    /// Bytes of the round that are copies of our own.
    pub(super) copied_bytes: usize,
    /// Covers `copied_bytes`, and each large message of a queue until its last byte is written,
    /// because a slice keeps the whole message alive. `None` before the first use.
    pub(super) reservation: Option<MemoryReservation>,
    /// Something was written since the last flush of the stream.
    pub(super) needs_flush: bool,
    /// Bytes written since the writer last slept.
    pub(super) written_bytes: u64,
    /// Bytes that the stream took since a stall began.
    pub(super) stall_bytes: u64,
    /// Limits the bulk that the peer has not acknowledged.
    pub(super) bulk_window: BulkWindow,
}

/// The sources of one lane.
#[derive(Default)]
pub(super) struct LaneWriter {
    pub(super) cursor: Cursor,
    pub(super) batch: Batch,
    /// A message of the queue whose first chunks are in a round or on the stream already.
    pub(super) partial_message: Option<Box<Chunks>>,
    /// Bytes of the queue's large messages that the round refers to, `partial_message` included.
    pub(super) referenced_bytes: usize,
    /// Bytes of the whole `partial_message`.
    pub(super) partial_message_bytes: usize,
    /// The log goes before the queue, if it has something. Set when a large message of the queue
    /// has ended, and when the log was passed over because the stream was full.
    pub(super) log_goes_first: bool,
    /// [`WriteState::written_bytes`] when the log last wrote or had nothing to write.
    pub(super) log_served_at: u64,
}

/// One part of a round.
pub(super) enum RoundPiece {
    /// Control, state, or a queue's bytes on the urgent or normal lane.
    Bytes(Bytes),
    /// Bytes of the bulk lane's queue.
    Bulk(Bytes),
    /// The whole batch of this lane.
    Log(usize),
}

impl WriteState {
    /// Writes the front of the round with one call of the stream.
    pub(super) fn write_once<S: Stream>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        connection: &Connection,
    ) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); MAX_WRITE_SLICES];
        let mut count = 0;
        for piece in &self.round {
            match piece {
                RoundPiece::Bytes(bytes) | RoundPiece::Bulk(bytes) => {
                    slices[count] = IoSlice::new(bytes);
                    count += 1;
                }
                RoundPiece::Log(lane) => count += self.lanes[*lane].batch.slices(&mut slices[count..]),
            }
            if count == MAX_WRITE_SLICES {
                break;
            }
        }
        let stream = Pin::new(stream);
        let result = match &slices[..count] {
            // The plain system call is the cheaper one.
            [slice] => stream.poll_write(cx, slice),
            slices => stream.poll_write_vectored(cx, slices),
        };
        match result {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(written)) => {
                self.needs_flush = true;
                self.advance(written, connection);
                Poll::Ready(Ok(written))
            }
            other => other,
        }
    }

    /// Takes `written` bytes off the round.
    fn advance(&mut self, mut written: usize, connection: &Connection) {
        self.written_bytes += written as u64;
        while written > 0
            && let Some(piece) = self.round.front_mut()
        {
            let is_done = match piece {
                RoundPiece::Bytes(bytes) | RoundPiece::Bulk(bytes) => {
                    let part = bytes.len().min(written);
                    bytes.advance(part);
                    written -= part;
                    let is_done = bytes.is_empty();
                    if matches!(piece, RoundPiece::Bulk(_)) {
                        self.bulk_window.add_written(part);
                    }
                    is_done
                }
                RoundPiece::Log(lane) => {
                    let LaneWriter { cursor, batch, log_goes_first, log_served_at, .. } =
                        &mut self.lanes[*lane];
                    let part = batch.len().min(written);
                    cursor.advance(batch, part);
                    if *lane == BULK {
                        self.bulk_window.add_written(part);
                    }
                    (*log_goes_first, *log_served_at) = (false, self.written_bytes);
                    written -= part;
                    batch.is_empty()
                }
            };
            if is_done {
                self.round.pop_front();
            }
        }
        if self.round.is_empty() {
            self.finish_round(connection);
        }
    }

    /// The round is empty: memory stays reserved only for messages that have begun.
    fn finish_round(&mut self, connection: &Connection) {
        self.copied_bytes = 0;
        for lane in &mut self.lanes {
            lane.referenced_bytes =
                if lane.partial_message.is_some() { lane.partial_message_bytes } else { 0 };
        }
        self.reserve_round(connection);
    }

    /// Reserves the bytes that the round holds. Bytes from a queue are covered already; where the
    /// ceiling refuses the rest, at most one round goes uncounted.
    pub(super) fn reserve_round(&mut self, connection: &Connection) {
        let held: usize =
            self.lanes.iter().map(|lane| lane.batch.partial_chunk_len() + lane.referenced_bytes).sum();
        let bytes = self.copied_bytes + held;
        if bytes > 0 || self.reservation.is_some() {
            self.reservation(connection).resize_to_send(bytes);
        }
    }

    pub(super) fn reservation(&mut self, connection: &Connection) -> &mut MemoryReservation {
        self.reservation.get_or_insert_with(|| MemoryReservation::empty(&connection.memory_account()))
    }

    /// The stream is full: copies the rest of a chunk that has begun, and drops the references to
    /// the log's segments.
    pub(super) fn release(&mut self, connection: &Connection) {
        let lanes = &mut self.lanes;
        let mut is_front = true;
        self.round.retain(|piece| {
            let was_front = std::mem::replace(&mut is_front, false);
            match piece {
                RoundPiece::Bytes(_) | RoundPiece::Bulk(_) => true,
                RoundPiece::Log(lane) => {
                    let LaneWriter { cursor, batch, log_goes_first, .. } = &mut lanes[*lane];
                    cursor.release(batch);
                    *log_goes_first |= !was_front;
                    // A begun chunk whose rest was too long to copy keeps its position: see
                    // `resume_partial`.
                    cursor.is_mid_chunk(batch) || !batch.is_empty()
                }
            }
        });
        if self.round.is_empty() { self.finish_round(connection) } else { self.reserve_round(connection) }
    }

    /// Bytes wait, or some were taken while bytes waited: a stall begins, goes on, or begins anew
    /// after bytes were taken fast enough.
    pub(super) fn note_blocked(&mut self, connection: &Connection, now: Tick) {
        if connection.write_blocked(now, self.stall_bytes) {
            self.stall_bytes = 0;
        }
    }

    /// Fetches the rest of a chunk that is half on the stream and was too long to copy. It goes
    /// before anything else.
    pub(super) fn resume_partial(&mut self, positions: &LogPositions) -> Result<(), CloseReason> {
        let Some(RoundPiece::Log(index)) = self.round.front() else { return Ok(()) };
        let LaneWriter { cursor, batch, .. } = &mut self.lanes[*index];
        if batch.is_empty()
            && cursor.is_mid_chunk(batch)
            && cursor.fill(positions.member(*index), 1, batch) != Fill::Ready
        {
            return Err(CloseReason::TooSlow(LANES[*index]));
        }
        Ok(())
    }

    /// Ends the queue's message that was in chunks: now the log goes first.
    pub(super) fn end_partial_message(&mut self, lane: usize) {
        self.lanes[lane].partial_message = None;
        self.lanes[lane].log_goes_first = true;
    }

    /// Adds bytes that are a copy of our own. Control may take any lane but bulk.
    pub(super) fn push_copied(&mut self, lane: usize, bytes: Bytes) {
        self.copied_bytes += bytes.len();
        self.push_referenced(lane, bytes);
    }

    /// Adds bytes that are covered elsewhere.
    pub(super) fn push_referenced(&mut self, lane: usize, bytes: Bytes) {
        if !bytes.is_empty() {
            self.round.push_back(if lane == BULK {
                RoundPiece::Bulk(bytes)
            } else {
                RoundPiece::Bytes(bytes)
            });
        }
    }

    /// Resets everything but the memory to gather in. Nothing may be left to write.
    pub(super) fn reset(&mut self) {
        for lane in &mut self.lanes {
            lane.batch.clear();
            (lane.referenced_bytes, lane.partial_message_bytes) = (0, 0);
            (lane.log_goes_first, lane.log_served_at) = (false, 0);
        }
        (self.copied_bytes, self.reservation) = (0, None);
        (self.written_bytes, self.stall_bytes) = (0, 0);
        self.bulk_window.reset();
    }
}
