//! What the broadcast log costs in memory alone, without sockets.
//!
//! `cargo bench --bench log` runs criterion; `cargo bench --bench log -- --table` prints medians over interleaved rounds,
//! which is what to compare on a machine that others use.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::io::IoSlice;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use peerpool::base::ConnId;
use peerpool::broadcast::{
    Batch, Cursor, CursorView, Fill, LOGS_PER_SET, Log, LogChunk, LogConfig, LogPositions, LogSet, Parked,
    Parker, ResumePoint, WakeSet,
};

#[path = "../src/broadcast/test_reader.rs"]
mod test_reader;

use test_reader::{Reader, TestLog};

const MESSAGE: [u8; 100] = [7; 100];

fn log() -> (Arc<WakeSet>, TestLog) {
    let hub = WakeSet::new();
    (Arc::clone(&hub), TestLog::new(LogConfig::recommended(), &hub))
}

fn cursors(log: &TestLog, count: u64) -> Vec<(Reader, Batch)> {
    (1..=count).map(|n| (log.join(ConnId::new(n).unwrap()), Batch::new())).collect()
}

/// Writes everything to nowhere, with slices made as for a socket; returns the bytes and the calls.
fn drain(cursor: &mut Reader, batch: &mut Batch) -> (usize, usize) {
    let (mut bytes, mut calls) = (0, 0);
    loop {
        match cursor.fill(512 << 10, batch) {
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

/// Nanoseconds an append of 100 B takes with that many cursors that do nothing.
fn append_idle(count: u64, appends: u32) -> f64 {
    let (_hub, log) = log();
    let _cursors = cursors(&log, count);
    let start = Instant::now();
    for _ in 0..appends {
        log.append(&MESSAGE, None).unwrap();
    }
    start.elapsed().as_nanos() as f64 / f64::from(appends)
}

/// Nanoseconds a delivery takes when cursors drain in turns of `burst` appends, and the bytes a call hands over.
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

/// Nanoseconds an append takes while a second thread drains that many cursors without a pause.
fn append_drained(count: u64, appends: u32) -> f64 {
    let (_hub, log) = log();
    let mut cursors = cursors(&log, count);
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let drainer = {
        let done = Arc::clone(&done);
        std::thread::spawn(move || {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                for (cursor, batch) in &mut cursors {
                    if let Fill::Ready = cursor.fill(512 << 10, batch) {
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
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    drainer.join().unwrap();
    took
}

/// Nanoseconds a link takes to park, be woken by a paced append, take the message and publish.
fn wake_round(count: u64, rounds: u32) -> f64 {
    let (hub, log) = log();
    let mut links: Vec<((Reader, Batch), Parker)> =
        cursors(&log, count).into_iter().map(|cursor| (cursor, hub.parker())).collect();
    let start = Instant::now();
    for _ in 0..rounds {
        for ((cursor, batch), parker) in &mut links {
            drain(cursor, batch);
            assert_eq!(parker.park(Waker::noop(), || !cursor.has_unread()), Parked::Yes);
        }
        log.append(&MESSAGE, None).unwrap();
    }
    start.elapsed().as_nanos() as f64 / (f64::from(rounds) * count as f64)
}

/// Nanoseconds an append of 64 KiB in four chunks takes.
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

/// Nanoseconds an append of 100 B takes in a log that fits the processor's cache.
fn append_cached(appends: u32) -> f64 {
    let log = TestLog::new(LogConfig { ring_bytes: 512 << 10, ..LogConfig::recommended() }, &WakeSet::new());
    let start = Instant::now();
    for _ in 0..appends {
        log.append(&MESSAGE, None).unwrap();
    }
    start.elapsed().as_nanos() as f64 / f64::from(appends)
}

/// Nanoseconds a lock that nobody contends and a fence take: the floor under any append.
fn lock_and_fence(rounds: u32) -> f64 {
    let lock = std::sync::Mutex::new(0u64);
    let start = Instant::now();
    for _ in 0..rounds {
        *lock.lock().unwrap() += 1;
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    }
    start.elapsed().as_nanos() as f64 / f64::from(rounds)
}

/// What there is without a log: the bytes copied to a buffer, nothing shared.
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

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn table() {
    let rows: [(&str, &dyn Fn() -> f64); 15] = [
        ("copy of 100 B alone, ns", &|| copy_alone(1_000_000)),
        ("a lock and a fence alone, ns", &|| lock_and_fence(1_000_000)),
        ("append 100 B, no cursor, ring of 512 KiB, ns", &|| append_cached(300_000)),
        ("append 100 B, no cursor, ns", &|| append_idle(0, 300_000)),
        ("append 100 B, 64 idle, ns", &|| append_idle(64, 300_000)),
        ("append 100 B, 1,024 idle, ns", &|| append_idle(1024, 300_000)),
        ("append 100 B, 64 drained by another thread, ns", &|| append_drained(64, 300_000)),
        ("append 100 B, 1,024 drained by another thread, ns", &|| append_drained(1024, 300_000)),
        ("append 64 KiB in chunks, ns", &|| append_large(50_000)),
        ("delivery 100 B, 8 cursors, bursts of 2,000, ns", &|| deliver(8, 2000, 100).0),
        ("delivery 100 B, 64 cursors, bursts of 2,000, ns", &|| deliver(64, 2000, 50).0),
        ("delivery 100 B, 64 cursors, bursts of 2,000, B a call", &|| deliver(64, 2000, 50).1),
        ("delivery 100 B, 1,024 cursors, bursts of 200, ns", &|| deliver(1024, 200, 20).0),
        ("paced: fill, publish, park, wake; 64 links, ns a link", &|| wake_round(64, 2000)),
        ("paced: fill, publish, park, wake; 1,024 links, ns a link", &|| wake_round(1024, 100)),
    ];
    let mut seen = vec![Vec::new(); rows.len()];
    for _ in 0..9 {
        for (row, seen) in rows.iter().zip(&mut seen) {
            seen.push(row.1());
        }
    }
    for ((name, _), seen) in rows.iter().zip(seen) {
        println!("{:>10.2}  {name}", median(seen));
    }
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
    if std::env::args().any(|arg| arg == "--table") { table() } else { criterion() }
}
