//! Received messages on their way through the handler: events one at a time in arrival order,
//! requests beside them.
//!
//! Invariant: `reader_never_waits_for_a_handler`
//! Statement: the reader does not stop for a handler while the inbox has room.
//! Enforced by: a message that arrives while the handler is busy is queued here. Only a full queue
//! makes [`Inbox::is_full`] true, and nothing else pauses reading.
//! Breaks if: the reader awaits a handler's future.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};

use bytes::Bytes;

use crate::base::Lane;
use crate::connection::budget::MemoryReservation;
use crate::connection::close_reason::CloseReason;
use crate::connection::config::ConnectionConfig;
use crate::connection::handle::Connection;
use crate::connection::handler::ConnectionHandler;
use crate::connection::message::{Event, Handled, Request};
use crate::connection::request::{Admission, Responder};
use crate::sync::TaskWaker;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::wire::Payload;

thread_local! {
    /// The memory of the connection of this thread whose inbox became idle last.
    static CACHE: Cell<Option<Box<InboxState>>> = const { Cell::new(None) };
}

type HandlerFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A handler's future, and what covers the payload that it was given.
struct Running {
    future: HandlerFuture,
    _payload: Option<MemoryReservation>,
}

/// The bounded inbox of one connection, and the handlers that run on its messages. An idle inbox
/// holds no memory.
#[derive(Default)]
pub(in crate::connection) struct Inbox(Option<Box<InboxState>>);

#[derive(Default)]
struct InboxState {
    events: VecDeque<QueuedMessage>,
    /// By the peer's request id.
    requests: VecDeque<(u32, QueuedMessage)>,
    /// Payload bytes of both queues.
    bytes: usize,
    /// Covers `bytes`. `None` before the first message had to wait.
    reservation: Option<MemoryReservation>,
    event_future: Option<Running>,
    /// By the number of the request; see [`Admission::Accepted`].
    request_futures: Vec<(u32, Running)>,
    waker: Option<Arc<HandlerWaker>>,
}

struct QueuedMessage {
    lane: Lane,
    kind: u16,
    payload: Bytes,
}

/// A request that was admitted.
#[derive(Clone, Copy)]
struct AdmittedRequest {
    /// The peer's id. The peer may use it again.
    id: u32,
    /// Our number, which is unique while a handler runs.
    number: u32,
}

/// Distinguishes a wake-up of a handler's future from one of the socket, so that idle futures are
/// not polled for every frame.
#[derive(Default)]
struct HandlerWaker {
    is_woken: AtomicBool,
    task: TaskWaker,
}

impl Wake for HandlerWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Release: the poll sees what was done before the wake-up. Pairs with the Acquire swap in
        // `poll_handlers`.
        self.is_woken.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl Inbox {
    /// Gives an event to the handler at once if nothing is before it, and queues it otherwise.
    /// `cover` counts the memory of a payload that was reassembled.
    pub(in crate::connection) fn push_event<H: ConnectionHandler>(
        &mut self,
        handler: &H,
        connection: &Connection,
        event: Event<'_>,
        cover: Option<&mut MemoryReservation>,
    ) -> Result<(), CloseReason> {
        if let Some(state) = &mut self.0
            && (state.event_future.is_some() || !state.events.is_empty())
        {
            let Event { lane, kind, payload } = event;
            let payload = state.keep(payload, connection, cover)?;
            state.events.push_back(QueuedMessage { lane, kind, payload });
            return Ok(());
        }
        let held = connection.cover(&event.payload, cover);
        self.start_event(handler, event, held);
        Ok(())
    }

    /// `held` covers the payload until the handler's call, or its future, has ended.
    fn start_event<H: ConnectionHandler>(
        &mut self,
        handler: &H,
        event: Event<'_>,
        held: Option<MemoryReservation>,
    ) {
        if let Some(Handled::Later(future)) = catch_panic(handler, || handler.on_event(event)) {
            let state = self.state();
            state.event_future = Some(Running { future, _payload: held });
            state.wake_handlers();
        }
    }

    /// Gives a request to the handler at once if fewer than the bound are being handled, and queues
    /// it otherwise. Handlers that go on after they responded count too. In a protocol without ids
    /// the id is the request's slot: requests of one slot are answered in their order, so one at a
    /// time.
    pub(in crate::connection) fn push_request<H: ConnectionHandler>(
        &mut self,
        handler: &H,
        connection: &Arc<Connection>,
        id: u32,
        request: Request<'_>,
        cover: Option<&mut MemoryReservation>,
    ) -> Result<(), CloseReason> {
        let max = connection.shared.max_inbound_requests();
        let (is_queued, is_next, running) = self.0.as_ref().map_or((false, true, 0), |state| {
            let is_queued = state.requests.iter().any(|(queued, _)| *queued == id);
            let all_blocked = || state.requests.iter().all(|(queued, _)| connection.is_handling(*queued));
            (is_queued, !is_queued && all_blocked(), state.request_futures.len())
        });
        let admission = match is_next && running < max {
            true => connection.admit_request(id, max),
            false if is_queued || connection.is_handling(id) => Admission::DuplicateId,
            false => Admission::TooMany,
        };
        match admission {
            Admission::Accepted(number) => {
                let admitted = AdmittedRequest { id, number };
                let held = connection.cover(&request.payload, cover);
                self.start_request(handler, connection, admitted, request, held);
                return Ok(());
            }
            // Where the id is a slot, this is another request, which waits for its turn.
            Admission::DuplicateId if connection.shared.reply_matcher.is_none() => {
                return Err(CloseReason::DuplicateRequestId(id));
            }
            Admission::DuplicateId | Admission::TooMany => {}
        }
        let Request { lane, kind, payload } = request;
        let state = self.state();
        let payload = state.keep(payload, connection, cover)?;
        state.requests.push_back((id, QueuedMessage { lane, kind, payload }));
        Ok(())
    }

    fn start_request<H: ConnectionHandler>(
        &mut self,
        handler: &H,
        connection: &Arc<Connection>,
        AdmittedRequest { id, number }: AdmittedRequest,
        request: Request<'_>,
        held: Option<MemoryReservation>,
    ) {
        let responder = Responder::new(Arc::clone(connection), id, number, request.lane);
        if let Some(Handled::Later(future)) = catch_panic(handler, || handler.on_request(request, responder)) {
            let state = self.state();
            state.request_futures.push((number, Running { future, _payload: held }));
            state.wake_handlers();
        }
    }

    /// The peer no longer wants this response.
    pub(in crate::connection) fn cancel(&mut self, connection: &Connection, request: u32) {
        if let Some(state) = &mut self.0
            && let Some(at) = state.requests.iter().position(|(id, _)| *id == request)
            && let Some((_, queued)) = state.requests.remove(at)
        {
            state.release(queued.payload.len());
        }
        if let Some(cancelled) = connection.cancel_inbound(request)
            && let Some(state) = &mut self.0
        {
            // A handler that has responded is not stopped in what it does afterwards: the cancel
            // crossed its response.
            state.request_futures.retain(|(number, _)| *number != cancelled);
        }
    }

    /// Whether a request's future runs, responded or not. It is identified by the request's number.
    pub(in crate::connection) fn runs_requests(&self) -> bool {
        self.0.as_ref().is_some_and(|state| !state.request_futures.is_empty())
    }

    /// Polls the futures that were woken and starts what can start. `true` if anything moved.
    pub(in crate::connection) fn poll<H: ConnectionHandler>(
        &mut self,
        handler: &H,
        connection: &Arc<Connection>,
        cx: &mut Context<'_>,
    ) -> bool {
        if self.0.is_none() {
            return false;
        }
        let mut moved = self.state().poll_handlers(handler, cx);
        while let Some((QueuedMessage { lane, kind, payload }, held)) = self.state().next_event() {
            self.start_event(handler, Event { lane, kind, payload: Payload::Owned(payload) }, held);
            moved = true;
        }
        while let Some((admitted, queued, held)) = self.state().next_request(connection) {
            let QueuedMessage { lane, kind, payload } = queued;
            let request = Request { lane, kind, payload: Payload::Owned(payload) };
            self.start_request(handler, connection, admitted, request, held);
            moved = true;
        }
        if moved {
            // Futures that have just started need their first poll.
            moved |= self.state().poll_handlers(handler, cx);
        }
        self.release_if_idle();
        moved
    }

    /// Whether reading must pause.
    pub(in crate::connection) fn is_full(&self, config: &ConnectionConfig) -> bool {
        self.0.as_ref().is_some_and(|state| {
            state.queued() >= config.inbox_messages
                || state.bytes >= config.inbox_bytes
                || state.bytes > state.reserved()
        })
    }

    /// Whether there is enough room to resume reading: half of the bounds, so that it does not
    /// pause again at once.
    pub(in crate::connection) fn has_room(&self, config: &ConnectionConfig) -> bool {
        self.0.as_ref().is_none_or(|state| {
            state.queued() <= config.inbox_messages / 2
                && state.bytes <= config.inbox_bytes / 2
                && state.bytes <= state.reserved()
        })
    }

    fn state(&mut self) -> &mut InboxState {
        self.0.get_or_insert_with(|| CACHE.try_with(Cell::take).ok().flatten().unwrap_or_default())
    }

    /// Gives the memory of an idle inbox to the thread's cache.
    fn release_if_idle(&mut self) {
        let Some(mut state) = self.0.take_if(|state| state.is_idle()) else { return };
        (state.reservation, state.waker) = (None, None);
        // A thread that is ending has no cache any more.
        let _ = CACHE.try_with(|cache| cache.set(Some(state)));
    }
}

impl InboxState {
    fn queued(&self) -> usize {
        self.events.len() + self.requests.len()
    }

    fn next_event(&mut self) -> Option<(QueuedMessage, Option<MemoryReservation>)> {
        if self.event_future.is_some() {
            return None;
        }
        let queued = self.events.pop_front()?;
        let held = self.release_to_handler(queued.payload.len());
        Some((queued, held))
    }

    fn next_request(
        &mut self,
        connection: &Connection,
    ) -> Option<(AdmittedRequest, QueuedMessage, Option<MemoryReservation>)> {
        let max = connection.shared.max_inbound_requests();
        if self.request_futures.len() >= max {
            return None;
        }
        let at = self.requests.iter().position(|(id, _)| !connection.is_handling(*id))?;
        let Admission::Accepted(number) = connection.admit_request(self.requests[at].0, max) else {
            return None;
        };
        let (id, queued) = self.requests.remove(at)?;
        let held = self.release_to_handler(queued.payload.len());
        Some((AdmittedRequest { id, number }, queued, held))
    }

    fn poll_handlers<H: ConnectionHandler>(&mut self, handler: &H, cx: &mut Context<'_>) -> bool {
        let Some(waker) = &self.waker else { return false };
        waker.task.register(cx.waker());
        // Acquire: pairs with the Release store of `HandlerWaker::wake_by_ref`.
        if !waker.is_woken.swap(false, Ordering::Acquire) {
            return false;
        }
        let waker = Waker::from(Arc::clone(waker));
        let mut handler_cx = Context::from_waker(&waker);
        // A future that panicked is over.
        let mut is_over = |running: &mut Running| {
            let future = &mut running.future;
            catch_panic(handler, || future.as_mut().poll(&mut handler_cx)).is_none_or(|poll| poll.is_ready())
        };
        let mut moved = false;
        if let Some(future) = &mut self.event_future
            && is_over(future)
        {
            self.event_future = None;
            moved = true;
        }
        let before = self.request_futures.len();
        let mut at = 0;
        while let Some((_, future)) = self.request_futures.get_mut(at) {
            if is_over(future) {
                drop(self.request_futures.swap_remove(at));
            } else {
                at += 1;
            }
        }
        moved |= self.request_futures.len() != before;
        if self.event_future.is_none() && self.request_futures.is_empty() {
            self.waker = None;
        }
        moved
    }

    /// Makes the next [`Self::poll_handlers`] poll all futures.
    fn wake_handlers(&mut self) {
        self.waker.get_or_insert_default().is_woken.store(true, Ordering::Release);
    }

    fn reserved(&self) -> usize {
        self.reservation.as_ref().map_or(0, MemoryReservation::bytes)
    }

    fn is_idle(&self) -> bool {
        self.queued() == 0 && self.event_future.is_none() && self.request_futures.is_empty()
    }

    /// Copies the payload of a message that waits out of the read buffer. Where the ceiling does
    /// not cover it, it is kept all the same (it is in memory already, and it is one at most) and
    /// the inbox counts as full. A message of many frames is refused then: it is more than a pause
    /// costs.
    fn keep(
        &mut self,
        payload: Payload<'_>,
        connection: &Connection,
        cover: Option<&mut MemoryReservation>,
    ) -> Result<Bytes, CloseReason> {
        self.bytes += payload.len();
        let reservation =
            self.reservation.get_or_insert_with(|| MemoryReservation::empty(&connection.memory_account()));
        // So that the payload is counted exactly once.
        if let (Payload::Owned(bytes), Some(cover)) = (&payload, cover) {
            cover.give(bytes.len(), reservation);
        }
        let max_uncovered = 2 * connection.shared.limits.window;
        if !reservation.resize(self.bytes) && self.bytes - reservation.bytes() > max_uncovered {
            return Err(CloseReason::MemoryCeiling);
        }
        Ok(payload.into_bytes())
    }

    /// Takes a message out of the queues. What covers it goes on covering it.
    fn release_to_handler(&mut self, bytes: usize) -> Option<MemoryReservation> {
        let held = self.reservation.as_mut().map(|reservation| reservation.split(bytes));
        self.release(bytes);
        held
    }

    fn release(&mut self, bytes: usize) {
        self.bytes -= bytes;
        if let Some(reservation) = &mut self.reservation {
            // Never more than there is: that would be another request for memory.
            reservation.resize(self.bytes.min(reservation.bytes()));
        }
        if self.queued() == 0 {
            self.events = VecDeque::new();
            self.requests = VecDeque::new();
        }
    }
}

/// Runs the application's code; `None` if it panicked.
///
/// Invariant: `panic_costs_one_call`.
/// - Statement: a panic in a handler ends the call that panicked: a request fails at its asker.
///   Other calls and the connection go on.
/// - Enforced by: every call and every poll is guarded here. Nothing of ours is borrowed by them,
///   and the responder, dropped by the panic, answers [`Status::Failed`](crate::wire::Status).
/// - Breaks if: the application's code runs without this guard.
fn catch_panic<H: ConnectionHandler, R>(handler: &H, run: impl FnOnce() -> R) -> Option<R> {
    let result = catch_unwind(AssertUnwindSafe(run));
    if result.is_err() {
        handler.on_panic();
    }
    result.ok()
}
