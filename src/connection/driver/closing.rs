//! The way out of a connection: drain, goodbye, shutdown, linger.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::ReadBuf;
use tokio::time::{Sleep, sleep};

use crate::connection::close::CloseOrder;
use crate::connection::close_reason::CloseReason;
use crate::connection::handler::ConnectionHandler;
use crate::connection::read::{ReadOutcome, ReadTurn};
use crate::connection::write::{WriteMode, WriteOutcome};
use crate::pool::DisconnectReason;
use crate::transport::Stream;
use crate::wire::{Control, Protocol};

use super::ConnectionDriver;

/// Bytes that are read and dropped at a time while the stream closes.
const DISCARD_BUFFER_BYTES: usize = 1024;

/// A connection that is closing.
pub(in crate::connection) struct Closing {
    /// The failure that began it; `None` if somebody ordered it.
    failure: Option<CloseReason>,
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
    /// Nothing is left to send: closes the sending direction.
    Shutdown,
    /// Reads until the peer closes too, so that a reset does not overtake the goodbye.
    Linger,
}

enum Step {
    Again,
    Pending,
    Done,
}

impl<D: Protocol, S: Stream, H: ConnectionHandler> ConnectionDriver<D, S, H> {
    pub(super) fn begin_closing(&mut self, failure: Option<CloseReason>, order: CloseOrder) {
        let stage = if order.drain { Stage::Drain } else { Stage::Goodbye };
        let deadline = Box::pin(sleep(order.within));
        self.closing = Some(Box::new(Closing { failure, order, stage, deadline }));
    }

    /// Begins to close after a failure. The goodbye tells the peer why, where it may still listen; otherwise
    /// the reason is returned and the connection is over.
    pub(super) fn fail(&mut self, reason: CloseReason) -> Option<CloseReason> {
        if let (CloseReason::Reaped, Some(order)) = (&reason, self.connection.close_order()) {
            // It did not fail by itself: the order says why it is closed.
            self.begin_closing(None, order);
            return None;
        }
        let goodbye = reason.goodbye();
        self.connection.close(reason.disconnect_reason(), goodbye);
        if goodbye.is_none() {
            return Some(reason);
        }
        self.handler.on_close(&reason);
        let within = self.connection.shared.config.linger;
        let order = CloseOrder { reason: reason.disconnect_reason(), goodbye, drain: false, within };
        self.begin_closing(Some(reason), order);
        None
    }

    pub(super) fn poll_closing(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        loop {
            let Some(closing) = &mut self.closing else {
                return Poll::Ready(CloseReason::Closed(DisconnectReason::Closed));
            };
            let is_overdue = closing.deadline.as_mut().poll(cx).is_ready();
            let step = match closing.stage {
                _ if !is_overdue => self.closing_step(cx),
                // Not everything could be sent. The goodbye may still pass, and gets time of its
                // own.
                Stage::Drain => {
                    closing.stage = Stage::Goodbye;
                    let within = self.connection.shared.config.linger.min(closing.order.within);
                    closing.deadline = Box::pin(sleep(within));
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
                        Some(Closing { failure: Some(reason), .. }) => reason,
                        Some(Closing { order, .. }) => CloseReason::Closed(order.reason),
                        None => CloseReason::Closed(DisconnectReason::Closed),
                    });
                }
            }
        }
    }

    fn closing_step(&mut self, cx: &mut Context<'_>) -> Step {
        let Some(closing) = &mut self.closing else { return Step::Done };
        match closing.stage {
            Stage::Drain => {
                if self.read_while_draining(cx).is_err() {
                    return Step::Done;
                }
                self.write_and_then(self.write_mode(), |closing| {
                    closing.stage = Stage::Goodbye;
                    None
                })
            }
            Stage::Goodbye => self.write_and_then(WriteMode::FinishOnly, |closing| {
                let goodbye = closing.order.goodbye.take();
                if goodbye.is_none() {
                    closing.stage = Stage::Shutdown;
                }
                goodbye.map(Control::Goodbye)
            }),
            Stage::Shutdown => match Pin::new(&mut self.stream).poll_shutdown(cx) {
                Poll::Pending => Step::Pending,
                Poll::Ready(Err(_)) => Step::Done,
                Poll::Ready(Ok(())) => {
                    closing.stage = Stage::Linger;
                    Step::Again
                }
            },
            Stage::Linger => {
                let mut discarded = [0u8; DISCARD_BUFFER_BYTES];
                let mut into = ReadBuf::new(&mut discarded);
                match Pin::new(&mut self.stream).poll_read(cx, &mut into) {
                    Poll::Pending => Step::Pending,
                    Poll::Ready(Ok(())) if !into.filled().is_empty() => Step::Again,
                    Poll::Ready(_) => Step::Done,
                }
            }
        }
    }

    /// Writes; when everything is out, `next` moves to the next stage and may name a last control
    /// message.
    fn write_and_then(
        &mut self,
        mode: WriteMode,
        next: impl FnOnce(&mut Closing) -> Option<Control>,
    ) -> Step {
        let io_waker = self.io_waker();
        let mut io = Context::from_waker(&io_waker);
        match self.write(&mut io, mode) {
            Err(_) => Step::Done,
            Ok(WriteOutcome::Blocked | WriteOutcome::WindowFull) => Step::Pending,
            Ok(WriteOutcome::TurnUsed) => Step::Again,
            Ok(WriteOutcome::Drained) => {
                if let Some(closing) = &mut self.closing
                    && let Some(control) = next(closing)
                {
                    // The queue was just written, so there is room.
                    let _ = self.writer.control_queue().push(&*self.protocol, &control);
                }
                Step::Again
            }
        }
    }

    /// While what waits is being sent, the peer's data is still taken: two ends that drain must not
    /// block each other.
    fn read_while_draining(&mut self, cx: &mut Context<'_>) -> Result<(), CloseReason> {
        let io_waker = self.io_waker();
        let outcome = self.read(&mut ReadTurn::default(), &mut Context::from_waker(&io_waker))?;
        // After reading, so that a new handler gets its first poll. What it frees may let the
        // reader go on.
        let moved = self.inbox.poll(&self.handler, &self.connection, cx);
        if moved || outcome != ReadOutcome::Drained {
            cx.waker().wake_by_ref();
        }
        Ok(())
    }
}
