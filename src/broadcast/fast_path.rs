//! The fast path of a connection that has nothing else to write: a few messages at the end of a
//! log, copied.
//!
//! A paced broadcast finds almost every connection asleep with nothing left to write. Such a
//! connection copies what it missed out of the open tail, under the log's lock, and writes it at
//! once, without a cursor, a batch or a round of the writer. If the stream takes only a part,
//! [`TailCopy::split`] hands the rest to a cursor and its batch.

use super::batch::Batch;
use super::segment::Position;

/// Most messages of one copy. With more, setting up a round of the writer does not count.
pub(super) const MAX_COPIED_MESSAGES: usize = 8;

/// Where each of a few messages ends.
#[derive(Debug, Default)]
pub(super) struct MessageEnds {
    ends: [u32; MAX_COPIED_MESSAGES],
    count: usize,
}

impl MessageEnds {
    /// Takes these ends, less `base` each; at most [`MAX_COPIED_MESSAGES`].
    pub(super) fn set(&mut self, ends: &[u32], base: u32) {
        self.count = ends.len().min(MAX_COPIED_MESSAGES);
        self.ends.iter_mut().zip(ends).for_each(|(to, end)| *to = end - base);
    }

    pub(super) fn get(&self) -> &[u32] {
        &self.ends[..self.count]
    }
}

/// A copy of a few messages at the end of a log, and their position.
#[derive(Debug, Default)]
pub(crate) struct TailCopy {
    pub(super) bytes: Vec<u8>,
    /// Where each message ends in the bytes.
    pub(super) ends: MessageEnds,
    /// The position of the first byte.
    pub(super) from: Position,
}

impl TailCopy {
    /// The bytes of all messages. Never empty once it was filled.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The position behind the first `messages` messages.
    fn position_after(&self, messages: usize) -> Position {
        let Position { segment, offset, pos, seq, mid_message } = self.from;
        let len = messages.checked_sub(1).map_or(0, |last| self.ends.get()[last]);
        Position {
            segment,
            offset: offset + len,
            pos: pos + u64::from(len),
            seq: seq + messages as u64,
            mid_message,
        }
    }

    /// The position behind the last message.
    pub(super) fn end(&self) -> Position {
        self.position_after(self.ends.get().len())
    }

    /// Splits the copy after a write of its first `written` bytes. Leaves the rest of the message
    /// that has begun in `batch`, which must be empty. Returns the position behind that message,
    /// and the bytes and messages written.
    pub(super) fn split(&self, written: usize, batch: &mut Batch) -> (Position, u64, u64) {
        let whole = self.ends.get().iter().take_while(|end| **end as usize <= written).count();
        let done = self.position_after(whole);
        let pos = self.from.pos + written as u64;
        if pos == done.pos || whole == self.ends.get().len() {
            return (done, done.pos, done.seq);
        }
        batch.set_partial_chunk(&self.bytes[written..self.ends.get()[whole] as usize]);
        (self.position_after(whole + 1), pos, done.seq)
    }
}
