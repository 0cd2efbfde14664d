//! A connection of the sim_net and its two both_ends.

use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop;
use tokio::time::{Instant, Sleep};

use super::pipe::{IoStep, Pipe};
use super::sim_net::SimNet;

/// A connection: both directions, and what the sim_net knows it by. It leaves the sim_net when both both_ends are dropped.
#[derive(Debug)]
pub(super) struct SimConnection {
    pub(super) number: u64,
    pub(super) dialler: SocketAddr,
    pub(super) acceptor: SocketAddr,
    /// From the dialler to the acceptor, and back.
    pub(super) pipes: [Pipe; 2],
    pub(super) sim_net: Weak<SimNet>,
}

impl SimConnection {
    /// Resets both directions and returns whom to wake.
    pub(super) fn reset(&self) -> impl Iterator<Item = Waker> {
        let [there, back] = [self.pipes[0].reset(), self.pipes[1].reset()];
        there.into_iter().chain(back).flatten()
    }
}

impl Drop for SimConnection {
    fn drop(&mut self) {
        if let Some(sim_net) = self.sim_net.upgrade() {
            sim_net.forget(self.number, [self.dialler, self.acceptor]);
        }
    }
}

/// One end of a connection. Dropping it both_ends its direction after what is in flight, and breaks the other one.
#[derive(Debug)]
pub(super) struct MemoryStream {
    conn: Arc<SimConnection>,
    /// The pipe that this end writes; it reads the other.
    direction: usize,
    read_timer: LazyTimer,
    write_timer: LazyTimer,
}

impl MemoryStream {
    /// The dialling and the accepting end.
    pub(super) fn both_ends(conn: Arc<SimConnection>) -> (Self, Self) {
        let end = |direction, conn| Self {
            conn,
            direction,
            read_timer: LazyTimer::default(),
            write_timer: LazyTimer::default(),
        };
        (end(0, Arc::clone(&conn)), end(1, conn))
    }

    pub(super) fn conn(&self) -> &Arc<SimConnection> {
        &self.conn
    }
}

impl AsyncRead for MemoryStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let coop = ready!(coop::poll_proceed(cx));
        loop {
            match this.conn.pipes[1 - this.direction].read(cx, buf) {
                IoStep::Moved(_) => {
                    coop.made_progress();
                    return Poll::Ready(Ok(()));
                }
                IoStep::Reset | IoStep::Broken => {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
                IoStep::Wait(arrives_at) => ready!(this.read_timer.poll(cx, arrives_at)),
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
            match this.conn.pipes[this.direction].write(cx, bufs) {
                IoStep::Moved(count) => {
                    coop.made_progress();
                    return Poll::Ready(Ok(count));
                }
                IoStep::Reset => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                IoStep::Broken => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                IoStep::Wait(arrives_at) => ready!(this.write_timer.poll(cx, arrives_at)),
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
        self.conn.pipes[self.direction].end();
        Poll::Ready(Ok(()))
    }
}

impl Drop for MemoryStream {
    fn drop(&mut self) {
        // The news that nobody reads travels with the end of what this side sent, or behind it.
        let arrives_at = self.conn.pipes[self.direction].end_again();
        self.conn.pipes[1 - self.direction].close_reader(arrives_at);
    }
}

/// A timer that is made when first needed and kept for the next wait.
#[derive(Debug, Default)]
struct LazyTimer(Option<Pin<Box<Sleep>>>);

impl LazyTimer {
    /// Waits for `arrives_at`; forever without one, as then a waker is registered.
    fn poll(&mut self, cx: &mut Context<'_>, arrives_at: Option<Instant>) -> Poll<()> {
        let Some(arrives_at) = arrives_at else { return Poll::Pending };
        let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(arrives_at)));
        if sleep.deadline() != arrives_at || sleep.is_elapsed() {
            sleep.as_mut().reset(arrives_at);
        }
        sleep.as_mut().poll(cx)
    }
}

impl super::super::Stream for MemoryStream {
    fn local_addr(&self) -> Option<SocketAddr> {
        Some(if self.direction == 0 { self.conn.dialler } else { self.conn.acceptor })
    }
}
