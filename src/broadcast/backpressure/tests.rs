//! Which members are found slow, and when. The tests set the time.

use std::sync::{Arc, mpsc};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use crate::base::{ConnId, Tick};
use crate::broadcast::test_reader::{self, TestLog};
use crate::broadcast::{Batch, Fill, LagPolicy, Log, LogConfig, RoomWait, WakeSet};

/// Milliseconds between two checks, at the default stall time of a second.
const CHECK_MS: u64 = 20;
const SIZE: usize = 100;

struct Reader {
    cursor: test_reader::Reader,
    batch: Batch,
    /// Messages that it skipped.
    missed: u64,
}

impl Reader {
    /// Writes at most `max` bytes. Returns how many it wrote.
    fn take(&mut self, max: usize) -> usize {
        let mut left = max;
        while left > 0 {
            if self.batch.is_empty() {
                match self.cursor.fill(left, &mut self.batch) {
                    Fill::Ready => {}
                    Fill::Skipped { messages, .. } => self.missed += messages,
                    Fill::CaughtUp | Fill::Overrun => break,
                }
            }
            let some = self.batch.len().min(left);
            self.cursor.advance(&mut self.batch, some);
            left -= some;
        }
        // Then its stream is full.
        self.cursor.publish();
        self.cursor.release(&mut self.batch);
        max - left
    }

    fn step(&mut self, max: usize) {
        self.take(max);
    }

    fn take_all(&mut self) {
        while self.take(1 << 20) > 0 {}
    }
}

/// A log, its connections, and a producer that waits as
/// [`NodeRef::ready`](crate::node::NodeRef::ready) does.
struct Scenario {
    log: TestLog,
    readers: Vec<Reader>,
    waiter: RoomWait,
    now: u64,
    ticked: u64,
}

impl Scenario {
    fn new(readers: u64, lag: LagPolicy) -> Self {
        let log = TestLog::new(LogConfig { lag, ..LogConfig::test() }, &WakeSet::new());
        let join = |n| {
            let cursor = log.join(ConnId::new(n).expect("not zero"));
            Reader { cursor, batch: Batch::new(), missed: 0 }
        };
        let readers = (1..=readers).map(join).collect();
        Self { readers, waiter: log.room_wait(), log, now: 1_000, ticked: 0 }
    }

    fn has_room(&mut self) -> bool {
        self.waiter.poll(&mut Context::from_waker(Waker::noop()), Tick::from_millis(self.now)).is_ready()
    }

    /// Appends while there is room, at most `max` messages.
    fn produce(&mut self, max: usize) -> usize {
        let mut count = 0;
        while count < max && self.has_room() {
            self.log.append(&[0; SIZE], None).expect("fits");
            count += 1;
        }
        count
    }

    /// Lets time pass, with a tick every quarter of a second, as the maintenance does.
    fn advance_clock(&mut self, millis: u64) {
        self.now += millis;
        if self.now - self.ticked >= 250 {
            self.ticked = self.now;
            self.log.tick(Tick::from_millis(self.now));
        }
    }

    /// Fills the window. Then all but the first `slow` connections, whose streams are full, write
    /// everything.
    fn burst(&mut self, slow: usize) {
        self.produce(usize::MAX);
        self.readers[..slow].iter_mut().for_each(|reader| reader.step(0));
        self.readers[slow..].iter_mut().for_each(Reader::take_all);
    }

    /// Fills the window and waits until there is room again, at most `max` milliseconds. Returns
    /// how long it took.
    fn delay(&mut self, slow: usize, max: u64) -> u64 {
        self.burst(slow);
        let since = self.now;
        while self.now - since < max && !self.has_room() {
            self.advance_clock(CHECK_MS);
        }
        self.now - since
    }
}

#[test]
fn a_member_that_does_not_write_delays_the_others_for_a_tenth_of_the_stall_time() {
    let mut scenario = Scenario::new(12, LagPolicy::Skip);
    assert_eq!(scenario.delay(1, 5_000), 100);
    // Not again while it stands still.
    assert_eq!(scenario.delay(1, 5_000), 0);
}

#[test]
fn a_third_that_reads_at_a_hundredth_is_found_slow_at_once() {
    let mut scenario = Scenario::new(12, LagPolicy::Skip);
    let mut sent = 0;
    for _ in 0..100 {
        sent += scenario.produce(40);
        scenario.readers[..4].iter_mut().for_each(|reader| reader.step(40));
        scenario.readers[4..].iter_mut().for_each(|reader| reader.step(4_000));
        scenario.advance_clock(CHECK_MS);
    }
    assert!(sent >= 94 * 40, "{sent} of 4,000 messages in two seconds");
    assert!(scenario.readers[4..].iter().all(|reader| reader.missed == 0));
}

#[test]
fn a_brief_pause_does_not_make_a_member_slow() {
    let mut scenario = Scenario::new(12, LagPolicy::Skip);
    for round in 0..50 {
        assert_eq!(scenario.delay(1, 80), 80, "round {round}");
        scenario.readers[0].take_all();
        assert!(scenario.has_room(), "round {round}");
        scenario.advance_clock(400);
    }
}

#[test]
fn members_that_idled_while_another_crawled_are_waited_for() {
    let mut scenario = Scenario::new(3, LagPolicy::Skip);
    scenario.burst(1);
    let since = scenario.now;
    while !scenario.has_room() {
        scenario.readers[0].step(SIZE / 5);
        scenario.advance_clock(CHECK_MS);
    }
    assert!(scenario.now - since >= 2_000);
    // No member moves, so the others are in the way.
    assert!(scenario.produce(10_000) < 10_000);
    scenario.readers[1..].iter_mut().for_each(Reader::take_all);
    assert!(scenario.has_room());
}

#[test]
fn a_member_without_a_full_stream_is_not_found_slow_early() {
    let mut scenario = Scenario::new(12, LagPolicy::Skip);
    scenario.produce(usize::MAX);
    scenario.readers[1..].iter_mut().for_each(Reader::take_all);
    for _ in 0..45 {
        assert!(!scenario.has_room(), "its stream is not full");
        scenario.advance_clock(CHECK_MS);
    }
}

#[test]
fn a_machine_that_stands_still_makes_no_member_slow() {
    let mut scenario = Scenario::new(12, LagPolicy::Skip);
    scenario.burst(1);
    assert!(!scenario.has_room());
    scenario.advance_clock(CHECK_MS);
    assert!(!scenario.has_room());
    for late in [300, 300] {
        scenario.now += late;
        assert!(!scenario.has_room(), "a check that comes late counts once");
    }
}

#[test]
fn when_many_are_slow_none_is_found_early() {
    let mut scenario = Scenario::new(24, LagPolicy::Skip);
    scenario.burst(9);
    for _ in 0..95 {
        // They move, so that they do not count as standing still.
        scenario.readers[..9].iter_mut().for_each(|reader| reader.step(SIZE / 2));
        assert!(!scenario.has_room(), "at {}", scenario.now);
        scenario.advance_clock(CHECK_MS);
    }
}

#[test]
fn at_most_a_third_is_found_slow_early() {
    let mut scenario = Scenario::new(24, LagPolicy::Skip);
    assert_eq!(scenario.delay(8, 5_000), 100);
    scenario.readers[..8].iter_mut().for_each(|reader| reader.step(SIZE));
    // Slow members are as little idle as the ninth.
    assert!(scenario.delay(9, 900) >= 900);
}

#[test]
fn without_a_producer_no_member_is_found_slow() {
    let mut scenario = Scenario::new(12, LagPolicy::Skip);
    scenario.burst(1);
    assert!(!scenario.has_room());
    scenario.waiter = scenario.log.room_wait();
    assert_eq!(scenario.log.stall_deadline(), None);
    // Longer than it takes to find a member slow. It moves, so that it is not stalled.
    for _ in 0..120 {
        scenario.readers[0].step(SIZE / 20);
        scenario.advance_clock(CHECK_MS);
        scenario.log.tick(Tick::from_millis(scenario.now));
    }
    assert!(!scenario.has_room());
    assert!(scenario.log.stall_deadline().is_some());
}

#[test]
fn delays_before_the_last_producer_gave_up_do_not_count() {
    // Few members, so that the evidence is weak.
    let mut scenario = Scenario::new(3, LagPolicy::Skip);
    scenario.burst(1);
    for round in 0..4 {
        // Three quarters of the time that makes a member slow.
        for _ in 0..75 {
            scenario.readers[0].step(SIZE / 20);
            assert!(!scenario.has_room(), "round {round}");
            scenario.advance_clock(CHECK_MS);
        }
        scenario.waiter = scenario.log.room_wait();
        scenario.readers[0].step(SIZE / 20);
        scenario.advance_clock(250);
    }
}

#[test]
fn few_idle_members_are_weak_evidence() {
    let mut scenario = Scenario::new(8, LagPolicy::Skip);
    assert!(scenario.delay(1, 900) >= 900);
}

#[test]
fn a_member_in_the_way_of_every_short_wait_is_found_slow_on_weak_evidence() {
    let mut scenario = Scenario::new(3, LagPolicy::Disconnect);
    let mut waited = 0;
    // Each wait is too short for a standstill, and the member moves in each.
    for _ in 0..100 {
        let wait = scenario.delay(1, 80);
        if wait < 80 {
            break;
        }
        waited += wait;
        scenario.readers[0].step(SIZE / 4);
    }
    assert!(waited <= 3_000, "{waited} ms of waits");
}

#[test]
fn a_member_that_dribbles_from_within_the_window_does_not_hold_producers_for_good() {
    let mut scenario = Scenario::new(12, LagPolicy::Skip);
    scenario.produce(usize::MAX);
    // It had gone some of the way when the others began to idle, so the quick rule spares it.
    let window = scenario.readers[1].take(1 << 20);
    scenario.readers[0].take(window * 3 / 10);
    scenario.readers[2..].iter_mut().for_each(Reader::take_all);
    let mut waits = 0;
    while scenario.produce(10) == 0 && waits < 5_000 {
        // A message in 400 ms: it does not stand still.
        scenario.readers[0].step(SIZE / 20);
        scenario.advance_clock(CHECK_MS);
        waits += CHECK_MS;
    }
    assert!(waits <= 2_500, "{waits} ms of waits");
}

#[test]
fn weak_evidence_does_not_add_up_to_strong_evidence() {
    let mut scenario = Scenario::new(12, LagPolicy::Skip);
    // Seven idle: too few for the quick rule.
    scenario.burst(5);
    for _ in 0..40 {
        scenario.readers[..5].iter_mut().for_each(|reader| reader.step(SIZE / 20));
        assert!(!scenario.has_room());
        scenario.advance_clock(CHECK_MS);
    }
    // From now on eight: the delay before does not count.
    scenario.readers[4].take_all();
    for check in 0..4 {
        scenario.readers[..4].iter_mut().for_each(|reader| reader.step(0));
        assert!(!scenario.has_room(), "check {check}");
        scenario.advance_clock(CHECK_MS);
    }
}

#[test]
fn with_disconnect_no_member_is_found_slow_early() {
    let mut scenario = Scenario::new(12, LagPolicy::Disconnect);
    assert!(scenario.delay(1, 900) >= 900);
}

#[test]
fn a_member_that_takes_more_than_half_as_much_is_waited_for_at_any_pace() {
    for pace in [100, 1_000, 10_000] {
        let mut scenario = Scenario::new(12, LagPolicy::Skip);
        for _ in 0..3_000 {
            scenario.produce(usize::MAX);
            scenario.readers[0].take(pace * 2 / 3);
            scenario.readers[1..].iter_mut().for_each(|reader| reader.step(pace));
            scenario.advance_clock(CHECK_MS);
        }
        assert_eq!(scenario.readers[0].missed, 0, "at {pace} bytes a check");
    }
}

#[test]
fn a_slow_member_is_reinstated_once_it_keeps_up_and_later_each_further_time() {
    let mut scenario = Scenario::new(12, LagPolicy::Skip);
    for (time, probation) in [(1, 1_000), (2, 2_000), (3, 4_000), (4, 8_000), (5, 10_000), (6, 10_000)] {
        assert_eq!(scenario.delay(1, 5_000), 100, "time {time}");
        scenario.readers[0].take_all();
        let since = scenario.now;
        loop {
            // It keeps up. Whether it is waited for shows when it stops for a moment.
            scenario.burst(1);
            let waited_for = !scenario.has_room();
            scenario.readers[0].take_all();
            if waited_for {
                break;
            }
            scenario.advance_clock(50);
        }
        let took = scenario.now - since;
        assert!((probation..=probation + 500).contains(&took), "time {time}: after {took} ms");
        assert_eq!(scenario.readers[0].missed, 0);
    }
}

/// Reads the log when it is dropped, like the waker of a task that holds the log.
struct LogReadingWaker(Arc<Log>);

impl Wake for LogReadingWaker {
    fn wake(self: Arc<Self>) {}
}

impl Drop for LogReadingWaker {
    fn drop(&mut self) {
        let _ = self.0.stats();
    }
}

#[test]
fn no_waker_is_dropped_under_the_lock() {
    let (done, is_done) = mpsc::channel();
    let run = std::thread::spawn(move || {
        let mut scenario = Scenario::new(1, LagPolicy::Skip);
        scenario.burst(1);
        let polled = |scenario: &mut Scenario| {
            let waker = Waker::from(Arc::new(LogReadingWaker(Arc::clone(&scenario.log))));
            scenario.waiter.poll(&mut Context::from_waker(&waker), Tick::from_millis(scenario.now)).is_ready()
        };
        assert!(!polled(&mut scenario));
        assert!(!polled(&mut scenario), "the waker of the last poll goes");
        scenario.waiter = scenario.log.room_wait();
        assert!(!polled(&mut scenario));
        scenario.readers[0].take_all();
        assert!(polled(&mut scenario));
        done.send(()).expect("awaited");
    });
    // A thread that waits for a lock that it holds never ends.
    assert!(is_done.recv_timeout(Duration::from_secs(60)).is_ok());
    run.join().expect("no panic");
}
