//! The configuration of one protocol, and the factory that starts it once the node's settings are
//! known.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::broadcast::LagPolicy;
use crate::connection::{MemoryBudget, ConnectionConfig};
use crate::node::config::NodeConfig;
use crate::wire::Protocol;

use super::broadcaster::Broadcaster;
use super::erased::DynProtocol;
use super::policy::PeerPolicy;

/// One protocol of a node: its codec, its listen addresses and its [`PeerPolicy`].
pub struct ProtocolConfig<P> {
    codec: P,
    listen: Vec<SocketAddr>,
    settings: ProtocolSettings,
}

/// The settings of a protocol, apart from its codec and its listen addresses.
pub(crate) struct ProtocolSettings {
    pub(crate) policy: Box<dyn PeerPolicy>,
    /// Lag policies of the urgent, normal and bulk lane; `None` follows the node's configuration.
    pub(crate) lag: Option<[LagPolicy; 3]>,
    /// `None` takes the node's.
    pub(crate) connection: Option<ConnectionConfig>,
    /// The address that hellos carry; `None` takes the first one listened on.
    pub(crate) advertised_addr: Option<SocketAddr>,
}

impl<P: Protocol> ProtocolConfig<P> {
    /// A protocol with the native one's policy and no listen address.
    pub fn new(codec: P) -> Self {
        let settings =
            ProtocolSettings { policy: Box::new(()), lag: None, connection: None, advertised_addr: None };
        Self { codec, listen: Vec::new(), settings }
    }

    /// Adds an address to listen on for peers of this protocol. Port 0 takes any free port.
    #[must_use]
    pub fn listen(mut self, addr: SocketAddr) -> Self {
        self.listen.push(addr);
        self
    }

    /// Sets the address that hellos of this protocol carry. Default: the first one listened on.
    #[must_use]
    pub fn advertise(mut self, addr: SocketAddr) -> Self {
        self.settings.advertised_addr = Some(addr);
        self
    }

    /// Sets the policy that identifies peers. Default: the native protocol's.
    #[must_use]
    pub fn policy(mut self, policy: impl PeerPolicy) -> Self {
        self.settings.policy = Box::new(policy);
        self
    }

    /// Sets the lag policies of the urgent, normal and bulk lane. Default: the node's. Policies set
    /// here do not change when the node is reconfigured.
    #[must_use]
    pub fn lag(mut self, policies: [LagPolicy; 3]) -> Self {
        self.settings.lag = Some(policies);
        self
    }

    /// Sets the bounds of each connection. Default: the node's.
    #[must_use]
    pub fn connection(mut self, config: ConnectionConfig) -> Self {
        self.settings.connection = Some(config);
        self
    }

    pub(crate) fn boxed(self) -> Box<dyn ProtocolFactory> {
        Box::new(self)
    }
}

impl<P: Protocol> std::fmt::Debug for ProtocolConfig<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProtocolConfig")
            .field("name", &self.codec.name())
            .field("listen", &self.listen)
            .finish_non_exhaustive()
    }
}

/// A protocol that waits for its node: type-erased, so that a builder may hold several.
pub(crate) trait ProtocolFactory: Send {
    fn listen_addrs(&self) -> &[SocketAddr];

    fn name(&self) -> &'static str;

    fn max_message(&self) -> usize;

    fn start(self: Box<Self>, config: &NodeConfig, budget: Arc<MemoryBudget>) -> Arc<dyn DynProtocol>;
}

impl<P: Protocol> ProtocolFactory for ProtocolConfig<P> {
    fn listen_addrs(&self) -> &[SocketAddr] {
        &self.listen
    }

    fn name(&self) -> &'static str {
        self.codec.name()
    }

    fn max_message(&self) -> usize {
        self.codec.limits().max_message()
    }

    fn start(self: Box<Self>, config: &NodeConfig, budget: Arc<MemoryBudget>) -> Arc<dyn DynProtocol> {
        Arc::new(Broadcaster::new(self.codec, self.settings, config, budget))
    }
}
