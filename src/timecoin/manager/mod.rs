//! [`PeerManager`]: the API that the network's node, wallet, CLI and masternode are written
//! against.
//!
//! The methods and their names are those of the legacy crate; the work is done by a [`Node`].
//! Incoming messages take this path: the node calls `handler`, which passes requests to `responder`
//! and everything else to the application's [`ChainSource`](super::ChainSource). Outgoing messages
//! are in `broadcast`, requests in `request` (the transport) and `requests` (one method for each
//! kind), block and state download in `sync`.
//!
//! [`Node`]: crate::node::Node

mod background;
mod broadcast;
mod builder;
mod config;
mod connect;
mod error;
mod handler;
mod queries;
mod request;
mod requests;
mod responder;
mod seeds;
mod snapshot;
mod state;
mod sync;
mod truncate;
mod wallets;

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::node::{Node, ShutdownReport};

use super::NetworkType;

pub use builder::PeerManagerBuilder;
pub use config::{ManagerConfig, ReaperConfig, ReconnectConfig, SeedConfig};
pub use error::{
    AdoptError, BadAddress, BroadcastError, FetchError, ManagerStartError, PeerConnectError,
    PeerRequestError, PeerSendError, PingError, SeedError, SnapshotError, VoteError,
};
pub use request::ToPeerAddr;
pub use seeds::SeedProvider;
#[cfg(fuzzing)]
pub use snapshot::fuzz_balances;
pub use snapshot::{Snapshot, SnapshotFault};

use state::State;

/// The peers of one node.
///
/// Clones share one manager. It ends when the last clone is dropped, or with
/// [`PeerManager::shutdown`].
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
///
/// use peerpool::timecoin::{ChainSource, NetworkType, PeerInfo, PeerManager};
///
/// struct Chain; // the defaults give no reply
/// impl ChainSource for Chain {}
///
/// let addr = "203.0.113.7:24100".parse()?;
/// let manager = PeerManager::builder(NetworkType::Testnet, addr, addr).chain(Arc::new(Chain)).start().await?;
/// manager.connect_to_peer(PeerInfo::new("203.0.113.8:24100".parse()?, NetworkType::Testnet)).await?;
/// manager.broadcast_tip_update(42, "cdcd".into()).await?;
/// let height = manager.request_blockchain_info("203.0.113.8").await?;
/// # let _ = height;
/// # Ok(()) }
/// ```
///
/// Methods keep the names of the legacy crate, and stay `async` where they were. Most never wait;
/// those that do have a time limit. Chain data belongs to the application: see
/// [`ChainSource`](super::ChainSource).
#[derive(Clone)]
pub struct PeerManager {
    /// The network.
    pub network: NetworkType,
    inner: Arc<Inner>,
}

struct Inner {
    node: Node,
    state: Arc<State>,
    listen: SocketAddr,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.state.tasks.stop();
    }
}

/// A weak reference to a manager.
#[derive(Clone)]
pub(super) struct WeakManager {
    network: NetworkType,
    inner: Weak<Inner>,
}

impl WeakManager {
    fn upgrade(&self) -> Option<PeerManager> {
        self.inner.upgrade().map(|inner| PeerManager { network: self.network, inner })
    }
}

/// Result of announcing a new peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announced {
    /// The announcement was queued for the other peers.
    Sent,
    /// The peer was announced a short while ago.
    Recent,
    /// The limit per minute is reached. The peer may be announced later.
    RateLimited,
    /// No other peer is connected. The peer may be announced later.
    NoPeers,
    /// The peer is connected in another protocol, so the others could not dial it.
    NotDialable,
}

/// Number of subscribers that a wallet notification reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notified {
    /// Subscribers whose connection accepted the message.
    pub sent: usize,
    /// Subscribers that could not be reached.
    pub failed: usize,
}

impl Notified {
    fn count(&mut self, sent: bool) {
        if sent {
            self.sent += 1;
        } else {
            self.failed += 1;
        }
    }
}

impl PeerManager {
    /// Starts a manager with the network's default settings that others reach at `public_addr`. It
    /// dials, keeps alive, reaps and looks for peers at once. It listens when
    /// [`PeerManager::listen`] is called, or takes connections from a
    /// [`PeerListener`](super::PeerListener). For other settings see [`PeerManager::builder`].
    ///
    /// # Panics
    /// Outside of a tokio runtime, and if the system has no random numbers.
    /// [`PeerManagerBuilder::build`] returns these errors instead.
    pub fn new(network: NetworkType, listen_addr: SocketAddr, public_addr: SocketAddr) -> Self {
        match Self::builder(network, listen_addr, public_addr).build() {
            Ok(manager) => manager,
            Err(error) => panic!("no peer manager can be started here: {error}"),
        }
    }

    /// A builder for a manager.
    pub fn builder(
        network: NetworkType,
        listen_addr: SocketAddr,
        public_addr: SocketAddr,
    ) -> PeerManagerBuilder {
        PeerManagerBuilder::new(network, listen_addr, public_addr)
    }

    /// The underlying node: rosters, receipts, relaying, events.
    pub fn node(&self) -> &Node {
        &self.inner.node
    }

    /// The address that [`PeerManager::listen`] uses by default.
    pub fn listen_addr(&self) -> SocketAddr {
        self.inner.listen
    }

    /// Ends the manager within `deadline`: no peer goes live any more, queued messages are sent,
    /// every task ends. Returns what was left at the deadline.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop the shutdown.
    pub async fn shutdown(&self, deadline: Duration) -> ShutdownReport {
        let begun = tokio::time::Instant::now();
        self.state().tasks.stop();
        let mut left = self.node().shutdown(deadline).await;
        let rest = deadline.saturating_sub(begun.elapsed()).max(Duration::from_millis(50));
        left.tasks += self.state().tasks.idle(rest).await as u64;
        left
    }

    fn state(&self) -> &Arc<State> {
        &self.inner.state
    }

    fn state_arc(&self) -> Arc<State> {
        Arc::clone(self.state())
    }

    fn downgrade(&self) -> WeakManager {
        WeakManager { network: self.network, inner: Arc::downgrade(&self.inner) }
    }
}

impl std::fmt::Debug for PeerManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerManager")
            .field("network", &self.network)
            .field("public", &self.state().public)
            .field("node", self.node())
            .finish()
    }
}
