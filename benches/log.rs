//! What the broadcast log costs in memory, without sockets.
//!
//! ```text
//! cargo bench --bench log                   criterion
//! cargo bench --bench log -- --ratios       medians over interleaved rounds; also --rounds 9
//! ```
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[allow(dead_code, reason = "each bench uses a part of it")]
#[path = "common/mod.rs"]
mod common;

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::task::Waker;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::args::Args;
use common::recorder::Recorder;
use common::results::case;
use common::rounds::interleave;
use common::stats::median;
use common::table;
use criterion::{Criterion, Throughput};
use peerpool::ConnId;
use peerpool::broadcast::{
    Batch, Cursor, CursorView, Fill, LOGS_PER_SET, Log, LogChunk, LogConfig, LogPositions, LogSet, Parked,
    Parker, ResumePoint, WakeSet,
};

#[path = "../src/broadcast/test_reader.rs"]
mod test_reader;

use test_reader::{Reader, TestLog};

const MESSAGE: [u8; 100] = [7; 100];
/// The most that one round of a connection takes.
const ROUND_BYTES: usize = 512 << 10;

fn log() -> (Arc<WakeSet>, TestLog) {
    let wake_set = WakeSet::new();
    (Arc::clone(&wake_set), TestLog::new(LogConfig::recommended(), &wake_set))
}

fn cursors(log: &TestLog, count: u64) -> Vec<(Reader, Batch)> {
    (1..=count).map(|n| (log.join(ConnId::new(n).unwrap()), Batch::new())).collect()
}

/// Takes everything that a cursor has not read, in slices as for a socket; returns the bytes and
/// the rounds.
fn drain(cursor: &mut Reader, batch: &mut Batch) -> (usize, usize) {
    let (mut bytes, mut calls) = (0, 0);
    loop {
        match cursor.fill(ROUND_BYTES, batch) {
            Fill::Ready => {
                let mut slices = [IoSlice::new(&[]); 96];
                let used = batch.slices(&mut slices);
                let n = slices[..used].iter().map(|slice| slice.len()).sum();
                cursor.advance(batch, n);
                bytes += n;
                calls += 1;
            }
            Fill::CaughtUp => {
                cursor.publish();
                return (bytes, calls);
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Nanoseconds of an append of 100 B, beside `count` cursors that do nothing.
fn append_idle(count: u64, appends: u32) -> f64 {
    let (_hub, log) = log();
    let _cursors = cursors(&log, count);
    let start = Instant::now();
    for _ in 0..appends {
        log.append(&MESSAGE, None).unwrap();
    }
    start.elapsed().as_nanos() as f64 / f64::from(appends)
}

/// Nanoseconds of a delivery when all cursors drain after every `burst` appends, and the bytes of
/// one round.
fn deliver(count: u64, burst: u32, rounds: u32) -> (f64, f64) {
    let (_hub, log) = log();
    let mut cursors = cursors(&log, count);
    let (mut bytes, mut calls) = (0, 0);
    let start = Instant::now();
    for _ in 0..rounds {
        for _ in 0..burst {
            log.append(&MESSAGE, None).unwrap();
        }
        for (cursor, batch) in &mut cursors {
            let (b, c) = drain(cursor, batch);
            (bytes, calls) = (bytes + b, calls + c);
        }
    }
    let deliveries = f64::from(burst) * f64::from(rounds) * count as f64;
    (start.elapsed().as_nanos() as f64 / deliveries, bytes as f64 / calls as f64)
}

/// Nanoseconds of an append while a second thread drains `count` cursors without a pause.
fn append_drained(count: u64, appends: u32) -> f64 {
    let (_hub, log) = log();
    let mut cursors = cursors(&log, count);
    let done = Arc::new(AtomicBool::new(false));
    let drainer = {
        let done = Arc::clone(&done);
        std::thread::spawn(move || {
            while !done.load(Ordering::Relaxed) {
                for (cursor, batch) in &mut cursors {
                    if let Fill::Ready = cursor.fill(ROUND_BYTES, batch) {
                        let n = batch.len();
                        cursor.advance(batch, n);
                        cursor.publish();
                    }
                }
            }
        })
    };
    let start = Instant::now();
    for _ in 0..appends {
        log.append(&MESSAGE, None).unwrap();
    }
    let took = start.elapsed().as_nanos() as f64 / f64::from(appends);
    done.store(true, Ordering::Relaxed);
    drainer.join().unwrap();
    took
}

/// Nanoseconds in which a connection parks, is woken by an append, takes the message and publishes.
fn wake_round(count: u64, rounds: u32) -> f64 {
    let (wake_set, log) = log();
    let mut connections: Vec<((Reader, Batch), Parker)> =
        cursors(&log, count).into_iter().map(|cursor| (cursor, wake_set.parker())).collect();
    let start = Instant::now();
    for _ in 0..rounds {
        for ((cursor, batch), parker) in &mut connections {
            drain(cursor, batch);
            assert_eq!(parker.park(Waker::noop(), || !cursor.has_unread()), Parked::Yes);
        }
        log.append(&MESSAGE, None).unwrap();
    }
    start.elapsed().as_nanos() as f64 / (f64::from(rounds) * count as f64)
}

/// Nanoseconds of an append of 64 KiB in four chunks.
fn append_large(appends: u32) -> f64 {
    let (_hub, log) = log();
    let body = Bytes::from(vec![1; 64 << 10]);
    let start = Instant::now();
    for _ in 0..appends {
        let chunks = (0..4).map(|n| LogChunk::new(&[n as u8; 4], body.slice(n << 14..(n + 1) << 14)));
        log.append_chunks(chunks, None).unwrap();
    }
    start.elapsed().as_nanos() as f64 / f64::from(appends)
}

/// Nanoseconds of an append of 100 B to a log that fits the processor's cache.
fn append_cached(appends: u32) -> f64 {
    let log =
        TestLog::new(LogConfig { ring_bytes: ROUND_BYTES, ..LogConfig::recommended() }, &WakeSet::new());
    let start = Instant::now();
    for _ in 0..appends {
        log.append(&MESSAGE, None).unwrap();
    }
    start.elapsed().as_nanos() as f64 / f64::from(appends)
}

/// Nanoseconds of an uncontended lock and a fence: the least that any append can take.
fn lock_and_fence(rounds: u32) -> f64 {
    let lock = std::sync::Mutex::new(0u64);
    let start = Instant::now();
    for _ in 0..rounds {
        *lock.lock().unwrap() += 1;
        fence(Ordering::SeqCst);
    }
    start.elapsed().as_nanos() as f64 / f64::from(rounds)
}

/// Nanoseconds of a copy to a buffer that nobody shares: what there is without a log.
fn copy_alone(appends: u32) -> f64 {
    let mut buf = Vec::with_capacity(256 << 10);
    let start = Instant::now();
    for _ in 0..appends {
        if buf.len() + MESSAGE.len() > buf.capacity() {
            buf.clear();
        }
        buf.extend_from_slice(std::hint::black_box(&MESSAGE));
        std::hint::black_box(&mut buf);
    }
    start.elapsed().as_nanos() as f64 / f64::from(appends)
}

/// A figure: its name, its metric, and how it is measured.
type Row<'a> = (&'a str, &'a str, &'a dyn Fn() -> f64);

fn tables(args: &Args) {
    const NS: &str = "ns";
    let rows: [Row<'_>; 15] = [
        ("copy of 100 B alone", NS, &|| copy_alone(1_000_000)),
        ("a lock and a fence alone", NS, &|| lock_and_fence(1_000_000)),
        ("append 100 B, no cursor, ring of 512 KiB", NS, &|| append_cached(300_000)),
        ("append 100 B, no cursor", NS, &|| append_idle(0, 300_000)),
        ("append 100 B, 64 idle", NS, &|| append_idle(64, 300_000)),
        ("append 100 B, 1024 idle", NS, &|| append_idle(1024, 300_000)),
        ("append 100 B, 64 drained by another thread", NS, &|| append_drained(64, 300_000)),
        ("append 100 B, 1024 drained by another thread", NS, &|| append_drained(1024, 300_000)),
        ("append 64 KiB in chunks", NS, &|| append_large(50_000)),
        ("delivery 100 B, 8 cursors, bursts of 2000", NS, &|| deliver(8, 2000, 100).0),
        ("delivery 100 B, 64 cursors, bursts of 2000", NS, &|| deliver(64, 2000, 50).0),
        ("delivery 100 B, 64 cursors, bursts of 2000", "bytes_per_round", &|| deliver(64, 2000, 50).1),
        ("delivery 100 B, 1024 cursors, bursts of 200", NS, &|| deliver(1024, 200, 20).0),
        ("fill, publish, park, wake; 64 connections, each", NS, &|| wake_round(64, 2000)),
        ("fill, publish, park, wake; 1024 connections, each", NS, &|| wake_round(1024, 100)),
    ];
    let rounds = args.number("--rounds", 9).max(1);
    let mut recorder = Recorder::new("log", rounds);
    let figures = interleave(rows.len(), rounds, |at, _| rows[at].2());
    table::header(&["", "median", "unit"]);
    for ((name, metric, _), values) in rows.iter().zip(figures) {
        recorder.add(&case(&[("what", name)]), "peerpool", metric, &values);
        table::row([(*name).to_owned(), format!("{:.2}", median(values)), (*metric).to_owned()]);
    }
    recorder.finish(args);
}

fn criterion() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let mut group = criterion.benchmark_group("log");
    group.throughput(Throughput::Elements(1));
    for count in [0, 64, 1024] {
        let (_hub, log) = log();
        let _cursors = cursors(&log, count);
        group.bench_function(format!("append_100B/{count}_idle"), |b| {
            b.iter(|| log.append(&MESSAGE, None).unwrap());
        });
    }
    let (_hub, log) = log();
    let mut cursors = cursors(&log, 64);
    group.throughput(Throughput::Elements(64 * 2000));
    group.bench_function("drain_64_cursors_2000x100B", |b| {
        b.iter(|| {
            for _ in 0..2000 {
                log.append(&MESSAGE, None).unwrap();
            }
            cursors.iter_mut().map(|(cursor, batch)| drain(cursor, batch).0).sum::<usize>()
        });
    });
    group.finish();
}

fn main() {
    let args = Args::parse();
    if args.wants_tables() {
        args.check(&["--rounds"], &[]);
        tables(&args);
    } else {
        criterion();
    }
}
