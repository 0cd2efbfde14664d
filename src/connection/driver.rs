//! The task of a connection: one future that polls both directions of one stream.
//!
//! ```text
//!  poll --> pass: read --> inbox --> write --> park with the logs
//!             |     ^                  ^
//!             |     +-- between batches of requests the first responses are written
//!             +--> closing: drain, goodbye, shutdown, linger
//! ```
//!
//! The stream is polled with a waker of its own. So the task knows which wake-ups came from the
//! stream, and most wake-ups, which come from a log, do not try to read.

mod closing;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::broadcast::{Parked, Parker};
use crate::pool::DisconnectReason;
use crate::transport::Stream;
use crate::wire::{Control, Protocol};

use super::close_reason::CloseReason;
use super::handle::Connection;
use super::handler::ConnectionHandler;
use super::read::{Inbox, ReadContext, ReadOutcome, ReadTurn, Reader};
use super::write::{BulkAcks, ControlSink, WriteContext, WriteMode, WriteOutcome, Writer};

use closing::Closing;

/// Passes in one poll before other tasks get their turn.
const MAX_PASSES_PER_POLL: usize = 4;

/// Reads and writes one connection until it ends; resolves to the reason.
///
/// # Cancel safety
/// Dropping it closes the stream at once, without a goodbye; waiting requests fail.
#[must_use = "a connection does nothing unless its driver is polled"]
pub struct ConnectionDriver<D: Protocol, S, H> {
    pub(super) stream: S,
    pub(super) protocol: Arc<D>,
    pub(super) reader: Reader<D>,
    pub(super) writer: Writer,
    pub(super) inbox: Inbox,
    pub(super) parker: Parker,
    pub(super) connection: Arc<Connection>,
    pub(super) closing: Option<Box<Closing>>,
    /// The reader stopped although the stream had more.
    pub(super) must_read: bool,
    /// The last pass gave its turn to tasks that may send more requests.
    pub(super) has_yielded: bool,
    /// Dropped last: its destructor finds the stream closed and the logs left.
    pub(super) handler: H,
}

/// The result of one pass.
enum PassOutcome {
    /// There is more to do.
    Again,
    /// There is more to do, after other tasks: they write the same bytes, which are still in the
    /// cache, or send more requests.
    Yield,
    /// The task will be woken.
    Idle,
}

impl<D: Protocol, S: Stream, H: ConnectionHandler> ConnectionDriver<D, S, H> {
    /// The handle that others hold.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// The owner's callbacks.
    pub fn handler_mut(&mut self) -> &mut H {
        &mut self.handler
    }

    /// One pass over everything.
    fn pass(&mut self, turn: &mut ReadTurn, cx: &mut Context<'_>) -> Result<PassOutcome, CloseReason> {
        let io_waker = self.io_waker();
        let mut io = Context::from_waker(&io_waker);
        let mut read = ReadOutcome::Drained;
        // Most wake-ups come from a log. Then there is nothing to read, and finding that out costs
        // as much as writing.
        let io_woke = self.connection.wake.begin();
        if io_woke || self.must_read || self.reader.is_paused() {
            read = self.read(turn, &mut io)?;
            self.must_read = read != ReadOutcome::Drained;
        }
        let mut again = self.must_read;
        // After reading, so that a new handler gets its first poll; before writing, so that its
        // response goes out.
        again |= self.inbox.poll(&self.handler, &self.connection, cx);
        if self.connection.take_peers_wanted() {
            let max = u16::try_from(self.connection.shared.limits.peers).unwrap_or(u16::MAX);
            self.writer.control_queue().push(&*self.protocol, &Control::GetPeers { max })?;
            self.reader.expect_peers();
        }
        if self.yields_to_requesters() {
            return Ok(PassOutcome::Yield);
        }
        match self.write(&mut io, self.write_mode())? {
            WriteOutcome::Drained | WriteOutcome::WindowFull => {
                let writer = &self.writer;
                // `poll` has registered the task.
                again |= self.parker.park_registered(|| !writer.has_unread()) == Parked::No;
            }
            WriteOutcome::Blocked => {}
            WriteOutcome::TurnUsed => return Ok(PassOutcome::Yield),
        }
        Ok(match read {
            ReadOutcome::Responses | ReadOutcome::TurnUsed => PassOutcome::Yield,
            _ if again || !self.connection.wake.try_idle() => PassOutcome::Again,
            _ => PassOutcome::Idle,
        })
    }

    /// One pass of the reader. After each batch of requests the responses so far are written, so
    /// that both ends work at the same time.
    fn read(&mut self, turn: &mut ReadTurn, io: &mut Context<'_>) -> Result<ReadOutcome, CloseReason> {
        let Some(mut pass) = self.reader.begin_pass(&self.connection, &self.inbox, &self.handler, io) else {
            return Ok(ReadOutcome::Drained);
        };
        let mut acks = BulkAcks::default();
        let result = loop {
            let mut context = ReadContext {
                protocol: &*self.protocol,
                connection: &self.connection,
                handler: &self.handler,
                inbox: &mut self.inbox,
                control: ControlSink::new(&mut self.writer),
                acks: &mut acks,
            };
            let outcome = self.reader.read(&mut pass, turn, &mut self.stream, io, &mut context);
            self.writer.acknowledge(&acks, &self.connection);
            if !matches!(outcome, Ok(ReadOutcome::Requests)) {
                break outcome;
            }
            acks.clear();
            if let Err(reason) = self.write(io, WriteMode::All) {
                break Err(reason);
            }
        };
        let kept = self.reader.end_pass(pass, turn, &self.connection, &self.handler, io);
        // The reason for which the connection ends is reported, not that the rest behind it had no
        // room.
        let outcome = result?;
        kept.map(|()| outcome)
    }

    fn write(&mut self, io: &mut Context<'_>, mode: WriteMode) -> Result<WriteOutcome, CloseReason> {
        let context = WriteContext {
            protocol: &*self.protocol,
            connection: &self.connection,
            handler: &self.handler,
        };
        self.writer.poll(&mut self.stream, io, &context, mode)
    }

    fn write_mode(&self) -> WriteMode {
        if self.reader.is_paused() { WriteMode::IgnoreBulkWindow } else { WriteMode::All }
    }

    /// The waker that the stream is polled with: it records that the stream woke the task.
    fn io_waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.connection))
    }

    /// Responses that arrived together wake many tasks, which will send more requests. The tasks
    /// that are due run first, once, so that their requests go out with one write. Not where an
    /// urgent message waits.
    fn yields_to_requesters(&mut self) -> bool {
        self.has_yielded = !self.has_yielded && self.connection.has_busy_requesters();
        self.has_yielded
    }
}

/// Nothing in it is pinned in place: the stream is polled by reference, handlers' futures are
/// boxed.
impl<D: Protocol, S, H> Unpin for ConnectionDriver<D, S, H> {}

impl<D: Protocol, S: Stream, H: ConnectionHandler> Future for ConnectionDriver<D, S, H> {
    type Output = CloseReason;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let this = self.get_mut();
        this.connection.wake.register(cx.waker());
        let mut turn = ReadTurn::default();
        for _ in 0..MAX_PASSES_PER_POLL {
            if this.closing.is_none()
                && let Some(order) = this.connection.close_order()
            {
                this.begin_closing(None, order);
            }
            if this.closing.is_some() {
                this.connection.wake.detach();
                return this.poll_closing(cx);
            }
            match this.pass(&mut turn, cx) {
                Ok(PassOutcome::Again) => {}
                Ok(PassOutcome::Yield) => break,
                Ok(PassOutcome::Idle) => return Poll::Pending,
                Err(reason) => {
                    if let Some(reason) = this.fail(reason) {
                        return Poll::Ready(reason);
                    }
                }
            }
        }
        // Other tasks get their turn.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<D: Protocol, S, H> Drop for ConnectionDriver<D, S, H> {
    fn drop(&mut self) {
        self.connection.finish(DisconnectReason::Closed, self.writer.resume_points());
    }
}

impl<D: Protocol, S, H> fmt::Debug for ConnectionDriver<D, S, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionDriver").field("id", &self.connection.id()).finish_non_exhaustive()
    }
}
