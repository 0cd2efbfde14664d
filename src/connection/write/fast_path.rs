//! The short path of the most common turn: a sleeping connection is woken by a few small messages
//! of one log and has nothing else to send. They are copied and written; no round is set up.
//!
//! Every other case is left to `Writer::poll_active`. So is the rest where the stream takes only a
//! part.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::broadcast::TailCopy;
use crate::connection::close_reason::CloseReason;
use crate::connection::handler::ConnectionHandler;
use crate::transport::Stream;

use super::write_state::RoundPiece;
use super::{WriteContext, Writer};

thread_local! {
    static CACHE: Cell<Option<Box<TailCopy>>> = const { Cell::new(None) };
}

impl Writer {
    /// Writes the unread messages of this lane's log, if they are few and small. The writer must be
    /// asleep. Returns whether nothing is left.
    pub(super) fn write_tail<D, S: Stream, H: ConnectionHandler>(
        &mut self,
        lane: usize,
        stream: &mut S,
        cx: &mut Context<'_>,
        context: &WriteContext<'_, D, H>,
    ) -> Result<bool, CloseReason> {
        // The stream's code may come back here, so the thread's copy is taken, not borrowed.
        let mut tail = CACHE.try_with(Cell::take).ok().flatten().unwrap_or_default();
        let mut drained = Ok(false);
        if self.positions.copy_tail(lane, &mut tail) {
            drained = self.write_copy(lane, &tail, stream, cx, context);
        }
        let _ = CACHE.try_with(|cache| cache.set(Some(tail)));
        drained
    }

    fn write_copy<D, S: Stream, H: ConnectionHandler>(
        &mut self,
        lane: usize,
        tail: &TailCopy,
        stream: &mut S,
        cx: &mut Context<'_>,
        context: &WriteContext<'_, D, H>,
    ) -> Result<bool, CloseReason> {
        let len = tail.bytes().len();
        let count = match Pin::new(&mut *stream).poll_write(cx, tail.bytes()) {
            Poll::Ready(Ok(0)) => return Err(CloseReason::Io(io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(count)) => count.min(len),
            Poll::Ready(Err(error)) => return Err(CloseReason::Io(error)),
            Poll::Pending => return Ok(false),
        };
        context.handler.on_traffic(0, count);
        context.connection.write_progressed();
        if count == len {
            match Pin::new(stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => {
                    self.positions.mark_written(lane, tail);
                    return Ok(true);
                }
                Poll::Ready(Err(error)) => return Err(CloseReason::Io(error)),
                Poll::Pending => {}
            }
        }
        let mut active = self.activate();
        (active.needs_flush, active.written_bytes) = (true, count as u64);
        let writer = &mut active.lanes[lane];
        writer.cursor.continue_copy(tail, count, &mut writer.batch);
        writer.log_served_at = count as u64;
        if !writer.batch.is_empty() {
            active.round.push_back(RoundPiece::Log(lane));
        }
        self.active = Some(active);
        Ok(false)
    }
}
