//! The logs of one dialect, a class each, that the same links serve.

use std::sync::Arc;

use super::segment::Mark;
use super::view::Views;
use super::{Cursor, Hub, Log, LogConfig, Resume};
use crate::base::ConnId;

/// Logs of a family: urgent, normal, bulk.
pub const FAMILY: usize = 3;

/// Logs that links join together: what others may know of a link's cursors is then in one place.
#[derive(Debug)]
pub struct Family {
    logs: [Arc<Log>; FAMILY],
}

impl Family {
    /// Empty logs whose links sleep in `hub`.
    pub fn new(configs: [LogConfig; FAMILY], hub: &Arc<Hub>) -> Self {
        let mut place = 0;
        let logs = configs.map(|config| {
            place += 1;
            Log::at_place(config, Arc::clone(hub), place - 1)
        });
        Self { logs }
    }

    /// The logs.
    pub const fn logs(&self) -> &[Arc<Log>; FAMILY] {
        &self.logs
    }

    /// Cursors as of [`Log::join`], or, where the link replaces another, of [`Log::join_at`].
    ///
    /// # Cost
    /// As those, and one allocation.
    pub fn join(&self, conn: ConnId, from: Option<[Resume; FAMILY]>) -> [Cursor; FAMILY] {
        let places: [(Mark, Option<ConnId>); FAMILY] = std::array::from_fn(|at| match &from {
            Some(from) => (self.logs[at].find(from[at].seq), Some(from[at].conn)),
            None => (self.logs[at].end_mark(), None),
        });
        let views = Views::new(conn, places);
        std::array::from_fn(|at| self.logs[at].enter(Arc::clone(&views), places[at].0))
    }
}
