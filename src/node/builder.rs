//! Starting a node.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::runtime::Handle;

use crate::address_book::{AddRefused, AddressBook, AddressBookConfig, Source, WallTime};
use crate::base::Nonce;
use crate::transport::{BoxListener, Tcp, Transport};
use crate::wire::{Native, Protocol};

use crate::node::config::{ConfigError, NodeConfig};
use crate::node::protocol::config::{ProtocolConfig, ProtocolFactory};
use crate::node::error::StartError;
use crate::node::api::handle::Node;
use crate::node::api::handler::Handler;
use crate::node::runtime::shared::{Parts, Shared};

/// Describes a node; [`NodeBuilder::start`] starts it.
pub struct NodeBuilder {
    config: NodeConfig,
    handler: Box<dyn Handler>,
    transport: Arc<dyn Transport>,
    book: Option<Arc<AddressBook>>,
    /// In place of the native dialect.
    only: Option<Box<dyn ProtocolFactory>>,
    others: Vec<Box<dyn ProtocolFactory>>,
}

impl NodeBuilder {
    pub(super) fn new() -> Self {
        Self {
            config: NodeConfig::recommended(),
            handler: Box::new(()),
            transport: Arc::new(Tcp::default()),
            book: None,
            only: None,
            others: Vec::new(),
        }
    }

    /// The whole configuration. Default: [`NodeConfig::recommended`].
    #[must_use]
    pub fn config(mut self, config: NodeConfig) -> Self {
        self.config = config;
        self
    }

    /// An address to listen on in the native dialect, beside those that are set already. Port 0 takes any.
    #[must_use]
    pub fn listen(mut self, addr: SocketAddr) -> Self {
        self.config.listen.push(addr);
        self
    }

    /// A first address to dial.
    #[must_use]
    pub fn seed(mut self, addr: SocketAddr) -> Self {
        self.config.seeds.push(addr);
        self
    }

    /// The application. Default: ignores events, refuses requests.
    #[must_use]
    pub fn handler(mut self, handler: impl Handler) -> Self {
        self.handler = Box::new(handler);
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

    /// Another dialect that the node speaks, beside those set already. There is one pool and one API over all; a broadcast
    /// is encoded once in each. Each has a name of its own, or starting fails.
    #[must_use]
    pub fn protocol<D: Protocol>(mut self, dialect: ProtocolConfig<D>) -> Self {
        self.others.push(dialect.boxed());
        self
    }

    /// The node's first dialect, in place of the native one: what [`NodeConfig::wire`] says is then of no use, and
    /// [`NodeBuilder::listen`] listens for this one.
    #[must_use]
    pub fn first_protocol<D: Protocol>(mut self, dialect: ProtocolConfig<D>) -> Self {
        self.only = Some(dialect.boxed());
        self
    }

    /// Starts the node: listens, then dials seeds and trusted peers.
    ///
    /// # Errors
    /// See [`StartError`]; nothing stays bound or running then.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing bound and nothing running.
    pub async fn start(self) -> Result<Node, StartError> {
        let transport = Arc::clone(&self.transport);
        let (node, wanted) = self.assemble()?;
        // Bound all before any is accepted from: a node that cannot start has been nobody's peer.
        let mut listeners = Vec::with_capacity(wanted.len());
        for (tongue, addr) in wanted {
            let listener = transport.listen(addr).await;
            listeners.push((tongue, listener.map_err(|cause| StartError::Listen { addr, cause })?));
        }
        for (tongue, listener) in listeners {
            node.shared().accept_from(tongue, listener);
        }
        node.shared().begin();
        Ok(node)
    }

    /// Starts the node without waiting for anything: it listens nowhere until [`NodeRef::listen`](crate::node::NodeRef::listen)
    /// is called.
    ///
    /// # Errors
    /// See [`StartError`]; [`StartError::Config`] also where addresses to listen on were set.
    pub fn start_without_listening(self) -> Result<Node, StartError> {
        let (node, wanted) = self.assemble()?;
        if !wanted.is_empty() {
            let why = "listening takes time: set no address here, or use start".to_owned();
            return Err(ConfigError { field: "listen", why }.into());
        }
        node.shared().begin();
        Ok(node)
    }

    /// The node, of which nothing runs yet, and where it is to listen.
    fn assemble(self) -> Result<(Node, Vec<(usize, SocketAddr)>), StartError> {
        let Self { config, handler, transport, book, only, others } = self;
        config.check()?;
        let executor = Handle::try_current().map_err(|_| StartError::NoRuntime)?;
        let book = book.unwrap_or_else(|| Arc::new(AddressBook::in_memory(AddressBookConfig::default())));
        let first = only.unwrap_or_else(|| ProtocolConfig::new(Native::new(config.wire.clone())).boxed());
        let dialects: Vec<_> = std::iter::once(first).chain(others).collect();
        let mut wanted: Vec<_> = config.listen.iter().map(|addr| (0, *addr)).collect();
        for (at, dialect) in dialects.iter().enumerate() {
            wanted.extend(dialect.listen().iter().map(|addr| (at, *addr)));
            if dialects[..at].iter().any(|other| other.name() == dialect.name()) {
                let why = format!("two dialects named {}", dialect.name());
                return Err(ConfigError { field: "dialect", why }.into());
            }
        }
        config.check_memory(&config.runtime, dialects.len())?;
        let (nonce, relay_key) = random()?;
        enter(&book, &config)?;
        let parts = Parts { nonce, relay_key, book, transport, handler, dialects };
        Ok((Node::new(Arc::new(Shared::new(config, parts, executor))), wanted))
    }
}

impl Shared {
    /// Starts what runs as long as the node does.
    fn begin(self: &Arc<Self>) {
        for waking in self.tongues.iter().filter_map(|tongue| tongue.hub().waker_task()) {
            let stopper = Arc::clone(self);
            self.spawn(async move {
                tokio::select! {
                    () = stopper.stopped() => {}
                    () = waking => {}
                }
            });
        }
        self.spawn(Arc::clone(self).maintain());
    }

    /// Binds an address and accepts from it.
    pub(super) async fn listen(
        self: &Arc<Self>,
        tongue: usize,
        addr: SocketAddr,
    ) -> Result<SocketAddr, StartError> {
        let listener = self.transport.listen(addr).await;
        let listener = listener.map_err(|cause| StartError::Listen { addr, cause })?;
        if self.is_stopping() {
            return Err(StartError::Shutdown);
        }
        Ok(self.accept_from(tongue, listener))
    }

    fn accept_from(self: &Arc<Self>, tongue: usize, listener: BoxListener) -> SocketAddr {
        let addr = listener.local_addr();
        self.listening.lock().push((tongue, addr));
        tracing::info!(%addr, dialect = self.tongues.get(tongue).name(), "listening");
        self.spawn(Arc::clone(self).accept_loop(tongue, listener));
        addr
    }
}

/// Enters the addresses that the operator gave into the book.
fn enter(book: &AddressBook, config: &NodeConfig) -> Result<(), StartError> {
    let now = WallTime::now();
    let bad = |field, addr: &SocketAddr, why: &dyn std::fmt::Display| ConfigError {
        field,
        why: format!("{addr}: {why}"),
    };
    // What the book has become is no fault of the configuration.
    let is_of_book =
        |why: &AddRefused| matches!(why, AddRefused::Full | AddRefused::Banned | AddRefused::SourceQuota);
    for seed in &config.seeds {
        match book.add(*seed, Source::Seed, now) {
            Err(why) if is_of_book(&why) => tracing::warn!(%seed, %why, "a seed is not in the book"),
            added => drop(added.map_err(|why| bad("seeds", seed, &why))?),
        }
    }
    for trusted in &config.trusted {
        match book.set_trusted(*trusted, true, now) {
            Err(why) if is_of_book(&why) => {
                tracing::warn!(%trusted, %why, "a trusted address is not in the book")
            }
            set => set.map_err(|why| bad("trusted", trusted, &why))?,
        }
    }
    Ok(())
}

/// The instance nonce, and the key of the relay's digests.
fn random() -> Result<(Nonce, (u64, u64)), StartError> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes).map_err(|error| StartError::Random(error.to_string()))?;
    let [mut nonce, mut one, mut two] = [[0u8; 16], [0u8; 16], [0u8; 16]];
    nonce.copy_from_slice(&bytes[..16]);
    one[..8].copy_from_slice(&bytes[16..24]);
    two[..8].copy_from_slice(&bytes[24..]);
    let word = |bytes: [u8; 16]| u128::from_le_bytes(bytes) as u64;
    Ok((Nonce(nonce), (word(one), word(two))))
}
