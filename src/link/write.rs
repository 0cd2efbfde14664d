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
use super::log::{Batch, Cursor, Fill};
use super::outbox::Outgoing;
use super::shared::{Link, Positions};
use super::state::StateCursor;

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
    batch: Batch,
    /// A message of the queue whose first chunks are in a round or on the line already.
    open: Option<Chunks>,
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
            batch: Batch::default(),
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
                    link.write_progress(None);
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
        let result = Pin::new(stream).poll_write_vectored(cx, &slices[..count]);
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

    fn rest_idle(&mut self) {
        self.lanes.iter_mut().for_each(|lane| lane.batch.clear_idle());
        self.round.shrink_to(0);
    }

    /// Where the cursors stand now.
    pub(super) fn positions(&self) -> Positions {
        [0, 1, 2].map(|at: usize| self.lanes[at].cursor.view().resume())
    }

    fn gather<H: Host>(&mut self, link: &Link, host: &H, gather: bool) -> Result<(), End> {
        if let Some(token) = link.take_ping() {
            self.control(&Control::Ping { token })?;
        }
        let mut room = self.batch;
        if !self.control.is_empty() {
            let control = self.control.split().freeze();
            self.control = BytesMut::new();
            room = room.saturating_sub(control.len());
            self.put(control);
        }
        if !gather {
            return Ok(());
        }
        let early = self.gather_starving(host)?;
        room = room.saturating_sub(LOWER_LANE_SHARE * early.iter().filter(|early| **early).count());
        for at in (0..self.lanes.len()).filter(|at| !early[*at]) {
            let most = if at == BULK { room.min(BULK_ROUND) } else { room };
            let taken = self.gather_lane(at, most.max(LOWER_LANE_SHARE), link, host)?;
            room = room.saturating_sub(taken);
        }
        self.cover();
        Ok(())
    }

    /// Fills one lane's share of a round; how many bytes it took.
    fn gather_lane<H: Host>(&mut self, at: usize, room: usize, link: &Link, host: &H) -> Result<usize, End> {
        let queue_waits = self.lanes[at].open.is_some() || link.has_outgoing(self.lanes[at].lane);
        let state_waits = at == URGENT && self.state.has_news();
        let others_wait = queue_waits || state_waits;
        let mut taken = 0;
        if others_wait && !self.lanes[at].cursor.in_message() {
            // Where both wait, each gets half.
            let log_waits = self.lanes[at].cursor.has_news();
            let share = if log_waits { (room / 2).max(1) } else { room };
            if state_waits && self.lanes[at].open.is_none() {
                taken += self.gather_state(share);
            }
            if queue_waits && taken < share && !(log_waits && self.lanes[at].logs_turn) {
                taken += self.gather_queue(at, share - taken, link)?;
            }
        }
        if self.lanes[at].open.is_none() && taken < room {
            // While others wait for the log's message to end, take no more of the log than its next chunk.
            let most = if others_wait && self.lanes[at].cursor.in_message() { 1 } else { room - taken };
            taken += self.gather_log(at, most, host)?;
        }
        Ok(taken)
    }

    /// What is gathered of a log behind other pieces is let go of when the stream is full before it begins. A lane that was
    /// passed over like this for fifteen chunks goes first with one; which lanes did.
    fn gather_starving<H: Host>(&mut self, host: &H) -> Result<[bool; 3], End> {
        let mut early = [false; 3];
        for (at, early) in early.iter_mut().enumerate() {
            let lane = &mut self.lanes[at];
            if !lane.cursor.has_news() {
                (lane.served, lane.logs_turn) = (self.written, false);
            } else if lane.open.is_none() && self.written - lane.served >= STARVING {
                *early = self.gather_log(at, LOWER_LANE_SHARE, host)? > 0;
            }
        }
        Ok(early)
    }

    fn gather_log<H: Host>(&mut self, at: usize, most: usize, host: &H) -> Result<usize, End> {
        // Twice at the most: after a gap the cursor stands at the end, and something may have come since.
        for _ in 0..2 {
            let LaneOut { lane, cursor, batch, .. } = &mut self.lanes[at];
            let lane = *lane;
            match cursor.fill(most, batch) {
                Fill::Ready => {
                    let taken = batch.len();
                    self.round.push_back(Piece::Log(at));
                    return Ok(taken);
                }
                Fill::CaughtUp => return Ok(0),
                Fill::Skipped { messages, aborted } => {
                    host.gap(lane, messages);
                    if aborted {
                        let mut abort = BytesMut::new();
                        // A dialect without chunks has no open messages to abort.
                        let _ = self.dialect.encode_control(&Control::Abort { lane }, &mut abort);
                        self.put(abort.freeze());
                    }
                }
                Fill::Overrun => return Err(End::TooSlow(lane)),
            }
        }
        Ok(0)
    }

    fn gather_state(&mut self, share: usize) -> usize {
        let mut taken = 0;
        while taken < share
            && let Some(entry) = self.state.take_next()
        {
            taken += entry.encoded.len();
            self.put(entry.encoded);
        }
        taken
    }

    fn gather_queue(&mut self, at: usize, share: usize, link: &Link) -> Result<usize, End> {
        let lane = self.lanes[at].lane;
        let mut taken = 0;
        let mut small = BytesMut::new();
        while taken < share {
            if let Some(chunks) = &mut self.lanes[at].open {
                match chunks.next() {
                    Some(chunk) => {
                        taken += chunk.wire_len();
                        self.put(Bytes::copy_from_slice(&chunk.head));
                        // Covered as a part of its message.
                        self.refer(chunk.body);
                    }
                    None => {
                        self.end_open(at);
                        // By message: after a large one it is the others' turn.
                        if self.lanes[at].cursor.has_news() || (at == URGENT && self.state.has_news()) {
                            break;
                        }
                    }
                }
                continue;
            }
            let Some((Outgoing { head, payload }, cover)) = link.next_outgoing(lane) else { break };
            self.held.merge(cover);
            if payload.len() < SMALL {
                let before = small.len();
                // Caps were checked when it was queued.
                let _ = self.dialect.encode(lane, &head, &payload, &mut small);
                taken += small.len() - before;
            } else {
                self.put(small.split().freeze());
                self.lanes[at].opened = payload.len();
                self.lanes[at].pinned += payload.len();
                self.lanes[at].open = self.dialect.chunks(lane, head, payload).ok();
            }
        }
        self.put(small.freeze());
        if self.lanes[at].open.as_ref().is_some_and(|chunks| chunks.len() == 0) {
            self.end_open(at);
        }
        Ok(taken)
    }

    fn end_open(&mut self, at: usize) {
        self.lanes[at].open = None;
        self.lanes[at].logs_turn = true;
    }

    fn put(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.own += bytes.len();
            self.refer(bytes);
        }
    }

    fn refer(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.round.push_back(Piece::Bytes(bytes));
        }
    }
}

/// Pieces in one write: the kernel takes up to 1,024, and beyond 64 the call costs more than it saves.
const SLICES: usize = 64;
/// Rounds in one poll before other tasks get their turn.
const ROUNDS: usize = 4;
/// What a lower lane that waits gets of a full round: one chunk.
const LOWER_LANE_SHARE: usize = 16 * 1024;
/// So many bytes of others make a log that waits go first.
const STARVING: u64 = 15 * LOWER_LANE_SHARE as u64;
/// The most bulk in one round: what a vote that comes meanwhile has to wait for.
const BULK_ROUND: usize = 64 * 1024;
/// Messages below this are copied together, larger ones are written from where they are.
const SMALL: usize = 2 * 1024;
/// Control bytes that may wait. A peer that makes us answer more than it reads is flooding.
const MAX_CONTROL: usize = 32 * 1024;
const URGENT: usize = 0;
const BULK: usize = 2;
