//! The content of a log, under its one lock: sealed segments by number, and the open tail.
//!
//! ```text
//! block 1 (retired)        block 2 (retired)   block 3 (current)
//! [segment 4 | segment 5]  [segment 6 ]        [segment 8 | open tail |   free   ]
//!                               [segment 7: pieces of a large message, not copied]
//! ```
//!
//! Small messages are copied into the open tail, at the end of the current block. The first
//! connection that has to write more than [`MAX_TAIL_COPY`] bytes of the tail seals it: the bytes
//! so far become a segment that all connections share, and the tail goes on behind it in the same
//! block. A full block is retired. It is freed, or reused, once all of its segments are evicted.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::batch::Batch;
use super::fast_path::TailCopy;
use super::segment::{ChunkIndex, Position, Segment};
use crate::base::ConnId;

/// Most unread bytes of the open tail that a connection copies. Sealing so little would leave
/// segments so small that every other connection pays in slices for it.
pub(super) const MAX_TAIL_COPY: u32 = 4 * 1024;
/// Most runs that one batch collects.
const MAX_RUNS: usize = 64;
/// Bytes of the tail's index from which it is sealed, at least.
const MIN_SEALED_INDEX: usize = 4096;

/// Segments to drop after the lock is released, because they hold memory whose owner may run code
/// of its own.
pub(super) type Evicted = Vec<Arc<Segment>>;

/// What a connection found behind its position.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Collected {
    /// The batch holds runs.
    Some,
    /// Nothing is behind this position.
    CaughtUp,
    /// What followed this position is evicted.
    Lagging,
}

/// A block of memory that no longer grows. It is free when every segment before `until` is evicted.
#[derive(Debug)]
struct RetiredBlock {
    until: u64,
    bytes: usize,
    /// The empty end of the block. It gives the whole block back once no segment refers to it.
    end: BytesMut,
}

/// The ring. Every method is one short critical section and hands out what it evicts.
#[derive(Debug)]
pub(super) struct Ring {
    segments: VecDeque<Arc<Segment>>,
    /// Index of the open tail. Its segment number is the one after the last segment's.
    tail: ChunkIndex,
    /// Bytes of the open tail, at the end of the current block.
    buf: BytesMut,
    /// Size of the current block, which earlier segments may share with the tail.
    block_bytes: usize,
    retired: VecDeque<RetiredBlock>,
    /// Bytes of memory held: blocks, referenced payloads, indexes.
    memory: usize,
}

impl Ring {
    pub(super) fn new() -> Self {
        Self {
            segments: VecDeque::new(),
            tail: ChunkIndex::new(0, 0, 0),
            buf: BytesMut::new(),
            block_bytes: 0,
            retired: VecDeque::new(),
            memory: 0,
        }
    }

    /// The position behind the last byte.
    pub(super) fn end(&self) -> Position {
        self.tail.position_at(self.tail.len())
    }

    /// Bytes ever appended.
    pub(super) fn end_pos(&self) -> u64 {
        self.tail.start_pos + u64::from(self.tail.len())
    }

    /// The position of the oldest byte held.
    pub(super) fn begin(&self) -> Position {
        self.segments.front().map_or_else(|| self.tail.position_at(0), |segment| segment.index.position_at(0))
    }

    /// Bytes of memory held.
    pub(super) const fn memory(&self) -> usize {
        self.memory
    }

    #[cfg(all(test, not(peerpool_loom)))]
    pub(super) fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Whether the current block has room for `len` bytes.
    #[inline]
    pub(super) fn fits(&self, len: usize) -> bool {
        self.buf.capacity() - self.buf.len() >= len
    }

    /// Adds one message, which must fit, to the tail. Returns its number. `block_bytes` is the size
    /// of a block.
    #[inline]
    pub(super) fn append(&mut self, encoded: &[u8], origin: Option<ConnId>, block_bytes: usize) -> u64 {
        let seq = self.tail.first_seq + self.tail.messages();
        self.buf.extend_from_slice(encoded);
        self.memory += self.tail.push(self.buf.len() as u32, origin);
        // The index of a tail of tiny messages takes more memory than their bytes: seal it, so that
        // it can be evicted.
        if self.tail.memory() >= block_bytes.max(MIN_SEALED_INDEX) {
            self.seal();
        }
        seq
    }

    /// Adds one message in chunks, as a segment of its own. Returns its number.
    pub(super) fn append_pieces(
        &mut self,
        chunk_ends: Vec<u32>,
        pieces: Vec<Bytes>,
        piece_ends: Vec<u32>,
        origin: Option<ConnId>,
    ) -> u64 {
        self.seal();
        let ChunkIndex { segment, start_pos, first_seq: seq, .. } = self.tail;
        let index = ChunkIndex::of_chunks(segment, start_pos, seq, chunk_ends, origin);
        self.tail = ChunkIndex::new(segment + 1, start_pos + u64::from(index.len()), seq + 1);
        self.push(Segment::pieces(index, pieces, piece_ends));
        seq
    }

    fn push(&mut self, segment: Segment) {
        self.memory += segment.memory();
        self.segments.push_back(Arc::new(segment));
    }

    /// Makes a segment of the open tail, without a copy.
    fn seal(&mut self) {
        if self.buf.is_empty() {
            return;
        }
        let bytes = self.buf.split().freeze();
        self.memory -= self.tail.memory();
        let index = self.tail.cut();
        self.push(Segment::contiguous(index, bytes));
    }

    /// Retires the current block and begins another of `block_bytes` bytes. Evicts what no longer
    /// fits.
    ///
    /// A block whose last segment was evicted becomes the new one, unless a connection is about to
    /// write of it. Memory that is freed and allocated at each turn of the ring would come in pages
    /// that the system clears first.
    pub(super) fn rotate_block(&mut self, block_bytes: usize, limit: usize) -> Evicted {
        self.retire();
        let (evicted, free) = self.evict(limit.saturating_sub(block_bytes));
        let mut buf = free.unwrap_or_default();
        // A larger block would hold more than is counted.
        if !buf.try_reclaim(block_bytes) || buf.capacity() > block_bytes {
            buf = BytesMut::with_capacity(block_bytes);
        }
        self.buf = buf;
        self.block_bytes = block_bytes;
        self.memory += block_bytes;
        evicted
    }

    /// Seals the tail and leaves the current block to its segments.
    fn retire(&mut self) {
        self.seal();
        let (end, bytes) = (std::mem::take(&mut self.buf), std::mem::take(&mut self.block_bytes));
        if bytes > 0 {
            self.retired.push_back(RetiredBlock { until: self.tail.segment, bytes, end });
        }
    }

    /// Drops the retired blocks without segments; returns one of them.
    fn release_blocks(&mut self) -> Option<BytesMut> {
        let (first, mut free) = (self.begin().segment, None);
        while self.retired.front().is_some_and(|block| block.until <= first)
            && let Some(block) = self.retired.pop_front()
        {
            self.memory -= block.bytes;
            free = Some(block.end);
        }
        free
    }

    /// Drops the oldest segments until the memory held is at most `limit`. Returns the segments
    /// that must be dropped outside the lock, and a free block if there is one.
    pub(super) fn evict(&mut self, limit: usize) -> (Evicted, Option<BytesMut>) {
        let (mut evicted, mut free) = (Evicted::new(), self.release_blocks());
        while self.memory > limit {
            let Some(segment) = self.segments.pop_front() else { break };
            self.memory -= segment.memory();
            if segment.is_borrowed() {
                evicted.push(segment);
            }
            free = self.release_blocks().or(free);
        }
        (evicted, free)
    }

    /// Retires the current block if more than `limit` is held: the block itself may be too large.
    pub(super) fn retire_above(&mut self, limit: usize) {
        if self.memory > limit {
            self.retire();
        }
    }

    /// Where message `seq` begins; the end if it was not appended yet, `None` if it is evicted.
    pub(super) fn position_of(&self, seq: u64) -> Option<Position> {
        let begin = self.begin();
        if seq < begin.seq {
            return None;
        }
        if seq >= self.end().seq {
            return Some(self.end());
        }
        if seq >= self.tail.first_seq {
            return Some(self.tail.position_at(self.tail.message_start(seq)));
        }
        let after = self.segments.partition_point(|segment| segment.index.first_seq <= seq);
        let index = &self.segments[after.checked_sub(1)?].index;
        Some(index.position_at(index.message_start(seq)))
    }

    /// Copies what is behind `pos`, if that is a few small messages of the open tail and `is_own`
    /// is false for the origin of each.
    pub(super) fn copy_tail(&self, pos: u64, is_own: impl Fn(ConnId) -> bool, into: &mut TailCopy) -> bool {
        let tail = &self.tail;
        let Some(offset) = pos.checked_sub(tail.start_pos).and_then(|offset| u32::try_from(offset).ok())
        else {
            return false;
        };
        let unread = tail.len().saturating_sub(offset);
        if unread == 0 || unread > MAX_TAIL_COPY || !tail.few_after(offset, is_own, &mut into.ends) {
            return false;
        }
        into.bytes.clear();
        into.bytes.extend_from_slice(&self.buf[offset as usize..]);
        let seq = tail.first_seq + tail.messages() - into.ends.get().len() as u64;
        into.from = Position { segment: tail.segment, offset, pos, seq, mid_message: false };
        true
    }

    /// The segment number and the offset of the byte behind `pos`, which must not be before the
    /// ring.
    fn locate(&self, pos: u64) -> (u64, u32) {
        let mut index = &self.tail;
        if pos < index.start_pos {
            let after = self.segments.partition_point(|segment| segment.index.start_pos <= pos);
            let Some(segment) = after.checked_sub(1).and_then(|at| self.segments.get(at)) else {
                return (0, 0);
            };
            index = &segment.index;
        }
        (index.segment, (pos - index.start_pos) as u32)
    }

    /// Puts what is behind `at`, about `max` bytes, into the batch, whole segments at a time.
    ///
    /// Up to [`MAX_TAIL_COPY`] bytes of the open tail are copied; more is sealed. A connection that
    /// has collected as much already leaves the tail open: it comes back, and finds a larger
    /// segment.
    pub(super) fn collect(&mut self, at: Position, max: usize, batch: &mut Batch) -> Collected {
        let begin = self.begin();
        if at.pos < begin.pos {
            return Collected::Lagging;
        }
        // A segment that was read to its end may be evicted without a loss.
        let (mut number, mut offset) = match at.segment {
            Position::UNKNOWN_SEGMENT => self.locate(at.pos),
            number if number < begin.segment => (begin.segment, 0),
            number => (number, at.offset),
        };
        let mut collected = 0;
        while collected < max && batch.runs() < MAX_RUNS {
            match self.segments.get((number - begin.segment) as usize) {
                Some(segment) => {
                    let len = segment.index.len();
                    if offset < len {
                        collected += (len - offset) as usize;
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
                        batch.push_tail_copy(&self.tail, &self.buf, offset);
                        collected += unread as usize;
                        break;
                    }
                    if collected >= unread as usize {
                        break;
                    }
                    self.seal();
                }
            }
        }
        if collected == 0 { Collected::CaughtUp } else { Collected::Some }
    }
}
