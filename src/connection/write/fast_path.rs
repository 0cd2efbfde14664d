//! The short way of the commonest turn: a connection that slept is woken by a few small messages of one log, and has nothing else to
//! send. They are copied and written, and nothing that a round needs is set up.
//!
//! Whatever is not that simple is left to the long way: [`Writer::poll_awake`]. So is the rest where the stream takes a part.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::broadcast::TailCopy;
use crate::connection::close_reason::CloseReason;
use crate::connection::handle::Connection;
use crate::connection::handler::ConnectionHandler;
use crate::transport::Stream;
use crate::wire::Protocol;

use super::{Piece, Writer};

impl<D: Protocol> Writer<D> {
    /// Writes what the log of this lane has, if it is little; the writer must be asleep. Whether that was all.
    pub(super) fn glance<S: Stream, H: ConnectionHandler>(
        &mut self,
        at: usize,
        stream: &mut S,
        cx: &mut Context<'_>,
        connection: &Connection,
        handler: &H,
    ) -> Result<bool, CloseReason> {
        // What the stream runs is not ours: the thread's is taken, not borrowed.
        let mut glance = SPARE.try_with(Cell::take).ok().flatten().unwrap_or_default();
        let mut written = Ok(false);
        if self.positions.copy_tail(at, &mut glance) {
            written = self.write_glance(at, &glance, stream, cx, connection, handler);
        }
        let _ = SPARE.try_with(|spare| spare.set(Some(glance)));
        written
    }

    fn write_glance<S: Stream, H: ConnectionHandler>(
        &mut self,
        at: usize,
        glance: &TailCopy,
        stream: &mut S,
        cx: &mut Context<'_>,
        connection: &Connection,
        handler: &H,
    ) -> Result<bool, CloseReason> {
        let len = glance.bytes().len();
        let count = match Pin::new(&mut *stream).poll_write(cx, glance.bytes()) {
            Poll::Ready(Ok(0)) => return Err(CloseReason::Io(io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(count)) => count.min(len),
            Poll::Ready(Err(error)) => return Err(CloseReason::Io(error)),
            Poll::Pending => return Ok(false),
        };
        handler.on_traffic(0, count);
        connection.write_progress(None);
        if count == len {
            match Pin::new(stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => {
                    self.positions.mark_written(at, glance);
                    return Ok(true);
                }
                Poll::Ready(Err(error)) => return Err(CloseReason::Io(error)),
                Poll::Pending => {}
            }
        }
        let mut busy = self.wake();
        let lane = &mut busy.lanes[at];
        lane.stride.continue_copy(glance, count, &mut lane.batch);
        (busy.unflushed, busy.written) = (true, count as u64);
        lane.served = busy.written;
        if !lane.batch.is_empty() {
            busy.round.push_back(Piece::Log(at));
        }
        self.busy = Some(busy);
        Ok(false)
    }
}

thread_local! {
    static SPARE: Cell<Option<Box<TailCopy>>> = const { Cell::new(None) };
}
