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
type Due = Option<Instant>;

/// What the world says about one direction.
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
pub(super) struct Pipe(Mutex<Flow>);

#[derive(Debug)]
struct Flow {
    weather: LinkConditions,
    rng: fastrand::Rng,
    parcels: VecDeque<InFlight>,
    /// Bytes in `parcels`; at most `capacity`.
    in_flight: usize,
    capacity: usize,
    /// When the last thing sent arrives: nothing sent later arrives earlier.
    last_due: Due,
    /// The writer has ended; the reader sees it at that moment, after the parcels.
    end: Option<Due>,
    /// The reader has gone; the writer learns it at that moment.
    reader_gone: Option<Due>,
    reset: bool,
    /// A capped reader takes nothing before this.
    next_read: Due,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Debug)]
struct InFlight {
    due: Due,
    bytes: BytesMut,
}

/// What became of a read or a write.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// So many bytes moved; zero for a reader is the end.
    Moved(usize),
    /// The connection was reset.
    Reset,
    /// Nobody reads any more, or the writer has ended itself.
    Broken,
    /// Nothing to do before this moment, or before the waker is called.
    Wait(Due),
}

impl Pipe {
    pub(super) fn new(capacity: usize, weather: LinkConditions, rng: fastrand::Rng) -> Self {
        Self(Mutex::new(Flow {
            weather,
            rng,
            parcels: VecDeque::new(),
            in_flight: 0,
            capacity,
            last_due: None,
            end: None,
            reader_gone: None,
            reset: false,
            next_read: None,
            reader: None,
            writer: None,
        }))
    }

    /// Takes what has arrived; registers the reader if it has to wait.
    pub(super) fn read(&self, cx: &Context<'_>, buf: &mut ReadBuf<'_>) -> Step {
        // Declared before the lock is taken: dropped after it was given back.
        let mut waker = Some(cx.waker().clone());
        let mut flow = self.0.lock();
        let step = flow.take(buf);
        if matches!(step, Step::Wait(_)) {
            std::mem::swap(&mut flow.reader, &mut waker);
            return step;
        }
        let writer = flow.writer.take();
        drop(flow);
        wake(writer);
        step
    }

    /// Sends what fits; registers the writer if nothing does.
    pub(super) fn write(&self, cx: &Context<'_>, bufs: &[IoSlice<'_>]) -> Step {
        let mut waker = Some(cx.waker().clone());
        let mut flow = self.0.lock();
        let step = flow.put(bufs);
        if matches!(step, Step::Wait(_)) {
            std::mem::swap(&mut flow.writer, &mut waker);
            return step;
        }
        let reader = flow.reader.take();
        drop(flow);
        wake(reader);
        step
    }

    /// Ends the direction after what is in flight, and tells when the far end sees that.
    pub(super) fn end(&self) -> Due {
        let mut flow = self.0.lock();
        let due = match flow.end {
            Some(due) => due,
            None => {
                let due = flow.due();
                flow.end = Some(due);
                due
            }
        };
        let reader = flow.reader.take();
        drop(flow);
        wake(reader);
        due
    }

    /// As [`Pipe::end`]; when news that is sent now arrives, where the end was sent before.
    pub(super) fn end_again(&self) -> Due {
        let sent_before = {
            let mut flow = self.0.lock();
            flow.end.is_some().then(|| flow.due())
        };
        sent_before.unwrap_or_else(|| self.end())
    }

    /// The reader is gone; the writer learns it at `due`.
    pub(super) fn abandon(&self, due: Due) {
        let mut flow = self.0.lock();
        flow.reader_gone = Some(due);
        let (reader, writer) = (flow.reader.take(), flow.writer.take());
        drop(flow);
        drop(reader);
        wake(writer);
    }

    /// Breaks the direction at once; what is in flight is gone. Returns whom to wake.
    pub(super) fn reset(&self) -> [Option<Waker>; 2] {
        let mut flow = self.0.lock();
        flow.reset = true;
        flow.parcels.clear();
        flow.in_flight = 0;
        [flow.reader.take(), flow.writer.take()]
    }

    /// Takes new weather. Returns whom to wake.
    pub(super) fn set_weather(&self, weather: LinkConditions) -> [Option<Waker>; 2] {
        let mut flow = self.0.lock();
        if flow.weather.rate != weather.rate {
            flow.next_read = None;
        }
        flow.weather = weather;
        [flow.reader.take(), flow.writer.take()]
    }
}

/// Later than any test waits, and no further than a clock counts.
const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

impl Flow {
    /// When something sent now arrives.
    fn due(&mut self) -> Due {
        let travel = self.weather.latency.draw(&mut self.rng);
        let now = Instant::now();
        let after = |time: Duration| now.checked_add(time).unwrap_or(now + NEVER);
        self.last_due = travel.map(after).max(self.last_due);
        self.last_due
    }

    fn take(&mut self, buf: &mut ReadBuf<'_>) -> Step {
        if self.reset {
            return Step::Reset;
        }
        if buf.remaining() == 0 {
            return Step::Moved(0);
        }
        if self.weather.blocked || self.weather.rate == ReadRate::Stopped {
            return Step::Wait(None);
        }
        let Some(first) = self.parcels.front() else {
            return match self.end {
                Some(due) if arrived(due) => Step::Moved(0),
                Some(due) => Step::Wait(due),
                None => Step::Wait(None),
            };
        };
        // A capped reader waits for the later of the two.
        let due = first.due.max(self.next_read);
        if !arrived(due) {
            return Step::Wait(due);
        }
        let most = match self.weather.rate {
            ReadRate::PerSecond(rate) => usize::try_from((rate.get() / 20).max(1)).unwrap_or(usize::MAX),
            _ => usize::MAX,
        };
        let moved = self.unload(buf, most);
        if let ReadRate::PerSecond(rate) = self.weather.rate {
            let nanos = (moved as u128 * 1_000_000_000).div_ceil(u128::from(rate.get()));
            let pause = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            self.next_read = Instant::now().checked_add(pause);
        }
        Step::Moved(moved)
    }

    /// Moves up to `most` arrived bytes into `buf`.
    fn unload(&mut self, buf: &mut ReadBuf<'_>, most: usize) -> usize {
        let room = buf.remaining().min(most);
        let mut moved = 0;
        while moved < room {
            let Some(parcel) = self.parcels.front_mut() else { break };
            if !arrived(parcel.due) {
                break;
            }
            let now = parcel.bytes.len().min(room - moved);
            buf.put_slice(&parcel.bytes[..now]);
            parcel.bytes.advance(now);
            moved += now;
            if parcel.bytes.is_empty() {
                self.parcels.pop_front();
            }
        }
        self.in_flight -= moved;
        moved
    }

    fn put(&mut self, bufs: &[IoSlice<'_>]) -> Step {
        if self.reset {
            return Step::Reset;
        }
        let heard = self.reader_gone.filter(|_| !self.weather.back_blocked);
        if self.end.is_some() || heard.is_some_and(arrived) {
            return Step::Broken;
        }
        if bufs.iter().all(|buf| buf.is_empty()) {
            return Step::Moved(0);
        }
        let mut room = self.capacity - self.in_flight;
        if room == 0 {
            return Step::Wait(heard.flatten());
        }
        let due = self.due();
        if self.parcels.back().is_none_or(|last| last.due != due) {
            self.parcels.push_back(InFlight { due, bytes: BytesMut::new() });
        }
        let Some(parcel) = self.parcels.back_mut() else { return Step::Moved(0) };
        let before = room;
        for buf in bufs {
            let fits = buf.len().min(room);
            parcel.bytes.extend_from_slice(&buf[..fits]);
            room -= fits;
        }
        self.in_flight += before - room;
        Step::Moved(before - room)
    }
}

fn arrived(due: Due) -> bool {
    due.is_none_or(|at| at <= Instant::now())
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
