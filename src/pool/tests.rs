//! Tests of the pool as a whole.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::*;
use crate::base::{ConnId, Direction, Tick};

#[derive(Default)]
struct TestConnection {
    closed: Mutex<Vec<DisconnectReason>>,
}

impl ConnectionHandle for Arc<TestConnection> {
    type Info = u32;

    fn close(&self, reason: DisconnectReason) {
        self.closed.lock().unwrap().push(reason);
    }
}

type TestPool = Pool<u32, Arc<TestConnection>>;

fn at(secs: u64) -> Tick {
    Tick::from_millis(secs * 1_000)
}

fn addr(n: u32) -> SocketAddr {
    SocketAddr::from(((0x0A00_0000 + n).to_be_bytes(), 7_000))
}

fn pool_with(change: impl FnOnce(&mut PoolConfig)) -> Arc<TestPool> {
    let mut config = PoolConfig::test();
    config.limits.floor = 0;
    change(&mut config);
    Pool::new(config)
}

fn pool() -> Arc<TestPool> {
    pool_with(|_| ())
}

fn insert(pool: &TestPool, key: u32, secs: u64) -> Arc<Peer<u32, Arc<TestConnection>>> {
    pool.insert(key, addr(key), Direction::Inbound, Arc::default(), key, at(secs)).unwrap()
}

fn permit(pool: &Arc<TestPool>, key: u32) -> Permit<u32, Arc<TestConnection>> {
    pool.admit(addr(key), Direction::Outbound, SlotClass::Ordinary, at(10)).unwrap()
}

fn is_empty(pool: &TestPool) {
    let counts = pool.admission();
    assert_eq!((counts.live(), counts.pending(), pool.addresses.entries()), (0, 0, 0));
    assert!(pool.pending.iter().all(|pending| pending.lock().is_empty()));
    assert_eq!(pool.roster().iter().count(), 0);
}

#[test]
fn look_ups_marks_and_removal_by_key() {
    let pool = pool();
    let peer = insert(&pool, 1, 5);
    assert_eq!((*peer.key(), peer.addr(), peer.direction()), (1, addr(1), Direction::Inbound));
    assert!(pool.seen(&1, at(8)) && !pool.seen(&2, at(8)));
    assert_eq!(peer.seen(at(11)), SeenOutcome::Alive);
    assert_eq!((peer.last_seen(), peer.connected_at()), (at(11), at(5)));
    assert_eq!(peer.uptime(at(15)), Duration::from_secs(10));
    assert!(peer.is_stale(Duration::from_secs(3), at(15)) && !peer.is_stale(Duration::from_secs(4), at(15)));
    assert_eq!(
        pool.penalize(&1, Misbehavior::Protocol, at(15)),
        Some(PenaltyOutcome::Counted { health: 60 })
    );
    assert!(peer.is_healthy(at(15)));
    assert_eq!(pool.penalize(&1, Misbehavior::BadData, at(15)), Some(PenaltyOutcome::Counted { health: 30 }));
    assert!(!peer.is_healthy(at(15)));
    assert_eq!((pool.reward(&1, at(15)), pool.reward(&2, at(15))), (Some(35), None));
    assert!(peer.is_healthy(at(15)));
    insert(&pool, 2, 6);
    let mut keys = pool.keys();
    keys.sort_unstable();
    assert_eq!((keys, pool.len()), (vec![1, 2], 2));
    assert_eq!(pool.remove_current(&1, DisconnectReason::Requested).map(|peer| peer.id()), Some(peer.id()));
    assert_eq!(peer.connection().closed.lock().unwrap().as_slice(), [DisconnectReason::Requested]);
    assert_eq!(peer.disconnect_reason(), Some(DisconnectReason::Requested));
    assert!(pool.get(&1).is_none() && !pool.contains(&1) && pool.by_ip(addr(1).ip()).is_empty());
    assert_eq!(pool.sweep(at(200)).removed.len(), 1);
    is_empty(&pool);
}

#[test]
fn concurrent_info_updates_are_not_lost() {
    let pool = pool();
    let peer = insert(&pool, 0, 1);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..1_000).for_each(|_| peer.update_info(|info| info + 1)));
        }
    });
    peer.update_info(|info| info + 5);
    assert_eq!((*peer.info(), peer.read_info(|info| *info)), (4_005, 4_005));
}

#[test]
fn insert_under_a_held_key_returns_connection_and_slot() {
    let pool = pool();
    let peer = insert(&pool, 1, 1);
    let conn = Arc::new(TestConnection::default());
    let error = pool.insert(1, addr(9), Direction::Inbound, Arc::clone(&conn), 77, at(2)).unwrap_err();
    assert!(Arc::ptr_eq(&error.conn, &conn) && error.info == 77);
    assert_eq!(error.cause, InsertFailure::KeyHeld(peer.id()));
    assert!(conn.closed.lock().unwrap().is_empty());
    assert_eq!((pool.len(), pool.count_by_ip(addr(9).ip())), (1, 0));
}

#[test]
fn dropping_any_token_releases_everything() {
    let pool = pool();
    drop(permit(&pool, 1));
    is_empty(&pool);
    drop(permit(&pool, 1).claim(1).unwrap());
    is_empty(&pool);
    let claim = permit(&pool, 1).claim(1).unwrap().rekey(2).unwrap();
    assert_eq!((claim.key(), pool.admission().pending_outbound), (&2, 1));
    let freed = permit(&pool, 2).claim(1).unwrap().release_key();
    let error = freed.claim(2).unwrap_err();
    assert!(matches!(error.cause, ClaimFailure::Held(ClaimHolder::Claimed { id, .. }) if id == claim.id()));
    drop((error, claim));
    is_empty(&pool);
    let peer = permit(&pool, 3).claim(3).unwrap().go_live(Arc::default(), 0, at(1)).unwrap();
    assert_eq!((pool.admission().live_outbound, pool.admission().pending()), (1, 0));
    let error = permit(&pool, 4).claim(4).unwrap().rekey(3).unwrap_err();
    assert!(matches!(&error.cause, ClaimFailure::Held(ClaimHolder::Live(held)) if Arc::ptr_eq(held, &peer)));
    drop(error);
    assert!(pool.remove(&3, peer.id(), DisconnectReason::Closed).is_some());
    is_empty(&pool);
}

#[test]
fn a_panic_in_a_handshake_releases_everything() {
    let pool = pool();
    let claim = permit(&pool, 1).claim(1).unwrap();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _claim = claim;
        std::panic::resume_unwind(Box::new("the handshake panics"));
    }));
    assert!(panicked.is_err());
    is_empty(&pool);
}

#[test]
fn the_sweep_revokes_at_the_deadline() {
    let pool = pool();
    let claim = permit(&pool, 1).claim(1).unwrap();
    assert!(pool.sweep(Tick::from_millis(9_999)).revoked.is_empty());
    assert_eq!(pool.sweep(at(10)).revoked, [claim.id()]);
    is_empty(&pool);
    let peer = insert(&pool, 1, 10);
    assert!(claim.is_revoked());
    let error = claim.go_live(Arc::default(), 5, at(11)).unwrap_err();
    assert_eq!((error.cause, error.info), (CommitFailure::Revoked, 5));
    assert!(pool.get(&1).is_some_and(|held| Arc::ptr_eq(&held, &peer)));
    let late = permit(&pool, 2);
    assert_eq!(pool.sweep(at(10)).revoked.len(), 1);
    let error = late.claim(2).unwrap_err();
    assert!(matches!(error.cause, ClaimFailure::Revoked));
    drop(error);
    assert_eq!((pool.len(), pool.admission().pending(), pool.stats(at(11)).revoked), (1, 0, 2));
}

#[test]
fn removal_by_id_spares_other_connections() {
    let pool = pool();
    let first = insert(&pool, 1, 1);
    assert!(pool.remove(&1, first.id(), DisconnectReason::Lost).is_some());
    let second = insert(&pool, 1, 2);
    assert!(pool.remove(&1, first.id(), DisconnectReason::Lost).is_none());
    assert!(pool.remove(&1, ConnId::new(9_999).unwrap(), DisconnectReason::Lost).is_none());
    assert!(second.is_live() && pool.contains(&1));
    assert_eq!(first.connection().closed.lock().unwrap().len(), 1);
}

#[test]
fn a_replacement_is_one_step_and_returns_everything_when_too_late() {
    let pool = pool();
    let old = insert(&pool, 1, 1);
    let swapped = permit(&pool, 8).replace(&1, old.id(), Arc::default(), 8, at(3)).unwrap();
    assert_eq!(old.disconnect_reason(), Some(DisconnectReason::Replaced));
    assert_eq!(old.connection().closed.lock().unwrap().as_slice(), [DisconnectReason::Replaced]);
    assert!(pool.get(&1).is_some_and(|peer| Arc::ptr_eq(&peer, &swapped.new)));
    let counts = pool.admission();
    assert_eq!((counts.live_inbound, counts.live_outbound, counts.pending()), (0, 1, 0));
    let error = permit(&pool, 9).replace(&1, old.id(), Arc::default(), 9, at(4)).unwrap_err();
    assert_eq!((error.cause, error.info), (ReplaceFailure::NotFound, 9));
    let again = error.permit.replace(&1, swapped.new.id(), Arc::default(), 9, at(4));
    assert!(again.is_ok_and(|both| both.new.addr() == addr(9)));
    assert_eq!((pool.len(), pool.count_by_ip(addr(8).ip()), pool.roster().iter().count()), (1, 0, 1));
}

#[test]
fn limits_refuse_in_order_and_reserved_slots_skip_address_limits() {
    let pool = pool_with(|config| {
        config.limits = Limits {
            max_inbound: 5,
            max_per_source: 1,
            max_per_subnet: 2,
            reserved_inbound: 2,
            ..Limits::default()
        };
    });
    let admit = |n, slot| pool.admit(addr(n), Direction::Inbound, slot, at(9));
    let mut held = vec![admit(1, SlotClass::Ordinary).unwrap(), admit(2, SlotClass::Ordinary).unwrap()];
    assert_eq!(admit(1, SlotClass::Ordinary).unwrap_err(), AdmitError::PerSource);
    assert_eq!(admit(3, SlotClass::Ordinary).unwrap_err(), AdmitError::PerSubnet);
    held.push(admit(1, SlotClass::Reserved).unwrap());
    held.push(admit(0x100, SlotClass::Ordinary).unwrap());
    assert_eq!(admit(0x200, SlotClass::Ordinary).unwrap_err(), AdmitError::Full(Direction::Inbound));
    held.push(admit(0x200, SlotClass::Reserved).unwrap());
    assert_eq!(admit(0x300, SlotClass::Reserved).unwrap_err(), AdmitError::Full(Direction::Inbound));
    let refused = pool.stats(at(1)).refused;
    assert_eq!((refused.per_source, refused.per_subnet, refused.full), (1, 1, 2));
    drop(held);
    is_empty(&pool);
}

#[test]
fn an_ipv6_slash_64_is_one_source_and_its_slash_48_a_site() {
    let pool = pool_with(|config| {
        config.limits.max_per_source = 2;
        config.limits.max_per_site = 3;
    });
    let admit =
        |text: &str| pool.admit(text.parse().unwrap(), Direction::Inbound, SlotClass::Ordinary, at(9));
    let mut held = vec![admit("[2001:db8:1:1::1]:1").unwrap(), admit("[2001:db8:1:1::2]:1").unwrap()];
    assert_eq!(admit("[2001:db8:1:1::3]:1").unwrap_err(), AdmitError::PerSource);
    held.push(admit("[2001:db8:1:2::1]:1").unwrap());
    assert_eq!(admit("[2001:db8:1:3::1]:1").unwrap_err(), AdmitError::PerSubnet);
    held.push(admit("[::ffff:10.9.8.7]:5").unwrap());
    assert_eq!(pool.count_by_ip("10.9.8.7".parse::<IpAddr>().unwrap()), 1);
    drop(held);
    is_empty(&pool);
}

#[test]
fn look_up_by_ip_finds_all_connections() {
    let pool = pool();
    let from = |port: u16| SocketAddr::new(addr(1).ip(), port);
    for port in 1..=40u16 {
        pool.insert(u32::from(port), from(port), Direction::Inbound, Arc::default(), 0, at(1)).unwrap();
    }
    assert_eq!(pool.by_ip(addr(1).ip()).len(), 40);
    for port in 1..=40u32 {
        pool.remove_current(&port, DisconnectReason::Closed).unwrap();
        assert_eq!(pool.by_ip(addr(1).ip()).len(), 40 - port as usize);
    }
    is_empty(&pool);
}

#[test]
fn a_paused_peer_is_not_examined() {
    let pool = pool();
    let (paused, silent) = (insert(&pool, 1, 1), insert(&pool, 2, 1));
    paused.pause();
    assert_eq!(pool.stats(at(500)).stale_connections, 1);
    let swept = pool.sweep(at(500));
    assert!(swept.removed.len() == 1 && Arc::ptr_eq(&swept.removed[0], &silent));
    paused.resume(at(500));
    assert!(pool.sweep(at(580)).removed.is_empty());
    assert_eq!(pool.sweep(at(600)).removed.len(), 1);
}

#[test]
fn a_closed_pool_admits_no_connection_and_removes_peers() {
    let pool = pool();
    let peer = insert(&pool, 1, 1);
    let claim = permit(&pool, 2).claim(2).unwrap();
    let replacing = permit(&pool, 3);
    pool.close();
    let error = claim.go_live(Arc::default(), 2, at(2)).unwrap_err();
    assert_eq!(error.cause, CommitFailure::Closed);
    let error = replacing.replace(&1, peer.id(), Arc::default(), 3, at(2)).unwrap_err();
    assert_eq!(error.cause, ReplaceFailure::Closed);
    drop(error);
    assert_eq!(permit_error(&pool), AdmitError::Closed);
    let error = pool.insert(5, addr(5), Direction::Inbound, Arc::default(), 0, at(2)).unwrap_err();
    assert_eq!(error.cause, InsertFailure::Admit(AdmitError::Closed));
    assert!(pool.remove_current(&1, DisconnectReason::Shutdown).is_some() && pool.is_closed());
    is_empty(&pool);
}

fn permit_error(pool: &Arc<TestPool>) -> AdmitError {
    pool.admit(addr(4), Direction::Inbound, SlotClass::Reserved, at(9)).unwrap_err()
}

#[test]
fn lowered_limits_remove_the_least_healthy_then_the_newest_in_steps() {
    let pool = pool_with(|config| config.limits.trim_step = 2);
    let peers: Vec<_> = (0..10).map(|n| insert(&pool, n * 0x100, u64::from(n))).collect();
    let _ = peers[0].penalize(Misbehavior::Protocol, at(10));
    assert!(pool.trim(at(10)).is_empty());
    pool.set_limits(Limits { max_inbound: 6, floor: 7, trim_step: 2, ..(*pool.limits()).clone() });
    let removed: Vec<_> = pool.sweep(at(10)).removed.iter().map(|peer| peer.connected_at()).collect();
    assert_eq!(removed, [at(0), at(9)]);
    assert_eq!(pool.sweep(at(10)).removed.len(), 1, "the floor is above the limit");
    assert_eq!(pool.len(), 7);
    assert!(matches!(
        pool.evict(peers[3].key(), peers[3].id(), DisconnectReason::Banned),
        EvictOutcome::AtFloor
    ));
    pool.set_limits(Limits { floor: 0, ..(*pool.limits()).clone() });
    assert_eq!((pool.trim(at(10)).len(), pool.trim(at(10)).len(), pool.len()), (1, 0, 6));
    assert_eq!(pool.stats(at(10)).disconnects.of(DisconnectReason::OverLimit), 4);
    assert!(matches!(
        pool.evict(peers[3].key(), peers[3].id(), DisconnectReason::Banned),
        EvictOutcome::Evicted(_)
    ));
    assert!(matches!(
        pool.evict(peers[3].key(), peers[3].id(), DisconnectReason::Banned),
        EvictOutcome::NotFound
    ));
}

#[test]
fn lowered_address_limits_spare_reserved_slots() {
    let pool = pool();
    let from = |n: u16| SocketAddr::new(addr(u32::from(n) / 4).ip(), n);
    for n in 0..16u16 {
        pool.insert(u32::from(n), from(n), Direction::Inbound, Arc::default(), 0, at(1)).unwrap();
    }
    for n in 16..20u16 {
        let permit = pool.admit(from(n), Direction::Inbound, SlotClass::Reserved, at(9)).unwrap();
        permit.claim(u32::from(n)).unwrap().go_live(Arc::default(), 0, at(1)).unwrap();
    }
    pool.set_limits(Limits { max_per_source: 3, ..(*pool.limits()).clone() });
    assert_eq!((pool.sweep(at(2)).removed.len(), pool.len()), (4, 16));
    pool.set_limits(Limits { max_per_subnet: 10, ..(*pool.limits()).clone() });
    assert_eq!((pool.sweep(at(2)).removed.len(), pool.len()), (6, 10));
    assert_eq!(pool.count_by_ip(addr(4).ip()), 4);
}

/// A connection that calls the pool from `close` and from `Drop`.
struct ReentrantConnection {
    pool: Weak<Pool<u32, ReentrantConnection>>,
    key: u32,
    dropped: Arc<AtomicUsize>,
}

impl ReentrantConnection {
    fn reenter(&self) {
        let Some(pool) = self.pool.upgrade() else { return };
        let _ = (pool.get(&self.key), pool.seen(&self.key, at(3)), pool.stats(at(3)));
        let _ = (pool.by_ip(addr(self.key).ip()), pool.roster().iter().count(), pool.sweep(at(3)));
        let _ = pool.remove_current(&(self.key + 1_000), DisconnectReason::Requested);
    }
}

impl ConnectionHandle for ReentrantConnection {
    type Info = ();

    fn close(&self, _reason: DisconnectReason) {
        self.reenter();
    }
}

impl Drop for ReentrantConnection {
    fn drop(&mut self) {
        self.reenter();
        self.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn close_and_drop_of_a_connection_may_re_enter_the_pool() {
    let pool: Arc<Pool<u32, ReentrantConnection>> = Pool::new(PoolConfig::test());
    let dropped = Arc::new(AtomicUsize::new(0));
    let connection =
        |key| ReentrantConnection { pool: Arc::downgrade(&pool), key, dropped: Arc::clone(&dropped) };
    let insert =
        |key: u32| pool.insert(key, addr(key), Direction::Inbound, connection(key), (), at(1)).map(drop);
    for key in 0..300 {
        insert(key).unwrap();
        drop(insert(key).unwrap_err());
    }
    for key in 0..100 {
        drop(pool.remove_current(&key, DisconnectReason::Lost));
    }
    let permit = pool.admit(addr(1), Direction::Inbound, SlotClass::Ordinary, at(9)).unwrap();
    let old = pool.get(&150).unwrap().id();
    drop(permit.replace(&150, old, connection(150), (), at(2)).unwrap());
    drop(pool.sweep(at(500)));
    assert_eq!(pool.len(), 0);
    assert_eq!(pool.roster().len(), 0);
    assert_eq!(dropped.load(Ordering::SeqCst), 601, "a disconnected peer is kept alive");
}

#[test]
fn an_unread_roster_holds_few_disconnected_peers() {
    let pool: Arc<Pool<u32, ReentrantConnection>> = Pool::new(PoolConfig::test());
    let dropped = Arc::new(AtomicUsize::new(0));
    for n in 0..20_000u32 {
        let conn = ReentrantConnection { pool: Weak::new(), key: n, dropped: Arc::clone(&dropped) };
        pool.insert(n, addr(n), Direction::Inbound, conn, (), at(1)).unwrap();
        pool.remove_current(&n, DisconnectReason::Closed).unwrap();
    }
    let pinned = 20_000 - dropped.load(Ordering::SeqCst);
    assert!(pinned <= 64 * pool.roster_shard_count(), "{pinned} disconnected peers are kept alive");
}

#[test]
fn a_panic_in_close_leaves_nothing_behind() {
    struct PanicOnClose;
    impl ConnectionHandle for PanicOnClose {
        type Info = ();
        fn close(&self, _reason: DisconnectReason) {
            std::panic::resume_unwind(Box::new("close panics"));
        }
    }
    let pool: Arc<Pool<u32, PanicOnClose>> = Pool::new(PoolConfig::test());
    pool.insert(1, addr(1), Direction::Inbound, PanicOnClose, (), at(1)).unwrap();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        pool.remove_current(&1, DisconnectReason::Lost)
    }));
    assert!(panicked.is_err());
    assert_eq!((pool.len(), pool.addresses.entries(), pool.contains(&1)), (0, 0, false));
}

#[test]
fn the_next_sweep_completes_one_that_panicked() {
    struct PanicOnClose(u32);
    impl ConnectionHandle for PanicOnClose {
        type Info = ();
        fn close(&self, _reason: DisconnectReason) {
            if self.0 == 0 {
                std::panic::resume_unwind(Box::new("close panics"));
            }
        }
    }
    let pool: Arc<Pool<u32, PanicOnClose>> = Pool::new(PoolConfig::test());
    for key in 0..200 {
        pool.insert(key, addr(key), Direction::Inbound, PanicOnClose(key), (), at(1)).unwrap();
    }
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pool.sweep(at(500))));
    assert!(panicked.is_err());
    drop(pool.sweep(at(500)));
    assert_eq!(pool.len(), 0);
}

#[test]
fn a_shorter_timeout_applies_to_peers_that_the_last_sweep_spared() {
    let pool = pool();
    insert(&pool, 1, 1);
    assert!(pool.sweep(at(60)).removed.is_empty());
    pool.set_liveness_policy(LivenessPolicy { stale_after: Duration::from_secs(30) });
    assert_eq!(pool.sweep(at(60)).removed.len(), 1);
}

#[derive(Default)]
struct CountingWaker(AtomicUsize);

impl Wake for CountingWaker {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn every_watch_of_a_claim_is_woken() {
    let pool = pool();
    let claim = permit(&pool, 1).claim(1).unwrap();
    let watch = || {
        let error = permit(&pool, 1).claim(1).unwrap_err();
        let ClaimFailure::Held(ClaimHolder::Claimed { watch, .. }) = error.cause else {
            panic!("the key is claimed")
        };
        watch
    };
    let wakes = Arc::new(CountingWaker::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let mut context = Context::from_waker(&waker);
    let (mut first, mut second) = (pin!(watch()), pin!(watch()));
    {
        let mut dropped = pin!(watch());
        assert_eq!(dropped.as_mut().poll(&mut context), Poll::Pending);
    }
    for _ in 0..2 {
        assert_eq!(first.as_mut().poll(&mut context), Poll::Pending);
        assert_eq!(second.as_mut().poll(&mut context), Poll::Pending);
    }
    drop(claim);
    assert_eq!(wakes.0.load(Ordering::SeqCst), 2, "the dropped watch left its waker behind");
    assert_eq!(first.as_mut().poll(&mut context), Poll::Ready(ClaimOutcome::Released));
    assert_eq!(second.now(), Some(ClaimOutcome::Released));
}

#[test]
fn stats_add_up() {
    let pool = pool();
    let (first, _second) = (insert(&pool, 1, 10), insert(&pool, 2, 40));
    permit(&pool, 3).claim(3).unwrap().go_live(Arc::default(), 0, at(50)).unwrap();
    let _pending = permit(&pool, 4);
    let _ = first.penalize(Misbehavior::Protocol, at(100));
    let _ = first.penalize(Misbehavior::BadData, at(100));
    first.set_rtt(Duration::from_millis(40));
    first.set_rtt(Duration::from_millis(48));
    first.add_bytes_in(10);
    first.add_bytes_out(20);
    assert_eq!(first.rtt(), Some(Duration::from_millis(41)));
    let stats = pool.stats(at(105));
    assert_eq!(
        (stats.total_connections, stats.inbound, stats.outbound, stats.pending_outbound),
        (3, 2, 1, 1)
    );
    assert_eq!((stats.healthy_connections, stats.stale_connections, stats.walked_connections), (2, 1, 3));
    assert_eq!((stats.oldest_connection_secs, stats.bytes_received, stats.bytes_sent), (95, 10, 20));
    assert!((stats.avg_health_score - 230.0 / 3.0).abs() < 1e-9, "{}", stats.avg_health_score);
    assert!((stats.avg_rtt_ms - 41.0).abs() < 1e-9);
}

#[test]
fn stats_never_show_more_than_the_limits_admit() {
    const LIMIT: usize = 4;
    let pool = pool_with(|config| config.limits.max_inbound = LIMIT as u32);
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..2_u32 {
            let (pool, done) = (&pool, &done);
            scope.spawn(move || {
                for round in 0..2_000 {
                    let keys = (0..6).map(|n| thread << 16 | (round % 8) << 8 | n);
                    let insert =
                        |key| pool.insert(key, addr(key), Direction::Inbound, Arc::default(), key, at(1));
                    let held: Vec<_> = keys.filter_map(|key| insert(key).ok()).collect();
                    for peer in held {
                        pool.remove(peer.key(), peer.id(), DisconnectReason::Requested);
                    }
                }
                done.fetch_add(1, Ordering::SeqCst);
            });
        }
        while done.load(Ordering::SeqCst) < 2 {
            let stats = pool.stats(at(2));
            assert!(stats.inbound + stats.pending_inbound <= LIMIT, "{stats:?}");
            assert_eq!(stats.total_connections, stats.inbound + stats.outbound);
        }
    });
    assert!(pool.stats(at(2)).refused.full > 0);
    is_empty(&pool);
}

#[test]
#[cfg(feature = "serde")]
fn stats_serialize_the_main_numbers_first() {
    let text = serde_json::to_string(&pool().stats(at(1))).unwrap();
    let first = r#"{"total_connections":0,"healthy_connections":0,"stale_connections":0,"avg_health_score":0.0,"oldest_connection_secs":0,"#;
    assert!(text.starts_with(first), "{text}");
}

#[test]
fn peers_and_entries_are_small() {
    type Mine<K> = Peer<K, ()>;
    assert!(size_of::<Mine<IpAddr>>() <= 112, "{}", size_of::<Mine<IpAddr>>());
    assert!(size_of::<Mine<crate::base::PeerId>>() <= 128, "{}", size_of::<Mine<crate::base::PeerId>>());
    assert_eq!(size_of::<super::pool::PoolEntry<IpAddr, ()>>(), 16);
}

#[test]
fn a_trim_of_a_subnet_counts_for_the_enclosing_subnet() {
    let pool = pool();
    for n in 0..20u16 {
        let addr = SocketAddr::from(([0x2001, 0xdb8, 1, 1, 0, 0, 0, n + 1], 7_000));
        pool.insert(u32::from(n), addr, Direction::Inbound, Arc::default(), 0, at(1)).unwrap();
    }
    let limits = Limits { max_per_subnet: 4, max_per_site: 4, trim_step: 100, ..(*pool.limits()).clone() };
    pool.set_limits(limits);
    assert_eq!(pool.trim(at(2)).len(), 16);
    assert_eq!((pool.trim(at(2)).len(), pool.len()), (0, 4));
}

#[test]
fn a_trim_that_finds_only_reserved_peers_is_the_last() {
    let pool = pool();
    for n in 0..3 {
        let addr = SocketAddr::from(([20, 0, 0, 7], 7_000 + n));
        let permit = pool.admit(addr, Direction::Inbound, SlotClass::Reserved, Tick::MAX).unwrap();
        permit.claim(u32::from(n)).unwrap().go_live(Arc::default(), 0, at(1)).unwrap();
    }
    pool.set_limits(Limits { max_per_source: 1, max_inbound: 1, trim_step: 1, ..(*pool.limits()).clone() });
    assert_eq!((pool.trim(at(2)).len(), pool.len()), (0, 3));
    assert_eq!(pool.over_limit_mark.load(crate::sync::atomic::Ordering::Relaxed), 0);
}

#[test]
fn pending_handshakes_are_no_surplus_of_their_subnet() {
    let pool = pool();
    (0..4).for_each(|n| drop(insert(&pool, n, 1)));
    let pending: Vec<_> = (4..14).map(|n| permit(&pool, n)).collect();
    pool.set_limits(Limits { max_per_subnet: 4, ..(*pool.limits()).clone() });
    assert!(pool.trim(at(2)).is_empty());
    // Once they go live they are surplus.
    for (key, permit) in (4..).zip(pending) {
        permit.claim(key).unwrap().go_live(Arc::default(), 0, at(3)).unwrap();
    }
    assert_eq!((pool.trim(at(4)).len(), pool.trim(at(4)).len(), pool.len()), (10, 0, 4));
}

#[test]
fn mass_failures_are_found_after_the_window_was_lengthened() {
    let pool = pool();
    let peers: Vec<_> = (0..10).map(|n| insert(&pool, n * 0x100, 0)).collect();
    let hour = 3_600;
    let mass_failures = |from: u64| {
        let fail = |peer: &Arc<Peer<u32, Arc<TestConnection>>>| peer.penalize(Misbehavior::Timeout, at(from));
        peers.iter().map(fail).filter(|outcome| *outcome == PenaltyOutcome::OurFault).count()
    };
    assert!(mass_failures(hour) > 0);
    let window = pool.health_policy().window;
    pool.set_health_policy(HealthPolicy { window: window * 6, ..pool.health_policy() });
    assert!(mass_failures(hour + 600) > 0);
}

#[test]
fn a_penalty_by_older_rules_hides_no_mass_failure() {
    let pool = pool();
    let peers: Vec<_> = (0..10).map(|n| insert(&pool, n * 0x100, 0)).collect();
    let before = pool.shared.health_rules.load();
    let window = pool.health_policy().window;
    pool.set_health_policy(HealthPolicy { window: window * 6, ..pool.health_policy() });
    // The longer windows reach this number in six hours.
    let late = peers[0].penalize_by(&before, Misbehavior::Flood, at(3_600));
    assert_eq!(late, PenaltyOutcome::Counted { health: 80 });
    let fail = |peer: &Arc<Peer<u32, Arc<TestConnection>>>| peer.penalize(Misbehavior::Timeout, at(3_700));
    assert!(peers.iter().map(fail).any(|outcome| outcome == PenaltyOutcome::OurFault));
}

#[test]
fn one_host_that_reconnects_and_fails_causes_no_mass_failure() {
    let pool = pool();
    (0..8).for_each(|n| drop(insert(&pool, n * 0x100, 0)));
    for n in 100..150 {
        let bad = insert(&pool, n, 3_600);
        assert_eq!(bad.penalize(Misbehavior::Malformed, at(3_600)), PenaltyOutcome::Counted { health: 60 });
        pool.remove_current(&n, DisconnectReason::Closed).unwrap();
        assert_eq!(bad.penalize(Misbehavior::Protocol, at(3_600)), PenaltyOutcome::Counted { health: 20 });
    }
    // Penalties of peers that left before they failed do not count either.
    let left: Vec<_> = (100..150).map(|n| insert(&pool, n, 3_600)).collect();
    left.iter().for_each(|peer| drop(pool.remove_current(peer.key(), DisconnectReason::Closed)));
    let late = left.iter().map(|peer| peer.penalize(Misbehavior::Timeout, at(3_605)));
    assert!(late.into_iter().all(|outcome| outcome != PenaltyOutcome::OurFault));
}

#[test]
fn a_mass_failure_is_found_although_the_failing_peers_leave() {
    let pool = pool();
    let peers: Vec<_> = (0..10).map(|n| insert(&pool, n * 0x100, 0)).collect();
    let outcomes = peers.iter().map(|peer| {
        let outcome = peer.penalize(Misbehavior::Timeout, at(3_600));
        pool.remove_current(peer.key(), DisconnectReason::Lost).unwrap();
        outcome == PenaltyOutcome::OurFault
    });
    let outcomes: Vec<_> = outcomes.collect();
    assert_eq!(outcomes, (0..10).map(|n| n >= 5).collect::<Vec<_>>());
}
