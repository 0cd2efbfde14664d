//! The part of a connection that others hold: queues to send from, requests that await an answer, and the order to close.

use std::sync::Arc;
use std::task::Wake;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::base::{ConnId, Lane, Tick};
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use crate::wire::{EncodeError, Features, MessageHeader, ReplyMatcher, WireLimits};

use super::close::CloseOrder;
use super::ping::Pings;
use super::request::{Answering, Waiters};

use super::budget::{MemoryBudget, MemoryReservation};
use super::config::ConnectionConfig;
use super::lazy_box::LazyBox;
use super::message::{Message, SendError};
use super::wake_flag::WakeFlag;
use super::write::outbox::{Outbox, Outgoing, Rejected, Taken};
use crate::broadcast::{CursorStates, CursorView, ParkedWaker, ResumePoint};

/// One connection as everybody but its own task sees it. The task that reads and writes is a
/// [`ConnectionDriver`](super::ConnectionDriver); both end together.
///
/// Invariant 23. Statement: once [`Connection::close`] was called nothing is queued any more, every waiting request fails at
/// once, and the task ends within [`ConnectionConfig::linger`]. Enforced by: one state word that only moves forward, asked under the
/// lock of the outbox and of the table of requests before they are filled, and set before they are emptied. Breaks if: a
/// queue is filled without asking it.
#[derive(Debug)]
pub struct Connection {
    pub(super) shared: Arc<ConnectionShared>,
    pub(super) outbox: LazyBox<Outbox>,
    pub(super) waiters: LazyBox<Waiters>,
    pub(super) rare: LazyBox<Rare>,
    /// WakeFlag the task for everything that is not its log or its handlers.
    pub(super) calls: WakeFlag,
    /// Tick since which written bytes make no progress, plus one; zero while nothing waits to be written. A hint for the
    /// maintenance, which closes connections that stall.
    pub(super) stalled_since: AtomicU64,
    views: Arc<CursorStates>,
    /// The authority on whether the connection is open; the details are in `rare`. Whoever fills a queue asks it under the queue's
    /// lock, which whoever closes takes after setting it.
    pub(super) state: AtomicU8,
    /// A bit a lane: the outbox may hold something for it; and [`FLOODED`]. Set and cleared under the outbox' lock. Hint: a task that was woken
    /// after a message was queued sees its bit.
    pub(super) queued: AtomicU8,
    /// What the pings hold for the task. Set under their lock, before the task is woken.
    pub(super) wants: AtomicU8,
    /// Pings so far: the next one's token.
    pub(super) pinged: AtomicU32,
    /// The peer cannot be told that its request has no answer. Written once, before the task starts.
    silent: AtomicBool,
}

/// What many connections never need.
#[derive(Debug, Default)]
pub(super) struct Rare {
    pub(super) order: Option<Box<CloseOrder>>,
    pub(super) pings: Pings,
    pub(super) answering: Answering,
    /// Where the cursors stood when the task ended, for a connection that takes this one's place.
    pub(super) left_at: Option<Box<ResumePoints>>,
    pub(super) heir: Option<oneshot::Sender<ResumePoints>>,
}

impl Rare {
    fn is_idle(&self) -> bool {
        let Self { order, pings, answering, left_at, heir } = self;
        let ends = order.is_some() || left_at.is_some() || heir.is_some();
        !ends && pings.is_idle() && answering.all.is_empty()
    }
}

/// What all connections of one node and protocol share.
#[derive(Debug)]
pub struct ConnectionShared {
    /// Their bounds.
    pub config: ConnectionConfig,
    /// The memory ceiling they count against.
    pub budget: Arc<MemoryBudget>,
    /// The protocol's caps.
    pub limits: WireLimits,
    /// What the protocol can say.
    pub features: Features,
    /// How answers find their requests, where not by id.
    pub reply_matcher: Option<Arc<dyn ReplyMatcher>>,
    /// The protocol's name.
    pub protocol: &'static str,
}

impl ConnectionShared {
    /// How many of a peer's requests are handled at the same time.
    pub(super) fn requests(&self) -> usize {
        self.config.max_inbound_requests.max(1)
    }

    /// Whether a message may go on this lane at all.
    fn check(&self, lane: Lane, head: &MessageHeader, size: usize) -> Result<(), EncodeError> {
        let cap = self.limits.message(lane);
        if lane == Lane::Control {
            Err(EncodeError::ControlLaneReserved { kind: head.frame_kind() })
        } else if size > cap {
            Err(EncodeError::TooLarge { lane, size, cap })
        } else {
            self.features.check(head)
        }
    }
}

/// Where the three cursors of a connection stood when it ended.
pub type ResumePoints = [ResumePoint; 3];

/// What a connection counts of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PendingCounts {
    /// Messages that wait to be sent to this peer alone.
    pub queued_messages: usize,
    /// Their bytes.
    pub queued_bytes: usize,
    /// Requests of ours that await an answer.
    pub outbound_requests: usize,
    /// Requests of the peer that are being handled.
    pub inbound_requests: usize,
}

impl Connection {
    pub(super) fn new(
        shared: Arc<ConnectionShared>,
        views: Arc<CursorStates>,
        seat: Arc<ParkedWaker>,
    ) -> Arc<Self> {
        Arc::new(Self {
            shared,
            outbox: LazyBox::new(),
            waiters: LazyBox::new(),
            rare: LazyBox::new(),
            calls: WakeFlag::new(seat),
            stalled_since: AtomicU64::new(0),
            views,
            state: AtomicU8::new(OPEN),
            queued: AtomicU8::new(0),
            wants: AtomicU8::new(0),
            pinged: AtomicU32::new(0),
            silent: AtomicBool::new(false),
        })
    }

    /// The connection's number.
    pub fn id(&self) -> ConnId {
        self.views.conn()
    }

    /// The name of the protocol it speaks.
    pub fn protocol(&self) -> &'static str {
        self.shared.protocol
    }

    /// Whether the connection takes messages.
    pub fn is_open(&self) -> bool {
        self.state.load(Ordering::Acquire) == OPEN
    }

    /// Queues a message for this peer alone. Never waits; accepted is not delivered.
    ///
    /// # Errors
    /// [`SendError::Full`], [`SendError::Closed`]; the message comes back.
    ///
    /// # Cost
    /// One short lock of this connection, no copy of the payload.
    pub fn send(&self, message: Message) -> Result<(), SendError> {
        let head = MessageHeader::Event { kind: message.kind };
        self.submit(head, message)
    }

    /// Queues what a message carries under another head; the message comes back if it is not taken.
    pub(super) fn submit(&self, head: MessageHeader, message: Message) -> Result<(), SendError> {
        if !self.is_open() {
            return Err(SendError::Closed(message));
        }
        let Message { lane, kind, payload } = message;
        self.queue(lane, Outgoing { head, payload }, false).map_err(|(why, out)| {
            let message = Message { lane, kind, payload: out.payload };
            match why {
                Rejected::Full => SendError::Full(message),
                Rejected::Closed => SendError::Closed(message),
                Rejected::Refused(cause) => SendError::Refused { message, cause },
            }
        })
    }

    pub(super) fn queue(
        &self,
        lane: Lane,
        outgoing: Outgoing,
        unbounded: bool,
    ) -> Result<(), (Rejected, Outgoing)> {
        if let Err(cause) = self.shared.check(lane, &outgoing.head, outgoing.payload.len()) {
            return Err((Rejected::Refused(cause), outgoing));
        }
        {
            let mut outbox = self.outbox.lock_or(|| Outbox::new(&self.shared.budget));
            if self.state.load(Ordering::Acquire) == CLOSED {
                return Err((Rejected::Closed, outgoing));
            }
            let pushed = outbox.push(lane, outgoing, &self.shared.config, unbounded);
            let mark = match &pushed {
                Ok(()) => 1 << lane.index(),
                Err(_) if outbox.is_flooded() => FLOODED,
                Err(_) => 0,
            };
            self.queued.fetch_or(mark, Ordering::Release);
            pushed?;
        }
        self.calls.call();
        Ok(())
    }

    /// Takes the oldest messages of a lane to be written; see [`Outbox::take`].
    pub(super) fn take_outgoing(
        &self,
        lane: Lane,
        most: usize,
        small: usize,
        cover: &mut MemoryReservation,
    ) -> Taken {
        let taken = self.outbox.look(|outbox| {
            let taken = outbox.take(lane, most, small, cover);
            if outbox.is_empty(lane) {
                self.queued.fetch_and(!(1 << lane.index()), Ordering::Relaxed);
            }
            taken
        });
        taken.unwrap_or_default()
    }

    /// The peer cannot be told that its request has no answer.
    pub(super) fn keep_silent(&self) {
        self.silent.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    /// Whether answers had to be dropped because the peer asks and does not read.
    pub(super) fn is_flooded(&self) -> bool {
        self.queued.load(Ordering::Acquire) & FLOODED != 0
    }

    pub(super) fn has_outgoing(&self, lane: Lane) -> bool {
        self.queued.load(Ordering::Acquire) & 1 << lane.index() != 0
            && self.outbox.look(|outbox| !outbox.is_empty(lane)) == Some(true)
    }

    /// Whether there may be something to send that no log says: a message for this peer alone, a ping.
    pub(super) fn has_orders(&self) -> bool {
        self.queued.load(Ordering::Acquire) & !FLOODED != 0 || self.wants_ping()
    }

    /// Whether many requests of ours, each asked by a task of its own, await answers and the next ones wait to be sent, with
    /// nothing urgent among them.
    pub(super) fn is_asked_much(&self) -> bool {
        let queued = self.queued.load(Ordering::Acquire);
        // Most wake-ups have nothing queued, and take no lock here.
        let others = queued & 1 << Lane::Urgent.index() == 0 && queued & !FLOODED != 0;
        others && self.waiters.look(|waiters| waiters.alone() >= MANY) == Some(true)
    }

    /// A connection that is only kept alive holds nothing of what many never need. Not while a handler of a request is at work, answered
    /// or not: the numbers of requests start over.
    pub(super) fn forget(&self) {
        drop(self.rare.take_if(|rare| rare.is_idle()));
    }

    /// What waits in this connection.
    pub fn pending_counts(&self) -> PendingCounts {
        let (queued_messages, queued_bytes) = self.outbox.look(|outbox| outbox.waiting()).unwrap_or_default();
        let outbound_requests = self.waiters.look(|waiters| waiters.len()).unwrap_or_default();
        let inbound_requests = self.rare.look(|rare| rare.answering.all.len()).unwrap_or_default();
        PendingCounts { queued_messages, queued_bytes, outbound_requests, inbound_requests }
    }

    /// How the connection stands towards the broadcasts of a lane; `None` for the control lane.
    pub fn cursor_view(&self, lane: Lane) -> Option<CursorView> {
        Some(self.views.view(lane.index().checked_sub(1)?))
    }

    /// What has surely been written, as far as the cursors have said.
    pub(crate) fn resume_points(&self) -> ResumePoints {
        self.views.resume_points()
    }

    /// For how long written bytes have made no progress; zero while nothing waits to be written.
    pub fn stalled_for(&self, now: Tick) -> Duration {
        match self.stalled_since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => now.since(Tick::from_millis(since - 1)),
        }
    }

    /// Whether written bytes make no progress, however short a time. Cost: one load.
    pub fn is_stalled(&self) -> bool {
        self.stalled_since.load(Ordering::Relaxed) != 0
    }

    pub(super) fn write_progress(&self, waits_since: Option<Tick>) {
        let word = waits_since.map_or(0, |tick| tick.as_millis() + 1);
        self.stalled_since.store(word, Ordering::Relaxed);
    }

    pub(super) fn write_waits(&self, now: Tick) {
        if self.stalled_since.load(Ordering::Relaxed) == 0 {
            self.write_progress(Some(now));
        }
    }
}

/// What a connection's stream wakes. A task that something else woke need not ask its stream.
impl Wake for Connection {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.calls.stream();
    }
}

/// From so many requests in flight on, sending them together is worth a turn of waiting.
const MANY: usize = 4;
/// Answers had to be dropped; never cleared.
const FLOODED: u8 = 1 << 7;
pub(super) const OPEN: u8 = 0;
/// What was queued is still sent, and answers are still taken.
pub(super) const DRAINING: u8 = 1;
pub(super) const CLOSED: u8 = 2;

#[cfg(all(test, not(peerpool_loom)))]
mod tests;
