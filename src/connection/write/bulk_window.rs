//! Limits the bulk in flight to what keeps the path busy, so that urgent messages wait behind
//! little of it.
//!
//! Everything written is ahead of every later vote. `TCP_NOTSENT_LOWAT` bounds what waits in the
//! near kernel. Nothing bounds the far kernel: its receive buffer grows to tens of megabytes if the
//! far process reads more slowly than the path delivers. So bulk is followed by *marks*: pings
//! whose pongs acknowledge what the far *process* has taken, and how soon. No more is in flight
//! than [`BulkWindow::room`] allows: twice what the path carries in the least round trip, and a
//! little more. That is BBR's bandwidth-delay product with a `cwnd_gain` of 2; the rate is
//! estimated as in draft-cheng-iccrg-delivery-rate-estimation. About one round trip's worth queues.
//!
//! A path is as busy as without the window, except loopback: where both ends only move bytes, the
//! marks and their acknowledgements cost up to a fifth of the throughput.

use std::collections::VecDeque;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

/// The bit of a ping's token that makes it a mark.
pub(in crate::connection) const MARK_BIT: u64 = 1 << 63;
const NANOS_PER_SECOND: u128 = 1_000_000_000;
/// Bytes that may be in flight before anything is known: a round trip of 1 ms at 256 MB/s.
const INITIAL_WINDOW_BYTES: u64 = 256 * 1024;
/// How late an acknowledgement may be before the path runs dry. What the path carries in that time
/// is added to the window: two chunks at least, [`MAX_SLACK_BYTES`] at most.
const ACK_DELAY: Duration = Duration::from_micros(100);
const MAX_SLACK_BYTES: u64 = 256 * 1024;
/// No window is larger; far more than any kernel buffers.
const MAX_WINDOW_BYTES: u64 = 1 << 40;
/// The most bulk in one round: what a vote that arrives meanwhile waits for at this end.
const MAX_ROUND_BYTES: usize = 64 * 1024;
const MARKS_PER_WINDOW: u64 = 3;
/// The least bulk between two marks: a chunk. Less is not worth a ping.
const MIN_MARK_BYTES: u64 = 16 * 1024;
/// Marks that may be unacknowledged: more than twice those of a window.
const MAX_MARKS: usize = 16;
/// Rate samples in an epoch: two windows' worth.
const EPOCH_SAMPLES: u32 = 2 * MARKS_PER_WINDOW as u32;
/// The age at which a least round trip is measured again (BBR: 10 s).
const MAX_MIN_RTT_AGE: Duration = Duration::from_secs(10);

/// The pong to a mark.
#[derive(Clone, Copy, Debug)]
pub(in crate::connection) struct BulkAck {
    token: u64,
    at: Instant,
}

/// The acknowledgements that one pass of the reader found, for the writer. Allocates nothing.
#[derive(Debug, Default)]
pub(in crate::connection) struct BulkAcks(SmallVec<[BulkAck; MAX_MARKS]>);

impl BulkAcks {
    /// Records a pong if it answers a mark; `false` if it answers another ping. More than the marks
    /// that can be unacknowledged are forged, and are dropped.
    pub(in crate::connection) fn record(&mut self, token: u64) -> bool {
        let is_mark = token & MARK_BIT != 0;
        if is_mark && self.0.len() < MAX_MARKS {
            self.0.push(BulkAck { token, at: Instant::now() });
        }
        is_mark
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = BulkAck> {
        self.0.iter().copied()
    }

    pub(in crate::connection) fn clear(&mut self) {
        self.0.clear();
    }
}

/// What one connection knows of its bulk. Empty where it has sent none since it last slept.
#[derive(Debug, Default)]
pub(super) struct BulkWindow {
    /// The peer acknowledges marks; otherwise nothing is limited.
    is_limited: bool,
    /// Bytes of bulk written, and those known to be taken by the peer.
    written: u64,
    acknowledged: u64,
    /// When that became known.
    acknowledged_at: Option<Instant>,
    /// [`Self::written`] at the newest mark.
    marked: u64,
    marks: VecDeque<Mark>,
    /// Number of the newest mark.
    last_number: u64,
    /// When the newest acknowledged mark was sent.
    acknowledged_mark_sent_at: Option<Instant>,
    /// Bytes a second: the highest of this epoch and of the one before, and the number of samples
    /// of this one.
    max_rates: [u64; 2],
    samples: u32,
    /// The least round trip, and when it was last seen.
    min_rtt: Option<(Duration, Instant)>,
    /// The window is small for the moment, so that the least round trip can be measured again.
    is_probing_rtt: bool,
    /// The application ran out of bulk while there was room. Samples of marks up to this byte do
    /// not limit the rate.
    app_limited_until: u64,
}

#[derive(Debug)]
struct Mark {
    number: u64,
    sent_at: Instant,
    /// Bytes written before it.
    written: u64,
    /// What was known when it was sent.
    acknowledged: u64,
    acknowledged_at: Instant,
    acknowledged_mark_sent_at: Instant,
    /// Sent while the window was small and respected.
    probes_rtt: bool,
}

impl BulkWindow {
    /// Forgets everything but its memory and the number of the newest mark.
    pub(super) fn reset(&mut self) {
        if self.written == 0 {
            return;
        }
        let mut marks = std::mem::take(&mut self.marks);
        marks.clear();
        *self = Self { marks, last_number: self.last_number, ..Self::default() };
    }

    /// Sets whether the peer acknowledges marks.
    pub(super) fn set_limited(&mut self, is_limited: bool) {
        self.is_limited = is_limited;
    }

    /// Whether an acknowledgement is outstanding.
    pub(super) fn awaits_ack(&self) -> bool {
        !self.marks.is_empty()
    }

    /// Whether nothing more may be written until an acknowledgement arrives.
    pub(super) fn is_full(&self) -> bool {
        self.awaits_ack() && self.room() == 0
    }

    /// Bytes of bulk that may be written now.
    #[inline]
    pub(super) fn room(&self) -> usize {
        if !self.is_limited {
            return usize::MAX;
        }
        let in_flight = self.written - self.acknowledged;
        usize::try_from(self.window().saturating_sub(in_flight)).unwrap_or(usize::MAX)
    }

    fn window(&self) -> u64 {
        let Some((min_rtt, _)) = self.min_rtt else { return INITIAL_WINDOW_BYTES };
        let carried = |time: Duration| {
            let rate = self.max_rates[0].max(self.max_rates[1]);
            let bytes = u128::from(rate) * time.as_nanos() / NANOS_PER_SECOND;
            u64::try_from(bytes).map_or(MAX_WINDOW_BYTES, |bytes| bytes.min(MAX_WINDOW_BYTES))
        };
        if self.is_probing_rtt {
            return (carried(min_rtt) / 2).max(MIN_MARK_BYTES);
        }
        2 * carried(min_rtt) + carried(ACK_DELAY).clamp(2 * MIN_MARK_BYTES, MAX_SLACK_BYTES)
    }

    /// Bytes of bulk that may go into one round: up to the next mark.
    #[inline]
    pub(super) fn round_bytes(&self) -> usize {
        if self.written == 0 || !self.is_limited {
            return if self.is_limited { MIN_MARK_BYTES as usize } else { MAX_ROUND_BYTES };
        }
        let room = self.room().min(MAX_ROUND_BYTES);
        let next_mark = self.marked + self.mark_interval();
        let rest = next_mark.saturating_sub(self.written).max(MIN_MARK_BYTES);
        room.min(usize::try_from(rest).unwrap_or(usize::MAX))
    }

    /// Bytes from one mark to the next. The first comes early, to measure a round trip with little
    /// in front of it.
    fn mark_interval(&self) -> u64 {
        if self.marked == 0 { MIN_MARK_BYTES } else { (self.window() / MARKS_PER_WINDOW).max(MIN_MARK_BYTES) }
    }

    /// Counts bytes of bulk that went out.
    pub(super) fn add_written(&mut self, bytes: usize) {
        self.written += bytes as u64;
    }

    /// There was room for more than these last bytes, which are about to be written.
    pub(super) fn ran_out(&mut self, bytes: usize) {
        self.app_limited_until = self.written + bytes as u64;
    }

    /// The token of a mark to send now, if there is enough behind the last one.
    #[inline]
    pub(super) fn next_mark(&mut self, now: impl FnOnce() -> Instant) -> Option<u64> {
        if self.written == self.marked {
            return None;
        }
        let is_due = self.written - self.marked >= self.mark_interval();
        if !self.is_limited || !is_due || self.marks.len() >= MAX_MARKS {
            return None;
        }
        let now = now();
        self.is_probing_rtt |=
            self.min_rtt.is_some_and(|(_, seen)| now.duration_since(seen) > MAX_MIN_RTT_AGE);
        let in_flight = self.written - self.acknowledged;
        let probes_rtt = self.is_probing_rtt && in_flight <= self.window() + MIN_MARK_BYTES;
        // After a pause, time counts from here.
        let after_pause = self.marks.is_empty();
        let since = |known: Option<Instant>| known.filter(|_| !after_pause).unwrap_or(now);
        self.last_number += 1;
        self.marked = self.written;
        self.marks.push_back(Mark {
            number: self.last_number,
            sent_at: now,
            written: self.written,
            acknowledged: self.acknowledged,
            acknowledged_at: since(self.acknowledged_at),
            acknowledged_mark_sent_at: since(self.acknowledged_mark_sent_at),
            probes_rtt,
        });
        Some(MARK_BIT | self.last_number)
    }

    /// Takes an acknowledgement. `false` if it tells nothing new: the mark was never sent, or was
    /// acknowledged before.
    pub(super) fn acknowledge(&mut self, ack: BulkAck) -> bool {
        let (number, now) = (ack.token & !MARK_BIT, ack.at);
        let Some(at) = self.marks.iter().position(|mark| mark.number == number) else { return false };
        let Some(mark) = self.marks.drain(..=at).next_back() else { return false };
        self.acknowledged = mark.written;
        self.acknowledged_at = Some(now);
        self.acknowledged_mark_sent_at = Some(mark.sent_at);
        let rtt = now.duration_since(mark.sent_at);
        if mark.probes_rtt && self.is_probing_rtt {
            (self.min_rtt, self.is_probing_rtt) = (Some((rtt, now)), false);
        } else if self.min_rtt.is_none_or(|(min_rtt, _)| rtt <= min_rtt) {
            self.min_rtt = Some((rtt, now));
        }
        // The slower of sending and being taken: acknowledgements that arrive together say nothing
        // about the path.
        let taking = now.duration_since(mark.acknowledged_at);
        let sending = mark.sent_at.duration_since(mark.acknowledged_mark_sent_at);
        let bytes = u128::from(mark.written - mark.acknowledged);
        let rate = bytes * NANOS_PER_SECOND / taking.max(sending).as_nanos().max(1);
        let is_app_limited = mark.written <= self.app_limited_until;
        self.add_sample(u64::try_from(rate).unwrap_or(u64::MAX), is_app_limited);
        true
    }

    fn add_sample(&mut self, rate: u64, is_app_limited: bool) {
        if is_app_limited && rate < self.max_rates[0].max(self.max_rates[1]) {
            return;
        }
        self.max_rates[0] = self.max_rates[0].max(rate);
        self.samples += 1;
        if self.samples == EPOCH_SAMPLES {
            (self.max_rates, self.samples) = ([0, self.max_rates[0]], 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path of a given speed and round trip, with a kernel that buffers everything and a peer
    /// that acknowledges marks.
    struct Path {
        window: BulkWindow,
        /// Bytes a millisecond.
        speed: u64,
        /// Milliseconds of a round trip.
        trip: u64,
        start: Instant,
        /// Milliseconds since then.
        time: u64,
        queued: u64,
        arrived: u64,
        /// Tokens, each with the bytes written before it.
        marks: VecDeque<(u64, u64)>,
        /// Tokens on their way back, each with the time of arrival.
        acks: VecDeque<(u64, u64)>,
    }

    impl Path {
        fn new(speed: u64, trip: u64) -> Self {
            let mut window = BulkWindow::default();
            window.set_limited(true);
            let (marks, acks) = Default::default();
            Self { window, speed, trip, start: Instant::now(), time: 0, queued: 0, arrived: 0, marks, acks }
        }

        /// Sends bulk for `millis`. Returns the bytes that arrived, and the most that queued in the
        /// kernel.
        fn run(&mut self, millis: u64) -> (u64, u64) {
            let (before, mut most) = (self.arrived, 0);
            for _ in 0..millis {
                self.time += 1;
                while let Some((token, _)) = self.acks.pop_front_if(|(_, at)| *at <= self.time) {
                    self.window.acknowledge(BulkAck { token, at: self.start + Duration::from_millis(self.time) });
                }
                let now = self.at(self.time);
                loop {
                    if let Some(token) = self.window.next_mark(|| now) {
                        self.marks.push_back((token, self.arrived + self.queued));
                    }
                    let room = self.window.round_bytes() as u64;
                    if room == 0 {
                        break;
                    }
                    self.window.add_written(room as usize);
                    self.queued += room;
                }
                most = most.max(self.queued);
                let gone = self.queued.min(self.speed);
                (self.queued, self.arrived) = (self.queued - gone, self.arrived + gone);
                while let Some((token, _)) = self.marks.pop_front_if(|(_, behind)| *behind <= self.arrived) {
                    self.acks.push_back((token, self.time + self.trip));
                }
            }
            (self.arrived - before, most)
        }

        fn at(&self, time: u64) -> Instant {
            self.start + Duration::from_millis(time)
        }
    }

    #[test]
    fn paths_of_every_length_stay_busy_and_about_one_round_trip_queues() {
        for (speed, trip) in
            [(1_000, 1), (100_000, 1), (1_000_000, 2), (10_000, 20), (100_000, 100), (1_000, 300)]
        {
            let mut path = Path::new(speed, trip);
            path.run(40 * (trip + 1) + INITIAL_WINDOW_BYTES / speed);
            let bound = speed * (2 * trip + 4) + 128 * 1024;
            let mut all = 0;
            // Four measurements of the least round trip are included.
            for _ in 0..40 {
                let (arrived, most) = path.run(1_000);
                all += arrived;
                // The acknowledgements of one tick arrive at once.
                assert!(most <= bound, "{speed} B/ms, {trip} ms: {most} of {bound} queue");
            }
            assert!(all * 100 >= speed * 40_000 * 96, "{speed} B/ms, {trip} ms: {all} in 40 s");
        }
    }

    #[test]
    fn the_window_follows_a_path_that_becomes_slower_or_faster() {
        let mut path = Path::new(100_000, 10);
        path.run(1_000);
        path.speed = 5_000;
        // What was in flight takes half a second, and the samples that count come three times a
        // window.
        path.run(3_000);
        let (_, most) = path.run(1_000);
        assert!(most <= 5_000 * 24 + 128 * 1024, "{most} queue");
        path.speed = 200_000;
        path.run(1_000);
        let (arrived, _) = path.run(1_000);
        assert!(arrived >= 195_000_000, "{arrived} bytes in a second");
    }

    #[test]
    fn a_round_trip_measured_behind_a_queue_is_corrected() {
        let mut path = Path::new(10_000, 1);
        // Other traffic queues in front: 200 ms.
        path.queued = 2_000_000;
        path.run(25_000);
        let (arrived, most) = path.run(1_000);
        assert!(most <= 10_000 * 10 + 128 * 1024, "{most} queue");
        assert!(arrived >= 9_700_000, "{arrived} bytes in a second");
    }

    #[test]
    fn short_bulk_gets_no_mark() {
        let mut window = BulkWindow::default();
        window.set_limited(true);
        window.add_written(MIN_MARK_BYTES as usize - 1);
        assert_eq!(window.next_mark(Instant::now), None);
    }

    #[test]
    fn a_full_window_awaits_an_acknowledgement() {
        let mut window = BulkWindow::default();
        window.set_limited(true);
        while window.room() > 0 {
            window.add_written(window.round_bytes().min(10_000));
            window.next_mark(Instant::now);
        }
        assert!(window.awaits_ack());
    }
}
