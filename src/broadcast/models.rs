//! Loom models of the log: the shipped types, every interleaving that a bounded number of preemptions can make.

use std::future::{Future, poll_fn};
use std::io::IoSlice;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use loom::future::block_on;
use loom::thread;

use super::test_reader::{Reader, TestLog};
use super::*;
use crate::base::Tick;
use crate::broadcast::state::{StateConfig, StateKey, StateTable};
use crate::sync::TaskWaker;
use crate::sync::atomic::{AtomicBool, Ordering};

fn model(preemptions: usize, run: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(run);
}

fn conn(n: u64) -> ConnId {
    ConnId::new(n).expect("not zero")
}

fn log(lag: LagPolicy) -> (Arc<WakeSet>, TestLog) {
    let wake_set = WakeSet::new();
    let config = LogConfig { ring_bytes: 8 << 10, block_bytes: 1 << 10, lag, ..LogConfig::test() };
    (Arc::clone(&wake_set), TestLog::new(config, &wake_set))
}

/// Everything that is there to take now, written.
fn take(cursor: &mut Reader) -> Vec<u8> {
    let (mut line, mut batch) = (Vec::new(), Batch::new());
    while cursor.fill(1 << 20, &mut batch) == Fill::Ready {
        let mut slices = std::array::from_fn::<_, 4, _>(|_| IoSlice::new(&[]));
        let used = batch.slices(&mut slices);
        let before = line.len();
        slices[..used].iter().for_each(|slice| line.extend_from_slice(slice));
        cursor.advance(&mut batch, line.len() - before);
    }
    cursor.publish();
    line
}

#[test]
fn links_that_seal_and_copy_see_every_append_once_in_order() {
    model(3, || {
        let (_, log) = log(LagPolicy::Disconnect);
        let (mut here, mut there) = (log.join(conn(1)), log.join(conn(2)));
        // Longer than what is copied: whoever comes first seals it. No longer than half the ring.
        let mut want = vec![b'a'; 4090];
        want.extend_from_slice(b"bbbbbbbbb");
        let producer = {
            let log = Arc::clone(&log);
            thread::spawn(move || {
                log.append(&[b'a'; 4090], None).expect("fits");
                log.append(b"bbbbbbbbb", None).expect("fits");
            })
        };
        let link = thread::spawn(move || {
            let line = take(&mut there);
            (line, there)
        });
        let mut line = take(&mut here);
        producer.join().expect("no panic");
        let (mut other, mut there) = link.join().expect("no panic");
        line.extend(take(&mut here));
        other.extend(take(&mut there));
        assert!(line == want && other == want, "{} and {}", line.len(), other.len());
    });
}

/// Sleeps until `want` bytes have come.
fn read_until(wake_set: &Arc<WakeSet>, cursor: &mut Reader, want: usize) {
    let parker = wake_set.parker();
    let mut got = 0;
    block_on(poll_fn(|cx| {
        loop {
            got += take(cursor).len();
            if got >= want {
                return Poll::Ready(());
            }
            if parker.park(cx.waker(), || !cursor.has_unread()) == Parked::Yes {
                return Poll::Pending;
            }
        }
    }));
}

#[test]
fn the_last_append_before_silence_wakes_the_link() {
    model(3, || {
        let (wake_set, log) = log(LagPolicy::Skip);
        let mut cursor = log.join(conn(1));
        let producer = {
            let log = Arc::clone(&log);
            thread::spawn(move || {
                log.append(b"x", None).expect("fits");
                log.append(b"y", None).expect("fits");
            })
        };
        // A lost wake-up is a deadlock, which loom reports.
        read_until(&wake_set, &mut cursor, 2);
        producer.join().expect("no panic");
    });
}

/// As the writer of a link does that has nothing else to send: registered once a poll, its places at rest, what it copies
/// given up again at once.
#[test]
fn a_link_at_rest_is_woken_for_every_append_and_sees_it_once_at_a_glance() {
    model(3, || {
        let wake_set = WakeSet::new();
        let log_set = LogSet::new([LogConfig::test(); LOGS_PER_SET], &wake_set);
        let mut positions = log_set.join(conn(1), None);
        let log = Arc::clone(&log_set.logs()[1]);
        let producer = thread::spawn(move || {
            log.append(b"x", None).expect("fits");
            log.append(b"y", None).expect("fits");
        });
        let parker = wake_set.parker();
        let (mut line, mut glance) = (Vec::new(), TailCopy::default());
        block_on(poll_fn(|cx| {
            parker.parked_waker().task().register(cx.waker());
            loop {
                if positions.unread()[1] {
                    assert!(positions.copy_tail(1, &mut glance), "so little is copied");
                    line.extend_from_slice(glance.bytes());
                    positions.mark_written(1, &glance);
                }
                if line.len() >= 2 {
                    return Poll::Ready(());
                }
                if parker.park_registered(|| !positions.unread().contains(&true)) == Parked::Yes {
                    return Poll::Pending;
                }
            }
        }));
        producer.join().expect("no panic");
        assert_eq!(line, b"xy");
        assert_eq!(positions.states().resume_points()[1].seq, 2);
    });
}

#[test]
fn two_producers_wake_a_link_that_sleeps_once_for_log_and_state() {
    model(2, || {
        let (wake_set, log) = log(LagPolicy::Skip);
        let table = StateTable::new(StateConfig::default(), Arc::clone(&wake_set));
        let (mut cursor, mut state) = (log.join(conn(1)), table.cursor());
        let appender = thread::spawn(move || log.append(b"x", None).expect("fits"));
        let setter = thread::spawn(move || table.set(StateKey::of(1), Bytes::from_static(b"s")));
        let parker = wake_set.parker();
        let (mut line, mut values) = (Vec::new(), 0);
        block_on(poll_fn(|cx| {
            loop {
                line.extend(take(&mut cursor));
                values += std::iter::from_fn(|| state.take_next()).count();
                if line.len() == 1 && values == 1 {
                    return Poll::Ready(());
                }
                if parker.park(cx.waker(), || !cursor.has_unread() && !state.has_unread()) == Parked::Yes {
                    return Poll::Pending;
                }
            }
        }));
        appender.join().expect("no panic");
        setter.join().expect("no panic").expect("fits");
    });
}

#[test]
fn what_is_handed_to_the_waker_task_is_woken_by_it() {
    model(2, || {
        let (wake_set, log) = log(LagPolicy::Skip);
        let mut cursor = log.join(conn(1));
        let done = Arc::new((AtomicBool::new(false), TaskWaker::new()));
        let waker_task = wake_set.waker_task().expect("the only one");
        let staff = {
            let done = Arc::clone(&done);
            thread::spawn(move || {
                let mut waker_task = pin!(waker_task);
                block_on(poll_fn(|cx| {
                    done.1.register(cx.waker());
                    let _ = waker_task.as_mut().poll(cx);
                    if done.0.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
                }));
            })
        };
        let producer = thread::spawn(move || {
            log.append(b"x", None).expect("fits");
            log.append(b"y", None).expect("fits");
        });
        read_until(&wake_set, &mut cursor, 2);
        done.0.store(true, Ordering::Release);
        done.1.wake();
        producer.join().expect("no panic");
        staff.join().expect("no panic");
    });
}

#[test]
fn a_waker_task_that_is_dropped_leaves_nobody_asleep() {
    model(3, || {
        let (wake_set, log) = log(LagPolicy::Skip);
        let mut cursor = log.join(conn(1));
        let waker_task = wake_set.waker_task().expect("the only one");
        let staff = thread::spawn(move || drop(waker_task));
        let producer = thread::spawn(move || log.append(b"x", None).expect("fits"));
        read_until(&wake_set, &mut cursor, 1);
        producer.join().expect("no panic");
        staff.join().expect("no panic");
    });
}

#[test]
fn who_joined_before_an_append_gets_it_and_who_joined_after_does_not() {
    model(4, || {
        let (_, log) = log(LagPolicy::Skip);
        let producer = {
            let log = Arc::clone(&log);
            thread::spawn(move || {
                log.append(b"0", None).expect("fits");
                log.append(b"1", None).expect("fits")
            })
        };
        let mut cursor = log.join(conn(1));
        let start = cursor.view().start();
        let last = producer.join().expect("no panic");
        assert_eq!(take(&mut cursor), &b"01"[start as usize..]);
        let receipt = cursor.view().status_of(&last);
        assert_eq!(receipt, if start <= last.seq { Receipt::Written } else { Receipt::NotJoined });
    });
}

#[test]
fn a_receipt_never_says_written_before_the_write_nor_of_a_gap() {
    model(4, || {
        let (_, log) = log(LagPolicy::Skip);
        let mut cursor = log.join(conn(1));
        let view = cursor.view();
        let lost = log.append(&[0; 3000], None).expect("fits");
        for _ in 0..3 {
            log.append(&[1; 4000], None).expect("fits");
        }
        let wrote = Arc::new(AtomicBool::new(false));
        let link = {
            let (log, wrote) = (Arc::clone(&log), Arc::clone(&wrote));
            thread::spawn(move || {
                let mut batch = Batch::new();
                assert!(matches!(cursor.fill(1 << 20, &mut batch), Fill::Skipped { messages: 4, .. }));
                let kept = log.append(b"kept", None).expect("fits");
                assert_eq!(cursor.fill(1 << 20, &mut batch), Fill::Ready);
                wrote.store(true, Ordering::Relaxed);
                cursor.advance(&mut batch, 4);
                cursor.publish();
                drop(cursor);
                kept
            })
        };
        let kept = Appended { seq: lost.seq + 4, origin: None };
        let (now, was_lost) = (view.status_of(&kept), view.status_of(&lost));
        let wrote_now = wrote.load(Ordering::Relaxed);
        match now {
            Receipt::Written | Receipt::LeftAfter => assert!(wrote_now, "{now:?} before the write"),
            Receipt::Behind => {}
            other => panic!("{other:?} for a message that was written"),
        }
        assert!(matches!(was_lost, Receipt::Behind | Receipt::Skipped), "{was_lost:?} for a gap");
        assert_eq!(link.join().expect("no panic"), kept);
        assert_eq!(view.status_of(&lost), Receipt::Skipped);
        assert_eq!(view.status_of(&kept), Receipt::LeftAfter);
    });
}

#[test]
fn a_producer_that_waits_is_woken_by_the_link_it_waits_for() {
    model(3, || {
        let (_, log) = log(LagPolicy::Skip);
        let (mut near, mut far) = (log.join(conn(1)), log.join(conn(2)));
        log.append(&[0; 3000], None).expect("fits");
        let links = [
            thread::spawn(move || {
                take(&mut near);
                near
            }),
            thread::spawn(move || {
                take(&mut far);
                far
            }),
        ];
        let mut waiter = log.room_wait();
        block_on(poll_fn(|cx| waiter.poll(cx, Tick::ZERO)));
        for link in links {
            link.join().expect("no panic");
        }
    });
}

#[test]
fn a_link_that_leaves_is_not_waited_for() {
    model(3, || {
        let (_, log) = log(LagPolicy::Skip);
        let cursor = log.join(conn(1));
        log.append(&[0; 3000], None).expect("fits");
        let link = thread::spawn(move || drop(cursor));
        let mut waiter = log.room_wait();
        block_on(poll_fn(|cx| waiter.poll(cx, Tick::ZERO)));
        link.join().expect("no panic");
    });
}

#[test]
fn the_ring_holds_no_more_than_it_may_whoever_lowers_its_bound() {
    for in_chunks in [false, true] {
        model(3, move || {
            let (_, log) = log(LagPolicy::Skip);
            log.set_ring_bytes(16 << 10);
            for _ in 0..3 {
                log.append(&[0; 4000], None).expect("fits");
            }
            let producer = {
                let log = Arc::clone(&log);
                thread::spawn(move || {
                    let chunk = LogChunk::new(b"head", Bytes::from_static(&[1; 3996]));
                    if in_chunks { log.append_chunks([chunk], None) } else { log.append(&[1; 4000], None) }
                })
            };
            log.set_ring_bytes(8 << 10);
            producer.join().expect("no panic").expect("fits");
            assert!(log.bytes() <= 8 << 10, "{} bytes", log.bytes());
        });
    }
}

#[test]
fn what_a_lowered_bound_makes_too_long_is_refused_or_was_there_before() {
    for in_chunks in [false, true] {
        model(3, move || {
            let (_, log) = log(LagPolicy::Skip);
            log.set_ring_bytes(24 << 10);
            let producer = {
                let log = Arc::clone(&log);
                thread::spawn(move || {
                    let chunk = LogChunk::new(b"head", Bytes::from_static(&[1; 8996]));
                    if in_chunks { log.append_chunks([chunk], None) } else { log.append(&[1; 9000], None) }
                })
            };
            log.set_ring_bytes(8 << 10);
            match producer.join().expect("no panic") {
                Ok(appended) => assert_eq!(log.stats().evicted, appended.seq + 1),
                Err(why) => assert_eq!(why, AppendError::TooLarge { len: 9000, limit: 4 << 10 }),
            }
            assert!(log.bytes() <= 8 << 10, "{} bytes", log.bytes());
        });
    }
}
