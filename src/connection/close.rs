//! Closing a connection, and where its cursors stood when it ended.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::pool::DisconnectReason;
use crate::sync::atomic::Ordering;
use crate::wire::Goodbye;

use super::handle::{CLOSED, Connection, DRAINING, ResumePoints};
use super::write::outbox::Outbox;

/// How a connection is to end.
#[derive(Clone, Debug)]
pub(super) struct CloseOrder {
    pub(super) reason: DisconnectReason,
    pub(super) goodbye: Option<Goodbye>,
    /// Whether what waits is sent first.
    pub(super) drain: bool,
    pub(super) within: Duration,
}

impl Connection {
    /// Begins to close, once: the first order counts. Sends the goodbye, if there is one, and ends
    /// within [`ConnectionConfig::linger`](super::ConnectionConfig::linger).
    ///
    /// May be called anywhere, also in a handler of this connection.
    pub fn close(&self, reason: DisconnectReason, goodbye: Option<Goodbye>) {
        let within = self.shared.config.linger;
        self.begin_close(CloseOrder { reason, goodbye, drain: false, within });
    }

    /// Begins to close once nothing waits to be sent. What is not sent `within` that time is given
    /// up. The goodbye then gets [`ConnectionConfig::linger`](super::ConnectionConfig::linger)
    /// more, or `within` again if that is shorter. Meanwhile only responses are queued. Broadcasts
    /// still go out, so a peer that reads more slowly than they arrive takes the whole time.
    pub fn drain(&self, reason: DisconnectReason, goodbye: Option<Goodbye>, within: Duration) {
        self.begin_close(CloseOrder { reason, goodbye, drain: true, within });
    }

    fn begin_close(&self, order: CloseOrder) {
        {
            let mut rare = self.rare.lock();
            if rare.close_order.is_some() {
                return;
            }
            rare.close_order = Some(Box::new(order.clone()));
            // Release: a reader of the phase sees the order. Pairs with the Acquire load in
            // `is_open`.
            self.phase.store(if order.drain { DRAINING } else { CLOSED }, Ordering::Release);
        }
        if !order.drain {
            self.clear_outbox();
        }
        // Dropping the senders fails all waiting requests at once, outside the lock.
        drop(self.outbound.take());
        self.wake.notify();
    }

    /// Drops what waits, outside the lock. Must come after the phase is [`CLOSED`].
    fn clear_outbox(&self) {
        drop(self.outbox.with(Outbox::clear));
    }

    /// The order to close, if there is one. Cost: one load while the connection is open.
    pub(super) fn close_order(&self) -> Option<CloseOrder> {
        if self.is_open() {
            return None;
        }
        self.rare.with(|rare| rare.close_order.as_deref().cloned()).flatten()
    }

    /// The task has ended: nothing more will be sent or received.
    pub(super) fn finish(&self, reason: DisconnectReason, points: ResumePoints) {
        self.begin_close(CloseOrder { reason, goodbye: None, drain: false, within: Duration::ZERO });
        self.phase.store(CLOSED, Ordering::Release);
        self.clear_outbox();
        let (successor, pings) = {
            let mut rare = self.rare.lock();
            rare.final_points = Some(Box::new(points));
            (rare.successor.take(), std::mem::take(&mut rare.pings))
        };
        // Outside the lock: dropping it wakes the tasks that wait for a pong.
        drop(pings);
        if let Some(successor) = successor {
            // A successor that is gone needs nothing.
            let _ = successor.send(points);
        }
        self.write_progressed();
    }

    /// Where its cursors stood when the connection ended, for the connection that replaces it.
    /// While it has not ended, a receiver of that. A later call takes the place of an earlier one,
    /// whose receiver fails.
    pub(crate) fn final_resume_points(&self) -> Result<ResumePoints, oneshot::Receiver<ResumePoints>> {
        let mut rare = self.rare.lock();
        if let Some(points) = rare.final_points.as_deref() {
            return Ok(*points);
        }
        let (sender, receiver) = oneshot::channel();
        let earlier = rare.successor.replace(sender);
        // Outside the lock: dropping it wakes a task.
        drop(rare);
        drop(earlier);
        Err(receiver)
    }
}
