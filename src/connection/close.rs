//! How a connection ends, and where its cursors stood then.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::connection::write::outbox::Outbox;
use crate::pool::DisconnectReason;
use crate::sync::atomic::Ordering;
use crate::wire::Goodbye;

use super::handle::{CLOSED, Connection, DRAINING, ResumePoints};

/// How a connection is to end.
#[derive(Clone, Debug)]
pub(in crate::connection) struct CloseOrder {
    pub(in crate::connection) reason: DisconnectReason,
    pub(in crate::connection) goodbye: Option<Goodbye>,
    /// Send first what waits.
    pub(in crate::connection) drain: bool,
    pub(in crate::connection) within: Duration,
}

/// The end of a connection.
impl Connection {
    /// Begins to close, once: the first order stands. Says goodbye if told to, then ends within [`ConnectionConfig::linger`](crate::connection::ConnectionConfig::linger).
    ///
    /// Legal anywhere, a handler of this very connection included.
    pub fn close(&self, reason: DisconnectReason, goodbye: Option<Goodbye>) {
        let within = self.shared.config.linger;
        self.begin_close(CloseOrder { reason, goodbye, drain: false, within });
    }

    /// Begins to close once nothing waits to be sent. What is not sent by `within` is given up; the goodbye then gets
    /// [`ConnectionConfig::linger`](crate::connection::ConnectionConfig::linger) more, or `within` again if that is shorter. Meanwhile nothing more is
    /// queued but answers; what is broadcast still goes out, so a peer that reads more slowly than that takes the whole of `within`.
    pub fn drain(&self, reason: DisconnectReason, goodbye: Option<Goodbye>, within: Duration) {
        self.begin_close(CloseOrder { reason, goodbye, drain: true, within });
    }

    fn begin_close(&self, order: CloseOrder) {
        {
            let mut rare = self.rare.lock();
            if rare.order.is_some() {
                return;
            }
            rare.order = Some(Box::new(order.clone()));
            // Release: whoever sees the state sees the order. Pairs with the Acquire load in `is_open`.
            self.state.store(if order.drain { DRAINING } else { CLOSED }, Ordering::Release);
        }
        if !order.drain {
            self.clear_outbox();
        }
        self.fail_waiters();
        self.calls.call();
    }

    /// What waits is dropped outside the lock. After the state has become [`CLOSED`].
    fn clear_outbox(&self) {
        drop(self.outbox.look(Outbox::clear));
    }

    pub(in crate::connection) fn close_order(&self) -> Option<CloseOrder> {
        if self.is_open() {
            return None;
        }
        self.rare.look(|rare| rare.order.as_deref().cloned()).flatten()
    }

    /// The task has ended: nothing more will be sent or received.
    pub(in crate::connection) fn ended(&self, reason: DisconnectReason, positions: ResumePoints) {
        self.begin_close(CloseOrder { reason, goodbye: None, drain: false, within: Duration::ZERO });
        self.state.store(CLOSED, Ordering::Release);
        self.clear_outbox();
        let (heir, pings) = {
            let mut rare = self.rare.lock();
            rare.left_at = Some(Box::new(positions));
            (rare.heir.take(), std::mem::take(&mut rare.pings))
        };
        // Outside the lock: whoever waits is told.
        drop(pings);
        if let Some(heir) = heir {
            // An heir that is gone needs nothing.
            let _ = heir.send(positions);
        }
        self.stalled_since.store(0, Ordering::Relaxed);
    }

    fn fail_waiters(&self) {
        // Dropping the senders fails all waiters at once, outside the lock.
        drop(self.waiters.take());
    }

    /// Where its cursors stood when the connection ended, for the connection that takes its place; while it has not ended, a
    /// promise of it.
    pub(crate) fn final_resume_points(&self) -> Result<ResumePoints, oneshot::Receiver<ResumePoints>> {
        let mut rare = self.rare.lock();
        if let Some(positions) = rare.left_at.as_deref() {
            return Ok(*positions);
        }
        let (sender, receiver) = oneshot::channel();
        let earlier = rare.heir.replace(sender);
        // Outside the lock: whoever waited there is told that it inherits nothing.
        drop(rare);
        drop(earlier);
        Err(receiver)
    }
}
