//! The reading side: bytes into messages, without a buffer of its own while nothing comes.

mod inbox;

use std::cell::Cell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::ReadBuf;
use tokio::time::Instant;

use crate::base::Lane;
use crate::transport::Stream;
use crate::wire::{Control, DecodeStep, Decoder, MessageHeader, Payload, Protocol};

pub(super) use inbox::{Inbox, Panicked};

use super::budget::MemoryReservation;
use super::close_reason::CloseReason;
use super::handle::{Connection, ConnectionShared};
use super::handler::ConnectionHandler;
use super::write::{Gather, Writer};

/// Reads, decodes, and hands over.
///
/// Invariant 18. Statement: no byte is lost whenever a poll ends. Enforced by: what was read and not yet decoded is put
/// back into `kept` on every way out of [`Reader::poll`]. Breaks if: an early return skips it.
pub(super) struct Reader<D: Protocol> {
    decoder: D::Decoder,
    /// There while there is something to keep.
    kept: Option<Box<Unparsed>>,
    peers_told: Option<Box<Instant>>,
    paused: bool,
    peers_asked: bool,
    /// It stopped although the stream had more.
    pub(super) stopped: bool,
    /// Those whom answers that were read wake have had their turn.
    pub(super) heard: bool,
}

/// What is kept between two polls.
struct Unparsed {
    /// ReadOutcome, not yet decoded: less than a frame, or what was in hand when reading paused.
    rest: Vec<u8>,
    /// Covers `rest` and the decoder's reassembly.
    held: MemoryReservation,
}

/// Whom decoded messages go to.
pub(super) struct ReadContext<'a, D: Protocol, H: ConnectionHandler> {
    pub(super) handler: &'a H,
    pub(super) connection: &'a Arc<Connection>,
    pub(super) inbox: &'a mut Inbox,
    pub(super) writer: &'a mut Writer<D>,
}

impl<D: Protocol> Reader<D> {
    pub(super) fn new(protocol: &D, shared: &ConnectionShared, rest: Vec<u8>) -> Self {
        let kept = (!rest.is_empty()).then(|| {
            let mut held = MemoryReservation::empty(&shared.budget);
            held.resize(rest.len());
            Box::new(Unparsed { rest, held })
        });
        Self {
            decoder: protocol.decoder(),
            kept,
            peers_told: None,
            paused: false,
            peers_asked: false,
            stopped: false,
            heard: false,
        }
    }

    /// Whether reading waits for the inbox, not for the stream.
    pub(super) const fn is_paused(&self) -> bool {
        self.paused
    }

    /// Reads until nothing more is there, the inbox is full or the task has had its share.
    pub(super) fn poll<S: Stream, H: ConnectionHandler>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        sinks: &mut ReadContext<'_, D, H>,
    ) -> Result<ReadOutcome, CloseReason> {
        if self.paused {
            if !sinks.inbox.has_room(&sinks.connection.shared.config) {
                return Ok(ReadOutcome::All);
            }
            self.paused = false;
            sinks.handler.on_read_paused(false);
        }
        let mut buffer = Borrowed::take();
        let rest = self.kept.as_mut().map_or_else(Vec::new, |kept| std::mem::take(&mut kept.rest));
        let filled = buffer.load(&rest, sinks.connection.shared.limits.window);
        drop(rest);
        let (result, left) = self.fill(stream, cx, sinks, &mut buffer.bytes, filled);
        let kept = self.keep(&buffer.bytes[..left], sinks.connection);
        // Why the connection ends is told, not that there was no room for what came behind that.
        let read = result?;
        kept.map(|()| read)
    }

    /// Returns what came of it, and how many bytes at the buffer's front are not decoded.
    fn fill<S: Stream, H: ConnectionHandler>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        sinks: &mut ReadContext<'_, D, H>,
        buffer: &mut [u8],
        mut filled: usize,
    ) -> (Result<ReadOutcome, CloseReason>, usize) {
        for turn in 0..=READS {
            let (used, outcome) = self.decode_all(&buffer[..filled], stream, cx, sinks);
            buffer.copy_within(used..filled, 0);
            filled -= used;
            match outcome {
                Ok(StopReason::Bytes) if turn < READS => {}
                Ok(StopReason::Bytes) => break,
                Ok(StopReason::Full) => return (Ok(ReadOutcome::All), filled),
                Ok(StopReason::Answers | StopReason::Requests) => return (Ok(ReadOutcome::Answers), filled),
                Err(end) => return (Err(end), filled),
            }
            let shared = &sinks.connection.shared;
            // Near the ceiling no more than a frame is read at a time: what is in hand when the inbox fills up has to be kept.
            let frame = filled.saturating_add(shared.limits.window);
            // And never beyond a buffer's usual length: a pause after each read must not keep more and more.
            let most = if shared.budget.free() < READ_BUFFER { frame } else { frame.max(READ_BUFFER) };
            let end = most.min(buffer.len());
            let mut into = ReadBuf::new(&mut buffer[filled..end]);
            match Pin::new(&mut *stream).poll_read(cx, &mut into) {
                Poll::Pending => return (Ok(ReadOutcome::All), filled),
                Poll::Ready(Err(error)) => return (Err(CloseReason::Io(error)), filled),
                Poll::Ready(Ok(())) => {
                    let count = into.filled().len();
                    if count == 0 {
                        return (Err(CloseReason::Eof), filled);
                    }
                    sinks.handler.on_traffic(count, 0);
                    filled += count;
                }
            }
        }
        (Ok(ReadOutcome::More), filled)
    }

    /// Decodes what is there, and lets what many requests have led to go out meanwhile: so both ends work at the same time.
    fn decode_all<S: Stream, H: ConnectionHandler>(
        &mut self,
        bytes: &[u8],
        stream: &mut S,
        cx: &mut Context<'_>,
        sinks: &mut ReadContext<'_, D, H>,
    ) -> (usize, Result<StopReason, CloseReason>) {
        let mut at = 0;
        loop {
            let (used, outcome) = self.decode(&bytes[at..], sinks);
            at += used;
            if !matches!(outcome, Ok(StopReason::Requests)) {
                return (at, outcome);
            }
            if let Err(end) = sinks.writer.poll(stream, cx, sinks.connection, sinks.handler, Gather::All) {
                return (at, Err(end));
            }
        }
    }

    /// Decodes what is there, or a part; how much was used, and why it stopped.
    fn decode<H: ConnectionHandler>(
        &mut self,
        bytes: &[u8],
        sinks: &mut ReadContext<'_, D, H>,
    ) -> (usize, Result<StopReason, CloseReason>) {
        let mut at = 0;
        let mut frames = 0usize;
        let (mut requests, mut answers) = (0, 0);
        let outcome = loop {
            let step = match self.decoder.step(&bytes[at..]) {
                Ok(step) => step,
                Err(error) => break Err(CloseReason::Wire(error)),
            };
            at += step.used();
            let taken = match step {
                DecodeStep::NeedMore => break Ok(StopReason::Bytes),
                DecodeStep::PartialFrame { .. } => continue,
                DecodeStep::Chunk { .. } => Ok(()),
                DecodeStep::Control { control, .. } => self.control(control, sinks),
                DecodeStep::Message { lane, header, payload, .. } => {
                    requests += usize::from(matches!(header, MessageHeader::Request { .. }));
                    answers += usize::from(matches!(header, MessageHeader::Response { .. }));
                    // What covers the memory that it was put together in goes on with it.
                    let cover = self.kept.as_mut().map(|kept| &mut kept.held);
                    take(lane, header, (payload, cover), sinks)
                }
            };
            frames += 1;
            if let Err(end) = taken {
                break Err(end);
            }
            if sinks.inbox.is_full(&sinks.connection.shared.config) {
                self.paused = true;
                break Ok(StopReason::Full);
            }
            if requests == CLUMP {
                break Ok(StopReason::Requests);
            }
            if answers == CLUMP {
                break Ok(StopReason::Answers);
            }
        };
        if frames > 0 && !sinks.handler.on_frame(sinks.handler.now()) {
            return (at, Err(CloseReason::Reaped));
        }
        if self.paused {
            sinks.handler.on_read_paused(true);
        }
        (at, outcome)
    }

    fn control<H: ConnectionHandler>(
        &mut self,
        control: Control,
        sinks: &mut ReadContext<'_, D, H>,
    ) -> Result<(), CloseReason> {
        let tokens = sinks.connection.shared.features.ping_tokens;
        match control {
            Control::Ping { token } => sinks.writer.control(&Control::Pong { token })?,
            Control::Pong { token } if tokens && sinks.writer.answered(token, sinks.connection) => {}
            Control::Pong { token } => {
                if let Some(rtt) = sinks.connection.pong(token, tokens) {
                    sinks.handler.on_rtt(rtt);
                    if !sinks.inbox.has_numbers() {
                        sinks.connection.forget();
                    }
                }
            }
            Control::Goodbye(goodbye) => {
                sinks.handler.on_goodbye(goodbye);
                return Err(CloseReason::Goodbye(goodbye));
            }
            // The decoder has dropped the message.
            Control::Abort { .. } => {}
            Control::GetPeers { max } => {
                let interval = sinks.connection.shared.config.peers_interval;
                if self.peers_told.as_ref().is_none_or(|told| told.elapsed() >= interval) {
                    self.peers_told = Some(Box::new(Instant::now()));
                    let most = usize::from(max).min(sinks.connection.shared.limits.peers);
                    let mut peers = sinks.handler.on_get_peers(most);
                    peers.truncate(most);
                    sinks.writer.control(&Control::Peers(peers))?;
                }
            }
            // Nobody is told what was not asked for: an unasked list is a flood's beginning.
            Control::Peers(peers) => {
                if std::mem::take(&mut self.peers_asked) {
                    sinks.handler.on_peers(peers);
                }
            }
        }
        Ok(())
    }

    /// From now on one list of addresses is welcome.
    pub(super) fn expect_peers(&mut self) {
        self.peers_asked = true;
    }

    /// What was read is here already, so it is kept and counted even if the ceiling refuses: the rest of a frame, or what was in
    /// hand when reading stopped before its end. But a message that the node has no memory to put together ends the connection.
    fn keep(&mut self, rest: &[u8], connection: &Connection) -> Result<(), CloseReason> {
        let buffered = self.decoder.buffered();
        let held = rest.len() + buffered;
        if held == 0 {
            self.kept = None;
            return Ok(());
        }
        let kept = self.kept.get_or_insert_with(|| {
            Box::new(Unparsed { rest: Vec::new(), held: MemoryReservation::empty(&connection.shared.budget) })
        });
        kept.rest = rest.to_vec();
        if kept.held.resize(held) {
            return Ok(());
        }
        // Of a pause's rest, which is many frames, the one that goes on with the message counts here.
        let window = connection.shared.limits.window;
        let message = if buffered > 0 { buffered + rest.len().min(window) } else { 0 };
        if message > 2 * window && !kept.held.resize(buffered) {
            return Err(CloseReason::Ceiling);
        }
        kept.held.overdraw(held);
        Ok(())
    }
}

fn take<D: Protocol, H: ConnectionHandler>(
    lane: Lane,
    head: MessageHeader,
    (payload, cover): (Payload<'_>, Option<&mut MemoryReservation>),
    sinks: &mut ReadContext<'_, D, H>,
) -> Result<(), CloseReason> {
    match head {
        MessageHeader::Event { kind } => match sinks.connection.answered_in_place(kind, payload) {
            Some(payload) => sinks.inbox.event(sinks.handler, sinks.connection, (lane, kind, payload), cover),
            None => Ok(()),
        },
        MessageHeader::Request { id, kind } => {
            if sinks.connection.is_flooded() {
                return Err(CloseReason::Flood);
            }
            sinks.inbox.request(sinks.handler, sinks.connection, id, (lane, kind, payload), cover)
        }
        MessageHeader::Response { id, status } => {
            // A late or foreign one reaches nobody.
            sinks.connection.answered(id, status, payload.into_bytes());
            Ok(())
        }
        MessageHeader::Cancel { id } => {
            sinks.inbox.cancel(sinks.connection, id);
            Ok(())
        }
    }
}

/// What a poll of the reader came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadOutcome {
    /// There is nothing more, or reading waits for the inbox.
    All,
    /// There may be more.
    More,
    /// There may be more. Those whose answers came may ask again first.
    Answers,
}

/// Why decoding stopped.
enum StopReason {
    /// What is left is less than a frame.
    Bytes,
    /// The inbox is full.
    Full,
    /// So many requests that answers may wait to be written.
    Requests,
    /// So many answers that those who wait for them should have their turn.
    Answers,
}

/// The thread's read buffer, borrowed for one poll. A nested borrow gets a buffer of its own.
struct Borrowed {
    bytes: Vec<u8>,
}

impl Borrowed {
    fn take() -> Self {
        let mut bytes = BUFFER.take();
        if bytes.is_empty() {
            bytes = vec![0; READ_BUFFER];
        }
        Self { bytes }
    }

    /// Puts the bytes kept from last time in front, with room for a read behind them, or behind the longest piece that the
    /// decoder leaves: a read into no room at all would look like the end.
    fn load(&mut self, rest: &[u8], window: usize) -> usize {
        let least = rest.len().max(window).saturating_add(READ_BUFFER / 2);
        if least > self.bytes.len() {
            self.bytes.resize(least, 0);
        }
        self.bytes[..rest.len()].copy_from_slice(rest);
        rest.len()
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.truncate(READ_BUFFER);
        bytes.shrink_to(READ_BUFFER);
        // A thread that is ending has no place for it any more.
        let _ = BUFFER.try_with(|slot| slot.set(bytes));
    }
}

thread_local! {
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Fits half a batch of the sender; a larger one falls out of the second-level cache.
const READ_BUFFER: usize = 128 * 1024;

/// Requests, or answers, that are dealt with before the other end is given something to do: enough that a write costs each of them
/// little, few enough that neither end stands still meanwhile.
const CLUMP: usize = 64;

/// Reads in one poll before other tasks get their turn.
const READS: usize = 4;
