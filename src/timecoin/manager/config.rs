//! What a manager is told at its start.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::node::{NodeConfig, RuntimeConfig};
use crate::timecoin::wire::{Software, TimeCoin};
use crate::timecoin::{AnnounceConfig, NetworkType, QuarantineConfig, RateLimiterConfig, WalletConfig};

use super::seeds::SeedProvider;

/// Everything a manager is told at its start. [`ManagerConfig::new`] has the old network's values.
#[derive(Clone, Debug)]
pub struct ManagerConfig {
    /// What the handshake says of our software. The version is [`NodeConfig::agent`] unless one is set here; the wallet is that
    /// of the variable `MASTERNODE_WALLET`, if it is set.
    pub software: Software,
    /// Several nodes share an IP address, told apart by port: for tests and meshes on one host. Default no.
    pub shared_host: bool,
    /// The node underneath: limits, rings, memory, genesis, agent. Network and addresses are the manager's. Default: as
    /// [`NodeConfig::recommended`], but for handshakes, which take 5 s at the longest, and rings of 20 MiB, so that the longest
    /// message of this network fits.
    pub node: NodeConfig,
    /// When silent peers are reaped, and how often one is pinged.
    pub reaper: ReaperConfig,
    /// When more peers are looked for.
    pub reconnect: ReconnectConfig,
    /// Where the first addresses come from.
    pub seeds: SeedConfig,
    /// How long a connection for a single message may take, its handshake included, and how long a write. Default 5 s.
    pub one_shot_timeout: Duration,
    /// Connections for single messages at the same time, half of them at the most to tell wallets of transactions. Default 10; more
    /// wait, 30 s at the longest. With 0 questions are asked over the connections
    /// that there are, and messages still get one of their own.
    pub max_one_shots: usize,
    /// How long an old node that has dialled us reads nothing. Default 15 s.
    pub legacy_read_pause: Duration,
    /// Whether questions of peers count against [`ManagerConfig::rate_limit`] and are not answered above it. Default no, as of old:
    /// the application asks [`check_rate_limit`](super::PeerManager::check_rate_limit) itself.
    pub enforce_rate_limit: bool,
    /// How often a peer may ask.
    pub rate_limit: RateLimiterConfig,
    /// How long offenders are kept out.
    pub quarantine: QuarantineConfig,
    /// How often new peers are announced.
    pub announce: AnnounceConfig,
    /// How many wallets may be subscribed to.
    pub wallets: WalletConfig,
    /// Blocks that one call of [`sync_recent_blocks`](super::PeerManager::sync_recent_blocks) fetches at the most. Default
    /// 10,000.
    pub max_sync_blocks: u64,
    /// Bytes that a snapshot may have unpacked. Default 64 MiB.
    pub max_snapshot_bytes: usize,
    /// An old `peers.json` to take into the book. Default none.
    pub peers_json: Option<PathBuf>,
}

/// When silent peers are reaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReaperConfig {
    /// A peer from which nothing came for longer than this is let go. Default 300 s.
    pub stale_after: Duration,
    /// How often a peer is pinged that has been silent for a minute, or for a quarter of `stale_after` where that is less.
    /// Default 30 s.
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
    /// With fewer live peers than this, known addresses are dialled and peers asked for more. Default 8; 0 never.
    pub target_peers: usize,
    /// With fewer live peers than this, the seeds are asked again too. Default 5; 0 never.
    pub seed_below: usize,
    /// How often that is looked at; a lost peer is replaced at once by a known address. Default 30 s.
    pub interval: Duration,
    /// When first. Default 10 s after the start.
    pub initial_delay: Duration,
    /// How long after [`remove_dead_connection`](super::PeerManager::remove_dead_connection) the peer is dialled again, once.
    /// Default 30 s.
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
    /// Addresses. Default none.
    pub addresses: Vec<SocketAddr>,
    /// Whether the variable `TIMECOIN_SEEDS` is read each time: addresses or host names, with or without a port, separated
    /// by commas. Default yes.
    pub environment: bool,
    /// Host names whose addresses are seeds. Default: those of the main network; the test network has none.
    pub dns: Vec<String>,
    /// Asks for a list elsewhere, such as over HTTP: peerpool brings no HTTP client of its own. Default none.
    pub provider: Option<Arc<dyn SeedProvider>>,
    /// How long asking all of them may take. Default 10 s.
    pub timeout: Duration,
}

impl SeedConfig {
    /// The old network's sources.
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
    /// The old network's values.
    pub fn new(network: NetworkType) -> Self {
        let mut node = NodeConfig::recommended();
        // Connect and handshake take 5 s in this network.
        node.runtime.handshake_timeout = Duration::from_secs(5);
        // A log takes messages up to half of its ring.
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

    /// For several nodes on one host: no limits per address, smaller rings, and nobody is looked for.
    pub fn local(network: NetworkType) -> Self {
        let mut config = Self::new(network);
        let local = NodeConfig::local();
        config.node.log_ring_bytes = local.log_ring_bytes;
        config.node.runtime.limits = local.runtime.limits;
        config.reconnect = ReconnectConfig { target_peers: 0, seed_below: 0, ..ReconnectConfig::default() };
        config.seeds.environment = false;
        config.seeds.dns.clear();
        config
    }
}
