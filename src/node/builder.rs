//! Configuring and starting a node.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::address_book::{AddRefused, AddressBook, AddressBookConfig, ReportedBy, WallTime};
use crate::base::{Endpoint, Nonce};
use crate::transport::{Tcp, Transport};
use crate::wire::{Native, Protocol};

use super::api::handle::Node;
use super::api::handler::Handler;
use super::config::{ConfigError, NodeConfig};
use super::connect::accept::Acceptor;
use super::error::StartError;
use super::protocol::ProtocolId;
use super::protocol::config::{ProtocolConfig, ProtocolFactory};
use super::runtime::maintenance::Maintenance;
use super::runtime::shared::{Parts, Shared};

/// The most protocols of one node.
const MAX_PROTOCOLS: usize = 256;

/// Configures a node; [`NodeBuilder::start`] starts it.
#[must_use = "a builder does nothing until it is started"]
pub struct NodeBuilder {
    config: NodeConfig,
    handler: Box<dyn Handler>,
    transport: Arc<dyn Transport>,
    book: Option<Arc<AddressBook>>,
    /// `None` for the native protocol.
    first_protocol: Option<Box<dyn ProtocolFactory>>,
    more_protocols: Vec<Box<dyn ProtocolFactory>>,
}

impl Node {
    /// A builder with the recommended configuration.
    pub fn builder() -> NodeBuilder {
        NodeBuilder {
            config: NodeConfig::recommended(),
            handler: Box::new(()),
            transport: Arc::new(Tcp::default()),
            book: None,
            first_protocol: None,
            more_protocols: Vec::new(),
        }
    }
}

impl fmt::Debug for NodeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeBuilder").field("config", &self.config).finish_non_exhaustive()
    }
}

impl NodeBuilder {
    /// Sets the whole configuration. Default: [`NodeConfig::recommended`].
    pub fn config(mut self, config: NodeConfig) -> Self {
        self.config = config;
        self
    }

    /// Adds an address to listen on in the node's first protocol. Port 0 takes any free port.
    pub fn listen(mut self, addr: SocketAddr) -> Self {
        self.config.listen.push(addr);
        self
    }

    /// Adds a first address to dial.
    pub fn seed(mut self, seed: impl Into<Endpoint>) -> Self {
        self.config.seeds.push(seed.into());
        self
    }

    /// Sets the application's handler. Default: ignores events and rejects requests.
    pub fn handler(mut self, handler: impl Handler) -> Self {
        self.handler = Box::new(handler);
        self
    }

    /// Sets the transport. Default: TCP.
    pub fn transport(mut self, transport: impl Transport) -> Self {
        self.transport = Arc::new(transport);
        self
    }

    /// Sets the address book. Default: one in memory.
    pub fn book(mut self, book: impl Into<Arc<AddressBook>>) -> Self {
        self.book = Some(book.into());
        self
    }

    /// Adds a protocol that the node speaks too. All protocols share one pool and one API; a
    /// broadcast is encoded once in each. Names must differ, or starting fails.
    pub fn protocol<P: Protocol>(mut self, protocol: ProtocolConfig<P>) -> Self {
        self.more_protocols.push(protocol.boxed());
        self
    }

    /// Replaces the native protocol as the node's first. [`NodeConfig::wire`] then has no effect,
    /// and [`NodeBuilder::listen`] listens for this protocol.
    pub fn first_protocol<P: Protocol>(mut self, protocol: ProtocolConfig<P>) -> Self {
        self.first_protocol = Some(protocol.boxed());
        self
    }

    /// Starts the node: it listens, then dials seeds and trusted addresses.
    ///
    /// # Errors
    /// See [`StartError`]; nothing stays bound or running then.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing bound and nothing running.
    pub async fn start(self) -> Result<Node, StartError> {
        let transport = Arc::clone(&self.transport);
        let (node, listen_addrs) = self.assemble()?;
        // All are bound before one accepts: a node that cannot start must not have been anybody's
        // peer.
        let mut listeners = Vec::with_capacity(listen_addrs.len());
        for (protocol, addr) in listen_addrs {
            let listener = transport.listen(addr).await;
            listeners.push((protocol, listener.map_err(|cause| StartError::Listen { addr, cause })?));
        }
        let acceptor = Acceptor::new(node.shared());
        for (protocol, listener) in listeners {
            acceptor.accept_from(protocol, listener);
        }
        spawn_tasks(node.shared());
        Ok(node)
    }

    /// Starts the node without listening and without waiting. Call
    /// [`NodeRef::listen`](super::NodeRef::listen) to listen later.
    ///
    /// # Errors
    /// See [`StartError`]; [`StartError::Config`] also if listen addresses were configured.
    pub fn start_without_listening(self) -> Result<Node, StartError> {
        let (node, listen_addrs) = self.assemble()?;
        if !listen_addrs.is_empty() {
            let why = "binding an address has to be awaited: configure none here, or call `start`".to_owned();
            return Err(ConfigError { field: "listen", why }.into());
        }
        spawn_tasks(node.shared());
        Ok(node)
    }

    /// The node, with no task running yet, and the addresses that it is to listen on.
    fn assemble(self) -> Result<(Node, Vec<(ProtocolId, SocketAddr)>), StartError> {
        let Self { config, handler, transport, book, first_protocol, more_protocols } = self;
        config.check_fields()?;
        let executor = Handle::try_current().map_err(|_| StartError::NoRuntime)?;
        check_timers()?;
        let book = book.unwrap_or_else(|| Arc::new(AddressBook::in_memory(AddressBookConfig::default())));
        let native = || ProtocolConfig::new(Native::new(config.wire.clone())).boxed();
        let first = first_protocol.unwrap_or_else(native);
        let protocols: Vec<_> = std::iter::once(first).chain(more_protocols).collect();
        check_protocols(&protocols)?;
        config.check_memory(&config.runtime, protocols.iter().map(|protocol| protocol.max_message()))?;
        let mut listen_addrs: Vec<_> =
            config.listen.iter().map(|addr| (ProtocolId::FIRST, *addr)).collect();
        for (at, protocol) in protocols.iter().enumerate() {
            listen_addrs.extend(protocol.listen_addrs().iter().map(|addr| (ProtocolId::new(at), *addr)));
        }
        let (nonce, digest_key) = random_identity()?;
        add_configured_addrs(&book, &config)?;
        let parts = Parts { nonce, digest_key, book, transport, handler, protocols };
        Ok((Node::new(Arc::new(Shared::new(config, parts, executor))), listen_addrs))
    }
}

/// Spawns the tasks that run as long as the node does: one waker for each protocol's connections,
/// and the maintenance.
fn spawn_tasks(shared: &Arc<Shared>) {
    for waker in shared.protocols.iter().filter_map(|protocol| protocol.wake_set().waker_task()) {
        let stopping = Arc::clone(shared);
        shared.tasks.spawn(async move {
            tokio::select! {
                () = stopping.stopped() => {}
                () = waker => {}
            }
        });
    }
    shared.tasks.spawn(Maintenance::new(shared).run());
}

/// Whether the current runtime has timers. Nothing asks the runtime: making a timer panics if it has
/// none.
fn check_timers() -> Result<(), StartError> {
    let make = || drop(tokio::time::sleep(Duration::ZERO));
    std::panic::catch_unwind(make).map_err(|_| StartError::NoTimers)
}

fn check_protocols(protocols: &[Box<dyn ProtocolFactory>]) -> Result<(), ConfigError> {
    let wrong = |why| Err(ConfigError { field: "protocol", why });
    if protocols.len() > MAX_PROTOCOLS {
        return wrong(format!("at most {MAX_PROTOCOLS} protocols are allowed"));
    }
    for (at, protocol) in protocols.iter().enumerate() {
        if protocols[..at].iter().any(|other| other.name() == protocol.name()) {
            return wrong(format!("two protocols named {}", protocol.name()));
        }
    }
    Ok(())
}

/// Adds the configured seeds and trusted addresses to the address book.
fn add_configured_addrs(book: &AddressBook, config: &NodeConfig) -> Result<(), StartError> {
    let now = WallTime::now();
    let invalid = |field, addr: &SocketAddr, why: &dyn fmt::Display| ConfigError {
        field,
        why: format!("{addr}: {why}"),
    };
    // These refusals depend on the content of the book, and are no fault of the configuration.
    let is_fault_of_book =
        |why: &AddRefused| matches!(why, AddRefused::Full | AddRefused::Banned | AddRefused::SourceQuota);
    let addr_of = |endpoint: &Endpoint| match endpoint {
        Endpoint::Addr(addr) => Some(*addr),
        // Looked up by the maintenance.
        Endpoint::Name { .. } => None,
    };
    for seed in config.seeds.iter().filter_map(addr_of) {
        match book.add(seed, ReportedBy::Seed, now) {
            Err(why) if is_fault_of_book(&why) => {
                tracing::warn!(%seed, %why, "a seed is not in the address book");
            }
            added => drop(added.map_err(|why| invalid("seeds", &seed, &why))?),
        }
    }
    for trusted in config.trusted.iter().filter_map(addr_of) {
        match book.set_trusted(trusted, true, now) {
            Err(why) if is_fault_of_book(&why) => {
                tracing::warn!(%trusted, %why, "a trusted address is not in the address book");
            }
            set => set.map_err(|why| invalid("trusted", &trusted, &why))?,
        }
    }
    Ok(())
}

/// A random instance nonce, and a random key for the digests of relayed messages.
fn random_identity() -> Result<(Nonce, (u64, u64)), StartError> {
    let (mut nonce, mut key) = ([0u8; 16], [0u8; 16]);
    for part in [&mut nonce, &mut key] {
        getrandom::fill(part).map_err(|error| StartError::Random(error.to_string()))?;
    }
    let key = u128::from_le_bytes(key);
    Ok((Nonce(nonce), (key as u64, (key >> 64) as u64)))
}
