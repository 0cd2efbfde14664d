//! A few messages at the very end of a log, copied, for a link that has nothing else to write.

use smallvec::SmallVec;

use super::batch::Batch;
use super::segment::Mark;
use crate::base::ConnId;

/// Most messages of one; who finds more has enough to do that setting up a round does not count.
pub(super) const MESSAGES_MAX: usize = 8;

/// A copy of a few messages, and where they stand.
#[derive(Debug, Default)]
pub(in crate::link) struct Glance {
    pub(super) bytes: Vec<u8>,
    /// Where each message ends in them.
    pub(super) ends: SmallVec<[u32; MESSAGES_MAX]>,
    /// Before the first of them.
    pub(super) from: Mark,
}

/// Whose messages are left out: the link's own and those of the one it took the place of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Own {
    pub(super) conn: ConnId,
    pub(super) also: Option<ConnId>,
}

impl Own {
    pub(super) fn is(&self, conn: ConnId) -> bool {
        conn == self.conn || self.also == Some(conn)
    }
}

impl Glance {
    /// All of them. Never empty once it was filled.
    pub(in crate::link) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Behind the first so many messages.
    fn mark(&self, messages: usize) -> Mark {
        let Mark { number, offset, pos, seq, open } = self.from;
        let len = messages.checked_sub(1).map_or(0, |last| self.ends[last]);
        Mark { number, offset: offset + len, pos: pos + u64::from(len), seq: seq + messages as u64, open }
    }

    pub(super) fn end(&self) -> Mark {
        self.mark(self.ends.len())
    }

    /// Of these bytes `written` are on the line: leaves the rest of the message that has begun in `batch`, which must be
    /// empty, and returns the place behind it, and the bytes and the messages that are done with.
    pub(super) fn split(&self, written: usize, batch: &mut Batch) -> (Mark, u64, u64) {
        let whole = self.ends.iter().take_while(|end| **end as usize <= written).count();
        let done = self.mark(whole);
        let pos = self.from.pos + written as u64;
        if pos == done.pos || whole == self.ends.len() {
            return (done, done.pos, done.seq);
        }
        batch.keep(&self.bytes[written..self.ends[whole] as usize]);
        (self.mark(whole + 1), pos, done.seq)
    }
}
