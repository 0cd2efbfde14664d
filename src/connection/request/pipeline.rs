//! Many requests in flight to one peer, asked and awaited by one task.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::base::{MAX_WAIT, Lane};
use crate::sync::{Mutex, TaskWaker};
use crate::wire::{EncodeError, MessageHeader};

use super::{Answered, NoPlace};

use crate::connection::handle::Connection;
use crate::connection::message::{Message, RequestError, Response, SendError};

/// Requests to one peer that one task keeps in flight: it asks on without waiting, and takes answers as they come.
///
/// [`Connection::request`] gives every request a future, a channel and a timer of its own; here they share one of each, and
/// answers that came together are taken together. So it costs about half where many small ones are in flight, as in fetching a range of blocks.
///
/// # Cancel safety
/// Dropping it takes back what was not sent, and cancels at the peer what was.
pub struct RequestPipeline {
    connection: Arc<Connection>,
    within: Duration,
    arrived: Arc<Arrived>,
    /// Answers taken from `arrived` and not handed out yet.
    taken: VecDeque<Arrival>,
    /// When they were: what had arrived by then was among them.
    looked: Instant,
    /// Requests in flight, each in the slot that its waiter names.
    open: Vec<Option<Open>>,
    free: Vec<u32>,
    /// The number of the next request.
    next: u64,
    /// Groups of requests and when they have waited for long enough: all numbers below, since when. Oldest first.
    runs: VecDeque<Run>,
    timer: Option<Pin<Box<Sleep>>>,
}

/// A request in flight.
#[derive(Clone, Copy)]
struct Open {
    number: u64,
    id: u32,
    lane: Lane,
}

struct Run {
    /// Requests below this number.
    before: u64,
    /// Until then others may join.
    until: Instant,
    deadline: Instant,
}

/// What came for a pipeline, on its way from the connection's task.
#[derive(Debug)]
struct Arrived {
    answers: Mutex<VecDeque<Arrival>>,
    /// Woken when the first of several answers comes: whoever takes one takes all.
    task: TaskWaker,
}

#[derive(Debug)]
struct Arrival {
    slot: u32,
    number: u64,
    /// `None` if the connection ended first.
    answer: Option<Answered>,
}

/// The waiter of one request of a pipeline. Dropping it tells that no answer will come.
pub(in crate::connection) struct Ticket {
    arrived: Arc<Arrived>,
    slot: u32,
    number: u64,
    /// It is in the table: its end is told.
    armed: bool,
}

impl Ticket {
    /// Hands the answer over. Cost: one short lock; a wake for the first of several.
    pub(in crate::connection) fn answer(mut self, answer: Answered) {
        self.armed = false;
        self.arrive(Some(answer));
    }

    /// In the table from here on.
    pub(in crate::connection) fn arm(mut self) -> Self {
        self.armed = true;
        self
    }

    /// Out of the table before the request was sent.
    pub(in crate::connection) fn disarm(mut self) {
        self.armed = false;
    }

    fn arrive(&self, answer: Option<Answered>) {
        let first = {
            let mut answers = self.arrived.answers.lock();
            answers.push_back(Arrival { slot: self.slot, number: self.number, answer });
            answers.len() == 1
        };
        if first {
            self.arrived.task.wake();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.armed {
            self.arrive(None);
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Connection {
    /// Begins to ask this peer for many things at a time, each to be answered `within` a time.
    pub fn pipeline(self: &Arc<Self>, within: Duration) -> RequestPipeline {
        RequestPipeline {
            connection: Arc::clone(self),
            within,
            arrived: Arc::new(Arrived { answers: Mutex::new(VecDeque::new()), task: TaskWaker::new() }),
            taken: VecDeque::new(),
            looked: Instant::now(),
            open: Vec::new(),
            free: Vec::new(),
            next: 0,
            runs: VecDeque::new(),
            timer: None,
        }
    }
}

impl RequestPipeline {
    /// Sends one more request, without waiting, and returns its number: they count from zero in the order of asking.
    ///
    /// # Errors
    /// See [`RequestError`]; the message comes back. [`RequestError::TooMany`] where
    /// [`ConnectionConfig::max_outbound_requests`](crate::connection::ConnectionConfig::max_outbound_requests) of all who ask this peer are in flight, [`SendError::Full`] where its queue
    /// is full: cure both by [`RequestPipeline::next`]. A protocol without ids is asked by [`Connection::request`] alone.
    ///
    /// # Cost
    /// Two short locks, no copy of the payload; neither clock nor timer.
    pub fn ask(&mut self, message: Message) -> Result<u64, RequestError> {
        let (lane, kind, number) = (message.lane, message.kind, self.next);
        let slot = self.free.last().copied().unwrap_or(self.open.len() as u32);
        let ticket = Ticket { arrived: Arc::clone(&self.arrived), slot, number, armed: false };
        let id = match self.connection.add_ticket(ticket) {
            Ok(id) => id,
            Err(NoPlace::Closed) => return Err(SendError::Closed(message).into()),
            Err(NoPlace::TooMany) => return Err(RequestError::TooMany(message)),
            Err(_) => {
                let cause = EncodeError::Unsupported { what: "pipelined request" };
                return Err(SendError::Refused { message, cause }.into());
            }
        };
        if let Err(error) = self.connection.submit(MessageHeader::Request { id, kind }, message) {
            self.connection.unask(id);
            return Err(error.into());
        }
        let open = Some(Open { number, id, lane });
        match self.free.pop() {
            Some(slot) => self.open[slot as usize] = open,
            None => self.open.push(open),
        }
        self.next += 1;
        Ok(number)
    }

    /// Requests that were asked and whose answers [`RequestPipeline::next`] has not returned yet.
    pub fn in_flight(&self) -> usize {
        self.open.len() - self.free.len()
    }

    /// The next answer to arrive, whichever request's, with that request's number; `None` when nothing is in flight.
    ///
    /// The time that a request has is measured from the first call of this after it was asked that finds no answer in hand, and is
    /// at most a 32nd longer than what was asked for. That it is over is told when those in hand have been handed out.
    ///
    /// # Errors
    /// [`RequestError::Timeout`], [`RequestError::Closed`], [`RequestError::Declined`], for that one request.
    ///
    /// # Cancel safety
    /// Safe: an answer that was not returned is returned by the next call.
    ///
    /// # Cost
    /// Answers that came together cost one lock, one wake and one reading of the clock together.
    pub async fn next(&mut self) -> Option<(u64, Result<Response, RequestError>)> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`RequestPipeline::next`], for those who poll.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<(u64, Result<Response, RequestError>)>> {
        loop {
            while let Some(Arrival { slot, number, answer }) = self.taken.pop_front() {
                if self.close(slot, number).is_some() {
                    let answer = match answer {
                        Some(Ok(response)) => Ok(response),
                        Some(Err(declined)) => Err(declined.into()),
                        None => Err(RequestError::Closed),
                    };
                    return Poll::Ready(Some((number, answer)));
                }
            }
            if self.in_flight() == 0 {
                self.runs.clear();
                return Poll::Ready(None);
            }
            // Also where there are always more answers.
            if let Some(late) = self.expire() {
                return Poll::Ready(Some((late, Err(RequestError::Timeout))));
            }
            // Answers may come faster than they are used: others on this thread have their turn too.
            let turn = ready!(tokio::task::coop::poll_proceed(cx));
            self.arrived.task.register(cx.waker());
            self.looked = Instant::now();
            std::mem::swap(&mut *self.arrived.answers.lock(), &mut self.taken);
            self.stamp();
            if self.taken.is_empty() && self.overdue().is_none() {
                ready!(self.poll_deadline(cx));
            }
            turn.made_progress();
        }
    }

    /// Ready when it is time to look again.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.runs.front().map(|run| run.deadline) else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        // A timer that is too early only makes one look in vain; moving it for each group would cost more.
        ready!(timer.as_mut().poll(cx));
        timer.as_mut().reset(deadline);
        Poll::Ready(())
    }

    /// Requests below this number had waited for long enough when answers were last taken.
    fn overdue(&self) -> Option<u64> {
        let run = self.runs.front()?;
        (run.deadline <= self.looked).then_some(run.before)
    }

    /// Gives up a request that had waited for long enough when answers were last taken, and has none among those; its number.
    fn expire(&mut self) -> Option<u64> {
        while let Some(before) = self.overdue() {
            let late = self.open.iter().enumerate().find_map(|(slot, open)| {
                let open = open.filter(|open| open.number < before)?;
                Some((slot as u32, open))
            });
            if let Some((slot, open)) = late {
                self.close(slot, open.number);
                self.connection.give_up(open.lane, open.id);
                return Some(open.number);
            }
            self.runs.pop_front();
        }
        None
    }

    /// Gives what was asked since the last call its deadline.
    fn stamp(&mut self) {
        let (next, now) = (self.next, self.looked);
        match self.runs.back_mut() {
            Some(run) if run.before == next => {}
            Some(run) if now < run.until => run.before = next,
            _ => {
                let slack = self.within / RUNS;
                let far = now + MAX_WAIT;
                let until = now.checked_add(slack).unwrap_or(far);
                let deadline = until.checked_add(self.within).unwrap_or(far);
                self.runs.push_back(Run { before: next, until, deadline });
            }
        }
    }

    /// Frees the slot of a request, if it is still this one's.
    fn close(&mut self, slot: u32, number: u64) -> Option<Open> {
        let place = self.open.get_mut(slot as usize)?;
        let open = place.take_if(|open| open.number == number)?;
        self.free.push(slot);
        Some(open)
    }
}

impl Drop for RequestPipeline {
    fn drop(&mut self) {
        for open in self.open.drain(..).flatten() {
            self.connection.give_up(open.lane, open.id);
        }
    }
}

impl fmt::Debug for RequestPipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestPipeline").field("in_flight", &self.in_flight()).finish_non_exhaustive()
    }
}

/// Groups that a time is divided into: the deadline of a request is that of its group's last.
const RUNS: u32 = 32;
