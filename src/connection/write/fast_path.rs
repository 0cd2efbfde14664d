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
        let (mut written, mut crowd) = (Ok(false), false);
        if self.positions.copy_tail(at, &mut glance) {
            written = self.write_glance(at, &glance, stream, cx, connection, handler);
            crowd = self.is_local && matches!(written, Ok(true)) && glance.count().is_multiple_of(CROWD);
        }
        let _ = SPARE.try_with(|spare| spare.set(Some(glance)));
        if crowd {
            std::thread::yield_now();
        }
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

/// After it has written the same to so many sleeping connections on this machine a thread lets others have the processor. Whoever receives
/// here was woken by each write, and the system does not interrupt a thread for it: with a crowd to write to, on all processors
/// at once, the first would hear of it no sooner than the last. A connection to another machine gains nothing by that and does not ask
/// for it: something else that runs here could keep the processor for some milliseconds. Measured with
/// `cargo bench --bench latency -- --ratios --only paced`: 64 and 96 hurt crowds that are little larger than that.
const CROWD: u32 = 128;

thread_local! {
    static SPARE: Cell<Option<Box<TailCopy>>> = const { Cell::new(None) };
}
