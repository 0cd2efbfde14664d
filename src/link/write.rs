//! The writing side: four lanes, each fed by a log, the state table and a queue, into one vectored write at a time.
//!
//! A *round* is what is gathered for one write: control first, then urgent, normal, bulk. A more urgent lane may fill the
//! whole round; a lower lane that waits still gets one chunk's worth in each, which is one chunk in 16.
//!
//! Invariant 42. Statement: per lane at most one message is open on the line, and two are never glued together. Enforced
//! by: within a round a lane's own messages stand before its share of the log, and while the log's cursor is inside a
//! chunked message the lane takes from the log only; chunks are written whole before anything else, also one whose rest
//! had to be let go of while the stream was full ([`Writer::mend`]). Breaks if: a source of a lane is filled without asking
//! [`Cursor::in_message`] or [`LaneOut::open`].

mod gather;
mod spare;

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};

use crate::base::Lane;
use crate::transport::Stream;
use crate::wire::{Chunks, Control, Dialect};

use super::budget::Reservation;
use super::end::End;
use super::host::Host;
use super::log::{Cursor, Fill};
use super::shared::{Link, Positions};
use super::state::StateCursor;
use spare::SpareBatch;

/// Gathers and writes.
pub(super) struct Writer<D: Dialect> {
    dialect: Arc<D>,
    lanes: [LaneOut; 3],
    state: StateCursor,
    /// Control messages that wait for the next round.
    control: BytesMut,
    /// The present round, in order; empty between rounds.
    round: VecDeque<Piece>,
    /// Bytes of the round that are our own copies.
    own: usize,
    /// Covers `own`, and each large message of a queue until its last byte is written: a slice pins the whole.
    held: Reservation,
    /// Something was written since the stream was last flushed.
    unflushed: bool,
    /// Bytes ever written.
    written: u64,
    batch: usize,
}

/// Where the bytes of one lane come from.
struct LaneOut {
    lane: Lane,
    cursor: Cursor,
    batch: SpareBatch,
    /// A message of the queue whose first chunks are in a round or on the line already.
    open: Option<Box<Chunks>>,
    /// Bytes of the queue's large messages that the round refers to, `open` included.
    pinned: usize,
    /// Bytes of `open`, whole.
    opened: usize,
    /// A large message of the queue has ended, or the log was passed over because the stream was full: now it is the log's
    /// turn, if it has something.
    logs_turn: bool,
    /// [`Writer::written`] when the log last wrote or had nothing to write.
    served: u64,
}

enum Piece {
    Bytes(Bytes),
    /// All that is in this lane's batch.
    Log(usize),
}

/// What a poll of the writer came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// Nothing is left to write.
    All,
    /// The stream takes no more now and will wake the task.
    Blocked,
    /// The task has had its share.
    More,
}

impl<D: Dialect> Writer<D> {
    pub(super) fn new(dialect: Arc<D>, link: &Link, cursors: [Cursor; 3], state: StateCursor) -> Self {
        let mut lane = [Lane::Urgent, Lane::Normal, Lane::Bulk].into_iter();
        let lanes = cursors.map(|cursor| LaneOut {
            lane: lane.next().unwrap_or(Lane::Bulk),
            cursor,
            batch: SpareBatch::default(),
            open: None,
            pinned: 0,
            opened: 0,
            logs_turn: false,
            served: 0,
        });
        Self {
            dialect,
            lanes,
            state,
            control: BytesMut::new(),
            round: VecDeque::new(),
            own: 0,
            held: Reservation::empty(&link.common.budget),
            unflushed: false,
            written: 0,
            batch: link.common.config.batch,
        }
    }

    /// What goes out before anything else.
    pub(super) fn greet(&mut self, greeting: &[u8]) {
        self.control.extend_from_slice(greeting);
    }

    /// Queues a control message for the next round.
    pub(super) fn control(&mut self, control: &Control) -> Result<(), End> {
        if self.control.len() > MAX_CONTROL {
            return Err(End::Flood);
        }
        // What the dialect has no word for is left out.
        let _ = self.dialect.encode_control(control, &mut self.control);
        Ok(())
    }

    /// Whether a log or the state table has something that was not taken yet.
    pub(super) fn has_news(&self) -> bool {
        self.state.has_news()
            || self.lanes.iter().any(|lane| lane.cursor.has_news() || !lane.batch.is_empty())
    }

    /// Writes until everything is written, the stream is full or the task has had its share. With `gather` false only
    /// what has begun is finished.
    pub(super) fn poll<S: Stream, H: Host>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        link: &Link,
        host: &H,
        gather: bool,
    ) -> Result<Written, End> {
        let written = self.poll_rounds(stream, cx, link, host, gather)?;
        // Also where the stream is full: a slow peer that always has more to come makes progress too, and producers wait
        // for it only while that is seen.
        if self.unflushed {
            match Pin::new(&mut *stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(error)) => return Err(End::Io(error)),
                Poll::Pending => {
                    link.write_waits(host.now());
                    return Ok(Written::Blocked);
                }
            }
        }
        if !self.unflushed {
            self.lanes.iter_mut().for_each(|lane| lane.cursor.publish());
        }
        Ok(written)
    }

    fn poll_rounds<S: Stream, H: Host>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        link: &Link,
        host: &H,
        gather: bool,
    ) -> Result<Written, End> {
        self.mend()?;
        for _ in 0..ROUNDS {
            if self.round.is_empty() {
                self.gather(link, host, gather)?;
                if self.round.is_empty() {
                    // What hangs in a flush is not written yet.
                    if !self.unflushed {
                        link.write_progress(None);
                    }
                    self.rest_idle();
                    return Ok(Written::All);
                }
            }
            while !self.round.is_empty() {
                match self.write_once(stream, cx) {
                    Poll::Ready(Ok(count)) => {
                        host.traffic(0, count);
                        link.write_progress(None);
                    }
                    Poll::Ready(Err(error)) => return Err(End::Io(error)),
                    Poll::Pending => {
                        link.write_waits(host.now());
                        self.release();
                        return Ok(Written::Blocked);
                    }
                }
            }
        }
        Ok(Written::More)
    }

    fn write_once<S: Stream>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        for piece in &self.round {
            match piece {
                Piece::Bytes(bytes) => {
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
                self.advance(written);
                Poll::Ready(Ok(written))
            }
            other => other,
        }
    }

    fn advance(&mut self, mut written: usize) {
        self.written += written as u64;
        while written > 0
            && let Some(piece) = self.round.front_mut()
        {
            match piece {
                Piece::Bytes(bytes) => {
                    let part = bytes.len().min(written);
                    bytes.advance(part);
                    written -= part;
                    if bytes.is_empty() {
                        self.round.pop_front();
                    }
                }
                Piece::Log(at) => {
                    let LaneOut { cursor, batch, logs_turn, served, .. } = &mut self.lanes[*at];
                    let part = batch.len().min(written);
                    cursor.advance(batch, part);
                    (*logs_turn, *served) = (false, self.written);
                    written -= part;
                    if batch.is_empty() {
                        self.round.pop_front();
                    }
                }
            }
        }
        if self.round.is_empty() {
            self.own = 0;
            for lane in &mut self.lanes {
                lane.pinned = if lane.open.is_some() { lane.opened } else { 0 };
            }
            self.cover();
        }
    }

    /// Reserves what the round holds. What has come from a queue is covered already; where the ceiling refuses the rest, a
    /// round's worth at the most goes uncounted.
    fn cover(&mut self) {
        let kept: usize = self.lanes.iter().map(|lane| lane.batch.kept() + lane.pinned).sum();
        self.held.resize(self.own + kept);
    }

    /// The stream is full: keeps a copy of the rest of a chunk that has begun, and lets go of the log's segments.
    fn release(&mut self) {
        let lanes = &mut self.lanes;
        let mut first = true;
        self.round.retain(|piece| {
            let begun = std::mem::replace(&mut first, false);
            match piece {
                Piece::Bytes(_) => true,
                Piece::Log(at) => {
                    let LaneOut { cursor, batch, logs_turn, .. } = &mut lanes[*at];
                    cursor.release(batch);
                    *logs_turn |= !begun;
                    // A torn chunk whose rest was too long to keep holds its place: see `mend`.
                    cursor.torn(batch) || !batch.is_empty()
                }
            }
        });
        self.cover();
    }

    /// Fetches the rest of a chunk that is half on the line and was too long to keep: it goes before anything else.
    fn mend(&mut self) -> Result<(), End> {
        let Some(Piece::Log(at)) = self.round.front() else { return Ok(()) };
        let LaneOut { lane, cursor, batch, .. } = &mut self.lanes[*at];
        if batch.is_empty() && cursor.torn(batch) && cursor.fill(1, batch) != Fill::Ready {
            return Err(End::TooSlow(*lane));
        }
        Ok(())
    }

    /// Nothing is left to write: the memory goes back to the thread, for the next link.
    fn rest_idle(&mut self) {
        self.lanes.iter_mut().for_each(|lane| lane.batch.clear_idle());
        if self.round.capacity() > 0 {
            let memory = std::mem::take(&mut self.round);
            // A thread that is ending has no place for it any more.
            let _ = SPARE.try_with(|spare| spare.set(memory));
        }
    }

    /// Fetches memory to gather in from the thread.
    fn equip(&mut self) {
        if self.round.capacity() == 0 {
            self.round = SPARE.try_with(Cell::take).unwrap_or_default();
        }
    }

    /// Where the cursors stand now.
    pub(super) fn positions(&self) -> Positions {
        [0, 1, 2].map(|at: usize| self.lanes[at].cursor.view().resume())
    }
}

thread_local! {
    /// The empty round of whichever link of this thread came to rest last. An idle link holds none, and one that wakes finds
    /// memory that is still in the cache.
    static SPARE: Cell<VecDeque<Piece>> = const { Cell::new(VecDeque::new()) };
}

/// Pieces in one write: the kernel takes up to 1,024, and beyond 64 the call costs more than it saves.
const SLICES: usize = 64;
/// Rounds in one poll before other tasks get their turn. The links of a broadcast write the same bytes one after the other:
/// what one has written is still in the cache for the next, if it was not too much.
const ROUNDS: usize = 2;
/// Control bytes that may wait. A peer that makes us answer more than it reads is flooding.
const MAX_CONTROL: usize = 32 * 1024;
