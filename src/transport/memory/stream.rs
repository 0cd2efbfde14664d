//! A connection of the world and its two ends.

use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop;
use tokio::time::{Instant, Sleep};

use super::pipe::{Pipe, Step};
use super::world::SimNet;

/// A connection: both directions, and what the world knows it by. It leaves the world when both ends are dropped.
#[derive(Debug)]
pub(super) struct ConnectionState {
    pub(super) number: u64,
    pub(super) dialler: SocketAddr,
    pub(super) acceptor: SocketAddr,
    /// From the dialler to the acceptor, and back.
    pub(super) pipes: [Pipe; 2],
    pub(super) world: Weak<SimNet>,
}

impl ConnectionState {
    /// Resets both directions and returns whom to wake.
    pub(super) fn reset(&self) -> impl Iterator<Item = Waker> {
        let [there, back] = [self.pipes[0].reset(), self.pipes[1].reset()];
        there.into_iter().chain(back).flatten()
    }
}

impl Drop for ConnectionState {
    fn drop(&mut self) {
        if let Some(world) = self.world.upgrade() {
            world.forget(self.number, [self.dialler, self.acceptor]);
        }
    }
}

/// One end of a connection. Dropping it ends its direction after what is in flight, and breaks the other one.
#[derive(Debug)]
pub(super) struct MemoryStream {
    conn: Arc<ConnectionState>,
    /// The pipe that this end writes; it reads the other.
    outward: usize,
    read_timer: Timer,
    write_timer: Timer,
}

impl MemoryStream {
    /// The dialling and the accepting end.
    pub(super) fn ends(conn: Arc<ConnectionState>) -> (Self, Self) {
        let end = |outward, conn| Self {
            conn,
            outward,
            read_timer: Timer::default(),
            write_timer: Timer::default(),
        };
        (end(0, Arc::clone(&conn)), end(1, conn))
    }

    pub(super) fn conn(&self) -> &Arc<ConnectionState> {
        &self.conn
    }
}

impl AsyncRead for MemoryStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let coop = ready!(coop::poll_proceed(cx));
        loop {
            match this.conn.pipes[1 - this.outward].read(cx, buf) {
                Step::Moved(_) => {
                    coop.made_progress();
                    return Poll::Ready(Ok(()));
                }
                Step::Reset | Step::Broken => {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
                Step::Wait(due) => ready!(this.read_timer.poll(cx, due)),
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
            match this.conn.pipes[this.outward].write(cx, bufs) {
                Step::Moved(count) => {
                    coop.made_progress();
                    return Poll::Ready(Ok(count));
                }
                Step::Reset => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                Step::Broken => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                Step::Wait(due) => ready!(this.write_timer.poll(cx, due)),
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
        self.conn.pipes[self.outward].end();
        Poll::Ready(Ok(()))
    }
}

impl Drop for MemoryStream {
    fn drop(&mut self) {
        // The news that nobody reads travels with the end of what this side sent, or behind it.
        let due = self.conn.pipes[self.outward].end_again();
        self.conn.pipes[1 - self.outward].abandon(due);
    }
}

/// A timer that is made when first needed and kept for the next wait.
#[derive(Debug, Default)]
struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Waits for `due`; forever without one, as then a waker is registered.
    fn poll(&mut self, cx: &mut Context<'_>, due: Option<Instant>) -> Poll<()> {
        let Some(due) = due else { return Poll::Pending };
        let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        if sleep.deadline() != due || sleep.is_elapsed() {
            sleep.as_mut().reset(due);
        }
        sleep.as_mut().poll(cx)
    }
}

impl super::super::Stream for MemoryStream {
    fn local_addr(&self) -> Option<SocketAddr> {
        Some(if self.outward == 0 { self.conn.dialler } else { self.conn.acceptor })
    }
}
