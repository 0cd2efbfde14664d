//! `cargo bench --bench pool -- --ratios`: medians over interleaved rounds, as a table.
//!
//! On a noisy machine absolute numbers of two runs do not compare; what is measured in turn within one run does.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use peerpool::base::{Direction, PeerId, Tick};
use peerpool::pool::{DisconnectReason, Peer, SlotClass};

use crate::competitors::{
    self, BareDashMap, ByHandle, ByKey, Cascade, Competitor, LockedMap, Plan, SharedDashMap, addr_of, guests,
    join, judge_all, keys, new_pool, shuffle,
};
use crate::maps::{Papaya, ParkingLot, SccIndex};

const ROUNDS: usize = 9;

pub(crate) fn print() {
    println!(
        "marks of one peer as seen; ns per mark, time over marks of all threads, median of 21 interleaved"
    );
    println!(
        "turns; x: how many times as long as `pool, by key`. Churn: one departure and one arrival every 256 marks.\n"
    );
    for peers in sizes() {
        marks(peers);
    }
    for peers in sizes() {
        tails(peers);
    }
    others();
}

fn marks(peers: usize) {
    let keys = keys(peers, 0x5EED);
    let pool = new_pool(peers);
    let mut handles: Vec<Arc<Peer<PeerId, ()>>> =
        keys.iter().map(|key| join(&pool, *key, Tick::ZERO)).collect();
    shuffle(&mut handles, 0xF00D);
    let mut order = keys.clone();
    shuffle(&mut order, 0xBEEF);
    let competitors: Vec<Box<dyn Competitor>> = vec![
        Box::new(ByKey(Arc::clone(&pool))),
        Box::new(ByHandle { pool: ByKey(Arc::clone(&pool)), peers: handles }),
        Box::<SharedDashMap>::default(),
        Box::<BareDashMap>::default(),
        Box::<Papaya>::default(),
        Box::<SccIndex>::default(),
        Box::<ParkingLot>::default(),
        Box::new(LockedMap::plain()),
        Box::new(LockedMap::fast()),
        Box::<Cascade>::default(),
    ];
    competitors.iter().skip(2).for_each(|competitor| competitor.fill(&keys));
    // Never moves back, so that every mark has something to write.
    let mut from = 1;
    for (threads, churn) in [(1, false), (1, true), (2, false), (2, true)] {
        // Long enough for the caches to be each one's own, short enough to fall between two turns of the scheduler.
        let (rounds, marks) = (21, if threads == 1 { 20_000 } else { 5_000 });
        let mut times = vec![Vec::new(); competitors.len()];
        for round in 0..rounds {
            for n in 0..competitors.len() {
                // Another one first each round.
                let at = (n + round) % competitors.len();
                times[at].push(time(
                    competitors[at].as_ref(),
                    &order,
                    Run { round, threads, churn, marks, from },
                ));
                from += 100_000;
            }
        }
        let medians: Vec<f64> = times.into_iter().map(median).collect();
        println!("{peers} peers, {threads} thread(s), {}", if churn { "churn" } else { "no churn" });
        for (competitor, median) in competitors.iter().zip(&medians) {
            println!("  {:<32} {median:>9.1} ns  {:>7.2} x", competitor.name(), median / medians[0]);
        }
    }
    println!();
}

#[derive(Clone, Copy)]
struct Run {
    round: usize,
    threads: usize,
    churn: bool,
    marks: usize,
    from: u64,
}

/// Nanoseconds per mark.
fn time(competitor: &dyn Competitor, order: &[PeerId], run: Run) -> f64 {
    let Run { round, threads, churn, marks, from } = run;
    // Each thread has its share of the peers, and each round other ones of it where there are enough: nobody shall
    // find in the cache what the round before left there.
    let share = order.len() / threads;
    let window = share.min(marks);
    let waiting = AtomicUsize::new(threads);
    let mark = |thread: usize| {
        let guests = if churn { guests(thread) } else { Vec::new() };
        let share = share * thread + window * (round % (share / window));
        let keys = &order[share..share + window];
        competitors::warm_up();
        // Not asleep: waking up takes as long as all the marks, and the threads would mark one after the other.
        waiting.fetch_sub(1, Ordering::AcqRel);
        while waiting.load(Ordering::Acquire) != 0 {
            std::hint::spin_loop();
        }
        let start = Instant::now();
        competitor.mark(Plan { keys, guests: &guests, share, marks, from });
        start.elapsed().as_nanos() as f64 / (marks * threads) as f64
    };
    if threads == 1 {
        return mark(0);
    }
    std::thread::scope(|scope| {
        let mark = &mark;
        let pinned = |thread| {
            move || {
                competitors::pin(thread);
                mark(thread)
            }
        };
        let all: Vec<_> = (0..threads).map(|thread| scope.spawn(pinned(thread))).collect();
        all.into_iter().map(|one| one.join().unwrap_or(f64::NAN)).sum::<f64>() / threads as f64
    })
}

fn others() {
    let peers = 1_000_000;
    let keys = keys(peers, 0x5EED);
    let pool = new_pool(peers);
    keys.iter().for_each(|key| drop(join(&pool, *key, Tick::ZERO)));
    scatter(&pool, &keys);
    let mut handles: Vec<_> = pool.roster().iter().cloned().collect();
    shuffle(&mut handles, 0xF00D);
    let now = Tick::from_millis(10);
    println!("{peers} peers, one thread, ns per peer, median of {ROUNDS}");
    let each = |name: &str, run: &dyn Fn()| {
        let times = (0..ROUNDS).map(|_| timed(run) / peers as f64).collect();
        println!("  {name:<46} {:>9.1}", median(times));
    };
    let late = judge_all(&pool, Tick::ZERO);
    each("sweep that judges everybody", &|| assert!(pool.sweep(late).removed.is_empty()));
    pool.roster().iter().for_each(|peer| peer.resume(late));
    assert!(pool.sweep(late).removed.is_empty());
    each("sweep that knows nobody can be stale", &|| assert!(pool.sweep(late).removed.is_empty()));
    let sum = |sum: u64, peer: &Arc<Peer<PeerId, ()>>| sum.wrapping_add(peer.last_seen().as_millis());
    each("for comparison: one load of each, that order", &|| {
        _ = black_box(pool.roster().iter().fold(0, sum))
    });
    each("stats", &|| _ = black_box(pool.stats(now)));
    each("roster, nothing changed", &|| assert_eq!(pool.roster().len(), peers));
    each("roster, every cell changed", &|| {
        guests(0).iter().chain(&guests(1)).chain(&guests(2)).chain(&guests(3)).for_each(|key| {
            join(&pool, *key, now);
            pool.remove_current(key, DisconnectReason::Closed);
        });
        black_box(pool.roster());
    });
    inserts_beside_a_sweep(&pool, judge_all(&pool, late));
    println!("one peer more and gone again beside {peers}, ns, median of {ROUNDS}");
    let extra = guests(9);
    let one = |name: &str, run: &dyn Fn(PeerId)| {
        let times = (0..ROUNDS)
            .map(|_| timed(&|| extra.iter().for_each(|key| run(*key))) / extra.len() as f64)
            .collect();
        println!("  {name:<46} {:>9.1}", median(times));
    };
    one("insert and remove", &|key| {
        join(&pool, key, now);
        assert!(pool.remove_current(&key, DisconnectReason::Closed).is_some());
    });
    one("admit, claim, go live, depart", &|key| {
        let live = pool.admit(addr_of(&key), Direction::Inbound, SlotClass::Ordinary, Tick::MAX).ok();
        let live =
            live.and_then(|permit| permit.claim(key).ok()).and_then(|claim| claim.go_live((), (), now).ok());
        assert!(live.and_then(|peer| pool.remove(&key, peer.id(), DisconnectReason::Closed)).is_some());
    });
    println!("holding the peer, one thread, 200 peers, ns");
    let few = &handles[..200];
    let rounds = 2_000;
    let marks = (few.len() * rounds) as f64;
    let seen = |name: &str, tick: &dyn Fn(usize) -> u64| {
        let run = |round: usize, n: usize| {
            let now = Tick::from_millis(tick(round + n * rounds));
            few.iter().for_each(|peer| _ = black_box(peer.seen(now)));
        };
        let times =
            (0..ROUNDS).map(|n| timed(&|| (0..rounds).for_each(|round| run(round, n))) / marks).collect();
        println!("  {name:<46} {:>9.2}", median(times));
    };
    seen("seen, the tick moves between two of its frames", &|round| 1_000_000 + round as u64);
    seen("seen, many frames in one tick", &|_| 2_000_000);
}

/// Has all peers go and come back, in another order and some at a time, each into memory that another one left: a walk in the
/// order of arrival shall not be one in the order of addresses.
fn scatter(pool: &crate::competitors::TestPool, keys: &[PeerId]) {
    let mut order = keys.to_vec();
    shuffle(&mut order, 0xD1CE);
    for some in order.chunks(20_000) {
        for key in some {
            pool.remove_current(key, DisconnectReason::Closed);
        }
        // The published lists hold those that went.
        drop(pool.roster());
        some.iter().for_each(|key| drop(join(pool, *key, Tick::ZERO)));
    }
}

/// How long the slowest of many inserts takes while another thread sweeps all the time and judges everybody.
fn inserts_beside_a_sweep(pool: &crate::competitors::TestPool, now: Tick) {
    let over = std::sync::atomic::AtomicBool::new(false);
    let relaxed = std::sync::atomic::Ordering::Relaxed;
    let mut waits = Vec::new();
    let swept = std::thread::scope(|scope| {
        let sweeping = scope.spawn(|| {
            let (begun, mut sweeps) = (Instant::now(), 0);
            while !over.load(relaxed) {
                assert!(pool.sweep(now).removed.is_empty());
                sweeps += 1;
            }
            begun.elapsed().as_nanos() as f64 / f64::from(sweeps) / pool.len() as f64
        });
        let extra = guests(7);
        let begun = Instant::now();
        for key in extra.iter().cycle().take_while(|_| begun.elapsed() < Duration::from_secs(2)) {
            waits.push(timed(&|| drop(join(pool, *key, now))));
            pool.remove_current(key, DisconnectReason::Closed);
        }
        over.store(true, relaxed);
        sweeping.join().expect("the sweeping thread")
    });
    waits.sort_by(f64::total_cmp);
    let at = |share: f64| Duration::from_nanos(waits[(waits.len() as f64 * share) as usize] as u64);
    println!(
        "  insert while another thread sweeps ({swept:.1} ns a peer): p50 {:?}, p99 {:?}, p99.9 {:?}, most {:?} of {}",
        at(0.5),
        at(0.99),
        at(0.999),
        Duration::from_nanos(waits.last().map_or(0, |wait| *wait as u64)),
        waits.len()
    );
}

/// How long the slowest of many marks by key and of many inserts take while another thread sweeps cells without a pause and
/// judges everybody in them (the maintenance takes a second for all of them), reads the stats, and has one peer of a hundred
/// leave and come back each second.
fn tails(peers: usize) {
    let mut keys = keys(peers, 0x5EED);
    let pool = new_pool(peers);
    keys.iter().for_each(|key| drop(join(&pool, *key, Tick::ZERO)));
    let late = judge_all(&pool, Tick::ZERO);
    // Who is silent, so that there is something to judge, must stay so.
    keys.retain(|key| pool.get(key).is_some_and(|peer| !peer.is_paused()));
    let at = |begun: Instant| Tick::from_millis(late.as_millis() + begun.elapsed().as_millis() as u64);
    let over = std::sync::atomic::AtomicBool::new(false);
    let relaxed = std::sync::atomic::Ordering::Relaxed;
    let (mut marks, mut inserts) = (Vec::new(), Vec::new());
    let (mut sweeps, mut churned) = (0, 0);
    let took = std::thread::scope(|scope| {
        let busy = scope.spawn(|| {
            let begun = Instant::now();
            let (mut sweeps, mut churned) = (0usize, 0usize);
            while !over.load(relaxed) {
                let now = at(begun);
                black_box(pool.sweep_shard(sweeps % pool.roster_shard_count(), now));
                sweeps += 1;
                if sweeps.is_multiple_of(64) {
                    black_box(pool.stats(now));
                }
                while churned < (begun.elapsed().as_secs_f64() * peers as f64 / 100.0) as usize {
                    let key = &keys[churned % keys.len()];
                    pool.remove_current(key, DisconnectReason::Closed);
                    drop(join(&pool, *key, now));
                    churned += 1;
                }
            }
            (sweeps, churned)
        });
        let begun = Instant::now();
        let extra = guests(7);
        let mut order = keys.clone();
        shuffle(&mut order, 0xBEEF);
        let mut order = order.iter().cycle();
        while begun.elapsed() < Duration::from_secs(2) {
            for key in &extra {
                let now = at(begun);
                inserts.push(timed(&|| drop(join(&pool, *key, now))));
                pool.remove_current(key, DisconnectReason::Closed);
                for key in order.by_ref().take(8) {
                    marks.push(timed(&|| _ = black_box(pool.seen(key, now))));
                }
            }
        }
        over.store(true, relaxed);
        (sweeps, churned) = busy.join().expect("the busy thread");
        begun.elapsed()
    });
    println!("{peers} peers, one thread beside one that sweeps, reads stats and churns 1 % a second");
    println!(
        "  ({sweeps} cells swept, {churned} peers churned in {took:.1?}; the clock's own 20 to 40 ns included)"
    );
    for (name, waits) in [("mark seen by key", &mut marks), ("insert", &mut inserts)] {
        waits.sort_by(f64::total_cmp);
        let at = |share: f64| Duration::from_nanos(waits[(waits.len() as f64 * share) as usize] as u64);
        let (p50, p99, p999) = (at(0.5), at(0.99), at(0.999));
        // The time slices of whatever else runs are in the most.
        let most = Duration::from_nanos(waits.last().map_or(0, |wait| *wait as u64));
        println!("  {name:<20} p50 {p50:?}, p99 {p99:?}, p99.9 {p999:?}, most {most:?} of {}", waits.len());
    }
}

fn timed(run: &dyn Fn()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_nanos() as f64
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// All sizes, or those named on the command line.
fn sizes() -> Vec<usize> {
    let named: Vec<usize> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    if named.is_empty() { vec![200, 10_000, 1_000_000] } else { named }
}
