//! What goes through all peers, and what one peer costs beside them.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use peerpool::pool::{DisconnectReason, Peer, SlotClass};
use peerpool::{Direction, PeerId, Tick};

use crate::common::recorder::Recorder;
use crate::common::results::{Case, case};
use crate::common::stats::{median, percentile};
use crate::common::table;
use crate::competitors::{TestPool, addr_of, churn_keys, examine_all, insert, keys, new_pool, shuffle};

const ROUNDS: usize = 9;
/// How long inserts are measured beside a sweep.
const INSERT_TIME: Duration = Duration::from_secs(2);
/// Marks of each of the few peers in one round of marks by handle.
const MARK_ROUNDS: usize = 2_000;
const FEW: usize = 200;

/// Measures and shows one figure after another.
struct Figures<'a> {
    recorder: &'a mut Recorder,
    case: Case,
}

impl Figures<'_> {
    /// One figure of several rounds.
    fn add(&mut self, title: &str, metric: &str, values: &[f64]) {
        self.recorder.add(&self.case, "pool", metric, values);
        table::numbers(title, &[median(values.iter().copied())], 2);
    }

    /// Nanoseconds of `run` for each of `count` parts.
    fn time(&mut self, title: &str, metric: &str, count: usize, run: &dyn Fn()) {
        let times: Vec<f64> = (0..ROUNDS).map(|_| nanoseconds(run) / count as f64).collect();
        self.add(title, metric, &times);
    }
}

pub(crate) fn nanoseconds(run: &dyn Fn()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_nanos() as f64
}

pub(crate) fn table(recorder: &mut Recorder, peers: usize) {
    let keys = keys(peers, 0x5EED);
    let pool = new_pool(peers);
    keys.iter().for_each(|key| drop(insert(&pool, *key, Tick::ZERO)));
    scatter(&pool, &keys);
    println!("\n{peers} peers, one thread, medians of {ROUNDS} rounds\n");
    table::header(&["", "ns"]);
    let mut figures = Figures { recorder, case: case(&[("peers", &peers)]) };
    let late = walks(&mut figures, &pool, peers);
    let now = examine_all(&pool, late);
    inserts_beside_a_sweep(&mut figures, &pool, now);
    one_peer_more(&mut figures, &pool);
    by_handle(&mut figures, &pool);
}

fn walks(figures: &mut Figures<'_>, pool: &Arc<TestPool>, peers: usize) -> Tick {
    let now = Tick::from_millis(10);
    let late = examine_all(pool, Tick::ZERO);
    let sweep = || assert!(pool.sweep(late).removed.is_empty());
    figures.time("sweep that examines every peer, a peer", "sweep_ns_per_peer", peers, &sweep);
    pool.roster().iter().for_each(|peer| peer.resume(late));
    sweep();
    figures.time(
        "sweep that knows that no peer can be stale, a peer",
        "sweep_nobody_stale_ns_per_peer",
        peers,
        &sweep,
    );
    let sum = |sum: u64, peer: &Arc<Peer<PeerId, ()>>| sum.wrapping_add(peer.last_seen().as_millis());
    let loads = || _ = black_box(pool.roster().iter().fold(0, sum));
    figures.time("for comparison: one load of each, in that order", "load_ns_per_peer", peers, &loads);
    figures.time("stats, a peer", "stats_ns_per_peer", peers, &|| _ = black_box(pool.stats(now)));
    let unchanged = || assert_eq!(pool.roster().len(), peers);
    figures.time("roster, nothing changed, a peer", "roster_unchanged_ns_per_peer", peers, &unchanged);
    let changed = || {
        (0..4).flat_map(churn_keys).for_each(|key| {
            insert(pool, key, now);
            pool.remove_current(&key, DisconnectReason::Closed);
        });
        black_box(pool.roster());
    };
    figures.time("roster, every shard changed, a peer", "roster_changed_ns_per_peer", peers, &changed);
    late
}

fn one_peer_more(figures: &mut Figures<'_>, pool: &Arc<TestPool>) {
    let (now, extra) = (Tick::from_millis(10), churn_keys(7));
    figures.time("insert and remove one peer", "insert_remove_ns", extra.len(), &|| {
        for key in &extra {
            insert(pool, *key, now);
            assert!(pool.remove_current(key, DisconnectReason::Closed).is_some());
        }
    });
    figures.time("admit, claim, go live, remove", "admit_to_remove_ns", extra.len(), &|| {
        for key in &extra {
            let permit = pool.admit(addr_of(key), Direction::Inbound, SlotClass::Ordinary, Tick::MAX).ok();
            let claim = permit.and_then(|permit| permit.claim(*key).ok());
            let peer = claim.and_then(|claim| claim.go_live((), (), now).ok()).expect("room");
            assert!(pool.remove(key, peer.id(), DisconnectReason::Closed).is_some());
        }
    });
}

/// Marks with the handle at hand, everything in cache.
fn by_handle(figures: &mut Figures<'_>, pool: &TestPool) {
    let mut handles: Vec<_> = pool.roster().iter().cloned().collect();
    shuffle(&mut handles, 0xF00D);
    let few = &handles[..FEW.min(handles.len())];
    let mut seen = |title: &str, metric: &str, tick: &dyn Fn(usize) -> u64| {
        let times: Vec<f64> = (0..ROUNDS)
            .map(|n| {
                let round = |round: usize| {
                    let now = Tick::from_millis(tick(round + n * MARK_ROUNDS));
                    few.iter().for_each(|peer| _ = black_box(peer.seen(now)));
                };
                nanoseconds(&|| (0..MARK_ROUNDS).for_each(round)) / (few.len() * MARK_ROUNDS) as f64
            })
            .collect();
        figures.add(title, metric, &times);
    };
    seen("mark by handle, 200 peers, a new tick each time", "mark_by_handle_ns", &|round| {
        1_000_000 + round as u64
    });
    seen("mark by handle, 200 peers, many in one tick", "mark_in_one_tick_ns", &|_| 2_000_000);
}

/// Removes and inserts all peers in another order, some at a time, so that a walk in the order of
/// arrival is not one in the order of addresses.
fn scatter(pool: &TestPool, keys: &[PeerId]) {
    let mut order = keys.to_vec();
    shuffle(&mut order, 0xD1CE);
    for some in order.chunks(20_000) {
        for key in some {
            pool.remove_current(key, DisconnectReason::Closed);
        }
        // The published lists hold the removed peers.
        drop(pool.roster());
        some.iter().for_each(|key| drop(insert(pool, *key, Tick::ZERO)));
    }
}

/// How long inserts take while another thread sweeps without a pause and examines every peer.
fn inserts_beside_a_sweep(figures: &mut Figures<'_>, pool: &TestPool, now: Tick) {
    let over = AtomicBool::new(false);
    let mut waits = Vec::new();
    let swept = std::thread::scope(|scope| {
        let sweeping = scope.spawn(|| {
            let (begun, mut sweeps) = (Instant::now(), 0);
            while !over.load(Ordering::Relaxed) {
                assert!(pool.sweep(now).removed.is_empty());
                sweeps += 1;
            }
            begun.elapsed().as_nanos() as f64 / f64::from(sweeps) / pool.len() as f64
        });
        let (extra, begun) = (churn_keys(7), Instant::now());
        for key in extra.iter().cycle().take_while(|_| begun.elapsed() < INSERT_TIME) {
            waits.push(nanoseconds(&|| drop(insert(pool, *key, now))) as u64);
            pool.remove_current(key, DisconnectReason::Closed);
        }
        over.store(true, Ordering::Relaxed);
        sweeping.join().expect("the sweeping thread")
    });
    figures.add("sweep beside inserts, a peer", "sweep_beside_inserts_ns_per_peer", &[swept]);
    for (title, metric, share) in [
        ("insert beside a sweep: p50", "insert_beside_sweep_p50_ns", 0.5),
        ("p99", "insert_beside_sweep_p99_ns", 0.99),
        ("p99.9", "insert_beside_sweep_p999_ns", 0.999),
        // The time slices of other work on the machine are in the longest.
        ("longest", "insert_beside_sweep_longest_ns", 1.0),
    ] {
        figures.add(title, metric, &[percentile(&mut waits, share)]);
    }
}
