//! Gathering a round: which lane gives how much, and in what order.

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use crate::broadcast::Fill;
use crate::connection::close_reason::CloseReason;
use crate::connection::handle::Connection;
use crate::connection::handler::ConnectionHandler;
use crate::connection::write::outbox::Outgoing;
use crate::wire::{Control, Protocol};

use super::{BULK, Gather, LANES, LaneWriter, Piece, URGENT, WriteState, Writer};

impl<D: Protocol> Writer<D> {
    pub(super) fn gather<H: ConnectionHandler>(
        &mut self,
        busy: &mut WriteState,
        connection: &Connection,
        handler: &H,
        gather: Gather,
    ) -> Result<(), CloseReason> {
        if let Some(token) = connection.take_ping() {
            self.say(busy, &Control::Ping { token })?;
        }
        busy.flight.bound(connection.shared.features.ping_tokens && gather != Gather::Deaf);
        if let Some(token) = busy.flight.mark(Instant::now) {
            self.say(busy, &Control::Ping { token })?;
        }
        if !busy.control.is_empty() {
            let control = busy.control.split().freeze();
            busy.control = BytesMut::new();
            busy.put(URGENT, control);
        }
        if gather == Gather::None {
            return Ok(());
        }
        let bulk = busy.flight.round();
        let waits = Waits {
            queue: std::array::from_fn(|at| {
                busy.lanes[at].open.is_some() || connection.has_outgoing(LANES[at])
            }),
            state: self.state.has_unread(),
        };
        // What does not come of a log stays in the round when the stream is full, and what comes later waits for it.
        let stays = waits.state || (0..LANES.len()).any(|at| waits.queue[at] && (at != BULK || bulk > 0));
        let mut room = connection.shared.config.write_batch_bytes / if stays { 2 } else { 1 };
        let share = (room / CHUNKS).max(CHUNK);
        room = room.saturating_sub(busy.own);
        let early = self.gather_starving(busy, handler, share, bulk == 0)?;
        room = room.saturating_sub(share * early.iter().filter(|early| **early).count());
        for at in (0..busy.lanes.len()).filter(|at| !early[*at]) {
            if at == BULK && bulk == 0 {
                continue;
            }
            let most = room.max(share);
            let most = if at == BULK { most.min(bulk).max(CHUNK) } else { most };
            let taken = self.gather_lane(busy, at, most, waits, connection, handler)?;
            room = room.saturating_sub(taken);
            if at == BULK && (1..bulk).contains(&taken) {
                busy.flight.ran_out(taken);
            }
        }
        busy.cover(connection);
        Ok(())
    }

    /// Fills one lane's share of a round; how many bytes it took.
    fn gather_lane<H: ConnectionHandler>(
        &mut self,
        busy: &mut WriteState,
        at: usize,
        room: usize,
        waits: Waits,
        connection: &Connection,
        handler: &H,
    ) -> Result<usize, CloseReason> {
        let (queue_waits, state_waits) = (waits.queue[at], waits.state && at == URGENT);
        let others_wait = queue_waits || state_waits;
        let mut taken = 0;
        if others_wait && !busy.lanes[at].stride.is_mid_message() {
            // Where both wait, each gets half.
            let log_waits = busy.lanes[at].stride.has_unread(self.positions.member(at));
            let share = if log_waits { (room / 2).max(1) } else { room };
            if state_waits && busy.lanes[at].open.is_none() {
                // State that is set all the time leaves the queue its half.
                taken += self.gather_state(busy, if queue_waits { (share / 2).max(1) } else { share });
            }
            // Whatever turn it is, a message that has begun ends first.
            let logs_turn = log_waits && busy.lanes[at].logs_turn && busy.lanes[at].open.is_none();
            if queue_waits && !logs_turn {
                // One at least, however large the last value of state was.
                taken += self.gather_queue(busy, at, share.saturating_sub(taken).max(1), connection)?;
            }
        }
        if busy.lanes[at].open.is_none() && taken < room {
            // While others wait for the log's message to end, take no more of the log than its next chunk.
            let most = if others_wait && busy.lanes[at].stride.is_mid_message() { 1 } else { room - taken };
            taken += self.gather_log(busy, at, most, handler)?;
        }
        // It was the log's turn, and all that it had was skipped or the peer's own.
        if taken == 0 && queue_waits && !busy.lanes[at].stride.is_mid_message() {
            taken += self.gather_queue(busy, at, room, connection)?;
        }
        Ok(taken)
    }

    /// What is gathered of a log behind other pieces is let go of when the stream is full before it begins. A lane that was
    /// passed over like this for fifteen shares goes first with one; which lanes did.
    fn gather_starving<H: ConnectionHandler>(
        &mut self,
        busy: &mut WriteState,
        handler: &H,
        share: usize,
        no_bulk: bool,
    ) -> Result<[bool; 3], CloseReason> {
        let (mut early, written) = ([false; 3], busy.written);
        for (at, early) in early.iter_mut().enumerate() {
            let lane = &mut busy.lanes[at];
            if !lane.stride.has_unread(self.positions.member(at)) {
                (lane.served, lane.logs_turn) = (written, false);
            } else if at == BULK && no_bulk {
                continue;
            } else if lane.open.is_none() && written - lane.served >= ((CHUNKS - 1) * share) as u64 {
                *early = self.gather_log(busy, at, share, handler)? > 0;
            }
        }
        Ok(early)
    }

    fn gather_log<H: ConnectionHandler>(
        &mut self,
        busy: &mut WriteState,
        at: usize,
        most: usize,
        handler: &H,
    ) -> Result<usize, CloseReason> {
        // Twice at the most: after a gap the cursor stands at the end, and something may have come since.
        for _ in 0..2 {
            let LaneWriter { stride, batch, .. } = &mut busy.lanes[at];
            let (lane, foothold) = (LANES[at], self.positions.member(at));
            if batch.is_empty() && !stride.has_unread(foothold) {
                return Ok(0);
            }
            match stride.fill(foothold, most, batch) {
                Fill::Ready => {
                    let taken = batch.len();
                    busy.round.push_back(Piece::Log(at));
                    return Ok(taken);
                }
                Fill::CaughtUp => return Ok(0),
                Fill::Skipped { messages, aborted } => {
                    handler.on_lagged(lane, messages);
                    if aborted {
                        let mut abort = BytesMut::new();
                        // A protocol without chunks has no open messages to abort.
                        let _ = self.protocol.encode_control(&Control::Abort { lane }, &mut abort);
                        busy.put(at, abort.freeze());
                    }
                }
                Fill::Overrun => return Err(CloseReason::TooSlow(lane)),
            }
        }
        Ok(0)
    }

    fn gather_state(&mut self, busy: &mut WriteState, share: usize) -> usize {
        let mut taken = 0;
        while taken < share
            && let Some(entry) = self.state.take_next()
        {
            taken += entry.encoded.len();
            busy.put(URGENT, entry.encoded);
        }
        taken
    }

    fn gather_queue(
        &mut self,
        busy: &mut WriteState,
        at: usize,
        share: usize,
        connection: &Connection,
    ) -> Result<usize, CloseReason> {
        let lane = LANES[at];
        let mut taken = 0;
        let mut small = BytesMut::new();
        while taken < share {
            if let Some(chunks) = &mut busy.lanes[at].open {
                match chunks.next() {
                    Some(chunk) => {
                        taken += chunk.wire_len();
                        busy.put(at, Bytes::copy_from_slice(&chunk.header));
                        // Covered as a part of its message.
                        busy.refer(at, chunk.payload);
                    }
                    None => {
                        busy.end_open(at);
                        // By message: after a large one it is the others' turn.
                        if busy.lanes[at].stride.has_unread(self.positions.member(at))
                            || (at == URGENT && self.state.has_unread())
                        {
                            break;
                        }
                    }
                }
                continue;
            }
            let waiting = connection.take_outgoing(lane, share - taken, SMALL, busy.held(connection));
            if waiting.is_empty() {
                break;
            }
            for Outgoing { head, payload } in waiting {
                if payload.len() < SMALL {
                    let before = small.len();
                    // What cannot be said was refused when it was to be queued.
                    let _ = self.protocol.encode(lane, &head, &payload, &mut small);
                    taken += small.len() - before;
                } else {
                    // The last one taken.
                    busy.put(at, small.split().freeze());
                    busy.lanes[at].opened = payload.len();
                    busy.lanes[at].pinned += payload.len();
                    busy.lanes[at].open = self.protocol.chunks(lane, head, payload).ok().map(Box::new);
                }
            }
        }
        busy.put(at, small.freeze());
        if busy.lanes[at].open.as_ref().is_some_and(|chunks| chunks.len() == 0) {
            busy.end_open(at);
        }
        Ok(taken)
    }
}

impl WriteState {
    fn end_open(&mut self, at: usize) {
        self.lanes[at].open = None;
        self.lanes[at].logs_turn = true;
    }

    /// Own bytes of a lane, or of control where it does not matter which.
    fn put(&mut self, at: usize, bytes: Bytes) {
        self.own += bytes.len();
        self.refer(at, bytes);
    }

    fn refer(&mut self, at: usize, bytes: Bytes) {
        if !bytes.is_empty() {
            self.round.push_back(if at == BULK { Piece::Bulk(bytes) } else { Piece::Bytes(bytes) });
        }
    }
}

/// What there is beside the logs when a round begins; what comes later is for the next.
#[derive(Clone, Copy)]
struct Waits {
    /// In the queue of each lane, or begun.
    queue: [bool; 3],
    state: bool,
}

/// A lower lane that waits gets one in so many of the bytes of a full round.
const CHUNKS: usize = 16;
/// And no less than a chunk.
const CHUNK: usize = 16 * 1024;
/// Messages below this are copied together, larger ones are written from where they are.
const SMALL: usize = 2 * 1024;
