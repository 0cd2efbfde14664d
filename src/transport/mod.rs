//! Byte pipes: what dials and accepts. [`Tcp`] for the network, [`MemoryNet`] for tests.
//!
//! Nothing here knows frames, peers or deadlines. A dial has no timeout: whoever dials owns the deadline and drops the
//! future, which closes what it had opened. Streams never lose or reorder bytes; connections end.
//!
//! # Invariants
//! **Addresses that leave this room are canonical** (11). Enforced by: [`Tcp`] and [`MemoryHost`] pass every accepted
//! and every dialled address through [`canonical`](crate::base::canonical). Breaks if: a new listener hands out the
//! address as the system reported it, and `::ffff:10.0.0.1` becomes a second peer.
//!
//! **An accept loop cannot spin** (15). Enforced by: the TCP listener stays pending for a growing pause after an
//! error that polling again would only repeat. Breaks if: a listener returns such an error from every poll.

mod memory;
mod tcp;

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};

pub use memory::{Latency, MemoryHost, MemoryNet, ReadRate};
pub use tcp::{AcceptErrorKind, KeepAlive, Tcp, TcpConfig};

/// A connected pair of byte pipes, one each way; whatever reads and writes is one.
///
/// Cancel safety: a poll that returned `Pending` took and gave nothing.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// The address of our end, canonical; `None` where there is no such thing.
    fn local_addr(&self) -> Option<SocketAddr> {
        None
    }
}

impl Stream for tokio::net::TcpStream {
    fn local_addr(&self) -> Option<SocketAddr> {
        tokio::net::TcpStream::local_addr(self).ok().map(crate::base::canonical)
    }
}

impl Stream for tokio::io::DuplexStream {}

impl Stream for BoxStream {
    fn local_addr(&self) -> Option<SocketAddr> {
        (**self).local_addr()
    }
}

/// A stream of whatever transport. Vectored writes pass through the box.
pub type BoxStream = Box<dyn Stream>;

/// A listener of whatever transport.
pub type BoxListener = Box<dyn Listener>;

/// A future of whatever making; boxing one costs one allocation, which dialling does not notice.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What opens connections and waits for them.
pub trait Transport: Send + Sync + 'static {
    /// Opens a connection to `addr`, however long it takes: the caller sets the deadline.
    ///
    /// # Errors
    /// As the system reports them: refused, unreachable, out of sockets.
    ///
    /// # Cancel safety
    /// Dropping the future closes the half-open connection and leaves nothing behind. The far end may have accepted it
    /// already and then reads an end or a reset.
    fn dial(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>>;

    /// Starts listening on `addr`; port 0 lets the system choose, see [`Listener::local_addr`].
    ///
    /// # Errors
    /// When the address is in use, not ours, or not permitted.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing bound.
    fn listen(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<BoxListener>>;
}

/// A bound address that connections arrive at. Dropping it unbinds it.
pub trait Listener: Send + 'static {
    /// The address that is bound, with the port that the system chose.
    fn local_addr(&self) -> SocketAddr;

    /// Takes the next connection and the canonical address that it came from.
    ///
    /// # Errors
    /// [`AcceptErrorKind::of`] tells their kind. An error does not end the listener and never asks the caller to wait:
    /// poll again, the listener itself pauses.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(BoxStream, SocketAddr)>>;
}

impl dyn Listener {
    /// Waits for the next connection.
    ///
    /// # Errors
    /// As [`Listener::poll_accept`].
    ///
    /// # Cancel safety
    /// Safe: a connection is taken only by the poll that returns it.
    pub async fn accept(&mut self) -> io::Result<(BoxStream, SocketAddr)> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }
}
