//! Back-pressure: producers wait until the slowest link that is not lagging leaves room.
//!
//! No append and no write looks at all links. The lowest position is cached; only when the cache says that there is no
//! room are the links looked at, once, and then one of those too far behind is *watched*: it alone, when it has come far
//! enough, moves the search on to the next one. Positions only grow, so the search never goes back: a whole wait costs
//! O(links), for at least half a window of bytes.
//!
//! Two kinds of links are not waited for. One that stands still for the stall time is *stalled* until it moves. One that is in
//! the way at every look for two stall times, while more than half of the others have nothing left to write, is *slow*: it
//! moves, but the others would have to go at its pace. So is one that has skipped. It stays so until it has kept up for
//! ten stall times. Where a link that falls behind the ring only skips, one that most others idle for is found slow much
//! sooner, and forgiven sooner: see the module `blame`.

mod checks;
mod room_wait;
mod slow_detector;

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crossbeam_utils::CachePadded;
use smallvec::SmallVec;

pub use room_wait::RoomWait;
pub(super) use slow_detector::pause;

use self::slow_detector::SlowDetector;
use super::receipt::{CursorState, CursorStates};
use crate::base::Tick;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};

/// How the log stands at the moment of a look.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogSnapshot {
    /// Bytes ever appended.
    pub(super) end: u64,
    /// Where the oldest byte still held stands.
    pub(super) begin: u64,
    /// How far the slowest link may be behind.
    pub(super) window: u64,
    /// How long a link may stand still and be waited for.
    pub(super) stall: Duration,
    /// A link that falls behind the ring goes on behind it, rather than to end.
    pub(super) skips: bool,
}

#[derive(Debug)]
pub(super) struct Backpressure {
    /// Nobody who is waited for is behind this. Hint: read without the lock, and possibly too high by what joins or
    /// comes back to life meanwhile.
    floor: CachePadded<AtomicU64>,
    inner: Mutex<Members>,
}

#[derive(Debug, Default)]
struct Members {
    members: Vec<Option<Arc<CursorStates>>>,
    /// Of each member's views the one of this log.
    place: usize,
    /// What is known of each, by the same number; none of anybody where nobody has waited for long.
    faces: Vec<PeerRecord>,
    /// When somebody last waited.
    waited: Tick,
    free: Vec<u32>,
    wait: Option<Wait>,
    waiters: Vec<(u64, Waker)>,
    next_waiter: u64,
    /// Some member is slow.
    slow: bool,
    slow_detector: SlowDetector,
}

/// What waits have seen of a link, and when it was last seen to move.
#[derive(Debug, Default)]
struct PeerRecord {
    seen: u64,
    since: Tick,
    stalled: bool,
    /// At every look since then, this many, it was in the way of a wait while most others had nothing to do.
    blamed: Option<(Tick, u32)>,
    slow: bool,
    /// Of a slow one: since when it has kept up at every look.
    good: Option<Tick>,
    /// What it had skipped at the last look.
    gap: u64,
}

/// One wait for room, whoever waits.
#[derive(Debug)]
struct Wait {
    /// Where every link that is waited for must have come.
    need: u64,
    /// The member that is watched; those before it have come far enough.
    at: usize,
    /// The last reading of the clock that anybody brought.
    now: Tick,
}

impl PeerRecord {
    /// Whether it has skipped messages since the last call.
    fn has_skipped(&mut self, view: &CursorState) -> bool {
        let gap = view.skipped();
        std::mem::replace(&mut self.gap, gap) != gap
    }

    /// Whether this link stands in the way of a wait.
    fn is_behind(&mut self, pos: u64, need: u64, span: &LogSnapshot, now: Tick) -> bool {
        // One behind the ring has lost its place already: waiting does not help it.
        if pos >= need || pos < span.begin {
            return false;
        }
        if self.slow || self.stalled && pos == self.seen {
            return false;
        }
        if self.stalled {
            (self.stalled, self.seen, self.since) = (false, pos, now);
        }
        true
    }

    /// It is not waited for until it has kept up.
    fn call_slow(&mut self) {
        (self.slow, self.blamed, self.good) = (true, None, None);
    }
}

impl Members {
    /// Watches the next link that is too far behind. Without one the wait is over: who waited is handed_over out.
    fn seek(&mut self, span: &LogSnapshot) -> Vec<Waker> {
        let Some(wait) = &mut self.wait else { return Vec::new() };
        while let (Some(view), Some(face)) = (self.members.get(wait.at), self.faces.get_mut(wait.at)) {
            if let Some(view) = view.as_ref().map(|views| views.at(self.place))
                && face.is_behind(view.position(), wait.need, span, wait.now)
            {
                if face.is_behind(view.watch(), wait.need, span, wait.now) {
                    return Vec::new();
                }
                view.unwatch();
            }
            wait.at += 1;
        }
        self.wait = None;
        self.waiters.drain(..).map(|(_, waker)| waker).collect()
    }

    fn unwatch(&self) {
        if let Some(wait) = &self.wait
            && let Some(view) = self.view(wait.at)
        {
            view.unwatch();
        }
    }

    fn view(&self, seat: usize) -> Option<&CursorState> {
        Some(self.members.get(seat)?.as_ref()?.at(self.place))
    }

    /// Each link with its number and what is known of it.
    fn known(&mut self) -> impl Iterator<Item = (u32, &CursorState, &mut PeerRecord)> {
        let place = self.place;
        let both = self.members.iter().zip(&mut self.faces);
        (0..).zip(both).filter_map(move |(seat, (view, face))| Some((seat, view.as_ref()?.at(place), face)))
    }

    /// Looks at every link: the floor, or a wait that begins.
    fn begin(&mut self, span: &LogSnapshot, now: Tick) -> u64 {
        let mut floor = span.end;
        let missing = self.members.len().saturating_sub(self.faces.len());
        self.faces.reserve_exact(missing);
        self.faces.resize_with(self.members.len(), PeerRecord::default);
        let (mut slow, mut skipped) = (self.slow, SmallVec::<[u32; 8]>::new());
        for (seat, view, face) in self.known() {
            let pos = view.position();
            let still = pos == face.seen;
            (face.seen, face.stalled) = (pos, face.stalled && still);
            if !face.slow && face.has_skipped(view) {
                face.call_slow();
                slow = true;
                skipped.push(seat);
            }
            if !face.stalled && !face.slow {
                // Before somebody waited, standing still meant nothing.
                face.since = now;
                if pos >= span.begin {
                    floor = floor.min(pos);
                }
            }
        }
        (self.slow, self.waited) = (slow, now);
        skipped.into_iter().for_each(|seat| self.slow_detector.forget(seat));
        if span.end - floor > span.window {
            self.wait = Some(Wait { need: span.end - span.window / 2, at: 0, now });
            self.slow_detector.begin(span, now);
        }
        floor
    }

    fn deadline(&self, stall: Duration) -> Option<Tick> {
        let wait = self.wait.as_ref()?;
        self.view(wait.at)?;
        Some(self.faces.get(wait.at)?.since.after(stall))
    }

    /// Takes the waker of a waiter out, to be dropped outside the lock: what it runs then is not ours.
    fn forget(&mut self, waiter: u64) -> Option<Waker> {
        let at = self.waiters.iter().position(|(id, _)| *id == waiter)?;
        Some(self.waiters.remove(at).1)
    }
}

impl Backpressure {
    /// For the log at this place of its log_set.
    pub(super) fn new(place: usize) -> Self {
        let inner = Members { place, ..Members::default() };
        Self { floor: CachePadded::new(AtomicU64::new(0)), inner: Mutex::new(inner) }
    }

    /// Adds a link. O(1).
    pub(super) fn join(&self, views: Arc<CursorStates>) -> u32 {
        let mut inner = self.inner.lock();
        let seen = views.at(inner.place).position();
        self.floor.fetch_min(seen, Ordering::Relaxed);
        let seat = match inner.free.pop() {
            Some(seat) => {
                inner.members[seat as usize] = Some(views);
                seat
            }
            None => {
                // By an eighth: most of what is doubled would be in vain.
                if inner.members.len() == inner.members.capacity() {
                    let more = (inner.members.len() / 8).max(MIN_MEMBER_GROWTH);
                    inner.members.reserve_exact(more);
                }
                inner.members.push(Some(views));
                (inner.members.len() - 1) as u32
            }
        };
        let since = inner.wait.as_ref().map_or(Tick::ZERO, |wait| wait.now);
        let fresh = PeerRecord { seen, since, ..PeerRecord::default() };
        if let Some(face) = inner.faces.get_mut(seat as usize) {
            *face = fresh;
        } else if inner.wait.is_some() {
            inner.faces.push(fresh);
        }
        // A successor that begins where another stood may be behind what a wait has passed already.
        if inner.wait.as_ref().is_some_and(|wait| (seat as usize) < wait.at && seen < wait.need) {
            inner.unwatch();
            let wait = inner.wait.as_mut();
            if let Some(wait) = wait {
                wait.at = seat as usize;
                if let Some(view) = inner.view(seat as usize) {
                    view.watch();
                }
            }
        }
        seat
    }

    /// Takes a link out. O(1), unless it was the one that was watched.
    pub(super) fn leave(&self, seat: u32, span: &LogSnapshot) {
        let mut inner = self.inner.lock();
        let gone = inner.members.get_mut(seat as usize).and_then(Option::take);
        inner.free.push(seat);
        inner.slow_detector.forget(seat);
        let watched = inner.wait.as_ref().is_some_and(|wait| wait.at == seat as usize);
        let wake = if watched { self.seek(&mut inner, span) } else { Vec::new() };
        drop(inner);
        drop(gone);
        wake.into_iter().for_each(Waker::wake);
    }

    fn seek(&self, inner: &mut Members, span: &LogSnapshot) -> Vec<Waker> {
        let need = inner.wait.as_ref().map(|wait| wait.need);
        let wake = inner.seek(span);
        if let (Some(need), None) = (need, &inner.wait) {
            self.floor.store(need, Ordering::Relaxed);
        }
        wake
    }

    /// The links were looked at, and nobody who is waited for is behind `floor`.
    fn open(&self, inner: &mut Members, floor: u64, span: &LogSnapshot) -> Vec<Waker> {
        if inner.wait.is_some() {
            return self.seek(inner, span);
        }
        self.floor.store(floor, Ordering::Relaxed);
        inner.waiters.drain(..).map(|(_, waker)| waker).collect()
    }

    /// The watched link has moved.
    pub(super) fn progressed(&self, seat: u32, span: &LogSnapshot) {
        let mut inner = self.inner.lock();
        if inner.wait.as_ref().is_none_or(|wait| wait.at != seat as usize) {
            if let Some(view) = inner.view(seat as usize) {
                view.unwatch();
            }
            return;
        }
        if let Some(view) = inner.view(seat as usize) {
            view.unwatch();
        }
        let wake = self.seek(&mut inner, span);
        drop(inner);
        wake.into_iter().for_each(Waker::wake);
    }

    /// Whether the cache says that there is room.
    pub(super) fn has_room(&self, end: u64, window: u64) -> bool {
        end.saturating_sub(self.floor.load(Ordering::Relaxed)) <= window
    }

    pub(super) fn new_waiter(&self) -> u64 {
        let mut inner = self.inner.lock();
        inner.next_waiter += 1;
        inner.next_waiter
    }

    pub(super) fn forget(&self, waiter: u64) {
        let forgotten = self.inner.lock().forget(waiter);
        drop(forgotten);
    }

    pub(super) fn poll(&self, waiter: u64, span: &LogSnapshot, now: Tick, cx: &mut Context<'_>) -> Poll<()> {
        // Cloned outside the lock, as it is dropped there.
        let mut waker = Some(cx.waker().clone());
        let mut inner = self.inner.lock();
        let mut wake = Vec::new();
        if inner.wait.is_none() {
            let floor = inner.begin(span, now);
            wake = self.open(&mut inner, floor, span);
        } else if inner.copy_tail(span, now) {
            let floor = inner.reopen(span, now);
            wake = self.open(&mut inner, floor, span);
        } else if inner.deadline(span.stall).is_none_or(|deadline| now >= deadline) {
            inner.judge(span, now);
            wake = self.seek(&mut inner, span);
        }
        let forgotten = inner.forget(waiter);
        let ready = inner.wait.is_none();
        if !ready {
            inner.waiters.extend(waker.take().map(|waker| (waiter, waker)));
        }
        drop(inner);
        drop((forgotten, waker));
        wake.into_iter().for_each(Waker::wake);
        if ready { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Judges who stands still or is in the way, if somebody waits.
    pub(super) fn tick(&self, span: &LogSnapshot, now: Tick) {
        let mut inner = self.inner.lock();
        if inner.slow {
            inner.reinstate(span, now);
        }
        if inner.wait.is_none() {
            inner.doze(span, now);
            return;
        }
        let wake = if inner.copy_tail(span, now) {
            let floor = inner.reopen(span, now);
            self.open(&mut inner, floor, span)
        } else {
            let found = inner.look(span, now);
            if !found && inner.deadline(span.stall).is_some_and(|deadline| now < deadline) {
                return;
            }
            inner.judge(span, now);
            self.seek(&mut inner, span)
        };
        drop(inner);
        wake.into_iter().for_each(Waker::wake);
    }

    /// When a producer that waits must be told the time; `None` where none waits, though the wait of one that has gone may go on.
    pub(super) fn deadline(&self, stall: Duration) -> Option<Tick> {
        let inner = self.inner.lock();
        if inner.waiters.is_empty() { None } else { inner.deadline(stall) }
    }

    pub(super) fn members(&self) -> usize {
        let inner = self.inner.lock();
        inner.members.len() - inner.free.len()
    }
}

/// Places for links that are made at once, at the least.
const MIN_MEMBER_GROWTH: usize = 8;
/// Stall times that a slow link must keep up for.
const FORGIVEN: u32 = 10;

#[cfg(all(test, not(peerpool_loom)))]
mod tests;
