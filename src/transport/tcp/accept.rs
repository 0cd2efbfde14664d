//! A listening socket: what it hands out, and what it does after errors.

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

/// What kind of trouble an accept met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptErrorKind {
    /// It concerns the one connection that was being taken; the next one may be fine. The listener skips these itself.
    Connection,
    /// The process or the host has run out of descriptors or memory: raise the limit, or hold fewer connections.
    Exhausted,
    /// Anything else.
    Other,
}

impl AcceptErrorKind {
    /// The kind of an error that [`Listener::poll_accept`] returned.
    pub fn of(error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        if error.raw_os_error().is_some_and(|code| EXHAUSTION_ERRNOS.contains(&code)) {
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
pub(super) struct TcpAcceptor {
    pub(super) inner: TcpListener,
    pub(super) local: SocketAddr,
    pub(super) config: TcpConfig,
    /// Whether connections come with the options of the listening socket; `None` before the first one.
    pub(super) inherits: Option<bool>,
    /// Errors in a row that ended in a pause.
    pub(super) errors: u32,
    /// Until it is over nothing is accepted.
    pub(super) pause: Option<Pin<Box<Sleep>>>,
}

impl TcpAcceptor {
    /// Arms the pause that follows an error.
    pub(super) fn start_pause(&mut self) {
        self.errors = self.errors.saturating_add(1);
        self.pause = Some(Box::pin(tokio::time::sleep(ERROR_BACKOFF.delay(self.errors, 0))));
    }

    /// Sees to it that a connection that was just taken has its options. Where the first one was found to have those of the
    /// listening socket, as on Linux, so have the others: six system calls less, a tenth of what accepting costs.
    pub(super) fn configure(&mut self, stream: &TcpStream) -> io::Result<()> {
        let socket = SockRef::from(stream);
        let inherits = match self.inherits {
            Some(inherits) => inherits,
            // What cannot be asked is set.
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
                // A socket that takes no options any more has been closed by its peer meanwhile.
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
        // Nothing but broken connections: let others run first.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// The pause after an error that polling again would only repeat.
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
