//! The pool beside what a node would use instead.
//!
//! `cargo bench --bench pool` runs it under criterion; `cargo bench --bench pool -- --ratios` prints a table of ratios
//! in under a minute. Bytes a connection: `cargo test --release --no-default-features --test pool_memory -- --nocapture`.
#![expect(clippy::print_stdout, reason = "the table of ratios goes to whoever asked for it")]

mod competitors;
mod maps;
mod ratios;

use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use competitors::{BareDashMap, ByHandle, ByKey, Cascade, Competitor, LockedMap, Plan, SharedDashMap};
use criterion::{BatchSize, BenchmarkId, Criterion};
use maps::{Papaya, ParkingLot, SccIndex};
use peerpool::base::{Direction, PeerId, Tick};
use peerpool::pool::{DisconnectReason, SlotClass};

fn marks(criterion: &mut Criterion, peers: usize) {
    let keys = competitors::keys(peers, 0x5EED);
    let pool = competitors::new_pool(peers);
    let mut handles: Vec<_> = keys.iter().map(|key| competitors::join(&pool, *key, Tick::ZERO)).collect();
    competitors::shuffle(&mut handles, 0xF00D);
    let mut order = keys.clone();
    competitors::shuffle(&mut order, 0xBEEF);
    let all: Vec<Box<dyn Competitor>> = vec![
        Box::new(ByHandle { pool: ByKey(Arc::clone(&pool)), peers: handles }),
        Box::new(ByKey(pool)),
        Box::<SharedDashMap>::default(),
        Box::<BareDashMap>::default(),
        Box::<Papaya>::default(),
        Box::<SccIndex>::default(),
        Box::<ParkingLot>::default(),
        Box::new(LockedMap::plain()),
        Box::new(LockedMap::fast()),
        Box::<Cascade>::default(),
    ];
    all.iter().skip(2).for_each(|competitor| competitor.fill(&keys));
    // Never moves back, so that every mark has something to write: the first two mark the same peers.
    let mut from = 1;
    for (threads, churn) in [(1, false), (1, true), (2, false), (2, true)] {
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

/// How long it takes until each of the threads has made so many marks, once all are ready.
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
            competitors::pin(thread);
        }
        let share = order.len() / threads * thread;
        let keys = &order[share..share + order.len() / threads];
        let guests = if churn { competitors::guests(thread) } else { Vec::new() };
        competitors::warm_up();
        ready.wait();
        let start = Instant::now();
        competitor.mark(Plan { keys, guests: &guests, share, marks, from });
        start.elapsed()
    };
    std::thread::scope(|scope| {
        let mark = &mark;
        let all: Vec<_> = (0..threads).map(|thread| scope.spawn(move || mark(thread))).collect();
        all.into_iter().map(|one| one.join().expect("a marker")).max().unwrap_or_default()
    })
}

fn walks(criterion: &mut Criterion, peers: usize) {
    let pool = competitors::new_pool(peers);
    for key in competitors::keys(peers, 0x5EED) {
        competitors::join(&pool, key, Tick::ZERO);
    }
    let now = competitors::judge_all(&pool, Tick::ZERO);
    let mut group = criterion.benchmark_group(format!("walks/{peers} peers"));
    group.sample_size(20);
    group.bench_function("sweep that judges everybody", |bencher| bencher.iter(|| pool.sweep(now)));
    group.bench_function("stats", |bencher| bencher.iter(|| pool.stats(now)));
    group.bench_function("roster", |bencher| bencher.iter(|| pool.roster()));
    let guest = competitors::guests(9)[0];
    group.bench_function("admit, claim, go live, depart", |bencher| {
        bencher.iter_batched(
            || (),
            |()| {
                let permit = pool
                    .admit(competitors::addr_of(&guest), Direction::Inbound, SlotClass::Ordinary, Tick::MAX)
                    .ok();
                let claim = permit.and_then(|permit| permit.claim(guest).ok());
                let peer = claim.and_then(|claim| claim.go_live((), (), now).ok());
                peer.and_then(|peer| pool.remove(&guest, peer.id(), DisconnectReason::Closed))
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn main() {
    if std::env::args().any(|arg| arg == "--ratios") {
        return ratios::print();
    }
    let mut criterion = Criterion::default().configure_from_args();
    // As a test (`cargo test --benches`) each runs once: the large ones would only take time.
    let sizes: &[usize] =
        if std::env::args().any(|arg| arg == "--bench") { &[200, 10_000, 1_000_000] } else { &[200] };
    for peers in sizes {
        marks(&mut criterion, *peers);
        walks(&mut criterion, *peers);
    }
    criterion.final_summary();
}
