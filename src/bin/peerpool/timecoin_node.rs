//! `peerpool node --timecoin`: a node of the TIME Coin network.
//!
//! It serves legacy nodes (JSON protocol) and peerpool nodes (native protocol) in one pool. It has
//! no chain: [`GossipRelay`] relays gossip, each message once, and the library answers for peers
//! and time.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use peerpool::address_book::AddressBook;
use peerpool::timecoin::wire::Kind;
use peerpool::timecoin::{
    ChainSource, Incoming, ManagerConfig, ManagerStartError, NetworkMessage, NetworkType, PeerManager, Reply,
    Sender,
};
use peerpool::transport::Tcp;
use peerpool::{Endpoint, Message, NodeConfig, RelayOutcome, RuntimeConfig, StartError, WeakNode};

use super::config_file::Settings;

/// The value of `--network`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Network {
    /// The production network.
    Mainnet,
    /// The test network.
    Testnet,
}

impl From<Network> for NetworkType {
    fn from(network: Network) -> Self {
        match network {
            Network::Mainnet => Self::Mainnet,
            Network::Testnet => Self::Testnet,
        }
    }
}

/// The network and the addresses of the node.
#[derive(Clone, Copy, Debug)]
pub(super) struct ListenAddrs {
    pub(super) network: NetworkType,
    pub(super) listen: SocketAddr,
    /// The address to announce to legacy peers. Default: `listen`.
    pub(super) public: Option<SocketAddr>,
}

/// Starts the node.
///
/// # Errors
/// A one-line message for the operator.
pub(super) async fn start(
    addrs: ListenAddrs,
    settings: Settings,
    book: AddressBook,
) -> Result<PeerManager, String> {
    let ListenAddrs { network, listen, public } = addrs;
    let public = public.unwrap_or(listen);
    if public.ip().is_unspecified() {
        return Err(format!("peers cannot reach {public}: give a reachable address with --public"));
    }
    let Settings { node, tcp, .. } = settings;
    let mut config = ManagerConfig::new(network);
    apply_settings(&mut config, &node.runtime);
    let default = NodeConfig::recommended();
    let ring = if node.log_ring_bytes == default.log_ring_bytes {
        config.node.log_ring_bytes
    } else {
        node.log_ring_bytes
    };
    let handshake = config.node.runtime.handshake_timeout;
    let native = node.listen.clone();
    // The node looks up names itself.
    let seeds = node.seeds.iter().filter_map(|seed| match seed {
        Endpoint::Addr(addr) => Some(*addr),
        Endpoint::Name { .. } => None,
    });
    let seeds = seeds.collect();
    config.node = NodeConfig { log_ring_bytes: ring, ..node };
    config.node.runtime.handshake_timeout = handshake.min(config.node.runtime.handshake_timeout);
    config.seeds.addresses = seeds;
    let relay = Arc::new(GossipRelay::default());
    let mut builder = PeerManager::builder(network, listen, public)
        .config(config)
        .transport(Tcp::new(tcp))
        .book(book)
        .chain(Arc::clone(&relay) as Arc<dyn ChainSource>);
    let mut native = native.into_iter();
    if let Some(first) = native.next() {
        builder = builder.native(first);
    }
    let manager = builder.start().await.map_err(|error| match error {
        ManagerStartError::Node(error) => describe(&error),
        other => other.to_string(),
    })?;
    // The only call of `set`, so it cannot fail.
    let _ = relay.node.set(manager.node().downgrade());
    for addr in native {
        manager.node().listen("native", addr).await.map_err(|error| describe(&error))?;
    }
    Ok(manager)
}

/// Describes a failed start to the operator.
pub(super) fn describe(error: &StartError) -> String {
    match error {
        StartError::Listen { addr, cause } if cause.kind() == std::io::ErrorKind::AddrInUse => {
            format!("cannot listen on {addr}: the address is in use")
        }
        other => other.to_string(),
    }
}

/// The application of a node without a chain: relays gossip, each message once.
#[derive(Default)]
struct GossipRelay {
    node: OnceLock<WeakNode>,
}

impl ChainSource for GossipRelay {
    fn on_message(&self, from: &Sender, message: Incoming) -> Reply<NetworkMessage> {
        let Incoming::Message(message) = message else {
            tracing::debug!(from = %from.ip(), "not a message of this network");
            return Reply::None;
        };
        let kind = message.kind();
        let node = self.node.get().and_then(WeakNode::upgrade);
        let (true, Some(node), Ok(payload)) = (is_gossip(kind), node, message.to_bytes()) else {
            tracing::debug!(from = %from.ip(), %kind, "not relayed");
            return Reply::None;
        };
        let message = Message { lane: kind.lane_for(payload.len()), kind: kind.code(), payload };
        match node.relay(&message, Some(from.peer())) {
            Ok(RelayOutcome::New) => tracing::debug!(from = %from.ip(), %kind, "relayed"),
            Ok(RelayOutcome::Duplicate) => {}
            Ok(RelayOutcome::Full) => {
                tracing::debug!(from = %from.ip(), %kind, "not relayed: the relay's memory is full")
            }
            Err(error) => tracing::debug!(from = %from.ip(), %kind, %error, "not relayed"),
        }
        Reply::None
    }
}

/// Applies settings for which the TIME Coin network has defaults of its own.
///
/// Only settings that differ from [`NodeConfig::recommended`] are applied; for the others the
/// network's default stays.
fn apply_settings(config: &mut ManagerConfig, given: &RuntimeConfig) {
    let default = NodeConfig::recommended().runtime;
    if given.target_outbound != default.target_outbound {
        config.reconnect.target_peers = given.target_outbound;
        config.reconnect.seed_below = config.reconnect.seed_below.min(given.target_outbound);
    }
    if given.ping_interval != default.ping_interval {
        config.reaper.ping_every = given.ping_interval;
    }
    if given.liveness.stale_after != default.liveness.stale_after {
        config.reaper.stale_after = given.liveness.stale_after;
        if config.reaper.stale_after < config.reaper.ping_every.saturating_mul(2) {
            // The file's stale time fits the ping interval of the file, here the native default.
            config.reaper.ping_every = given.ping_interval;
        }
    }
}

/// Returns whether messages of this kind are for every node of the network.
fn is_gossip(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Transaction
            | Kind::BlockProposal
            | Kind::TransactionBroadcast
            | Kind::FinalizedTransactionBroadcast
            | Kind::MempoolAdd
            | Kind::InstantFinalityVote
            | Kind::ConsensusBlockProposal
            | Kind::ConsensusBlockVote
            | Kind::ConsensusTxProposal
            | Kind::ConsensusTxVote
            | Kind::UTXOStateNotification
            | Kind::UtxoLockBroadcast
            | Kind::UtxoCommit
            | Kind::UtxoConflictResolution
            | Kind::TransactionRejectedByNetwork
            | Kind::MasternodeAnnouncement
    )
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn only_settings_that_differ_from_the_default_are_applied() {
        let mut config = ManagerConfig::new(NetworkType::Testnet);
        let (reaper, reconnect) = (config.reaper.clone(), config.reconnect.clone());
        let mut runtime = NodeConfig::recommended().runtime;
        apply_settings(&mut config, &runtime);
        assert_eq!((&config.reaper, &config.reconnect), (&reaper, &reconnect));
        (runtime.target_outbound, runtime.ping_interval) = (0, Duration::from_secs(7));
        apply_settings(&mut config, &runtime);
        assert_eq!((config.reconnect.target_peers, config.reconnect.seed_below), (0, 0));
        assert_eq!(
            (config.reaper.ping_every, config.reaper.stale_after),
            (runtime.ping_interval, reaper.stale_after)
        );
        // The network's own ping interval is too long for this stale time.
        let mut config = ManagerConfig::new(NetworkType::Testnet);
        let mut runtime = NodeConfig::recommended().runtime;
        runtime.liveness.stale_after = 3 * runtime.ping_interval;
        apply_settings(&mut config, &runtime);
        assert_eq!(
            (config.reaper.ping_every, config.reaper.stale_after),
            (runtime.ping_interval, runtime.liveness.stale_after)
        );
    }
}
