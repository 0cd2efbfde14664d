//! A few messages at the very end of a log, copied, for a link that has nothing else to write.

use super::batch::Batch;
use super::segment::Position;

/// Most messages of one; who finds more has enough to do that setting up a round does not count.
pub(super) const MAX_COPIED_MESSAGES: usize = 8;

/// Where a few messages end.
#[derive(Debug, Default)]
pub(super) struct MessageEnds {
    each: [u32; MAX_COPIED_MESSAGES],
    count: usize,
}

impl MessageEnds {
    /// Takes these, less `base` each; they must not be too many.
    pub(super) fn set(&mut self, ends: &[u32], base: u32) {
        self.count = ends.len().min(MAX_COPIED_MESSAGES);
        self.each.iter_mut().zip(ends).for_each(|(to, end)| *to = end - base);
    }

    pub(super) fn get(&self) -> &[u32] {
        &self.each[..self.count]
    }
}

/// A copy of a few messages, and where they stand.
#[derive(Debug, Default)]
pub(crate) struct TailCopy {
    pub(super) bytes: Vec<u8>,
    /// Where each message ends in them.
    pub(super) ends: MessageEnds,
    /// Before the first of them.
    pub(super) from: Position,
}

impl TailCopy {
    /// All of them. Never empty once it was filled.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Behind the first so many messages.
    fn position_at(&self, messages: usize) -> Position {
        let Position { number, offset, pos, seq, open } = self.from;
        let len = messages.checked_sub(1).map_or(0, |last| self.ends.get()[last]);
        Position { number, offset: offset + len, pos: pos + u64::from(len), seq: seq + messages as u64, open }
    }

    pub(super) fn end(&self) -> Position {
        self.position_at(self.ends.get().len())
    }

    /// Of these bytes `written` are on the line: leaves the rest of the message that has begun in `batch`, which must be
    /// empty, and returns the place behind it, and the bytes and the messages that are done with.
    pub(super) fn split(&self, written: usize, batch: &mut Batch) -> (Position, u64, u64) {
        let whole = self.ends.get().iter().take_while(|end| **end as usize <= written).count();
        let done = self.position_at(whole);
        let pos = self.from.pos + written as u64;
        if pos == done.pos || whole == self.ends.get().len() {
            return (done, done.pos, done.seq);
        }
        batch.keep(&self.bytes[written..self.ends.get()[whole] as usize]);
        (self.position_at(whole + 1), pos, done.seq)
    }
}
