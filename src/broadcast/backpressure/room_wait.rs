//! [`RoomWait`]: a producer that waits until connections leave room in a log.

use std::sync::Arc;
use std::task::{Context, Poll};

use crate::base::Tick;
use crate::broadcast::Log;
#[cfg(doc)]
use crate::broadcast::{LagPolicy, LogConfig};

/// Waits until the slowest connection that is waited for leaves room: is at most a quarter of the
/// ring behind. Without connections there is always room.
///
/// Some connections are not waited for. With the default stall time of 1 s ([`LogConfig::stall`]):
/// - One that stands still for 1 s, until it moves.
/// - One that keeps most others idle and takes less than half as much as they do. It takes 2 s with
///   more than half of the others idle to find it. It is waited for again when it has kept up for
///   10 s. Under [`LagPolicy::Skip`], where this costs it messages but not its connection, 80 ms
///   are enough if its stream is full, and at least eight connections and two thirds of all are
///   idle. Then it is waited for again when it has kept up for 1 s, for twice as long each further
///   time, up to 10 s.
/// - One that has skipped messages, until it has kept up for 10 s.
///
/// Dropping it leaves nothing behind.
///
/// Invariant: `waits_are_inside_the_timeout`
/// - Statement: a wait for room ends as soon as no connection that is waited for is in the way,
///   and no producer that waits depends on another.
/// - Enforced by: whatever takes a connection out of the way (its progress, its end, a check of
///   the time) moves the search on under one lock. If no other connection is in the way, all
///   producers are woken together. A producer that gives up removes its waker.
/// - Breaks if: nothing calls with the time, or a connection moves without checking whether it is
///   watched.
#[derive(Debug)]
pub struct RoomWait {
    log: Arc<Log>,
    id: Option<u64>,
}

impl RoomWait {
    pub(in crate::broadcast) const fn new(log: Arc<Log>) -> Self {
        Self { log, id: None }
    }

    /// Ready when there is room. While it is pending, something must call with a later time at
    /// [`Log::stall_deadline`]: this method or [`Log::tick`]. Every [`Log::check_interval`] finds
    /// slow connections soon.
    ///
    /// # Cost
    /// Two loads if there is room. Otherwise one walk over the connections for at least an eighth
    /// of the ring.
    pub fn poll(&mut self, cx: &mut Context<'_>, now: Tick) -> Poll<()> {
        let backpressure = self.log.backpressure();
        if backpressure.has_room(&self.log.snapshot()) {
            self.forget();
            return Poll::Ready(());
        }
        let id = *self.id.get_or_insert_with(|| backpressure.new_waiter());
        let polled = backpressure.poll(id, &self.log.snapshot_with_policy(), now, cx);
        if polled.is_ready() {
            self.id = None;
        }
        polled
    }

    fn forget(&mut self) {
        if let Some(id) = self.id.take() {
            self.log.backpressure().forget_waiter(id);
        }
    }
}

impl Drop for RoomWait {
    fn drop(&mut self) {
        self.forget();
    }
}
