//! Configuration of a [`PeerManager`](super::PeerManager).

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::node::{NodeConfig, RuntimeConfig};
use crate::timecoin::wire::{Software, TimeCoin};
use crate::timecoin::{AnnounceConfig, NetworkType, QuarantineConfig, RateLimiterConfig, WalletConfig};

use super::seeds::SeedProvider;

/// Configuration of a manager. [`ManagerConfig::new`] has the network's default values.
#[derive(Clone, Debug)]
pub struct ManagerConfig {
    /// Our software, as announced in the handshake. The version is [`NodeConfig::agent`] unless set
    /// here. The wallet defaults to the environment variable `MASTERNODE_WALLET`.
    pub software: Software,
    /// Whether several nodes share an IP address and are distinguished by port: for tests and
    /// meshes on one host. Default `false`.
    pub shared_host: bool,
    /// The underlying node: limits, rings, memory, genesis, agent. Network and addresses are set by
    /// the manager. Default: [`NodeConfig::recommended`], except for handshakes (5 s) and rings (20
    /// MiB, so that this network's longest message fits).
    pub node: NodeConfig,
    /// When silent peers are pinged and reaped.
    pub reaper: ReaperConfig,
    /// When more peers are looked for.
    pub reconnect: ReconnectConfig,
    /// Where the first addresses come from.
    pub seeds: SeedConfig,
    /// Time limit for dial and handshake of a one-shot connection, and for each write. Default 5 s.
    pub one_shot_timeout: Duration,
    /// Maximum number of one-shot connections, of which at most half notify wallets. Default 10.
    /// More wait for a slot, at most 30 s. With 0, requests use existing connections only; messages
    /// still get a one-shot connection.
    pub max_one_shots: usize,
    /// How long a legacy node that has dialled us reads nothing. Default 15 s.
    pub legacy_read_pause: Duration,
    /// Whether requests beyond [`ManagerConfig::rate_limit`] go unanswered. Default `false`, as in
    /// the legacy crate: the application calls
    /// [`check_rate_limit`](super::PeerManager::check_rate_limit).
    pub enforce_rate_limit: bool,
    /// Limits on a peer's requests.
    pub rate_limit: RateLimiterConfig,
    /// Limits and durations of the quarantine.
    pub quarantine: QuarantineConfig,
    /// Limits on announcing new peers.
    pub announce: AnnounceConfig,
    /// Limits on wallet subscriptions.
    pub wallets: WalletConfig,
    /// Maximum number of blocks that one call of
    /// [`sync_recent_blocks`](super::PeerManager::sync_recent_blocks) downloads. Default 10,000.
    pub max_sync_blocks: u64,
    /// Maximum uncompressed size of a snapshot, in bytes. Default 64 MiB.
    pub max_snapshot_bytes: usize,
    /// A legacy `peers.json` to import into the address book. Default none.
    pub peers_json: Option<PathBuf>,
}

/// When silent peers are pinged and reaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReaperConfig {
    /// Silence after which a peer is disconnected. Default 300 s.
    pub stale_after: Duration,
    /// Interval of the pings to a silent peer. A peer counts as silent after a minute, or after a
    /// quarter of `stale_after` if that is less. Default 30 s.
    pub ping_every: Duration,
}

impl Default for ReaperConfig {
    fn default() -> Self {
        Self { stale_after: Duration::from_secs(300), ping_every: Duration::from_secs(30) }
    }
}

impl ReaperConfig {
    pub(super) fn apply(&self, runtime: &mut RuntimeConfig) {
        runtime.liveness.stale_after = self.stale_after;
        runtime.ping_interval = self.ping_every;
    }
}

/// When more peers are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReconnectConfig {
    /// With fewer live peers than this, known addresses are dialled and peers are asked for more.
    /// Default 8; 0 never.
    pub target_peers: usize,
    /// With fewer live peers than this, the seeds are asked too. Default 5; 0 never.
    pub seed_below: usize,
    /// Interval of the check. A lost peer is replaced by a known address at once. Default 30 s.
    pub interval: Duration,
    /// Delay before the first check. Default 10 s.
    pub initial_delay: Duration,
    /// Delay before the peer of a
    /// [`remove_dead_connection`](super::PeerManager::remove_dead_connection) is dialled again,
    /// once. Default 30 s.
    pub redial_delay: Duration,
}

impl Default for ReconnectConfig {
    fn default() -> Self {
        Self {
            target_peers: 8,
            seed_below: 5,
            interval: Duration::from_secs(30),
            initial_delay: Duration::from_secs(10),
            redial_delay: Duration::from_secs(30),
        }
    }
}

/// Where the first addresses come from.
#[derive(Clone)]
pub struct SeedConfig {
    /// Fixed addresses. Default none.
    pub addresses: Vec<SocketAddr>,
    /// Whether to read the environment variable `TIMECOIN_SEEDS` each time: addresses or host
    /// names, with or without a port, separated by commas. Default `true`.
    pub environment: bool,
    /// Host names whose addresses are seeds. Default: those of the main network; the test network
    /// has none.
    pub dns: Vec<String>,
    /// Another source of addresses, such as an HTTP client; this crate has none. Default none.
    pub provider: Option<Arc<dyn SeedProvider>>,
    /// Time limit for all sources together. Default 10 s.
    pub timeout: Duration,
}

impl SeedConfig {
    /// The network's default sources.
    pub fn new(network: NetworkType) -> Self {
        let dns = match network {
            NetworkType::Mainnet => vec!["dnsseed.time-coin.io".into(), "seed.time-coin.io".into()],
            NetworkType::Testnet => Vec::new(),
        };
        Self {
            addresses: Vec::new(),
            environment: true,
            dns,
            provider: None,
            timeout: Duration::from_secs(10),
        }
    }
}

impl fmt::Debug for SeedConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SeedConfig")
            .field("addresses", &self.addresses)
            .field("environment", &self.environment)
            .field("dns", &self.dns)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl ManagerConfig {
    /// The network's default values.
    pub fn new(network: NetworkType) -> Self {
        let mut node = NodeConfig::recommended();
        // The network's time limit for dial and handshake.
        node.runtime.handshake_timeout = Duration::from_secs(5);
        // A log accepts messages of up to half its ring.
        node.log_ring_bytes = node.log_ring_bytes.max(2 * (TimeCoin::MAX_MESSAGE + 4));
        let wallet_address = std::env::var("MASTERNODE_WALLET").ok();
        let software = Software { wallet_address, ..Software::default() };
        Self {
            software,
            shared_host: false,
            node,
            reaper: ReaperConfig::default(),
            reconnect: ReconnectConfig::default(),
            seeds: SeedConfig::new(network),
            one_shot_timeout: Duration::from_secs(5),
            max_one_shots: 10,
            legacy_read_pause: Duration::from_secs(15),
            enforce_rate_limit: false,
            rate_limit: RateLimiterConfig::default(),
            quarantine: QuarantineConfig::default(),
            announce: AnnounceConfig::default(),
            wallets: WalletConfig::default(),
            max_sync_blocks: 10_000,
            max_snapshot_bytes: 64 * 1024 * 1024,
            peers_json: None,
        }
    }

    /// For several nodes on one host: no limits per address, smaller rings, no discovery.
    pub fn local(network: NetworkType) -> Self {
        let mut config = Self::new(network);
        let local = NodeConfig::local();
        config.node.log_ring_bytes = local.log_ring_bytes;
        config.node.runtime.limits = local.runtime.limits;
        config.node.runtime.discovery = local.runtime.discovery;
        config.reconnect = ReconnectConfig { target_peers: 0, seed_below: 0, ..ReconnectConfig::default() };
        config.seeds.environment = false;
        config.seeds.dns.clear();
        config
    }
}
