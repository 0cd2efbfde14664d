//! One direction of a simulated connection: a bounded queue of bytes, each with its arrival time.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::ReadBuf;
use tokio::time::Instant;

use super::conditions::{LinkConditions, ReadRate};
use crate::sync::Mutex;

/// Stands in for an arrival time beyond the clock's range; longer than any test waits.
const FAR_FUTURE: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// When something arrives. `None` means at once and sorts before every instant.
type ArrivalTime = Option<Instant>;

/// One direction of a connection, shared by its writer and its reader.
#[derive(Debug)]
pub(super) struct Pipe(Mutex<PipeState>);

#[derive(Debug)]
struct PipeState {
    conditions: LinkConditions,
    rng: fastrand::Rng,
    in_flight: VecDeque<InFlight>,
    /// Bytes in `in_flight`; at most `capacity`.
    in_flight_bytes: usize,
    capacity: usize,
    /// When the last write arrives. Later writes arrive no earlier.
    last_arrival: ArrivalTime,
    /// The writer has ended the direction; the reader sees the end at that time, behind the bytes
    /// in flight.
    end: Option<ArrivalTime>,
    /// The reader has closed; the writer learns it at that time.
    reader_closed: Option<ArrivalTime>,
    reset: bool,
    /// A rate-limited reader gets nothing before this time.
    next_read: ArrivalTime,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Debug)]
struct InFlight {
    arrives_at: ArrivalTime,
    bytes: BytesMut,
}

/// The result of one read or write.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PipeStep {
    /// This many bytes moved. For a reader, zero is the end of the stream.
    Moved(usize),
    /// The connection was reset.
    Reset,
    /// The reader has closed, or the writer has ended the direction itself.
    Broken,
    /// Try again at this time, or when the waker is called.
    Wait(ArrivalTime),
}

impl Pipe {
    pub(super) fn new(capacity: usize, conditions: LinkConditions, rng: fastrand::Rng) -> Self {
        Self(Mutex::new(PipeState {
            conditions,
            rng,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            capacity,
            last_arrival: None,
            end: None,
            reader_closed: None,
            reset: false,
            next_read: None,
            reader: None,
            writer: None,
        }))
    }

    /// Reads what has arrived. Registers the reader's waker if nothing has.
    pub(super) fn read(&self, cx: &Context<'_>, buf: &mut ReadBuf<'_>) -> PipeStep {
        // Declared before the guard, so that a displaced waker is dropped after the lock is
        // released.
        let mut waker = Some(cx.waker().clone());
        let mut state = self.0.lock();
        let step = state.read(buf);
        if matches!(step, PipeStep::Wait(_)) {
            std::mem::swap(&mut state.reader, &mut waker);
            return step;
        }
        let writer = state.writer.take();
        drop(state);
        wake(writer);
        step
    }

    /// Writes what fits. Registers the writer's waker if nothing does.
    pub(super) fn write(&self, cx: &Context<'_>, bufs: &[IoSlice<'_>]) -> PipeStep {
        // As in `read`.
        let mut waker = Some(cx.waker().clone());
        let mut state = self.0.lock();
        let step = state.write(bufs);
        if matches!(step, PipeStep::Wait(_)) {
            std::mem::swap(&mut state.writer, &mut waker);
            return step;
        }
        let reader = state.reader.take();
        drop(state);
        wake(reader);
        step
    }

    /// Ends the direction behind the bytes in flight. Returns when the reader sees the end.
    pub(super) fn end(&self) -> ArrivalTime {
        let mut state = self.0.lock();
        let arrival = match state.end {
            Some(arrival) => arrival,
            None => {
                let arrival = state.arrival_time();
                state.end = Some(arrival);
                arrival
            }
        };
        let reader = state.reader.take();
        drop(state);
        wake(reader);
        arrival
    }

    /// Ends the direction like [`Pipe::end`]. If it had ended before, returns when something sent
    /// now arrives.
    pub(super) fn end_again(&self) -> ArrivalTime {
        let ended_before = {
            let mut state = self.0.lock();
            state.end.is_some().then(|| state.arrival_time())
        };
        ended_before.unwrap_or_else(|| self.end())
    }

    /// Records that the reader has closed. The writer learns it at `arrival`.
    pub(super) fn close_reader(&self, arrival: ArrivalTime) {
        let mut state = self.0.lock();
        state.reader_closed = Some(arrival);
        let (reader, writer) = (state.reader.take(), state.writer.take());
        drop(state);
        drop(reader);
        wake(writer);
    }

    /// Breaks the direction at once and drops the bytes in flight. Returns the wakers to call.
    pub(super) fn reset(&self) -> [Option<Waker>; 2] {
        let mut state = self.0.lock();
        state.reset = true;
        state.in_flight.clear();
        state.in_flight_bytes = 0;
        [state.reader.take(), state.writer.take()]
    }

    /// Replaces the conditions. Returns the wakers to call.
    pub(super) fn set_conditions(&self, conditions: LinkConditions) -> [Option<Waker>; 2] {
        let mut state = self.0.lock();
        if state.conditions.read_rate != conditions.read_rate {
            state.next_read = None;
        }
        state.conditions = conditions;
        [state.reader.take(), state.writer.take()]
    }
}

impl PipeState {
    /// When something sent now arrives.
    fn arrival_time(&mut self) -> ArrivalTime {
        let delay = self.conditions.latency.draw(&mut self.rng);
        let now = Instant::now();
        let after = |delay: Duration| now.checked_add(delay).unwrap_or(now + FAR_FUTURE);
        self.last_arrival = delay.map(after).max(self.last_arrival);
        self.last_arrival
    }

    fn read(&mut self, buf: &mut ReadBuf<'_>) -> PipeStep {
        if self.reset {
            return PipeStep::Reset;
        }
        if buf.remaining() == 0 {
            return PipeStep::Moved(0);
        }
        if self.conditions.blocked || self.conditions.read_rate == ReadRate::Stopped {
            return PipeStep::Wait(None);
        }
        let Some(first) = self.in_flight.front() else {
            return match self.end {
                Some(arrival) if has_arrived(arrival) => PipeStep::Moved(0),
                Some(arrival) => PipeStep::Wait(arrival),
                None => PipeStep::Wait(None),
            };
        };
        // A rate-limited reader waits for the later of the two.
        let ready_at = first.arrives_at.max(self.next_read);
        if !has_arrived(ready_at) {
            return PipeStep::Wait(ready_at);
        }
        let max = match self.conditions.read_rate {
            ReadRate::PerSecond(rate) => usize::try_from((rate.get() / 20).max(1)).unwrap_or(usize::MAX),
            _ => usize::MAX,
        };
        let moved = self.copy_arrived(buf, max);
        if let ReadRate::PerSecond(rate) = self.conditions.read_rate {
            let nanos = (moved as u128 * 1_000_000_000).div_ceil(u128::from(rate.get()));
            let pause = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            self.next_read = Instant::now().checked_add(pause);
        }
        PipeStep::Moved(moved)
    }

    /// Moves up to `max` arrived bytes into `buf`.
    fn copy_arrived(&mut self, buf: &mut ReadBuf<'_>, max: usize) -> usize {
        let room = buf.remaining().min(max);
        let mut moved = 0;
        while moved < room {
            let Some(front) = self.in_flight.front_mut() else { break };
            if !has_arrived(front.arrives_at) {
                break;
            }
            let count = front.bytes.len().min(room - moved);
            buf.put_slice(&front.bytes[..count]);
            front.bytes.advance(count);
            moved += count;
            if front.bytes.is_empty() {
                self.in_flight.pop_front();
            }
        }
        self.in_flight_bytes -= moved;
        moved
    }

    fn write(&mut self, bufs: &[IoSlice<'_>]) -> PipeStep {
        if self.reset {
            return PipeStep::Reset;
        }
        let reader_closed = self.reader_closed.filter(|_| !self.conditions.reverse_blocked);
        if self.end.is_some() || reader_closed.is_some_and(has_arrived) {
            return PipeStep::Broken;
        }
        if bufs.iter().all(|buf| buf.is_empty()) {
            return PipeStep::Moved(0);
        }
        let mut room = self.capacity - self.in_flight_bytes;
        if room == 0 {
            return PipeStep::Wait(reader_closed.flatten());
        }
        let arrives_at = self.arrival_time();
        if self.in_flight.back().is_none_or(|last| last.arrives_at != arrives_at) {
            self.in_flight.push_back(InFlight { arrives_at, bytes: BytesMut::new() });
        }
        let Some(last) = self.in_flight.back_mut() else { return PipeStep::Moved(0) };
        let before = room;
        for buf in bufs {
            let count = buf.len().min(room);
            last.bytes.extend_from_slice(&buf[..count]);
            room -= count;
        }
        self.in_flight_bytes += before - room;
        PipeStep::Moved(before - room)
    }
}

fn has_arrived(arrival: ArrivalTime) -> bool {
    arrival.is_none_or(|at| at <= Instant::now())
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
