//! Starting a node.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::runtime::Handle;

use crate::base::Nonce;
use crate::book::{Book, BookConfig, Source, WallTime};
use crate::transport::{BoxListener, Tcp, Transport};

use super::config::{ConfigError, NodeConfig};
use super::error::StartError;
use super::handle::Node;
use super::handler::Handler;
use super::shared::Shared;

/// Describes a node; [`NodeBuilder::start`] starts it.
pub struct NodeBuilder {
    config: NodeConfig,
    handler: Box<dyn Handler>,
    transport: Arc<dyn Transport>,
    book: Option<Arc<Book>>,
}

impl NodeBuilder {
    pub(super) fn new() -> Self {
        Self {
            config: NodeConfig::recommended(),
            handler: Box::new(()),
            transport: Arc::new(Tcp::default()),
            book: None,
        }
    }

    /// The whole configuration. Default: [`NodeConfig::recommended`].
    #[must_use]
    pub fn config(mut self, config: NodeConfig) -> Self {
        self.config = config;
        self
    }

    /// An address to listen on, beside those that are set already. Port 0 takes any.
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
    pub fn book(mut self, book: impl Into<Arc<Book>>) -> Self {
        self.book = Some(book.into());
        self
    }

    /// Starts the node: listens, then dials seeds and trusted peers.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left running then.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing bound and nothing running.
    pub async fn start(self) -> Result<Node, StartError> {
        let Self { config, handler, transport, book } = self;
        config.check()?;
        let runtime = Handle::try_current().map_err(|_| StartError::NoRuntime)?;
        let book = book.unwrap_or_else(|| Arc::new(Book::in_memory(BookConfig::default())));
        let mut listeners: Vec<BoxListener> = Vec::with_capacity(config.listen.len());
        for addr in &config.listen {
            let listener = transport.listen(*addr).await;
            listeners.push(listener.map_err(|cause| StartError::Listen { addr: *addr, cause })?);
        }
        let listening = listeners.iter().map(|listener| listener.local_addr()).collect();
        let (nonce, relay_key) = random()?;
        enter(&book, &config)?;
        let shared =
            Arc::new(Shared::new(config, nonce, relay_key, book, transport, handler, listening, runtime));
        let node = Node::new(Arc::clone(&shared));
        for listener in listeners {
            tracing::info!(addr = %listener.local_addr(), "listening");
            shared.spawn(Arc::clone(&shared).accept_loop(listener));
        }
        if let Some(waking) = shared.voice.hub.waking() {
            let stopper = Arc::clone(&shared);
            shared.spawn(async move {
                tokio::select! {
                    () = stopper.stopped() => {}
                    () = waking => {}
                }
            });
        }
        shared.spawn(Arc::clone(&shared).maintain());
        Ok(node)
    }
}

/// Enters the addresses that the operator gave into the book.
fn enter(book: &Book, config: &NodeConfig) -> Result<(), StartError> {
    let now = WallTime::now();
    let bad = |field, addr: &SocketAddr, why: &dyn std::fmt::Display| ConfigError {
        field,
        why: format!("{addr}: {why}"),
    };
    for seed in &config.seeds {
        book.add(*seed, Source::Seed, now).map_err(|why| bad("seeds", seed, &why))?;
    }
    for trusted in &config.trusted {
        book.set_trusted(*trusted, true, now).map_err(|why| bad("trusted", trusted, &why))?;
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
