//! TCP over tokio's reactor, with the socket options that a peer-to-peer node wants.
//!
//! The streams are tokio's own: nothing wraps them, so a vectored write is one system call.

mod accept;
#[cfg(all(test, not(peerpool_loom)))]
mod tests;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpSocket};

use super::{BoxFuture, BoxListener, BoxStream, Transport};
use crate::base::canonical;
pub use accept::AcceptErrorKind;
use accept::TcpAcceptor;

/// Socket options. The default is what we recommend between hosts on the internet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TcpConfig {
    /// Send small segments at once (`TCP_NODELAY`). Default: yes; the link batches by itself, waiting only adds latency.
    pub nodelay: bool,
    /// Probe silent connections, so that the system ends dead ones too. Default: after 60 s, every 15 s, 4 times.
    pub keepalive: Option<KeepAlive>,
    /// Bind although connections of an earlier process linger (`SO_REUSEADDR`). Default: yes; a node that restarts
    /// otherwise waits a minute for its port.
    pub reuse_addr: bool,
    /// Bytes of the kernel's send buffer per connection. Default: `None`, the system tunes it; a fixed one bounds
    /// memory and caps throughput at one buffer per round trip.
    pub send_buffer: Option<NonZeroUsize>,
    /// Bytes of the kernel's receive buffer per connection. Default: `None`, as for the send buffer. What a peer of the native dialect
    /// has under way on the bulk lane is bounded by its link, so votes do not wait behind a large one.
    pub recv_buffer: Option<NonZeroUsize>,
    /// Unsent bytes above which a socket is not writable (`TCP_NOTSENT_LOWAT`). Default: 128 KiB. What waits beyond that stays
    /// in the link, where urgent lanes overtake it, instead of in a send buffer that grows to megabytes; what is under way to the
    /// peer is not bounded, so throughput does not suffer from long round trips. Much smaller values cost wake-ups. `None` leaves
    /// it to the system, which has no bound; ignored where the system does not know it.
    pub notsent_lowat: Option<NonZeroU32>,
    /// Connections that may wait to be accepted; the system may cap it. Default: 1,024.
    pub backlog: NonZeroU32,
    /// Dial IPv4 from this address. Default: `None`, the system chooses.
    pub dial_from_v4: Option<Ipv4Addr>,
    /// Dial IPv6 from this address. Default: `None`, the system chooses.
    pub dial_from_v6: Option<Ipv6Addr>,
}

impl Default for TcpConfig {
    fn default() -> Self {
        Self {
            nodelay: true,
            keepalive: Some(KeepAlive::default()),
            reuse_addr: true,
            send_buffer: None,
            recv_buffer: None,
            notsent_lowat: NonZeroU32::new(128 * 1024),
            backlog: const { NonZeroU32::new(1024).expect("not zero") },
            dial_from_v4: None,
            dial_from_v6: None,
        }
    }
}

/// When the system probes a silent connection. It ends one that stays silent for `idle + interval * retries`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeepAlive {
    /// Silence before the first probe, in whole_seconds seconds on most systems. Default: 60 s.
    pub idle: Duration,
    /// Time between probes, in whole_seconds seconds on most systems. Default: 15 s.
    pub interval: Duration,
    /// Unanswered probes before the connection is given up. Default: 4.
    pub retries: NonZeroU32,
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(60),
            interval: Duration::from_secs(15),
            retries: const { NonZeroU32::new(4).expect("not zero") },
        }
    }
}

/// TCP on tokio. Needs a tokio runtime with I/O and time enabled.
#[derive(Clone, Debug, Default)]
pub struct Tcp {
    config: TcpConfig,
}

impl Tcp {
    /// A transport with these options, for connections and listeners made from now on.
    pub const fn new(config: TcpConfig) -> Self {
        Self { config }
    }

    /// The options.
    pub const fn config(&self) -> &TcpConfig {
        &self.config
    }

    /// A non-blocking socket with every option that must stand before it connects or listens.
    fn socket(&self, addr: SocketAddr) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        // The receive window's scale is fixed by the handshake, so buffers are sized before it.
        if let Some(size) = self.config.send_buffer {
            socket.set_send_buffer_size(size.get())?;
        }
        if let Some(size) = self.config.recv_buffer {
            socket.set_recv_buffer_size(size.get())?;
        }
        if addr.is_ipv6() {
            // Without this, [::] also takes 0.0.0.0 and nobody can listen on both.
            socket.set_only_v6(true)?;
        }
        Ok(socket)
    }

    async fn connect(&self, addr: SocketAddr) -> io::Result<BoxStream> {
        let addr = canonical(addr);
        let socket = self.socket(addr)?;
        self.config.apply(&SockRef::from(&socket))?;
        let from = match addr {
            SocketAddr::V4(_) => self.config.dial_from_v4.map(IpAddr::V4),
            SocketAddr::V6(_) => self.config.dial_from_v6.map(IpAddr::V6),
        };
        if let Some(ip) = from {
            // Binding picks the port before the destination is known; reusable ports then serve many destinations.
            #[cfg(not(windows))]
            socket.set_reuse_address(self.config.reuse_addr)?;
            socket.bind(&SocketAddr::new(ip, 0).into())?;
        }
        let stream = TcpSocket::from_std_stream(socket.into()).connect(addr).await?;
        // Dialling a free port of this host's ephemeral range can connect a socket to itself.
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
        // For those it will accept, where they inherit; and a wrong one fails the listen.
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

impl TcpConfig {
    /// Sets the options that a connected socket takes as well.
    fn apply(&self, socket: &SockRef<'_>) -> io::Result<()> {
        socket.set_tcp_nodelay(self.nodelay)?;
        if let Some(keepalive) = &self.keepalive {
            socket.set_tcp_keepalive(&keepalive.params())?;
        }
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Some(lowat) = self.notsent_lowat {
            socket.set_tcp_notsent_lowat(lowat.get())?;
        }
        Ok(())
    }

    /// Whether a socket has what [`TcpConfig::apply`] sets; `false` on systems where it is not asked.
    fn is_applied(&self, socket: &SockRef<'_>) -> io::Result<bool> {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        {
            let probes = match &self.keepalive {
                Some(keepalive) => socket.keepalive()? && keepalive.params_of(socket)?,
                None => true,
            };
            let lowat = match self.notsent_lowat {
                Some(lowat) => socket.tcp_notsent_lowat()? == lowat.get(),
                None => true,
            };
            Ok(probes && lowat && socket.tcp_nodelay()? == self.nodelay)
        }
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        {
            let _ = socket;
            Ok(false)
        }
    }
}

impl KeepAlive {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn params_of(&self, socket: &SockRef<'_>) -> io::Result<bool> {
        Ok(socket.tcp_keepalive_time()? == whole_seconds(self.idle)
            && socket.tcp_keepalive_interval()? == whole_seconds(self.interval)
            && socket.tcp_keepalive_retries()? == self.retries.get())
    }

    fn params(&self) -> TcpKeepalive {
        let params = TcpKeepalive::new().with_time(whole_seconds(self.idle));
        #[cfg(not(target_os = "openbsd"))]
        let params = params.with_interval(whole_seconds(self.interval));
        #[cfg(not(any(target_os = "openbsd", windows)))]
        let params = params.with_retries(self.retries.get());
        params
    }
}

/// Most systems count whole_seconds seconds and refuse zero.
fn whole_seconds(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs().max(1))
}
