//! The task of a connection: one future that polls both directions of one stream.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::time::Sleep;

use crate::base::ConnId;
use crate::transport::Stream;
use crate::wire::{Control, Protocol};

use super::close::CloseOrder;
use super::close_reason::CloseReason;
use super::handle::{Connection, ConnectionShared};
use super::handler::ConnectionHandler;
use super::read::Inbox;
use super::read::{ReadContext, ReadOutcome, Reader};
use super::write::{Gather, Writer, Written};
use crate::broadcast::state::StateCursor;
use crate::broadcast::{LogPositions, Parked, Parker};

/// What a new connection starts from.
pub struct ConnectionSetup<D> {
    /// The connection's number.
    pub id: ConnId,
    /// The protocol it speaks.
    pub protocol: Arc<D>,
    /// What it shares with the others.
    pub shared: Arc<ConnectionShared>,
    /// Its places in the urgent, the normal and the bulk log, taken before its key becomes live.
    pub positions: LogPositions,
    /// Its place in the state table.
    pub state: StateCursor,
    /// Its place in the hub that wakes connections.
    pub parker: Parker,
}

/// A connection that has its number and its places in the logs, and no stream yet.
pub struct ConnectionBuilder<D: Protocol> {
    connection: Arc<Connection>,
    writer: Writer<D>,
    protocol: Arc<D>,
    parker: Parker,
}

impl<D: Protocol> ConnectionBuilder<D> {
    /// Prepares a connection.
    pub fn new(setup: ConnectionSetup<D>) -> Self {
        let ConnectionSetup { id, protocol, shared, positions, state, parker } = setup;
        let views = Arc::clone(positions.states());
        let connection = Connection::new(shared, views, Arc::clone(parker.parked_waker()));
        debug_assert_eq!(connection.id(), id, "places of another connection");
        let writer = Writer::new(Arc::clone(&protocol), positions, state);
        Self { connection, writer, protocol, parker }
    }

    /// The part that others hold.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Puts the connection to work on a stream.
    pub fn start<S: Stream, H: ConnectionHandler>(
        mut self,
        stream: S,
        handler: H,
        initial: InitialIo<'_>,
    ) -> ConnectionDriver<D, S, H> {
        self.writer.greet(initial.write_first);
        if initial.suppress_declines {
            self.connection.keep_silent();
        }
        let reader = Reader::new(&*self.protocol, &self.connection.shared, initial.already_read);
        let inbox = Inbox::default();
        ConnectionDriver {
            stream,
            handler,
            reader,
            writer: self.writer,
            inbox,
            parker: self.parker,
            connection: self.connection,
            closing: None,
        }
    }
}

/// How far a stream has come when its connection starts.
#[derive(Debug, Default)]
pub struct InitialIo<'a> {
    /// Goes out before anything else.
    pub write_first: &'a [u8],
    /// What was read behind the peer's greeting.
    pub already_read: Vec<u8>,
    /// The peer does not bear to be told that a request of its has no answer: nothing is sent then.
    pub suppress_declines: bool,
}

/// Reads and writes one connection until it ends; resolves to why.
///
/// # Cancel safety
/// Dropping it closes the stream at once, without a goodbye; waiting requests fail.
pub struct ConnectionDriver<D: Protocol, S, H> {
    stream: S,
    reader: Reader<D>,
    writer: Writer<D>,
    inbox: Inbox,
    parker: Parker,
    connection: Arc<Connection>,
    closing: Option<Box<Closing>>,
    /// The last to be dropped: what it does then finds the stream closed and the logs left.
    handler: H,
}

/// A connection that is on its way out.
struct Closing {
    end: Option<CloseReason>,
    order: CloseOrder,
    stage: Stage,
    deadline: Pin<Box<Sleep>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Sends what waits.
    Drain,
    /// Finishes what has begun, then says goodbye.
    Goodbye,
    /// Nothing more to send: closes its direction.
    Shutdown,
    /// Reads until the peer closes too, so that a reset does not overtake the goodbye.
    Linger,
}

impl<D: Protocol, S: Stream, H: ConnectionHandler> ConnectionDriver<D, S, H> {
    /// The part that others hold.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Its owner.
    pub fn handler_mut(&mut self) -> &mut H {
        &mut self.handler
    }

    /// What the stream is polled with: tells the connection that it was the stream.
    fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.connection))
    }

    /// One pass over everything.
    fn pass(&mut self, cx: &mut Context<'_>) -> Result<Passed, CloseReason> {
        let waker = self.waker();
        let mut io = Context::from_waker(&waker);
        let mut read = ReadOutcome::All;
        // Most wake-ups come from a log: then there is nothing to read, and finding that out would cost as much as writing.
        let stream = self.connection.calls.attend();
        if stream || self.reader.stopped || self.reader.is_paused() {
            let mut sinks = ReadContext {
                handler: &self.handler,
                connection: &self.connection,
                inbox: &mut self.inbox,
                writer: &mut self.writer,
            };
            read = self.reader.poll(&mut self.stream, &mut io, &mut sinks)?;
            self.reader.stopped = read != ReadOutcome::All;
        }
        let mut again = self.reader.stopped;
        // After reading, so that what has just begun gets its first poll; before writing, so that its answer goes out.
        again |= self.inbox.poll(&self.handler, &self.connection, cx)?;
        if self.connection.take_peers_wanted() {
            let max = u16::try_from(self.connection.shared.limits.peers).unwrap_or(u16::MAX);
            self.writer.control(&Control::GetPeers { max })?;
            self.reader.expect_peers();
        }
        if self.lets_others_ask() {
            return Ok(Passed::Enough);
        }
        let gather = self.gather();
        match self.writer.poll(&mut self.stream, &mut io, &self.connection, &self.handler, gather)? {
            Written::All | Written::Held => {
                let writer = &self.writer;
                // `poll` has registered the task.
                again |= self.parker.park_registered(|| !writer.has_news()) == Parked::No;
            }
            Written::Blocked => {}
            Written::More => return Ok(Passed::Enough),
        }
        Ok(match read {
            ReadOutcome::Answers => Passed::Enough,
            _ if again || !self.connection.calls.rest() => Passed::Again,
            _ => Passed::Idle,
        })
    }

    fn gather(&self) -> Gather {
        if self.reader.is_paused() { Gather::Deaf } else { Gather::All }
    }

    /// Answers that came together wake many who will ask again: those who are due have their turn first, once, so that
    /// what they ask goes out by one write. Not where something urgent waits.
    fn lets_others_ask(&mut self) -> bool {
        let reader = &mut self.reader;
        reader.heard = !reader.heard && self.connection.is_asked_much();
        reader.heard
    }

    /// While what waits is being sent, the peer's data is still taken: two ends that drain must not block each other.
    fn read_on(&mut self, cx: &mut Context<'_>) -> Result<(), CloseReason> {
        let waker = self.waker();
        let mut sinks = ReadContext {
            handler: &self.handler,
            connection: &self.connection,
            inbox: &mut self.inbox,
            writer: &mut self.writer,
        };
        let mut io = Context::from_waker(&waker);
        let again = self.reader.poll(&mut self.stream, &mut io, &mut sinks)? != ReadOutcome::All;
        // After reading, so that what has just begun gets its first poll; what it frees may let the reader go on.
        if self.inbox.poll(&self.handler, &self.connection, cx)? || again {
            cx.waker().wake_by_ref();
        }
        Ok(())
    }

    fn begin_closing(&mut self, end: Option<CloseReason>, order: CloseOrder) {
        let stage = if order.drain { Stage::Drain } else { Stage::Goodbye };
        let deadline = Box::pin(tokio::time::sleep(order.within));
        self.closing = Some(Box::new(Closing { end, order, stage, deadline }));
    }

    /// The way out after an error: where the peer may still listen it is told why.
    fn fail(&mut self, end: CloseReason) -> Option<CloseReason> {
        if let (CloseReason::Reaped, Some(order)) = (&end, self.connection.close_order()) {
            // It did not leave by itself: what it was closed for is what counts.
            self.begin_closing(None, order);
            return None;
        }
        let goodbye = end.goodbye();
        self.connection.close(end.disconnect_reason(), goodbye);
        if goodbye.is_none() {
            return Some(end);
        }
        self.handler.on_close(&end);
        let within = self.connection.shared.config.linger;
        let order = CloseOrder { reason: end.disconnect_reason(), goodbye, drain: false, within };
        self.begin_closing(Some(end), order);
        None
    }

    fn poll_closing(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        loop {
            let Some(closing) = &mut self.closing else {
                return Poll::Ready(CloseReason::Closed(crate::pool::DisconnectReason::Closed));
            };
            let overdue = closing.deadline.as_mut().poll(cx).is_ready();
            let step = match closing.stage {
                _ if !overdue => self.closing_step(cx),
                // Not all could be sent. The goodbye may still pass, and gets a time of its own.
                Stage::Drain => {
                    closing.stage = Stage::Goodbye;
                    let within = self.connection.shared.config.linger.min(closing.order.within);
                    closing.deadline = Box::pin(tokio::time::sleep(within));
                    Step::Again
                }
                _ => Step::Done,
            };
            match step {
                Step::Again => {}
                Step::Pending => return Poll::Pending,
                Step::Done => {
                    let closing = self.closing.take().map(|closing| *closing);
                    return Poll::Ready(match closing {
                        Some(Closing { end: Some(end), .. }) => end,
                        Some(Closing { order, .. }) => CloseReason::Closed(order.reason),
                        None => CloseReason::Closed(crate::pool::DisconnectReason::Closed),
                    });
                }
            }
        }
    }

    fn closing_step(&mut self, cx: &mut Context<'_>) -> Step {
        let Some(closing) = &mut self.closing else { return Step::Done };
        match closing.stage {
            Stage::Drain | Stage::Goodbye => {
                let draining = closing.stage == Stage::Drain;
                if draining && self.read_on(cx).is_err() {
                    return Step::Done;
                }
                let gather = if draining { self.gather() } else { Gather::None };
                let Some(closing) = &mut self.closing else { return Step::Done };
                let waker = Waker::from(Arc::clone(&self.connection));
                let mut io = Context::from_waker(&waker);
                let written =
                    self.writer.poll(&mut self.stream, &mut io, &self.connection, &self.handler, gather);
                match written {
                    Err(_) => return Step::Done,
                    Ok(Written::Blocked | Written::Held) => return Step::Pending,
                    Ok(Written::More) => return Step::Again,
                    Ok(Written::All) => {}
                }
                if draining {
                    closing.stage = Stage::Goodbye;
                } else if let Some(goodbye) = closing.order.goodbye.take() {
                    // Nothing is in the way: control was just written.
                    let _ = self.writer.control(&Control::Goodbye(goodbye));
                } else {
                    closing.stage = Stage::Shutdown;
                }
                Step::Again
            }
            Stage::Shutdown => match Pin::new(&mut self.stream).poll_shutdown(cx) {
                Poll::Pending => Step::Pending,
                Poll::Ready(Err(_)) => Step::Done,
                Poll::Ready(Ok(())) => {
                    closing.stage = Stage::Linger;
                    Step::Again
                }
            },
            Stage::Linger => {
                let mut scrap = [0u8; 1024];
                let mut into = tokio::io::ReadBuf::new(&mut scrap);
                match Pin::new(&mut self.stream).poll_read(cx, &mut into) {
                    Poll::Pending => Step::Pending,
                    Poll::Ready(Ok(())) if !into.filled().is_empty() => Step::Again,
                    Poll::Ready(_) => Step::Done,
                }
            }
        }
    }
}

/// What a pass came to.
enum Passed {
    /// There is more to do.
    Again,
    /// There is more to do, after the others: they write the same bytes, which are still in the cache, or ask again.
    Enough,
    /// The task will be woken.
    Idle,
}

enum Step {
    Again,
    Pending,
    Done,
}

/// Nothing in it is pinned in place: the stream is polled by reference, handlers' futures are boxed.
impl<D: Protocol, S, H> Unpin for ConnectionDriver<D, S, H> {}

impl<D: Protocol, S: Stream, H: ConnectionHandler> Future for ConnectionDriver<D, S, H> {
    type Output = CloseReason;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let this = self.get_mut();
        this.connection.calls.register(cx.waker());
        for _ in 0..PASSES {
            if this.closing.is_none()
                && let Some(order) = this.connection.close_order()
            {
                this.begin_closing(None, order);
            }
            if this.closing.is_some() {
                this.connection.calls.doze();
                return this.poll_closing(cx);
            }
            match this.pass(cx) {
                Ok(Passed::Again) => {}
                Ok(Passed::Enough) => break,
                Ok(Passed::Idle) => return Poll::Pending,
                Err(end) => {
                    if let Some(end) = this.fail(end) {
                        return Poll::Ready(end);
                    }
                }
            }
        }
        // Others have had to wait long enough.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<D: Protocol, S, H> Drop for ConnectionDriver<D, S, H> {
    fn drop(&mut self) {
        self.connection.ended(crate::pool::DisconnectReason::Closed, self.writer.positions());
    }
}

/// Passes in one poll before other tasks get their turn.
const PASSES: usize = 4;
