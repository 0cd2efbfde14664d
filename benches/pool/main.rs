//! The pool beside what a node would use instead.
//!
//! ```text
//! cargo bench --bench pool                                criterion; takes a filter
//! cargo bench --bench pool -- --ratios                    the tables
//! cargo bench --bench pool -- --ratios --peers 200,10000 --rounds 21
//! ```
//!
//! Bytes a connection:
//! `cargo test --release --no-default-features --test pool_memory -- --nocapture`.
#![allow(clippy::print_stdout)]

#[allow(dead_code, reason = "each bench uses a part of it")]
#[path = "../common/mod.rs"]
mod common;
mod competitors;
mod maps;
mod marks;
mod tails;
mod walks;

use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use common::args::Args;
use common::recorder::Recorder;
use common::system::pin;
use competitors::{Competitor, Plan, addr_of, churn_keys, examine_all, insert, keys, new_pool, warm_up};
use criterion::{BatchSize, BenchmarkId, Criterion};
use peerpool::pool::{DisconnectReason, SlotClass};
use peerpool::{Direction, PeerId, Tick};

const SIZES: [usize; 3] = [200, 10_000, 1_000_000];

fn main() {
    let args = Args::parse();
    if args.wants_tables() {
        args.check(&["--peers", "--rounds"], &[]);
        return tables(&args);
    }
    let mut criterion = Criterion::default().configure_from_args();
    // As a test each runs once: the large ones would only take time.
    for peers in if args.is_bench() { &SIZES[..] } else { &SIZES[..1] } {
        criterion_marks(&mut criterion, *peers);
        criterion_walks(&mut criterion, *peers);
    }
    criterion.final_summary();
}

fn tables(args: &Args) {
    let (sizes, rounds) = (args.numbers("--peers", &SIZES), args.number("--rounds", 21).max(1));
    let mut recorder = Recorder::new("pool", rounds);
    for peers in &sizes {
        marks::table(&mut recorder, *peers, rounds);
    }
    for peers in &sizes {
        tails::table(&mut recorder, *peers);
    }
    if let Some(most) = sizes.iter().max() {
        walks::table(&mut recorder, *most);
    }
    recorder.finish(args);
}

fn criterion_marks(criterion: &mut Criterion, peers: usize) {
    let (all, order) = competitors::all(peers);
    // Never moves back, so that every mark has something to write: the first two mark the same
    // peers.
    let mut from = 1;
    for (threads, churn) in marks::SITUATIONS {
        let name = format!("seen/{peers} peers/{threads} thread{}", if churn { ", churn" } else { "" });
        let mut group = criterion.benchmark_group(name);
        for competitor in &all {
            group.bench_function(BenchmarkId::from_parameter(competitor.name()), |bencher| {
                bencher.iter_custom(|marks| {
                    let took = time(competitor.as_ref(), &order, (threads, churn), marks as usize, from);
                    from += marks;
                    took
                });
            });
        }
        group.finish();
    }
}

/// How long it takes until each thread has made `marks` marks, once all are ready.
fn time(
    competitor: &dyn Competitor,
    order: &[PeerId],
    (threads, churn): (usize, bool),
    marks: usize,
    from: u64,
) -> Duration {
    let ready = Barrier::new(threads);
    let mark = |thread: usize| {
        if threads > 1 {
            pin(Some(thread));
        }
        let share = order.len() / threads * thread;
        let keys = &order[share..share + order.len() / threads];
        let churn = if churn { churn_keys(thread) } else { Vec::new() };
        warm_up();
        ready.wait();
        let start = Instant::now();
        competitor.mark(Plan { keys, churn: &churn, share, marks, from });
        start.elapsed()
    };
    std::thread::scope(|scope| {
        let mark = &mark;
        let all: Vec<_> = (0..threads).map(|thread| scope.spawn(move || mark(thread))).collect();
        all.into_iter().map(|one| one.join().expect("a marking thread")).max().unwrap_or_default()
    })
}

fn criterion_walks(criterion: &mut Criterion, peers: usize) {
    let pool = new_pool(peers);
    for key in keys(peers, 0x5EED) {
        insert(&pool, key, Tick::ZERO);
    }
    let now = examine_all(&pool, Tick::ZERO);
    let mut group = criterion.benchmark_group(format!("walks/{peers} peers"));
    group.sample_size(20);
    group.bench_function("sweep that examines every peer", |bencher| bencher.iter(|| pool.sweep(now)));
    group.bench_function("stats", |bencher| bencher.iter(|| pool.stats(now)));
    group.bench_function("roster", |bencher| bencher.iter(|| pool.roster()));
    let key = churn_keys(9)[0];
    group.bench_function("admit, claim, go live, remove", |bencher| {
        let pool = Arc::clone(&pool);
        bencher.iter_batched(
            || (),
            |()| {
                let permit =
                    pool.admit(addr_of(&key), Direction::Inbound, SlotClass::Ordinary, Tick::MAX).ok();
                let claim = permit.and_then(|permit| permit.claim(key).ok());
                let peer = claim.and_then(|claim| claim.go_live((), (), now).ok());
                peer.and_then(|peer| pool.remove(&key, peer.id(), DisconnectReason::Closed))
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}
