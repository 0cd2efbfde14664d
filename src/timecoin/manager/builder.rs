//! Builds and starts a [`PeerManager`].

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::{Semaphore, watch};

use crate::address_book::{AddressBook, AddressBookConfig, WallTime};
use crate::base::canonical;
use crate::node::{LagPolicy, Node, ProtocolConfig};
use crate::sync::Mutex;
use crate::timecoin::address_policy::AddressPolicy;
use crate::timecoin::chain::ChainSource;
use crate::timecoin::connection::Connector;
use crate::timecoin::listener::our_hello;
use crate::timecoin::one_shot_lock::OneShotLocks;
use crate::timecoin::peers_json::{ImportError, import_peers_json};
use crate::timecoin::wire::TimeCoin;
use crate::timecoin::{
    Announcements, NetworkType, PeerExchange, PeerQuarantine, PersistentPeerInfo, RateLimiter,
    WalletSubscriptions,
};
use crate::transport::{BoxFuture, BoxListener, BoxStream, Tcp, Transport};
use crate::wire::Native;

use super::config::ManagerConfig;
use super::error::ManagerStartError;
use super::handler::ManagerHandler;
use super::state::{State, Tasks};
use super::{Inner, PeerManager};

/// Settings of a manager; [`PeerManagerBuilder::build`] or [`PeerManagerBuilder::start`] starts it.
pub struct PeerManagerBuilder {
    network: NetworkType,
    listen: SocketAddr,
    public: SocketAddr,
    config: ManagerConfig,
    chain: Arc<dyn ChainSource>,
    transport: Arc<dyn Transport>,
    book: Option<Arc<AddressBook>>,
    native: Option<SocketAddr>,
    /// Records imported from a `peers.json`.
    imported: Vec<PersistentPeerInfo>,
}

impl PeerManagerBuilder {
    pub(super) fn new(network: NetworkType, listen: SocketAddr, public: SocketAddr) -> Self {
        Self {
            network,
            listen: canonical(listen),
            public: canonical(public),
            config: ManagerConfig::new(network),
            chain: Arc::new(()),
            transport: Arc::new(Tcp::default()),
            book: None,
            native: None,
            imported: Vec::new(),
        }
    }

    /// The configuration. Default: [`ManagerConfig::new`].
    #[must_use]
    pub fn config(mut self, config: ManagerConfig) -> Self {
        self.config = config;
        self
    }

    /// The application's chain. Default: none.
    #[must_use]
    pub fn chain(mut self, chain: Arc<dyn ChainSource>) -> Self {
        self.chain = chain;
        self
    }

    /// The transport to dial and listen with. Default: TCP.
    #[must_use]
    pub fn transport(mut self, transport: impl Transport) -> Self {
        self.transport = Arc::new(transport);
        self
    }

    /// The address book. Default: in memory.
    #[must_use]
    pub fn book(mut self, book: impl Into<Arc<AddressBook>>) -> Self {
        self.book = Some(book.into());
        self
    }

    /// Also speaks the native protocol, and listens for it at `addr` when started: one pool and one
    /// API over legacy nodes and peerpool nodes. Addresses of unknown protocol are dialled in this
    /// network's; native peers are dialled with
    /// [`NodeRef::connect_in`](crate::node::NodeRef::connect_in).
    #[must_use]
    pub fn native(mut self, addr: SocketAddr) -> Self {
        self.native = Some(addr);
        self
    }

    /// Starts the manager without listening and without waiting.
    ///
    /// # Errors
    /// See [`ManagerStartError`]: a `peers.json` that cannot be read is one.
    pub fn build(self) -> Result<PeerManager, ManagerStartError> {
        let Self { network, listen, public, mut config, chain, transport, book, native, imported } = self;
        let book = book.unwrap_or_else(|| Arc::new(AddressBook::in_memory(AddressBookConfig::default())));
        let quarantine = Arc::new(PeerQuarantine::with_config(config.quarantine.clone()));
        let one_shot_locks = Arc::new(OneShotLocks::default());
        let mut policy = AddressPolicy::new(network, public)
            .with_quarantine(Arc::clone(&quarantine))
            .with_one_shot_locks(Arc::clone(&one_shot_locks));
        if config.shared_host {
            policy = policy.distinguish_ports();
        }
        config.node.network = network.id();
        config.node.listen.clear();
        config.reaper.apply(&mut config.node.runtime);
        config.node.runtime.target_outbound = config.reconnect.target_peers;
        let protocol = TimeCoin::new(network, config.software.clone());
        let hello = our_hello(network, public, config.node.genesis, config.node.agent.clone());
        let connector = Connector {
            transport: Arc::clone(&transport),
            protocol: Arc::new(protocol.clone()),
            hello,
            time_limit: config.one_shot_timeout,
        };
        policy.ping_before_stale(config.reaper.stale_after);
        let max_one_shots = config.max_one_shots.clamp(1, Semaphore::MAX_PERMITS);
        let state = Arc::new(State {
            network,
            public,
            policy: policy.clone(),
            chain,
            book: Arc::clone(&book),
            quarantine,
            limiter: Arc::new(RateLimiter::with_config(config.rate_limit.clone())),
            exchange: Mutex::new(PeerExchange::new(network)),
            announced: Mutex::new(Announcements::new(config.announce.clone())),
            wallets: Mutex::new(WalletSubscriptions::new(config.wallets.clone())),
            read_paused_until: Mutex::new(HashMap::new()),
            redials: Mutex::new(HashSet::new()),
            connector,
            one_shots: Semaphore::new(max_one_shots),
            one_shot_locks,
            notices: Semaphore::new((max_one_shots / 2).max(1)),
            reconnect: watch::Sender::new(config.reconnect.clone()),
            tasks: Tasks::new(),
            config,
        });
        restore_known_peers(&state, imported)?;
        let legacy = ProtocolConfig::new(protocol)
            .advertise(public)
            .policy(policy)
            // A legacy node that dialled us may not read for long. It skips messages and stays
            // connected.
            .lag([LagPolicy::Skip; 3]);
        let mut node = Node::builder()
            .config(state.config.node.clone())
            .handler(ManagerHandler(Arc::clone(&state)))
            .transport(SharedTransport(transport))
            .book(book)
            .first_protocol(legacy);
        if native.is_some() {
            let native = ProtocolConfig::new(Native::new(state.config.node.wire.clone()));
            node = node.protocol(match state.config.node.advertise {
                Some(addr) => native.advertise(addr),
                None => native,
            });
        }
        let inner = Arc::new(Inner { node: node.start_without_listening()?, state, listen });
        let manager = PeerManager { network, inner };
        manager.start_background();
        Ok(manager)
    }

    /// Starts the manager and listens: at its listen address for this network's protocol, and at
    /// the address given to [`PeerManagerBuilder::native`] for the native one.
    ///
    /// # Errors
    /// See [`ManagerStartError`]; nothing stays bound or running.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing bound and nothing running.
    pub async fn start(self) -> Result<PeerManager, ManagerStartError> {
        let native = self.native;
        let manager = self.build()?;
        manager.listen(None).await?;
        if let Some(addr) = native {
            manager.node().listen("native", addr).await?;
        }
        Ok(manager)
    }

    /// Imports the configured `peers.json` into the address book, once, and returns the number of
    /// new addresses; see [`import_peers_json`]. Starting does so too; this method tells how many.
    ///
    /// # Errors
    /// See [`ImportError`].
    pub fn import(&mut self) -> Result<usize, ImportError> {
        let Some(path) = self.config.peers_json.take() else { return Ok(0) };
        let book =
            self.book.get_or_insert_with(|| Arc::new(AddressBook::in_memory(AddressBookConfig::default())));
        let imported = import_peers_json(&path, self.network, book, WallTime::now())?;
        let Some(imported) = imported else { return Ok(0) };
        self.imported.extend(imported.records);
        Ok(imported.added)
    }
}

/// Restores known peers: the imported records, then the addresses in the book.
fn restore_known_peers(state: &State, imported: Vec<PersistentPeerInfo>) -> Result<(), ImportError> {
    let now = WallTime::now();
    let mut exchange = state.exchange.lock();
    imported.into_iter().for_each(|record| exchange.restore(record, now));
    if let Some(path) = &state.config.peers_json
        && let Some(imported) = import_peers_json(path, state.network, &state.book, now)?
    {
        tracing::info!(added = imported.added, skipped = imported.skipped, "peers.json imported");
        imported.records.into_iter().for_each(|record| exchange.restore(record, now));
    }
    for known in state.book.addresses() {
        exchange.restore_from_book(&known, now);
    }
    Ok(())
}

/// A transport shared by the node and the one-shot connections.
struct SharedTransport(Arc<dyn Transport>);

impl Transport for SharedTransport {
    fn dial(&self, addr: SocketAddr) -> BoxFuture<'_, std::io::Result<BoxStream>> {
        self.0.dial(addr)
    }

    fn listen(&self, addr: SocketAddr) -> BoxFuture<'_, std::io::Result<BoxListener>> {
        self.0.listen(addr)
    }
}
