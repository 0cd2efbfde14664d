//! Loom models of the log: the shipped types, every interleaving that a bounded number of
//! preemptions can make.

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

/// Writes everything that is unread. Returns the bytes.
fn take(reader: &mut Reader) -> Vec<u8> {
    let (mut wire, mut batch) = (Vec::new(), Batch::new());
    while reader.fill(1 << 20, &mut batch) == Fill::Ready {
        let mut slices = std::array::from_fn::<_, 4, _>(|_| IoSlice::new(&[]));
        let used = batch.slices(&mut slices);
        let before = wire.len();
        slices[..used].iter().for_each(|slice| wire.extend_from_slice(slice));
        reader.advance(&mut batch, wire.len() - before);
    }
    reader.publish();
    wire
}

#[test]
fn connections_that_seal_and_copy_see_every_append_once_in_order() {
    model(3, || {
        let (_, log) = log(LagPolicy::Disconnect);
        let (mut here, mut there) = (log.join(conn(1)), log.join(conn(2)));
        // Longer than what is copied: the first connection seals it. No longer than half the ring.
        let mut want = vec![b'a'; 4090];
        want.extend_from_slice(b"bbbbbbbbb");
        let producer = {
            let log = Arc::clone(&log);
            thread::spawn(move || {
                log.append(&[b'a'; 4090], None).expect("fits");
                log.append(b"bbbbbbbbb", None).expect("fits");
            })
        };
        let connection = thread::spawn(move || {
            let wire = take(&mut there);
            (wire, there)
        });
        let mut wire = take(&mut here);
        producer.join().expect("no panic");
        let (mut other, mut there) = connection.join().expect("no panic");
        wire.extend(take(&mut here));
        other.extend(take(&mut there));
        assert!(wire == want && other == want, "{} and {}", wire.len(), other.len());
    });
}

/// Parks until `want` bytes have come.
fn read_until(wake_set: &Arc<WakeSet>, reader: &mut Reader, want: usize) {
    let parker = wake_set.parker();
    let mut got = 0;
    block_on(poll_fn(|cx| {
        loop {
            got += take(reader).len();
            if got >= want {
                return Poll::Ready(());
            }
            if parker.park(cx.waker(), || !reader.has_unread()) == Parked::Yes {
                return Poll::Pending;
            }
        }
    }));
}

#[test]
fn the_last_append_before_silence_wakes_the_connection() {
    model(3, || {
        let (wake_set, log) = log(LagPolicy::Skip);
        let mut reader = log.join(conn(1));
        let producer = {
            let log = Arc::clone(&log);
            thread::spawn(move || {
                log.append(b"x", None).expect("fits");
                log.append(b"y", None).expect("fits");
            })
        };
        // A lost wake-up is a deadlock, which loom reports.
        read_until(&wake_set, &mut reader, 2);
        producer.join().expect("no panic");
    });
}

/// As the writer of a connection with nothing else to send: it registers once a poll, keeps only
/// its positions, and gives up what it copies at once.
#[test]
fn the_fast_path_sees_every_append_once_and_is_woken_for_it() {
    model(3, || {
        let wake_set = WakeSet::new();
        let logs = LogSet::new([LogConfig::test(); LOGS_PER_SET], &wake_set);
        let mut positions = logs.join(conn(1), None);
        let log = Arc::clone(&logs.logs()[1]);
        let producer = thread::spawn(move || {
            log.append(b"x", None).expect("fits");
            log.append(b"y", None).expect("fits");
        });
        let parker = wake_set.parker();
        let (mut wire, mut copy) = (Vec::new(), TailCopy::default());
        block_on(poll_fn(|cx| {
            parker.parked_waker().task().register(cx.waker());
            loop {
                if positions.unread()[1] {
                    assert!(positions.copy_tail(1, &mut copy), "so little is copied");
                    wire.extend_from_slice(copy.bytes());
                    positions.mark_written(1, &copy);
                }
                if wire.len() >= 2 {
                    return Poll::Ready(());
                }
                if parker.park_registered(|| !positions.unread().contains(&true)) == Parked::Yes {
                    return Poll::Pending;
                }
            }
        }));
        producer.join().expect("no panic");
        assert_eq!(wire, b"xy");
        assert_eq!(positions.states().resume_points()[1].seq, 2);
    });
}

#[test]
fn a_connection_parks_once_for_log_and_state() {
    model(2, || {
        let (wake_set, log) = log(LagPolicy::Skip);
        let table = StateTable::new(StateConfig::default(), Arc::clone(&wake_set));
        let (mut reader, mut state) = (log.join(conn(1)), table.cursor());
        let appender = thread::spawn(move || log.append(b"x", None).expect("fits"));
        let setter = thread::spawn(move || table.set(StateKey::of_kind(1), Bytes::from_static(b"s")));
        let parker = wake_set.parker();
        let (mut wire, mut values) = (Vec::new(), 0);
        block_on(poll_fn(|cx| {
            loop {
                wire.extend(take(&mut reader));
                values += std::iter::from_fn(|| state.take_next()).count();
                if wire.len() == 1 && values == 1 {
                    return Poll::Ready(());
                }
                if parker.park(cx.waker(), || !reader.has_unread() && !state.has_unread()) == Parked::Yes {
                    return Poll::Pending;
                }
            }
        }));
        appender.join().expect("no panic");
        setter.join().expect("no panic").expect("fits");
    });
}

#[test]
fn the_waker_task_wakes_what_is_handed_to_it() {
    model(2, || {
        let (wake_set, log) = log(LagPolicy::Skip);
        let mut reader = log.join(conn(1));
        let done = Arc::new((AtomicBool::new(false), TaskWaker::new()));
        let waker_task = wake_set.waker_task().expect("the only one");
        let waker_thread = {
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
        read_until(&wake_set, &mut reader, 2);
        done.0.store(true, Ordering::Release);
        done.1.wake();
        producer.join().expect("no panic");
        waker_thread.join().expect("no panic");
    });
}

#[test]
fn dropping_the_waker_task_loses_no_wakeup() {
    model(3, || {
        let (wake_set, log) = log(LagPolicy::Skip);
        let mut reader = log.join(conn(1));
        let waker_task = wake_set.waker_task().expect("the only one");
        let waker_thread = thread::spawn(move || drop(waker_task));
        let producer = thread::spawn(move || log.append(b"x", None).expect("fits"));
        read_until(&wake_set, &mut reader, 1);
        producer.join().expect("no panic");
        waker_thread.join().expect("no panic");
    });
}

#[test]
fn only_a_connection_that_joined_before_an_append_gets_it() {
    model(4, || {
        let (_, log) = log(LagPolicy::Skip);
        let producer = {
            let log = Arc::clone(&log);
            thread::spawn(move || {
                log.append(b"0", None).expect("fits");
                log.append(b"1", None).expect("fits")
            })
        };
        let mut reader = log.join(conn(1));
        let start = reader.view().start();
        let last = producer.join().expect("no panic");
        assert_eq!(take(&mut reader), &b"01"[start as usize..]);
        let receipt = reader.view().status_of(&last);
        assert_eq!(receipt, if start <= last.seq { Receipt::Written } else { Receipt::NotJoined });
    });
}

#[test]
fn a_receipt_is_written_only_after_the_write_and_never_in_a_gap() {
    model(4, || {
        let (_, log) = log(LagPolicy::Skip);
        let mut reader = log.join(conn(1));
        let view = reader.view();
        let lost = log.append(&[0; 3000], None).expect("fits");
        for _ in 0..3 {
            log.append(&[1; 4000], None).expect("fits");
        }
        let wrote = Arc::new(AtomicBool::new(false));
        let connection = {
            let (log, wrote) = (Arc::clone(&log), Arc::clone(&wrote));
            thread::spawn(move || {
                let mut batch = Batch::new();
                assert!(matches!(reader.fill(1 << 20, &mut batch), Fill::Skipped { messages: 4, .. }));
                let kept = log.append(b"kept", None).expect("fits");
                assert_eq!(reader.fill(1 << 20, &mut batch), Fill::Ready);
                wrote.store(true, Ordering::Relaxed);
                reader.advance(&mut batch, 4);
                reader.publish();
                drop(reader);
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
        assert_eq!(connection.join().expect("no panic"), kept);
        assert_eq!(view.status_of(&lost), Receipt::Skipped);
        assert_eq!(view.status_of(&kept), Receipt::LeftAfter);
    });
}

#[test]
fn a_waiting_producer_is_woken_by_the_watched_connection() {
    model(3, || {
        let (_, log) = log(LagPolicy::Skip);
        let (mut near, mut far) = (log.join(conn(1)), log.join(conn(2)));
        log.append(&[0; 3000], None).expect("fits");
        let connections = [
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
        for connection in connections {
            connection.join().expect("no panic");
        }
    });
}

#[test]
fn a_connection_that_leaves_is_not_waited_for() {
    model(3, || {
        let (_, log) = log(LagPolicy::Skip);
        let reader = log.join(conn(1));
        log.append(&[0; 3000], None).expect("fits");
        let connection = thread::spawn(move || drop(reader));
        let mut waiter = log.room_wait();
        block_on(poll_fn(|cx| waiter.poll(cx, Tick::ZERO)));
        connection.join().expect("no panic");
    });
}

#[test]
fn the_ring_holds_no_more_than_a_limit_that_is_lowered_concurrently() {
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
fn an_append_that_a_lowered_limit_forbids_is_refused_or_was_before() {
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
