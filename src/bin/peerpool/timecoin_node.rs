//! `peerpool node --timecoin`: a node of the TIME Coin network, old nodes and new ones in one pool.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use peerpool::address_book::AddressBook;
use peerpool::node::{Message, NodeConfig, RelayOutcome, RuntimeConfig, StartError, WeakNode};
use peerpool::timecoin::wire::Kind;
use peerpool::timecoin::{
    Answer, ChainSource, Incoming, ManagerConfig, NetworkMessage, NetworkType, PeerManager, Sender,
};
use peerpool::transport::Tcp;

use super::config_file::Settings;

/// Which network, on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Network {
    /// The network that counts.
    Mainnet,
    /// The network for trying things out.
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

/// Where it is to be reached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) network: NetworkType,
    pub(super) listen: SocketAddr,
    /// What old peers are told; the address listened on if not given.
    pub(super) public: Option<SocketAddr>,
}

/// Starts it. It answers for its peers and the time, passes on what it hears, and has no chain.
///
/// # Errors
/// One line for a person.
pub(super) async fn start(
    place: Place,
    settings: Settings,
    book: AddressBook,
) -> Result<PeerManager, String> {
    let Place { network, listen, public } = place;
    let public = public.unwrap_or(listen);
    if public.ip().is_unspecified() {
        return Err(format!("{public} is no address that peers can reach: give one with --public"));
    }
    let Settings { node, tcp, .. } = settings;
    let mut config = ManagerConfig::new(network);
    take_over(&mut config, &node.runtime);
    let usual = NodeConfig::recommended();
    let ring = if node.log_ring_bytes == usual.log_ring_bytes {
        config.node.log_ring_bytes
    } else {
        node.log_ring_bytes
    };
    let handshake = config.node.runtime.handshake_timeout;
    let (native, seeds) = (node.listen.clone(), node.seeds.clone());
    config.node = NodeConfig { log_ring_bytes: ring, ..node };
    config.node.runtime.handshake_timeout = handshake.min(config.node.runtime.handshake_timeout);
    config.seeds.addresses = seeds;
    let passing = Arc::new(Passing::default());
    let mut builder = PeerManager::builder(network, listen, public)
        .config(config)
        .transport(Tcp::new(tcp))
        .book(book)
        .chain(Arc::clone(&passing) as Arc<dyn ChainSource>);
    let mut native = native.into_iter();
    if let Some(first) = native.next() {
        builder = builder.native(first);
    }
    let manager = builder.start().await.map_err(|error| words(&error))?;
    // Set once, here.
    let _ = passing.node.set(manager.node().downgrade());
    for addr in native {
        manager.node().listen("native", addr).await.map_err(|error| words(&error))?;
    }
    Ok(manager)
}

/// A failure to start, for a person.
pub(super) fn words(error: &StartError) -> String {
    match error {
        StartError::Listen { addr, cause } if cause.kind() == std::io::ErrorKind::AddrInUse => {
            format!("cannot listen on {addr}: the address is in use")
        }
        other => other.to_string(),
    }
}

/// A node without a chain: it passes on what concerns everybody, each message once.
#[derive(Default)]
struct Passing {
    node: OnceLock<WeakNode>,
}

impl ChainSource for Passing {
    fn on_message(&self, from: &Sender, message: Incoming) -> Answer<NetworkMessage> {
        let Incoming::Message(message) = message else {
            tracing::debug!(from = %from.ip(), "not a message of this network");
            return Answer::None;
        };
        let kind = message.kind();
        let node = self.node.get().and_then(WeakNode::upgrade);
        let (true, Some(node), Ok(payload)) = (is_gossip(kind), node, message.to_bytes()) else {
            tracing::debug!(from = %from.ip(), %kind, "not passed on");
            return Answer::None;
        };
        let message = Message { lane: kind.lane_for(payload.len()), kind: kind.code(), payload };
        match node.relay(&message, Some(from.peer().id())) {
            Ok(RelayOutcome::New) => tracing::debug!(from = %from.ip(), %kind, "passed on"),
            Ok(RelayOutcome::Duplicate) => {}
            Ok(RelayOutcome::Full) => {
                tracing::debug!(from = %from.ip(), %kind, "not passed on: the relay's memory is full")
            }
            Err(error) => tracing::debug!(from = %from.ip(), %kind, %error, "not passed on"),
        }
        Answer::None
    }
}

/// What the network has values of its own for is taken over where it is not as it comes.
fn take_over(config: &mut ManagerConfig, given: &RuntimeConfig) {
    let usual = NodeConfig::recommended().runtime;
    if given.target_peers != usual.target_peers {
        config.reconnect.wanted = given.target_peers;
        config.reconnect.few = config.reconnect.few.min(given.target_peers);
    }
    if given.ping_interval != usual.ping_interval {
        config.reaper.ping_every = given.ping_interval;
    }
    if given.liveness.stale_after != usual.liveness.stale_after {
        config.reaper.stale_after = given.liveness.stale_after;
        if config.reaper.stale_after < config.reaper.ping_every.saturating_mul(2) {
            // Written for the interval beside it, which the file leaves as it comes.
            config.reaper.ping_every = given.ping_interval;
        }
    }
}

/// Whether what is said to one node concerns all.
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
    fn what_the_file_sets_is_taken_over_and_nothing_else() {
        let mut config = ManagerConfig::new(NetworkType::Testnet);
        let (reaper, reconnect) = (config.reaper.clone(), config.reconnect.clone());
        let mut runtime = NodeConfig::recommended().runtime;
        take_over(&mut config, &runtime);
        assert_eq!((&config.reaper, &config.reconnect), (&reaper, &reconnect));
        (runtime.target_peers, runtime.ping_interval) = (0, Duration::from_secs(7));
        take_over(&mut config, &runtime);
        assert_eq!((config.reconnect.wanted, config.reconnect.few), (0, 0));
        assert_eq!(
            (config.reaper.ping_every, config.reaper.stale_after),
            (runtime.ping_interval, reaper.stale_after)
        );
        // Written down beside the usual interval: the network's own is too long for it.
        let mut config = ManagerConfig::new(NetworkType::Testnet);
        let mut runtime = NodeConfig::recommended().runtime;
        runtime.liveness.stale_after = 3 * runtime.ping_interval;
        take_over(&mut config, &runtime);
        assert_eq!(
            (config.reaper.ping_every, config.reaper.stale_after),
            (runtime.ping_interval, runtime.liveness.stale_after)
        );
    }
}
