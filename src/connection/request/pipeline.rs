//! Many requests in flight to one peer, sent and awaited by one task.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::base::{Lane, MAX_WAIT};
use crate::connection::handle::Connection;
use crate::connection::message::{Message, RequestError, Response, SendError};
use crate::sync::{Mutex, TaskWaker};
use crate::wire::{EncodeError, MessageHeader};

use super::RequestResult;
use super::outbound_requests::RegisterError;

/// Groups that the timeout is divided into. A request's deadline is that of the last request of its
/// group.
const GROUPS_PER_TIMEOUT: u32 = 32;

/// Keeps many requests to one peer in flight from one task, which sends without waiting and takes
/// responses as they arrive.
///
/// [`Connection::request`] gives every request a future, a channel and a timer of its own. Here
/// they share one of each, and responses that arrived together are taken together. That costs about
/// half where many small requests are in flight, as in fetching a range of blocks.
///
/// # Cancel safety
/// Dropping it takes back what was not sent, and cancels at the peer what was.
pub struct RequestPipeline {
    connection: Arc<Connection>,
    within: Duration,
    arrivals: Arc<Arrivals>,
    /// Taken from `arrivals` and not returned yet.
    taken: VecDeque<Arrival>,
    /// When they were taken. What had arrived by then is among them.
    taken_at: Instant,
    /// Requests in flight, each in the slot that its entry names.
    in_flight: Vec<Option<InFlight>>,
    free_slots: Vec<u32>,
    /// The number of the next request.
    next_number: u64,
    /// Groups of requests with their deadlines, oldest first.
    groups: VecDeque<Group>,
    timer: Option<Pin<Box<Sleep>>>,
}

/// A request in flight.
#[derive(Clone, Copy)]
struct InFlight {
    number: u64,
    id: u32,
    lane: Lane,
}

/// Requests that time out together.
struct Group {
    /// The requests with numbers below this one.
    before: u64,
    /// Until then other requests may join.
    open_until: Instant,
    deadline: Instant,
}

/// Responses on their way from the connection's task to a pipeline.
#[derive(Debug)]
struct Arrivals {
    queue: Mutex<VecDeque<Arrival>>,
    /// Woken when the first of several responses arrives: a task that takes one takes all.
    task: TaskWaker,
}

#[derive(Debug)]
struct Arrival {
    slot: u32,
    number: u64,
    /// `None` if the connection ended first.
    result: Option<RequestResult>,
}

/// The entry of one request of a pipeline in the request table. Dropping an armed entry reports
/// that no response will come.
pub(super) struct PipelineEntry {
    arrivals: Arc<Arrivals>,
    slot: u32,
    number: u64,
    /// It is in the table: its end is reported.
    is_armed: bool,
}

impl PipelineEntry {
    /// Hands the response over. Cost: one short lock; a wake-up for the first of several.
    pub(super) fn complete(mut self, result: RequestResult) {
        self.is_armed = false;
        self.report(Some(result));
    }

    /// In the table from here on.
    pub(super) fn arm(mut self) -> Self {
        self.is_armed = true;
        self
    }

    /// Out of the table before the request was sent.
    pub(super) fn disarm(mut self) {
        self.is_armed = false;
    }

    fn report(&self, result: Option<RequestResult>) {
        let is_first = {
            let mut queue = self.arrivals.queue.lock();
            queue.push_back(Arrival { slot: self.slot, number: self.number, result });
            queue.len() == 1
        };
        if is_first {
            self.arrivals.task.wake();
        }
    }
}

impl Drop for PipelineEntry {
    fn drop(&mut self) {
        if self.is_armed {
            self.report(None);
        }
    }
}

impl fmt::Debug for PipelineEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipelineEntry").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Connection {
    /// Creates a pipeline of requests to this peer, each to be answered `within` that time.
    pub fn pipeline(self: &Arc<Self>, within: Duration) -> RequestPipeline {
        RequestPipeline {
            connection: Arc::clone(self),
            within,
            arrivals: Arc::new(Arrivals { queue: Mutex::new(VecDeque::new()), task: TaskWaker::new() }),
            taken: VecDeque::new(),
            taken_at: Instant::now(),
            in_flight: Vec::new(),
            free_slots: Vec::new(),
            next_number: 0,
            groups: VecDeque::new(),
            timer: None,
        }
    }
}

impl RequestPipeline {
    /// Sends one more request, without waiting, and returns its number. Numbers count from zero in
    /// sending order.
    ///
    /// # Errors
    /// See [`RequestError`]; it contains the message.
    /// - [`RequestError::TooMany`] if
    ///   [`ConnectionConfig::max_outbound_requests`](crate::connection::ConnectionConfig::max_outbound_requests)
    ///   of all callers are in flight to this peer. [`RequestPipeline::next`] frees one.
    /// - [`SendError::Full`] if the peer's queue is full; the same helps.
    /// - [`SendError::Refused`] in a protocol without ids, which only [`Connection::request`]
    ///   supports.
    ///
    /// # Cost
    /// Two short locks, no copy of the payload; neither clock nor timer.
    pub fn send(&mut self, message: Message) -> Result<u64, RequestError> {
        let (lane, kind, number) = (message.lane, message.kind, self.next_number);
        let slot = self.free_slots.last().copied().unwrap_or(self.in_flight.len() as u32);
        let entry = PipelineEntry { arrivals: Arc::clone(&self.arrivals), slot, number, is_armed: false };
        let id = match self.connection.register_pipelined(entry) {
            Ok(id) => id,
            Err(RegisterError::Closed) => return Err(SendError::Closed(message).into()),
            Err(RegisterError::TooMany { .. }) => return Err(RequestError::TooMany(message)),
            Err(_) => {
                let cause = EncodeError::Unsupported { what: "pipelined request" };
                return Err(SendError::Refused { message, cause }.into());
            }
        };
        if let Err(error) = self.connection.send_as(MessageHeader::Request { id, kind }, message) {
            self.connection.unregister(id);
            return Err(error.into());
        }
        let request = Some(InFlight { number, id, lane });
        match self.free_slots.pop() {
            Some(slot) => self.in_flight[slot as usize] = request,
            None => self.in_flight.push(request),
        }
        self.next_number += 1;
        Ok(number)
    }

    /// Requests that were sent and whose results [`RequestPipeline::next`] has not returned yet.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len() - self.free_slots.len()
    }

    /// The next result to arrive, of any request, with the request's number; `None` when nothing is
    /// in flight.
    ///
    /// A request's time is measured from the first call of this after it was sent that finds no
    /// response taken already, and is at most a 32nd longer than the timeout. Timeouts are reported
    /// after the responses that were taken.
    ///
    /// # Errors
    /// [`RequestError::Timeout`], [`RequestError::Closed`] or [`RequestError::Declined`], for that
    /// one request.
    ///
    /// # Cancel safety
    /// Safe: a result that was not returned is returned by the next call.
    ///
    /// # Cost
    /// Responses that arrived together cost one lock, one wake-up and one reading of the clock
    /// together.
    pub async fn next(&mut self) -> Option<(u64, Result<Response, RequestError>)> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`RequestPipeline::next`], for callers that poll.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<(u64, Result<Response, RequestError>)>> {
        loop {
            while let Some(Arrival { slot, number, result }) = self.taken.pop_front() {
                if self.release(slot, number).is_some() {
                    let result = match result {
                        Some(Ok(delivery)) => Ok(delivery.response),
                        Some(Err(declined)) => Err(declined.into()),
                        None => Err(RequestError::Closed),
                    };
                    return Poll::Ready(Some((number, result)));
                }
            }
            if self.in_flight() == 0 {
                self.groups.clear();
                return Poll::Ready(None);
            }
            // Also where responses keep arriving.
            if let Some(expired) = self.expire() {
                return Poll::Ready(Some((expired, Err(RequestError::Timeout))));
            }
            // Responses may arrive faster than they are used: other tasks of this thread get their
            // turn too.
            let budget = ready!(tokio::task::coop::poll_proceed(cx));
            self.arrivals.task.register(cx.waker());
            self.taken_at = Instant::now();
            std::mem::swap(&mut *self.arrivals.queue.lock(), &mut self.taken);
            self.group_new_requests();
            if self.taken.is_empty() && self.overdue().is_none() {
                ready!(self.poll_deadline(cx));
            }
            budget.made_progress();
        }
    }

    /// Ready when a group may be overdue.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.groups.front().map(|group| group.deadline) else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        // A timer that is too early costs one look in vain; moving it for each group would cost
        // more.
        ready!(timer.as_mut().poll(cx));
        timer.as_mut().reset(deadline);
        Poll::Ready(())
    }

    /// Requests below this number were overdue when responses were last taken.
    fn overdue(&self) -> Option<u64> {
        let group = self.groups.front()?;
        (group.deadline <= self.taken_at).then_some(group.before)
    }

    /// Abandons one request that was overdue when responses were last taken and has none among
    /// them. Returns its number.
    fn expire(&mut self) -> Option<u64> {
        while let Some(before) = self.overdue() {
            let expired = self.in_flight.iter().enumerate().find_map(|(slot, request)| {
                let request = request.filter(|request| request.number < before)?;
                Some((slot as u32, request))
            });
            if let Some((slot, request)) = expired {
                self.release(slot, request.number);
                self.connection.abandon_request(request.lane, request.id);
                return Some(request.number);
            }
            self.groups.pop_front();
        }
        None
    }

    /// Gives the requests that were sent since the last call their deadline.
    fn group_new_requests(&mut self) {
        let (next, now) = (self.next_number, self.taken_at);
        match self.groups.back_mut() {
            Some(group) if group.before == next => {}
            Some(group) if now < group.open_until => group.before = next,
            _ => {
                let far = now + MAX_WAIT;
                let open_until = now.checked_add(self.within / GROUPS_PER_TIMEOUT).unwrap_or(far);
                let deadline = open_until.checked_add(self.within).unwrap_or(far);
                self.groups.push_back(Group { before: next, open_until, deadline });
            }
        }
    }

    /// Frees a slot, if the request with this number still has it.
    fn release(&mut self, slot: u32, number: u64) -> Option<InFlight> {
        let place = self.in_flight.get_mut(slot as usize)?;
        let request = place.take_if(|request| request.number == number)?;
        self.free_slots.push(slot);
        Some(request)
    }
}

impl Drop for RequestPipeline {
    fn drop(&mut self) {
        for request in self.in_flight.drain(..).flatten() {
            self.connection.abandon_request(request.lane, request.id);
        }
    }
}

impl fmt::Debug for RequestPipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestPipeline").field("in_flight", &self.in_flight()).finish_non_exhaustive()
    }
}
