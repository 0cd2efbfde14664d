//! A listening TCP socket: accepts connections, applies their options, and pauses after errors.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Sleep;

use super::TcpConfig;
use crate::base::{Backoff, canonical};
use crate::transport::{BoxStream, Listener};

/// The pause after an accept error that polling again would only repeat.
const ERROR_BACKOFF: Backoff = Backoff { base: Duration::from_millis(50), cap: Duration::from_secs(1) };

/// Broken connections skipped in one poll before other tasks get their turn.
const MAX_SKIPPED_PER_POLL: u32 = 16;

/// EMFILE, ENFILE, ENOMEM, ENOBUFS.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) const EXHAUSTION_ERRNOS: [i32; 4] = [24, 23, 12, 105];
/// EMFILE, ENFILE, ENOMEM, ENOBUFS.
#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
pub(super) const EXHAUSTION_ERRNOS: [i32; 4] = [24, 23, 12, 55];
/// WSAEMFILE, WSAENOBUFS.
#[cfg(not(unix))]
pub(super) const EXHAUSTION_ERRNOS: [i32; 2] = [10024, 10055];

/// The kind of an error that [`Listener::poll_accept`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AcceptErrorKind {
    /// The error concerns one incoming connection only. The listener skips such errors by itself.
    Connection,
    /// The process or the host has run out of descriptors or memory: raise the limit, or hold fewer
    /// connections.
    Exhausted,
    /// Any other error.
    Other,
}

impl AcceptErrorKind {
    /// Classifies an error by its `errno`, then by its [`io::ErrorKind`].
    pub fn of(error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        if error.raw_os_error().is_some_and(|code| EXHAUSTION_ERRNOS.contains(&code)) {
            return Self::Exhausted;
        }
        match error.kind() {
            // The connection died in the queue; on Linux, accept also reports its pending network
            // error.
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

/// A bound TCP socket that pauses by itself after errors.
#[derive(Debug)]
pub(super) struct TcpAcceptor {
    pub(super) inner: TcpListener,
    pub(super) local: SocketAddr,
    pub(super) config: TcpConfig,
    /// Whether accepted sockets inherit the listening socket's options; `None` before the first
    /// connection.
    pub(super) inherits: Option<bool>,
    /// Consecutive errors, each followed by a pause.
    pub(super) errors: u32,
    /// Nothing is accepted until this has elapsed.
    pub(super) pause: Option<Pin<Box<Sleep>>>,
}

impl TcpAcceptor {
    /// Starts the pause that follows an error.
    pub(super) fn start_pause(&mut self) {
        self.errors = self.errors.saturating_add(1);
        self.pause = Some(Box::pin(tokio::time::sleep(ERROR_BACKOFF.delay(self.errors, 0))));
    }

    /// Makes sure that an accepted socket has the configured options.
    ///
    /// Where the first accepted socket has inherited them, as on Linux, later ones are not touched.
    /// This saves six system calls per connection, a tenth of the cost of an accept.
    pub(super) fn configure(&mut self, stream: &TcpStream) -> io::Result<()> {
        let socket = SockRef::from(stream);
        let inherits = match self.inherits {
            Some(inherits) => inherits,
            // If the options cannot be read, they are set on every connection.
            None => *self.inherits.insert(self.config.is_applied(&socket).unwrap_or(false)),
        };
        if inherits { Ok(()) } else { self.config.apply(&socket) }
    }
}

impl Listener for TcpAcceptor {
    fn local_addr(&self) -> SocketAddr {
        self.local
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(BoxStream, SocketAddr)>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        for _ in 0..MAX_SKIPPED_PER_POLL {
            let error = match ready!(self.inner.poll_accept(cx)) {
                // Setting options fails if the remote end has closed the connection in the
                // meantime.
                Ok((stream, from)) => match self.configure(&stream) {
                    Ok(()) => {
                        self.errors = 0;
                        return Poll::Ready(Ok((Box::new(stream), canonical(from))));
                    }
                    Err(_) => continue,
                },
                Err(error) => error,
            };
            if AcceptErrorKind::of(&error) != AcceptErrorKind::Connection {
                self.start_pause();
                return Poll::Ready(Err(error));
            }
        }
        // Only broken connections so far: let other tasks run first.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
