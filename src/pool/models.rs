//! Loom models of the shipped pool: every interleaving of a few threads, up to three preemptions.
//!
//! `RUSTFLAGS="--cfg peerpool_loom" CARGO_TARGET_DIR=target/loom cargo test --release --lib --no-default-features models`
#![expect(clippy::unwrap_used, reason = "helpers of models fail the model")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use loom::thread;

use super::*;
use crate::base::{Direction, Tick};

/// Counts how often it was closed. Not one of loom's atomics: it only checks.
#[derive(Clone, Default)]
struct Line(Arc<AtomicUsize>);

impl Line {
    fn closed(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl ConnectionHandle for Line {
    type Info = ();

    fn close(&self, _reason: DisconnectReason) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

type TestPool = Pool<u8, Line>;
type TestPeer = Arc<Peer<u8, Line>>;

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

fn permit(pool: &Arc<TestPool>) -> Permit<u8, Line> {
    pool.admit(addr(), Direction::Inbound, SlotClass::Ordinary, at(100)).unwrap()
}

fn insert(pool: &TestPool, key: u8, line: &Line) -> Result<TestPeer, InsertError<Line>> {
    pool.insert(key, addr(), Direction::Inbound, line.clone(), (), at(1))
}

/// Everything that counts agrees on who is live, and nothing is pending.
fn settled(pool: &TestPool, live: &[&TestPeer]) {
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
fn a_late_frame_beats_the_reaper_or_is_told() {
    model(3, || {
        let (pool, line) = (pool(), Line::default());
        let peer = insert(&pool, 1, &line).unwrap();
        let reader = {
            let peer = Arc::clone(&peer);
            thread::spawn(move || peer.seen(at(20)))
        };
        let swept = pool.sweep(at(20));
        let outcome = reader.join().unwrap();
        match swept.removed.len() {
            0 => {
                assert_eq!(outcome, SeenOutcome::Alive);
                settled(&pool, &[&peer]);
                assert_eq!(line.closed(), 0);
            }
            _ => {
                assert_eq!(outcome, SeenOutcome::Disconnected);
                settled(&pool, &[]);
                assert_eq!(line.closed(), 1);
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
        let peer = ours.or(theirs).map(|claim| claim.go_live(Line::default(), (), at(1)).unwrap()).unwrap();
        settled(&pool, &[&peer]);
    });
}

#[test]
fn a_revocation_and_a_commit_exclude_each_other() {
    model(3, || {
        let (pool, line) = (pool(), Line::default());
        let claim = permit(&pool).claim(1).unwrap();
        let reaper = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || pool.sweep_shard(0, at(100)).revoked.len())
        };
        let live = claim.go_live(line.clone(), (), at(100));
        let revoked = reaper.join().unwrap();
        match live {
            Ok(peer) => {
                assert_eq!(revoked, 0);
                settled(&pool, &[&peer]);
            }
            Err(error) => {
                assert_eq!((revoked, error.cause), (1, CommitFailure::Revoked));
                settled(&pool, &[]);
                assert!(!pool.contains(&1) && permit(&pool).claim(1).is_ok(), "the key is free");
            }
        }
        assert_eq!(line.closed(), 0);
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
        // The handshake hangs and holds its token: slot and key are free all the same.
        settled(&pool, &[]);
        let peer = insert(&pool, 1, &Line::default()).unwrap();
        drop(claim);
        settled(&pool, &[&peer]);
    });
}

#[test]
fn tearing_down_g_leaves_g_plus_one_alone() {
    model(2, || {
        let (pool, old, new) = (pool(), Line::default(), Line::default());
        let first = insert(&pool, 1, &old).unwrap();
        let undertaker = {
            let (pool, id) = (Arc::clone(&pool), first.id());
            thread::spawn(move || pool.remove(&1, id, DisconnectReason::Lost).is_some())
        };
        // Two who want G gone, and one of them brings G + 1.
        let ours = pool.remove(&1, first.id(), DisconnectReason::Requested).is_some();
        let second = insert(&pool, 1, &new).unwrap();
        let theirs = undertaker.join().unwrap();
        assert!(ours ^ theirs, "exactly one departs G");
        settled(&pool, &[&second]);
        assert_eq!((old.closed(), new.closed()), (1, 0));
        assert!(pool.remove(&1, first.id(), DisconnectReason::Lost).is_none());
    });
}

#[test]
fn a_replacement_and_a_departure_agree_on_the_old_one() {
    model(2, || {
        let (pool, old, new) = (pool(), Line::default(), Line::default());
        let first = insert(&pool, 1, &old).unwrap();
        let permit = permit(&pool);
        let undertaker = {
            let (pool, id) = (Arc::clone(&pool), first.id());
            thread::spawn(move || pool.remove(&1, id, DisconnectReason::Lost).is_some())
        };
        let replaced = permit.replace(&1, first.id(), new.clone(), (), at(2));
        let departed = undertaker.join().unwrap();
        match replaced {
            Ok(both) => {
                assert!(!departed);
                settled(&pool, &[&both.new]);
            }
            Err(error) => {
                assert!(departed && error.cause == ReplaceFailure::NotFound);
                drop(error);
                settled(&pool, &[]);
            }
        }
        assert_eq!((old.closed(), new.closed()), (1, 0));
    });
}

#[test]
fn a_peer_that_departs_while_it_is_announced_leaves_nothing() {
    model(3, || {
        let (pool, line) = (pool(), Line::default());
        let remover = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || pool.remove_current(&1, DisconnectReason::Requested).is_some())
        };
        let peer = insert(&pool, 1, &line).unwrap();
        if remover.join().unwrap() {
            settled(&pool, &[]);
        } else {
            settled(&pool, &[&peer]);
        }
    });
}

#[test]
fn a_roster_contains_whose_insert_returned() {
    model(3, || {
        let pool = pool();
        let other = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || {
                let peer = insert(&pool, 1, &Line::default()).unwrap();
                assert!(pool.roster().iter().any(|found| Arc::ptr_eq(found, &peer)));
            })
        };
        let peer = insert(&pool, 2, &Line::default()).unwrap();
        assert!(pool.roster().iter().any(|found| Arc::ptr_eq(found, &peer)));
        other.join().unwrap();
        assert_eq!(pool.roster().iter().count(), 2);
    });
}

#[test]
fn a_peer_that_joins_beside_a_sweep_is_judged_by_the_next() {
    model(3, || {
        let pool = pool();
        insert(&pool, 1, &Line::default()).unwrap();
        // Published: from here the sweep may believe that its list is the newest.
        drop(pool.roster());
        let other = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || drop(insert(&pool, 2, &Line::default()).unwrap()))
        };
        let first = pool.sweep_shard(0, at(20)).removed.len();
        other.join().unwrap();
        assert_eq!((first + pool.sweep_shard(0, at(20)).removed.len(), pool.len()), (2, 0));
    });
}

#[test]
fn nothing_enters_once_close_has_returned() {
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
        let live = claim.go_live(Line::default(), (), at(1));
        let there = closer.join().unwrap();
        assert_eq!(live.is_ok(), pool.contains(&1));
        assert_eq!(there, live.is_ok(), "it entered after close had returned");
        assert_eq!((pool.len(), pool.admission().pending()), (usize::from(live.is_ok()), 0));
    });
}

#[test]
fn evictions_at_once_keep_the_floor() {
    model(3, || {
        let pool = pool();
        pool.set_limits(Limits { floor: 1, ..(*pool.limits()).clone() });
        let first = insert(&pool, 1, &Line::default()).unwrap();
        let second = insert(&pool, 2, &Line::default()).unwrap();
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

/// Each limit that may be lowered to one peer.
fn lowered() -> [Limits; 3] {
    let limits = Limits { floor: 0, ..PoolConfig::test().limits };
    [
        Limits { max_per_ip: 1, ..limits.clone() },
        Limits { max_per_subnet: 1, ..limits.clone() },
        Limits { max_inbound: 1, ..limits },
    ]
}

/// Lowers a limit, and trims as a maintenance loop may meanwhile.
fn lower(pool: &Arc<TestPool>, limits: &Limits) -> thread::JoinHandle<()> {
    let (pool, limits) = (Arc::clone(pool), limits.clone());
    thread::spawn(move || {
        pool.set_limits(limits);
        pool.trim(at(1));
    })
}

/// What the trims to come make of it.
fn trimmed(pool: &TestPool) {
    while !pool.trim(at(1)).is_empty() {}
    assert_eq!(pool.len(), 1, "somebody whom the old limits let in is beyond the new ones");
    assert_eq!(pool.crowded.load(crate::sync::atomic::Ordering::Relaxed), 0, "trims find nothing more");
}

#[test]
fn a_trim_beside_a_claim_that_goes_live_leaves_nobody_beyond_the_limit() {
    for limits in lowered() {
        model(3, move || {
            let pool = pool();
            insert(&pool, 1, &Line::default()).unwrap();
            let claim = permit(&pool).claim(2).unwrap();
            let other = lower(&pool, &limits);
            claim.go_live(Line::default(), (), at(1)).unwrap();
            other.join().unwrap();
            trimmed(&pool);
        });
    }
}

#[test]
fn a_trim_beside_a_replacement_leaves_nobody_beyond_the_limit() {
    for limits in lowered() {
        model(2, move || {
            let pool = pool();
            let first = insert(&pool, 1, &Line::default()).unwrap();
            insert(&pool, 2, &Line::default()).unwrap();
            let permit = permit(&pool);
            let other = lower(&pool, &limits);
            let _ = permit.replace(&1, first.id(), Line::default(), (), at(1));
            other.join().unwrap();
            trimmed(&pool);
        });
    }
}

#[test]
fn a_trim_beside_an_admission_leaves_nobody_beyond_the_limit() {
    for limits in lowered() {
        model(3, move || {
            let pool = pool();
            insert(&pool, 1, &Line::default()).unwrap();
            let other = lower(&pool, &limits);
            let permit = pool.admit(addr(), Direction::Inbound, SlotClass::Ordinary, at(100));
            if let Ok(permit) = permit {
                permit.claim(2).unwrap().go_live(Line::default(), (), at(1)).unwrap();
            }
            other.join().unwrap();
            trimmed(&pool);
        });
    }
}

#[test]
fn a_trim_beside_an_insert_leaves_nobody_beyond_the_limit() {
    for limits in lowered() {
        model(3, move || {
            let pool = pool();
            insert(&pool, 1, &Line::default()).unwrap();
            let other = lower(&pool, &limits);
            let _ = insert(&pool, 2, &Line::default());
            other.join().unwrap();
            trimmed(&pool);
        });
    }
}

#[test]
fn penalties_at_once_count_each_cause_once() {
    model(3, || {
        let pool = pool();
        let peer = insert(&pool, 1, &Line::default()).unwrap();
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
fn a_storm_penalises_nobody_whoever_declares_it() {
    model(3, || {
        let pool = pool();
        let first = insert(&pool, 1, &Line::default()).unwrap();
        let second = insert(&pool, 2, &Line::default()).unwrap();
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
fn a_watch_always_learns_what_became_of_the_claim() {
    model(3, || {
        let pool = pool();
        let claim = permit(&pool).claim(1).unwrap();
        let ClaimFailure::Held(ClaimHolder::Claimed { id, watch, .. }) =
            permit(&pool).claim(1).unwrap_err().cause
        else {
            panic!("the key is claimed");
        };
        let waiter = thread::spawn(move || loom::future::block_on(watch));
        let peer = claim.go_live(Line::default(), (), at(1)).unwrap();
        assert_eq!(waiter.join().unwrap(), ClaimOutcome::Live(id));
        assert_eq!(peer.id(), id);
    });
}
