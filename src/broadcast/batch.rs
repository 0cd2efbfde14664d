//! What a link is about to write: stretches of shared segments, a copied bit of the tail, the rest of a chunk.

use std::io::IoSlice;
use std::sync::Arc;

use super::segment::{Index, Position, Segment};
use crate::base::ConnId;

/// Bytes gathered from a log for one vectored write.
///
/// Owned by whoever writes, and filled by [`Cursor::fill`](super::Cursor::fill). While it holds runs it keeps their
/// segments alive, so it must not stay so across a wait: see [`Cursor::release`](super::Cursor::release). A new one has
/// no heap memory.
#[derive(Debug, Default)]
pub struct Batch {
    /// A copy of the rest of a chunk whose beginning is on the line, and how much of it was taken.
    partial_chunk: Vec<u8>,
    taken: usize,
    runs: Vec<Run>,
    /// Runs before this one are done and hold nothing.
    head: usize,
    /// Where a run without a segment points.
    copy: Option<Box<TailSnapshot>>,
    len: usize,
}

/// Consecutive bytes of one segment, or of the copied bit of the tail.
#[derive(Debug)]
struct Run {
    segment: Option<Arc<Segment>>,
    from: u32,
    to: u32,
}

/// A private copy of the end of the open tail.
#[derive(Debug)]
struct TailSnapshot {
    index: Index,
    bytes: Vec<u8>,
}

impl Batch {
    /// An empty batch, without heap memory.
    pub const fn new() -> Self {
        Self { partial_chunk: Vec::new(), taken: 0, runs: Vec::new(), head: 0, copy: None, len: 0 }
    }

    /// Bytes left to write.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing left to write.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fills `out` from its beginning with what is left to write, in order, and returns how many slices it took.
    /// What does not fit is left for the next call.
    ///
    /// # Cost
    /// O(slices); no copy, no reference count.
    pub fn slices<'a>(&'a self, out: &mut [IoSlice<'a>]) -> usize {
        let mut used = 0;
        let mut take = |slice: &'a [u8]| match out.get_mut(used) {
            Some(place) => {
                *place = IoSlice::new(slice);
                used += 1;
                true
            }
            None => false,
        };
        if self.taken < self.partial_chunk.len() && !take(&self.partial_chunk[self.taken..]) {
            return used;
        }
        for run in &self.runs[self.head..] {
            let mut more = true;
            match (&run.segment, &self.copy) {
                (Some(segment), _) => segment.each_slice(run.from, run.to, |slice| {
                    more = take(slice);
                    more
                }),
                (None, Some(copy)) => more = take(&copy.bytes[run.from as usize..run.to as usize]),
                (None, None) => {}
            }
            if !more {
                break;
            }
        }
        used
    }

    /// Forgets everything but the memory to gather in.
    pub fn clear(&mut self) {
        self.drop_runs();
        (self.partial_chunk, self.taken, self.len) = (Vec::new(), 0, 0);
    }

    /// Whether the rest of a chunk that was begun waits here.
    pub(super) const fn has_partial_chunk(&self) -> bool {
        self.taken < self.partial_chunk.len()
    }

    /// Bytes of a chunk's rest that are kept as a copy.
    pub(crate) const fn partial_chunk_len(&self) -> usize {
        self.partial_chunk.len()
    }

    /// Runs not yet done.
    pub(super) const fn runs(&self) -> usize {
        self.runs.len() - self.head
    }

    pub(super) fn push_shared(&mut self, segment: Arc<Segment>, from: u32, to: u32) {
        self.len += (to - from) as usize;
        self.runs.push(Run { segment: Some(segment), from, to });
    }

    /// Copies the tail from `offset` on; at most once between two times that the batch is empty of runs.
    pub(super) fn push_copy(&mut self, tail: &Index, bytes: &[u8], offset: u32) {
        let copy = self
            .copy
            .get_or_insert_with(|| Box::new(TailSnapshot { index: Index::new(0, 0, 0), bytes: Vec::new() }));
        tail.copy_from(offset, &mut copy.index);
        copy.bytes.clear();
        copy.bytes.extend_from_slice(&bytes[offset as usize..]);
        let to = copy.index.len();
        self.len += to as usize;
        self.runs.push(Run { segment: None, from: 0, to });
    }

    fn index_of<'a>(run: &'a Run, copy: &'a Option<Box<TailSnapshot>>) -> Option<&'a Index> {
        match (&run.segment, copy) {
            (Some(segment), _) => Some(&segment.index),
            (None, copy) => copy.as_ref().map(|copy| &copy.index),
        }
    }

    fn front(&self) -> Option<(&Run, &Index)> {
        let run = self.runs.get(self.head)?;
        Some((run, Self::index_of(run, &self.copy)?))
    }

    /// The place of the next byte to write, unless that is partial_chunk or nothing.
    pub(super) fn front_position(&self) -> Option<Position> {
        self.front().map(|(run, index)| index.position_at(run.from))
    }

    /// Whether the next byte to write lies inside a chunk.
    pub(super) fn is_mid_chunk(&self) -> bool {
        self.has_partial_chunk() || self.front().is_some_and(|(run, index)| !index.is_boundary(run.from))
    }

    /// The place behind the last run.
    pub(super) fn end_position(&self) -> Option<Position> {
        let last = self.runs.get(self.head..)?.last()?;
        Some(Self::index_of(last, &self.copy)?.position_at(last.to))
    }

    /// Cuts the gathered runs to `max` bytes, on a chunk boundary, at least one chunk. Returns the place behind them if
    /// anything was cut off.
    pub(super) fn trim(&mut self, mut max: usize) -> Option<Position> {
        for at in self.head..self.runs.len() {
            let run = &self.runs[at];
            let (from, to) = (run.from, run.to);
            let len = (to - from) as usize;
            if len <= max {
                max -= len;
                continue;
            }
            let index = Self::index_of(run, &self.copy)?;
            // A first chunk that is longer than all there is room for goes whole.
            let end = index.boundary_within(from, max).min(to);
            let keep = if (end - from) as usize <= max || at == self.head { at + 1 } else { at };
            let mark = index.position_at(if keep == at { from } else { end });
            if keep > at {
                self.runs[at].to = end;
                self.len -= (to - end) as usize;
            }
            for run in self.runs.drain(keep..) {
                self.len -= (run.to - run.from) as usize;
            }
            return Some(mark);
        }
        None
    }

    /// Takes the frames of `conn` out of the runs.
    pub(super) fn remove_origin(&mut self, conn: ConnId) {
        let mut kept: Option<Vec<Run>> = None;
        let mut len = 0;
        for at in self.head..self.runs.len() {
            let run = &self.runs[at];
            let mut parts: smallvec::SmallVec<[(u32, u32); 4]> = smallvec::SmallVec::new();
            let mut part = |from, to| parts.push((from, to));
            match (&run.segment, &self.copy) {
                (Some(segment), _) => segment.without(conn, (run.from, run.to), &mut part),
                (None, Some(copy)) => copy.index.without(conn, (run.from, run.to), None, &mut part),
                (None, None) => {}
            }
            if kept.is_none() && parts.as_slice() == [(run.from, run.to)] {
                len += (run.to - run.from) as usize;
                continue;
            }
            let head = self.head;
            let kept = kept.get_or_insert_with(|| {
                let same = |run: &Run| Run { segment: run.segment.clone(), from: run.from, to: run.to };
                self.runs[head..at].iter().map(same).collect()
            });
            for (from, to) in parts {
                len += (to - from) as usize;
                kept.push(Run { segment: run.segment.clone(), from, to });
            }
        }
        if let Some(kept) = kept {
            (self.runs, self.head) = (kept, 0);
            self.len = len + self.partial_chunk.len() - self.taken;
        }
        if self.runs() == 0 {
            self.drop_runs();
        }
    }

    /// Keeps a copy of the rest of a chunk whose beginning is on the line, in an empty batch.
    pub(super) fn keep(&mut self, rest: &[u8]) {
        (self.partial_chunk, self.taken, self.len) = (rest.to_vec(), 0, rest.len());
    }

    /// Takes `n` bytes off the front; at most [`Batch::len`].
    pub(super) fn consume(&mut self, n: usize) {
        let mut n = n.min(self.len);
        self.len -= n;
        if self.has_partial_chunk() {
            let step = n.min(self.partial_chunk.len() - self.taken);
            self.taken += step;
            n -= step;
            if !self.has_partial_chunk() {
                (self.partial_chunk, self.taken) = (Vec::new(), 0);
            }
        }
        while n > 0
            && let Some(run) = self.runs.get_mut(self.head)
        {
            let left = (run.to - run.from) as usize;
            if n < left {
                run.from += n as u32;
                return;
            }
            n -= left;
            run.segment = None;
            self.head += 1;
        }
        if self.runs() == 0 {
            self.drop_runs();
        }
    }

    /// Drops the runs; partial_chunk stays.
    pub(super) fn drop_runs(&mut self) {
        self.runs.clear();
        self.head = 0;
        self.len = self.partial_chunk.len() - self.taken;
    }

    /// Keeps a copy of the rest of the chunk at the front, if it was begun, and drops everything else.
    ///
    /// Returns the place to go on from afterwards, and whether that is inside a chunk: its rest was longer than `max`.
    /// `None` if there were no runs.
    pub(super) fn keep_partial_chunk(&mut self, max: usize) -> Option<(Position, bool)> {
        let kept = self.front().map(|(run, index)| {
            if self.has_partial_chunk() || index.is_boundary(run.from) {
                return (Vec::new(), index.position_at(run.from), false);
            }
            // Runs end on boundaries, so the rest of the chunk lies within this one.
            let end = index.chunk_end(run.from).min(run.to);
            let len = (end - run.from) as usize;
            if len > max {
                return (Vec::new(), index.position_at(run.from), true);
            }
            let mut rest = Vec::with_capacity(len);
            match (&run.segment, &self.copy) {
                (Some(segment), _) => {
                    segment.slices(run.from, end).iter().for_each(|slice| rest.extend_from_slice(slice));
                }
                (None, Some(copy)) => rest.extend_from_slice(&copy.bytes[run.from as usize..end as usize]),
                (None, None) => {}
            }
            (rest, index.position_at(end), false)
        });
        let (rest, mark, is_mid_chunk) = kept?;
        if !self.has_partial_chunk() {
            (self.partial_chunk, self.taken) = (rest, 0);
        }
        // The memory of a batch that waits counts: only the partial_chunk stays.
        (self.runs, self.head, self.copy) = (Vec::new(), 0, None);
        self.len = self.partial_chunk.len() - self.taken;
        Some((mark, is_mid_chunk))
    }
}
