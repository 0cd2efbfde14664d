//! The logs of one protocol, one a lane, and the positions of one connection in them.
//!
//! All connections of a protocol join all of its logs at once. What a connection keeps about them
//! is one allocation, and while it sleeps one number a log decides whether it has something to
//! read.

use std::sync::Arc;

use super::cursor::Cursor;
use super::fast_path::TailCopy;
use super::log::Log;
use super::receipt::{CursorState, CursorStates, CursorView, ResumePoint};
use super::segment::Position;
use super::types::LogConfig;
use super::wake_set::WakeSet;
use crate::base::ConnId;

/// Logs in a set: urgent, normal, bulk.
pub const LOGS_PER_SET: usize = 3;

/// The logs of one protocol, which all of its connections join together.
#[derive(Debug)]
pub struct LogSet {
    logs: Arc<[Arc<Log>; LOGS_PER_SET]>,
}

impl LogSet {
    /// Empty logs that wake the connections of `wake_set`.
    pub fn new(configs: [LogConfig; LOGS_PER_SET], wake_set: &Arc<WakeSet>) -> Self {
        let mut index = 0;
        let logs = configs.map(|config| {
            index += 1;
            Log::new(config, Arc::clone(wake_set), index - 1)
        });
        Self { logs: Arc::new(logs) }
    }

    /// The logs.
    pub fn logs(&self) -> &[Arc<Log>; LOGS_PER_SET] {
        &self.logs
    }

    /// The positions of a new connection: the end of each log. A connection that replaces another
    /// begins at `from`, with the first message that the other has not written whole, and skips
    /// frames that came from either.
    ///
    /// Call it before the peer's key goes live. If the ring no longer holds the message at `from`,
    /// the first [`Cursor::fill`] follows the lag policy.
    ///
    /// # Cost
    /// One allocation; two short locks a log, and a binary search a log for a replacement.
    pub fn join(&self, conn: ConnId, from: Option<[ResumePoint; LOGS_PER_SET]>) -> LogPositions {
        let starts: [(Position, Option<ConnId>); LOGS_PER_SET] = std::array::from_fn(|index| match &from {
            Some(from) => (self.logs[index].position_of(from[index].seq), Some(from[index].conn)),
            None => (self.logs[index].end_position(), None),
        });
        let states = CursorStates::new(conn, starts);
        let members = std::array::from_fn(|index| self.logs[index].join(Arc::clone(&states)));
        LogPositions { logs: Arc::clone(&self.logs), states, pos: starts.map(|(at, _)| at.pos), members }
    }
}

/// The positions of one connection in the logs of a set while it sleeps: everything before them is
/// written and published. Dropping it leaves the logs.
#[derive(Debug)]
pub struct LogPositions {
    logs: Arc<[Arc<Log>; LOGS_PER_SET]>,
    states: Arc<CursorStates>,
    /// Bytes before the position in each log. The states hold the same numbers; here they lie
    /// beside each other, so that one cache line shows a connection that wakes which logs have
    /// something to read.
    pos: [u64; LOGS_PER_SET],
    /// The connection's index among the members of each log, for back-pressure.
    members: [u32; LOGS_PER_SET],
}

impl LogPositions {
    /// The connection as a member of one log.
    pub fn member(&self, index: usize) -> LogMember<'_> {
        LogMember { log: &self.logs[index], states: &self.states, member: self.members[index] }
    }

    /// What the connection shares about all of its cursors.
    pub(crate) const fn states(&self) -> &Arc<CursorStates> {
        &self.states
    }

    /// What others may know of the cursor in one log.
    pub fn view(&self, index: usize) -> CursorView {
        self.states.view(index)
    }

    /// Where a successor of this connection begins in each log. Exact once this connection has
    /// stopped; before that, the successor may write messages again that this one still writes.
    pub fn resume_points(&self) -> [ResumePoint; LOGS_PER_SET] {
        self.states.resume_points()
    }

    /// Which logs have something to read.
    ///
    /// # Cost
    /// One load a log.
    pub fn unread(&self) -> [bool; LOGS_PER_SET] {
        std::array::from_fn(|index| self.logs[index].end_pos() != self.pos[index])
    }

    /// Copies what one log has to read, if that is a few small messages, none of them from this
    /// peer.
    ///
    /// # Cost
    /// The log's short lock, and a copy of at most 4 KiB.
    pub(crate) fn copy_tail(&self, index: usize, into: &mut TailCopy) -> bool {
        let member = self.member(index);
        member.log.copy_tail(self.pos[index], member, into)
    }

    /// Moves behind what was copied, because all of it is written.
    pub(crate) fn mark_written(&mut self, index: usize, copy: &TailCopy) {
        let end = copy.end();
        self.pos[index] = end.pos;
        self.member(index).publish(end.pos, end.seq);
    }

    /// A cursor that begins at the position in one log.
    pub fn cursor(&self, index: usize) -> Cursor {
        let seq = self.member(index).state().written();
        Cursor::from(Position {
            segment: Position::UNKNOWN_SEGMENT,
            offset: 0,
            pos: self.pos[index],
            seq,
            mid_message: false,
        })
    }

    /// Takes over the position of a cursor. Returns `false`, and changes nothing, while the cursor
    /// is still needed.
    pub fn save(&mut self, index: usize, cursor: &Cursor) -> bool {
        cursor.resting_pos().map(|pos| self.pos[index] = pos).is_some()
    }
}

impl Drop for LogPositions {
    fn drop(&mut self) {
        (0..LOGS_PER_SET).for_each(|index| self.member(index).leave());
    }
}

/// One connection as a member of one log: the log, and what the connection shares about its cursor
/// there.
#[derive(Clone, Copy, Debug)]
pub struct LogMember<'a> {
    pub(super) log: &'a Log,
    pub(super) states: &'a CursorStates,
    member: u32,
}

impl LogMember<'_> {
    pub(super) fn state(&self) -> &CursorState {
        self.states.of_log(self.log.index())
    }

    /// Whether frames that came over this connection came from the peer itself: over its
    /// connection, or over the one that was replaced.
    pub(super) fn is_own(&self, conn: ConnId) -> bool {
        conn == self.states.conn() || self.state().predecessor() == Some(conn)
    }

    /// Publishes how much is written, and moves a wait for room on if it waits for this connection.
    pub(super) fn publish(&self, pos: u64, seq: u64) {
        if self.state().publish(pos, seq) {
            self.log.member_progressed(self.member);
        }
    }

    fn leave(&self) {
        self.state().set_left();
        self.log.leave(self.member);
    }
}
