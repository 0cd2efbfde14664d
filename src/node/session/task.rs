//! The task of one connection.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use crate::connection::ConnectionDriver;
use crate::transport::BoxStream;
use crate::wire::Protocol;

use super::callbacks::PeerSession;

/// The parts of a connection's task, run one after another: the handshake of an accepted stream,
/// then the connection.
///
/// Each part is boxed, because the runtime rounds up the size of what it is given. One task for
/// both parts saves a spawn.
pub(crate) struct PeerTask(Pin<Box<dyn Future<Output = Option<PeerTask>> + Send>>);

impl PeerTask {
    pub(crate) fn new(part: impl Future<Output = Option<PeerTask>> + Send + 'static) -> Self {
        Self(Box::pin(part))
    }
}

impl Future for PeerTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(next) = ready!(self.0.as_mut().poll(cx)) {
            *self = next;
        }
        Poll::Ready(())
    }
}

/// The last part: drives the connection of a live peer until it closes.
pub(crate) fn run_connection<P: Protocol>(
    driver: ConnectionDriver<P, BoxStream, PeerSession>,
) -> PeerTask {
    PeerTask::new(RunConnection { driver: Some(driver) })
}

struct RunConnection<P: Protocol> {
    driver: Option<ConnectionDriver<P, BoxStream, PeerSession>>,
}

impl<P: Protocol> Future for RunConnection<P> {
    type Output = Option<PeerTask>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<PeerTask>> {
        let Some(driver) = &mut self.driver else { return Poll::Ready(None) };
        driver.handler_mut().on_first_poll();
        let reason = ready!(Pin::new(&mut *driver).poll(cx));
        driver.handler_mut().set_close_reason(reason);
        self.driver = None;
        Poll::Ready(None)
    }
}
