//! Bulk that is under way: no more than keeps the line busy, so that what is urgent waits for little of it.
//!
//! What has been written is ahead of every vote that comes after it. `TCP_NOTSENT_LOWAT` bounds what waits in the near kernel, nothing
//! bounds what waits in the far one: its receive buffer grows to tens of megabytes if the far process takes bytes more slowly
//! than the line brings them. So bulk is followed by marks, pings whose answers tell what the far *process* has taken and how
//! soon, and no more is under way than [`BulkWindow::room`] allows: twice what the line carries in the least round trip, as in BBR (the
//! bandwidth-delay product with a `cwnd_gain` of 2, the rate estimated as in draft-cheng-iccrg-delivery-rate-estimation), and a little.
//! What queues is one round trip's worth. A line is as busy as without it, but for loopback: where both ends do nothing but move
//! bytes, the marks and their answers cost up to a fifth of what they move.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// What one connection knows of its bulk; empty where it has sent none since it last slept.
#[derive(Debug, Default)]
pub(super) struct BulkWindow {
    /// The peer answers marks; otherwise nothing is bounded.
    bounded: bool,
    /// Bytes of bulk written, and those known to be taken.
    written: u64,
    taken: u64,
    /// When that became known.
    taken_at: Option<Instant>,
    /// [`Self::written`] at the newest mark.
    marked: u64,
    marks: VecDeque<Position>,
    /// Of the newest mark.
    number: u64,
    /// When the newest answered mark was sent.
    answered_from: Option<Instant>,
    /// Bytes a second: the most of this epoch and of the one before, and the samples of this one.
    rates: [u64; 2],
    samples: u32,
    /// The least round trip, and when it was last seen.
    least: Option<(Duration, Instant)>,
    /// The window is small for the moment, so that the least round trip can be seen again.
    probing: bool,
    /// Bulk ran out while there was room: what the marks up to this byte tell is no bound of the line.
    idle_until: u64,
}

#[derive(Debug)]
struct Position {
    number: u64,
    at: Instant,
    /// Bytes written before it.
    written: u64,
    /// What was known when it was sent.
    taken: u64,
    taken_at: Instant,
    answered_from: Instant,
    /// Sent while the window was small, and kept.
    calm: bool,
}

impl BulkWindow {
    /// Forgets everything, but keeps its memory.
    pub(super) fn reset(&mut self) {
        if self.written == 0 {
            return;
        }
        let mut marks = std::mem::take(&mut self.marks);
        marks.clear();
        *self = Self { marks, number: self.number, ..Self::default() };
    }

    /// Says whether the peer answers marks.
    pub(super) fn bound(&mut self, bounded: bool) {
        self.bounded = bounded;
    }

    /// Whether an answer is awaited.
    pub(super) fn is_awaited(&self) -> bool {
        !self.marks.is_empty()
    }

    /// Whether nothing more may be written until an answer comes.
    pub(super) fn holds(&self) -> bool {
        self.is_awaited() && self.room() == 0
    }

    /// Bytes of bulk that may be written now.
    #[inline]
    pub(super) fn room(&self) -> usize {
        if !self.bounded {
            return usize::MAX;
        }
        usize::try_from(self.window().saturating_sub(self.written - self.taken)).unwrap_or(usize::MAX)
    }

    fn window(&self) -> u64 {
        let Some((least, _)) = self.least else { return FIRST };
        let carried = |time: Duration| {
            let bytes = u128::from(self.rates[0].max(self.rates[1])) * time.as_nanos() / NANOS;
            u64::try_from(bytes).map_or(MOST, |bytes| bytes.min(MOST))
        };
        if self.probing {
            return (carried(least) / 2).max(LEAST_MARKED);
        }
        2 * carried(least) + carried(LATE).clamp(2 * LEAST_MARKED, SLACK)
    }

    /// Bytes of bulk that may go into one round: up to the next mark.
    #[inline]
    pub(super) fn round(&self) -> usize {
        if self.written == 0 || !self.bounded {
            return if self.bounded { LEAST_MARKED as usize } else { BULK_ROUND };
        }
        let room = self.room().min(BULK_ROUND);
        let rest = (self.marked + self.stretch()).saturating_sub(self.written).max(LEAST_MARKED);
        room.min(usize::try_from(rest).unwrap_or(usize::MAX))
    }

    /// Bytes from one mark to the next. The first comes early, to see a round trip with little in front of it.
    fn stretch(&self) -> u64 {
        if self.marked == 0 { LEAST_MARKED } else { (self.window() / MARKS).max(LEAST_MARKED) }
    }

    /// So many bytes of bulk went out.
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.written += bytes as u64;
    }

    /// There was room for more than these last bytes, which are about to be written.
    pub(super) fn ran_out(&mut self, bytes: usize) {
        self.idle_until = self.written + bytes as u64;
    }

    /// The token of a mark to send now, if there is enough behind the last one.
    #[inline]
    pub(super) fn mark(&mut self, now: impl FnOnce() -> Instant) -> Option<u64> {
        if self.written == self.marked {
            return None;
        }
        let is_due = self.written - self.marked >= self.stretch();
        if !self.bounded || !is_due || self.marks.len() >= MOST_MARKS {
            return None;
        }
        let now = now();
        self.probing |= self.least.is_some_and(|(_, seen)| now.duration_since(seen) > AGE);
        let calm = self.probing && self.written - self.taken <= self.window() + LEAST_MARKED;
        // After a pause time counts from here.
        let fresh = self.marks.is_empty();
        let since = |known: Option<Instant>| known.filter(|_| !fresh).unwrap_or(now);
        self.number += 1;
        self.marked = self.written;
        self.marks.push_back(Position {
            number: self.number,
            at: now,
            written: self.written,
            taken: self.taken,
            taken_at: since(self.taken_at),
            answered_from: since(self.answered_from),
            calm,
        });
        Some(MARK | self.number)
    }

    /// Whether a pong's token is one of ours.
    pub(super) const fn is_mark(token: u64) -> bool {
        token & MARK != 0
    }

    /// The answer to a mark came; whether it told something. One that was never sent, or was answered before, does not.
    pub(super) fn answered(&mut self, token: u64, now: Instant) -> bool {
        let number = token & !MARK;
        let Some(at) = self.marks.iter().position(|mark| mark.number == number) else { return false };
        let Some(mark) = self.marks.drain(..=at).next_back() else { return false };
        self.taken = mark.written;
        self.taken_at = Some(now);
        self.answered_from = Some(mark.at);
        let round = now.duration_since(mark.at);
        if mark.calm && self.probing {
            (self.least, self.probing) = (Some((round, now)), false);
        } else if self.least.is_none_or(|(least, _)| round <= least) {
            self.least = Some((round, now));
        }
        // The slower of sending and being taken: answers that come in a clump tell nothing of the line.
        let took = now.duration_since(mark.taken_at).max(mark.at.duration_since(mark.answered_from));
        let rate = u128::from(mark.written - mark.taken) * NANOS / took.as_nanos().max(1);
        self.sample(u64::try_from(rate).unwrap_or(u64::MAX), mark.written <= self.idle_until);
        true
    }

    fn sample(&mut self, rate: u64, idle: bool) {
        if idle && rate < self.rates[0].max(self.rates[1]) {
            return;
        }
        self.rates[0] = self.rates[0].max(rate);
        self.samples += 1;
        if self.samples == EPOCH {
            (self.rates, self.samples) = ([0, self.rates[0]], 0);
        }
    }
}

/// Marks a ping as one of these.
const MARK: u64 = 1 << 63;
const NANOS: u128 = 1_000_000_000;
/// What may be under way before anything is known: a round trip of 1 ms at 256 MB/s.
const FIRST: u64 = 256 * 1024;
/// So late may an answer be before the line runs dry: what the line carries meanwhile is added to the window, two chunks at the
/// least, and at the most [`SLACK`].
const LATE: Duration = Duration::from_micros(100);
const SLACK: u64 = 256 * 1024;
/// No window is larger; far more than any kernel buffers.
const MOST: u64 = 1 << 40;
/// The most bulk in one round: what a vote that comes meanwhile has to wait for at this end.
const BULK_ROUND: usize = 64 * 1024;
/// Marks to a window.
const MARKS: u64 = 3;
/// A chunk; less is not worth a ping.
const LEAST_MARKED: u64 = 16 * 1024;
/// Marks that may be unanswered: more than twice those of a window.
const MOST_MARKS: usize = 16;
/// Samples in an epoch: two windows' worth.
const EPOCH: u32 = 2 * MARKS as u32;
/// So old a least round trip is looked at again (BBR: 10 s).
const AGE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    /// A line of a certain speed and length with a kernel that buffers everything, and a peer that answers marks.
    struct Line {
        flight: BulkWindow,
        /// Bytes a millisecond.
        speed: u64,
        /// Milliseconds there and back.
        trip: u64,
        now: Instant,
        time: u64,
        waits: u64,
        arrived: u64,
        /// Tokens: behind so many bytes, and those on their way back.
        marks: VecDeque<(u64, u64)>,
        answers: VecDeque<(u64, u64)>,
    }

    impl Line {
        fn new(speed: u64, trip: u64) -> Self {
            let mut flight = BulkWindow::default();
            flight.bound(true);
            let (marks, answers) = Default::default();
            Self { flight, speed, trip, now: Instant::now(), time: 0, waits: 0, arrived: 0, marks, answers }
        }

        /// Bulk for so many milliseconds; bytes that arrived, and the most that waited in the kernel.
        fn run(&mut self, millis: u64) -> (u64, u64) {
            let (before, mut most) = (self.arrived, 0);
            for _ in 0..millis {
                self.time += 1;
                while let Some((token, _)) = self.answers.pop_front_if(|(_, at)| *at <= self.time) {
                    self.flight.answered(token, self.now + Duration::from_millis(self.time));
                }
                let now = self.at(self.time);
                loop {
                    if let Some(token) = self.flight.mark(|| now) {
                        self.marks.push_back((token, self.arrived + self.waits));
                    }
                    let room = self.flight.round() as u64;
                    if room == 0 {
                        break;
                    }
                    self.flight.wrote(room as usize);
                    self.waits += room;
                }
                most = most.max(self.waits);
                let gone = self.waits.min(self.speed);
                (self.waits, self.arrived) = (self.waits - gone, self.arrived + gone);
                while let Some((token, _)) = self.marks.pop_front_if(|(_, behind)| *behind <= self.arrived) {
                    self.answers.push_back((token, self.time + self.trip));
                }
            }
            (self.arrived - before, most)
        }

        fn at(&self, time: u64) -> Instant {
            self.now + Duration::from_millis(time)
        }
    }

    #[test]
    fn lines_of_every_length_are_kept_busy_and_no_more_queues_than_a_round_trips_worth() {
        for (speed, trip) in
            [(1_000, 1), (100_000, 1), (1_000_000, 2), (10_000, 20), (100_000, 100), (1_000, 300)]
        {
            let mut line = Line::new(speed, trip);
            line.run(40 * (trip + 1) + FIRST / speed);
            let bound = speed * (2 * trip + 4) + 128 * 1024;
            let mut all = 0;
            // Four looks at the least round trip are in it.
            for _ in 0..40 {
                let (arrived, most) = line.run(1_000);
                all += arrived;
                // The answers of one tick come at once.
                assert!(most <= bound, "{speed} B/ms, {trip} ms: {most} of {bound} queue");
            }
            assert!(all * 100 >= speed * 40_000 * 96, "{speed} B/ms, {trip} ms: {all} in 40 s");
        }
    }

    #[test]
    fn a_line_that_becomes_slower_or_faster_is_followed() {
        let mut line = Line::new(100_000, 10);
        line.run(1_000);
        line.speed = 5_000;
        // What was under way takes half a second, and the samples that count come thrice a window.
        line.run(3_000);
        let (_, most) = line.run(1_000);
        assert!(most <= 5_000 * 24 + 128 * 1024, "{most} queue");
        line.speed = 200_000;
        line.run(1_000);
        let (arrived, _) = line.run(1_000);
        assert!(arrived >= 195_000_000, "{arrived} bytes in a second");
    }

    #[test]
    fn a_round_trip_that_was_measured_behind_a_queue_is_found_out() {
        let mut line = Line::new(10_000, 1);
        // Somebody else's megabytes are in front: 200 ms.
        line.waits = 2_000_000;
        line.run(25_000);
        let (arrived, most) = line.run(1_000);
        assert!(most <= 10_000 * 10 + 128 * 1024, "{most} queue");
        assert!(arrived >= 9_700_000, "{arrived} bytes in a second");
    }

    #[test]
    fn short_bulk_is_not_marked() {
        let mut flight = BulkWindow::default();
        flight.bound(true);
        flight.wrote(LEAST_MARKED as usize - 1);
        assert_eq!(flight.mark(Instant::now), None);
    }

    #[test]
    fn whoever_has_its_window_under_way_awaits_an_answer() {
        let mut flight = BulkWindow::default();
        flight.bound(true);
        while flight.room() > 0 {
            flight.wrote(flight.round().min(10_000));
            flight.mark(Instant::now);
        }
        assert!(flight.is_awaited());
    }
}
