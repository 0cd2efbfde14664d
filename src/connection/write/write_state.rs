//! A round on its way to the stream: writing it, letting go of it, and what it pins meanwhile.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Buf;

use crate::broadcast::{Fill, LogPositions};
use crate::connection::budget::MemoryReservation;
use crate::connection::close_reason::CloseReason;
use crate::connection::handle::Connection;
use crate::transport::Stream;

use super::{BULK, LANES, LaneWriter, Piece, WriteState};

impl WriteState {
    pub(super) fn write_once<S: Stream>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        connection: &Connection,
    ) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        for piece in &self.round {
            match piece {
                Piece::Bytes(bytes) | Piece::Bulk(bytes) => {
                    slices[count] = IoSlice::new(bytes);
                    count += 1;
                }
                Piece::Log(at) => count += self.lanes[*at].batch.slices(&mut slices[count..]),
            }
            if count == SLICES {
                break;
            }
        }
        let stream = Pin::new(stream);
        let result = match &slices[..count] {
            // The system's plain call is the cheaper one.
            [slice] => stream.poll_write(cx, slice),
            slices => stream.poll_write_vectored(cx, slices),
        };
        match result {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(written)) => {
                self.unflushed = true;
                self.advance(written, connection);
                Poll::Ready(Ok(written))
            }
            other => other,
        }
    }

    pub(super) fn advance(&mut self, mut written: usize, connection: &Connection) {
        self.written += written as u64;
        while written > 0
            && let Some(piece) = self.round.front_mut()
        {
            match piece {
                Piece::Bytes(bytes) | Piece::Bulk(bytes) => {
                    let part = bytes.len().min(written);
                    bytes.advance(part);
                    written -= part;
                    let ended = bytes.is_empty();
                    if matches!(piece, Piece::Bulk(_)) {
                        self.flight.wrote(part);
                    }
                    if ended {
                        self.round.pop_front();
                    }
                }
                Piece::Log(at) => {
                    let LaneWriter { stride, batch, logs_turn, served, .. } = &mut self.lanes[*at];
                    let part = batch.len().min(written);
                    stride.advance(batch, part);
                    if *at == BULK {
                        self.flight.wrote(part);
                    }
                    (*logs_turn, *served) = (false, self.written);
                    written -= part;
                    if batch.is_empty() {
                        self.round.pop_front();
                    }
                }
            }
        }
        if self.round.is_empty() {
            self.settle(connection);
        }
    }

    /// The round is empty: nothing is held but what has begun.
    fn settle(&mut self, connection: &Connection) {
        self.own = 0;
        for lane in &mut self.lanes {
            lane.pinned = if lane.open.is_some() { lane.opened } else { 0 };
        }
        self.cover(connection);
    }

    /// Reserves what the round holds. What has come from a queue is covered already; where the ceiling refuses the rest, a
    /// round's worth at the most goes uncounted.
    pub(super) fn cover(&mut self, connection: &Connection) {
        let kept: usize = self.lanes.iter().map(|lane| lane.batch.partial_chunk_len() + lane.pinned).sum();
        let bytes = self.own + kept;
        if bytes > 0 || self.held.is_some() {
            self.held(connection).resize(bytes);
        }
    }

    pub(super) fn held(&mut self, connection: &Connection) -> &mut MemoryReservation {
        self.held.get_or_insert_with(|| MemoryReservation::empty(&connection.shared.budget))
    }

    /// The stream is full: keeps a copy of the rest of a chunk that has begun, and lets go of the log's segments.
    pub(super) fn release(&mut self, connection: &Connection) {
        let lanes = &mut self.lanes;
        let mut first = true;
        self.round.retain(|piece| {
            let begun = std::mem::replace(&mut first, false);
            match piece {
                Piece::Bytes(_) | Piece::Bulk(_) => true,
                Piece::Log(at) => {
                    let LaneWriter { stride, batch, logs_turn, .. } = &mut lanes[*at];
                    stride.release(batch);
                    *logs_turn |= !begun;
                    // A torn chunk whose rest was too long to keep holds its place: see `mend`.
                    stride.is_mid_chunk(batch) || !batch.is_empty()
                }
            }
        });
        if self.round.is_empty() { self.settle(connection) } else { self.cover(connection) }
    }

    /// Fetches the rest of a chunk that is half on the line and was too long to keep: it goes before anything else.
    pub(super) fn mend(&mut self, positions: &LogPositions) -> Result<(), CloseReason> {
        let Some(Piece::Log(at)) = self.round.front() else { return Ok(()) };
        let LaneWriter { stride, batch, .. } = &mut self.lanes[*at];
        if batch.is_empty()
            && stride.is_mid_chunk(batch)
            && stride.fill(positions.member(*at), 1, batch) != Fill::Ready
        {
            return Err(CloseReason::TooSlow(LANES[*at]));
        }
        Ok(())
    }
}

/// Pieces in one write: what half a mebibyte of large messages takes, in chunks of 16 KiB with a head each. The kernel takes up to
/// 1,024; this array is made for every write.
const SLICES: usize = 96;
