//! The bytes that a connection is about to write from one log: runs of shared segments, a copy of
//! the open tail, and the rest of a chunk that is on the wire in part.

use std::io::IoSlice;
use std::sync::Arc;

use super::segment::{ChunkIndex, Position, Segment};
use crate::base::ConnId;

/// Bytes collected from a log for one vectored write.
///
/// The writer owns it and [`Cursor::fill`](super::Cursor::fill) fills it. While it has runs, it
/// keeps their segments alive. So it must not keep them across a wait for the stream: see
/// [`Cursor::release`](super::Cursor::release). A new batch has no heap memory.
#[derive(Debug, Default)]
pub struct Batch {
    /// A copy of the rest of a chunk whose beginning is on the wire, and how much of the copy is
    /// written.
    partial_chunk: Vec<u8>,
    partial_written: usize,
    runs: Vec<Run>,
    /// Runs before this one are written and hold nothing.
    first_run: usize,
    /// What a run without a segment refers to.
    tail: Option<Box<TailSnapshot>>,
    len: usize,
}

/// Consecutive bytes of one segment, or of the copied tail.
#[derive(Debug)]
struct Run {
    segment: Option<Arc<Segment>>,
    from: u32,
    to: u32,
}

/// A private copy of the end of the open tail.
#[derive(Debug)]
struct TailSnapshot {
    index: ChunkIndex,
    bytes: Vec<u8>,
}

impl Run {
    const fn len(&self) -> usize {
        (self.to - self.from) as usize
    }
}

impl Batch {
    /// An empty batch, without heap memory.
    pub const fn new() -> Self {
        Self {
            partial_chunk: Vec::new(),
            partial_written: 0,
            runs: Vec::new(),
            first_run: 0,
            tail: None,
            len: 0,
        }
    }

    /// Bytes left to write.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is left to write.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fills `out` from its beginning with what is left to write, in order. Returns the number of
    /// slices used. What does not fit is left for the next call.
    ///
    /// # Cost
    /// O(slices); no copy, no reference count.
    pub fn slices<'a>(&'a self, out: &mut [IoSlice<'a>]) -> usize {
        let mut used = 0;
        let mut take = |slice: &'a [u8]| match out.get_mut(used) {
            Some(free) => {
                *free = IoSlice::new(slice);
                used += 1;
                true
            }
            None => false,
        };
        if self.has_partial_chunk() && !take(&self.partial_chunk[self.partial_written..]) {
            return used;
        }
        for run in &self.runs[self.first_run..] {
            let mut more = true;
            match (&run.segment, &self.tail) {
                (Some(segment), _) => segment.each_slice(run.from, run.to, |slice| {
                    more = take(slice);
                    more
                }),
                (None, Some(tail)) => more = take(&tail.bytes[run.from as usize..run.to as usize]),
                (None, None) => {}
            }
            if !more {
                break;
            }
        }
        used
    }

    /// Drops everything but the memory that runs are collected in.
    pub fn clear(&mut self) {
        self.drop_runs();
        (self.partial_chunk, self.partial_written, self.len) = (Vec::new(), 0, 0);
    }

    /// Whether the rest of a chunk that is on the wire in part waits here.
    pub(super) const fn has_partial_chunk(&self) -> bool {
        self.partial_written < self.partial_chunk.len()
    }

    /// Bytes of the copy of a chunk's rest.
    pub(crate) const fn partial_chunk_len(&self) -> usize {
        self.partial_chunk.len()
    }

    /// Runs not yet written.
    pub(super) const fn runs(&self) -> usize {
        self.runs.len() - self.first_run
    }

    pub(super) fn push_shared(&mut self, segment: Arc<Segment>, from: u32, to: u32) {
        self.len += (to - from) as usize;
        self.runs.push(Run { segment: Some(segment), from, to });
    }

    /// Copies the tail from `offset` on. At most once until the batch has no runs again.
    pub(super) fn push_tail_copy(&mut self, index: &ChunkIndex, bytes: &[u8], offset: u32) {
        let tail = self.tail.get_or_insert_with(|| {
            Box::new(TailSnapshot { index: ChunkIndex::new(0, 0, 0), bytes: Vec::new() })
        });
        index.copy_end_to(offset, &mut tail.index);
        tail.bytes.clear();
        tail.bytes.extend_from_slice(&bytes[offset as usize..]);
        let to = tail.index.len();
        self.len += to as usize;
        self.runs.push(Run { segment: None, from: 0, to });
    }

    fn index_of<'a>(run: &'a Run, tail: &'a Option<Box<TailSnapshot>>) -> Option<&'a ChunkIndex> {
        match (&run.segment, tail) {
            (Some(segment), _) => Some(&segment.index),
            (None, tail) => tail.as_ref().map(|tail| &tail.index),
        }
    }

    fn front(&self) -> Option<(&Run, &ChunkIndex)> {
        let run = self.runs.get(self.first_run)?;
        Some((run, Self::index_of(run, &self.tail)?))
    }

    /// The position of the next byte to write, without regard to a partial chunk. `None` without
    /// runs.
    pub(super) fn front_position(&self) -> Option<Position> {
        self.front().map(|(run, index)| index.position_at(run.from))
    }

    /// Whether the next byte to write is inside a chunk.
    pub(super) fn is_mid_chunk(&self) -> bool {
        self.has_partial_chunk() || self.front().is_some_and(|(run, index)| !index.is_boundary(run.from))
    }

    /// The position behind the last run.
    pub(super) fn end_position(&self) -> Option<Position> {
        let last = self.runs.get(self.first_run..)?.last()?;
        Some(Self::index_of(last, &self.tail)?.position_at(last.to))
    }

    /// Cuts the runs to `max` bytes, on a chunk boundary, at least one chunk. Returns the position
    /// behind them if anything was cut off.
    pub(super) fn truncate(&mut self, mut max: usize) -> Option<Position> {
        for at in self.first_run..self.runs.len() {
            let run = &self.runs[at];
            let (from, to, len) = (run.from, run.to, run.len());
            if len <= max {
                max -= len;
                continue;
            }
            let index = Self::index_of(run, &self.tail)?;
            // A first chunk that is longer than `max` goes whole.
            let end = index.boundary_within(from, max).min(to);
            let runs_left = if (end - from) as usize <= max || at == self.first_run { at + 1 } else { at };
            let position = index.position_at(if runs_left == at { from } else { end });
            if runs_left > at {
                self.runs[at].to = end;
                self.len -= (to - end) as usize;
            }
            for run in self.runs.drain(runs_left..) {
                self.len -= run.len();
            }
            return Some(position);
        }
        None
    }

    /// Takes the frames that came from `conn` out of the runs.
    pub(super) fn remove_origin(&mut self, conn: ConnId) {
        let mut replaced: Option<Vec<Run>> = None;
        let mut len = 0;
        for at in self.first_run..self.runs.len() {
            let run = &self.runs[at];
            let mut parts: smallvec::SmallVec<[(u32, u32); 4]> = smallvec::SmallVec::new();
            let mut part = |from, to| parts.push((from, to));
            match (&run.segment, &self.tail) {
                (Some(segment), _) => segment.ranges_except(conn, (run.from, run.to), &mut part),
                (None, Some(tail)) => tail.index.ranges_except(conn, (run.from, run.to), None, &mut part),
                (None, None) => {}
            }
            if replaced.is_none() && parts.as_slice() == [(run.from, run.to)] {
                len += run.len();
                continue;
            }
            let first = self.first_run;
            let runs = replaced.get_or_insert_with(|| {
                let same = |run: &Run| Run { segment: run.segment.clone(), from: run.from, to: run.to };
                self.runs[first..at].iter().map(same).collect()
            });
            for (from, to) in parts {
                len += (to - from) as usize;
                runs.push(Run { segment: run.segment.clone(), from, to });
            }
        }
        if let Some(runs) = replaced {
            (self.runs, self.first_run) = (runs, 0);
            self.len = len + self.partial_chunk.len() - self.partial_written;
        }
        if self.runs() == 0 {
            self.drop_runs();
        }
    }

    /// Takes a copy of the rest of a chunk whose beginning is on the wire. The batch must be empty.
    pub(super) fn set_partial_chunk(&mut self, rest: &[u8]) {
        (self.partial_chunk, self.partial_written, self.len) = (rest.to_vec(), 0, rest.len());
    }

    /// Takes `n` bytes off the front; at most [`Batch::len`].
    pub(super) fn consume(&mut self, n: usize) {
        let mut n = n.min(self.len);
        self.len -= n;
        if self.has_partial_chunk() {
            let step = n.min(self.partial_chunk.len() - self.partial_written);
            self.partial_written += step;
            n -= step;
            if !self.has_partial_chunk() {
                (self.partial_chunk, self.partial_written) = (Vec::new(), 0);
            }
        }
        while n > 0
            && let Some(run) = self.runs.get_mut(self.first_run)
        {
            let left = run.len();
            if n < left {
                run.from += n as u32;
                return;
            }
            n -= left;
            run.segment = None;
            self.first_run += 1;
        }
        if self.runs() == 0 {
            self.drop_runs();
        }
    }

    /// Drops the runs, but not a partial chunk.
    pub(super) fn drop_runs(&mut self) {
        self.runs.clear();
        self.first_run = 0;
        self.len = self.partial_chunk.len() - self.partial_written;
    }

    /// Keeps a copy of the rest of the chunk at the front, if a part of it is on the wire, and
    /// drops everything else.
    ///
    /// Returns the position to continue from, and whether it is inside a chunk because the rest was
    /// longer than `max`. `None` without runs.
    pub(super) fn keep_partial_chunk(&mut self, max: usize) -> Option<(Position, bool)> {
        let kept = self.front().map(|(run, index)| {
            if self.has_partial_chunk() || index.is_boundary(run.from) {
                return (Vec::new(), index.position_at(run.from), false);
            }
            // Runs end on boundaries, so the rest of the chunk is within this one.
            let end = index.chunk_end(run.from).min(run.to);
            let len = (end - run.from) as usize;
            if len > max {
                return (Vec::new(), index.position_at(run.from), true);
            }
            let mut rest = Vec::with_capacity(len);
            match (&run.segment, &self.tail) {
                (Some(segment), _) => {
                    segment.slices(run.from, end).iter().for_each(|slice| rest.extend_from_slice(slice));
                }
                (None, Some(tail)) => rest.extend_from_slice(&tail.bytes[run.from as usize..end as usize]),
                (None, None) => {}
            }
            (rest, index.position_at(end), false)
        });
        let (rest, position, is_mid_chunk) = kept?;
        if !self.has_partial_chunk() {
            (self.partial_chunk, self.partial_written) = (rest, 0);
        }
        // A waiting batch must take little memory: only the partial chunk stays.
        (self.runs, self.first_run, self.tail) = (Vec::new(), 0, None);
        self.len = self.partial_chunk.len() - self.partial_written;
        Some((position, is_mid_chunk))
    }
}
