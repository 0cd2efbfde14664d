//! What lies under the log's one lock: sealed segments by number, and the open tail.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::batch::Batch;
use super::fast_path::TailCopy;
use super::segment::{Index, Position, Segment};
use crate::base::ConnId;

/// What must be dropped once the lock is released: the memory of others hangs on it.
pub(super) type Evicted = Vec<Arc<Segment>>;

/// Up to here a link copies what it has not read of the open tail, rather than sealing a segment so small that every
/// other link pays for its length in slices.
pub(super) const MAX_TAIL_COPY: u32 = 4 * 1024;
/// Most runs that one batch gathers.
const MAX_RUNS: usize = 64;

/// What a link found behind its place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Collected {
    /// The batch holds runs.
    Some,
    /// There is nothing behind this place.
    CaughtUp,
    /// What followed this place is gone.
    Lagging,
}

/// A block of memory that no longer grows: gone when every segment before `until` is.
#[derive(Debug)]
struct Retired {
    until: u64,
    bytes: usize,
    /// Its empty end, by which the whole is had again once no segment is left in it.
    rest: BytesMut,
}

/// The ring. Every method is one short critical section; what it evicts is handed_over out.
#[derive(Debug)]
pub(super) struct Ring {
    segments: VecDeque<Arc<Segment>>,
    /// Index of the open tail; its number is the one after the last segment's.
    tail: Index,
    /// Bytes of the open tail, at the end of the current block.
    buf: BytesMut,
    /// Size of the current block, which earlier segments may share with the tail.
    block: usize,
    retired: VecDeque<Retired>,
    /// Bytes of memory held: blocks, referenced payloads, indexes.
    charge: usize,
}

impl Ring {
    pub(super) fn new() -> Self {
        Self {
            segments: VecDeque::new(),
            tail: Index::new(0, 0, 0),
            buf: BytesMut::new(),
            block: 0,
            retired: VecDeque::new(),
            charge: 0,
        }
    }

    /// The place behind the last byte.
    pub(super) fn end(&self) -> Position {
        self.tail.position_at(self.tail.len())
    }

    /// Bytes ever appended.
    pub(super) fn end_pos(&self) -> u64 {
        self.tail.start + u64::from(self.tail.len())
    }

    /// The place of the oldest byte still held.
    pub(super) fn begin(&self) -> Position {
        self.segments.front().map_or_else(|| self.tail.position_at(0), |segment| segment.index.position_at(0))
    }

    /// Bytes of memory held.
    pub(super) const fn charge(&self) -> usize {
        self.charge
    }

    #[cfg(all(test, not(peerpool_loom)))]
    pub(super) fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Whether the current block has room for so many bytes.
    #[inline]
    pub(super) fn fits(&self, len: usize) -> bool {
        self.buf.capacity() - self.buf.len() >= len
    }

    /// Adds one message, which must fit, to the tail. `block` is the size of a block.
    #[inline]
    pub(super) fn append(&mut self, encoded: &[u8], origin: Option<ConnId>, block: usize) -> u64 {
        let seq = self.tail.seq + self.tail.messages();
        self.buf.extend_from_slice(encoded);
        self.charge += self.tail.push(self.buf.len() as u32, origin);
        // A tail of tiny messages costs more in its index than in bytes: it must become something that can be evicted.
        if self.tail.cost() >= block.max(4096) {
            self.seal();
        }
        seq
    }

    /// Adds one message in chunks, as a segment of its own.
    pub(super) fn append_pieces(
        &mut self,
        chunk_ends: Vec<u32>,
        pieces: Vec<Bytes>,
        ends: Vec<u32>,
        origin: Option<ConnId>,
    ) -> u64 {
        self.seal();
        let Index { number, start, seq, .. } = self.tail;
        let index = Index::of_chunks(number, start, seq, chunk_ends, origin);
        self.tail = Index::new(number + 1, start + u64::from(index.len()), seq + 1);
        self.push(Segment::pieces(index, pieces, ends));
        seq
    }

    fn push(&mut self, segment: Segment) {
        self.charge += segment.cost();
        self.segments.push_back(Arc::new(segment));
    }

    /// Makes the open tail a segment, without a copy.
    pub(super) fn seal(&mut self) {
        if self.buf.is_empty() {
            return;
        }
        let bytes = self.buf.split().freeze();
        self.charge -= self.tail.cost();
        let index = self.tail.cut();
        self.push(Segment::plain(index, bytes));
    }

    /// Leaves the current block to its segments and begins another, of `block` bytes; what is too much with it is evicted.
    ///
    /// If that was the last of a block and no link is about to write of it, that block is the new one: memory that is asked for
    /// and given back at each turn of the ring comes in pages that the system clears first.
    pub(super) fn rotate_block(&mut self, block: usize, limit: usize) -> Evicted {
        self.retire();
        let (evicted, rest) = self.evict(limit.saturating_sub(block));
        let mut buf = rest.unwrap_or_default();
        // Not a larger one: what it holds is what is charged.
        if !buf.try_reclaim(block) || buf.capacity() > block {
            buf = BytesMut::with_capacity(block);
        }
        self.buf = buf;
        self.block = block;
        self.charge += block;
        evicted
    }

    /// Seals the tail and leaves the current block to its segments.
    fn retire(&mut self) {
        self.seal();
        let (rest, bytes) = (std::mem::take(&mut self.buf), std::mem::take(&mut self.block));
        if bytes > 0 {
            self.retired.push_back(Retired { until: self.tail.number, bytes, rest });
        }
    }

    /// Lets go of the blocks that hold nothing any more; one of them.
    fn release_blocks(&mut self) -> Option<BytesMut> {
        let (first, mut rest) = (self.begin().number, None);
        while self.retired.front().is_some_and(|block| block.until <= first)
            && let Some(block) = self.retired.pop_front()
        {
            self.charge -= block.bytes;
            rest = Some(block.rest);
        }
        rest
    }

    /// Drops the oldest segments until what is held fits. What was in our own blocks is dropped here, and one of those blocks
    /// comes back if any was done with.
    pub(super) fn evict(&mut self, limit: usize) -> (Evicted, Option<BytesMut>) {
        let (mut evicted, mut rest) = (Evicted::new(), self.release_blocks());
        while self.charge > limit {
            let Some(segment) = self.segments.pop_front() else { break };
            self.charge -= segment.cost();
            if segment.is_borrowed() {
                evicted.push(segment);
            }
            rest = self.release_blocks().or(rest);
        }
        (evicted, rest)
    }

    /// Leaves the current block to its segments, if what is held is more than this: the block itself may be too large.
    pub(super) fn retire_above(&mut self, limit: usize) {
        if self.charge > limit {
            self.retire();
        }
    }

    /// Where message `seq` begins, or the beginning of all if it is gone, or the end if it has not come.
    pub(super) fn find(&self, seq: u64) -> Option<Position> {
        let begin = self.begin();
        if seq < begin.seq {
            return None;
        }
        if seq >= self.end().seq {
            return Some(self.end());
        }
        if seq >= self.tail.seq {
            return Some(self.tail.position_at(self.tail.begin_of(seq)));
        }
        let after = self.segments.partition_point(|segment| segment.index.seq <= seq);
        let index = &self.segments[after.checked_sub(1)?].index;
        Some(index.position_at(index.begin_of(seq)))
    }

    /// Copies what lies behind a place, if that is a few small messages of the open tail, none of them one's own.
    pub(super) fn copy_tail(&self, pos: u64, is_own: impl Fn(ConnId) -> bool, into: &mut TailCopy) -> bool {
        let tail = &self.tail;
        let Some(offset) = pos.checked_sub(tail.start).and_then(|offset| u32::try_from(offset).ok()) else {
            return false;
        };
        let unread = tail.len().saturating_sub(offset);
        if unread == 0 || unread > MAX_TAIL_COPY || !tail.few_behind(offset, is_own, &mut into.ends) {
            return false;
        }
        into.bytes.clear();
        into.bytes.extend_from_slice(&self.buf[offset as usize..]);
        let seq = tail.seq + tail.messages() - into.ends.get().len() as u64;
        into.from = Position { number: tail.number, offset, pos, seq, open: false };
        true
    }

    /// The number of the segment that holds what lies behind a place, and where there.
    fn locate(&self, pos: u64) -> (u64, u32) {
        let mut index = &self.tail;
        if pos < index.start {
            let after = self.segments.partition_point(|segment| segment.index.start <= pos);
            // Who asks has looked whether it is behind the ring.
            let Some(segment) = after.checked_sub(1).and_then(|at| self.segments.get(at)) else {
                return (0, 0);
            };
            index = &segment.index;
        }
        (index.number, (pos - index.start) as u32)
    }

    /// Takes what lies behind `at`, about `max` bytes, into the batch, whole segments at a time.
    ///
    /// Of the open tail a little is copied; more is sealed, but not by a link that has as much to write already: it
    /// comes back, and finds a segment as large as the moment made it.
    pub(super) fn collect(&mut self, at: Position, max: usize, batch: &mut Batch) -> Collected {
        let begin = self.begin();
        if at.pos < begin.pos {
            return Collected::Lagging;
        }
        // A segment that was read to its end may be gone without a loss.
        let (mut number, mut offset) = match at.number {
            Position::ANYWHERE => self.locate(at.pos),
            number if number < begin.number => (begin.number, 0),
            number => (number, at.offset),
        };
        let mut gathered = 0;
        while gathered < max && batch.runs() < MAX_RUNS {
            match self.segments.get((number - begin.number) as usize) {
                Some(segment) => {
                    let len = segment.index.len();
                    if offset < len {
                        gathered += (len - offset) as usize;
                        batch.push_shared(Arc::clone(segment), offset, len);
                    }
                    (number, offset) = (number + 1, 0);
                }
                None => {
                    let unread = self.tail.len() - offset;
                    if unread == 0 {
                        break;
                    }
                    if unread <= MAX_TAIL_COPY {
                        batch.push_copy(&self.tail, &self.buf, offset);
                        gathered += unread as usize;
                        break;
                    }
                    if gathered >= unread as usize {
                        break;
                    }
                    self.seal();
                }
            }
        }
        if gathered == 0 { Collected::CaughtUp } else { Collected::Some }
    }
}
