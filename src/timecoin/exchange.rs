//! Records of peers: reachability, latency, and the order in which to dial them.
//!
//! Addresses to dial come from the address book; this remembers how well each peer did. Pure and
//! bounded.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::address_book::{Address, WallTime};
use crate::base::{Source, canonical_ip};

use super::NetworkType;
use super::peer_info::{UNKNOWN_VERSION, unix_seconds};
use super::wire::{is_ephemeral, truncated};

const DAY_SECS: i64 = 86_400;
/// Records of one source.
const MAX_PER_SOURCE: usize = 4;
const MAX_VERSION_BYTES: usize = 128;

/// What is known of one IP address. Serialises like an entry of a legacy node's `peers.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersistentPeerInfo {
    /// The address, canonical.
    pub address: IpAddr,
    /// The port it listens on.
    pub port: u16,
    /// When it was last heard of, in seconds since 1970.
    pub last_seen: i64,
    /// Smoothed round-trip time in milliseconds; `None` until measured.
    pub latency_ms: Option<u32>,
    /// The software version that it announced.
    pub version: String,
    /// Number of successful connections.
    pub successful_connections: u32,
    /// Number of failed connections.
    pub failed_connections: u32,
}

impl PersistentPeerInfo {
    /// A peer that was just heard of and never tried.
    pub fn new(address: IpAddr, port: u16, version: String, now: WallTime) -> Self {
        Self {
            address: canonical_ip(address),
            port,
            last_seen: seconds(now),
            latency_ms: None,
            version: truncated_version(&version),
            successful_connections: 0,
            failed_connections: 0,
        }
    }

    /// The share of connections that succeeded, 0.0 to 1.0; 0.5 if none was tried.
    pub fn reliability_score(&self) -> f32 {
        let (ok, failed) = (self.successful_connections as f32, self.failed_connections as f32);
        if ok + failed > 0.0 { ok / (ok + failed) } else { 0.5 }
    }

    /// The address to dial.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }

    /// The address to dial, as text; IPv6 in brackets.
    pub fn full_address(&self) -> String {
        self.addr().to_string()
    }

    /// Whether to dial it at all: heard of within a day, and at least 3 of 10 connections
    /// succeeded.
    fn is_dial_candidate(&self, now: WallTime) -> bool {
        seconds(now).saturating_sub(self.last_seen) <= DAY_SECS && self.reliability_score() >= 0.3
    }

    /// Lowest latency first, unknown latency last; then by reliability, then by the latest contact.
    fn by_preference(&self, other: &Self) -> Ordering {
        let latency = |record: &Self| record.latency_ms.unwrap_or(u32::MAX);
        latency(self)
            .cmp(&latency(other))
            .then_with(|| other.reliability_score().total_cmp(&self.reliability_score()))
            .then_with(|| other.last_seen.cmp(&self.last_seen))
            .then_with(|| self.address.cmp(&other.address))
    }
}

/// The records, at most one for each IP address and at most `max_records` in total. No I/O, no
/// clock.
#[derive(Clone, Debug)]
pub struct PeerExchange {
    network: NetworkType,
    max_records: usize,
    records: HashMap<IpAddr, PersistentPeerInfo>,
}

impl PeerExchange {
    /// No records; the limit is 10,000.
    pub fn new(network: NetworkType) -> Self {
        Self::bounded(network, 10_000)
    }

    /// No records; the limit is `max_records`. When full, the peers heard of longest ago are
    /// removed.
    pub fn bounded(network: NetworkType, max_records: usize) -> Self {
        Self { network, max_records: max_records.max(1), records: HashMap::new() }
    }

    /// Adds a peer or updates it, and returns whether it was new. Of an IPv6 /64 a few addresses are
    /// kept; more are not added. An ephemeral port becomes the
    /// standard one. For a known IP address, time and version are updated; its port only if it is
    /// ephemeral.
    pub fn add_peer(&mut self, addr: SocketAddr, version: String, now: WallTime) -> bool {
        let addr = self.network.stable_addr(addr);
        if let Some(known) = self.records.get_mut(&addr.ip()) {
            known.last_seen = known.last_seen.max(seconds(now));
            if version != UNKNOWN_VERSION {
                known.version = truncated_version(&version);
            }
            if is_ephemeral(known.port) {
                known.port = addr.port();
            }
            return false;
        }
        if self.is_source_full(addr.ip()) {
            return false;
        }
        self.make_room();
        let record = PersistentPeerInfo::new(addr.ip(), addr.port(), version, now);
        self.records.insert(addr.ip(), record);
        true
    }

    /// Adds a saved record, with an ephemeral port replaced and a time in the future taken for
    /// `now`. A known record that is newer stays, and a source adds no more than its share.
    pub fn restore(&mut self, mut record: PersistentPeerInfo, now: WallTime) {
        record.last_seen = record.last_seen.min(seconds(now));
        record.address = canonical_ip(record.address);
        record.port = self.network.stable_port(record.port);
        record.version = truncated_version(&record.version);
        match self.records.get(&record.address) {
            Some(known) if known.last_seen >= record.last_seen => {}
            Some(_) => drop(self.records.insert(record.address, record)),
            None if self.is_source_full(record.address) => {}
            None => {
                self.make_room();
                self.records.insert(record.address, record);
            }
        }
    }

    /// Adds what the address book knows of an address, unless a newer record exists.
    pub fn restore_from_book(&mut self, known: &Address, now: WallTime) {
        let Some(last) = known.last_success else { return };
        let record = PersistentPeerInfo {
            address: known.addr.ip(),
            port: known.addr.port(),
            last_seen: seconds(last),
            latency_ms: None,
            version: UNKNOWN_VERSION.into(),
            successful_connections: 1,
            failed_connections: known.failures,
        };
        self.restore(record, now);
    }

    /// Records a measured round-trip time in milliseconds. Returns `false` for an unknown address.
    pub fn update_latency(&mut self, ip: IpAddr, latency: u32) -> bool {
        self.edit(ip, |record| record.latency_ms = Some(latency))
    }

    /// Records a successful connection. Returns `false` for an unknown address.
    pub fn record_success(&mut self, ip: IpAddr, now: WallTime) -> bool {
        self.edit(ip, |record| {
            record.successful_connections = record.successful_connections.saturating_add(1);
            record.last_seen = record.last_seen.max(seconds(now));
        })
    }

    /// Records a failed connection. Returns `false` for an unknown address.
    pub fn record_failure(&mut self, ip: IpAddr) -> bool {
        self.edit(ip, |record| record.failed_connections = record.failed_connections.saturating_add(1))
    }

    /// The record of an address.
    pub fn get(&self, ip: IpAddr) -> Option<&PersistentPeerInfo> {
        self.records.get(&canonical_ip(ip))
    }

    /// Up to `count` peers to dial, best first.
    ///
    /// Only peers heard of within a day whose connections succeeded at least 3 times in 10. Order:
    /// latency (unknown last), then reliability.
    ///
    /// # Cost
    /// O(n log n).
    pub fn get_best_peers(&self, count: usize, now: WallTime) -> Vec<PersistentPeerInfo> {
        let mut best: Vec<_> = self.records.values().filter(|record| record.is_dial_candidate(now)).collect();
        best.sort_unstable_by(|one, other| one.by_preference(other));
        best.into_iter().take(count).cloned().collect()
    }

    /// Number of records.
    pub fn peer_count(&self) -> usize {
        self.records.len()
    }

    /// Removes records older than `max_age_seconds` and returns how many. Cost: O(n).
    pub fn cleanup_stale_peers(&mut self, max_age_seconds: i64, now: WallTime) -> usize {
        let before = self.records.len();
        self.records.retain(|_, record| seconds(now).saturating_sub(record.last_seen) <= max_age_seconds);
        before - self.records.len()
    }

    fn edit(&mut self, ip: IpAddr, change: impl FnOnce(&mut PersistentPeerInfo)) -> bool {
        self.records.get_mut(&canonical_ip(ip)).map(change).is_some()
    }

    /// Whether as many addresses of this one's source are kept as may be.
    fn is_source_full(&self, ip: IpAddr) -> bool {
        let source = Source::of(ip);
        // An IPv4 address is its own source.
        ip.is_ipv6()
            && self.records.keys().filter(|known| Source::of(**known) == source).count() >= MAX_PER_SOURCE
    }

    fn make_room(&mut self) {
        if self.records.len() < self.max_records {
            return;
        }
        // Removes a tenth at a time, so that a flood of addresses does not cost one scan each.
        let mut by_age: Vec<_> =
            self.records.values().map(|record| (record.last_seen, record.address)).collect();
        let goes = (self.max_records / 10).max(1).min(by_age.len());
        by_age.select_nth_unstable(goes - 1);
        for (_, ip) in &by_age[..goes] {
            self.records.remove(ip);
        }
    }
}

/// Seconds since 1970, as the records store them.
pub(super) fn seconds(at: WallTime) -> i64 {
    i64::try_from(unix_seconds(at)).unwrap_or(i64::MAX)
}

/// A copy of a peer's version, cut to [`MAX_VERSION_BYTES`]. The copy releases the longer original.
pub(super) fn truncated_version(version: &str) -> String {
    truncated(version, MAX_VERSION_BYTES).to_owned()
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    fn at(secs: u64) -> WallTime {
        WallTime::from_millis(secs * 1000)
    }

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn record(last: u8, latency_ms: Option<u32>, ok: u32, failed: u32) -> PersistentPeerInfo {
        PersistentPeerInfo {
            latency_ms,
            successful_connections: ok,
            failed_connections: failed,
            ..PersistentPeerInfo::new(IpAddr::from([192, 0, 2, last]), 24_100, "v".into(), at(1_000_000))
        }
    }

    fn exchange() -> PeerExchange {
        PeerExchange::new(NetworkType::Testnet)
    }

    #[test]
    fn an_ephemeral_port_is_never_recorded_and_a_known_port_stays() {
        let mut exchange = exchange();
        assert!(exchange.add_peer(addr("192.0.2.1:50000"), "a".into(), at(1)));
        assert_eq!(exchange.get("192.0.2.1".parse().unwrap()).unwrap().port, 24_100);
        assert!(!exchange.add_peer(addr("192.0.2.1:30000"), "b".into(), at(2)));
        let known = exchange.get("192.0.2.1".parse().unwrap()).unwrap();
        assert_eq!((known.port, known.version.as_str(), known.last_seen), (24_100, "b", 2));
        exchange.add_peer(addr("192.0.2.1:30000"), UNKNOWN_VERSION.into(), at(3));
        assert_eq!(exchange.get("192.0.2.1".parse().unwrap()).unwrap().version, "b");
    }

    #[test]
    fn best_peers_are_ordered_by_latency_then_reliability() {
        let mut exchange = exchange();
        for record in [
            record(1, None, 9, 1),
            record(2, Some(50), 1, 0),
            record(3, Some(20), 1, 1),
            record(4, None, 0, 0),
            record(5, Some(20), 9, 0),
            // Fails mostly, so its latency does not matter.
            record(6, Some(1), 1, 9),
        ] {
            exchange.restore(record, at(1_000_000));
        }
        let mut old = record(7, Some(1), 9, 0);
        old.last_seen -= DAY_SECS + 1;
        exchange.restore(old, at(1_000_000));
        let best: Vec<u8> = exchange
            .get_best_peers(10, at(1_000_000))
            .into_iter()
            .map(|record| match record.address {
                IpAddr::V4(ip) => ip.octets()[3],
                IpAddr::V6(_) => panic!("none was added"),
            })
            .collect();
        assert_eq!(best, [5, 3, 2, 1, 4]);
        assert_eq!(exchange.get_best_peers(2, at(1_000_000)).len(), 2);
        assert!(exchange.get_best_peers(10, at(1_000_000 + 2 * DAY_SECS as u64)).is_empty());
    }

    #[test]
    fn success_bumps_the_time_and_failure_does_not() {
        let mut exchange = exchange();
        exchange.add_peer(addr("192.0.2.1:24100"), "v".into(), at(10));
        let ip = "192.0.2.1".parse().unwrap();
        assert!(exchange.record_failure(ip));
        assert_eq!(exchange.get(ip).unwrap().last_seen, 10);
        assert!(exchange.record_success(ip, at(20)));
        let known = exchange.get(ip).unwrap();
        assert_eq!((known.last_seen, known.reliability_score()), (20, 0.5));
        assert!(!exchange.record_success("192.0.2.9".parse().unwrap(), at(20)));
    }

    #[test]
    fn records_stay_bounded_and_the_oldest_go() {
        let mut exchange = PeerExchange::bounded(NetworkType::Testnet, 100);
        for n in 0..1_000u32 {
            let ip = IpAddr::from((0xc000_0000 | n).to_be_bytes());
            exchange.add_peer(SocketAddr::new(ip, 24_100), "x".repeat(5_000), at(u64::from(n)));
            assert!(exchange.peer_count() <= 100);
        }
        let newest = exchange.get(IpAddr::from((0xc000_0000 | 999u32).to_be_bytes())).unwrap();
        assert_eq!((newest.version.len(), newest.version.capacity()), (MAX_VERSION_BYTES, MAX_VERSION_BYTES));
        assert!(exchange.get(IpAddr::from(0xc000_0000u32.to_be_bytes())).is_none());
        let kept = exchange.peer_count();
        assert_eq!(exchange.cleanup_stale_peers(10, at(999)), kept - 11);
        assert_eq!(exchange.peer_count(), 11);
    }

    #[test]
    fn a_time_from_outside_is_clamped_to_now() {
        let mut exchange = exchange();
        let future = PersistentPeerInfo { last_seen: i64::MAX, ..record(1, None, 1, 0) };
        exchange.restore(future, at(5_000));
        assert_eq!(exchange.get("192.0.2.1".parse().unwrap()).unwrap().last_seen, 5_000);
        assert_eq!(exchange.cleanup_stale_peers(DAY_SECS, at(5_000 + 2 * DAY_SECS as u64)), 1);
    }

    #[test]
    fn an_ipv6_slash_64_does_not_push_out_others() {
        let mut exchange = PeerExchange::bounded(NetworkType::Testnet, 100);
        for n in 0..50u8 {
            exchange.add_peer(SocketAddr::from(([20, 0, 0, n], 24_100)), "v".into(), at(1));
        }
        for n in 0..1_000u16 {
            exchange.add_peer(SocketAddr::from(([0x2a00, 1, 2, 3, 0, 0, 0, n], 24_100)), "v".into(), at(2));
        }
        assert_eq!(exchange.peer_count(), 54);
        for n in 0..1_000u16 {
            let ip = IpAddr::from([0x2a00, 1, 2, 4, 0, 0, 0, n]);
            exchange.restore(PersistentPeerInfo::new(ip, 24_100, "v".into(), at(2)), at(2));
        }
        assert_eq!(exchange.peer_count(), 58, "nor do saved records");
    }

    #[test]
    fn a_legacy_record_round_trips() {
        let text = r#"{"address":"127.0.0.2","port":24100,"last_seen":1795349079,"latency_ms":null,"version":"0.6.4-ec2a412","successful_connections":1,"failed_connections":0}"#;
        let record: PersistentPeerInfo = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&record).unwrap(), text);
        assert_eq!(record.full_address(), "127.0.0.2:24100");
    }
}
