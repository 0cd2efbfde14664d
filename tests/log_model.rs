//! The broadcast log against a plain list of messages, with random operations and with threads.
#![cfg(all(feature = "node", feature = "unstable"))]
#![allow(clippy::unwrap_used)]

#[path = "common/log_model.rs"]
mod log_model;

use std::io::IoSlice;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use log_model::test_reader::{Reader, TestLog};
use peerpool::broadcast::{Batch, Fill, LagPolicy, LogConfig, Parked, WakeSet};
use peerpool::{Clock, ConnId};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_cursor_sees_what_it_was_promised(data in proptest::collection::vec(any::<u8>(), 0..3000)) {
        log_model::run(&data);
    }
}

/// Real threads: two producers with back-pressure, and connections that park and lag. Every
/// connection accounts for every message, written or skipped, in the order of its producer.
#[test]
fn under_threads_every_message_is_written_once_or_counted_as_skipped() {
    for lag in [LagPolicy::Skip, LagPolicy::Disconnect] {
        stress(lag);
    }
}

const PRODUCERS: u64 = 2;
const MESSAGES: u64 = 30_000;

fn stress(lag: LagPolicy) {
    let wake_set = WakeSet::new();
    let config =
        LogConfig { ring_bytes: 256 << 10, block_bytes: 8 << 10, lag, stall: Duration::from_secs(60) };
    let log = TestLog::new(config, &wake_set);
    let clock = Clock::new();
    // With Disconnect, producers wait for room, so no connection may lag. With Skip they do not.
    let waits = lag == LagPolicy::Disconnect;
    let readers: Vec<_> = (1..=4).map(|n| log.join(ConnId::new(n).unwrap())).collect();
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|producer| {
            let log = Arc::clone(&log);
            std::thread::spawn(move || {
                let mut room_wait = log.room_wait();
                for n in 0..MESSAGES {
                    if waits {
                        block_on(|cx| room_wait.poll(cx, clock.now()));
                    }
                    let word = producer << 32 | n;
                    let mut encoded = vec![0; 16 + (n % 90) as usize];
                    encoded[..8].copy_from_slice(&word.to_le_bytes());
                    let len = encoded.len() as u64;
                    encoded[8..16].copy_from_slice(&len.to_le_bytes());
                    // Every tenth message has one of the connections as its origin.
                    let origin = if n.is_multiple_of(10) { ConnId::new(n / 10 % 4 + 1) } else { None };
                    log.append(&encoded, origin).unwrap();
                }
            })
        })
        .collect();
    let threads: Vec<_> = readers
        .into_iter()
        .map(|reader| {
            let wake_set = Arc::clone(&wake_set);
            std::thread::spawn(move || read_all(&wake_set, reader))
        })
        .collect();
    producers.into_iter().for_each(|producer| producer.join().unwrap());
    for thread in threads {
        let (written, skipped) = thread.join().unwrap();
        if waits {
            assert_eq!((written, skipped), (PRODUCERS * MESSAGES * 39 / 40, 0));
        } else {
            // Messages of the own origin inside a gap are counted with it.
            assert!(written + skipped <= PRODUCERS * MESSAGES);
            assert!(written + skipped >= PRODUCERS * MESSAGES * 39 / 40);
        }
    }
    assert_eq!(log.stats().messages, PRODUCERS * MESSAGES);
}

/// Reads until every message is accounted for.
fn read_all(wake_set: &Arc<WakeSet>, mut reader: Reader) -> (u64, u64) {
    let (parker, mut batch, mut wire) = (wake_set.parker(), Batch::new(), Vec::new());
    let (mut written, mut skipped, mut next) = (0, 0, [0u64; PRODUCERS as usize]);
    let mut round = 0usize;
    block_on(|cx| {
        loop {
            round += 1;
            match reader.fill(1 << (round % 17), &mut batch) {
                Fill::Ready => {
                    let mut slices = [IoSlice::new(&[]); 8];
                    let used = batch.slices(&mut slices);
                    let offered: usize = slices[..used].iter().map(|slice| slice.len()).sum();
                    let taken = if round.is_multiple_of(3) { offered / 2 + 1 } else { offered };
                    let before = wire.len();
                    slices[..used].iter().for_each(|slice| wire.extend_from_slice(slice));
                    wire.truncate(before + taken);
                    reader.advance(&mut batch, taken);
                    if round.is_multiple_of(5) {
                        reader.release(&mut batch);
                    }
                    reader.publish();
                    written += parse(&mut wire, &mut next);
                }
                Fill::Skipped { messages, aborted } => {
                    assert!(!aborted && wire.is_empty(), "a gap inside a message");
                    skipped += messages;
                }
                Fill::Overrun => panic!("a connection lagged although producers waited"),
                Fill::CaughtUp => {
                    reader.publish();
                    if reader.view().written() == PRODUCERS * MESSAGES {
                        return Poll::Ready((written, skipped));
                    }
                    if parker.park(cx.waker(), || !reader.has_unread()) == Parked::Yes {
                        return Poll::Pending;
                    }
                }
            }
        }
    })
}

/// Takes whole messages off the wire; the numbers of each producer must rise.
fn parse(wire: &mut Vec<u8>, next: &mut [u64]) -> u64 {
    let (mut at, mut count) = (0, 0);
    while wire.len() >= at + 16 {
        let word = |from: usize| u64::from_le_bytes(wire[from..from + 8].try_into().unwrap());
        let (producer, n, len) = ((word(at) >> 32) as usize, word(at) & 0xffff_ffff, word(at + 8) as usize);
        if wire.len() < at + len {
            break;
        }
        assert!(n >= next[producer], "message {n} after {}", next[producer]);
        assert_eq!(len as u64, 16 + n % 90, "two messages run together");
        next[producer] = n + 1;
        (at, count) = (at + len, count + 1);
    }
    wire.drain(..at);
    count
}

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Polls on this thread until ready. A lost wake-up fails the test instead of hanging it.
fn block_on<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut cx = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(done) = poll(&mut cx) {
            return done;
        }
        let before = std::time::Instant::now();
        std::thread::park_timeout(Duration::from_secs(20));
        assert!(before.elapsed() < Duration::from_secs(19), "a wake-up was lost");
    }
}
