//! What became of one message at one connection, and the shared state of cursors that the answer
//! comes from.
//!
//! A connection publishes how far it has written in a few atomics, which outlive the connection.
//! Receipts, back-pressure and a successor of the connection read them; only the connection's own
//! task writes them.

use std::sync::Arc;

use super::log_set::LOGS_PER_SET;
use super::segment::Position;
use super::types::Appended;
use crate::base::ConnId;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use crate::sync::{Mutex, OnceLock};

/// Most gaps that are remembered for one cursor. A message before the oldest of them is
/// [`Receipt::Expired`].
const MAX_GAPS: usize = 32;

/// What became of one message at one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Receipt {
    /// Its last byte was handed to the stream (over TLS: flushed). The peer's application may not
    /// have it yet.
    Written,
    /// The connection lagged and skipped it.
    Skipped,
    /// The message came from this peer.
    Origin,
    /// Not written yet.
    Behind,
    /// The connection ended before the whole message was written.
    LeftBefore,
    /// The connection ended after the message was written.
    LeftAfter,
    /// The connection has skipped messages so often since then that the answer is forgotten.
    Expired,
    /// The connection joined after the append.
    NotJoined,
}

/// Where the successor of a connection begins in one log: see
/// [`LogSet::join`](super::LogSet::join).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResumePoint {
    pub(super) seq: u64,
    pub(super) conn: ConnId,
}

/// A read-only view of one cursor. It outlives the connection, so that receipts stay available.
/// Clones share it.
#[derive(Clone, Debug)]
pub struct CursorView {
    states: Arc<CursorStates>,
    index: usize,
}

/// The shared states of one connection's cursors in the logs of a [set](super::LogSet), in one
/// allocation.
#[derive(Debug)]
pub(crate) struct CursorStates {
    conn: ConnId,
    by_log: [CursorState; LOGS_PER_SET],
}

/// The shared state of one cursor. The connection that owns the cursor is the only writer.
#[derive(Debug)]
pub(super) struct CursorState {
    /// The first message that this connection has to write.
    start: u64,
    /// Every message before this one was written, skipped, or came from the peer. Authority for
    /// receipts; its release pairs with the acquire in `status_of`.
    written: AtomicU64,
    /// Bytes of the log before the position. Hint for back-pressure; its release pairs with the
    /// acquire of `position`.
    pos: AtomicU64,
    /// Whether producers wait for this connection. Ordered against `pos` by two sequentially
    /// consistent fences: `publish` on this side, `watch` on the other.
    watched: AtomicBool,
    /// Whether the stream was full at the end of the last write of this log. Hint for
    /// back-pressure.
    blocked: AtomicBool,
    left: AtomicBool,
    /// What most connections never need. Set before the first gap is published as written.
    rare: OnceLock<Box<RareState>>,
}

#[derive(Debug, Default)]
struct RareState {
    /// The connection that this one replaced. Its frames came from the same peer.
    predecessor: Option<ConnId>,
    skipped: AtomicU64,
    gaps: Mutex<Gaps>,
}

#[derive(Debug, Default)]
struct Gaps {
    /// Half-open ranges of message numbers, oldest first.
    ranges: Vec<(u64, u64)>,
    /// Gaps before this message are forgotten.
    known_from: u64,
}

impl CursorStates {
    /// For a connection that begins at these positions, each with the connection it replaces there.
    pub(super) fn new(conn: ConnId, starts: [(Position, Option<ConnId>); LOGS_PER_SET]) -> Arc<Self> {
        let by_log = starts.map(|(at, predecessor)| CursorState::new(predecessor, at.seq, at.pos));
        Arc::new(Self { conn, by_log })
    }

    /// The connection.
    pub(crate) const fn conn(&self) -> ConnId {
        self.conn
    }

    /// What others may know of the cursor in one log.
    pub(crate) fn view(self: &Arc<Self>, index: usize) -> CursorView {
        CursorView { states: Arc::clone(self), index }
    }

    /// Where a successor begins in each log: see
    /// [`LogPositions::resume_points`](super::LogPositions::resume_points).
    pub(crate) fn resume_points(&self) -> [ResumePoint; LOGS_PER_SET] {
        self.by_log.each_ref().map(|state| ResumePoint { seq: state.written(), conn: self.conn })
    }

    pub(super) fn of_log(&self, index: usize) -> &CursorState {
        &self.by_log[index]
    }
}

impl CursorView {
    fn state(&self) -> &CursorState {
        self.states.of_log(self.index)
    }

    /// The connection.
    pub fn conn(&self) -> ConnId {
        self.states.conn
    }

    /// The first message that this connection has to write.
    pub fn start(&self) -> u64 {
        self.state().start
    }

    /// Messages that this connection skipped because it lagged.
    pub fn skipped(&self) -> u64 {
        self.state().skipped()
    }

    /// Every message before this one was written, skipped, or came from the peer.
    pub fn written(&self) -> u64 {
        self.state().written()
    }

    /// What became of a message.
    ///
    /// # Cost
    /// Two atomic loads; a short lock for a connection that has ever lagged.
    pub fn status_of(&self, message: &Appended) -> Receipt {
        self.state().status_of(self.states.conn, message)
    }

    /// Where a successor of this connection begins: see
    /// [`LogPositions::resume_points`](super::LogPositions::resume_points).
    pub fn resume_point(&self) -> ResumePoint {
        self.states.resume_points()[self.index]
    }
}

impl CursorState {
    fn new(predecessor: Option<ConnId>, start: u64, pos: u64) -> Self {
        let rare = match predecessor {
            None => OnceLock::new(),
            Some(_) => OnceLock::from(Box::new(RareState { predecessor, ..RareState::default() })),
        };
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
    pub(super) fn predecessor(&self) -> Option<ConnId> {
        self.rare.get()?.predecessor
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
        if message.origin.is_some()
            && (message.origin == Some(conn) || message.origin == self.predecessor())
        {
            return Receipt::Origin;
        }
        // `left` first: once it is set, `written` no longer moves.
        let left = self.left.load(Ordering::Acquire);
        let written = self.written.load(Ordering::Acquire);
        if seq >= written {
            return if left { Receipt::LeftBefore } else { Receipt::Behind };
        }
        // The acquire of `written` saw a store that came after the gap was counted and recorded.
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

    /// Bytes of the log before the position.
    pub(super) fn position(&self) -> u64 {
        self.pos.load(Ordering::Acquire)
    }

    /// Publishes how much is written. Returns whether producers wait for this connection.
    pub(super) fn publish(&self, pos: u64, seq: u64) -> bool {
        self.written.store(seq, Ordering::Release);
        self.blocked.store(false, Ordering::Relaxed);
        self.pos.store(pos, Ordering::Release);
        // Pairs with the fence in `watch`: this side sees the watch, or the watching side sees the
        // position.
        fence(Ordering::SeqCst);
        self.watched.load(Ordering::Relaxed)
    }

    /// Records that the stream is full, after what was written is published.
    pub(super) fn set_blocked(&self) {
        self.blocked.store(true, Ordering::Relaxed);
    }

    /// Whether the peer keeps this connection from writing. If not, its task has not had its turn.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }

    /// Begins to wait for this connection, and returns its position.
    pub(super) fn watch(&self) -> u64 {
        self.watched.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.position()
    }

    pub(super) fn unwatch(&self) {
        self.watched.store(false, Ordering::Relaxed);
    }

    /// Records that the messages from `from` up to `to` are skipped. Call it before they are
    /// published as written.
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

    pub(super) fn set_left(&self) {
        self.left.store(true, Ordering::Release);
    }
}
