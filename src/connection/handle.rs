//! The part of a connection that others hold: its queues, its waiting requests, and the order to
//! close.
//!
//! A [`Connection`] and its [`ConnectionDriver`](super::ConnectionDriver) share one allocation.
//! Callers fill a queue under a short lock, set a bit and wake the driver, which does all reading
//! and writing. State that most connections never need is allocated when it is first used, so an
//! idle connection stays small.

use std::sync::Arc;
use std::task::Wake;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::base::{ConnId, Lane, Tick};
use crate::broadcast::{CursorStates, CursorView, ParkedWaker, ResumePoint};
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use crate::wire::{MessageHeader, Payload};

use super::budget::{MemoryAccount, MemoryOrigin, MemoryReservation};
use super::close::CloseOrder;
use super::lazy_box::LazyBox;
use super::message::{Message, SendError};
use super::ping::Pings;
use super::request::{InboundRequests, OutboundRequests};
use super::shared::ConnectionShared;
use super::wake_flag::WakeFlag;
use super::write::outbox::{Outbox, Outgoing, QueueBound, Rejected, TakenMessages};

/// From this number of requests in flight on, sending the next ones together is worth one turn of
/// waiting.
const BUSY_REQUESTERS: usize = 4;
/// Bit of `queued_lanes`: a response had to be dropped. Never cleared.
const FLOODED: u8 = 1 << 7;
/// Phases of a connection; they only move forward.
pub(super) const OPEN: u8 = 0;
/// Queued messages are still sent, and responses are still queued.
pub(super) const DRAINING: u8 = 1;
pub(super) const CLOSED: u8 = 2;

/// Where the cursors of a connection stand in the urgent, the normal and the bulk log.
pub type ResumePoints = [ResumePoint; 3];

/// The handle of one connection: sends, requests, pings and closes. The task that reads and writes
/// is a [`ConnectionDriver`](super::ConnectionDriver); both end together.
///
/// Invariant: `closed_connection_ends_at_once`
/// Statement: after [`Connection::close`] nothing more is queued, every waiting request fails at
/// once, and the task ends within [`ConnectionConfig::linger`](super::ConnectionConfig::linger).
/// Enforced by: one phase word that only moves forward. It is checked under the lock of the outbox
/// and of the request table before they are filled, and set before they are emptied.
/// Breaks if: a queue is filled without checking it.
#[derive(Debug)]
pub struct Connection {
    pub(super) shared: Arc<ConnectionShared>,
    /// Whose share of the memory it uses.
    origin: MemoryOrigin,
    pub(super) outbox: LazyBox<Outbox>,
    pub(super) outbound: LazyBox<OutboundRequests>,
    pub(super) rare: LazyBox<RareState>,
    /// Wakes the task for everything but its logs and its handlers.
    pub(super) wake: WakeFlag,
    /// Tick since which written bytes make no progress, plus one; zero while nothing waits to be
    /// written. A hint for the maintenance, which closes stalled connections.
    stalled_since: AtomicU64,
    cursors: Arc<CursorStates>,
    /// The authority on whether the connection is open; the details are in `rare`. It is read under
    /// a queue's lock before the queue is filled, and that lock is taken after it is set.
    pub(super) phase: AtomicU8,
    /// A bit for each lane whose outbox may hold something, and [`FLOODED`]. Written under the lock
    /// of the outbox. A hint: a task that is woken after a message was queued sees its bit.
    queued_lanes: AtomicU8,
    /// Control messages that the task is to send. Set under the lock of the pings, before the task
    /// is woken.
    pub(super) wanted_control: AtomicU8,
    /// Pings so far: the token of the next one.
    pub(super) ping_count: AtomicU32,
    /// The peer cannot be told that its request has no response. Written once, before the task
    /// starts.
    suppresses_declines: AtomicBool,
}

/// State that many connections never need.
#[derive(Debug, Default)]
pub(super) struct RareState {
    pub(super) close_order: Option<Box<CloseOrder>>,
    pub(super) pings: Pings,
    pub(super) inbound: InboundRequests,
    /// Where the cursors stood when the task ended, for a connection that replaces this one.
    pub(super) final_points: Option<Box<ResumePoints>>,
    /// The replacing connection, which waits for them.
    pub(super) successor: Option<oneshot::Sender<ResumePoints>>,
    /// Counts what the connection holds.
    pub(super) account: Option<Arc<MemoryAccount>>,
}

/// Messages and requests that wait in one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PendingCounts {
    /// Messages that wait to be sent to this peer alone.
    pub queued_messages: usize,
    /// Their bytes, with what each message costs beside its payload.
    pub queued_bytes: usize,
    /// Our requests that await a response.
    pub outbound_requests: usize,
    /// The peer's requests that are being handled.
    pub inbound_requests: usize,
}

impl RareState {
    fn is_idle(&self) -> bool {
        let Self { close_order, pings, inbound, final_points, successor, account } = self;
        let is_ending = close_order.is_some() || final_points.is_some() || successor.is_some();
        // Others hold the account while they hold memory.
        let holds_memory = account.as_ref().is_some_and(|account| Arc::strong_count(account) > 1);
        !is_ending && !holds_memory && pings.is_idle() && inbound.is_empty()
    }
}

impl Connection {
    pub(super) fn new(
        shared: Arc<ConnectionShared>,
        origin: MemoryOrigin,
        cursors: Arc<CursorStates>,
        task: Arc<ParkedWaker>,
    ) -> Arc<Self> {
        Arc::new(Self {
            shared,
            origin,
            outbox: LazyBox::new(),
            outbound: LazyBox::new(),
            rare: LazyBox::new(),
            wake: WakeFlag::new(task),
            stalled_since: AtomicU64::new(0),
            cursors,
            phase: AtomicU8::new(OPEN),
            queued_lanes: AtomicU8::new(0),
            wanted_control: AtomicU8::new(0),
            ping_count: AtomicU32::new(0),
            suppresses_declines: AtomicBool::new(false),
        })
    }

    /// The account of what this connection holds, opened if it held nothing.
    pub(super) fn memory_account(&self) -> Arc<MemoryAccount> {
        let mut rare = self.rare.lock();
        let open = || self.shared.budget.account(self.origin);
        Arc::clone(rare.account.get_or_insert_with(open))
    }

    /// What covers a reassembled payload from here on: the part of `cover`, which counted it so far,
    /// and what came in the present pass and is not counted yet. It is in memory already.
    pub(super) fn cover(
        &self,
        payload: &Payload<'_>,
        cover: Option<&mut MemoryReservation>,
    ) -> Option<MemoryReservation> {
        let Payload::Owned(bytes) = payload else { return None };
        let mut held = match cover {
            Some(cover) => cover.split(bytes.len()),
            None => MemoryReservation::empty(&self.memory_account()),
        };
        held.overdraw(bytes.len());
        Some(held)
    }

    /// Closes the account if nothing is held, and frees the rarely needed state of a connection that
    /// has had no other use for it.
    pub(super) fn release_account(&self) {
        let close = |rare: &mut RareState| {
            rare.account.take_if(|account| Arc::strong_count(account) == 1);
            // The numbers of requests must not start over while a handler runs.
            rare.is_idle() && rare.inbound.is_unused()
        };
        drop(self.rare.take_if(close));
    }

    /// The account of what this connection holds; `None` if it holds nothing.
    pub(crate) fn held_memory(&self) -> Option<Arc<MemoryAccount>> {
        self.rare.with(|rare| rare.account.clone()).flatten()
    }

    /// The connection's number.
    pub fn id(&self) -> ConnId {
        self.cursors.conn()
    }

    /// The name of its protocol.
    pub fn protocol(&self) -> &'static str {
        self.shared.protocol
    }

    /// Whether the connection accepts messages.
    pub fn is_open(&self) -> bool {
        // Acquire: pairs with the Release store of `begin_close`.
        self.phase.load(Ordering::Acquire) == OPEN
    }

    /// Queues a message for this peer alone. Never waits. Accepted means queued, not delivered.
    ///
    /// # Errors
    /// [`SendError::Full`], [`SendError::Closed`] or [`SendError::Refused`]; each contains the
    /// message.
    ///
    /// # Cost
    /// One short lock of this connection, no copy of the payload.
    pub fn send(&self, message: Message) -> Result<(), SendError> {
        let header = MessageHeader::Event { kind: message.kind };
        self.send_as(header, message)
    }

    /// Queues a message under another header.
    pub(super) fn send_as(&self, header: MessageHeader, message: Message) -> Result<(), SendError> {
        if !self.is_open() {
            return Err(SendError::Closed(message));
        }
        let Message { lane, kind, payload } = message;
        self.enqueue(lane, Outgoing { header, payload }, QueueBound::Normal).map_err(|(why, out)| {
            let message = Message { lane, kind, payload: out.payload };
            match why {
                Rejected::Full => SendError::Full(message),
                Rejected::Closed => SendError::Closed(message),
                Rejected::Refused(cause) => SendError::Refused { message, cause },
            }
        })
    }

    /// Queues a message and wakes the task. While the connection drains, responses still pass.
    pub(super) fn enqueue(
        &self,
        lane: Lane,
        outgoing: Outgoing,
        bound: QueueBound,
    ) -> Result<(), (Rejected, Outgoing)> {
        if let Err(cause) = self.shared.check(lane, &outgoing.header, outgoing.payload.len()) {
            return Err((Rejected::Refused(cause), outgoing));
        }
        {
            let mut outbox = self.outbox.lock_or(|| Outbox::new(&self.memory_account()));
            if self.phase.load(Ordering::Acquire) == CLOSED {
                return Err((Rejected::Closed, outgoing));
            }
            let pushed = outbox.push(lane, outgoing, &self.shared.config, bound);
            let bit = match &pushed {
                Ok(()) => 1 << lane.index(),
                Err(_) if outbox.is_flooded() => FLOODED,
                Err(_) => 0,
            };
            self.queued_lanes.fetch_or(bit, Ordering::Release);
            pushed?;
        }
        self.wake.notify();
        Ok(())
    }

    /// Takes the oldest messages of a lane to be written; see [`Outbox::take`].
    pub(super) fn take_outgoing(
        &self,
        lane: Lane,
        max_bytes: usize,
        small_bytes: usize,
        reservation: &mut MemoryReservation,
    ) -> TakenMessages {
        let take = |outbox: &mut Outbox| outbox.take(lane, max_bytes, small_bytes, reservation);
        self.remove_outgoing(lane, take).unwrap_or_default()
    }

    /// Takes back a request that has not begun to be sent.
    pub(super) fn retract(&self, lane: Lane, request: u32) -> Option<Outgoing> {
        self.remove_outgoing(lane, |outbox| outbox.retract(lane, request)).flatten()
    }

    /// Removes messages from the outbox, and clears the lane's bit if none is left.
    fn remove_outgoing<R>(&self, lane: Lane, remove: impl FnOnce(&mut Outbox) -> R) -> Option<R> {
        self.outbox.with(|outbox| {
            let removed = remove(outbox);
            if outbox.is_empty(lane) {
                self.queued_lanes.fetch_and(!(1 << lane.index()), Ordering::Relaxed);
            }
            removed
        })
    }

    /// From now on the peer is not told that a request of its has no response.
    pub(super) fn suppress_declines(&self) {
        self.suppresses_declines.store(true, Ordering::Relaxed);
    }

    pub(super) fn suppresses_declines(&self) -> bool {
        self.suppresses_declines.load(Ordering::Relaxed)
    }

    /// Whether a response had to be dropped because the peer sends requests and does not read.
    pub(super) fn is_flooded(&self) -> bool {
        self.queued_lanes.load(Ordering::Acquire) & FLOODED != 0
    }

    pub(super) fn has_outgoing(&self, lane: Lane) -> bool {
        self.queued_lanes.load(Ordering::Acquire) & 1 << lane.index() != 0
            && self.outbox.with(|outbox| !outbox.is_empty(lane)) == Some(true)
    }

    /// Whether there may be something to send that comes from no log: a message for this peer
    /// alone, or a ping.
    pub(super) fn has_direct_output(&self) -> bool {
        self.queued_lanes.load(Ordering::Acquire) & !FLOODED != 0 || self.wants_ping()
    }

    /// Whether several tasks each await the response to one request, and their next requests wait
    /// to be sent, with nothing urgent among them.
    pub(super) fn has_busy_requesters(&self) -> bool {
        let queued = self.queued_lanes.load(Ordering::Acquire);
        // Most wake-ups have nothing queued, and take no lock here.
        let only_others = queued & 1 << Lane::Urgent.index() == 0 && queued & !FLOODED != 0;
        only_others && self.outbound.with(|outbound| outbound.single_requests() >= BUSY_REQUESTERS) == Some(true)
    }

    /// Frees the rarely needed state of a connection that is only kept alive. Must not be called
    /// while a request's handler runs, responded or not: the numbers of requests start over.
    pub(super) fn drop_idle_state(&self) {
        drop(self.rare.take_if(|rare| rare.is_idle()));
    }

    /// What waits in this connection.
    pub fn pending_counts(&self) -> PendingCounts {
        let (queued_messages, queued_bytes) = self.outbox.with(|outbox| outbox.totals()).unwrap_or_default();
        let outbound_requests = self.outbound.with(|outbound| outbound.len()).unwrap_or_default();
        let inbound_requests = self.rare.with(|rare| rare.inbound.len()).unwrap_or_default();
        PendingCounts { queued_messages, queued_bytes, outbound_requests, inbound_requests }
    }

    /// How far this connection is in the broadcasts of a lane; `None` for the control lane.
    pub fn cursor_view(&self, lane: Lane) -> Option<CursorView> {
        Some(self.cursors.view(lane.index().checked_sub(1)?))
    }

    /// What has certainly been written, as far as the cursors have published it.
    pub(crate) fn resume_points(&self) -> ResumePoints {
        self.cursors.resume_points()
    }

    /// How long written bytes have made no progress; zero while nothing waits to be written.
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

    /// Bytes made progress, or nothing waits to be written.
    pub(super) fn write_progressed(&self) {
        self.stalled_since.store(0, Ordering::Relaxed);
    }

    /// Bytes wait to be written. The stall counts from the first call, or from the last one before
    /// which the peer had taken bytes fast enough: `taken` since the stall began. Returns whether it
    /// begins now.
    pub(super) fn write_blocked(&self, now: Tick, taken: u64) -> bool {
        let since = self.stalled_since.load(Ordering::Relaxed);
        let wanted = now.since(Tick::from_millis(since.saturating_sub(1))).as_millis() as u64
            * self.shared.config.min_progress as u64
            / 1000;
        let begins = since == 0 || taken >= wanted.max(1);
        if begins {
            self.stalled_since.store(now.as_millis() + 1, Ordering::Relaxed);
        }
        begins
    }
}

/// What a connection's stream wakes. A task that something else woke need not poll its stream.
impl Wake for Connection {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake.notify_io();
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests;
