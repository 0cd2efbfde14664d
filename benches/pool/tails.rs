//! How long the slowest marks and inserts take beside a busy thread.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use peerpool::pool::DisconnectReason;
use peerpool::{PeerId, Tick};

use crate::common::recorder::Recorder;
use crate::common::results::case;
use crate::common::stats::percentile;
use crate::common::table;
use crate::competitors::{TestPool, churn_keys, examine_all, insert, keys, new_pool, shuffle};
use crate::walks::nanoseconds;

/// How long each size is measured.
const TIME: Duration = Duration::from_secs(2);
/// Marks for each insert.
const MARKS_PER_INSERT: usize = 8;
/// Peers of which one is removed and inserted each second.
const CHURN_ONE_IN: usize = 100;
/// Shards swept between two reads of the stats.
const SWEEPS_PER_STATS: usize = 64;

/// Marks by key and inserts beside a thread that sweeps shards without a pause and examines every
/// peer in them, reads the stats, and removes and inserts one peer of a hundred each second. (The
/// maintenance takes a second for all shards.)
pub(crate) fn table(recorder: &mut Recorder, peers: usize) {
    let mut keys = keys(peers, 0x5EED);
    let pool = new_pool(peers);
    keys.iter().for_each(|key| drop(insert(&pool, *key, Tick::ZERO)));
    let late = examine_all(&pool, Tick::ZERO);
    // The silent peers, because of which a sweep examines the others, must stay silent.
    keys.retain(|key| pool.get(key).is_some_and(|peer| !peer.is_paused()));
    let (over, (mut marks, mut inserts)) = (AtomicBool::new(false), (Vec::new(), Vec::new()));
    let (sweeps, churned) = std::thread::scope(|scope| {
        let busy = scope.spawn(|| sweep_and_churn(&pool, &keys, peers, late, &over));
        let (begun, extra) = (Instant::now(), churn_keys(7));
        let mut order = keys.clone();
        shuffle(&mut order, 0xBEEF);
        let mut order = order.iter().cycle();
        while begun.elapsed() < TIME {
            for key in &extra {
                let now = tick(late, begun);
                inserts.push(nanoseconds(&|| drop(insert(&pool, *key, now))) as u64);
                pool.remove_current(key, DisconnectReason::Closed);
                for key in order.by_ref().take(MARKS_PER_INSERT) {
                    marks.push(nanoseconds(&|| _ = black_box(pool.seen(key, now))) as u64);
                }
            }
        }
        over.store(true, Ordering::Relaxed);
        busy.join().expect("the busy thread")
    });
    println!(
        "\n{peers} peers, one thread beside one that swept {sweeps} shards and churned {churned} peers; ns, 20 to 40 of them the clock's\n"
    );
    table::header(&["", "p50", "p99", "p99.9", "longest"]);
    let case = case(&[("peers", &peers)]);
    for (title, name, waits) in
        [("mark by key", "mark_by_key", &mut marks), ("insert", "insert", &mut inserts)]
    {
        let figures: Vec<f64> = [("p50", 0.5), ("p99", 0.99), ("p999", 0.999), ("longest", 1.0)]
            .into_iter()
            .map(|(percentile_name, share)| {
                let value = percentile(waits, share);
                recorder.add(&case, "pool", &format!("{name}_beside_busy_{percentile_name}_ns"), &[value]);
                value
            })
            .collect();
        table::numbers(title, &figures, 0);
    }
}

fn tick(late: Tick, begun: Instant) -> Tick {
    Tick::from_millis(late.as_millis() + begun.elapsed().as_millis() as u64)
}

/// How many shards were swept, and how many peers were removed and inserted.
fn sweep_and_churn(
    pool: &TestPool,
    keys: &[PeerId],
    peers: usize,
    late: Tick,
    over: &AtomicBool,
) -> (usize, usize) {
    let begun = Instant::now();
    let (mut sweeps, mut churned) = (0usize, 0usize);
    while !over.load(Ordering::Relaxed) {
        let now = tick(late, begun);
        black_box(pool.sweep_shard(sweeps % pool.roster_shard_count(), now));
        sweeps += 1;
        if sweeps.is_multiple_of(SWEEPS_PER_STATS) {
            black_box(pool.stats(now));
        }
        while churned < (begun.elapsed().as_secs_f64() * peers as f64 / CHURN_ONE_IN as f64) as usize {
            let key = &keys[churned % keys.len()];
            pool.remove_current(key, DisconnectReason::Closed);
            drop(insert(pool, *key, now));
            churned += 1;
        }
    }
    (sweeps, churned)
}
