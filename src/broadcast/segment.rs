//! Sealed stretches of the log: shared bytes, and an index of where messages and chunks end and whose they are.

use bytes::Bytes;
use smallvec::SmallVec;

use super::fast_path;
use crate::base::ConnId;
use crate::sync::OnceLock;

/// What a message costs beside its bytes: four bytes in a vector that doubles.
pub(super) const MESSAGE_OVERHEAD: usize = 8;
/// What a stretch of one origin costs: 16 bytes in a vector that doubles, and again in the sorted copy.
pub(super) const ORIGIN_OVERHEAD: usize = 48;
/// What a segment costs beside all that.
pub(super) const SEGMENT_OVERHEAD: usize = 256;
/// What a piece of a large message costs beside its bytes.
pub(super) const PIECE_OVERHEAD: usize = 2 * size_of::<Bytes>();

/// A place in the log. Always a chunk boundary, except for a cursor that was is_mid_chunk inside a chunk too large to copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// Segment that holds the next byte, or the one just finished.
    pub(super) number: u64,
    /// Offset in that segment.
    pub(super) offset: u32,
    /// Bytes appended before this place since the log began. This decides what is lost; the number only finds it.
    pub(super) pos: u64,
    /// The first message that does not lie wholly before this place.
    pub(super) seq: u64,
    /// Inside a chunked message, between two of its chunks.
    pub(super) open: bool,
}

impl Position {
    /// The number of a place whose segment is to be looked for by `pos`.
    pub(super) const ANYWHERE: u64 = u64::MAX;
}

/// Frames of one origin, next to each other; offsets within the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct OriginRange {
    conn: ConnId,
    from: u32,
    to: u32,
}

/// Where the chunks of a stretch of the log end. Offsets are relative to its start.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) number: u64,
    /// Where this stretch begins within the numbered segment: zero except for a snapshot of the open tail.
    pub(super) base: u32,
    /// Position in the log of its first byte.
    pub(super) start: u64,
    /// Number of its first message.
    pub(super) seq: u64,
    /// One message in several chunks, rather than one message a chunk.
    chunked: bool,
    ends: Vec<u32>,
    origins: Vec<OriginRange>,
}

impl Index {
    /// An empty stretch that begins here.
    pub(super) const fn new(number: u64, start: u64, seq: u64) -> Self {
        Self { number, base: 0, start, seq, chunked: false, ends: Vec::new(), origins: Vec::new() }
    }

    /// The stretch of one message in chunks that end there.
    pub(super) fn of_chunks(
        number: u64,
        start: u64,
        seq: u64,
        ends: Vec<u32>,
        origin: Option<ConnId>,
    ) -> Self {
        let to = ends.last().copied().unwrap_or(0);
        let origins = origin.map(|conn| OriginRange { conn, from: 0, to }).into_iter().collect();
        Self { number, base: 0, start, seq, chunked: true, ends, origins }
    }

    /// Adds a message that ends at `end`. Returns what that costs beside its bytes.
    pub(super) fn push(&mut self, end: u32, origin: Option<ConnId>) -> usize {
        let from = self.len();
        self.ends.push(end);
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
        self.ends.last().copied().unwrap_or(0)
    }

    /// Messages in this stretch.
    pub(super) fn messages(&self) -> u64 {
        if self.chunked { 1 } else { self.ends.len() as u64 }
    }

    /// What the index costs in memory, at most.
    pub(super) fn cost(&self) -> usize {
        self.ends.len() * MESSAGE_OVERHEAD + self.origins.len() * ORIGIN_OVERHEAD
    }

    /// How many chunks end at or before `offset`.
    fn chunks_until(&self, offset: u32) -> usize {
        self.ends.partition_point(|&end| end <= offset)
    }

    /// Whether a chunk begins or the stretch ends there.
    pub(super) fn is_boundary(&self, offset: u32) -> bool {
        offset == 0 || self.ends.binary_search(&offset).is_ok()
    }

    /// The end of the chunk that holds the byte at `offset`.
    pub(super) fn chunk_end(&self, offset: u32) -> u32 {
        self.ends.get(self.chunks_until(offset)).copied().unwrap_or_else(|| self.len())
    }

    /// The last boundary within `max` bytes of `from`, or the end of the chunk at `from` if that is longer.
    pub(super) fn boundary_within(&self, from: u32, max: usize) -> u32 {
        let limit = u32::try_from(max).map_or(u32::MAX, |max| from.saturating_add(max));
        match self.chunks_until(limit).checked_sub(1).map(|at| self.ends[at]) {
            Some(end) if end > from => end,
            _ => self.chunk_end(from),
        }
    }

    /// The place at `offset`.
    pub(super) fn position_at(&self, offset: u32) -> Position {
        let done =
            if self.chunked { u64::from(offset == self.len()) } else { self.chunks_until(offset) as u64 };
        Position {
            number: self.number,
            offset: self.base + offset,
            pos: self.start + u64::from(offset),
            seq: self.seq + done,
            open: self.chunked && offset != 0 && done == 0,
        }
    }

    /// Where message `seq` begins; it must be one of this stretch.
    pub(super) fn begin_of(&self, seq: u64) -> u32 {
        match usize::try_from(seq.saturating_sub(self.seq)) {
            Ok(at @ 1..) if !self.chunked => self.ends.get(at - 1).copied().unwrap_or_else(|| self.len()),
            _ => 0,
        }
    }

    /// Fills `copy` with what lies from `from`, a message boundary, to the end.
    pub(super) fn copy_from(&self, from: u32, copy: &mut Self) {
        let skipped = self.chunks_until(from);
        (copy.number, copy.base, copy.chunked) = (self.number, self.base + from, false);
        (copy.start, copy.seq) = (self.start + u64::from(from), self.seq + skipped as u64);
        copy.ends.clear();
        copy.ends.extend(self.ends[skipped..].iter().map(|end| end - from));
        copy.origins.clear();
        let later = self.origins.partition_point(|own| own.to <= from);
        copy.origins.extend(self.origins[later..].iter().map(|own| OriginRange {
            conn: own.conn,
            from: own.from.saturating_sub(from),
            to: own.to - from,
        }));
    }

    /// Where the messages behind a boundary end, from there; `false` if they are too many, or one of them is one's own.
    pub(super) fn few_behind(
        &self,
        offset: u32,
        is_own: impl Fn(ConnId) -> bool,
        ends: &mut fast_path::MessageEnds,
    ) -> bool {
        let looked = self.ends.len().saturating_sub(fast_path::MAX_COPIED_MESSAGES + 1);
        let few = &self.ends[looked..];
        let first = few.iter().rposition(|end| *end <= offset).map_or(0, |at| at + 1);
        let few = &few[first..];
        let mut later = self.origins.iter().rev().take_while(|origin| origin.to > offset);
        if few.len() > fast_path::MAX_COPIED_MESSAGES || later.any(|origin| is_own(origin.conn)) {
            return false;
        }
        ends.set(few, offset);
        true
    }

    /// Takes what was gathered and begins the next stretch behind it.
    pub(super) fn cut(&mut self) -> Self {
        let next = Self::new(self.number + 1, self.start + u64::from(self.len()), self.seq + self.messages());
        std::mem::replace(self, next)
    }

    /// The frames of `conn` between two offsets, in order.
    fn own_in<'a>(
        own: &'a [OriginRange],
        conn: ConnId,
        from: u32,
        to: u32,
    ) -> impl Iterator<Item = (u32, u32)> + 'a {
        own.iter()
            .filter(move |own| own.conn == conn && own.to > from && own.from < to)
            .map(move |own| (own.from.max(from), own.to.min(to)))
    }

    /// Calls `keep` for each part of `from..to` that is not one of `conn`'s own frames. `sorted` is the origins of this
    /// very index, by connection, if somebody has sorted them.
    pub(super) fn without(
        &self,
        conn: ConnId,
        (from, to): (u32, u32),
        sorted: Option<&[OriginRange]>,
        mut keep: impl FnMut(u32, u32),
    ) {
        let origins = match sorted {
            Some(sorted) => {
                let first = sorted.partition_point(|own| own.conn < conn);
                let len = sorted[first..].partition_point(|own| own.conn == conn);
                &sorted[first..first + len]
            }
            None => &self.origins,
        };
        let mut at = from;
        for (own_from, own_to) in Self::own_in(origins, conn, from, to) {
            if own_from > at {
                keep(at, own_from);
            }
            at = own_to;
        }
        if at < to {
            keep(at, to);
        }
    }
}

/// A sealed stretch: nothing in it changes any more, and every link shares it.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) index: Index,
    body: Body,
    /// The origins by connection, sorted by the first link that asks, outside the log's lock.
    sorted: OnceLock<Box<[OriginRange]>>,
}

#[derive(Debug)]
enum Body {
    /// Small messages, one after the other in one stretch of memory.
    Plain(Bytes),
    /// One large message whose payload was not copied: pieces, and where each ends.
    Pieces { pieces: Vec<Bytes>, ends: Vec<u32> },
}

impl Segment {
    pub(super) const fn plain(index: Index, bytes: Bytes) -> Self {
        Self { index, body: Body::Plain(bytes), sorted: OnceLock::new() }
    }

    pub(super) const fn pieces(index: Index, pieces: Vec<Bytes>, ends: Vec<u32>) -> Self {
        Self { index, body: Body::Pieces { pieces, ends }, sorted: OnceLock::new() }
    }

    /// Whether it refers to memory that is not the log's own.
    pub(super) const fn is_borrowed(&self) -> bool {
        matches!(self.body, Body::Pieces { .. })
    }

    /// What the segment is charged for, without the block that plain bytes live in.
    pub(super) fn cost(&self) -> usize {
        let body = match &self.body {
            Body::Plain(_) => 0,
            Body::Pieces { pieces, .. } => self.index.len() as usize + pieces.len() * PIECE_OVERHEAD,
        };
        SEGMENT_OVERHEAD + self.index.cost() + body
    }

    /// The origins by connection, or `None` where a walk over the few there are is as good.
    fn sorted(&self) -> Option<&[OriginRange]> {
        if self.index.origins.len() <= 8 {
            return None;
        }
        Some(self.sorted.get_or_init(|| {
            let mut own = self.index.origins.clone();
            own.sort_unstable();
            own.into_boxed_slice()
        }))
    }

    /// Calls `keep` for each part of `from..to` that is not one of `conn`'s own frames.
    pub(super) fn without(&self, conn: ConnId, range: (u32, u32), keep: impl FnMut(u32, u32)) {
        self.index.without(conn, range, self.sorted(), keep);
    }

    /// The bytes between two offsets, in as many slices as they lie in.
    pub(super) fn slices(&self, from: u32, to: u32) -> SmallVec<[&[u8]; 4]> {
        let mut out = SmallVec::new();
        self.each_slice(from, to, |slice| {
            out.push(slice);
            true
        });
        out
    }

    /// Calls `take` for each slice between two offsets until it says no.
    pub(super) fn each_slice<'a>(&'a self, from: u32, to: u32, mut take: impl FnMut(&'a [u8]) -> bool) {
        match &self.body {
            Body::Plain(bytes) => {
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
