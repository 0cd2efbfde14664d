//! The logs of one dialect, a class each, that the same links serve.

use std::sync::Arc;

use super::cursor::{LogCursor, LogMember};
use super::fast_path::TailCopy;
use super::receipt::CursorStates;
use super::segment::Position;
use super::{Log, LogConfig, ResumePoint, WakeSet};
use crate::base::ConnId;

/// Logs of a log_set: urgent, normal, bulk.
pub const LOGS_PER_SET: usize = 3;

/// Logs that links join together: what others may know of a link's cursors is then in one place.
#[derive(Debug)]
pub struct LogSet {
    logs: Arc<[Arc<Log>; LOGS_PER_SET]>,
}

impl LogSet {
    /// Empty logs whose links sleep in `wake_set`.
    pub fn new(configs: [LogConfig; LOGS_PER_SET], wake_set: &Arc<WakeSet>) -> Self {
        let mut place = 0;
        let logs = configs.map(|config| {
            place += 1;
            Log::at_place(config, Arc::clone(wake_set), place - 1)
        });
        Self { logs: Arc::new(logs) }
    }

    /// The logs.
    pub fn logs(&self) -> &[Arc<Log>; LOGS_PER_SET] {
        &self.logs
    }

    /// A link's places as of [`Log::join`], or, where it replaces another, of [`Log::join_at`].
    ///
    /// # Cost
    /// As those, and one allocation.
    pub fn join(&self, conn: ConnId, from: Option<[ResumePoint; LOGS_PER_SET]>) -> LogPositions {
        let places: [(Position, Option<ConnId>); LOGS_PER_SET] = std::array::from_fn(|at| match &from {
            Some(from) => (self.logs[at].find(from[at].seq), Some(from[at].conn)),
            None => (self.logs[at].end_position(), None),
        });
        let views = CursorStates::new(conn, places);
        let seats = std::array::from_fn(|at| self.logs[at].gate.join(Arc::clone(&views)));
        LogPositions { logs: Arc::clone(&self.logs), views, pos: places.map(|(mark, _)| mark.pos), seats }
    }
}

/// One link's places in the logs of a log_set. What is kept of them while the link sleeps: everything before them is written and
/// published. Dropping it leaves the logs.
#[derive(Debug)]
pub struct LogPositions {
    logs: Arc<[Arc<Log>; LOGS_PER_SET]>,
    views: Arc<CursorStates>,
    /// Bytes behind it in each log, while it sleeps: what its views say too, but beside each other and with nothing else in
    /// between, so that a link that wakes finds with one look which have news.
    pos: [u64; LOGS_PER_SET],
    /// Where its entry is among those that producers may wait for, in each.
    seats: [u32; LOGS_PER_SET],
}

impl LogPositions {
    /// Of the log of this place.
    pub(crate) fn member(&self, at: usize) -> LogMember<'_> {
        LogMember { log: &self.logs[at], views: &self.views, seat: self.seats[at] }
    }

    pub(crate) const fn states(&self) -> &Arc<CursorStates> {
        &self.views
    }

    /// Which logs have something behind it.
    pub(crate) fn unread(&self) -> [bool; LOGS_PER_SET] {
        std::array::from_fn(|at| self.logs[at].end_pos() != self.pos[at])
    }

    /// Copies what is behind, if that is a few small messages, none of them this peer's own.
    ///
    /// # Cost
    /// The log's short lock, and a copy of at most 4 KiB.
    pub(crate) fn copy_tail(&self, at: usize, into: &mut TailCopy) -> bool {
        let member = self.member(at);
        member.log.copy_tail(self.pos[at], member, into)
    }

    /// What was copied is written: it is behind that.
    pub(crate) fn mark_written(&mut self, at: usize, glance: &TailCopy) {
        let end = glance.end();
        self.pos[at] = end.pos;
        self.member(at).publish(end.pos, end.seq);
    }

    /// Where a stride begins.
    pub(crate) fn cursor(&self, at: usize) -> LogCursor {
        let seq = self.member(at).view().written();
        LogCursor::from(Position {
            number: Position::ANYWHERE,
            offset: 0,
            pos: self.pos[at],
            seq,
            open: false,
        })
    }

    /// Takes a stride's end as the new place; `false` where the stride is not to be given up yet.
    pub(crate) fn save(&mut self, at: usize, stride: &LogCursor) -> bool {
        stride.resting_pos().map(|pos| self.pos[at] = pos).is_some()
    }
}

impl Drop for LogPositions {
    fn drop(&mut self) {
        (0..LOGS_PER_SET).for_each(|at| self.member(at).leave());
    }
}
