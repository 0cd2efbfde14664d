//! Byte streams: dial and listen over TCP ([`Tcp`]) or in memory ([`MemoryNet`], for tests).
//!
//! A [`Transport`] dials addresses and binds [`Listener`]s; both yield a [`BoxStream`] of ordered
//! bytes. The node hands these streams to its handshake and to the connection. Nothing here knows
//! frames, peers or deadlines.
//!
//! ```text
//!   Transport::dial(addr) ------------------> BoxStream
//!   Transport::listen(addr) -> BoxListener -> BoxStream, remote address
//! ```
//!
//! A dial has no timeout: the caller owns the deadline and drops the future, which closes the
//! half-open socket.
//!
//! # Invariants
//! Invariant: `identity_is_canonical`
//! - Statement: every address that leaves this module is canonical (no IPv4-mapped IPv6 address).
//! - Enforced by: [`Tcp`] and [`MemoryHost`] pass accepted and dialled addresses through
//!   [`canonical`](crate::base::canonical).
//! - Breaks if: a new listener returns the address as the system reports it; `::ffff:10.0.0.1`
//!   becomes a second peer.
//!
//! Invariant: `one_source_cannot_exhaust_accepts`
//! - Statement: an accept loop cannot spin.
//! - Enforced by: after an error that another poll would only repeat, the TCP listener stays
//!   pending for a growing pause.
//! - Breaks if: a listener returns such an error from every poll.

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

/// A connected, ordered, bidirectional byte stream.
///
/// # Cancel safety
/// A poll that returns `Pending` has moved no bytes.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// The canonical address of our end; `None` for a stream without addresses.
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

/// A stream of any transport. Vectored writes pass through the box.
pub type BoxStream = Box<dyn Stream>;

/// A listener of any transport.
pub type BoxListener = Box<dyn Listener>;

/// A boxed future: one allocation per dial or listen.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Opens connections and binds listeners.
pub trait Transport: Send + Sync + 'static {
    /// Opens a connection to `addr`. There is no timeout: the caller sets the deadline.
    ///
    /// # Errors
    /// The error of the system: refused, unreachable, out of descriptors.
    ///
    /// # Cancel safety
    /// Dropping the future closes the half-open connection and leaves nothing behind. If the remote
    /// end has accepted it already, it reads an end of stream or a reset.
    fn dial(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>>;

    /// Binds `addr` and listens. Port 0 lets the system choose; [`Listener::local_addr`] returns
    /// the port.
    ///
    /// # Errors
    /// The address is in use, not local, or not permitted.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing bound.
    fn listen(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<BoxListener>>;

    /// Looks up a host name, or an address with the name of an interface. Default: the system's
    /// resolver. There is no timeout: the caller sets the deadline.
    ///
    /// # Errors
    /// The name has no address, or the resolver failed.
    ///
    /// # Cancel safety
    /// Safe.
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }
}

/// A bound address that accepts connections. Dropping it releases the address.
pub trait Listener: Send + 'static {
    /// The bound address, with the port that the system chose.
    fn local_addr(&self) -> SocketAddr;

    /// Accepts the next connection. Returns its stream and its canonical remote address.
    ///
    /// # Errors
    /// [`AcceptErrorKind::of`] classifies the error. The listener stays usable, and the caller need
    /// not wait before the next poll: the listener pauses by itself.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(BoxStream, SocketAddr)>>;
}

impl dyn Listener {
    /// Waits for the next connection.
    ///
    /// # Errors
    /// The errors of [`Listener::poll_accept`].
    ///
    /// # Cancel safety
    /// Safe: a connection is accepted only by the poll that returns it.
    pub async fn accept(&mut self) -> io::Result<(BoxStream, SocketAddr)> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }
}
