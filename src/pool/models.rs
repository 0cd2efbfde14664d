//! Loom models of the shipped pool: every interleaving of a few threads, up to three preemptions.
//!
//! ```text
//! RUSTFLAGS="--cfg peerpool_loom" CARGO_TARGET_DIR=target/loom \
//!     cargo test --release --lib --features node models
//! ```
#![expect(clippy::unwrap_used, reason = "helpers of models fail the model")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use loom::thread;

use super::*;
use crate::base::{Direction, Tick};

/// Counts how often it was closed. A plain atomic: it only checks, and loom need not explore it.
#[derive(Clone, Default)]
struct TestConnection(Arc<AtomicUsize>);

impl TestConnection {
    fn closed(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl ConnectionHandle for TestConnection {
    type Info = ();

    fn close(&self, _reason: DisconnectReason) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

type TestPool = Pool<u8, TestConnection>;
type TestPeer = Arc<Peer<u8, TestConnection>>;

fn model(preemptions: usize, run: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(run);
}

fn pool() -> Arc<TestPool> {
    let mut config = PoolConfig::test();
    config.liveness.stale_after = Duration::from_millis(10);
    config.health.mass_failure_quorum = 2;
    Pool::new(config)
}

fn at(millis: u64) -> Tick {
    Tick::from_millis(millis)
}

fn addr() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 1))
}

fn permit(pool: &Arc<TestPool>) -> Permit<u8, TestConnection> {
    pool.admit(addr(), Direction::Inbound, SlotClass::Ordinary, at(100)).unwrap()
}

fn insert(pool: &TestPool, key: u8, conn: &TestConnection) -> Result<TestPeer, InsertError<TestConnection>> {
    pool.insert(key, addr(), Direction::Inbound, conn.clone(), (), at(1))
}

/// All counts and indexes agree on the live peers, and nothing is pending.
fn assert_live(pool: &TestPool, live: &[&TestPeer]) {
    let counts = pool.admission();
    assert_eq!((counts.live() as usize, counts.pending()), (live.len(), 0));
    assert_eq!(pool.count_by_ip(addr().ip()), live.len());
    let entries = if live.is_empty() { 0 } else { 2 };
    assert_eq!(pool.addresses.entries(), entries, "an address entry did not vanish");
    let roster = pool.roster();
    assert_eq!(roster.iter().count(), live.len());
    for peer in live {
        assert!(pool.get(peer.key()).is_some_and(|found| Arc::ptr_eq(&found, peer)));
        assert!(roster.iter().any(|found| Arc::ptr_eq(found, peer)));
        assert!(pool.by_ip(addr().ip()).iter().any(|found| Arc::ptr_eq(found, peer)));
    }
}

#[test]
fn a_late_frame_beats_the_reaper_or_finds_the_peer_disconnected() {
    model(3, || {
        let (pool, conn) = (pool(), TestConnection::default());
        let peer = insert(&pool, 1, &conn).unwrap();
        let reader = {
            let peer = Arc::clone(&peer);
            thread::spawn(move || peer.seen(at(20)))
        };
        let swept = pool.sweep(at(20));
        let outcome = reader.join().unwrap();
        match swept.removed.len() {
            0 => {
                assert_eq!(outcome, SeenOutcome::Alive);
                assert_live(&pool, &[&peer]);
                assert_eq!(conn.closed(), 0);
            }
            _ => {
                assert_eq!(outcome, SeenOutcome::Disconnected);
                assert_live(&pool, &[]);
                assert_eq!(conn.closed(), 1);
            }
        }
    });
}

#[test]
fn of_two_claims_for_one_key_one_wins() {
    model(3, || {
        let pool = pool();
        let (first, second) = (permit(&pool), permit(&pool));
        let other = thread::spawn(move || first.claim(1).ok());
        let ours = second.claim(1).ok();
        let theirs = other.join().unwrap();
        assert!(ours.is_some() ^ theirs.is_some(), "ours {ours:?}, theirs {theirs:?}");
        let peer = ours
            .or(theirs)
            .map(|claim| claim.go_live(TestConnection::default(), (), at(1)).unwrap())
            .unwrap();
        assert_live(&pool, &[&peer]);
    });
}

#[test]
fn a_revocation_and_a_commit_exclude_each_other() {
    model(3, || {
        let (pool, conn) = (pool(), TestConnection::default());
        let claim = permit(&pool).claim(1).unwrap();
        let reaper = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || pool.sweep_shard(0, at(100)).revoked.len())
        };
        let live = claim.go_live(conn.clone(), (), at(100));
        let revoked = reaper.join().unwrap();
        match live {
            Ok(peer) => {
                assert_eq!(revoked, 0);
                assert_live(&pool, &[&peer]);
            }
            Err(error) => {
                assert_eq!((revoked, error.cause), (1, CommitFailure::Revoked));
                assert_live(&pool, &[]);
                assert!(!pool.contains(&1) && permit(&pool).claim(1).is_ok(), "the key is free");
            }
        }
        assert_eq!(conn.closed(), 0);
    });
}

#[test]
fn a_revocation_frees_a_key_that_is_just_being_claimed() {
    model(3, || {
        let pool = pool();
        let permit = permit(&pool);
        let reaper = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || pool.sweep_shard(0, at(100)).revoked.len())
        };
        let claim = permit.claim(1);
        assert_eq!(reaper.join().unwrap(), 1);
        // The handshake hangs and holds its token; slot and key are free nevertheless.
        assert_live(&pool, &[]);
        let peer = insert(&pool, 1, &TestConnection::default()).unwrap();
        drop(claim);
        assert_live(&pool, &[&peer]);
    });
}

#[test]
fn tearing_down_a_connection_spares_its_successor() {
    model(2, || {
        let (pool, old, new) = (pool(), TestConnection::default(), TestConnection::default());
        let first = insert(&pool, 1, &old).unwrap();
        let remover = {
            let (pool, id) = (Arc::clone(&pool), first.id());
            thread::spawn(move || pool.remove(&1, id, DisconnectReason::Lost).is_some())
        };
        // Two threads remove the first connection, and one of them inserts the second.
        let ours = pool.remove(&1, first.id(), DisconnectReason::Requested).is_some();
        let second = insert(&pool, 1, &new).unwrap();
        let theirs = remover.join().unwrap();
        assert!(ours ^ theirs, "exactly one thread removes the first connection");
        assert_live(&pool, &[&second]);
        assert_eq!((old.closed(), new.closed()), (1, 0));
        assert!(pool.remove(&1, first.id(), DisconnectReason::Lost).is_none());
    });
}

#[test]
fn a_replacement_and_a_removal_agree_on_the_old_connection() {
    model(2, || {
        let (pool, old, new) = (pool(), TestConnection::default(), TestConnection::default());
        let first = insert(&pool, 1, &old).unwrap();
        let permit = permit(&pool);
        let remover = {
            let (pool, id) = (Arc::clone(&pool), first.id());
            thread::spawn(move || pool.remove(&1, id, DisconnectReason::Lost).is_some())
        };
        let replaced = permit.replace(&1, first.id(), new.clone(), (), at(2));
        let removed = remover.join().unwrap();
        match replaced {
            Ok(both) => {
                assert!(!removed);
                assert_live(&pool, &[&both.new]);
            }
            Err(error) => {
                assert!(removed && error.cause == ReplaceFailure::NotFound);
                drop(error);
                assert_live(&pool, &[]);
            }
        }
        assert_eq!((old.closed(), new.closed()), (1, 0));
    });
}

#[test]
fn a_peer_removed_while_it_is_indexed_leaves_nothing() {
    model(3, || {
        let (pool, conn) = (pool(), TestConnection::default());
        let remover = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || pool.remove_current(&1, DisconnectReason::Requested).is_some())
        };
        let peer = insert(&pool, 1, &conn).unwrap();
        if remover.join().unwrap() {
            assert_live(&pool, &[]);
        } else {
            assert_live(&pool, &[&peer]);
        }
    });
}

#[test]
fn a_roster_contains_peers_whose_insert_returned() {
    model(3, || {
        let pool = pool();
        let other = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || {
                let peer = insert(&pool, 1, &TestConnection::default()).unwrap();
                assert!(pool.roster().iter().any(|found| Arc::ptr_eq(found, &peer)));
            })
        };
        let peer = insert(&pool, 2, &TestConnection::default()).unwrap();
        assert!(pool.roster().iter().any(|found| Arc::ptr_eq(found, &peer)));
        other.join().unwrap();
        assert_eq!(pool.roster().iter().count(), 2);
    });
}

#[test]
fn a_peer_inserted_beside_a_sweep_is_examined_by_the_next() {
    model(3, || {
        let pool = pool();
        insert(&pool, 1, &TestConnection::default()).unwrap();
        // Publishes a list: from here on the sweep may take it for the newest.
        drop(pool.roster());
        let other = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || drop(insert(&pool, 2, &TestConnection::default()).unwrap()))
        };
        let first = pool.sweep_shard(0, at(20)).removed.len();
        other.join().unwrap();
        assert_eq!((first + pool.sweep_shard(0, at(20)).removed.len(), pool.len()), (2, 0));
    });
}

#[test]
fn nothing_goes_live_after_close_returned() {
    model(3, || {
        let pool = pool();
        let claim = permit(&pool).claim(1).unwrap();
        let closer = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || {
                pool.close();
                pool.contains(&1)
            })
        };
        let live = claim.go_live(TestConnection::default(), (), at(1));
        let there = closer.join().unwrap();
        assert_eq!(live.is_ok(), pool.contains(&1));
        assert_eq!(there, live.is_ok(), "it went live after close had returned");
        assert_eq!((pool.len(), pool.admission().pending()), (usize::from(live.is_ok()), 0));
    });
}

#[test]
fn concurrent_evictions_keep_the_floor() {
    model(3, || {
        let pool = pool();
        pool.set_limits(Limits { floor: 1, ..(*pool.limits()).clone() });
        let first = insert(&pool, 1, &TestConnection::default()).unwrap();
        let second = insert(&pool, 2, &TestConnection::default()).unwrap();
        let other = {
            let (pool, id) = (Arc::clone(&pool), first.id());
            thread::spawn(move || {
                matches!(pool.evict(&1, id, DisconnectReason::Banned), EvictOutcome::Evicted(_))
            })
        };
        let ours = matches!(pool.evict(&2, second.id(), DisconnectReason::Banned), EvictOutcome::Evicted(_));
        assert!(ours ^ other.join().unwrap());
        assert_eq!(pool.len(), 1);
    });
}

/// Each limit, lowered to one peer.
fn lowered_limits() -> [Limits; 3] {
    let limits = Limits { floor: 0, ..PoolConfig::test().limits };
    [
        Limits { max_per_source: 1, ..limits.clone() },
        Limits { max_per_subnet: 1, ..limits.clone() },
        Limits { max_inbound: 1, ..limits },
    ]
}

/// Lowers a limit and trims once, in another thread.
fn lower_and_trim(pool: &Arc<TestPool>, limits: &Limits) -> thread::JoinHandle<()> {
    let (pool, limits) = (Arc::clone(pool), limits.clone());
    thread::spawn(move || {
        pool.set_limits(limits);
        pool.trim(at(1));
    })
}

/// Trims until nothing is left to trim, and checks the result.
fn assert_trimmed(pool: &TestPool) {
    while !pool.trim(at(1)).is_empty() {}
    assert_eq!(pool.len(), 1, "a peer admitted by the old limits is beyond the new ones");
    assert_eq!(
        pool.over_limit_mark.load(crate::sync::atomic::Ordering::Relaxed),
        0,
        "a later trim would look again"
    );
}

#[test]
fn a_trim_beside_a_commit_keeps_the_limit() {
    for limits in lowered_limits() {
        model(3, move || {
            let pool = pool();
            insert(&pool, 1, &TestConnection::default()).unwrap();
            let claim = permit(&pool).claim(2).unwrap();
            let other = lower_and_trim(&pool, &limits);
            claim.go_live(TestConnection::default(), (), at(1)).unwrap();
            other.join().unwrap();
            assert_trimmed(&pool);
        });
    }
}

#[test]
fn a_trim_beside_a_replacement_keeps_the_limit() {
    for limits in lowered_limits() {
        model(2, move || {
            let pool = pool();
            let first = insert(&pool, 1, &TestConnection::default()).unwrap();
            insert(&pool, 2, &TestConnection::default()).unwrap();
            let permit = permit(&pool);
            let other = lower_and_trim(&pool, &limits);
            let _ = permit.replace(&1, first.id(), TestConnection::default(), (), at(1));
            other.join().unwrap();
            assert_trimmed(&pool);
        });
    }
}

#[test]
fn a_trim_beside_an_admission_keeps_the_limit() {
    for limits in lowered_limits() {
        model(3, move || {
            let pool = pool();
            insert(&pool, 1, &TestConnection::default()).unwrap();
            let other = lower_and_trim(&pool, &limits);
            let permit = pool.admit(addr(), Direction::Inbound, SlotClass::Ordinary, at(100));
            if let Ok(permit) = permit {
                permit.claim(2).unwrap().go_live(TestConnection::default(), (), at(1)).unwrap();
            }
            other.join().unwrap();
            assert_trimmed(&pool);
        });
    }
}

#[test]
fn a_trim_beside_an_insert_keeps_the_limit() {
    for limits in lowered_limits() {
        model(3, move || {
            let pool = pool();
            insert(&pool, 1, &TestConnection::default()).unwrap();
            let other = lower_and_trim(&pool, &limits);
            let _ = insert(&pool, 2, &TestConnection::default());
            other.join().unwrap();
            assert_trimmed(&pool);
        });
    }
}

#[test]
fn concurrent_penalties_count_each_cause_once() {
    model(3, || {
        let pool = pool();
        let peer = insert(&pool, 1, &TestConnection::default()).unwrap();
        let other = {
            let peer = Arc::clone(&peer);
            thread::spawn(move || {
                let _ = peer.penalize(Misbehavior::Flood, at(1));
                peer.penalize(Misbehavior::Timeout, at(1))
            })
        };
        let ours = peer.penalize(Misbehavior::Timeout, at(1));
        let outcomes = [ours, other.join().unwrap()];
        let again = outcomes.iter().filter(|outcome| **outcome == PenaltyOutcome::AlreadyCounted).count();
        assert_eq!((peer.health(at(1)), again), (70, 1));
    });
}

#[test]
fn a_mass_failure_penalises_no_peer() {
    model(3, || {
        let pool = pool();
        let first = insert(&pool, 1, &TestConnection::default()).unwrap();
        let second = insert(&pool, 2, &TestConnection::default()).unwrap();
        let other = {
            let peer = Arc::clone(&first);
            thread::spawn(move || peer.penalize(Misbehavior::Timeout, at(1)))
        };
        let ours = second.penalize(Misbehavior::Timeout, at(1));
        let theirs = other.join().unwrap();
        assert!([ours, theirs].contains(&PenaltyOutcome::OurFault));
        assert_eq!((first.health(at(1)), second.health(at(1))), (100, 100));
    });
}

#[test]
fn a_watch_always_resolves() {
    model(3, || {
        let pool = pool();
        let claim = permit(&pool).claim(1).unwrap();
        let ClaimFailure::Held(ClaimHolder::Claimed { id, watch, .. }) =
            permit(&pool).claim(1).unwrap_err().cause
        else {
            panic!("the key is claimed");
        };
        let waiter = thread::spawn(move || loom::future::block_on(watch));
        let peer = claim.go_live(TestConnection::default(), (), at(1)).unwrap();
        assert_eq!(waiter.join().unwrap(), ClaimOutcome::Live(id));
        assert_eq!(peer.id(), id);
    });
}
