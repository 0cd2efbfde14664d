//! What callers of [`PeerManager`](super::PeerManager) know of a peer.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::address_book::WallTime;
use crate::wire::Hello;

use super::wire::{NetworkType, PeerSoftware};

/// The version of a peer that has not announced one.
pub const UNKNOWN_VERSION: &str = "unknown";

/// What is known of a peer. Kept in files and returned to callers, never sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PeerInfo {
    /// The address it listens on.
    pub address: SocketAddr,
    /// When it was last heard of, in seconds since 1970.
    pub last_seen: u64,
    /// The software version that it announced, or `unknown`.
    pub version: String,
    /// Its network.
    pub network: NetworkType,
    /// The commit date of its software.
    #[serde(default)]
    pub commit_date: Option<String>,
    /// The commit count of its software.
    #[serde(default)]
    pub commit_count: Option<String>,
    /// The address that receives its rewards.
    #[serde(default)]
    pub wallet_address: Option<String>,
    /// Round-trip time, in milliseconds.
    #[serde(default)]
    pub latency_ms: Option<u32>,
    /// Number of successful connections.
    #[serde(default)]
    pub successful_connections: u32,
    /// Number of failed connections.
    #[serde(default)]
    pub failed_connections: u32,
}

impl PeerInfo {
    /// A peer of which only the address is known.
    pub fn new(address: SocketAddr, network: NetworkType) -> Self {
        Self::with_version(address, network, UNKNOWN_VERSION.into())
    }

    /// A peer of which address and version are known.
    pub fn with_version(address: SocketAddr, network: NetworkType, version: String) -> Self {
        Self {
            address,
            last_seen: unix_seconds(WallTime::now()),
            version,
            network,
            commit_date: None,
            commit_count: None,
            wallet_address: None,
            latency_ms: None,
            successful_connections: 0,
            failed_connections: 0,
        }
    }

    /// The share of connections that succeeded; 0.0 if there were none.
    pub fn success_rate(&self) -> f64 {
        let (ok, failed) = (f64::from(self.successful_connections), f64::from(self.failed_connections));
        if ok + failed > 0.0 { ok / (ok + failed) } else { 0.0 }
    }

    /// Whether the peer has been silent for more than `stale_threshold_secs` seconds.
    pub fn is_stale(&self, stale_threshold_secs: u64) -> bool {
        unix_seconds(WallTime::now()).saturating_sub(self.last_seen) > stale_threshold_secs
    }
}

/// What a handshake says of a peer.
pub(super) fn peer_info_from_hello(
    network: NetworkType,
    address: SocketAddr,
    hello: &Hello,
    last_seen: u64,
) -> PeerInfo {
    let PeerSoftware { commit_date, commit_count, wallet_address, .. } =
        PeerSoftware::of(&hello.app).unwrap_or_default();
    PeerInfo {
        last_seen,
        commit_date,
        commit_count,
        wallet_address,
        ..PeerInfo::with_version(address, network, hello.agent.clone())
    }
}

/// Whole seconds since 1970.
pub(super) fn unix_seconds(at: WallTime) -> u64 {
    at.as_millis() / 1000
}

/// A round-trip time in whole milliseconds, as the records store it.
pub(super) fn millis_u32(rtt: Duration) -> u32 {
    u32::try_from(rtt.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_legacy_record_round_trips() {
        let text = r#"{"address":"127.0.0.2:24100","last_seen":1795349170,"version":"unknown","network":"Testnet","commit_date":null,"commit_count":null,"wallet_address":null,"latency_ms":null,"successful_connections":0,"failed_connections":0}"#;
        let info: PeerInfo = serde_json::from_str(text).unwrap();
        assert_eq!(info.network, NetworkType::Testnet);
        assert_eq!(serde_json::to_string(&info).unwrap(), text);
    }

    #[test]
    fn a_record_without_the_later_fields_still_reads() {
        let text = r#"{"address":"[::1]:24000","last_seen":1,"version":"0.6","network":"Mainnet"}"#;
        let info: PeerInfo = serde_json::from_str(text).unwrap();
        assert!(info.commit_count.is_none() && info.is_stale(300));
        assert!((info.success_rate() - 0.0).abs() < f64::EPSILON);
    }
}
