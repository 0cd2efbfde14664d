//! Starting a manager.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::{Semaphore, watch};

use crate::address_book::{AddressBook, AddressBookConfig, WallTime};
use crate::base::canonical;
use crate::node::{LagPolicy, Node, ProtocolConfig, StartError};
use crate::sync::Mutex;
use crate::timecoin::alone::Alone;
use crate::timecoin::chain::ChainSource;
use crate::timecoin::connection::Maker;
use crate::timecoin::import::{ImportError, import_peers_json};
use crate::timecoin::listener::our_hello;
use crate::timecoin::rules::AddressRules;
use crate::timecoin::wire::TimeCoin;
use crate::timecoin::{
    Announcements, NetworkType, PeerExchange, PeerQuarantine, PersistentPeerInfo, RateLimiter,
    WalletSubscriptions,
};
use crate::transport::{BoxFuture, BoxListener, BoxStream, Tcp, Transport};
use crate::wire::Native;

use super::config::ManagerConfig;
use super::handler::Listening;
use super::state::{State, Tasks};
use super::{Inner, PeerManager};

/// Describes a manager; [`PeerManagerBuilder::build`] or [`PeerManagerBuilder::start`] starts it.
pub struct PeerManagerBuilder {
    network: NetworkType,
    listen: SocketAddr,
    public: SocketAddr,
    config: ManagerConfig,
    chain: Arc<dyn ChainSource>,
    transport: Arc<dyn Transport>,
    book: Option<Arc<AddressBook>>,
    native: Option<SocketAddr>,
    /// What an old file told already.
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

    /// The whole configuration. Default: [`ManagerConfig::new`].
    #[must_use]
    pub fn config(mut self, config: ManagerConfig) -> Self {
        self.config = config;
        self
    }

    /// What the node knows of its chain. Default: nothing.
    #[must_use]
    pub fn chain(mut self, chain: Arc<dyn ChainSource>) -> Self {
        self.chain = chain;
        self
    }

    /// What dials and listens. Default: TCP.
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

    /// Speaks the native dialect too, and listens for it at this address when started: one pool and one API over old peers and
    /// new ones. Addresses of which nothing is known are still dialled as old ones; new ones are dialled with
    /// [`NodeRef::connect_in`](crate::node::NodeRef::connect_in).
    #[must_use]
    pub fn native(mut self, addr: SocketAddr) -> Self {
        self.native = Some(addr);
        self
    }

    /// Starts the manager without waiting for anything: it listens nowhere yet. An old `peers.json` that cannot be read is logged
    /// and left; see [`PeerManagerBuilder::import`].
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn build(self) -> Result<PeerManager, StartError> {
        let Self { network, listen, public, mut config, chain, transport, book, native, imported } = self;
        let book = book.unwrap_or_else(|| Arc::new(AddressBook::in_memory(AddressBookConfig::default())));
        let quarantine = Arc::new(PeerQuarantine::with_config(config.quarantine.clone()));
        let asked = Arc::new(Alone::default());
        let mut rules =
            AddressRules::new(network, public).shunning(Arc::clone(&quarantine)).sparing(Arc::clone(&asked));
        if config.shared_host {
            rules = rules.several_per_ip();
        }
        config.node.network = network.id();
        config.node.listen.clear();
        config.reaper.apply(&mut config.node.runtime);
        config.node.runtime.target_peers = config.reconnect.wanted;
        let dialect = TimeCoin::new(network, config.software.clone());
        let hello = our_hello(network, public, config.node.genesis, config.node.agent.clone());
        let maker = Maker {
            transport: Arc::clone(&transport),
            dialect: Arc::new(dialect.clone()),
            hello,
            within: config.one_shot,
        };
        rules.follow(config.reaper.stale_after);
        let places = config.one_shots.clamp(1, Semaphore::MAX_PERMITS);
        let state = Arc::new(State {
            network,
            public,
            rules: rules.clone(),
            chain,
            book: Arc::clone(&book),
            quarantine,
            limiter: Arc::new(RateLimiter::with_config(config.rate.clone())),
            exchange: Mutex::new(PeerExchange::new(network)),
            announced: Mutex::new(Announcements::new(config.announce.clone())),
            wallets: Mutex::new(WalletSubscriptions::new(config.wallets.clone())),
            mute: Mutex::new(HashMap::new()),
            redials: Mutex::new(HashSet::new()),
            maker,
            one_shots: Semaphore::new(places),
            asked,
            notices: Semaphore::new((places / 2).max(1)),
            reconnect: watch::Sender::new(config.reconnect.clone()),
            tasks: Tasks::new(),
            config,
        });
        restore(&state, imported);
        let old = ProtocolConfig::new(dialect)
            .advertise(public)
            .policy(rules)
            // An old node that dialled us may read nothing for long: it misses messages, and is not thrown out for it.
            .lag([LagPolicy::Skip; 3]);
        let mut node = Node::builder()
            .config(state.config.node.clone())
            .handler(Listening(Arc::clone(&state)))
            .transport(Shared(transport))
            .book(book)
            .first_protocol(old);
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

    /// Starts the manager and listens: at the address it was given for old peers, and for new ones where
    /// [`PeerManagerBuilder::native`] says so.
    ///
    /// # Errors
    /// See [`StartError`]; nothing stays bound or running then.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing bound and nothing running.
    pub async fn start(self) -> Result<PeerManager, StartError> {
        let native = self.native;
        let manager = self.build()?;
        manager.listen(None).await?;
        if let Some(addr) = native {
            manager.node().listen("native", addr).await?;
        }
        Ok(manager)
    }

    /// Takes an old `peers.json`, if the configuration names one, into the book, once; see [`import_peers_json`]. Starting does so
    /// too; this is for whoever wants to see what is wrong with the file.
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

/// What was known before: the old file's records, then the book's addresses.
fn restore(state: &State, imported: Vec<PersistentPeerInfo>) {
    imported.into_iter().for_each(|record| state.exchange.lock().restore(record));
    if let Some(path) = &state.config.peers_json {
        match import_peers_json(path, state.network, &state.book, WallTime::now()) {
            Ok(Some(imported)) => {
                tracing::info!(added = imported.added, skipped = imported.skipped, "old peers imported");
                let mut exchange = state.exchange.lock();
                imported.records.into_iter().for_each(|record| exchange.restore(record));
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "old peers not imported"),
        }
    }
    let mut exchange = state.exchange.lock();
    for known in state.book.addresses() {
        exchange.restore_from_book(&known);
    }
}

/// One transport for the node and for connections of single messages.
struct Shared(Arc<dyn Transport>);

impl Transport for Shared {
    fn dial(&self, addr: SocketAddr) -> BoxFuture<'_, std::io::Result<BoxStream>> {
        self.0.dial(addr)
    }

    fn listen(&self, addr: SocketAddr) -> BoxFuture<'_, std::io::Result<BoxListener>> {
        self.0.listen(addr)
    }
}
