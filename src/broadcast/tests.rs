use std::io::IoSlice;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;

use super::test_reader::{Reader, TestLog};
use super::*;
use crate::base::Tick;

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn counting() -> (Arc<Count>, Waker) {
    let count = Arc::new(Count(AtomicUsize::new(0)));
    (Arc::clone(&count), Waker::from(count))
}

fn conn(n: u64) -> ConnId {
    ConnId::new(n).expect("not zero")
}

fn log(lag: LagPolicy) -> TestLog {
    TestLog::new(LogConfig { lag, ..LogConfig::test() }, &WakeSet::new())
}

fn line_of(batch: &Batch) -> Vec<u8> {
    let mut slices = vec![IoSlice::new(&[]); 256];
    let used = batch.slices(&mut slices);
    slices[..used].iter().flat_map(|slice| slice.iter().copied()).collect()
}

/// Everything that is there to take now, written.
fn take(cursor: &mut Reader) -> Vec<u8> {
    let (mut line, mut batch) = (Vec::new(), Batch::new());
    while cursor.fill(1 << 20, &mut batch) == Fill::Ready {
        let part = line_of(&batch);
        cursor.advance(&mut batch, part.len());
        line.extend(part);
    }
    cursor.publish();
    line
}

fn flood(log: &Log, count: usize, size: usize) {
    for _ in 0..count {
        log.append(&vec![0; size], None).expect("fits");
    }
}

fn chunked(count: usize, size: usize) -> Vec<LogChunk> {
    (0..count).map(|n| LogChunk::new(&[n as u8; 4], Bytes::from(vec![n as u8; size]))).collect()
}

#[test]
fn an_empty_or_too_large_message_is_refused() {
    let log = log(LagPolicy::Skip);
    assert_eq!(log.append(&[], None), Err(AppendError::Empty));
    assert_eq!(log.append_chunks([], None), Err(AppendError::Empty));
    let limit = log.ring_bytes() / 2;
    assert_eq!(log.append(&vec![0; limit + 1], None), Err(AppendError::TooLarge { len: limit + 1, limit }));
    assert_eq!(log.stats(), LogStats { ring_bytes: log.ring_bytes(), ..LogStats::default() });
    assert_eq!(log.append(&[1], None).unwrap().seq, 0);
}

#[test]
fn a_small_rest_of_the_tail_is_copied_and_a_large_one_is_shared() {
    let log = log(LagPolicy::Skip);
    let mut cursor = log.join(conn(1));
    let mut batch = Batch::new();
    log.append(b"little", None).unwrap();
    assert_eq!(cursor.fill(1 << 20, &mut batch), Fill::Ready);
    assert_eq!(log.segments(), 0, "nothing was sealed for six bytes");
    cursor.advance(&mut batch, 6);
    log.append(&[7; 5000], None).unwrap();
    assert_eq!(cursor.fill(1 << 20, &mut batch), Fill::Ready);
    assert_eq!(log.segments(), 2, "the rolled block and the sealed tail");
    assert_eq!(line_of(&batch), [7; 5000]);
}

#[test]
fn a_link_that_has_as_much_to_write_leaves_the_tail_to_grow() {
    let log = TestLog::new(LogConfig::recommended(), &WakeSet::new());
    let mut early = log.join(conn(1));
    let mut late = log.join(conn(2));
    let message = [1; 10_000];
    log.append(&message, None).unwrap();
    assert_eq!(take(&mut early).len(), 10_000);
    log.append(&message, None).unwrap();
    let mut batch = Batch::new();
    assert_eq!(late.fill(1 << 20, &mut batch), Fill::Ready);
    assert_eq!((batch.len(), log.segments()), (10_000, 1));
    late.advance(&mut batch, 10_000);
    assert!(late.has_unread(), "it comes back before it parks");
    assert_eq!(take(&mut late).len(), 10_000);
}

#[test]
fn a_stuck_link_keeps_a_copy_of_the_rest_of_its_chunk_and_pins_no_segment() {
    let log = log(LagPolicy::Skip);
    let mut cursor = log.join(conn(1));
    let payload = Arc::new(vec![9u8; 12_000]);
    let weak: Weak<Vec<u8>> = Arc::downgrade(&payload);
    struct Owner(Arc<Vec<u8>>);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    let body = Bytes::from_owner(Owner(payload));
    let chunks = [LogChunk::new(&[1; 4], body.slice(..6000)), LogChunk::new(&[2; 4], body.slice(6000..))];
    log.append_chunks(chunks, None).unwrap();
    drop(body);
    let mut batch = Batch::new();
    assert_eq!(cursor.fill(1 << 20, &mut batch), Fill::Ready);
    cursor.advance(&mut batch, 100);
    cursor.release(&mut batch);
    assert_eq!(batch.len(), 6004 - 100);
    assert!(cursor.is_mid_chunk(&batch) && cursor.is_mid_message());
    while weak.upgrade().is_some() {
        log.append(&[0; 3000], None).unwrap();
    }
    // The rest of the chunk goes first; only then is the link told that the message has to be aborted.
    assert_eq!(cursor.fill(1 << 20, &mut batch), Fill::Ready);
    let rest = batch.len();
    cursor.advance(&mut batch, rest);
    assert!(!cursor.is_mid_chunk(&batch));
    let messages = log.stats().messages;
    assert_eq!(cursor.fill(1 << 20, &mut batch), Fill::Skipped { messages, aborted: true });
    assert_eq!(cursor.fill(1 << 20, &mut batch), Fill::CaughtUp);
}

#[test]
fn with_every_link_stuck_the_ceiling_is_the_ring_and_a_chunk_a_link() {
    struct Counted(Vec<u8>, Arc<AtomicUsize>);
    impl AsRef<[u8]> for Counted {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    impl Drop for Counted {
        fn drop(&mut self) {
            self.1.fetch_sub(self.0.len(), Ordering::SeqCst);
        }
    }
    let log = log(LagPolicy::Skip);
    let alive = Arc::new(AtomicUsize::new(0));
    let mut links: Vec<_> = (1..=32).map(|n| (log.join(conn(n)), Batch::new())).collect();
    for round in 0..400 {
        if round % 3 == 0 {
            alive.fetch_add(9000, Ordering::SeqCst);
            let body = Bytes::from_owner(Counted(vec![0; 9000], Arc::clone(&alive)));
            log.append_chunks([LogChunk::new(&[0; 4], body)], None).unwrap();
        } else {
            log.append(&[0; 700], None).unwrap();
        }
        for (at, (cursor, batch)) in links.iter_mut().enumerate() {
            if batch.is_empty() {
                while matches!(cursor.fill(1 << 16, batch), Fill::Skipped { .. }) {}
                cursor.advance(batch, 1 + at);
                cursor.release(batch);
            }
        }
        let kept: usize = links.iter().map(|(_, batch)| batch.len()).sum();
        assert!(kept <= links.len() * MAX_PARTIAL_CHUNK);
        assert!(log.bytes() <= log.ring_bytes());
        assert!(alive.load(Ordering::SeqCst) <= log.bytes(), "a payload outlives its segment");
    }
    log.set_ring_bytes(0);
    assert!(log.bytes() <= log.ring_bytes() && alive.load(Ordering::SeqCst) <= log.ring_bytes());
}

#[test]
fn a_chunk_too_long_to_copy_is_gone_on_with_or_ends_the_link() {
    let log = log(LagPolicy::Skip);
    let (mut fast, mut slow) = (log.join(conn(1)), log.join(conn(2)));
    let (mut one, mut other) = (Batch::new(), Batch::new());
    log.append(&[5; 20_000], None).unwrap();
    for (cursor, batch) in [(&mut fast, &mut one), (&mut slow, &mut other)] {
        assert_eq!(cursor.fill(1, batch), Fill::Ready);
        cursor.advance(batch, 10);
        cursor.release(batch);
        assert!(
            batch.is_empty() && cursor.is_mid_chunk(batch),
            "nothing is pinned, nothing else may be sent"
        );
    }
    assert_eq!(take(&mut fast).len(), 19_990);
    assert!(!fast.is_mid_chunk(&one));
    for _ in 0..6 {
        log.append(&[0; 20_000], None).unwrap();
    }
    assert_eq!(slow.fill(1, &mut other), Fill::Overrun, "a message would be glued to half of another");
    assert_eq!(slow.fill(1, &mut other), Fill::Overrun);
}

#[test]
fn disconnect_ends_a_lagging_link_and_the_policy_is_hot() {
    let log = log(LagPolicy::Disconnect);
    let mut cursor = log.join(conn(1));
    flood(&log, 40, 3000);
    let mut batch = Batch::new();
    assert_eq!(cursor.fill(1, &mut batch), Fill::Overrun);
    log.set_lag_policy(LagPolicy::Skip);
    assert_eq!(cursor.fill(1, &mut batch), Fill::Skipped { messages: 40, aborted: false });
}

#[test]
fn many_origins_are_each_written_around_by_the_one_link_concerned() {
    let log = TestLog::new(LogConfig::recommended(), &WakeSet::new());
    let mut links: Vec<_> = (1..=20).map(|n| log.join(conn(n))).collect();
    for n in 0..2000u64 {
        let origin = (!n.is_multiple_of(3)).then(|| conn(n % 20 + 1));
        log.append(&n.to_le_bytes(), origin).unwrap();
    }
    for (at, cursor) in links.iter_mut().enumerate() {
        let got = take(cursor);
        let own = |n: &u64| !n.is_multiple_of(3) && *n % 20 == at as u64;
        let want: Vec<u8> = (0..2000u64).filter(|n| !own(n)).flat_map(u64::to_le_bytes).collect();
        assert!(got == want);
    }
}

#[test]
fn a_winner_sends_the_losers_unfinished_message_again_from_its_start() {
    let log = log(LagPolicy::Disconnect);
    let mut loser = log.join(conn(1));
    log.append(b"whole", None).unwrap();
    log.append_chunks(chunked(3, 10), None).unwrap();
    log.append(b"own", Some(conn(1))).unwrap();
    let mut batch = Batch::new();
    assert_eq!(loser.fill(1 << 20, &mut batch), Fill::Ready);
    loser.advance(&mut batch, 5 + 14 + 3);
    loser.publish();
    let mut winner = log.join_at(conn(2), loser.positions.resume_points());
    drop(loser);
    assert_eq!(take(&mut winner).len(), 3 * 14, "from its start, without what the peer itself had sent");
    // One that stood where the ring has gone past is told so.
    let gone = winner.positions.resume_points();
    flood(&log, 40, 3000);
    assert_eq!(log.join_at(conn(3), gone).fill(1, &mut Batch::new()), Fill::Overrun);
}

#[test]
fn an_append_wakes_a_parked_link_once_and_a_link_with_news_does_not_park() {
    let wake_set = WakeSet::new();
    let log = TestLog::new(LogConfig::test(), &wake_set);
    let mut cursor = log.join(conn(1));
    let parker = wake_set.parker();
    let (count, waker) = counting();
    assert_eq!(parker.park(&waker, || !cursor.has_unread()), Parked::Yes);
    log.append(b"x", None).unwrap();
    log.append(b"y", None).unwrap();
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
    assert_eq!(parker.park(&waker, || !cursor.has_unread()), Parked::No);
    assert_eq!(take(&mut cursor), b"xy");
    assert_eq!(parker.park(&waker, || !cursor.has_unread()), Parked::Yes);
}

#[test]
fn an_append_wakes_few_itself_and_leaves_the_rest_to_the_waker_task() {
    let wake_set = WakeSet::new();
    let log = TestLog::new(LogConfig::test(), &wake_set);
    let parkers: Vec<_> = (0..1000).map(|_| wake_set.parker()).collect();
    let (count, waker) = counting();
    let mut waker_task = wake_set.waker_task().unwrap();
    assert!(wake_set.waker_task().is_none());
    let (_, staff) = counting();
    let mut cx = Context::from_waker(&staff);
    let poll = |waker_task: &mut WakerTask, cx: &mut Context<'_>| {
        std::pin::Pin::new(waker_task).poll(cx).is_pending()
    };
    assert!(poll(&mut waker_task, &mut cx));
    parkers.iter().for_each(|parker| assert_eq!(parker.park(&waker, || true), Parked::Yes));
    log.append(b"x", None).unwrap();
    assert_eq!(count.0.load(Ordering::SeqCst), 16);
    (0..8).for_each(|_| assert!(poll(&mut waker_task, &mut cx)));
    assert!((500..1000).contains(&count.0.load(Ordering::SeqCst)), "it lets others run in between");
    (0..10).for_each(|_| assert!(poll(&mut waker_task, &mut cx)));
    assert_eq!(count.0.load(Ordering::SeqCst), 1000);
    // Without a waker task the appender does it all.
    drop(waker_task);
    parkers.iter().for_each(|parker| assert_eq!(parker.park(&waker, || true), Parked::Yes));
    log.append(b"x", None).unwrap();
    assert_eq!(count.0.load(Ordering::SeqCst), 2000);
}

#[test]
fn links_that_come_and_go_without_an_append_do_not_fill_the_list() {
    let wake_set = WakeSet::new();
    let (_, waker) = counting();
    for _ in 0..10_000 {
        let parker = wake_set.parker();
        assert_eq!(parker.park(&waker, || true), Parked::Yes);
    }
    assert!(wake_set.listed() <= 512, "{}", wake_set.listed());
}

fn poll(waiter: &mut RoomWait, waker: &Waker, millis: u64) -> Poll<()> {
    waiter.poll(&mut Context::from_waker(waker), Tick::from_millis(millis))
}

/// Appends until the slowest link is too far behind.
fn crowd(log: &Log) {
    flood(log, log.ring_bytes() / 4 / 2000 + 1, 2000);
}

#[test]
fn without_links_there_is_always_room() {
    let log = log(LagPolicy::Skip);
    (0..4).for_each(|_| crowd(&log));
    assert!(poll(&mut log.room_wait(), Waker::noop(), 0).is_ready());
}

#[test]
fn a_producer_waits_for_the_slowest_link_only_and_is_woken_by_it() {
    let log = log(LagPolicy::Skip);
    let mut links: Vec<_> = (1..=5).map(|n| log.join(conn(n))).collect();
    let mut waiter = log.room_wait();
    assert!(poll(&mut waiter, Waker::noop(), 0).is_ready());
    assert!(log.has_room());
    crowd(&log);
    let (count, waker) = counting();
    assert!(poll(&mut waiter, &waker, 0).is_pending());
    assert!(!log.has_room());
    for (at, cursor) in links.iter_mut().enumerate() {
        assert_eq!(count.0.load(Ordering::SeqCst), 0, "{at} of 5 have come");
        take(cursor);
    }
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
    assert!(poll(&mut waiter, &waker, 0).is_ready());
    assert!(log.has_room());
    assert_eq!(log.stall_deadline(), None);
}

#[test]
fn links_that_stand_still_are_all_given_up_after_one_stall_time_until_they_move() {
    let log = log(LagPolicy::Skip);
    let mut links: Vec<_> = (1..=3).map(|n| log.join(conn(n))).collect();
    crowd(&log);
    let (count, waker) = counting();
    let mut waiter = log.room_wait();
    assert!(poll(&mut waiter, &waker, 10_000).is_pending());
    assert_eq!(log.stall_deadline(), Some(Tick::from_millis(11_000)));
    log.tick(Tick::from_millis(10_999));
    assert_eq!(count.0.load(Ordering::SeqCst), 0);
    log.tick(Tick::from_millis(11_000));
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
    assert!(poll(&mut waiter, &waker, 11_000).is_ready());
    // They are not waited for again while they stand still ...
    crowd(&log);
    assert!(poll(&mut waiter, &waker, 12_000).is_ready());
    // ... but they are once they have moved.
    take(&mut links[1]);
    crowd(&log);
    assert!(poll(&mut waiter, &waker, 20_000).is_pending());
    take(&mut links[1]);
    assert!(poll(&mut waiter, &waker, 20_000).is_ready());
}

#[test]
fn a_stall_time_without_end_is_only_a_long_one() {
    let log = TestLog::new(
        LogConfig { lag: LagPolicy::Skip, stall: Duration::MAX, ..LogConfig::test() },
        &WakeSet::new(),
    );
    let mut cursor = log.join(conn(1));
    crowd(&log);
    let mut waiter = log.room_wait();
    assert!(poll(&mut waiter, Waker::noop(), 0).is_pending());
    log.tick(Tick::from_millis(1_000_000));
    assert!(poll(&mut waiter, Waker::noop(), 1_000_000).is_pending());
    take(&mut cursor);
    assert!(poll(&mut waiter, Waker::noop(), 1_000_000).is_ready());
    log.tick(Tick::from_millis(2_000_000));
    log.tick(Tick::MAX);
}

#[test]
fn a_slow_link_that_moves_is_waited_for_however_long_it_takes() {
    let log = log(LagPolicy::Skip);
    let mut cursor = log.join(conn(1));
    crowd(&log);
    let mut waiter = log.room_wait();
    let mut batch = Batch::new();
    for step in 0..4 {
        assert!(poll(&mut waiter, Waker::noop(), step * 900).is_pending(), "step {step}");
        assert_eq!(cursor.fill(2000, &mut batch), Fill::Ready);
        let len = batch.len();
        cursor.advance(&mut batch, len);
        cursor.publish();
    }
}

/// Writes at most so many bytes of what is there.
fn take_some(cursor: &mut Reader, most: usize) {
    let mut batch = Batch::new();
    assert_eq!(cursor.fill(most, &mut batch), Fill::Ready);
    let len = batch.len();
    cursor.advance(&mut batch, len);
    cursor.publish();
}

#[test]
fn a_link_that_holds_most_others_up_is_not_waited_for_until_it_has_kept_up() {
    let log = log(LagPolicy::Skip);
    let mut slow = log.join(conn(1));
    let mut others: Vec<_> = (2..=4).map(|n| log.join(conn(n))).collect();
    crowd(&log);
    let (count, waker) = counting();
    let mut waiter = log.room_wait();
    assert!(poll(&mut waiter, &waker, 0).is_pending());
    // While the others have something to do, it is not to blame.
    (0..=10).for_each(|look| log.tick(Tick::from_millis(look * 90)));
    others.iter_mut().for_each(|cursor| drop(take(cursor)));
    for look in 0..=20 {
        assert_eq!(count.0.load(Ordering::SeqCst), 0, "look {look}");
        // It moves, a message at a time, and never stands still for as long as the stall time.
        if look % 6 == 0 {
            take_some(&mut slow, 10);
        }
        log.tick(Tick::from_millis(1_000 + look * 100));
    }
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
    // It is not waited for although it moves, not even when it has skipped.
    for round in 0..6 {
        crowd(&log);
        take_some(&mut others[0], 1 << 20);
        others.iter_mut().for_each(|cursor| drop(take(cursor)));
        if round == 5 {
            let mut batch = Batch::new();
            assert!(matches!(slow.fill(10, &mut batch), Fill::Skipped { .. }));
            slow.publish();
        } else if round < 3 {
            take_some(&mut slow, 10);
        }
        log.tick(Tick::from_millis(10_000 + round * 100));
        assert!(poll(&mut waiter, &waker, 10_000 + round * 100).is_ready(), "round {round}");
    }
    // Once it has kept up for long enough, it is.
    crowd(&log);
    others.iter_mut().for_each(|cursor| drop(take(cursor)));
    take(&mut slow);
    for (look, forgiven) in [(20_000, false), (29_999, false), (30_000, true)] {
        log.tick(Tick::from_millis(look));
        crowd(&log);
        others.iter_mut().for_each(|cursor| drop(take(cursor)));
        assert_eq!(poll(&mut waiter, &waker, look).is_pending(), forgiven, "look {look}");
        take(&mut slow);
    }
}

#[test]
fn a_successor_that_begins_far_behind_is_waited_for() {
    let log = log(LagPolicy::Skip);
    let loser = log.join(conn(1));
    let mut fast = log.join(conn(2));
    crowd(&log);
    take(&mut fast);
    let from = loser.positions.resume_points();
    drop(loser);
    let mut waiter = log.room_wait();
    assert!(poll(&mut waiter, Waker::noop(), 0).is_ready());
    let mut winner = log.join_at(conn(3), from);
    assert!(poll(&mut waiter, Waker::noop(), 0).is_pending());
    take(&mut winner);
    assert!(poll(&mut waiter, Waker::noop(), 0).is_ready());
}

#[test]
fn a_waiter_that_is_dropped_leaves_nothing_behind() {
    let log = log(LagPolicy::Skip);
    let _stuck = log.join(conn(1));
    crowd(&log);
    let (count, waker) = counting();
    for _ in 0..10 {
        let mut waiter = log.room_wait();
        assert!(poll(&mut waiter, &waker, 0).is_pending());
    }
    assert_eq!(Arc::strong_count(&count), 2, "a waker was left");
}

#[test]
fn the_last_gaps_are_remembered_and_older_ones_expire() {
    let log = log(LagPolicy::Skip);
    let mut cursor = log.join(conn(1));
    let first = log.append(b"first", None).unwrap();
    assert_eq!(take(&mut cursor), b"first");
    let mut lost = Vec::new();
    for _ in 0..40 {
        lost.push(log.append(b"lost", None).unwrap());
        flood(&log, 40, 3000);
        assert!(take(&mut cursor).is_empty());
        let mut batch = Batch::new();
        assert_eq!(cursor.fill(1, &mut batch), Fill::CaughtUp);
        log.append(b"kept", None).unwrap();
        assert_eq!(take(&mut cursor), b"kept");
    }
    let view = cursor.view();
    assert_eq!(view.skipped(), 40 * 41);
    assert_eq!(view.status_of(&first), Receipt::Expired);
    assert_eq!(view.status_of(&lost[0]), Receipt::Expired);
    assert_eq!(view.status_of(&lost[39]), Receipt::Skipped);
}
