//! Who is let go early and who is not. Time is what the tests say it is.

use std::sync::{Arc, mpsc};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use crate::base::{ConnId, Tick};
use crate::broadcast::test_reader::{self, TestLog};
use crate::broadcast::{Batch, Fill, LagPolicy, Log, LogConfig, RoomWait, WakeSet};

/// Milliseconds between two looks, at the default stall time of a second.
const LOOK: u64 = 20;
const SIZE: usize = 100;

struct Reader {
    cursor: test_reader::Reader,
    batch: Batch,
    /// Messages it went past.
    missed: u64,
}

impl Reader {
    /// Writes so many bytes at most; how many it wrote.
    fn take(&mut self, most: usize) -> usize {
        let mut left = most;
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
        // As a link whose stream is full then.
        self.cursor.publish();
        self.cursor.release(&mut self.batch);
        most - left
    }

    fn step(&mut self, most: usize) {
        self.take(most);
    }

    fn take_all(&mut self) {
        while self.take(1 << 20) > 0 {}
    }
}

/// A log, its links, and a producer that waits as [`NodeRef::ready`](crate::node::NodeRef::ready) does.
struct World {
    log: TestLog,
    links: Vec<Reader>,
    waiter: RoomWait,
    now: u64,
    ticked: u64,
}

impl World {
    fn new(links: u64, lag: LagPolicy) -> Self {
        let log = TestLog::new(LogConfig { lag, ..LogConfig::test() }, &WakeSet::new());
        let join = |n| {
            let cursor = log.join(ConnId::new(n).expect("not zero"));
            Reader { cursor, batch: Batch::new(), missed: 0 }
        };
        let links = (1..=links).map(join).collect();
        Self { links, waiter: log.room_wait(), log, now: 1_000, ticked: 0 }
    }

    fn has_room(&mut self) -> bool {
        self.waiter.poll(&mut Context::from_waker(Waker::noop()), Tick::from_millis(self.now)).is_ready()
    }

    /// Appends while there is room, up to so many messages.
    fn produce(&mut self, most: usize) -> usize {
        let mut count = 0;
        while count < most && self.has_room() {
            self.log.append(&[0; SIZE], None).expect("fits");
            count += 1;
        }
        count
    }

    /// Lets time go by and brings the clock, as maintenance does every quarter of a second.
    fn advance_clock(&mut self, millis: u64) {
        self.now += millis;
        if self.now - self.ticked >= 250 {
            self.ticked = self.now;
            self.log.tick(Tick::from_millis(self.now));
        }
    }

    /// Fills the window; all but the first `slow` links, whose streams are full, then write everything.
    fn burst(&mut self, slow: usize) {
        self.produce(usize::MAX);
        self.links[..slow].iter_mut().for_each(|link| link.step(0));
        self.links[slow..].iter_mut().for_each(Reader::take_all);
    }

    /// Fills the window and waits until there is room again, at most so long; how long it took.
    fn held_up(&mut self, slow: usize, most: u64) -> u64 {
        self.burst(slow);
        let since = self.now;
        while self.now - since < most && !self.has_room() {
            self.advance_clock(LOOK);
        }
        self.now - since
    }
}

#[test]
fn a_link_that_does_not_write_holds_the_others_up_for_a_tenth_of_the_stall_time() {
    let mut world = World::new(12, LagPolicy::Skip);
    assert_eq!(world.held_up(1, 5_000), 100);
    // Nor again, as long as it stands still.
    assert_eq!(world.held_up(1, 5_000), 0);
}

#[test]
fn a_third_that_reads_at_a_hundredth_is_let_go_at_once() {
    let mut world = World::new(12, LagPolicy::Skip);
    let mut sent = 0;
    for _ in 0..100 {
        sent += world.produce(40);
        world.links[..4].iter_mut().for_each(|link| link.step(40));
        world.links[4..].iter_mut().for_each(|link| link.step(4_000));
        world.advance_clock(LOOK);
    }
    assert!(sent >= 94 * 40, "{sent} of 4,000 messages in two seconds");
    assert!(world.links[4..].iter().all(|link| link.missed == 0));
}

#[test]
fn a_brief_pause_is_not_blamed() {
    let mut world = World::new(12, LagPolicy::Skip);
    for round in 0..50 {
        assert_eq!(world.held_up(1, 80), 80, "round {round}");
        world.links[0].take_all();
        assert!(world.has_room(), "round {round}");
        world.advance_clock(400);
    }
}

#[test]
fn links_that_had_nothing_to_write_while_another_crawled_are_waited_for() {
    let mut world = World::new(3, LagPolicy::Skip);
    world.burst(1);
    let since = world.now;
    while !world.has_room() {
        world.links[0].step(SIZE / 5);
        world.advance_clock(LOOK);
    }
    assert!(world.now - since >= 2_000);
    // Nobody moves: whoever is waited for is in the way.
    assert!(world.produce(10_000) < 10_000);
    world.links[1..].iter_mut().for_each(Reader::take_all);
    assert!(world.has_room());
}

#[test]
fn a_link_whose_task_has_not_had_its_turn_is_not_blamed() {
    let mut world = World::new(12, LagPolicy::Skip);
    world.produce(usize::MAX);
    world.links[1..].iter_mut().for_each(Reader::take_all);
    for _ in 0..45 {
        assert!(!world.has_room(), "its stream is not full");
        world.advance_clock(LOOK);
    }
}

#[test]
fn a_machine_that_stands_still_blames_nobody() {
    let mut world = World::new(12, LagPolicy::Skip);
    world.burst(1);
    assert!(!world.has_room());
    world.advance_clock(LOOK);
    assert!(!world.has_room());
    for late in [300, 300] {
        world.now += late;
        assert!(!world.has_room(), "a look that comes late counts as one");
    }
}

#[test]
fn when_most_are_slow_nobody_is_let_go_early() {
    let mut world = World::new(24, LagPolicy::Skip);
    world.burst(9);
    for _ in 0..95 {
        // They move, so that they do not count as standing still.
        world.links[..9].iter_mut().for_each(|link| link.step(SIZE / 2));
        assert!(!world.has_room(), "at {}", world.now);
        world.advance_clock(LOOK);
    }
}

#[test]
fn a_third_at_most_is_let_go_early() {
    let mut world = World::new(24, LagPolicy::Skip);
    assert_eq!(world.held_up(8, 5_000), 100);
    world.links[..8].iter_mut().for_each(|link| link.step(SIZE));
    // Those that were let go idle no more than the ninth does.
    assert!(world.held_up(9, 900) >= 900);
}

#[test]
fn while_no_producer_waits_nobody_is_let_go() {
    let mut world = World::new(12, LagPolicy::Skip);
    world.burst(1);
    assert!(!world.has_room());
    world.waiter = world.log.room_wait();
    assert_eq!(world.log.stall_deadline(), None);
    // Longer than whoever is in the way needs to be found slow; it moves, so that it does not count as standing still.
    for _ in 0..120 {
        world.links[0].step(SIZE / 20);
        world.advance_clock(LOOK);
        world.log.tick(Tick::from_millis(world.now));
    }
    assert!(!world.has_room());
    assert!(world.log.stall_deadline().is_some());
}

#[test]
fn what_a_link_was_blamed_for_before_the_last_producer_left_counts_for_nothing() {
    // Few links, so that only the slow judgement applies.
    let mut world = World::new(3, LagPolicy::Skip);
    world.burst(1);
    for round in 0..4 {
        // Three quarters of the time that makes a link slow.
        for _ in 0..75 {
            world.links[0].step(SIZE / 20);
            assert!(!world.has_room(), "round {round}");
            world.advance_clock(LOOK);
        }
        world.waiter = world.log.room_wait();
        world.links[0].step(SIZE / 20);
        world.advance_clock(250);
    }
}

#[test]
fn few_links_prove_nothing_early() {
    let mut world = World::new(8, LagPolicy::Skip);
    assert!(world.held_up(1, 900) >= 900);
}

#[test]
fn where_lagging_costs_the_connection_nobody_is_let_go_early() {
    let mut world = World::new(12, LagPolicy::Disconnect);
    assert!(world.held_up(1, 900) >= 900);
}

#[test]
fn a_link_that_takes_more_than_half_as_much_is_waited_for_at_any_pace() {
    for pace in [100, 1_000, 10_000] {
        let mut world = World::new(12, LagPolicy::Skip);
        for _ in 0..3_000 {
            world.produce(usize::MAX);
            world.links[0].take(pace * 2 / 3);
            world.links[1..].iter_mut().for_each(|link| link.step(pace));
            world.advance_clock(LOOK);
        }
        assert_eq!(world.links[0].missed, 0, "at {pace} bytes a look");
    }
}

#[test]
fn one_let_go_is_waited_for_again_once_it_keeps_up_and_later_each_further_time() {
    let mut world = World::new(12, LagPolicy::Skip);
    for (time, term) in [(1, 1_000), (2, 2_000), (3, 4_000), (4, 8_000), (5, 10_000), (6, 10_000)] {
        assert_eq!(world.held_up(1, 5_000), 100, "time {time}");
        world.links[0].take_all();
        let since = world.now;
        loop {
            // It keeps up; whether it is waited for shows when it stops for a moment.
            world.burst(1);
            let waited_for = !world.has_room();
            world.links[0].take_all();
            if waited_for {
                break;
            }
            world.advance_clock(50);
        }
        let took = world.now - since;
        assert!((term..=term + 500).contains(&took), "time {time}: after {took} ms");
        assert_eq!(world.links[0].missed, 0);
    }
}

/// Looks at the log when it is dropped, as a task's waker may that holds the task.
struct Meddler(Arc<Log>);

impl Wake for Meddler {
    fn wake(self: Arc<Self>) {}
}

impl Drop for Meddler {
    fn drop(&mut self) {
        let _ = self.0.stats();
    }
}

#[test]
fn no_waker_is_dropped_under_the_lock_of_a_log() {
    let (done, is_done) = mpsc::channel();
    let run = std::thread::spawn(move || {
        let mut world = World::new(1, LagPolicy::Skip);
        world.burst(1);
        let polled = |world: &mut World| {
            let waker = Waker::from(Arc::new(Meddler(Arc::clone(&world.log))));
            world.waiter.poll(&mut Context::from_waker(&waker), Tick::from_millis(world.now)).is_ready()
        };
        assert!(!polled(&mut world));
        assert!(!polled(&mut world), "the waker of the last poll goes");
        world.waiter = world.log.room_wait();
        assert!(!polled(&mut world));
        world.links[0].take_all();
        assert!(polled(&mut world));
        done.send(()).expect("awaited");
    });
    // One that waits for the lock it holds itself never ends.
    assert!(is_done.recv_timeout(Duration::from_secs(60)).is_ok());
    run.join().expect("no panic");
}
