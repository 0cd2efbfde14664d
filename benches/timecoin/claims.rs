//! What the TIME Coin node's unified map claimed over the three-map cascade before it, measured; and peerpool beside both.
//!
//! `cargo bench --bench timecoin_claims` prints the table in under a minute; sizes may be named: `-- 200 10000`.
//!
//! The old structures are re-created from their description (`old/`), with connections of no size, so that what is
//! measured is the structure. Everyone takes turns within a round, another one first each round; times are medians over rounds, and a factor
//! is the median of the quotients within one round.
#![allow(clippy::print_stdout)]

mod counting_locks;
mod legacy;
mod pool;

use std::alloc::System;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use counting_locks::{Counted, Counts, Key};
use legacy::{Cascade, PeerInfo, Structure, Unified};
use pool::Ours;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const ROUNDS: usize = 21;
const STALE: Duration = Duration::from_secs(300);
/// From one sweep to the next, as the old node had it.
const BETWEEN: Duration = Duration::from_secs(30);
/// Sweeps a round.
const SWEEPS: u32 = 10;
/// The message of the counted sends.
const MESSAGE: &str = "Ping";

fn main() {
    // As a test each runs once and small.
    let bench = std::env::args().any(|arg| arg == "--bench");
    let words = || std::env::args().skip(1).filter(|arg| !arg.starts_with('-'));
    let named: Vec<usize> = words().filter_map(|word| word.parse().ok()).collect();
    if named.len() < words().count() {
        // A filter, for the other benches that the same command runs: nothing here has such a name.
        return;
    }
    let sizes = match (bench, named.is_empty()) {
        (true, true) => vec![200, 10_000],
        (true, false) => named,
        (false, _) => vec![50],
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    for peers in sizes {
        println!("\n{peers} peers\n");
        println!("| | claimed | cascade | unified map | peerpool, by key | peerpool, holding the peer |");
        println!("|---|---|--:|--:|--:|--:|");
        counts(&runtime, peers);
        memory(&runtime, peers);
        let rounds = if bench { ROUNDS } else { 1 };
        sweeps(&runtime, peers, rounds);
        marks(&runtime, peers, rounds);
    }
    println!(
        "\nSweeps: the mean of ten, 30 s apart, all others heard in between; the late are due at the tenth. Factors in"
    );
    println!(
        "brackets: how many times as fast as the cascade. Locks and look-ups were counted, but for the locks of peerpool,"
    );
    println!("which are those that its pool documents: one shard's read lock a look-up.");
}

/// Keys in an order that is not that of the map, and in which they are inserted.
fn keys<K: Key>(peers: usize) -> Vec<K> {
    // Sixteen neighbours a /24.
    let ip = |n: usize| {
        let n = (n * 7_919) % peers.next_power_of_two().max(8_192);
        IpAddr::from((((n / 16) << 8 | (n % 16)) as u32 | 0x0A00_0000).to_be_bytes())
    };
    (0..peers).map(ip).map(K::of).collect()
}

fn shuffled<K>(mut keys: Vec<K>, seed: u64) -> Vec<K> {
    fastrand::Rng::with_seed(seed).shuffle(&mut keys);
    keys
}

fn infos(peers: usize) -> Vec<(IpAddr, PeerInfo)> {
    keys::<IpAddr>(peers).into_iter().map(|ip| (ip, PeerInfo::new(ip))).collect()
}

async fn filled<K: Key, S: Structure<K, ()>>(peers: usize, now: Instant) -> S {
    let structure = S::default();
    for (ip, info) in infos(peers) {
        structure.insert(K::of(ip), info, (), now).await;
    }
    structure
}

/// Locks and look-ups of one send and of one mark.
fn counts(runtime: &tokio::runtime::Runtime, peers: usize) {
    async fn of<S: Structure<Counted, ()>>(peers: usize) -> [Counts; 2] {
        let now = Instant::now();
        let structure: S = filled::<Counted, S>(peers, now).await;
        let key = keys::<Counted>(peers)[peers / 2];
        counting_locks::take();
        assert!(structure.send(&key, &MESSAGE).await);
        let send = counting_locks::take();
        assert!(structure.peer_seen(&key, now).await);
        [send, counting_locks::take()]
    }
    let cascade = runtime.block_on(of::<Cascade<Counted, ()>>(peers));
    let unified = runtime.block_on(of::<Unified<Counted, ()>>(peers));
    let pool: Ours<Counted> = Ours::filled(infos(peers));
    let key = keys::<Counted>(peers)[peers / 2];
    counting_locks::take();
    let peer = pool.get(&key).expect("it is pooled");
    let get = counting_locks::take();
    assert!(pool.seen(&key, 1));
    let seen = counting_locks::take();
    assert!(Ours::mark(&peer, 2));
    let held = counting_locks::take();
    let [send, mark] = [0, 1].map(|at| (cascade[at], unified[at]));
    let locks =
        |counts: Counts| format!("{} + {} of the connection", counts.map_locks, counts.connection_locks);
    println!(
        "| locks a send, its mark included | 3 to 1 | {} | {} | {} | 0 |",
        locks(send.0),
        locks(send.1),
        get.look_ups
    );
    println!(
        "| look-ups a send, its mark included | 2-3 to 1 | {} | {} | {} | {} |",
        send.0.look_ups, send.1.look_ups, get.look_ups, held.look_ups
    );
    println!(
        "| locks, look-ups a `peer_seen` | | {}, {} | {}, {} | {}, {} | 0, {} |",
        mark.0.map_locks,
        mark.0.look_ups,
        mark.1.map_locks,
        mark.1.look_ups,
        seen.look_ups,
        seen.look_ups,
        held.look_ups
    );
}

/// Bytes that hold a connection, the peer's info and its texts included.
fn memory(runtime: &tokio::runtime::Runtime, peers: usize) {
    fn bytes<T>(peers: usize, fill: impl FnOnce() -> T) -> f64 {
        let region = Region::new(ALLOCATOR);
        let kept = fill();
        let change = region.change();
        drop(kept);
        (change.bytes_allocated - change.bytes_deallocated) as f64 / peers as f64
    }
    let now = Instant::now();
    let cascade = bytes(peers, || runtime.block_on(filled::<IpAddr, Cascade<IpAddr, ()>>(peers, now)));
    let unified = bytes(peers, || runtime.block_on(filled::<IpAddr, Unified<IpAddr, ()>>(peers, now)));
    let ours = bytes(peers, || Ours::<IpAddr>::filled(infos(peers)));
    println!(
        "| bytes a connection | -31 % | {cascade:.0} | {unified:.0} ({:+.0} %) | {ours:.0} ({:+.0} %) | |",
        (unified / cascade - 1.0) * 100.0,
        (ours / cascade - 1.0) * 100.0
    );
}

/// Removing whom nobody heard of for long, every 30 s: ten sweeps a round, before each of which everybody else was heard.
fn sweeps(runtime: &tokio::runtime::Runtime, peers: usize, rounds: usize) {
    let begin = Instant::now();
    let cascade: Cascade<IpAddr, ()> = runtime.block_on(filled(peers, begin));
    let unified: Unified<IpAddr, ()> = runtime.block_on(filled(peers, begin));
    let ours = Ours::<IpAddr>::filled(infos(peers));
    ours.scatter(&shuffled(keys(peers), 0xD1CE));
    let keys = shuffled(keys::<IpAddr>(peers), 0xBEEF);
    let mut tick = 0;
    for (name, tenth) in [("nobody stale", false), ("one in ten stale", true)] {
        let mut times = [Vec::new(), Vec::new(), Vec::new()];
        for round in 0..rounds {
            let mut sides = [Vec::new(), Vec::new()];
            for (n, key) in keys.iter().enumerate() {
                sides[usize::from(tenth && n % 10 == round % 10)].push(*key);
            }
            let [heard, late] = sides;
            for turn in 0..3 {
                let at = (turn + round) % 3;
                let sum = (0..SWEEPS).map(|n| {
                    // The late ones were last heard when the round began: too long ago at the last sweep of it.
                    let (seen, late) =
                        (begin + BETWEEN * (tick + n), if n + 1 == SWEEPS { &late[..] } else { &[] });
                    let now = seen + BETWEEN / 2 + if late.is_empty() { Duration::ZERO } else { BETWEEN };
                    match at {
                        0 => swept(runtime, &cascade, (&heard, late), (seen, now)),
                        1 => swept(runtime, &unified, (&heard, late), (seen, now)),
                        _ => {
                            ours.swept((&heard, late), [seen, now].map(|at| (at - begin).as_millis() as u64))
                        }
                    }
                });
                let took: Duration = sum.sum();
                times[at].push(took.as_nanos() as f64 / f64::from(SWEEPS) / peers as f64);
            }
            tick += SWEEPS;
        }
        let [cascade, unified, ours] = line(&times);
        println!("| sweep, {name}, ns a peer | 3x faster | {cascade} | {unified} | {ours} | |");
    }
}

fn swept<S: Structure<IpAddr, ()>>(
    runtime: &tokio::runtime::Runtime,
    structure: &S,
    (heard, late): (&[IpAddr], &[IpAddr]),
    (seen, now): (Instant, Instant),
) -> Duration {
    runtime.block_on(async {
        for key in heard {
            assert!(structure.peer_seen(key, seen).await);
        }
        let since = Instant::now();
        let gone = structure.sweep(now, STALE).await;
        let took = since.elapsed();
        assert_eq!(gone, late.len());
        for key in late {
            structure.insert(*key, PeerInfo::new(*key), (), seen).await;
        }
        took
    })
}

/// Marking peers as seen, one thread and two.
fn marks(runtime: &tokio::runtime::Runtime, peers: usize, rounds: usize) {
    let begin = Instant::now();
    let cascade: Cascade<IpAddr, ()> = runtime.block_on(filled(peers, begin));
    let unified: Unified<IpAddr, ()> = runtime.block_on(filled(peers, begin));
    let ours = Ours::<IpAddr>::filled(infos(peers));
    // Not in the order of insertion, in which what a key leads to would lie in memory.
    let keys = shuffled(keys::<IpAddr>(peers), 0xBEEF);
    let handles: Vec<_> = keys.iter().filter_map(|key| ours.get(key)).collect();
    let many = 20_000;
    for threads in [1, 2] {
        let mut times = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
        for round in 0..rounds {
            for turn in 0..4 {
                let at = (turn + round) % 4;
                // Rises with every turn, so that every mark has something to write: the last two contenders mark the same peers.
                let from = (((threads * rounds + round) * 4 + turn) * many) as u64;
                let took = on_threads(threads, |thread| {
                    let share = peers / threads;
                    let (keys, handles) =
                        (&keys[share * thread..][..share], &handles[share * thread..][..share]);
                    match at {
                        0 => marked(&cascade, keys, many, begin),
                        1 => marked(&unified, keys, many, begin),
                        2 => timed(|| {
                            for (n, key) in keys.iter().cycle().take(many).enumerate() {
                                assert!(ours.seen(key, from + n as u64));
                            }
                        }),
                        _ => timed(|| {
                            for (n, peer) in handles.iter().cycle().take(many).enumerate() {
                                assert!(Ours::mark(peer, from + n as u64));
                            }
                        }),
                    }
                });
                times[at].push(took / many as f64);
            }
        }
        let [cascade, unified, by_key, held] = line(&times);
        println!(
            "| `peer_seen`, {threads} thread(s), ns | 67 % faster | {cascade} | {unified} | {by_key} | {held} |"
        );
    }
}

fn marked<S: Structure<IpAddr, ()>>(structure: &S, keys: &[IpAddr], many: usize, from: Instant) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let since = Instant::now();
        for (n, key) in keys.iter().cycle().take(many).enumerate() {
            assert!(structure.peer_seen(key, from + Duration::from_nanos(n as u64)).await);
        }
        since.elapsed().as_nanos() as f64
    })
}

fn timed(run: impl FnOnce()) -> f64 {
    let since = Instant::now();
    run();
    since.elapsed().as_nanos() as f64
}

/// Runs on so many threads at once; the mean of what each returns.
fn on_threads(threads: usize, run: impl Fn(usize) -> f64 + Sync) -> f64 {
    if threads == 1 {
        return run(0);
    }
    let start = std::sync::Barrier::new(threads);
    let run = |thread| {
        start.wait();
        run(thread)
    };
    std::thread::scope(|scope| {
        let run = &run;
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || run(thread))).collect();
        running.into_iter().map(|thread| thread.join().expect("a marker")).sum::<f64>() / threads as f64
    })
}

/// Medians, and the factors to the first.
fn line<const N: usize>(times: &[Vec<f64>; N]) -> [String; N] {
    std::array::from_fn(|at| {
        let factor = median(times[0].iter().zip(&times[at]).map(|(first, this)| first / this));
        let time = median(times[at].iter().copied());
        if at == 0 { format!("{time:.1}") } else { format!("{time:.1} ({factor:.1})") }
    })
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
