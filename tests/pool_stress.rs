//! Several threads use one pool at random; at the end all counts add up exactly.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use peerpool::pool::{ConnectionHandle, DisconnectReason, Limits, Misbehavior, Pool, PoolConfig, SlotClass};
use peerpool::{Direction, Tick};

const KEYS: u64 = 64;
const ROUNDS: u64 = 20_000;
const THREADS: u64 = 4;

#[derive(Default)]
struct Lifecycle {
    made: AtomicU64,
    closed: AtomicU64,
    dropped: AtomicU64,
}

struct TestConnection {
    lifecycle: Arc<Lifecycle>,
    closed: AtomicUsize,
}

impl TestConnection {
    fn new(lifecycle: &Arc<Lifecycle>) -> Self {
        lifecycle.made.fetch_add(1, Ordering::Relaxed);
        Self { lifecycle: Arc::clone(lifecycle), closed: AtomicUsize::new(0) }
    }
}

impl ConnectionHandle for TestConnection {
    type Info = u64;

    fn close(&self, _reason: DisconnectReason) {
        assert_eq!(self.closed.fetch_add(1, Ordering::SeqCst), 0, "closed twice");
        self.lifecycle.closed.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for TestConnection {
    fn drop(&mut self) {
        self.lifecycle.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

fn addr(key: u64) -> SocketAddr {
    SocketAddr::from(([10, 1, (key / 16) as u8, (key / 2) as u8], key as u16))
}

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state >> 8
}

#[derive(Default)]
struct Sums {
    inserted: AtomicU64,
    removed: AtomicU64,
    swept: AtomicU64,
}

fn run_random_operations(
    pool: &Arc<Pool<u64, TestConnection>>,
    lifecycle: &Arc<Lifecycle>,
    sums: &Sums,
    clock: &AtomicU64,
    seed: u64,
) {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    for _ in 0..ROUNDS {
        let now = Tick::from_millis(clock.fetch_add(1, Ordering::Relaxed));
        let key = random(&mut state) % KEYS;
        let inserted = |count: u64| {
            sums.inserted.fetch_add(count, Ordering::Relaxed);
        };
        let removed = |count: u64| {
            sums.removed.fetch_add(count, Ordering::Relaxed);
        };
        match random(&mut state) % 10 {
            0 => inserted(
                pool.insert(key, addr(key), Direction::Inbound, TestConnection::new(lifecycle), 0, now)
                    .is_ok()
                    .into(),
            ),
            1 | 2 => {
                let deadline = now.after(Duration::from_millis(random(&mut state) % 40));
                let Ok(permit) = pool.admit(addr(key), Direction::Outbound, SlotClass::Ordinary, deadline)
                else {
                    continue;
                };
                let Ok(claim) = permit.claim(key) else { continue };
                let Ok(claim) = claim.rekey(random(&mut state) % KEYS) else { continue };
                inserted(claim.go_live(TestConnection::new(lifecycle), 0, now).is_ok().into());
            }
            3 => removed(pool.remove_current(&key, DisconnectReason::Requested).is_some().into()),
            4 => {
                let Some(peer) = pool.get(&key) else { continue };
                removed(pool.remove(&key, peer.id(), DisconnectReason::Lost).is_some().into());
                removed(pool.remove(&key, peer.id(), DisconnectReason::Lost).is_some().into());
            }
            5 => {
                let (Some(peer), Ok(permit)) = (
                    pool.get(&key),
                    pool.admit(
                        addr(key + 1),
                        Direction::Inbound,
                        SlotClass::Ordinary,
                        now.after(Duration::from_secs(1)),
                    ),
                ) else {
                    continue;
                };
                let replaced = permit.replace(&key, peer.id(), TestConnection::new(lifecycle), 1, now);
                inserted(replaced.is_ok().into());
                removed(replaced.is_ok().into());
            }
            6 => {
                let swept = pool.sweep_shard(random(&mut state) as usize, now);
                sums.swept.fetch_add(swept.removed.len() as u64, Ordering::Relaxed);
            }
            7 => {
                for peer in pool.by_ip(addr(key).ip()) {
                    let _ = (peer.seen(now), peer.penalize(Misbehavior::ALL[(key % 13) as usize], now));
                    peer.update_info(|info| info + 1);
                }
            }
            8 => assert!(pool.roster().iter().count() <= KEYS as usize),
            _ => drop((pool.seen(&key, now), pool.reward(&key, now))),
        }
    }
}

#[test]
fn concurrent_operations_add_up() {
    let mut config = PoolConfig::test();
    config.liveness.stale_after = Duration::from_millis(300);
    config.limits = Limits {
        max_inbound: 40,
        max_outbound: 20,
        max_per_source: 3,
        max_per_subnet: 12,
        floor: 0,
        ..config.limits
    };
    let pool = Pool::new(config);
    let (lifecycle, sums, clock, over) =
        (Arc::new(Lifecycle::default()), Sums::default(), AtomicU64::new(1), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let workers: Vec<_> = (1..=THREADS)
            .map(|seed| {
                scope.spawn({
                    let (pool, lifecycle, sums, clock) = (&pool, &lifecycle, &sums, &clock);
                    move || run_random_operations(pool, lifecycle, sums, clock, seed)
                })
            })
            .collect();
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let counts = pool.admission();
                assert!(counts.live_inbound + counts.pending_inbound <= 40, "{counts:?}");
                assert!(counts.live_outbound + counts.pending_outbound <= 20, "{counts:?}");
                assert!((0..KEYS).all(|key| pool.by_ip(addr(key).ip()).len() <= 3));
            }
        });
        let ends: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        // Before anything may panic, or the checking thread would never end.
        over.store(true, Ordering::Relaxed);
        assert!(ends.iter().all(Result::is_ok), "a worker panicked");
    });
    let read = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
    let live = read(&sums.inserted) - read(&sums.removed) - read(&sums.swept);
    let counts = pool.admission();
    assert_eq!((u64::from(counts.live()), counts.pending()), (live, 0));
    assert_eq!((pool.roster().iter().count() as u64, pool.keys().len() as u64), (live, live));
    assert_eq!(pool.stats(Tick::MAX).disconnects.total(), read(&lifecycle.closed));
    assert_eq!(read(&lifecycle.closed), read(&sums.removed) + read(&sums.swept));
    for key in pool.keys() {
        assert!(pool.remove_current(&key, DisconnectReason::Shutdown).is_some());
    }
    assert!((0..=KEYS).all(|key| pool.count_by_ip(addr(key).ip()) == 0));
    drop(pool.roster());
    assert_eq!((pool.len(), read(&lifecycle.closed)), (0, read(&sums.inserted)));
    drop(pool);
    assert_eq!(read(&lifecycle.made), read(&lifecycle.dropped), "a connection leaked");
}
