//! Sealed segments of the log: shared bytes, with an index of where messages and chunks end and
//! where they came from.

use bytes::Bytes;
use smallvec::SmallVec;

use super::fast_path::{MAX_COPIED_MESSAGES, MessageEnds};
use crate::base::ConnId;
use crate::sync::OnceLock;

/// Bytes that a message costs beside its content: four bytes in a vector that doubles.
pub(super) const MESSAGE_OVERHEAD: usize = 8;
/// Bytes that a range of one origin costs: 16 bytes in a vector that doubles, and again in the
/// sorted copy.
pub(super) const ORIGIN_OVERHEAD: usize = 48;
/// Bytes that a segment costs beside its content and index.
pub(super) const SEGMENT_OVERHEAD: usize = 256;
/// Bytes that a piece of a large message costs beside its content.
pub(super) const PIECE_OVERHEAD: usize = 2 * size_of::<Bytes>();
/// Origin ranges up to which a walk over all of them is as fast as a sorted copy.
const MAX_UNSORTED_ORIGINS: usize = 8;

/// A position in the log. Always a chunk boundary, except for a cursor inside a chunk that was too
/// large to copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// Number of the segment that holds the next byte, or of the one that was just finished.
    pub(super) segment: u64,
    /// Offset in that segment.
    pub(super) offset: u32,
    /// Bytes appended before this position since the log began. It alone decides what is lost; the
    /// segment number only finds the bytes.
    pub(super) pos: u64,
    /// The first message that does not lie wholly before this position.
    pub(super) seq: u64,
    /// Between two chunks of one message.
    pub(super) mid_message: bool,
}

impl Position {
    /// Segment number of a position whose segment has to be looked up by `pos`.
    pub(super) const UNKNOWN_SEGMENT: u64 = u64::MAX;
}

/// Consecutive frames of one origin. Offsets are relative to the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct OriginRange {
    conn: ConnId,
    from: u32,
    to: u32,
}

/// Where the chunks of a stretch of the log end. Offsets are relative to its start.
#[derive(Debug)]
pub(super) struct ChunkIndex {
    /// Number of the segment.
    pub(super) segment: u64,
    /// Offset of this stretch in the segment: zero, except for a copy of the end of the open tail.
    pub(super) base: u32,
    /// Position of the first byte in the log.
    pub(super) start_pos: u64,
    /// Number of the first message.
    pub(super) first_seq: u64,
    /// One message in several chunks. Otherwise each message is one chunk.
    is_chunked: bool,
    chunk_ends: Vec<u32>,
    origins: Vec<OriginRange>,
}

impl ChunkIndex {
    /// An empty stretch.
    pub(super) const fn new(segment: u64, start_pos: u64, first_seq: u64) -> Self {
        Self {
            segment,
            base: 0,
            start_pos,
            first_seq,
            is_chunked: false,
            chunk_ends: Vec::new(),
            origins: Vec::new(),
        }
    }

    /// The stretch of one message in several chunks.
    pub(super) fn of_chunks(
        segment: u64,
        start_pos: u64,
        seq: u64,
        chunk_ends: Vec<u32>,
        origin: Option<ConnId>,
    ) -> Self {
        let to = chunk_ends.last().copied().unwrap_or(0);
        let origins = origin.map(|conn| OriginRange { conn, from: 0, to }).into_iter().collect();
        Self { segment, base: 0, start_pos, first_seq: seq, is_chunked: true, chunk_ends, origins }
    }

    /// Adds a message that ends at `end`. Returns the bytes it costs beside its content.
    pub(super) fn push(&mut self, end: u32, origin: Option<ConnId>) -> usize {
        let from = self.len();
        self.chunk_ends.push(end);
        let Some(conn) = origin else { return MESSAGE_OVERHEAD };
        match self.origins.last_mut() {
            Some(last) if last.conn == conn && last.to == from => {
                last.to = end;
                MESSAGE_OVERHEAD
            }
            _ => {
                self.origins.push(OriginRange { conn, from, to: end });
                MESSAGE_OVERHEAD + ORIGIN_OVERHEAD
            }
        }
    }

    /// Bytes in this stretch.
    pub(super) fn len(&self) -> u32 {
        self.chunk_ends.last().copied().unwrap_or(0)
    }

    /// Messages in this stretch.
    pub(super) fn messages(&self) -> u64 {
        if self.is_chunked { 1 } else { self.chunk_ends.len() as u64 }
    }

    /// Bytes of memory that the index takes, at most.
    pub(super) fn memory(&self) -> usize {
        self.chunk_ends.len() * MESSAGE_OVERHEAD + self.origins.len() * ORIGIN_OVERHEAD
    }

    /// Number of chunks that end at or before `offset`.
    fn chunks_before(&self, offset: u32) -> usize {
        self.chunk_ends.partition_point(|&end| end <= offset)
    }

    /// Whether a chunk begins or the stretch ends at `offset`.
    pub(super) fn is_boundary(&self, offset: u32) -> bool {
        offset == 0 || self.chunk_ends.binary_search(&offset).is_ok()
    }

    /// The end of the chunk that holds the byte at `offset`.
    pub(super) fn chunk_end(&self, offset: u32) -> u32 {
        self.chunk_ends.get(self.chunks_before(offset)).copied().unwrap_or_else(|| self.len())
    }

    /// The last boundary within `max` bytes of `from`, or the end of the chunk at `from` if that is
    /// longer.
    pub(super) fn boundary_within(&self, from: u32, max: usize) -> u32 {
        let limit = u32::try_from(max).map_or(u32::MAX, |max| from.saturating_add(max));
        match self.chunks_before(limit).checked_sub(1).map(|at| self.chunk_ends[at]) {
            Some(end) if end > from => end,
            _ => self.chunk_end(from),
        }
    }

    /// The position at `offset`.
    pub(super) fn position_at(&self, offset: u32) -> Position {
        let done = if self.is_chunked {
            u64::from(offset == self.len())
        } else {
            self.chunks_before(offset) as u64
        };
        Position {
            segment: self.segment,
            offset: self.base + offset,
            pos: self.start_pos + u64::from(offset),
            seq: self.first_seq + done,
            mid_message: self.is_chunked && offset != 0 && done == 0,
        }
    }

    /// Where message `seq` begins; it must be one of this stretch.
    pub(super) fn message_start(&self, seq: u64) -> u32 {
        match usize::try_from(seq.saturating_sub(self.first_seq)) {
            Ok(at @ 1..) if !self.is_chunked => {
                self.chunk_ends.get(at - 1).copied().unwrap_or_else(|| self.len())
            }
            _ => 0,
        }
    }

    /// Fills `copy` with the part of this index from `from`, a message boundary, to the end.
    pub(super) fn copy_end_to(&self, from: u32, copy: &mut Self) {
        let before = self.chunks_before(from);
        (copy.segment, copy.base, copy.is_chunked) = (self.segment, self.base + from, false);
        (copy.start_pos, copy.first_seq) =
            (self.start_pos + u64::from(from), self.first_seq + before as u64);
        copy.chunk_ends.clear();
        copy.chunk_ends.extend(self.chunk_ends[before..].iter().map(|end| end - from));
        copy.origins.clear();
        let later = self.origins.partition_point(|range| range.to <= from);
        copy.origins.extend(self.origins[later..].iter().map(|range| OriginRange {
            conn: range.conn,
            from: range.from.saturating_sub(from),
            to: range.to - from,
        }));
    }

    /// Takes the ends of the messages behind a boundary, relative to it. Returns `false` if there
    /// are more than [`MAX_COPIED_MESSAGES`], or if `is_own` is true for the origin of one.
    pub(super) fn few_after(
        &self,
        offset: u32,
        is_own: impl Fn(ConnId) -> bool,
        ends: &mut MessageEnds,
    ) -> bool {
        let skipped = self.chunk_ends.len().saturating_sub(MAX_COPIED_MESSAGES + 1);
        let few = &self.chunk_ends[skipped..];
        let first = few.iter().rposition(|end| *end <= offset).map_or(0, |at| at + 1);
        let few = &few[first..];
        let mut later = self.origins.iter().rev().take_while(|range| range.to > offset);
        if few.len() > MAX_COPIED_MESSAGES || later.any(|range| is_own(range.conn)) {
            return false;
        }
        ends.set(few, offset);
        true
    }

    /// Returns this stretch, and begins the next one behind it.
    pub(super) fn cut(&mut self) -> Self {
        let next = Self::new(
            self.segment + 1,
            self.start_pos + u64::from(self.len()),
            self.first_seq + self.messages(),
        );
        std::mem::replace(self, next)
    }

    /// Calls `keep` for each part of `from..to` that did not come from `conn`. `sorted` is the
    /// origins of this index sorted by connection, if they were sorted.
    pub(super) fn ranges_except(
        &self,
        conn: ConnId,
        (from, to): (u32, u32),
        sorted: Option<&[OriginRange]>,
        mut keep: impl FnMut(u32, u32),
    ) {
        let origins = match sorted {
            Some(sorted) => {
                let first = sorted.partition_point(|range| range.conn < conn);
                let len = sorted[first..].partition_point(|range| range.conn == conn);
                &sorted[first..first + len]
            }
            None => &self.origins,
        };
        let mut at = from;
        for range in origins {
            if range.conn != conn || range.to <= from || range.from >= to {
                continue;
            }
            let own_from = range.from.max(from);
            if own_from > at {
                keep(at, own_from);
            }
            at = range.to.min(to);
        }
        if at < to {
            keep(at, to);
        }
    }
}

/// A sealed stretch of the log, shared by all connections. Its bytes and its index never change.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) index: ChunkIndex,
    body: Body,
    /// The origins by connection, sorted by the first connection that needs them, outside the log's
    /// lock.
    sorted_origins: OnceLock<Box<[OriginRange]>>,
}

#[derive(Debug)]
enum Body {
    /// Small messages, one after the other.
    Contiguous(Bytes),
    /// One large message that was not copied: its pieces, and where each of them ends.
    Pieces { pieces: Vec<Bytes>, ends: Vec<u32> },
}

impl Segment {
    pub(super) const fn contiguous(index: ChunkIndex, bytes: Bytes) -> Self {
        Self { index, body: Body::Contiguous(bytes), sorted_origins: OnceLock::new() }
    }

    pub(super) const fn pieces(index: ChunkIndex, pieces: Vec<Bytes>, ends: Vec<u32>) -> Self {
        Self { index, body: Body::Pieces { pieces, ends }, sorted_origins: OnceLock::new() }
    }

    /// Whether it refers to memory that the log did not allocate.
    pub(super) const fn is_borrowed(&self) -> bool {
        matches!(self.body, Body::Pieces { .. })
    }

    /// Bytes of memory that the segment takes, without the block that contiguous bytes are in.
    pub(super) fn memory(&self) -> usize {
        let body = match &self.body {
            Body::Contiguous(_) => 0,
            Body::Pieces { pieces, .. } => self.index.len() as usize + pieces.len() * PIECE_OVERHEAD,
        };
        SEGMENT_OVERHEAD + self.index.memory() + body
    }

    /// The origins by connection, or `None` where sorting them does not pay.
    fn sorted_origins(&self) -> Option<&[OriginRange]> {
        if self.index.origins.len() <= MAX_UNSORTED_ORIGINS {
            return None;
        }
        Some(self.sorted_origins.get_or_init(|| {
            let mut origins = self.index.origins.clone();
            origins.sort_unstable();
            origins.into_boxed_slice()
        }))
    }

    /// Calls `keep` for each part of `from..to` that did not come from `conn`.
    pub(super) fn ranges_except(&self, conn: ConnId, range: (u32, u32), keep: impl FnMut(u32, u32)) {
        self.index.ranges_except(conn, range, self.sorted_origins(), keep);
    }

    /// The bytes between two offsets, in slices.
    pub(super) fn slices(&self, from: u32, to: u32) -> SmallVec<[&[u8]; 4]> {
        let mut out = SmallVec::new();
        self.each_slice(from, to, |slice| {
            out.push(slice);
            true
        });
        out
    }

    /// Calls `take` for each slice between two offsets until it returns `false`.
    pub(super) fn each_slice<'a>(&'a self, from: u32, to: u32, mut take: impl FnMut(&'a [u8]) -> bool) {
        match &self.body {
            Body::Contiguous(bytes) => {
                take(&bytes[from as usize..to as usize]);
            }
            Body::Pieces { pieces, ends } => {
                let mut at = from;
                for piece in ends.partition_point(|&end| end <= from)..pieces.len() {
                    if at >= to {
                        return;
                    }
                    let begin = if piece == 0 { 0 } else { ends[piece - 1] };
                    let end = ends[piece].min(to);
                    if !take(&pieces[piece][(at - begin) as usize..(end - begin) as usize]) {
                        return;
                    }
                    at = end;
                }
            }
        }
    }
}
