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

fn wire_of(batch: &Batch) -> Vec<u8> {
    let mut slices = vec![IoSlice::new(&[]); 256];
    let used = batch.slices(&mut slices);
    slices[..used].iter().flat_map(|slice| slice.iter().copied()).collect()
}

/// Writes everything that is unread. Returns the bytes.
fn take(reader: &mut Reader) -> Vec<u8> {
    let (mut wire, mut batch) = (Vec::new(), Batch::new());
    while reader.fill(1 << 20, &mut batch) == Fill::Ready {
        let part = wire_of(&batch);
        reader.advance(&mut batch, part.len());
        wire.extend(part);
    }
    reader.publish();
    wire
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
fn a_short_unread_tail_is_copied_and_a_long_one_is_shared() {
    let log = log(LagPolicy::Skip);
    let mut reader = log.join(conn(1));
    let mut batch = Batch::new();
    log.append(b"little", None).unwrap();
    assert_eq!(reader.fill(1 << 20, &mut batch), Fill::Ready);
    assert_eq!(log.segments(), 0, "nothing was sealed for six bytes");
    reader.advance(&mut batch, 6);
    log.append(&[7; 5000], None).unwrap();
    assert_eq!(reader.fill(1 << 20, &mut batch), Fill::Ready);
    assert_eq!(log.segments(), 2, "the retired block and the sealed tail");
    assert_eq!(wire_of(&batch), [7; 5000]);
}

#[test]
fn a_connection_with_as_much_to_write_leaves_the_tail_open() {
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
fn a_stuck_connection_keeps_a_copy_of_its_partial_chunk_and_no_segment() {
    let log = log(LagPolicy::Skip);
    let mut reader = log.join(conn(1));
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
    assert_eq!(reader.fill(1 << 20, &mut batch), Fill::Ready);
    reader.advance(&mut batch, 100);
    reader.release(&mut batch);
    assert_eq!(batch.len(), 6004 - 100);
    assert!(reader.is_mid_chunk(&batch) && reader.is_mid_message());
    while weak.upgrade().is_some() {
        log.append(&[0; 3000], None).unwrap();
    }
    // The rest of the chunk goes first; only then must the connection abort the message.
    assert_eq!(reader.fill(1 << 20, &mut batch), Fill::Ready);
    let rest = batch.len();
    reader.advance(&mut batch, rest);
    assert!(!reader.is_mid_chunk(&batch));
    let messages = log.stats().messages;
    assert_eq!(reader.fill(1 << 20, &mut batch), Fill::Skipped { messages, aborted: true });
    assert_eq!(reader.fill(1 << 20, &mut batch), Fill::CaughtUp);
}

#[test]
fn stuck_connections_hold_at_most_the_ring_and_one_chunk_each() {
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
    let mut readers: Vec<_> = (1..=32).map(|n| (log.join(conn(n)), Batch::new())).collect();
    for round in 0..400 {
        if round % 3 == 0 {
            alive.fetch_add(9000, Ordering::SeqCst);
            let body = Bytes::from_owner(Counted(vec![0; 9000], Arc::clone(&alive)));
            log.append_chunks([LogChunk::new(&[0; 4], body)], None).unwrap();
        } else {
            log.append(&[0; 700], None).unwrap();
        }
        for (at, (reader, batch)) in readers.iter_mut().enumerate() {
            if batch.is_empty() {
                while matches!(reader.fill(1 << 16, batch), Fill::Skipped { .. }) {}
                reader.advance(batch, 1 + at);
                reader.release(batch);
            }
        }
        let kept: usize = readers.iter().map(|(_, batch)| batch.len()).sum();
        assert!(kept <= readers.len() * MAX_PARTIAL_CHUNK);
        assert!(log.bytes() <= log.ring_bytes());
        assert!(alive.load(Ordering::SeqCst) <= log.bytes(), "a payload outlives its segment");
    }
    log.set_ring_bytes(0);
    assert!(log.bytes() <= log.ring_bytes() && alive.load(Ordering::SeqCst) <= log.ring_bytes());
}

#[test]
fn a_chunk_too_long_to_copy_is_continued_or_ends_the_connection() {
    let log = log(LagPolicy::Skip);
    let (mut fast, mut slow) = (log.join(conn(1)), log.join(conn(2)));
    let (mut one, mut other) = (Batch::new(), Batch::new());
    log.append(&[5; 20_000], None).unwrap();
    for (reader, batch) in [(&mut fast, &mut one), (&mut slow, &mut other)] {
        assert_eq!(reader.fill(1, batch), Fill::Ready);
        reader.advance(batch, 10);
        reader.release(batch);
        assert!(
            batch.is_empty() && reader.is_mid_chunk(batch),
            "nothing is pinned, nothing else may be sent"
        );
    }
    assert_eq!(take(&mut fast).len(), 19_990);
    assert!(!fast.is_mid_chunk(&one));
    for _ in 0..6 {
        log.append(&[0; 20_000], None).unwrap();
    }
    assert_eq!(slow.fill(1, &mut other), Fill::Overrun, "a message would follow half of another");
    assert_eq!(slow.fill(1, &mut other), Fill::Overrun);
}

#[test]
fn disconnect_ends_a_lagging_connection_and_the_policy_can_change() {
    let log = log(LagPolicy::Disconnect);
    let mut reader = log.join(conn(1));
    flood(&log, 40, 3000);
    let mut batch = Batch::new();
    assert_eq!(reader.fill(1, &mut batch), Fill::Overrun);
    log.set_lag_policy(LagPolicy::Skip);
    assert_eq!(reader.fill(1, &mut batch), Fill::Skipped { messages: 40, aborted: false });
}

#[test]
fn each_connection_skips_the_frames_of_its_own_origin() {
    let log = TestLog::new(LogConfig::recommended(), &WakeSet::new());
    let mut readers: Vec<_> = (1..=20).map(|n| log.join(conn(n))).collect();
    for n in 0..2000u64 {
        let origin = (!n.is_multiple_of(3)).then(|| conn(n % 20 + 1));
        log.append(&n.to_le_bytes(), origin).unwrap();
    }
    for (at, reader) in readers.iter_mut().enumerate() {
        let got = take(reader);
        let own = |n: &u64| !n.is_multiple_of(3) && *n % 20 == at as u64;
        let want: Vec<u8> = (0..2000u64).filter(|n| !own(n)).flat_map(u64::to_le_bytes).collect();
        assert!(got == want);
    }
}

#[test]
fn a_successor_sends_the_unfinished_message_again_from_its_start() {
    let log = log(LagPolicy::Disconnect);
    let mut predecessor = log.join(conn(1));
    log.append(b"whole", None).unwrap();
    log.append_chunks(chunked(3, 10), None).unwrap();
    log.append(b"own", Some(conn(1))).unwrap();
    let mut batch = Batch::new();
    assert_eq!(predecessor.fill(1 << 20, &mut batch), Fill::Ready);
    predecessor.advance(&mut batch, 5 + 14 + 3);
    predecessor.publish();
    let mut successor = log.join_at(conn(2), predecessor.positions.resume_points());
    drop(predecessor);
    assert_eq!(take(&mut successor).len(), 3 * 14, "from its start, without what the peer itself had sent");
    // A successor that begins before the ring lags at once.
    let gone = successor.positions.resume_points();
    flood(&log, 40, 3000);
    assert_eq!(log.join_at(conn(3), gone).fill(1, &mut Batch::new()), Fill::Overrun);
}

#[test]
fn an_append_wakes_a_parked_connection_once_and_unread_messages_prevent_parking() {
    let wake_set = WakeSet::new();
    let log = TestLog::new(LogConfig::test(), &wake_set);
    let mut reader = log.join(conn(1));
    let parker = wake_set.parker();
    let (count, waker) = counting();
    assert_eq!(parker.park(&waker, || !reader.has_unread()), Parked::Yes);
    log.append(b"x", None).unwrap();
    log.append(b"y", None).unwrap();
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
    assert_eq!(parker.park(&waker, || !reader.has_unread()), Parked::No);
    assert_eq!(take(&mut reader), b"xy");
    assert_eq!(parker.park(&waker, || !reader.has_unread()), Parked::Yes);
}

#[test]
fn an_append_wakes_a_few_and_hands_the_rest_to_the_waker_task() {
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
    assert!((500..1000).contains(&count.0.load(Ordering::SeqCst)), "other tasks run in between");
    (0..10).for_each(|_| assert!(poll(&mut waker_task, &mut cx)));
    assert_eq!(count.0.load(Ordering::SeqCst), 1000);
    // Without a waker task, the append wakes all.
    drop(waker_task);
    parkers.iter().for_each(|parker| assert_eq!(parker.park(&waker, || true), Parked::Yes));
    log.append(b"x", None).unwrap();
    assert_eq!(count.0.load(Ordering::SeqCst), 2000);
}

#[test]
fn connections_that_come_and_go_without_an_append_do_not_fill_the_list() {
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

/// Appends until a connection that reads nothing is too far behind.
fn fill_window(log: &Log) {
    flood(log, log.ring_bytes() / 4 / 2000 + 1, 2000);
}

#[test]
fn without_connections_there_is_always_room() {
    let log = log(LagPolicy::Skip);
    (0..4).for_each(|_| fill_window(&log));
    assert!(poll(&mut log.room_wait(), Waker::noop(), 0).is_ready());
}

#[test]
fn a_producer_waits_for_the_slowest_connection_and_is_woken_by_it() {
    let log = log(LagPolicy::Skip);
    let mut readers: Vec<_> = (1..=5).map(|n| log.join(conn(n))).collect();
    let mut waiter = log.room_wait();
    assert!(poll(&mut waiter, Waker::noop(), 0).is_ready());
    assert!(log.has_room());
    fill_window(&log);
    let (count, waker) = counting();
    assert!(poll(&mut waiter, &waker, 0).is_pending());
    assert!(!log.has_room());
    for (at, reader) in readers.iter_mut().enumerate() {
        assert_eq!(count.0.load(Ordering::SeqCst), 0, "{at} of 5 have come");
        take(reader);
    }
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
    assert!(poll(&mut waiter, &waker, 0).is_ready());
    assert!(log.has_room());
    assert_eq!(log.stall_deadline(), None);
}

#[test]
fn stalled_connections_are_not_waited_for_until_they_move() {
    let log = log(LagPolicy::Skip);
    let mut readers: Vec<_> = (1..=3).map(|n| log.join(conn(n))).collect();
    fill_window(&log);
    let (count, waker) = counting();
    let mut waiter = log.room_wait();
    assert!(poll(&mut waiter, &waker, 10_000).is_pending());
    assert_eq!(log.stall_deadline(), Some(Tick::from_millis(11_000)));
    log.tick(Tick::from_millis(10_999));
    assert_eq!(count.0.load(Ordering::SeqCst), 0);
    log.tick(Tick::from_millis(11_000));
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
    assert!(poll(&mut waiter, &waker, 11_000).is_ready());
    // They are not waited for while they stand still ...
    fill_window(&log);
    assert!(poll(&mut waiter, &waker, 12_000).is_ready());
    // ... but they are once they have moved.
    take(&mut readers[1]);
    fill_window(&log);
    assert!(poll(&mut waiter, &waker, 20_000).is_pending());
    take(&mut readers[1]);
    assert!(poll(&mut waiter, &waker, 20_000).is_ready());
}

#[test]
fn an_unbounded_stall_time_is_clamped() {
    let log = TestLog::new(
        LogConfig { lag: LagPolicy::Skip, stall: Duration::MAX, ..LogConfig::test() },
        &WakeSet::new(),
    );
    let mut reader = log.join(conn(1));
    fill_window(&log);
    let mut waiter = log.room_wait();
    assert!(poll(&mut waiter, Waker::noop(), 0).is_pending());
    log.tick(Tick::from_millis(1_000_000));
    assert!(poll(&mut waiter, Waker::noop(), 1_000_000).is_pending());
    take(&mut reader);
    assert!(poll(&mut waiter, Waker::noop(), 1_000_000).is_ready());
    log.tick(Tick::from_millis(2_000_000));
    log.tick(Tick::MAX);
}

#[test]
fn a_slow_connection_that_moves_is_waited_for() {
    let log = log(LagPolicy::Skip);
    let mut reader = log.join(conn(1));
    fill_window(&log);
    let mut waiter = log.room_wait();
    let mut batch = Batch::new();
    for step in 0..4 {
        assert!(poll(&mut waiter, Waker::noop(), step * 900).is_pending(), "step {step}");
        assert_eq!(reader.fill(2000, &mut batch), Fill::Ready);
        let len = batch.len();
        reader.advance(&mut batch, len);
        reader.publish();
    }
}

/// Writes at most `max` bytes of what is unread.
fn take_some(reader: &mut Reader, max: usize) {
    let mut batch = Batch::new();
    assert_eq!(reader.fill(max, &mut batch), Fill::Ready);
    let len = batch.len();
    reader.advance(&mut batch, len);
    reader.publish();
}

#[test]
fn a_connection_that_delays_most_others_is_not_waited_for_until_it_keeps_up() {
    let log = log(LagPolicy::Skip);
    let mut slow = log.join(conn(1));
    let mut others: Vec<_> = (2..=4).map(|n| log.join(conn(n))).collect();
    fill_window(&log);
    let (count, waker) = counting();
    let mut waiter = log.room_wait();
    assert!(poll(&mut waiter, &waker, 0).is_pending());
    // While the others are busy, it delays nothing.
    (0..=10).for_each(|check| log.tick(Tick::from_millis(check * 90)));
    others.iter_mut().for_each(|reader| drop(take(reader)));
    for check in 0..=20 {
        assert_eq!(count.0.load(Ordering::SeqCst), 0, "check {check}");
        // It moves, a message at a time, and never stands still for as long as the stall time.
        if check % 6 == 0 {
            take_some(&mut slow, 10);
        }
        log.tick(Tick::from_millis(1_000 + check * 100));
    }
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
    // It is not waited for although it moves, not even when it has skipped.
    for round in 0..6 {
        fill_window(&log);
        take_some(&mut others[0], 1 << 20);
        others.iter_mut().for_each(|reader| drop(take(reader)));
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
    fill_window(&log);
    others.iter_mut().for_each(|reader| drop(take(reader)));
    take(&mut slow);
    for (check, reinstated) in [(20_000, false), (29_999, false), (30_000, true)] {
        log.tick(Tick::from_millis(check));
        fill_window(&log);
        others.iter_mut().for_each(|reader| drop(take(reader)));
        assert_eq!(poll(&mut waiter, &waker, check).is_pending(), reinstated, "check {check}");
        take(&mut slow);
    }
}

#[test]
fn a_successor_that_begins_far_behind_is_waited_for() {
    let log = log(LagPolicy::Skip);
    let predecessor = log.join(conn(1));
    let mut fast = log.join(conn(2));
    fill_window(&log);
    take(&mut fast);
    let from = predecessor.positions.resume_points();
    drop(predecessor);
    let mut waiter = log.room_wait();
    assert!(poll(&mut waiter, Waker::noop(), 0).is_ready());
    let mut successor = log.join_at(conn(3), from);
    assert!(poll(&mut waiter, Waker::noop(), 0).is_pending());
    take(&mut successor);
    assert!(poll(&mut waiter, Waker::noop(), 0).is_ready());
}

#[test]
fn a_dropped_room_wait_leaves_no_waker() {
    let log = log(LagPolicy::Skip);
    let _stuck = log.join(conn(1));
    fill_window(&log);
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
    let mut reader = log.join(conn(1));
    let first = log.append(b"first", None).unwrap();
    assert_eq!(take(&mut reader), b"first");
    let mut lost = Vec::new();
    for _ in 0..40 {
        lost.push(log.append(b"lost", None).unwrap());
        flood(&log, 40, 3000);
        assert!(take(&mut reader).is_empty());
        let mut batch = Batch::new();
        assert_eq!(reader.fill(1, &mut batch), Fill::CaughtUp);
        log.append(b"kept", None).unwrap();
        assert_eq!(take(&mut reader), b"kept");
    }
    let view = reader.view();
    assert_eq!(view.skipped(), 40 * 41);
    assert_eq!(view.status_of(&first), Receipt::Expired);
    assert_eq!(view.status_of(&lost[0]), Receipt::Expired);
    assert_eq!(view.status_of(&lost[39]), Receipt::Skipped);
}

#[test]
fn a_log_that_everybody_has_read_gives_its_memory_back_after_some_idle_seconds() {
    let log = log(LagPolicy::Skip);
    let at = Tick::from_millis;
    let (mut fast, mut slow) = (log.join(conn(1)), log.join(conn(2)));
    flood(&log, 20, 1_000);
    log.append_chunks(chunked(3, 1_000), None).unwrap();
    log.tick(at(1_000));
    assert_eq!(take(&mut fast).len(), 20_000 + 3 * 1_004);
    log.tick(at(10_000));
    assert!(log.bytes() > 20_000, "one has not read");
    assert_eq!(take(&mut slow).len(), 20_000 + 3 * 1_004);
    // Appended to a moment ago.
    flood(&log, 1, 10);
    log.tick(at(10_100));
    log.tick(at(15_000));
    assert!(log.bytes() > 20_000);
    take(&mut fast);
    take(&mut slow);
    log.tick(at(15_200));
    assert_eq!((log.bytes(), log.stats().bytes, log.segments()), (0, 0, 0));
    // It goes on where it was, for those that are there and for those that come.
    let mut new = log.join(conn(3));
    let next = log.append(b"next", None).unwrap();
    assert_eq!(next.seq, 22);
    for reader in [&mut fast, &mut slow, &mut new] {
        assert_eq!(take(reader), b"next");
    }
    assert_eq!(log.stats().skipped, 0);
}
