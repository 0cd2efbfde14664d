//! Whoever waits until links leave room in a log.

use std::sync::Arc;
use std::task::{Context, Poll};

use crate::base::Tick;
use crate::broadcast::Log;
#[cfg(doc)]
use crate::broadcast::{LagPolicy, LogConfig};

/// Waits until the slowest link that is not lagging leaves room: is at most a quarter of the ring behind. With no links
/// there is always room, and who stands still for [`LogConfig::stall`] is not waited for until it moves. Nor is a link
/// that has skipped, or that is in the way at every [`Log::tick`] for twice that time while more than half of the links have
/// nothing left to write: not before it has kept up for ten times that time.
///
/// Under [`LagPolicy::Skip`], where not being waited for costs a link messages but not its connection, a link that takes less than
/// half as much as the others is found out sooner: once two thirds of all links, and eight at least, have idled for it
/// for a tenth of the stall time while its stream was full. It is waited for again when it has kept up for one stall time, twice as long each further
/// time, up to ten; when it has skipped meanwhile, for ten.
///
/// Dropping it leaves nothing behind.
///
/// # Invariants
/// 21. *Statement*: a wait for room ends as soon as nobody who is waited for is in the way, and no waiter depends on another.
///     *Enforced by*: whatever takes a link out of the way, its progress, its leaving, a look at the clock, goes on to the next
///     one under the gate's lock, and where there is none all waiters are woken together; each takes its waker out when it is
///     dropped. *Breaks if*: nobody brings the clock, or a link moves on without asking whether it is watched.
#[derive(Debug)]
pub struct RoomWait {
    log: Arc<Log>,
    id: Option<u64>,
}

impl RoomWait {
    pub(in crate::broadcast) const fn new(log: Arc<Log>) -> Self {
        Self { log, id: None }
    }

    /// Ready when there is room. While it is pending, somebody must bring the clock at [`Log::stall_deadline`]: poll again
    /// with a later `now`, or call [`Log::tick`]; every [`Log::check_interval`], if those that most others idle for are to be found
    /// out soon.
    ///
    /// # Cost
    /// Two loads if there is room. Otherwise one walk over the links for at least an eighth of the ring.
    pub fn poll(&mut self, cx: &mut Context<'_>, now: Tick) -> Poll<()> {
        let span = self.log.span();
        if self.log.gate.has_room(span.end, span.window) {
            self.forget();
            return Poll::Ready(());
        }
        let id = *self.id.get_or_insert_with(|| self.log.gate.new_waiter());
        let polled = self.log.gate.poll(id, &self.log.judged(), now, cx);
        if polled.is_ready() {
            self.id = None;
        }
        polled
    }

    fn forget(&mut self) {
        if let Some(id) = self.id.take() {
            self.log.gate.forget(id);
        }
    }
}

impl Drop for RoomWait {
    fn drop(&mut self) {
        self.forget();
    }
}
