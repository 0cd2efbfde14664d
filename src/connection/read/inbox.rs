//! Received messages on their way through the handler: events one at a time in arrival order, requests beside them.
//!
//! Invariant 38. Statement: the reader never stops for a handler while the inbox has room. Enforced by: a message that
//! finds the handler busy is queued here, and only a full queue makes [`Inbox::is_full`] true, which alone pauses
//! reading. Breaks if: the reader awaits a handler's future.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;

use crate::base::Lane;
use crate::sync::TaskWaker;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::wire::Payload;

use crate::connection::budget::MemoryReservation;
use crate::connection::close_reason::CloseReason;
use crate::connection::config::ConnectionConfig;
use crate::connection::handle::Connection;
use crate::connection::handler::ConnectionHandler;
use crate::connection::message::{Event, Handled, Request};
use crate::connection::request::Begun;
use crate::connection::request::Responder;

/// A handler panicked.
#[derive(Debug)]
pub(in crate::connection) struct Panicked;

type Rest = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Queued {
    lane: Lane,
    kind: u16,
    payload: Bytes,
}

/// The bounded inbox of one connection, and the handlers that are at work on it. One in which nothing waits holds nothing.
#[derive(Default)]
pub(in crate::connection) struct Inbox(Option<Box<Work>>);

/// What waits, and who is at work.
#[derive(Default)]
struct Work {
    events: VecDeque<Queued>,
    requests: VecDeque<(u32, Queued)>,
    bytes: usize,
    /// Covers `bytes`. None where nothing had to wait yet.
    held: Option<MemoryReservation>,
    event: Option<Rest>,
    /// By the request's number.
    answers: Vec<(u32, Rest)>,
    alarm: Option<Arc<Alarm>>,
}

/// Tells a wake-up of a handler's future from one of the socket, so that idle futures are not polled for every frame.
#[derive(Default)]
struct Alarm {
    rung: AtomicBool,
    task: TaskWaker,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Release: what the waker did is seen by the poll. Pairs with the Acquire swap in `Inbox::poll`.
        self.rung.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl Inbox {
    /// Hands an event over at once if nothing is before it, and queues it otherwise. `cover` counts the memory of a payload
    /// that was put together.
    pub(in crate::connection) fn event<H: ConnectionHandler>(
        &mut self,
        handler: &H,
        connection: &Connection,
        (lane, kind, payload): (Lane, u16, Payload<'_>),
        cover: Option<&mut MemoryReservation>,
    ) -> Result<(), CloseReason> {
        if let Some(work) = &mut self.0
            && (work.event.is_some() || !work.events.is_empty())
        {
            let payload = work.keep(payload, connection, cover)?;
            work.events.push_back(Queued { lane, kind, payload });
            return Ok(());
        }
        Ok(self.start_event(handler, Event { lane, kind, payload })?)
    }

    fn start_event<H: ConnectionHandler>(&mut self, handler: &H, event: Event<'_>) -> Result<(), Panicked> {
        match guarded(|| handler.on_event(event))? {
            Handled::Done => {}
            Handled::Later(rest) => {
                let work = self.work();
                work.event = Some(rest);
                work.ring();
            }
        }
        Ok(())
    }

    /// Hands a request over at once if fewer than the bound are being handled (unanswered ones, and those that go on after they
    /// answered), and queues it otherwise. In a protocol without ids its id is its place: requests of one place are answered in
    /// their order, so one at a time.
    pub(in crate::connection) fn request<H: ConnectionHandler>(
        &mut self,
        handler: &H,
        connection: &Arc<Connection>,
        id: u32,
        (lane, kind, payload): (Lane, u16, Payload<'_>),
        cover: Option<&mut MemoryReservation>,
    ) -> Result<(), CloseReason> {
        let most = connection.shared.requests();
        let (waits, first, at_work) = self.0.as_ref().map_or((false, true, 0), |work| {
            let waits = work.requests.iter().any(|(before, _)| *before == id);
            let first = !waits && work.requests.iter().all(|(before, _)| connection.is_answering(*before));
            (waits, first, work.answers.len())
        });
        let begun = match first && at_work < most {
            true => connection.begin_answer(id, most),
            false if waits || connection.is_answering(id) => Begun::Twice,
            false => Begun::TooMany,
        };
        match begun {
            Begun::Now(number) => {
                return Ok(self.start_request(
                    handler,
                    connection,
                    (id, number),
                    Request { lane, kind, payload },
                )?);
            }
            // Where its id is its place it is another one, which waits for its turn.
            Begun::Twice if connection.shared.reply_matcher.is_none() => {
                return Err(CloseReason::RequestTwice(id));
            }
            Begun::Twice | Begun::TooMany => {}
        }
        let work = self.work();
        let payload = work.keep(payload, connection, cover)?;
        work.requests.push_back((id, Queued { lane, kind, payload }));
        Ok(())
    }

    /// Starts one that [`Connection::begin_answer`] let begin.
    fn start_request<H: ConnectionHandler>(
        &mut self,
        handler: &H,
        connection: &Arc<Connection>,
        (id, number): (u32, u32),
        request: Request<'_>,
    ) -> Result<(), Panicked> {
        let responder = Responder::new(Arc::clone(connection), id, number, request.lane);
        match guarded(|| handler.on_request(request, responder))? {
            Handled::Done => {}
            Handled::Later(rest) => {
                let work = self.work();
                work.answers.push((number, rest));
                work.ring();
            }
        }
        Ok(())
    }

    /// The peer no longer wants this answer.
    pub(in crate::connection) fn cancel(&mut self, connection: &Connection, request: u32) {
        if let Some(work) = &mut self.0
            && let Some(at) = work.requests.iter().position(|(id, _)| *id == request)
            && let Some((_, queued)) = work.requests.remove(at)
        {
            work.give_back(queued.payload.len());
        }
        if let Some(cancelled) = connection.cancel_answer(request)
            && let Some(work) = &mut self.0
        {
            // One that had answered is not stopped in what it does afterwards: the cancel crossed its answer.
            work.answers.retain(|(number, _)| *number != cancelled);
        }
    }

    /// Whether a handler of a request is at work, answered or not: it is known by the request's number.
    pub(in crate::connection) fn has_numbers(&self) -> bool {
        self.0.as_ref().is_some_and(|work| !work.answers.is_empty())
    }

    /// Polls the handlers that asked for it and starts what can start. `true` if anything moved.
    pub(in crate::connection) fn poll<H: ConnectionHandler>(
        &mut self,
        handler: &H,
        connection: &Arc<Connection>,
        cx: &mut Context<'_>,
    ) -> Result<bool, Panicked> {
        if self.0.is_none() {
            return Ok(false);
        }
        let mut moved = self.work().poll_handlers(cx)?;
        while let Some(Queued { lane, kind, payload }) = self.work().next_event() {
            self.start_event(handler, Event { lane, kind, payload: Payload::Owned(payload) })?;
            moved = true;
        }
        while let Some((begun, Queued { lane, kind, payload })) = self.work().next_request(connection) {
            self.start_request(
                handler,
                connection,
                begun,
                Request { lane, kind, payload: Payload::Owned(payload) },
            )?;
            moved = true;
        }
        if moved {
            // What has just started wants its first poll.
            moved |= self.work().poll_handlers(cx)?;
        }
        self.rest();
        Ok(moved)
    }

    /// Whether reading must pause.
    pub(in crate::connection) fn is_full(&self, config: &ConnectionConfig) -> bool {
        self.0.as_ref().is_some_and(|work| {
            work.events.len() + work.requests.len() >= config.inbox_messages
                || work.bytes >= config.inbox_bytes
                || work.bytes > work.covered()
        })
    }

    /// Whether there is room enough again to go on reading: half of the bounds, so that it does not stop at once.
    pub(in crate::connection) fn has_room(&self, config: &ConnectionConfig) -> bool {
        self.0.as_ref().is_none_or(|work| {
            work.events.len() + work.requests.len() <= config.inbox_messages / 2
                && work.bytes <= config.inbox_bytes / 2
                && work.bytes <= work.covered()
        })
    }

    fn work(&mut self) -> &mut Work {
        self.0.get_or_insert_with(|| SPARE.try_with(Cell::take).ok().flatten().unwrap_or_default())
    }

    /// Where nothing waits any more and nobody is at work, the memory goes back to the thread, for the next connection.
    fn rest(&mut self) {
        let Some(mut work) = self.0.take_if(|work| work.is_idle()) else { return };
        (work.held, work.alarm) = (None, None);
        // A thread that is ending has no place for it any more.
        let _ = SPARE.try_with(|spare| spare.set(Some(work)));
    }
}

impl Work {
    fn next_event(&mut self) -> Option<Queued> {
        if self.event.is_some() {
            return None;
        }
        let queued = self.events.pop_front()?;
        self.give_back(queued.payload.len());
        Some(queued)
    }

    /// One that [`Connection::begin_answer`] let begin.
    fn next_request(&mut self, connection: &Connection) -> Option<((u32, u32), Queued)> {
        let most = connection.shared.requests();
        if self.answers.len() >= most {
            return None;
        }
        let at = self.requests.iter().position(|(id, _)| !connection.is_answering(*id))?;
        let Begun::Now(number) = connection.begin_answer(self.requests[at].0, most) else { return None };
        let (id, queued) = self.requests.remove(at)?;
        self.give_back(queued.payload.len());
        Some(((id, number), queued))
    }

    fn poll_handlers(&mut self, cx: &mut Context<'_>) -> Result<bool, Panicked> {
        let Some(alarm) = &self.alarm else { return Ok(false) };
        alarm.task.register(cx.waker());
        // Acquire: pairs with the Release store of `Alarm::wake_by_ref`.
        if !alarm.rung.swap(false, Ordering::Acquire) {
            return Ok(false);
        }
        let waker = Waker::from(Arc::clone(alarm));
        let mut inner = Context::from_waker(&waker);
        let mut moved = false;
        if let Some(rest) = &mut self.event
            && guarded(|| rest.as_mut().poll(&mut inner))?.is_ready()
        {
            self.event = None;
            moved = true;
        }
        let before = self.answers.len();
        let mut at = 0;
        while let Some((_, rest)) = self.answers.get_mut(at) {
            match guarded(|| rest.as_mut().poll(&mut inner))? {
                Poll::Ready(()) => drop(self.answers.swap_remove(at)),
                Poll::Pending => at += 1,
            }
        }
        moved |= self.answers.len() != before;
        if self.event.is_none() && self.answers.is_empty() {
            self.alarm = None;
        }
        Ok(moved)
    }

    fn ring(&mut self) {
        self.alarm.get_or_insert_default().rung.store(true, Ordering::Release);
    }

    fn covered(&self) -> usize {
        self.held.as_ref().map_or(0, MemoryReservation::bytes)
    }

    fn is_idle(&self) -> bool {
        self.events.is_empty() && self.requests.is_empty() && self.event.is_none() && self.answers.is_empty()
    }

    /// A message that waits is copied out of the read buffer. Where the ceiling does not cover it, it is kept all the same
    /// (it is here already, at most one) and the inbox counts as full; but not one of many frames, which is more than a pause costs.
    fn keep(
        &mut self,
        payload: Payload<'_>,
        connection: &Connection,
        cover: Option<&mut MemoryReservation>,
    ) -> Result<Bytes, CloseReason> {
        self.bytes += payload.len();
        let held = self.held.get_or_insert_with(|| MemoryReservation::empty(&connection.shared.budget));
        // So that it is neither counted twice nor not at all.
        if let (Payload::Owned(bytes), Some(cover)) = (&payload, cover) {
            cover.give(bytes.len(), held);
        }
        if !held.resize(self.bytes) && self.bytes - held.bytes() > 2 * connection.shared.limits.window {
            return Err(CloseReason::Ceiling);
        }
        Ok(payload.into_bytes())
    }

    fn give_back(&mut self, bytes: usize) {
        self.bytes -= bytes;
        if let Some(held) = &mut self.held {
            held.resize(self.bytes);
        }
        if self.events.is_empty() && self.requests.is_empty() {
            self.events = VecDeque::new();
            self.requests = VecDeque::new();
        }
    }
}

thread_local! {
    /// Of whichever connection of this thread came to rest last.
    static SPARE: Cell<Option<Box<Work>>> = const { Cell::new(None) };
}

/// Runs code that is not ours.
fn guarded<R>(run: impl FnOnce() -> R) -> Result<R, Panicked> {
    // The connection ends after a panic: nothing that was left in between is used again.
    catch_unwind(AssertUnwindSafe(run)).map_err(|_| Panicked)
}
