use super::*;

fn ip(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

fn at(secs: u64) -> Tick {
    Tick::from_millis(secs * 1000)
}

fn fork() -> QuarantineReason {
    QuarantineReason::ForkDetected { height: 7, our_hash: "a".into(), their_hash: "b".into() }
}

fn timeouts() -> QuarantineReason {
    QuarantineReason::ExcessiveTimeouts { count: 3 }
}

fn bad_block() -> QuarantineReason {
    QuarantineReason::InvalidBlock { height: 3, reason: "merkle".into() }
}

#[test]
fn durations_follow_severity_and_attempts() {
    let days = |severity: QuarantineSeverity, attempts| {
        severity.duration_with_backoff(attempts).as_secs() / SECS_PER_DAY
    };
    let severe: Vec<_> = (1..=5).map(|n| days(QuarantineSeverity::Severe, n)).collect();
    assert_eq!(severe, [7, 14, 28, 30, 30]);
    assert_eq!(days(QuarantineSeverity::Permanent, 1), 365);
    assert_eq!(days(QuarantineSeverity::Permanent, 9), 365);
    let minor = |n| QuarantineSeverity::Minor.duration_with_backoff(n).as_secs();
    assert_eq!((minor(1), minor(2), minor(3), minor(400)), (300, 600, 1200, 30 * SECS_PER_DAY));
    assert_eq!(QuarantineSeverity::Moderate.base_duration().as_secs(), 3600);
}

#[test]
fn every_query_honours_the_expiry() {
    let mut quarantine = Quarantine::new(QuarantineConfig::default());
    assert_eq!(quarantine.insert(ip(1), bad_block(), at(0)), Quarantined::Until(at(3600)));
    assert!(quarantine.contains(&ip(1), at(3599)) && quarantine.excludes_from_consensus(&ip(1), at(3599)));
    assert!(!quarantine.contains(&ip(1), at(3600)));
    assert!(!quarantine.excludes_from_consensus(&ip(1), at(3600)));
    assert!(quarantine.get(&ip(1), at(3600)).is_none());
    assert_eq!(quarantine.active(at(3600)).count(), 0);
}

#[test]
fn a_minor_offence_does_not_exclude_from_consensus() {
    let mut quarantine = Quarantine::new(QuarantineConfig::default());
    quarantine.insert(ip(1), timeouts(), at(0));
    assert!(quarantine.contains(&ip(1), at(1)) && !quarantine.excludes_from_consensus(&ip(1), at(1)));
}

#[test]
fn the_latest_reason_decides_and_all_offences_are_counted() {
    let mut quarantine = Quarantine::new(QuarantineConfig::default());
    quarantine.insert(ip(1), timeouts(), at(0));
    // Over since 300, remembered: the second one counts double, at its own severity.
    assert_eq!(quarantine.insert(ip(1), fork(), at(400)), Quarantined::Until(at(400 + 14 * SECS_PER_DAY)));
    let entry = quarantine.get(&ip(1), at(401)).unwrap();
    assert_eq!((entry.attempts, &entry.reason), (2, &fork()));
}

#[test]
fn an_offence_is_forgotten_a_day_after_its_expiry() {
    let mut quarantine = Quarantine::new(QuarantineConfig::default());
    quarantine.insert(ip(1), timeouts(), at(0));
    assert_eq!(quarantine.remove_expired(at(300 + SECS_PER_DAY - 1)), 0);
    assert_eq!(quarantine.remove_expired(at(300 + SECS_PER_DAY)), 1);
    assert_eq!(quarantine.tracked(), 0);
    assert_eq!(
        quarantine.insert(ip(1), timeouts(), at(300 + SECS_PER_DAY)),
        Quarantined::Until(at(600 + SECS_PER_DAY))
    );
}

#[test]
fn a_full_quarantine_replaces_expired_entries_only() {
    let config = QuarantineConfig { max_quarantine_size: 2, ..QuarantineConfig::default() };
    let mut quarantine = Quarantine::new(config);
    quarantine.insert(ip(1), timeouts(), at(0));
    quarantine.insert(ip(2), fork(), at(0));
    assert_eq!(quarantine.insert(ip(3), fork(), at(299)), Quarantined::Full);
    assert!(quarantine.contains(&ip(1), at(299)));
    assert!(matches!(quarantine.insert(ip(3), fork(), at(300)), Quarantined::Until(_)));
    assert_eq!(quarantine.tracked(), 2);
    assert!(quarantine.contains(&ip(2), at(300)) && quarantine.contains(&ip(3), at(300)));
}

#[test]
fn a_whitelisted_peer_is_never_quarantined() {
    let mut quarantine = Quarantine::new(QuarantineConfig::default());
    quarantine.insert(ip(1), fork(), at(0));
    quarantine.whitelist(ip(1));
    assert!(!quarantine.contains(&ip(1), at(1)));
    assert_eq!(quarantine.insert(ip(1), fork(), at(2)), Quarantined::Whitelisted);
    assert!(quarantine.unwhitelist(&ip(1)) && !quarantine.unwhitelist(&ip(1)));
    assert!(matches!(quarantine.insert(ip(1), fork(), at(3)), Quarantined::Until(_)));
}

#[test]
fn a_mapped_address_is_the_same_peer() {
    let mut quarantine = Quarantine::new(QuarantineConfig::default());
    quarantine.insert("::ffff:192.0.2.1".parse().unwrap(), fork(), at(0));
    assert!(quarantine.contains(&ip(1), at(1)));
    assert!(quarantine.release(&ip(1), at(1)) && !quarantine.release(&ip(1), at(1)));
}

#[tokio::test]
async fn stats_count_by_reason() {
    let quarantine = PeerQuarantine::new();
    quarantine.quarantine_peer(ip(1), fork()).await;
    quarantine.quarantine_peer(ip(2), fork()).await;
    quarantine.quarantine_peer(ip(3), timeouts()).await;
    let stats = quarantine.get_stats().await;
    assert_eq!((stats.total_quarantined, stats.fork_detected, stats.excessive_timeouts), (3, 2, 1));
    assert!(quarantine.should_exclude_from_consensus(&ip(1)).await);
    assert_eq!(quarantine.get_reason(&ip(3)).await, Some(timeouts()));
    quarantine.clear_all().await;
    assert_eq!(quarantine.count().await, 0);
}

#[tokio::test]
async fn a_fixed_duration_applies_to_every_reason() {
    let quarantine = PeerQuarantine::with_duration(Duration::ZERO);
    quarantine.quarantine_peer(ip(1), fork()).await;
    assert!(!quarantine.is_quarantined(&ip(1)).await);
}

#[tokio::test(start_paused = true)]
async fn the_cleanup_task_ends_with_its_owner() {
    let quarantine = Arc::new(PeerQuarantine::new());
    let weak = Arc::downgrade(&quarantine);
    Arc::clone(&quarantine).start_cleanup_task();
    drop(quarantine);
    tokio::time::sleep(Duration::from_secs(301)).await;
    assert!(weak.upgrade().is_none());
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
}

#[test]
fn an_ipv6_slash_64_is_quarantined_as_one_and_a_whitelisted_host_in_it_is_not() {
    let mut quarantine = Quarantine::new(QuarantineConfig::default());
    let ip = |net: u16, host: u16| IpAddr::from([0x2a00, 1, 2, net, 0, 0, 0, host]);
    let reason = timeouts;
    let now = Tick::from_millis(1_000);
    quarantine.whitelist(ip(3, 9));
    assert!(matches!(quarantine.insert(ip(3, 1), reason(), now), Quarantined::Until(_)));
    assert!(quarantine.contains(&ip(3, 2), now));
    assert!(!quarantine.contains(&ip(3, 9), now) && !quarantine.contains(&ip(4, 1), now));
    quarantine.insert(ip(3, 2), reason(), now);
    assert_eq!((quarantine.tracked(), quarantine.get(&ip(3, 1), now).unwrap().attempts), (1, 2));
    quarantine.whitelist(ip(3, 8));
    assert!(quarantine.contains(&ip(3, 2), now) && !quarantine.contains(&ip(3, 8), now));
    assert!(quarantine.release(&ip(3, 5), now));
}

#[test]
fn warnings_come_once_a_second_and_count_those_left_out() {
    let mut warnings = Warnings::default();
    let at = Tick::from_millis;
    assert_eq!(warnings.next(at(0)), Some(0));
    assert_eq!((1..1_000).filter_map(|millis| warnings.next(at(millis))).count(), 0);
    assert_eq!(warnings.next(at(1_000)), Some(999));
}
