//! The reading half: bytes become messages, without a buffer of its own while nothing arrives.
//!
//! ```text
//!  stream --thread's buffer--> decoder --> dispatch --> inbox --> handler
//!                                             |--> responses: the waiting request, at once
//!                                             |--> pongs and address lists: the connection, at once
//!                                             +--> replies to control: the control queue, which the writer drains
//! ```
//!
//! The reader writes nothing. What it wants to be sent it appends to the [`ControlSink`];
//! acknowledgements of bulk it leaves in [`BulkAcks`]; after many requests it returns
//! [`ReadOutcome::Requests`] in the middle of a pass, so that the driver writes the first responses
//! while the rest is decoded.

mod buffer;
mod deadlines;
mod dispatch;
mod inbox;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::time::Instant;

use crate::transport::Stream;
use crate::wire::{DecodeStep, Decoder, MessageHeader, Payload, Protocol};

use super::budget::{MemoryReservation, MemoryWait};
use super::close_reason::CloseReason;
use super::handle::Connection;
use super::handler::ConnectionHandler;
use super::shared::ConnectionShared;
use super::write::{BulkAcks, ControlSink};

use buffer::{READ_BUFFER_BYTES, ReadBuffer};
use deadlines::{ProgressWatch, RoomWait, Unfinished};
pub(super) use inbox::Inbox;

/// Requests, or responses, that are decoded before the other end gets something to do: enough to
/// spread the cost of one write, few enough that neither end stands still meanwhile.
const MAX_BATCH: usize = 64;
/// Reads in one turn before other tasks get theirs.
const MAX_READS_PER_TURN: usize = 4;
/// Frames in one turn. A runtime may poll 61 tasks before it looks at its sockets again, so what
/// one turn takes is felt 61 times by a peer that waits.
const MAX_FRAMES_PER_TURN: usize = 512;
/// Frames between two looks at the clock.
const FRAMES_PER_TIME_CHECK: usize = 32;
/// Time for the frames of one turn behind the first look at the clock, so that a slow handler gets
/// few of them in a turn. A short turn reads no clock.
const MAX_TURN: Duration = Duration::from_micros(100);

/// Reads, decodes and dispatches.
///
/// Invariant: `frame_reads_are_cancel_safe`
/// Statement: no byte is lost whenever a poll ends.
/// Enforced by: every pass ends in [`Reader::end_pass`], which keeps what was read and not decoded.
/// Breaks if: the driver drops a [`ReadPass`] and goes on with the connection.
pub(super) struct Reader<D: Protocol> {
    decoder: D::Decoder,
    /// Present while there is something to keep.
    unparsed: Option<Box<Unparsed>>,
    /// Present once one of it was needed.
    timing: Option<Box<Timing>>,
    /// Bytes that the last turn decoded, if it ended with bytes left; 0 otherwise.
    turn_bytes: u32,
    is_paused: bool,
    expects_peers: bool,
}

/// What a reader does by the clock.
#[derive(Default)]
struct Timing {
    /// When the peer last got a list of addresses.
    peers_sent_at: Option<Instant>,
    /// Present while something is unfinished.
    progress: Option<ProgressWatch>,
    /// Present while reading waits for memory.
    room: Option<RoomWait>,
}

/// What is kept between two passes.
struct Unparsed {
    /// Read and not decoded: less than a frame, or what was in the buffer when reading paused.
    bytes: Vec<u8>,
    /// Covers `bytes` and the decoder's reassembly.
    reservation: MemoryReservation,
}

/// What decoded messages are given to.
pub(super) struct ReadContext<'a, D, H> {
    pub(super) protocol: &'a D,
    pub(super) connection: &'a Arc<Connection>,
    pub(super) handler: &'a H,
    pub(super) inbox: &'a mut Inbox,
    pub(super) control: ControlSink<'a>,
    pub(super) acks: &'a mut BulkAcks,
}

/// One pass over the stream: the thread's buffer, and which of its bytes are not decoded.
pub(super) struct ReadPass {
    buffer: ReadBuffer,
    start: usize,
    end: usize,
}

/// What one poll of the task has read so far, in all its passes.
#[derive(Debug, Default)]
pub(super) struct ReadTurn {
    reads: usize,
    frames: usize,
    /// Bytes of these frames.
    decoded: usize,
    /// When the clock was read first.
    since: Option<Instant>,
    /// Its frames or its time are used up.
    is_used: bool,
}

/// Why a pass stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadOutcome {
    /// There is nothing more, or reading waits for the inbox.
    Drained,
    /// There may be more; the task has used up its turn.
    TurnUsed,
    /// Many requests were decoded. Their responses can be written before the pass goes on.
    Requests,
    /// Many responses were decoded. The tasks that wait for them may send more requests first.
    Responses,
}

/// Why decoding stopped.
enum StopReason {
    /// The rest is less than a frame.
    NeedsBytes,
    TurnUsed,
    InboxFull,
    Requests,
    Responses,
}

impl<D: Protocol> Reader<D> {
    /// A reader for a stream of which `already_read` was read before.
    pub(super) fn new(protocol: &D, connection: &Connection, already_read: Vec<u8>) -> Self {
        let unparsed = (!already_read.is_empty()).then(|| {
            let mut reservation = MemoryReservation::empty(&connection.memory_account());
            reservation.resize(already_read.len());
            Box::new(Unparsed { bytes: already_read, reservation })
        });
        Self {
            decoder: protocol.decoder(),
            unparsed,
            timing: None,
            turn_bytes: 0,
            is_paused: false,
            expects_peers: false,
        }
    }

    /// Whether reading waits for the inbox or for memory, not for the stream.
    pub(super) fn is_paused(&self) -> bool {
        self.is_paused || self.waits_for_room()
    }

    fn waits_for_room(&self) -> bool {
        self.timing.as_ref().is_some_and(|timing| timing.room.is_some())
    }

    /// From now on one list of addresses is welcome.
    pub(super) fn expect_peers(&mut self) {
        self.expects_peers = true;
    }

    /// Begins a pass, unless reading waits for the inbox or for memory. The pass must be given to
    /// [`Self::end_pass`].
    pub(super) fn begin_pass<H: ConnectionHandler>(
        &mut self,
        connection: &Connection,
        inbox: &Inbox,
        handler: &H,
        cx: &mut Context<'_>,
    ) -> Option<ReadPass> {
        if self.is_paused() {
            if self.is_paused && !inbox.has_room(&connection.shared.config) {
                return None;
            }
            self.is_paused = false;
            if let Some(timing) = &mut self.timing
                && let Some(mut room) = timing.room.take()
            {
                let has_room =
                    self.unparsed.as_ref().is_none_or(|kept| kept.reservation.account().has_room());
                if !has_room {
                    room.poll(cx);
                    timing.room = Some(room);
                    return None;
                }
                room.waiting.resume();
            }
            handler.on_read_paused(false);
        }
        let unparsed = self.unparsed.as_mut().map_or_else(Vec::new, |kept| std::mem::take(&mut kept.bytes));
        let buffer = ReadBuffer::with(&unparsed, connection.shared.limits.window);
        Some(ReadPass { buffer, start: 0, end: unparsed.len() })
    }

    /// Reads and dispatches until nothing more is there, the inbox is full or the turn is used up.
    /// After [`ReadOutcome::Requests`] the pass goes on with another call.
    pub(super) fn read<S: Stream, H: ConnectionHandler>(
        &mut self,
        pass: &mut ReadPass,
        turn: &mut ReadTurn,
        stream: &mut S,
        cx: &mut Context<'_>,
        context: &mut ReadContext<'_, D, H>,
    ) -> Result<ReadOutcome, CloseReason> {
        loop {
            match self.decode(pass, turn, context)? {
                StopReason::NeedsBytes if turn.reads < MAX_READS_PER_TURN => {}
                StopReason::NeedsBytes | StopReason::TurnUsed => return Ok(ReadOutcome::TurnUsed),
                StopReason::InboxFull => return Ok(ReadOutcome::Drained),
                StopReason::Requests => return Ok(ReadOutcome::Requests),
                StopReason::Responses => return Ok(ReadOutcome::Responses),
            }
            let usual = turn.usual_read(self.turn_bytes as usize);
            match pass.poll_read(stream, cx, &context.connection.shared, usual) {
                Poll::Pending => return Ok(ReadOutcome::Drained),
                Poll::Ready(count) => {
                    turn.reads += 1;
                    context.handler.on_traffic(count?, 0);
                }
            }
        }
    }

    /// Decodes and dispatches what is in the buffer, or a part of it.
    fn decode<H: ConnectionHandler>(
        &mut self,
        pass: &mut ReadPass,
        turn: &mut ReadTurn,
        context: &mut ReadContext<'_, D, H>,
    ) -> Result<StopReason, CloseReason> {
        let (mut frames, begun, mut partial) = (turn.frames, pass.start, 0);
        let (mut unfinished_bytes, mut has_message) = (0, false);
        let (mut requests, mut responses) = (0, 0);
        let stopped = loop {
            let step = match self.decoder.step(&pass.buffer.bytes[pass.start..pass.end]) {
                Ok(step) => step,
                Err(error) => break Err(CloseReason::Wire(error)),
            };
            pass.start += step.used();
            let dispatched = match step {
                DecodeStep::NeedMore => break Ok(StopReason::NeedsBytes),
                // Less than a frame is no sign of life, but it takes its time.
                DecodeStep::PartialFrame { used } => {
                    partial += 1;
                    unfinished_bytes += used;
                    Ok(())
                }
                DecodeStep::Chunk { used } => {
                    unfinished_bytes += used;
                    Ok(())
                }
                DecodeStep::Control { control, .. } => self.dispatch_control(control, context),
                DecodeStep::Message { lane, header, payload, .. } => {
                    requests += usize::from(matches!(header, MessageHeader::Request { .. }));
                    responses += usize::from(matches!(header, MessageHeader::Response { .. }));
                    has_message |= matches!(payload, Payload::Owned(_));
                    // What covers the memory that the message was reassembled in moves on with it.
                    let cover = self.unparsed.as_mut().map(|kept| &mut kept.reservation);
                    dispatch::dispatch_message(lane, header, payload, cover, context)
                }
            };
            frames += 1;
            if let Err(reason) = dispatched {
                break Err(reason);
            }
            if context.inbox.is_full(&context.connection.shared.config) {
                self.is_paused = true;
                break Ok(StopReason::InboxFull);
            }
            if requests == MAX_BATCH {
                break Ok(StopReason::Requests);
            }
            if responses == MAX_BATCH {
                break Ok(StopReason::Responses);
            }
            if frames.is_multiple_of(FRAMES_PER_TIME_CHECK) && turn.use_up(frames) {
                break Ok(StopReason::TurnUsed);
            }
        };
        turn.decoded += pass.start - begun;
        if let Some(watch) = self.timing.as_mut().and_then(|timing| timing.progress.as_mut()) {
            watch.count(unfinished_bytes, frames > turn.frames + partial, has_message);
        }
        if unfinished_bytes > 0
            && let Some(kept) = &self.unparsed
        {
            kept.reservation.account().moved(unfinished_bytes);
        }
        let handled = frames - std::mem::replace(&mut turn.frames, frames);
        if handled > partial && !context.handler.on_frame(context.handler.now()) {
            return Err(CloseReason::Reaped);
        }
        if self.is_paused {
            context.handler.on_read_paused(true);
        }
        stopped
    }

    /// Ends a pass: keeps what is not decoded. It is in memory already, so it is kept and counted
    /// even if the ceiling, or a share, refuses: the rest of a frame, or the rest of the buffer when
    /// reading stopped before its end. Then nothing more is read until there is room.
    ///
    /// # Errors
    /// [`CloseReason::NoProgress`] if a message has been unfinished for too long, and
    /// [`CloseReason::MemoryCeiling`] if there will never be room for it.
    pub(super) fn end_pass<H: ConnectionHandler>(
        &mut self,
        pass: ReadPass,
        turn: &ReadTurn,
        connection: &Connection,
        handler: &H,
        cx: &mut Context<'_>,
    ) -> Result<(), CloseReason> {
        self.turn_bytes = if turn.is_used { u32::try_from(turn.decoded).unwrap_or(u32::MAX) } else { 0 };
        let rest = &pass.buffer.bytes[pass.start..pass.end];
        let reassembled = self.decoder.buffered();
        let held = rest.len() + reassembled;
        if held == 0 {
            self.unparsed = None;
            return self.watch_progress(Unfinished::Nothing, 0, turn, connection, cx);
        }
        let was_paused = self.is_paused();
        let watch = self.timing.get_or_insert_default().progress.get_or_insert_with(|| {
            ProgressWatch::new(&connection.shared.config, connection.memory_account())
        });
        let unparsed = self.unparsed.get_or_insert_with(|| {
            let reservation = MemoryReservation::empty(&watch.account);
            Box::new(Unparsed { bytes: Vec::new(), reservation })
        });
        unparsed.bytes = rest.to_vec();
        if !unparsed.reservation.resize(held) {
            unparsed.reservation.overdraw(held);
            if unparsed.reservation.account().is_beyond_hope() {
                return Err(CloseReason::MemoryCeiling);
            }
            // Less than a message of many frames is what any connection may hold.
            if reassembled > 2 * connection.shared.limits.window {
                let waiting = MemoryWait::new(unparsed.reservation.account());
                let timing = self.timing.get_or_insert_default();
                let mut room = RoomWait::new(waiting);
                room.poll(cx);
                timing.room = Some(room);
                if !was_paused {
                    handler.on_read_paused(true);
                }
            }
        }
        let unfinished = match (self.is_paused(), reassembled) {
            (true, _) => Unfinished::Paused,
            (false, 0) => Unfinished::Frame,
            (false, _) => Unfinished::Message,
        };
        self.watch_progress(unfinished, rest.len(), turn, connection, cx)
    }

    fn watch_progress(
        &mut self,
        unfinished: Unfinished,
        rest: usize,
        turn: &ReadTurn,
        connection: &Connection,
        cx: &mut Context<'_>,
    ) -> Result<(), CloseReason> {
        let config = &connection.shared.config;
        if let Some(timing) = &mut self.timing
            && let Some(watch) = &mut timing.progress
            && !watch.poll(unfinished, rest, turn.reads > 0, config, cx)?
        {
            timing.progress = None;
        }
        Ok(())
    }
}

impl ReadTurn {
    /// Whether other tasks come first now. Looks at the clock.
    fn use_up(&mut self, frames: usize) -> bool {
        self.is_used = frames >= MAX_FRAMES_PER_TURN
            || self.since.get_or_insert_with(Instant::now).elapsed() > MAX_TURN;
        self.is_used
    }

    /// How much to read at once: after a turn that ended with bytes left only what this one will
    /// decode. The remainder would be copied and kept.
    fn usual_read(&self, turn_bytes: usize) -> usize {
        if turn_bytes == 0 { READ_BUFFER_BYTES } else { turn_bytes.saturating_sub(self.decoded).min(READ_BUFFER_BYTES) }
    }
}

impl ReadPass {
    /// Reads once. Returns the number of bytes; the end of the stream is an error.
    fn poll_read<S: Stream>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        shared: &ConnectionShared,
        usual: usize,
    ) -> Poll<Result<usize, CloseReason>> {
        let buffer = &mut self.buffer.bytes;
        buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        // Near the ceiling no more than a frame is read at a time: what is in the buffer when the
        // inbox fills up has to be kept. A read never goes beyond a buffer's usual length, so that
        // pauses do not keep more and more.
        let one_frame = self.end.saturating_add(shared.limits.window);
        let is_near_ceiling = shared.budget.free() < READ_BUFFER_BYTES;
        let limit = if is_near_ceiling { one_frame } else { one_frame.max(usual) };
        let limit = limit.min(buffer.len());
        let mut into = ReadBuf::new(&mut buffer[self.end..limit]);
        match Pin::new(stream).poll_read(cx, &mut into) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(CloseReason::Io(error))),
            Poll::Ready(Ok(())) => {
                let count = into.filled().len();
                if count == 0 {
                    let has_goodbyes = shared.features.goodbye;
                    return Poll::Ready(Err(if has_goodbyes { CloseReason::Eof } else { CloseReason::Ended }));
                }
                self.end += count;
                Poll::Ready(Ok(count))
            }
        }
    }
}
