//! TCP over tokio's reactor, with the socket options that a peer-to-peer node wants.
//!
//! The streams are tokio's own: nothing wraps them, so a vectored write is one system call.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::Sleep;

use super::{BoxFuture, BoxListener, BoxStream, Listener, Transport};
use crate::base::{Backoff, canonical};

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
    /// Silence before the first probe, in whole seconds on most systems. Default: 60 s.
    pub idle: Duration,
    /// Time between probes, in whole seconds on most systems. Default: 15 s.
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
        self.config.tune(&SockRef::from(&socket))?;
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

    fn bind(&self, addr: SocketAddr) -> io::Result<TcpAccept> {
        let addr = canonical(addr);
        let socket = self.socket(addr)?;
        // On Windows the same option would let another process steal the port.
        #[cfg(not(windows))]
        socket.set_reuse_address(self.config.reuse_addr)?;
        // For those it will accept, where they inherit; and a wrong one fails the listen.
        self.config.tune(&SockRef::from(&socket))?;
        socket.bind(&addr.into())?;
        socket.listen(i32::try_from(self.config.backlog.get()).unwrap_or(i32::MAX))?;
        let inner = TcpListener::from_std(socket.into())?;
        let local = canonical(inner.local_addr()?);
        Ok(TcpAccept { inner, local, config: self.config.clone(), inherits: None, errors: 0, pause: None })
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
    fn tune(&self, socket: &SockRef<'_>) -> io::Result<()> {
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
}

impl TcpConfig {
    /// Whether a socket has what [`TcpConfig::tune`] sets; `false` on systems where it is not asked.
    fn is_tuned(&self, socket: &SockRef<'_>) -> io::Result<bool> {
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
        Ok(socket.tcp_keepalive_time()? == whole(self.idle)
            && socket.tcp_keepalive_interval()? == whole(self.interval)
            && socket.tcp_keepalive_retries()? == self.retries.get())
    }

    fn params(&self) -> TcpKeepalive {
        let params = TcpKeepalive::new().with_time(whole(self.idle));
        #[cfg(not(target_os = "openbsd"))]
        let params = params.with_interval(whole(self.interval));
        #[cfg(not(any(target_os = "openbsd", windows)))]
        let params = params.with_retries(self.retries.get());
        params
    }
}

/// Most systems count whole seconds and refuse zero.
fn whole(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs().max(1))
}

/// What kind of trouble an accept met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptFault {
    /// It concerns the one connection that was being taken; the next one may be fine. The listener skips these itself.
    Connection,
    /// The process or the host has run out of descriptors or memory: raise the limit, or hold fewer connections.
    Exhausted,
    /// Anything else.
    Other,
}

impl AcceptFault {
    /// The kind of an error that [`Listener::poll_accept`] returned.
    pub fn of(error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        if error.raw_os_error().is_some_and(|code| EXHAUSTED.contains(&code)) {
            return Self::Exhausted;
        }
        match error.kind() {
            // A connection that died in the queue, or (Linux) whose pending network error accept reports.
            Kind::ConnectionAborted | Kind::ConnectionReset | Kind::ConnectionRefused | Kind::TimedOut => {
                Self::Connection
            }
            Kind::Interrupted | Kind::BrokenPipe | Kind::NotConnected => Self::Connection,
            Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown => Self::Connection,
            Kind::OutOfMemory => Self::Exhausted,
            _ => Self::Other,
        }
    }
}

/// A bound TCP socket, which pauses by itself after errors.
#[derive(Debug)]
struct TcpAccept {
    inner: TcpListener,
    local: SocketAddr,
    config: TcpConfig,
    /// Whether connections come with the options of the listening socket; `None` before the first one.
    inherits: Option<bool>,
    /// Errors in a row that ended in a pause.
    errors: u32,
    /// Until it is over nothing is accepted.
    pause: Option<Pin<Box<Sleep>>>,
}

impl TcpAccept {
    /// Arms the pause that follows an error.
    fn back_off(&mut self) {
        self.errors = self.errors.saturating_add(1);
        self.pause = Some(Box::pin(tokio::time::sleep(PAUSE.wait(self.errors, 0))));
    }

    /// Sees to it that a connection that was just taken has its options. Where the first one was found to have those of the
    /// listening socket, as on Linux, so have the others: six system calls less, a tenth of what accepting costs.
    fn welcome(&mut self, stream: &TcpStream) -> io::Result<()> {
        let socket = SockRef::from(stream);
        let inherits = match self.inherits {
            Some(inherits) => inherits,
            // What cannot be asked is set.
            None => *self.inherits.insert(self.config.is_tuned(&socket).unwrap_or(false)),
        };
        if inherits { Ok(()) } else { self.config.tune(&socket) }
    }
}

impl Listener for TcpAccept {
    fn local_addr(&self) -> SocketAddr {
        self.local
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(BoxStream, SocketAddr)>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        for _ in 0..SKIPS {
            let error = match ready!(self.inner.poll_accept(cx)) {
                // A socket that takes no options any more has been closed by its peer meanwhile.
                Ok((stream, from)) => match self.welcome(&stream) {
                    Ok(()) => {
                        self.errors = 0;
                        return Poll::Ready(Ok((Box::new(stream), canonical(from))));
                    }
                    Err(_) => continue,
                },
                Err(error) => error,
            };
            if AcceptFault::of(&error) != AcceptFault::Connection {
                self.back_off();
                return Poll::Ready(Err(error));
            }
        }
        // Nothing but broken connections: let others run first.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// The pause after an error that polling again would only repeat.
const PAUSE: Backoff = Backoff { base: Duration::from_millis(50), cap: Duration::from_secs(1) };

/// Broken connections skipped in one poll before other tasks get their turn.
const SKIPS: u32 = 16;

/// EMFILE, ENFILE, ENOMEM, ENOBUFS.
#[cfg(any(target_os = "linux", target_os = "android"))]
const EXHAUSTED: [i32; 4] = [24, 23, 12, 105];
/// EMFILE, ENFILE, ENOMEM, ENOBUFS.
#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
const EXHAUSTED: [i32; 4] = [24, 23, 12, 55];
/// WSAEMFILE, WSAENOBUFS.
#[cfg(not(unix))]
const EXHAUSTED: [i32; 2] = [10024, 10055];

#[cfg(all(test, not(peerpool_loom)))]
#[allow(clippy::unwrap_used)] // helpers of tests; clippy excuses the tests alone
mod tests {
    use std::io::IoSlice;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::{Instant, timeout};

    use super::*;

    const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    const SOON: Duration = Duration::from_secs(10);

    async fn pair(tcp: &Tcp, at: SocketAddr) -> (BoxStream, BoxStream, SocketAddr) {
        let mut listener = tcp.listen(at).await.unwrap();
        let dial = tcp.dial(listener.local_addr());
        let (near, accepted) = timeout(SOON, async { tokio::join!(dial, listener.accept()) }).await.unwrap();
        let (far, from) = accepted.unwrap();
        (near.unwrap(), far, from)
    }

    #[tokio::test]
    async fn bytes_go_both_ways_and_vectored_writes_pass_through_the_box() {
        let (mut near, mut far, from) = pair(&Tcp::default(), LOOPBACK).await;
        assert_eq!(from.ip(), LOOPBACK.ip());
        assert!(near.is_write_vectored());
        let parts = [IoSlice::new(b"vec"), IoSlice::new(b"tored")];
        assert_eq!(near.write_vectored(&parts).await.unwrap(), 8);
        let mut buf = [0; 8];
        far.read_exact(&mut buf).await.unwrap();
        assert_eq!(&buf, b"vectored");
        far.shutdown().await.unwrap();
        assert_eq!(near.read(&mut buf).await.unwrap(), 0);
        near.write_all(b"after the end").await.unwrap();
        far.read_exact(&mut [0; 13]).await.unwrap();
    }

    #[tokio::test]
    async fn every_option_reaches_the_socket() {
        let config = TcpConfig {
            keepalive: Some(KeepAlive {
                idle: Duration::from_secs(33),
                interval: Duration::from_millis(7_900),
                retries: NonZeroU32::new(5).unwrap(),
            }),
            send_buffer: NonZeroUsize::new(64 * 1024),
            recv_buffer: NonZeroUsize::new(32 * 1024),
            notsent_lowat: NonZeroU32::new(16 * 1024),
            dial_from_v4: Some(Ipv4Addr::LOCALHOST),
            ..TcpConfig::default()
        };
        let tcp = Tcp::new(config);
        let mut listener = tcp.bind(LOOPBACK).unwrap();
        let dialled = tcp.socket(listener.local).unwrap();
        tcp.config().tune(&SockRef::from(&dialled)).unwrap();
        let (accepted, _) = {
            let _stream = std::net::TcpStream::connect(listener.local).unwrap();
            listener.inner.accept().await.unwrap()
        };
        listener.welcome(&accepted).unwrap();
        assert_eq!(listener.inherits, Some(cfg!(any(target_os = "linux", target_os = "android"))));
        for socket in [SockRef::from(&dialled), SockRef::from(&accepted)] {
            assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
            assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(33));
            assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(7));
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), 5);
            #[cfg(target_os = "linux")]
            assert_eq!(socket.tcp_notsent_lowat().unwrap(), 16 * 1024);
        }
        // Linux reports twice what was asked for.
        assert!((64..=128).contains(&(dialled.send_buffer_size().unwrap() / 1024)));
        assert!((32..=64).contains(&(dialled.recv_buffer_size().unwrap() / 1024)));
        let (_near, _far, from) = pair(&tcp, LOOPBACK).await;
        assert_eq!(from.ip(), LOOPBACK.ip());
    }

    #[tokio::test]
    async fn where_options_are_not_inherited_each_connection_is_given_them() {
        let three = NonZeroU32::new(3).unwrap();
        let wanted = TcpConfig {
            keepalive: Some(KeepAlive { retries: three, ..KeepAlive::default() }),
            ..TcpConfig::default()
        };
        let others = [
            TcpConfig { nodelay: false, ..wanted.clone() },
            TcpConfig { keepalive: None, ..wanted.clone() },
            TcpConfig { keepalive: Some(KeepAlive::default()), ..wanted.clone() },
            TcpConfig { notsent_lowat: None, ..wanted.clone() },
        ];
        for other in others {
            // As if the listening socket kept its options to itself.
            let mut listener = Tcp::new(other).bind(LOOPBACK).unwrap();
            listener.config = wanted.clone();
            for _ in 0..2 {
                let _stream = std::net::TcpStream::connect(listener.local).unwrap();
                let (accepted, _) = listener.inner.accept().await.unwrap();
                listener.welcome(&accepted).unwrap();
                assert_eq!(listener.inherits, Some(false));
                let socket = SockRef::from(&accepted);
                assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
                assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
                #[cfg(target_os = "linux")]
                assert_eq!(socket.tcp_notsent_lowat().unwrap(), 128 * 1024);
            }
        }
    }

    #[tokio::test]
    async fn an_option_that_the_system_refuses_fails_the_listen() {
        let keepalive = KeepAlive { retries: NonZeroU32::MAX, ..KeepAlive::default() };
        let tcp = Tcp::new(TcpConfig { keepalive: Some(keepalive), ..TcpConfig::default() });
        assert!(tcp.listen(LOOPBACK).await.is_err());
    }

    #[tokio::test]
    async fn both_families_listen_on_one_port() {
        let tcp = Tcp::default();
        let Ok(six) = tcp.listen("[::1]:0".parse().unwrap()).await else { return };
        // The port is ours on IPv6; somebody else may have it on IPv4, then another one is tried.
        let four = SocketAddr::new(LOOPBACK.ip(), six.local_addr().port());
        match tcp.listen(four).await {
            Ok(listener) => assert_eq!(listener.local_addr(), four),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::AddrInUse),
        }
        assert!(tcp.socket(six.local_addr()).unwrap().only_v6().unwrap());
    }

    #[tokio::test]
    async fn a_mapped_address_is_dialled_as_ipv4() {
        let tcp = Tcp::default();
        let mut listener = tcp.listen(LOOPBACK).await.unwrap();
        let mapped =
            SocketAddr::new(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(), listener.local_addr().port());
        let (near, far) = tokio::join!(tcp.dial(mapped), listener.accept());
        near.unwrap();
        assert!(far.unwrap().1.is_ipv4());
    }

    #[tokio::test]
    async fn nobody_listening_is_refused() {
        let tcp = Tcp::default();
        let listener = tcp.listen(LOOPBACK).await.unwrap();
        let addr = listener.local_addr();
        drop(listener);
        assert_eq!(tcp.dial(addr).await.err().unwrap().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn a_dropped_dial_closes_what_it_opened() {
        let tcp = Tcp::default();
        let mut listener = tcp.listen(LOOPBACK).await.unwrap();
        {
            let mut dial = tcp.dial(listener.local_addr());
            let first = std::future::poll_fn(|cx| Poll::Ready(dial.as_mut().poll(cx))).await;
            drop(first);
        }
        let (mut far, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
        // An end or a reset, never silence.
        let heard = timeout(SOON, far.read(&mut [0; 1])).await.unwrap();
        assert!(matches!(heard, Ok(0) | Err(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn after_an_error_the_listener_pauses_longer_each_time() {
        let inner = TcpListener::bind(LOOPBACK).await.unwrap();
        let local = inner.local_addr().unwrap();
        let config = TcpConfig::default();
        let mut accept = TcpAccept { inner, local, config, inherits: None, errors: 0, pause: None };
        for millis in [50, 100, 200, 400, 800, 1_000, 1_000] {
            let start = Instant::now();
            accept.back_off();
            accept.pause.as_mut().unwrap().await;
            assert_eq!(start.elapsed(), Duration::from_millis(millis));
        }
        let polled = std::future::poll_fn(|cx| {
            accept.back_off();
            Poll::Ready(accept.poll_accept(cx).is_pending())
        });
        assert!(polled.await);
    }

    #[test]
    fn errors_are_told_apart_by_whom_they_concern() {
        let code = |code| AcceptFault::of(&io::Error::from_raw_os_error(code));
        assert!(EXHAUSTED.iter().all(|os| code(*os) == AcceptFault::Exhausted));
        let kind = |kind: io::ErrorKind| AcceptFault::of(&kind.into());
        assert_eq!(kind(io::ErrorKind::ConnectionAborted), AcceptFault::Connection);
        assert_eq!(kind(io::ErrorKind::PermissionDenied), AcceptFault::Other);
    }
}
