//! What the TIME Coin node's unified map claimed over the three-map cascade before it, measured;
//! and peerpool beside both.
//!
//! `cargo bench --bench timecoin_claims` prints the tables in under a minute. `--peers 200,10000`
//! selects sizes.
//!
//! The legacy structures are written again from their description (`legacy/`), with connections of
//! no size, so that the structure alone is measured. All contenders take turns within a round.
//! Times are medians over rounds. A factor is the median of the quotients within one round: how
//! many times as fast as the cascade.
#![allow(clippy::print_stdout)]

#[allow(dead_code, reason = "each bench uses a part of it")]
#[path = "../common/mod.rs"]
mod common;
mod counting_locks;
mod legacy;
mod pool;

use std::alloc::System;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use common::args::Args;
use common::recorder::Recorder;
use common::results::case;
use common::rounds::interleave;
use common::stats::{median, ratio};
use common::table;
use counting_locks::{CountedKey, Counts, Key};
use legacy::{Cascade, PeerInfo, Structure, Unified};
use pool::PoolStructure;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const ROUNDS: usize = 21;
const STALE_AFTER: Duration = Duration::from_secs(300);
/// From one sweep to the next, as in the legacy node.
const SWEEP_PERIOD: Duration = Duration::from_secs(30);
/// Sweeps of a round.
const SWEEPS: u32 = 10;
/// Marks of a turn.
const MARKS: usize = 20_000;
/// The message of the counted sends.
const MESSAGE: &str = "Ping";
/// The contenders.
const CASCADE: &str = "cascade";
const UNIFIED: &str = "unified map";
const BY_KEY: &str = "peerpool, by key";
const BY_HANDLE: &str = "peerpool, by handle";

/// Where the figures of one number of peers go.
struct Report<'a> {
    recorder: &'a mut Recorder,
    peers: usize,
}

impl Report<'_> {
    /// Adds a figure of several contenders, the cascade first, and prints it with the factors.
    fn add(&mut self, title: &str, claimed: &str, metric: &str, values: &[(&str, Vec<f64>)]) {
        let case = case(&[("peers", &self.peers)]);
        let mut row = vec![title.to_owned(), claimed.to_owned()];
        for (at, (name, figures)) in values.iter().enumerate() {
            self.recorder.add(&case, name, metric, figures);
            let figure = format!("{:.1}", median(figures.iter().copied()));
            if at == 0 {
                row.push(figure);
            } else {
                let cascade = &values[0].1;
                self.recorder.add_ratio(&case, (CASCADE, cascade), (name, figures), metric);
                row.push(format!("{figure} ({:.1})", ratio(cascade, figures)));
            }
        }
        row.resize(6, String::new());
        table::row(row);
    }
}

fn main() {
    let args = Args::parse();
    // As a test everything runs once and small.
    let bench = args.is_bench();
    let sizes = args.numbers("--peers", if bench { &[200, 10_000] } else { &[50] });
    if args.words().any(|word| args.value("--peers") != Some(word)) {
        // A filter for the other benches that the same command runs: nothing here has such a name.
        return;
    }
    args.check(&["--peers"], &[]);
    let rounds = if bench { ROUNDS } else { 1 };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let mut recorder = Recorder::new("timecoin_claims", rounds);
    for peers in sizes {
        println!("\n{peers} peers\n");
        table::header(&["", "claimed", CASCADE, UNIFIED, BY_KEY, BY_HANDLE]);
        let mut report = Report { recorder: &mut recorder, peers };
        counts(&mut report, &runtime);
        memory(&mut report, &runtime);
        sweeps(&mut report, &runtime, rounds);
        marks(&mut report, &runtime, rounds);
    }
    println!(
        "\nSweeps: the mean of ten, 30 s apart. All other peers are seen in between; the late ones are due at the tenth."
    );
    println!(
        "Brackets: how many times as fast as the cascade. Locks and look-ups are counted; of peerpool the locks are"
    );
    println!("those that its pool documents: one shard's read lock a look-up.");
    recorder.finish(&args);
}

/// Keys in the order in which they are inserted.
fn keys<K: Key>(peers: usize) -> Vec<K> {
    // Sixteen in each /24.
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
fn counts(report: &mut Report<'_>, runtime: &tokio::runtime::Runtime) {
    async fn of<S: Structure<CountedKey, ()>>(peers: usize) -> [Counts; 2] {
        let now = Instant::now();
        let structure: S = filled::<CountedKey, S>(peers, now).await;
        let key = keys::<CountedKey>(peers)[peers / 2];
        counting_locks::take();
        assert!(structure.send(&key, &MESSAGE).await);
        let send = counting_locks::take();
        assert!(structure.peer_seen(&key, now).await);
        [send, counting_locks::take()]
    }
    let peers = report.peers;
    let cascade = runtime.block_on(of::<Cascade<CountedKey, ()>>(peers));
    let unified = runtime.block_on(of::<Unified<CountedKey, ()>>(peers));
    let pool: PoolStructure<CountedKey> = PoolStructure::filled(infos(peers));
    let key = keys::<CountedKey>(peers)[peers / 2];
    counting_locks::take();
    let peer = pool.get(&key).expect("it is pooled");
    let get = counting_locks::take().look_ups;
    assert!(pool.seen(&key, 1));
    let seen = counting_locks::take().look_ups;
    assert!(PoolStructure::mark(&peer, 2));
    let by_handle = counting_locks::take().look_ups;
    let row = |title: &str, claimed: &str, of_legacy: &dyn Fn(Counts) -> u64, at: usize, ours: [u64; 2]| {
        let legacy = [cascade[at], unified[at]].map(of_legacy);
        let figures = [legacy[0], legacy[1], ours[0], ours[1]].map(|figure| figure.to_string());
        table::row([&[title.to_owned(), claimed.to_owned()][..], &figures].concat());
    };
    let look_ups = |counts: Counts| counts.look_ups;
    let map_locks = |counts: Counts| counts.map_locks;
    row("locks of maps a send, its mark included", "3 to 1", &map_locks, 0, [get, 0]);
    row("locks of connections a send", "", &|counts| counts.connection_locks, 0, [0, 0]);
    row("look-ups a send, its mark included", "2-3 to 1", &look_ups, 0, [get, by_handle]);
    row("locks a `peer_seen`", "", &map_locks, 1, [seen, 0]);
    row("look-ups a `peer_seen`", "", &look_ups, 1, [seen, by_handle]);
}

/// Bytes that hold a connection, the peer's info and its texts included.
fn memory(report: &mut Report<'_>, runtime: &tokio::runtime::Runtime) {
    fn bytes<T>(peers: usize, fill: impl FnOnce() -> T) -> Vec<f64> {
        let region = Region::new(ALLOCATOR);
        let kept = fill();
        let change = region.change();
        drop(kept);
        vec![(change.bytes_allocated - change.bytes_deallocated) as f64 / peers as f64]
    }
    let (now, peers) = (Instant::now(), report.peers);
    let cascade = bytes(peers, || runtime.block_on(filled::<IpAddr, Cascade<IpAddr, ()>>(peers, now)));
    let unified = bytes(peers, || runtime.block_on(filled::<IpAddr, Unified<IpAddr, ()>>(peers, now)));
    let pool = bytes(peers, || PoolStructure::<IpAddr>::filled(infos(peers)));
    let values = [(CASCADE, cascade), (UNIFIED, unified), (BY_KEY, pool)];
    report.add("bytes a connection", "-31 %", "bytes_per_connection", &values);
}

/// Removes the peers that were not seen for long: ten sweeps a round, before each of which all
/// other peers are seen.
fn sweeps(report: &mut Report<'_>, runtime: &tokio::runtime::Runtime, rounds: usize) {
    let (begin, peers) = (Instant::now(), report.peers);
    let cascade: Cascade<IpAddr, ()> = runtime.block_on(filled(peers, begin));
    let unified: Unified<IpAddr, ()> = runtime.block_on(filled(peers, begin));
    let pool = PoolStructure::<IpAddr>::filled(infos(peers));
    pool.scatter(&shuffled(keys(peers), 0xD1CE));
    let keys = shuffled(keys::<IpAddr>(peers), 0xBEEF);
    // Sweeps before the present situation: time never goes back.
    let mut before = 0;
    for (title, metric, tenth_is_late) in [
        ("sweep, nobody stale, ns a peer", "sweep_nobody_stale_ns_per_peer", false),
        ("sweep, one in ten stale, ns a peer", "sweep_tenth_stale_ns_per_peer", true),
    ] {
        let times = interleave(3, rounds, |at, round| {
            let is_late = |n: usize| tenth_is_late && n % 10 == round % 10;
            let side = |late: bool| -> Vec<IpAddr> {
                let keys = keys.iter().enumerate().filter(|(n, _)| is_late(*n) == late);
                keys.map(|(_, key)| *key).collect()
            };
            let (seen, late) = (side(false), side(true));
            let first = before + round as u32 * SWEEPS;
            let took: Duration = (0..SWEEPS)
                .map(|n| {
                    // The late peers were last seen when the round began: too long ago at its last
                    // sweep.
                    let at_tick = begin + SWEEP_PERIOD * (first + n);
                    let late = if n + 1 == SWEEPS { &late[..] } else { &[] };
                    let extra = if late.is_empty() { Duration::ZERO } else { SWEEP_PERIOD };
                    let sweep = Sweep {
                        seen: &seen,
                        late,
                        seen_at: at_tick,
                        now: at_tick + SWEEP_PERIOD / 2 + extra,
                    };
                    match at {
                        0 => sweep.run(runtime, &cascade),
                        1 => sweep.run(runtime, &unified),
                        _ => {
                            let ticks = [sweep.seen_at, sweep.now].map(|at| (at - begin).as_millis() as u64);
                            pool.swept((sweep.seen, sweep.late), ticks)
                        }
                    }
                })
                .sum();
            took.as_nanos() as f64 / f64::from(SWEEPS) / peers as f64
        });
        before += rounds as u32 * SWEEPS;
        let [cascade, unified, pool] = <[Vec<f64>; 3]>::try_from(times).expect("three contenders");
        report.add(title, "3x faster", metric, &[(CASCADE, cascade), (UNIFIED, unified), (BY_KEY, pool)]);
    }
}

/// One sweep: who is seen before it and when, who is late, and when the sweep takes place.
#[derive(Clone, Copy)]
struct Sweep<'a> {
    seen: &'a [IpAddr],
    late: &'a [IpAddr],
    seen_at: Instant,
    now: Instant,
}

impl Sweep<'_> {
    /// How long the sweep takes that removes exactly the late peers. They are inserted again
    /// afterwards.
    fn run<S: Structure<IpAddr, ()>>(self, runtime: &tokio::runtime::Runtime, structure: &S) -> Duration {
        runtime.block_on(async {
            for key in self.seen {
                assert!(structure.peer_seen(key, self.seen_at).await);
            }
            let since = Instant::now();
            let gone = structure.sweep(self.now, STALE_AFTER).await;
            let took = since.elapsed();
            assert_eq!(gone, self.late.len());
            for key in self.late {
                structure.insert(*key, PeerInfo::new(*key), (), self.seen_at).await;
            }
            took
        })
    }
}

/// Marks peers as seen, on one thread and on two.
fn marks(report: &mut Report<'_>, runtime: &tokio::runtime::Runtime, rounds: usize) {
    let (begin, peers) = (Instant::now(), report.peers);
    let cascade: Cascade<IpAddr, ()> = runtime.block_on(filled(peers, begin));
    let unified: Unified<IpAddr, ()> = runtime.block_on(filled(peers, begin));
    let pool = PoolStructure::<IpAddr>::filled(infos(peers));
    // Not in the order of insertion, in which the entries may lie in memory.
    let keys = shuffled(keys::<IpAddr>(peers), 0xBEEF);
    let handles: Vec<_> = keys.iter().filter_map(|key| pool.get(key)).collect();
    // Rises with every turn, so that every mark has something to write: the last two contenders
    // mark the same peers.
    let mut from = 0;
    for threads in [1, 2] {
        let times = interleave(4, rounds, |at, _| {
            from += MARKS as u64;
            let took = on_threads(threads, |thread| {
                let share = peers / threads;
                let (keys, handles) = (&keys[share * thread..][..share], &handles[share * thread..][..share]);
                match at {
                    0 => marked(&cascade, keys, begin),
                    1 => marked(&unified, keys, begin),
                    2 => timed(|| {
                        for (n, key) in keys.iter().cycle().take(MARKS).enumerate() {
                            assert!(pool.seen(key, from + n as u64));
                        }
                    }),
                    _ => timed(|| {
                        for (n, peer) in handles.iter().cycle().take(MARKS).enumerate() {
                            assert!(PoolStructure::mark(peer, from + n as u64));
                        }
                    }),
                }
            });
            took / MARKS as f64
        });
        let [cascade, unified, by_key, by_handle] =
            <[Vec<f64>; 4]>::try_from(times).expect("four contenders");
        let values = [(CASCADE, cascade), (UNIFIED, unified), (BY_KEY, by_key), (BY_HANDLE, by_handle)];
        let (title, metric) =
            (format!("`peer_seen`, {threads} thread(s), ns"), format!("peer_seen_{threads}_threads_ns"));
        report.add(&title, "67 % faster", &metric, &values);
    }
}

fn marked<S: Structure<IpAddr, ()>>(structure: &S, keys: &[IpAddr], from: Instant) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let since = Instant::now();
        for (n, key) in keys.iter().cycle().take(MARKS).enumerate() {
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

/// Runs on `threads` threads at once; the mean of their results.
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
        running.into_iter().map(|thread| thread.join().expect("a marking thread")).sum::<f64>()
            / threads as f64
    })
}
