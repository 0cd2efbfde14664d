//! What others may know of a cursor: where it began, what it has written, what it skipped.

use std::sync::Arc;

use super::segment::Position;
use super::{Appended, LOGS_PER_SET};
use crate::base::ConnId;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use crate::sync::{Mutex, OnceLock};

/// Most gaps a view remembers; of what is older than a forgotten one it says [`Receipt::Expired`].
const MAX_GAPS: usize = 32;

/// What became of one message at one link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Receipt {
    /// Its last byte was handed_over to the stream (over TLS: flushed). Not that the application at the far end has it.
    Written,
    /// The link lagged and went past it.
    Skipped,
    /// The message came from this very peer.
    Origin,
    /// Not written yet.
    Behind,
    /// The link ended before it was written whole.
    LeftBefore,
    /// The link ended after it was written.
    LeftAfter,
    /// So many gaps ago that it is no longer known.
    Expired,
    /// The link joined later.
    NotJoined,
}

/// Where the successor of a link begins: see [`Log::join_at`](super::Log::join_at).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResumePoint {
    pub(super) seq: u64,
    pub(super) conn: ConnId,
}

/// The shared part of a cursor. It outlives the cursor, so that a receipt can still be asked for. Clones are the same.
#[derive(Clone, Debug)]
pub struct CursorView {
    all: Arc<CursorStates>,
    at: usize,
}

/// The shared parts of the cursors that one link has in a [log_set](super::LogSet) of logs, in one allocation.
#[derive(Debug)]
pub(crate) struct CursorStates {
    conn: ConnId,
    each: [CursorState; LOGS_PER_SET],
}

/// The shared part of one cursor. The link that owns the cursor is the only writer.
#[derive(Debug)]
pub(super) struct CursorState {
    /// The first message this link is answerable for.
    start: u64,
    /// Every message before this one was written, skipped, or the peer's own. Authority for receipts; release pairs with
    /// the acquire in `status_of`.
    written: AtomicU64,
    /// Bytes of the log that this link has behind it. Hint for back-pressure; release pairs with `position`'s acquire.
    pos: AtomicU64,
    /// Whether producers wait for this very link. Pairs with `pos` through two sequentially consistent fences:
    /// `publish` here, `watch` there.
    watched: AtomicBool,
    /// Whether the link, since it last wrote anything of this log, found its stream full. Hint for back-pressure.
    blocked: AtomicBool,
    left: AtomicBool,
    /// What most links never need. Set at the latest before a gap is published as behind.
    rare: OnceLock<Box<RareState>>,
}

#[derive(Debug, Default)]
struct RareState {
    /// The link that this one replaced, whose frames came from the same peer.
    also: Option<ConnId>,
    skipped: AtomicU64,
    gaps: Mutex<Gaps>,
}

#[derive(Debug, Default)]
struct Gaps {
    /// Half-open ranges, oldest first.
    ranges: Vec<(u64, u64)>,
    /// Gaps before this message were forgotten.
    known_from: u64,
}

impl CursorStates {
    /// Of a link that begins at these places, each the successor of what is beside it, if it is one.
    pub(super) fn new(conn: ConnId, places: [(Position, Option<ConnId>); LOGS_PER_SET]) -> Arc<Self> {
        Arc::new(Self { conn, each: places.map(|(at, also)| CursorState::new(also, at.seq, at.pos)) })
    }

    /// The connection.
    pub(crate) const fn conn(&self) -> ConnId {
        self.conn
    }

    /// What others may know of the cursor in the log of this place.
    pub(crate) fn view(self: &Arc<Self>, at: usize) -> CursorView {
        CursorView { all: Arc::clone(self), at }
    }

    /// Where a successor begins in each log.
    pub(crate) fn resume_points(&self) -> [ResumePoint; LOGS_PER_SET] {
        self.each.each_ref().map(|view| view.resume(self.conn))
    }

    pub(super) fn at(&self, at: usize) -> &CursorState {
        &self.each[at]
    }
}

impl CursorView {
    fn view(&self) -> &CursorState {
        self.all.at(self.at)
    }

    /// The connection.
    pub fn conn(&self) -> ConnId {
        self.all.conn
    }

    /// The first message this link is answerable for.
    pub fn start(&self) -> u64 {
        self.view().start
    }

    /// Messages this link went past because it lagged.
    pub fn skipped(&self) -> u64 {
        self.view().skipped()
    }

    /// Every message before this one was written, skipped, or the peer's own.
    pub fn written(&self) -> u64 {
        self.view().written()
    }

    /// What became of a message.
    ///
    /// # Cost
    /// Two atomic loads; for a link that ever lagged also its short lock.
    pub fn status_of(&self, message: &Appended) -> Receipt {
        self.view().status_of(self.all.conn, message)
    }

    /// Where a successor of this link begins: with the first message that was not written whole. Exact once this link
    /// has stopped; before that, the successor may write again what this one still writes.
    pub fn resume(&self) -> ResumePoint {
        self.view().resume(self.all.conn)
    }
}

impl CursorState {
    fn new(also: Option<ConnId>, start: u64, pos: u64) -> Self {
        let rare = also.map_or_else(OnceLock::new, |_| {
            OnceLock::from(Box::new(RareState { also, ..RareState::default() }))
        });
        Self {
            start,
            written: AtomicU64::new(start),
            pos: AtomicU64::new(pos),
            watched: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
            left: AtomicBool::new(false),
            rare,
        }
    }

    /// The connection that this one replaced.
    pub(super) fn also(&self) -> Option<ConnId> {
        self.rare.get()?.also
    }

    pub(super) fn skipped(&self) -> u64 {
        self.rare.get().map_or(0, |rare| rare.skipped.load(Ordering::Relaxed))
    }

    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    fn status_of(&self, conn: ConnId, message: &Appended) -> Receipt {
        let seq = message.seq;
        if seq < self.start {
            return Receipt::NotJoined;
        }
        if message.origin.is_some() && (message.origin == Some(conn) || message.origin == self.also()) {
            return Receipt::Origin;
        }
        // `left` first: once it is set, `written` does not move any more.
        let left = self.left.load(Ordering::Acquire);
        let written = self.written.load(Ordering::Acquire);
        if seq >= written {
            return if left { Receipt::LeftBefore } else { Receipt::Behind };
        }
        // The acquire of `written` saw a store that came after the gap was counted and noted.
        if let Some(rare) = self.rare.get()
            && rare.skipped.load(Ordering::Relaxed) > 0
        {
            let gaps = rare.gaps.lock();
            let after = gaps.ranges.partition_point(|&(from, _)| from <= seq);
            if after.checked_sub(1).is_some_and(|at| seq < gaps.ranges[at].1) {
                return Receipt::Skipped;
            }
            if seq < gaps.known_from {
                return Receipt::Expired;
            }
        }
        if left { Receipt::LeftAfter } else { Receipt::Written }
    }

    fn resume(&self, conn: ConnId) -> ResumePoint {
        ResumePoint { seq: self.written(), conn }
    }

    /// Bytes of the log behind this link.
    pub(super) fn position(&self) -> u64 {
        self.pos.load(Ordering::Acquire)
    }

    /// Says how far the link has come. Returns whether somebody waits for just that.
    pub(super) fn publish(&self, pos: u64, seq: u64) -> bool {
        self.written.store(seq, Ordering::Release);
        self.blocked.store(false, Ordering::Relaxed);
        self.pos.store(pos, Ordering::Release);
        // Pairs with the fence in `watch`: either this link sees that it is watched, or the watcher sees where it is.
        fence(Ordering::SeqCst);
        self.watched.load(Ordering::Relaxed)
    }

    /// Says that the stream is full, after what was written was published.
    pub(super) fn set_blocked(&self) {
        self.blocked.store(true, Ordering::Relaxed);
    }

    /// Whether it is the far end that keeps this link from writing, not that its task has not had its turn.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }

    /// Begins to wait for this link, and returns where it is.
    pub(super) fn watch(&self) -> u64 {
        self.watched.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.position()
    }

    pub(super) fn unwatch(&self) {
        self.watched.store(false, Ordering::Relaxed);
    }

    /// Notes that the messages from `from` up to `to` were passed by. Before they are published as behind.
    pub(super) fn record_gap(&self, from: u64, to: u64) {
        let rare = self.rare.get_or_init(Box::default);
        let mut gaps = rare.gaps.lock();
        match gaps.ranges.last_mut() {
            Some(last) if last.1 == from => last.1 = to,
            _ => {
                if gaps.ranges.len() == MAX_GAPS {
                    gaps.known_from = gaps.ranges.remove(0).1;
                }
                gaps.ranges.push((from, to));
            }
        }
        drop(gaps);
        rare.skipped.fetch_add(to - from, Ordering::Relaxed);
    }

    pub(super) fn leave(&self) {
        self.left.store(true, Ordering::Release);
    }
}
