//! The dialects that a node speaks: which ones, where, and whom a connection in one belongs to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::base::{Direction, Nonce, PeerId};
use crate::broadcast::LagPolicy;
use crate::connection::{ConnectionConfig, MemoryBudget};
use crate::wire::{Hello, Protocol};

use crate::node::config::NodeConfig;
use crate::node::protocol::set::DynProtocol;
use crate::node::protocol::broadcaster::Broadcaster;

/// Whom connections of a dialect belong to, and what its peers bear. The defaults are those of the native dialect; `()` has
/// them all.
///
/// Called from many tasks; no call may block.
pub trait PeerPolicy: Send + Sync + 'static {
    /// What stands for our own instance where hellos carry no nonce. Of two connections between the same two instances the
    /// one dialled by the smaller survives, so both ends must come to the same values.
    fn instance(&self) -> Option<Nonce> {
        None
    }

    /// Whom a greeted connection belongs to. A key that is an address must not be one that is dialled (port 0 will do): until it
    /// is greeted, a dial holds the key of its address, and an inbound connection of the same peer would wait for it.
    fn identify(&self, hello: &Hello, addr: SocketAddr, direction: Direction) -> Identity {
        let _ = (addr, direction);
        Identity { key: None, instance: hello.nonce }
    }

    /// The key that a peer at this address has, where that is known before it is dialled: if it is connected it is not dialled.
    fn key_at(&self, addr: SocketAddr) -> Option<PeerId> {
        let _ = addr;
        None
    }

    /// What a peer that greets so bears. Default: everything.
    fn capabilities(&self, hello: &Hello, direction: Direction) -> PeerCapabilities {
        let _ = (hello, direction);
        PeerCapabilities::default()
    }

    /// Whether this dialect, rather than the node's first one, is spoken at an address that nothing else is known of.
    fn matches_addr(&self, addr: SocketAddr) -> bool {
        let _ = addr;
        false
    }

    /// Whether the node may dial this address of its own accord. Default: any.
    fn may_dial(&self, addr: SocketAddr) -> bool {
        let _ = addr;
        true
    }

    /// How long a peer must have been silent before it is pinged. Default: a peer is pinged whatever it sends, so that its
    /// round-trip time is known.
    fn ping_after(&self) -> Duration {
        Duration::ZERO
    }

    /// How long written bytes may make no progress, where not as in [`RuntimeConfig::write_stall_timeout`](crate::node::RuntimeConfig::write_stall_timeout).
    fn write_stall_timeout(&self) -> Option<Duration> {
        None
    }
}

impl PeerPolicy for () {}

/// Whom a connection belongs to, as [`PeerPolicy::identify`] sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The peer's key; `None`: by the address dialled or observed.
    pub key: Option<PeerId>,
    /// The peer's process.
    pub instance: Option<Nonce>,
}

/// What a peer capabilities, as [`PeerPolicy::capabilities`] sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCapabilities {
    /// To be told that a request of its has no answer. Otherwise it is told nothing.
    pub rejections: bool,
    /// To be sent the newest value of each state as soon as it is connected. Otherwise it is sent what is set from then on.
    pub initial_state: bool,
}

impl Default for PeerCapabilities {
    fn default() -> Self {
        Self { rejections: true, initial_state: true }
    }
}

/// One dialect of a node: what is spoken, where it is listened for, and its rules.
pub struct ProtocolConfig<D> {
    dialect: D,
    pub(crate) listen: Vec<SocketAddr>,
    settings: Settings,
}

/// What a dialect has apart from its bytes.
pub(crate) struct Settings {
    pub(crate) rules: Box<dyn PeerPolicy>,
    /// What happens to peers that are too slow for urgent, normal and bulk broadcasts, where not as for the node.
    pub(crate) lag: Option<[LagPolicy; 3]>,
    pub(crate) connection: Option<ConnectionConfig>,
    /// The address that peers are told.
    pub(crate) advertise: Option<SocketAddr>,
}

impl<D: Protocol> ProtocolConfig<D> {
    /// A dialect with the native one's rules, listened for nowhere.
    pub fn new(dialect: D) -> Self {
        let settings = Settings { rules: Box::new(()), lag: None, connection: None, advertise: None };
        Self { dialect, listen: Vec::new(), settings }
    }

    /// An address to listen on for peers of this dialect. Port 0 takes any.
    #[must_use]
    pub fn listen(mut self, addr: SocketAddr) -> Self {
        self.listen.push(addr);
        self
    }

    /// The address that peers of this dialect are told. Default: the first one listened on.
    #[must_use]
    pub fn advertise(mut self, addr: SocketAddr) -> Self {
        self.settings.advertise = Some(addr);
        self
    }

    /// Whom connections belong to. Default: as in the native dialect.
    #[must_use]
    pub fn policy(mut self, rules: impl PeerPolicy) -> Self {
        self.settings.rules = Box::new(rules);
        self
    }

    /// What happens to peers that are too slow for urgent, normal and bulk broadcasts. Default: as the node's configuration
    /// has it; what is set here does not change with that.
    #[must_use]
    pub fn lag(mut self, policies: [LagPolicy; 3]) -> Self {
        self.settings.lag = Some(policies);
        self
    }

    /// Bounds of each link. Default: the node's.
    #[must_use]
    pub fn connection(mut self, config: ConnectionConfig) -> Self {
        self.settings.connection = Some(config);
        self
    }

    pub(crate) fn boxed(self) -> Box<dyn ProtocolFactory> {
        Box::new(self)
    }
}

/// A dialect whose node is not there yet.
pub(crate) trait ProtocolFactory: Send {
    fn listen(&self) -> &[SocketAddr];

    fn name(&self) -> &'static str;

    fn start(self: Box<Self>, config: &NodeConfig, budget: Arc<MemoryBudget>) -> Arc<dyn DynProtocol>;
}

impl<D: Protocol> ProtocolFactory for ProtocolConfig<D> {
    fn listen(&self) -> &[SocketAddr] {
        &self.listen
    }

    fn name(&self) -> &'static str {
        self.dialect.name()
    }

    fn start(self: Box<Self>, config: &NodeConfig, budget: Arc<MemoryBudget>) -> Arc<dyn DynProtocol> {
        Arc::new(Broadcaster::new(self.dialect, self.settings, config, budget))
    }
}
