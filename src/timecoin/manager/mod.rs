//! The manager: the API that TIME Coin's node, wallet, CLI and masternode are written against, on top of a [`Node`].
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
    AdoptError, BadAddress, BroadcastError, FetchError, PeerConnectError, PeerRequestError, PeerSendError,
    PingError, SeedError, SnapshotError, VoteError,
};
pub use request::ToPeerAddr;
pub use seeds::SeedProvider;
#[cfg(fuzzing)]
pub use snapshot::fuzz_balances;
pub use snapshot::{Snapshot, SnapshotFault};

use state::State;

/// The peers of one node. Clone it freely: all clones are one manager, which ends with the last of them, or with
/// [`PeerManager::shutdown`].
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
///
/// use peerpool::timecoin::{ChainSource, NetworkType, PeerInfo, PeerManager};
///
/// struct Chain; // names what it has; the defaults give no reply
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
/// Methods have their old names. Those that were `async` still are, although most never wait; what waits has a deadline. Chain data
/// is the caller's: see [`ChainSource`](super::ChainSource).
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

/// A manager that this does not keep alive.
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

/// What became of announcing a new peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announced {
    /// The other peers are told.
    Sent,
    /// It was announced a short while ago.
    Recent,
    /// Too many others were within the minute. It may be announced later.
    RateLimited,
    /// There is nobody to tell. It may be announced later.
    NoPeers,
    /// It is connected in another dialect than this network's, in which nobody told could dial it.
    NotDialable,
}

/// How many were told of a wallet's transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notified {
    /// So many took the message.
    pub sent: usize,
    /// So many could not be reached.
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
    /// A manager with the old network's values that others reach at `public_addr`: it dials, keeps alive, reaps and looks for
    /// peers at once, and listens when [`PeerManager::listen`] is called, or takes over what a
    /// [`PeerListener`](super::PeerListener) accepted. For everything that can be set see [`PeerManager::builder`].
    ///
    /// # Panics
    /// Outside of a tokio runtime, and where the system has no random numbers; [`PeerManagerBuilder::build`] says so instead.
    pub fn new(network: NetworkType, listen_addr: SocketAddr, public_addr: SocketAddr) -> Self {
        match Self::builder(network, listen_addr, public_addr).build() {
            Ok(manager) => manager,
            Err(error) => panic!("no peer manager can be started here: {error}"),
        }
    }

    /// Begins to describe a manager.
    pub fn builder(
        network: NetworkType,
        listen_addr: SocketAddr,
        public_addr: SocketAddr,
    ) -> PeerManagerBuilder {
        PeerManagerBuilder::new(network, listen_addr, public_addr)
    }

    /// The node underneath: rosters, receipts, relaying, subscriptions to who comes and goes.
    pub fn node(&self) -> &Node {
        &self.inner.node
    }

    /// The address it listens at when [`PeerManager::listen`] is told none.
    pub fn listen_addr(&self) -> SocketAddr {
        self.inner.listen
    }

    /// Ends everything: nothing goes live any more, what waits is sent, every task ends; all within `deadline`. Returns what was
    /// still there at its end.
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
