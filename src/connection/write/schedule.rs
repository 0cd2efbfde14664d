//! Gathering a round: how many bytes each lane gives, and in what order.

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use crate::broadcast::Fill;
use crate::connection::close_reason::CloseReason;
use crate::connection::handler::ConnectionHandler;
use crate::connection::write::outbox::Outgoing;
use crate::wire::{Control, Protocol};

use super::write_state::{LaneWriter, RoundPiece, WriteState};
use super::{BULK, LANES, URGENT, WriteContext, WriteMode, Writer};

/// A lower lane with waiting data gets one part in this many of a full round's bytes.
const LOWER_LANE_DIVISOR: usize = 16;
/// The least that a lane gets: one chunk.
const MIN_LANE_BYTES: usize = 16 * 1024;
/// Messages below this many bytes are copied together; larger ones are written from where they are.
const SMALL_MESSAGE_BYTES: usize = 2 * 1024;

/// What waits beside the logs when a round begins. Later arrivals are for the next round.
#[derive(Clone, Copy)]
struct Waiting {
    /// In the queue of each lane, a message that has begun included.
    queue: [bool; 3],
    state: bool,
}

impl Writer {
    /// Fills the round, which must be empty.
    pub(super) fn gather<D: Protocol, H: ConnectionHandler>(
        &mut self,
        active: &mut WriteState,
        context: &WriteContext<'_, D, H>,
        mode: WriteMode,
    ) -> Result<(), CloseReason> {
        let connection = context.connection;
        self.gather_control(active, context, mode)?;
        if mode == WriteMode::FinishOnly {
            return Ok(());
        }
        let bulk_bytes = active.bulk_window.round_bytes();
        let waiting = Waiting {
            queue: std::array::from_fn(|lane| {
                active.lanes[lane].partial_message.is_some() || connection.has_outgoing(LANES[lane])
            }),
            state: self.latest_state.has_unread(),
        };
        // What does not come from a log stays in the round while the stream is full, and later
        // messages wait for it.
        let is_sticky =
            waiting.state || (0..LANES.len()).any(|lane| waiting.queue[lane] && (lane != BULK || bulk_bytes > 0));
        let mut room = connection.shared.config.write_batch_bytes / if is_sticky { 2 } else { 1 };
        let lane_share = (room / LOWER_LANE_DIVISOR).max(MIN_LANE_BYTES);
        room = room.saturating_sub(active.copied_bytes);
        let served = self.gather_starving(active, context, lane_share, bulk_bytes == 0)?;
        room = room.saturating_sub(lane_share * served.iter().filter(|served| **served).count());
        for lane in (0..active.lanes.len()).filter(|lane| !served[*lane]) {
            if lane == BULK && bulk_bytes == 0 {
                continue;
            }
            let max = room.max(lane_share);
            let max = if lane == BULK { max.min(bulk_bytes).max(MIN_LANE_BYTES) } else { max };
            let taken = self.gather_lane(active, lane, max, waiting, context)?;
            room = room.saturating_sub(taken);
            if lane == BULK && (1..bulk_bytes).contains(&taken) {
                active.bulk_window.ran_out(taken);
            }
        }
        active.reserve_round(connection);
        Ok(())
    }

    /// Takes the control messages that wait, a due ping, and a due mark behind bulk.
    fn gather_control<D: Protocol, H>(
        &self,
        active: &mut WriteState,
        context: &WriteContext<'_, D, H>,
        mode: WriteMode,
    ) -> Result<(), CloseReason> {
        let WriteContext { protocol, connection, .. } = context;
        if let Some(token) = connection.take_ping() {
            active.control.push(*protocol, &Control::Ping { token })?;
        }
        let acknowledges = connection.shared.features.ping_tokens && mode != WriteMode::IgnoreBulkWindow;
        active.bulk_window.set_limited(acknowledges);
        if let Some(token) = active.bulk_window.next_mark(Instant::now) {
            active.control.push(*protocol, &Control::Ping { token })?;
        }
        if !active.control.is_empty() {
            let control = active.control.take();
            active.push_copied(URGENT, control);
        }
        Ok(())
    }

    /// Fills one lane's share of a round. Returns how many bytes it took.
    fn gather_lane<D: Protocol, H: ConnectionHandler>(
        &mut self,
        active: &mut WriteState,
        lane: usize,
        room: usize,
        waiting: Waiting,
        context: &WriteContext<'_, D, H>,
    ) -> Result<usize, CloseReason> {
        let (queue_waits, state_waits) = (waiting.queue[lane], waiting.state && lane == URGENT);
        let others_wait = queue_waits || state_waits;
        let mut taken = 0;
        if others_wait && !active.lanes[lane].cursor.is_mid_message() {
            // The log and the others get half each, if both wait.
            let log_waits = active.lanes[lane].cursor.has_unread(self.positions.member(lane));
            let share = if log_waits { (room / 2).max(1) } else { room };
            if state_waits && active.lanes[lane].partial_message.is_none() {
                // State that changes all the time leaves the queue its half.
                taken += self.gather_state(active, if queue_waits { (share / 2).max(1) } else { share });
            }
            // A message that has begun ends first, even if it is the log's turn.
            let writer = &active.lanes[lane];
            let log_first = log_waits && writer.log_goes_first && writer.partial_message.is_none();
            if queue_waits && !log_first {
                // At least one message, however large the last value of state was.
                taken += self.gather_queue(active, lane, share.saturating_sub(taken).max(1), context)?;
            }
        }
        if active.lanes[lane].partial_message.is_none() && taken < room {
            // While others wait for the log's message to end, only its next chunk is taken.
            let mid_message = active.lanes[lane].cursor.is_mid_message();
            let max = if others_wait && mid_message { 1 } else { room - taken };
            taken += self.gather_log(active, lane, max, context)?;
        }
        // It was the log's turn, and all that it had was skipped or came from the peer itself.
        if taken == 0 && queue_waits && !active.lanes[lane].cursor.is_mid_message() {
            taken += self.gather_queue(active, lane, room, context)?;
        }
        Ok(taken)
    }

    /// Serves starving logs first. What was gathered from a log behind other pieces is released
    /// when the stream is full before it begins. A lane that was passed over like this for fifteen
    /// shares goes first with one share. Returns which lanes did.
    fn gather_starving<D: Protocol, H: ConnectionHandler>(
        &mut self,
        active: &mut WriteState,
        context: &WriteContext<'_, D, H>,
        lane_share: usize,
        skip_bulk: bool,
    ) -> Result<[bool; 3], CloseReason> {
        let written = active.written_bytes;
        let starving_after = ((LOWER_LANE_DIVISOR - 1) * lane_share) as u64;
        let mut served = [false; 3];
        for (lane, served) in served.iter_mut().enumerate() {
            let writer = &mut active.lanes[lane];
            if !writer.cursor.has_unread(self.positions.member(lane)) {
                (writer.log_served_at, writer.log_goes_first) = (written, false);
            } else if lane == BULK && skip_bulk {
                continue;
            } else if writer.partial_message.is_none() && written - writer.log_served_at >= starving_after {
                *served = self.gather_log(active, lane, lane_share, context)? > 0;
            }
        }
        Ok(served)
    }

    /// Invariant: `missed_messages_are_reported_at_both_ends`.
    /// - Statement: where a cursor skips, the owner and the peer learn how many messages it left
    ///   out.
    /// - Enforced by: a skip calls the handler and writes the count before the lane's next message.
    /// - Breaks if: a cursor is moved elsewhere.
    fn gather_log<D: Protocol, H: ConnectionHandler>(
        &mut self,
        active: &mut WriteState,
        index: usize,
        max: usize,
        context: &WriteContext<'_, D, H>,
    ) -> Result<usize, CloseReason> {
        let (lane, member) = (LANES[index], self.positions.member(index));
        // At most twice: after a skip the cursor stands at the end, and something may have been
        // appended since.
        for _ in 0..2 {
            let LaneWriter { cursor, batch, .. } = &mut active.lanes[index];
            if batch.is_empty() && !cursor.has_unread(member) {
                return Ok(0);
            }
            match cursor.fill(member, max, batch) {
                Fill::Ready => {
                    let taken = batch.len();
                    active.round.push_back(RoundPiece::Log(index));
                    return Ok(taken);
                }
                Fill::CaughtUp => return Ok(0),
                Fill::Skipped { messages, aborted } => {
                    context.handler.on_lagged(lane, messages);
                    let mut notices = BytesMut::new();
                    if aborted {
                        // A protocol without chunks has no incomplete messages to abort.
                        let _ = context.protocol.encode_control(&Control::Abort { lane }, &mut notices);
                    }
                    // Before the lane's next message, so that the receiver knows where the gap is.
                    let missed = Control::Missed { lane, count: messages };
                    let _ = context.protocol.encode_control(&missed, &mut notices);
                    active.push_copied(index, notices.freeze());
                }
                Fill::Overrun => return Err(CloseReason::TooSlow(lane)),
            }
        }
        Ok(0)
    }

    fn gather_state(&mut self, active: &mut WriteState, share: usize) -> usize {
        let mut taken = 0;
        while taken < share
            && let Some(entry) = self.latest_state.take_next()
        {
            taken += entry.encoded.len();
            active.push_copied(URGENT, entry.encoded);
        }
        taken
    }

    fn gather_queue<D: Protocol, H>(
        &mut self,
        active: &mut WriteState,
        index: usize,
        share: usize,
        context: &WriteContext<'_, D, H>,
    ) -> Result<usize, CloseReason> {
        let (lane, connection, protocol) = (LANES[index], context.connection, context.protocol);
        let mut taken = 0;
        let mut small = BytesMut::new();
        while taken < share {
            if let Some(chunks) = &mut active.lanes[index].partial_message {
                match chunks.next() {
                    Some(chunk) => {
                        taken += chunk.wire_len();
                        active.push_copied(index, Bytes::copy_from_slice(&chunk.header));
                        // Covered as a part of its message.
                        active.push_referenced(index, chunk.payload);
                    }
                    None => {
                        active.end_partial_message(index);
                        if self.has_other_source(active, index) {
                            break;
                        }
                    }
                }
                continue;
            }
            let room = share - taken;
            let outgoing =
                connection.take_outgoing(lane, room, SMALL_MESSAGE_BYTES, active.reservation(connection));
            if outgoing.is_empty() {
                break;
            }
            for Outgoing { header, payload } in outgoing {
                if payload.len() < SMALL_MESSAGE_BYTES {
                    let before = small.len();
                    // What the protocol cannot encode was refused when it was to be queued.
                    let _ = protocol.encode(lane, &header, &payload, &mut small);
                    taken += small.len() - before;
                } else {
                    // A large message is always the last one taken.
                    active.push_copied(index, small.split().freeze());
                    let writer = &mut active.lanes[index];
                    writer.partial_message_bytes = payload.len();
                    writer.referenced_bytes += payload.len();
                    writer.partial_message = protocol.chunks(lane, header, payload).ok().map(Box::new);
                }
            }
        }
        active.push_copied(index, small.freeze());
        if active.lanes[index].partial_message.as_ref().is_some_and(|chunks| chunks.len() == 0) {
            active.end_partial_message(index);
        }
        Ok(taken)
    }

    /// Whether the lane has anything but its queue to send. After a large message of the queue that
    /// goes first.
    fn has_other_source(&self, active: &WriteState, lane: usize) -> bool {
        active.lanes[lane].cursor.has_unread(self.positions.member(lane))
            || (lane == URGENT && self.latest_state.has_unread())
    }
}
