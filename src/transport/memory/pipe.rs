//! One direction of a connection: bytes in flight, each with the moment it arrives.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::ReadBuf;
use tokio::time::Instant;

use super::{Latency, ReadRate};
use crate::sync::Mutex;

/// When something arrives; `None` is at once, and sorts before every moment.
type ArrivalTime = Option<Instant>;

/// What the sim_net says about one direction.
#[derive(Clone, Copy, Debug)]
pub(super) struct LinkConditions {
    pub(super) latency: Latency,
    pub(super) rate: ReadRate,
    /// Nothing passes.
    pub(super) blocked: bool,
    /// Nothing passes the other way, so the writer does not hear that the reader has gone.
    pub(super) back_blocked: bool,
}

/// One direction, shared by its writer and its reader.
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
    /// When the last thing sent arrives: nothing sent later arrives earlier.
    last_arrival: ArrivalTime,
    /// The writer has ended; the reader sees it at that moment, after the in_flight.
    end: Option<ArrivalTime>,
    /// The reader has gone; the writer learns it at that moment.
    reader_closed_at: Option<ArrivalTime>,
    reset: bool,
    /// A capped reader takes nothing before this.
    next_read: ArrivalTime,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Debug)]
struct InFlight {
    arrives_at: ArrivalTime,
    bytes: BytesMut,
}

/// What became of a read or a write.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum IoStep {
    /// So many bytes moved; zero for a reader is the end.
    Moved(usize),
    /// The connection was reset.
    Reset,
    /// Nobody reads any more, or the writer has ended itself.
    Broken,
    /// Nothing to do before this moment, or before the waker is called.
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
            reader_closed_at: None,
            reset: false,
            next_read: None,
            reader: None,
            writer: None,
        }))
    }

    /// Takes what has arrived; registers the reader if it has to wait.
    pub(super) fn read(&self, cx: &Context<'_>, buf: &mut ReadBuf<'_>) -> IoStep {
        // Declared before the lock is taken: dropped after it was given back.
        let mut waker = Some(cx.waker().clone());
        let mut state = self.0.lock();
        let step = state.take(buf);
        if matches!(step, IoStep::Wait(_)) {
            std::mem::swap(&mut state.reader, &mut waker);
            return step;
        }
        let writer = state.writer.take();
        drop(state);
        wake(writer);
        step
    }

    /// Sends what fits; registers the writer if nothing does.
    pub(super) fn write(&self, cx: &Context<'_>, bufs: &[IoSlice<'_>]) -> IoStep {
        let mut waker = Some(cx.waker().clone());
        let mut state = self.0.lock();
        let step = state.put(bufs);
        if matches!(step, IoStep::Wait(_)) {
            std::mem::swap(&mut state.writer, &mut waker);
            return step;
        }
        let reader = state.reader.take();
        drop(state);
        wake(reader);
        step
    }

    /// Ends the direction after what is in flight, and tells when the far end sees that.
    pub(super) fn end(&self) -> ArrivalTime {
        let mut state = self.0.lock();
        let arrives_at = match state.end {
            Some(arrives_at) => arrives_at,
            None => {
                let arrives_at = state.arrives_at();
                state.end = Some(arrives_at);
                arrives_at
            }
        };
        let reader = state.reader.take();
        drop(state);
        wake(reader);
        arrives_at
    }

    /// As [`Pipe::end`]; when news that is sent now arrives, where the end was sent before.
    pub(super) fn end_again(&self) -> ArrivalTime {
        let sent_before = {
            let mut state = self.0.lock();
            state.end.is_some().then(|| state.arrives_at())
        };
        sent_before.unwrap_or_else(|| self.end())
    }

    /// The reader is gone; the writer learns it at `arrives_at`.
    pub(super) fn close_reader(&self, arrives_at: ArrivalTime) {
        let mut state = self.0.lock();
        state.reader_closed_at = Some(arrives_at);
        let (reader, writer) = (state.reader.take(), state.writer.take());
        drop(state);
        drop(reader);
        wake(writer);
    }

    /// Breaks the direction at once; what is in flight is gone. Returns whom to wake.
    pub(super) fn reset(&self) -> [Option<Waker>; 2] {
        let mut state = self.0.lock();
        state.reset = true;
        state.in_flight.clear();
        state.in_flight_bytes = 0;
        [state.reader.take(), state.writer.take()]
    }

    /// Takes new conditions. Returns whom to wake.
    pub(super) fn set_conditions(&self, conditions: LinkConditions) -> [Option<Waker>; 2] {
        let mut state = self.0.lock();
        if state.conditions.rate != conditions.rate {
            state.next_read = None;
        }
        state.conditions = conditions;
        [state.reader.take(), state.writer.take()]
    }
}

/// Later than any test waits, and no further than a clock counts.
const FAR_FUTURE: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

impl PipeState {
    /// When something sent now arrives.
    fn arrives_at(&mut self) -> ArrivalTime {
        let delay = self.conditions.latency.draw(&mut self.rng);
        let now = Instant::now();
        let after = |time: Duration| now.checked_add(time).unwrap_or(now + FAR_FUTURE);
        self.last_arrival = delay.map(after).max(self.last_arrival);
        self.last_arrival
    }

    fn take(&mut self, buf: &mut ReadBuf<'_>) -> IoStep {
        if self.reset {
            return IoStep::Reset;
        }
        if buf.remaining() == 0 {
            return IoStep::Moved(0);
        }
        if self.conditions.blocked || self.conditions.rate == ReadRate::Stopped {
            return IoStep::Wait(None);
        }
        let Some(first) = self.in_flight.front() else {
            return match self.end {
                Some(arrives_at) if arrived(arrives_at) => IoStep::Moved(0),
                Some(arrives_at) => IoStep::Wait(arrives_at),
                None => IoStep::Wait(None),
            };
        };
        // A capped reader waits for the later of the two.
        let arrives_at = first.arrives_at.max(self.next_read);
        if !arrived(arrives_at) {
            return IoStep::Wait(arrives_at);
        }
        let most = match self.conditions.rate {
            ReadRate::PerSecond(rate) => usize::try_from((rate.get() / 20).max(1)).unwrap_or(usize::MAX),
            _ => usize::MAX,
        };
        let moved = self.copy_arrived(buf, most);
        if let ReadRate::PerSecond(rate) = self.conditions.rate {
            let nanos = (moved as u128 * 1_000_000_000).div_ceil(u128::from(rate.get()));
            let pause = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            self.next_read = Instant::now().checked_add(pause);
        }
        IoStep::Moved(moved)
    }

    /// Moves up to `most` arrived bytes into `buf`.
    fn copy_arrived(&mut self, buf: &mut ReadBuf<'_>, most: usize) -> usize {
        let room = buf.remaining().min(most);
        let mut moved = 0;
        while moved < room {
            let Some(front) = self.in_flight.front_mut() else { break };
            if !arrived(front.arrives_at) {
                break;
            }
            let now = front.bytes.len().min(room - moved);
            buf.put_slice(&front.bytes[..now]);
            front.bytes.advance(now);
            moved += now;
            if front.bytes.is_empty() {
                self.in_flight.pop_front();
            }
        }
        self.in_flight_bytes -= moved;
        moved
    }

    fn put(&mut self, bufs: &[IoSlice<'_>]) -> IoStep {
        if self.reset {
            return IoStep::Reset;
        }
        let heard = self.reader_closed_at.filter(|_| !self.conditions.back_blocked);
        if self.end.is_some() || heard.is_some_and(arrived) {
            return IoStep::Broken;
        }
        if bufs.iter().all(|buf| buf.is_empty()) {
            return IoStep::Moved(0);
        }
        let mut room = self.capacity - self.in_flight_bytes;
        if room == 0 {
            return IoStep::Wait(heard.flatten());
        }
        let arrives_at = self.arrives_at();
        if self.in_flight.back().is_none_or(|last| last.arrives_at != arrives_at) {
            self.in_flight.push_back(InFlight { arrives_at, bytes: BytesMut::new() });
        }
        let Some(front) = self.in_flight.back_mut() else { return IoStep::Moved(0) };
        let before = room;
        for buf in bufs {
            let fits = buf.len().min(room);
            front.bytes.extend_from_slice(&buf[..fits]);
            room -= fits;
        }
        self.in_flight_bytes += before - room;
        IoStep::Moved(before - room)
    }
}

fn arrived(arrives_at: ArrivalTime) -> bool {
    arrives_at.is_none_or(|at| at <= Instant::now())
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
