//! The two ends of a simulated connection.

use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop;
use tokio::time::{Instant, Sleep};

use super::pipe::PipeStep;
use super::sim_net::SimConnection;
use crate::transport::Stream;

/// One end of a connection. Dropping it ends its direction behind the bytes in flight, and breaks
/// the other direction.
#[derive(Debug)]
pub(super) struct MemoryStream {
    connection: Arc<SimConnection>,
    end: End,
    read_timer: LazyTimer,
    write_timer: LazyTimer,
}

/// Which end of a connection a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Dialler,
    Acceptor,
}

impl MemoryStream {
    /// The dialling end.
    pub(super) fn dialler(connection: Arc<SimConnection>) -> Self {
        Self::new(connection, End::Dialler)
    }

    /// The accepting end.
    pub(super) fn acceptor(connection: Arc<SimConnection>) -> Self {
        Self::new(connection, End::Acceptor)
    }

    fn new(connection: Arc<SimConnection>, end: End) -> Self {
        Self { connection, end, read_timer: LazyTimer::default(), write_timer: LazyTimer::default() }
    }

    /// Index of the pipe that this end writes; it reads the other one.
    fn write_pipe(&self) -> usize {
        match self.end {
            End::Dialler => 0,
            End::Acceptor => 1,
        }
    }
}

impl Stream for MemoryStream {
    fn local_addr(&self) -> Option<SocketAddr> {
        Some(match self.end {
            End::Dialler => self.connection.dialler,
            End::Acceptor => self.connection.acceptor,
        })
    }
}

impl AsyncRead for MemoryStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let coop = ready!(coop::poll_proceed(cx));
        loop {
            match this.connection.pipes[1 - this.write_pipe()].read(cx, buf) {
                PipeStep::Moved(_) => {
                    coop.made_progress();
                    return Poll::Ready(Ok(()));
                }
                PipeStep::Reset | PipeStep::Broken => {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
                PipeStep::Wait(deadline) => ready!(this.read_timer.poll(cx, deadline)),
            }
        }
    }
}

impl AsyncWrite for MemoryStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let coop = ready!(coop::poll_proceed(cx));
        loop {
            match this.connection.pipes[this.write_pipe()].write(cx, bufs) {
                PipeStep::Moved(count) => {
                    coop.made_progress();
                    return Poll::Ready(Ok(count));
                }
                PipeStep::Reset => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                PipeStep::Broken => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                PipeStep::Wait(deadline) => ready!(this.write_timer.poll(cx, deadline)),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.pipes[self.write_pipe()].end();
        Poll::Ready(Ok(()))
    }
}

impl Drop for MemoryStream {
    fn drop(&mut self) {
        // The other end learns that this reader has closed together with the end of this direction,
        // or after it.
        let arrival = self.connection.pipes[self.write_pipe()].end_again();
        self.connection.pipes[1 - self.write_pipe()].close_reader(arrival);
    }
}

/// A timer that is allocated when first needed and reused by later waits.
#[derive(Debug, Default)]
struct LazyTimer(Option<Pin<Box<Sleep>>>);

impl LazyTimer {
    /// Waits for `deadline`. Without one it stays pending: the pipe has registered the waker.
    fn poll(&mut self, cx: &mut Context<'_>, deadline: Option<Instant>) -> Poll<()> {
        let Some(deadline) = deadline else { return Poll::Pending };
        let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() != deadline || sleep.is_elapsed() {
            sleep.as_mut().reset(deadline);
        }
        sleep.as_mut().poll(cx)
    }
}
