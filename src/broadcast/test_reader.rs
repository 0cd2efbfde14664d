//! A connection that reads one log of a set, for the unit tests, the models, the integration tests,
//! the fuzz target and the bench: [`LogPositions`] and [`Cursor`] as the writer of a connection
//! uses them.
//!
//! Tests outside of the library include this file by its path. So it takes all names from the
//! module that includes it.

use std::sync::Arc;

use super::{
    Batch, ConnId, Cursor, CursorView, Fill, LOGS_PER_SET, Log, LogConfig, LogPositions, LogSet, ResumePoint,
    WakeSet,
};

/// The log of the set that is used; the others stay empty.
const LOG: usize = 1;

/// A log with the set that it belongs to. Dereferences to the log.
#[derive(Debug)]
pub(crate) struct TestLog {
    set: LogSet,
}

/// One connection's place in the log.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) positions: LogPositions,
    pub(crate) cursor: Cursor,
}

impl TestLog {
    pub(crate) fn new(config: LogConfig, wake_set: &Arc<WakeSet>) -> Self {
        Self { set: LogSet::new([config; LOGS_PER_SET], wake_set) }
    }

    pub(crate) fn join(&self, conn: ConnId) -> Reader {
        Reader::new(self.set.join(conn, None))
    }

    #[allow(dead_code)]
    pub(crate) fn join_at(&self, conn: ConnId, from: [ResumePoint; LOGS_PER_SET]) -> Reader {
        Reader::new(self.set.join(conn, Some(from)))
    }
}

impl std::ops::Deref for TestLog {
    type Target = Arc<Log>;

    fn deref(&self) -> &Arc<Log> {
        &self.set.logs()[LOG]
    }
}

#[allow(dead_code)]
impl Reader {
    fn new(positions: LogPositions) -> Self {
        Self { cursor: positions.cursor(LOG), positions }
    }

    pub(crate) fn has_unread(&self) -> bool {
        self.cursor.has_unread(self.positions.member(LOG))
    }

    pub(crate) fn fill(&mut self, max: usize, batch: &mut Batch) -> Fill {
        self.cursor.fill(self.positions.member(LOG), max, batch)
    }

    pub(crate) fn advance(&mut self, batch: &mut Batch, n: usize) {
        self.cursor.advance(batch, n);
    }

    pub(crate) fn publish(&mut self) {
        self.cursor.publish(self.positions.member(LOG));
    }

    /// As a writer whose stream is full.
    pub(crate) fn release(&mut self, batch: &mut Batch) {
        self.cursor.release(batch);
        self.cursor.mark_blocked(self.positions.member(LOG));
    }

    /// As a writer that has written everything goes to sleep and wakes up; `false` if there is
    /// something left to write.
    pub(crate) fn rest(&mut self) -> bool {
        let rests = self.positions.save(LOG, &self.cursor);
        if rests {
            self.cursor = self.positions.cursor(LOG);
        }
        rests
    }

    pub(crate) fn is_mid_chunk(&self, batch: &Batch) -> bool {
        self.cursor.is_mid_chunk(batch)
    }

    pub(crate) fn is_mid_message(&self) -> bool {
        self.cursor.is_mid_message()
    }

    pub(crate) fn view(&self) -> CursorView {
        self.positions.view(LOG)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.publish();
    }
}
