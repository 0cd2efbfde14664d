#![allow(clippy::unwrap_used)] // helpers of tests; clippy excuses the tests alone

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::Duration;

use proptest::prelude::*;

use super::address::MAX_LOCAL_FAULT_WAIT;
use super::*;
use crate::base::{Backoff, PeerId};

const T0: WallTime = WallTime::from_millis(1_700_000_000_000);
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn addr(n: u16) -> SocketAddr {
    let [high, low] = n.to_be_bytes();
    SocketAddr::from(([20, 0, high, low], 7000))
}

fn reported_by(n: u8) -> ReportedBy {
    ReportedBy::Peer(IpAddr::from([30, 0, 0, n]))
}

fn config() -> AddressBookConfig {
    AddressBookConfig { seed: Some(1), ..AddressBookConfig::default() }
}

fn small(addresses: usize, per_source: usize, bans: usize) -> AddressBookConfig {
    AddressBookConfig {
        max_addresses: NonZeroUsize::new(addresses).unwrap(),
        max_per_source: NonZeroUsize::new(per_source).unwrap(),
        max_bans: NonZeroUsize::new(bans).unwrap(),
        ..config()
    }
}

/// A book with the first `n` addresses, each from its own source.
fn book_of(n: u8) -> AddressBook {
    let book = AddressBook::in_memory(config());
    for n in 0..n {
        assert_eq!(book.add(addr(n.into()), reported_by(n), T0), Ok(Added::New));
    }
    book
}

fn all(book: &AddressBook, now: WallTime) -> BTreeSet<SocketAddr> {
    book.candidates(now, usize::MAX, &|_| false).into_iter().collect()
}

#[test]
fn addresses_without_a_host_are_refused_with_a_reason() {
    let book = AddressBook::in_memory(config());
    let add = |text: &str| book.add(text.parse().unwrap(), ReportedBy::Seed, T0);
    assert_eq!(add("20.0.0.1:0"), Err(AddRefused::Port));
    for unspecified in ["0.0.0.0:1", "0.1.2.3:1", "[::]:1", "[::ffff:0.0.0.0]:1"] {
        assert_eq!(add(unspecified), Err(AddRefused::Unspecified), "{unspecified}");
    }
    for multicast in ["224.0.0.1:1", "239.255.255.255:1", "[ff02::1]:1"] {
        assert_eq!(add(multicast), Err(AddRefused::Multicast), "{multicast}");
    }
    for broadcast in ["255.255.255.255:1", "240.0.0.1:1"] {
        assert_eq!(add(broadcast), Err(AddRefused::Broadcast), "{broadcast}");
    }
    // Which scopes are learnt and dialled is the node's decision.
    for host in ["100.128.0.1:1", "10.0.0.1:1", "[2001:db8::1]:1"] {
        assert_eq!(add(host), Ok(Added::New), "{host}");
    }
    assert_eq!((book.len(), book.stats().refused), (3, 10));
}

#[test]
fn an_address_is_told_for_a_month_after_its_last_success() {
    let book = book_of(3);
    for n in 0..2 {
        book.record(&addr(n), DialOutcome::Connected, T0);
    }
    let at = |days: u32| T0.after(DAY * days);
    let told = |now| book.sample(now, 10).into_iter().collect::<BTreeSet<_>>();
    assert_eq!(told(at(30)), BTreeSet::from([addr(0), addr(1)]));
    // Its peer is still connected then.
    book.confirm(&[addr(0), addr(2)], at(30));
    assert_eq!(told(at(31)), BTreeSet::from([addr(0)]));
    assert!(book.get(&addr(2)).unwrap().last_success.is_none(), "it never connected");
}

#[test]
fn a_mapped_address_is_the_same_address() {
    let book = book_of(1);
    let mapped = "[::ffff:20.0.0.0]:7000".parse().unwrap();
    assert_eq!(book.add(mapped, ReportedBy::Seed, T0), Ok(Added::Known));
    assert!(book.record(&mapped, DialOutcome::Connected, T0));
    assert!(book.get(&addr(0)).unwrap().last_success.is_some());
}

#[test]
fn backoff_grows_and_only_a_stable_session_resets_it() {
    let book = book_of(1);
    let mut last = Duration::ZERO;
    for n in 1..=5 {
        book.record(&addr(0), DialOutcome::Failed(FailureCause::Timeout), T0);
        let wait = book.next_due(T0).unwrap().since(T0);
        let full = SECOND * (1 << (n - 1));
        assert!(wait >= full / 2 && wait <= full && wait >= last / 2, "{n}: {wait:?}");
        last = wait;
    }
    let due = book.next_due(T0).unwrap();
    book.record(&addr(0), DialOutcome::Connected, T0);
    let entry = book.get(&addr(0)).unwrap();
    assert_eq!((entry.failures, entry.last_success), (5, Some(T0)));
    assert!(book.next_due(T0).unwrap() >= due);
    book.record(&addr(0), DialOutcome::Stable, T0.after(SECOND));
    let entry = book.get(&addr(0)).unwrap();
    assert_eq!((entry.failures, entry.last_cause), (0, None));
    assert_eq!(all(&book, T0.after(SECOND)).len(), 1);
}

#[test]
fn trusted_peers_back_off_too() {
    let book = AddressBook::in_memory(config());
    book.set_trusted(addr(0), true, T0).unwrap();
    book.record(&addr(0), DialOutcome::Failed(FailureCause::Refused), T0);
    assert!(all(&book, T0).is_empty());
    assert_eq!(all(&book, T0.after(SECOND)).len(), 1);
}

#[test]
fn a_formerly_trusted_address_does_not_count_against_its_first_source() {
    let book = AddressBook::in_memory(small(100, 1, 10));
    book.add(addr(0), reported_by(1), T0).unwrap();
    book.set_trusted(addr(0), true, T0).unwrap();
    book.add(addr(1), reported_by(1), T0).unwrap();
    book.set_trusted(addr(0), false, T0).unwrap();
    assert_eq!(book.get(&addr(0)).unwrap().reported_by, ReportedBy::Operator);
    book.table.lock().check();
}

#[test]
fn a_peer_that_accepts_and_hangs_up_is_not_redialled_at_once() {
    let book = book_of(1);
    book.record(&addr(0), DialOutcome::Connected, T0);
    assert!(all(&book, T0.after(SECOND / 4)).is_empty());
    assert_eq!(all(&book, T0.after(SECOND)).len(), 1);
}

#[test]
fn a_collision_changes_nothing() {
    let book = book_of(1);
    let before = book.get(&addr(0));
    assert!(book.record(&addr(0), DialOutcome::Collision, T0.after(DAY)));
    assert_eq!(book.get(&addr(0)), before);
    assert!(!book.record(&addr(9), DialOutcome::Collision, T0));
}

#[test]
fn a_busy_peer_does_not_count_as_failing_and_is_told_on() {
    let book = book_of(1);
    book.record(&addr(0), DialOutcome::Connected, T0);
    for _ in 0..20 {
        book.record(&addr(0), DialOutcome::Busy { retry_after: Some(30 * SECOND) }, T0);
        assert_eq!(book.get(&addr(0)).unwrap().next_attempt, T0.after(30 * SECOND));
    }
    assert_eq!(book.get(&addr(0)).unwrap().failures, 0);
    assert_eq!(book.sample(T0, 9), [addr(0)]);
    // Neither at once nor never, whatever it asks for.
    book.record(&addr(0), DialOutcome::Busy { retry_after: Some(Duration::ZERO) }, T0);
    assert_eq!(book.get(&addr(0)).unwrap().next_attempt, T0.after(Backoff::default().base));
    book.record(&addr(0), DialOutcome::Busy { retry_after: None }, T0);
    assert_eq!(book.get(&addr(0)).unwrap().next_attempt, T0.after(30 * SECOND));
}

#[test]
fn waits_are_shortened_after_an_outage() {
    let book = book_of(2);
    for _ in 0..12 {
        book.record(&addr(0), DialOutcome::Failed(FailureCause::Timeout), T0);
    }
    assert!(book.get(&addr(0)).unwrap().next_attempt > T0.after(60 * SECOND));
    book.shorten_waits(30 * SECOND, T0);
    assert!(book.is_due(&addr(0), T0.after(30 * SECOND)));
    assert!(book.is_due(&addr(1), T0), "a shorter wait stays");
    book.table.lock().check();
}

#[test]
fn a_busy_peer_is_not_dialled_for_the_time_it_asks_up_to_the_cap() {
    let book = book_of(2);
    let cap = Backoff::default().cap;
    book.record(&addr(0), DialOutcome::Busy { retry_after: Some(30 * SECOND) }, T0);
    assert_eq!(book.get(&addr(0)).unwrap().next_attempt, T0.after(30 * SECOND));
    book.record(&addr(1), DialOutcome::Busy { retry_after: Some(Duration::MAX) }, T0);
    assert_eq!(book.get(&addr(1)).unwrap().next_attempt, T0.after(cap));
}

#[test]
fn a_clock_that_jumps_back_does_not_block_dials() {
    let book = book_of(1);
    book.record(&addr(0), DialOutcome::Failed(FailureCause::Reset), T0.after(300 * DAY));
    assert_eq!(all(&book, T0).len(), 1);
    assert_eq!(book.next_due(T0), Some(T0));
    let soon = T0.after(MAX_LOCAL_FAULT_WAIT / 3);
    book.record(&addr(0), DialOutcome::Deferred, T0);
    assert!(!book.is_due(&addr(0), soon) && book.is_due(&addr(0), T0.after(MAX_LOCAL_FAULT_WAIT)));
    book.record(&addr(0), DialOutcome::Failed(FailureCause::Reset), T0.after(300 * DAY));
    book.record(&addr(0), DialOutcome::Connected, T0);
    assert!(!book.is_due(&addr(0), T0.after(SECOND / 4)));
}

#[test]
fn one_source_cannot_flood_the_book() {
    let book = AddressBook::in_memory(small(100, 5, 10));
    let add = |n, source| book.add(addr(n), source, T0);
    assert!((0..5).all(|n| add(n, reported_by(1)) == Ok(Added::New)));
    assert_eq!(add(5, reported_by(1)), Err(AddRefused::SourceQuota));
    assert_eq!(add(5, reported_by(2)), Ok(Added::New));
    // A proven address no longer counts; a failed one may be replaced.
    book.record(&addr(0), DialOutcome::Connected, T0);
    assert_eq!(add(6, reported_by(1)), Ok(Added::New));
    assert_eq!(add(7, reported_by(1)), Err(AddRefused::SourceQuota));
    book.record(&addr(3), DialOutcome::Failed(FailureCause::Refused), T0);
    assert_eq!(add(7, reported_by(1)), Ok(Added::New));
    assert!(book.get(&addr(3)).is_none());
    assert!((10..60).all(|n| add(n, ReportedBy::Operator) == Ok(Added::New)));
    book.table.lock().check();
}

#[test]
fn a_host_that_listens_at_many_ports_cannot_fill_the_book_with_itself() {
    let book = AddressBook::in_memory(small(20, 4, 10));
    let host: std::net::IpAddr = "192.0.2.7".parse().unwrap();
    let mut taken = 0;
    for port in 1..=20 {
        let own = SocketAddr::new(host, port);
        taken += usize::from(book.add(own, ReportedBy::Peer(host), T0) == Ok(Added::New));
        book.record(&own, DialOutcome::Connected, T0);
    }
    assert_eq!(taken, 4);
    assert_eq!(book.add(addr(1), reported_by(9), T0), Ok(Added::New));
    book.table.lock().check();
}

#[test]
fn nor_can_it_through_a_second_address() {
    let book = AddressBook::in_memory(small(20, 4, 10));
    let source = ReportedBy::Peer("2001:db8::7".parse().unwrap());
    let port = |port| SocketAddr::from(([192, 0, 2, 7], port));
    let mut taken = 0;
    for n in 1..=20 {
        taken += usize::from(book.add(port(n), source, T0) == Ok(Added::New));
        book.record(&port(n), DialOutcome::Connected, T0.after(SECOND * u32::from(n)));
        book.table.lock().check();
    }
    assert_eq!(taken, 4);
    // Only one that does not answer gives way.
    book.record(&port(3), DialOutcome::Failed(FailureCause::Timeout), T0);
    assert_eq!(book.add(port(21), source, T0), Ok(Added::New));
    book.record(&port(21), DialOutcome::Connected, T0);
    assert!(book.get(&port(3)).is_none() && book.get(&port(21)).is_some());
    assert_eq!(book.add(addr(1), reported_by(9), T0), Ok(Added::New));
    book.table.lock().check();
}

#[test]
fn local_faults_delay_no_address_for_long() {
    let book = AddressBook::in_memory(small(4, 4, 10));
    book.add(addr(1), ReportedBy::Operator, T0).unwrap();
    for _ in 0..30 {
        book.record(&addr(1), DialOutcome::NoNetwork(FailureCause::Unreachable), T0);
    }
    assert_eq!(book.get(&addr(1)).unwrap().failures, 0, "no fault of the address");
    assert!(!book.is_due(&addr(1), T0) && book.is_due(&addr(1), T0.after(MAX_LOCAL_FAULT_WAIT)));
    book.add(addr(2), ReportedBy::Operator, T0).unwrap();
    book.record(&addr(2), DialOutcome::Deferred, T0);
    assert_eq!(book.get(&addr(2)).unwrap().failures, 0);
    assert!(
        !book.is_due(&addr(2), T0.after(MAX_LOCAL_FAULT_WAIT / 3))
            && book.is_due(&addr(2), T0.after(MAX_LOCAL_FAULT_WAIT))
    );
}

#[test]
fn an_ipv6_site_is_one_source() {
    let book = AddressBook::in_memory(small(100, 2, 10));
    let add = |n, from: &str| book.add(addr(n), ReportedBy::Peer(from.parse().unwrap()), T0);
    assert_eq!(add(0, "2001:db8::1"), Ok(Added::New));
    assert_eq!(add(1, "2001:db8::2"), Ok(Added::New));
    assert_eq!(add(2, "2001:db8::3"), Err(AddRefused::SourceQuota));
    assert_eq!(add(2, "2001:db8:0:1::3"), Ok(Added::New));
}

#[test]
fn the_oldest_that_never_connected_is_evicted_first() {
    let book = AddressBook::in_memory(small(4, 4, 10));
    for n in 0..4 {
        book.add(addr(n), reported_by(n as u8), T0.after(SECOND * u32::from(n))).unwrap();
    }
    book.record(&addr(0), DialOutcome::Connected, T0);
    book.set_trusted(addr(1), true, T0).unwrap();
    book.add(addr(4), reported_by(4), T0.after(DAY)).unwrap();
    assert!(book.get(&addr(2)).is_none() && book.get(&addr(0)).is_some() && book.get(&addr(1)).is_some());
    // Next: the other untried one; then the proven one, but only after it fails.
    book.record(&addr(3), DialOutcome::Connected, T0);
    book.record(&addr(4), DialOutcome::Connected, T0);
    assert_eq!(book.add(addr(5), reported_by(5), T0), Err(AddRefused::Full));
    for _ in 0..3 {
        book.record(&addr(3), DialOutcome::Failed(FailureCause::Timeout), T0);
    }
    assert_eq!(book.add(addr(5), reported_by(5), T0), Ok(Added::New));
    assert!(book.get(&addr(3)).is_none());
    assert_eq!(book.stats().evicted, 2);
    // A trusted address replaces an untrusted one of any value.
    book.record(&addr(5), DialOutcome::Connected, T0.after(SECOND));
    assert_eq!(book.set_trusted(addr(6), true, T0), Ok(()));
    assert_eq!(book.len(), 4);
    book.table.lock().check();
}

#[test]
fn a_subnet_that_fills_the_book_pushes_out_its_own_reports() {
    let book = AddressBook::in_memory(small(1_000, 100, 10));
    // Twenty honest peers, ten addresses each, which nobody dialled yet. They are the oldest.
    let honest: Vec<_> = (0..200).map(addr).collect();
    for (at, honest) in honest.iter().enumerate() {
        let reporter = ReportedBy::Peer(IpAddr::from([40, at as u8 / 10, 0, 1]));
        book.add(*honest, reporter, T0).unwrap();
    }
    // A /48 with a /64 for every address, then one that reports hosts of one /64 through others.
    let network: u128 = 0x2001_0bb8_0001 << 80;
    for number in 0..30_000_u128 {
        let reporter = ReportedBy::Peer(Ipv6Addr::from(network | number << 64 | 1).into());
        book.add(addr(1_000 + number as u16), reporter, T0.after(SECOND)).unwrap();
    }
    let kept = || honest.iter().filter(|honest| book.get(honest).is_some()).count();
    assert_eq!(kept(), 200, "of one /48 of reporters");
    for number in 0..30_000_u32 {
        let reporter = ReportedBy::Peer(Ipv4Addr::from((50 << 24) + (number << 8)).into());
        let host = Ipv6Addr::from(network | u128::from(number));
        let _ = book.add(SocketAddr::from((host, 7000)), reporter, T0.after(SECOND));
    }
    assert_eq!(kept(), 200, "of one /64 of hosts");
    book.table.lock().check();
}

#[test]
fn banned_addresses_are_evicted_after_untried_ones() {
    let book = AddressBook::in_memory(small(2, 2, 10));
    book.add(addr(0), reported_by(0), T0).unwrap();
    book.add(addr(1), reported_by(1), T0.after(SECOND)).unwrap();
    book.ban(BanTarget::from(addr(0).ip()), WallTime::MAX, T0);
    book.add(addr(2), reported_by(2), T0.after(SECOND)).unwrap();
    assert!(book.get(&addr(0)).is_some() && book.get(&addr(1)).is_none());
    book.unban(&BanTarget::from(addr(0).ip()));
    book.add(addr(3), reported_by(3), T0).unwrap();
    assert!(book.get(&addr(0)).is_none());
    book.table.lock().check();
}

#[test]
fn bans_end_in_time_and_hold_by_ip_and_by_peer() {
    let book = book_of(3);
    let until = T0.after(DAY);
    let key = BanTarget::Peer(PeerId::Key([7; 32]));
    let mapped = BanTarget::Ip("::ffff:20.0.0.0".parse().unwrap());
    assert!(book.ban(mapped, until, T0));
    assert!(book.ban(PeerId::from_addr(addr(1)).into(), until, T0));
    assert!(book.ban(key, until, T0));
    assert!(!book.ban(key, T0.after(SECOND), T0), "the longer ban stays");
    assert!(!book.ban(addr(2).ip().into(), T0, T0), "it would end before it begins");
    assert!(book.is_banned_addr(addr(0), T0) && book.is_banned_addr(addr(1), T0));
    assert!(book.is_banned(&key, T0) && !book.is_banned_addr(addr(2), T0));
    assert_eq!(all(&book, T0), BTreeSet::from([addr(2)]));
    assert_eq!(book.add(SocketAddr::new(addr(0).ip(), 9), ReportedBy::Seed, T0), Err(AddRefused::Banned));
    assert!(
        !book.is_banned(&key, until) && book.is_banned(&key, WallTime::from_millis(until.as_millis() - 1))
    );
    assert_eq!((book.expire(T0), book.expire(until), book.bans().len()), (0, 3, 0));
    assert_eq!(all(&book, until).len(), 3);
}

#[test]
fn a_clock_that_jumps_back_neither_lifts_bans_nor_makes_them_last_for_years() {
    let book = AddressBook::in_memory(config());
    let (timed, forever) = (BanTarget::from(addr(0).ip()), BanTarget::from(addr(1).ip()));
    let future = T0.after(3_000 * DAY);
    book.ban(timed, future.after(DAY), future);
    book.ban(forever, WallTime::MAX, future);
    assert!(book.is_banned(&timed, T0) && book.is_banned(&forever, T0));
    assert_eq!(book.expire(T0), 0);
    assert!(book.is_banned(&timed, T0.after(DAY / 2)));
    assert!(!book.is_banned(&timed, T0.after(DAY)), "its full length again, and no more");
    assert!(book.is_banned(&forever, WallTime::from_millis(u64::MAX - 1)));
    assert_eq!(book.expire(WallTime::EPOCH), 0);
    assert!(book.is_banned(&timed, WallTime::EPOCH));
}

#[test]
fn the_ban_that_ends_first_makes_room_for_a_new_one() {
    let book = AddressBook::in_memory(small(10, 10, 2));
    let target = |n| BanTarget::from(addr(n).ip());
    book.ban(target(0), T0.after(3 * SECOND), T0);
    book.ban(target(1), T0.after(2 * SECOND), T0);
    book.ban(target(2), T0.after(SECOND), T0);
    let left: Vec<_> = book.bans().into_iter().map(|ban| ban.target).collect();
    assert_eq!(left, [target(0), target(2)]);
}

#[test]
fn our_own_address_is_not_dialled_until_it_may_have_changed_hands() {
    let book = book_of(2);
    book.mark_self(addr(0), T0);
    book.mark_self(addr(7), T0);
    assert!(book.is_self(&addr(0), T0) && book.is_self(&addr(7), T0) && !book.is_self(&addr(1), T0));
    assert_eq!(all(&book, T0), BTreeSet::from([addr(1)]));
    assert!(!book.is_self(&addr(0), T0.after(DAY)));
    assert_eq!(all(&book, T0.after(DAY)).len(), 3);
    book.table.lock().check();
}

#[test]
fn an_alias_is_dialled_only_while_its_target_fails() {
    let book = book_of(3);
    assert!(!book.set_alias(addr(0), addr(0)) && !book.set_alias(addr(0), addr(9)));
    assert!(book.set_alias(addr(0), addr(1)) && book.set_alias(addr(1), addr(2)));
    assert_eq!(all(&book, T0), BTreeSet::from([addr(2)]));
    for _ in 0..3 {
        book.record(&addr(2), DialOutcome::Failed(FailureCause::Timeout), T0);
    }
    assert_eq!(all(&book, T0), BTreeSet::from([addr(0), addr(1)]));
    // The newest alias wins, and no circle hides all addresses.
    assert!(book.set_alias(addr(2), addr(0)));
    assert_eq!(book.get(&addr(1)).unwrap().alias_of, None);
    assert_eq!(all(&book, T0), BTreeSet::from([addr(1)]));
    book.remove(&addr(1));
    assert_eq!(all(&book, T0), BTreeSet::from([addr(0)]));
}

#[test]
fn an_address_that_connects_is_no_alias_any_more() {
    let book = book_of(2);
    assert!(book.set_alias(addr(0), addr(1)));
    assert_eq!(all(&book, T0), BTreeSet::from([addr(1)]));
    book.record(&addr(0), DialOutcome::Connected, T0);
    assert_eq!(book.get(&addr(0)).unwrap().alias_of, None);
    assert_eq!(all(&book, T0.after(DAY)), BTreeSet::from([addr(0), addr(1)]));
    book.table.lock().check();
}

#[test]
fn candidates_interleave_proven_and_new_and_put_trusted_first() {
    let book = book_of(200);
    for n in 0..100 {
        book.record(&addr(n), DialOutcome::Stable, T0);
    }
    for n in 90..110 {
        book.record(&addr(n), DialOutcome::Failed(FailureCause::Timeout), T0);
    }
    book.set_trusted(addr(199), true, T0).unwrap();
    let now = T0.after(DAY);
    let selected = book.candidates(now, 41, &|_| false);
    assert_eq!((selected.len(), selected[0]), (41, addr(199)));
    let proven = selected.iter().filter(|selected| **selected < addr(100)).count();
    assert!((8..=32).contains(&proven), "{proven}");
    assert!(
        selected.iter().all(|selected| !(addr(90)..addr(110)).contains(selected)),
        "failed addresses come last"
    );
    assert_ne!(selected, book.candidates(now, 41, &|_| false));
    let skipped = book.candidates(now, usize::MAX, &|addr| book.get(addr).unwrap().last_success.is_none());
    assert_eq!(skipped.len(), 100);
}

#[test]
fn one_seed_gives_one_choice() {
    let selection = |_| book_of(100).candidates(T0, 10, &|_| false);
    assert_eq!(selection(0), selection(1));
}

#[test]
fn only_addresses_that_once_connected_are_shared() {
    let book = book_of(6);
    assert!(book.sample(T0, 10).is_empty());
    for n in 1..6 {
        book.record(&addr(n), DialOutcome::Connected, T0);
    }
    book.mark_self(addr(2), T0);
    book.ban(addr(3).ip().into(), T0.after(DAY), T0);
    for _ in 0..3 {
        book.record(&addr(4), DialOutcome::Failed(FailureCause::Timeout), T0);
    }
    let mut shared = book.sample(T0, 10);
    shared.sort();
    assert_eq!(shared, [addr(1), addr(5)]);
    assert_eq!(book.sample(T0, 1).len(), 1);
}

#[test]
fn a_book_without_a_file_marks_no_removals() {
    let book = book_of(3);
    book.remove(&addr(0));
    assert_eq!((book.stats().unflushed, book.flush().unwrap()), (0, 0));
}

#[cfg(feature = "redb")]
mod file;
mod model;
