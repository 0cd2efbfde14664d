//! TCP on tokio, with the socket options of a peer-to-peer node.
//!
//! The streams are tokio's own `TcpStream`s without a wrapper, so a vectored write is one system
//! call.

mod accept;
mod config;
#[cfg(all(test, not(peerpool_loom)))]
mod tests;

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpSocket};

use super::{BoxFuture, BoxListener, BoxStream, Transport};
use crate::base::canonical;
pub use accept::AcceptErrorKind;
use accept::TcpAcceptor;
pub use config::{KeepAlive, TcpConfig};

/// The TCP transport. Needs a tokio runtime with I/O and time enabled.
#[derive(Clone, Debug, Default)]
pub struct Tcp {
    config: TcpConfig,
}

impl Tcp {
    /// A transport whose connections and listeners have these options.
    pub const fn new(config: TcpConfig) -> Self {
        Self { config }
    }

    /// The options.
    pub const fn config(&self) -> &TcpConfig {
        &self.config
    }

    /// A non-blocking socket with every option that must be set before it connects or listens.
    fn socket(&self, addr: SocketAddr) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        // The TCP handshake fixes the receive window's scale, so the buffers are sized before it.
        if let Some(size) = self.config.send_buffer {
            socket.set_send_buffer_size(size.get())?;
        }
        if let Some(size) = self.config.recv_buffer {
            socket.set_recv_buffer_size(size.get())?;
        }
        if addr.is_ipv6() {
            // Without this, `[::]` also takes `0.0.0.0`, and a node cannot listen on both.
            socket.set_only_v6(true)?;
        }
        Ok(socket)
    }

    async fn connect(&self, addr: SocketAddr) -> io::Result<BoxStream> {
        let addr = canonical(addr);
        let socket = self.socket(addr)?;
        self.config.apply(&SockRef::from(&socket))?;
        let source = match addr {
            SocketAddr::V4(_) => self.config.dial_from_v4.map(IpAddr::V4),
            SocketAddr::V6(_) => self.config.dial_from_v6.map(IpAddr::V6),
        };
        if let Some(ip) = source {
            // Binding picks the port before the destination is known. With reusable ports one port
            // serves many destinations.
            #[cfg(not(windows))]
            socket.set_reuse_address(self.config.reuse_addr)?;
            socket.bind(&SocketAddr::new(ip, 0).into())?;
        }
        let stream = TcpSocket::from_std_stream(socket.into()).connect(addr).await?;
        // A dial to a free port in this host's ephemeral range can connect the socket to itself.
        if stream.local_addr()? == stream.peer_addr()? {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Ok(Box::new(stream))
    }

    fn bind(&self, addr: SocketAddr) -> io::Result<TcpAcceptor> {
        let addr = canonical(addr);
        let socket = self.socket(addr)?;
        // On Windows the same option would let another process steal the port.
        #[cfg(not(windows))]
        socket.set_reuse_address(self.config.reuse_addr)?;
        // Accepted sockets may inherit the options, and a bad option fails here rather than at the
        // first accept.
        self.config.apply(&SockRef::from(&socket))?;
        socket.bind(&addr.into())?;
        socket.listen(i32::try_from(self.config.backlog.get()).unwrap_or(i32::MAX))?;
        let inner = TcpListener::from_std(socket.into())?;
        let local = canonical(inner.local_addr()?);
        Ok(TcpAcceptor { inner, local, config: self.config.clone(), inherits: None, errors: 0, pause: None })
    }
}

impl Transport for Tcp {
    fn dial(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(self.connect(addr))
    }

    fn listen(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<BoxListener>> {
        Box::pin(async move { Ok(Box::new(self.bind(addr)?) as BoxListener) })
    }
}
