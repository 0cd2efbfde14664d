//! The handles of a node: one that keeps it alive, one that does not, and a weak one.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::pool::DisconnectReason;
use crate::wire::{Goodbye, GoodbyeReason};

use crate::node::builder::NodeBuilder;
use crate::node::runtime::shared::Shared;

/// A running node. Clone it freely; when the last clone is dropped the node ends: it closes its connections with a goodbye and
/// all its tasks end, without a call. To wait for that, [`NodeRef::shutdown`].
#[derive(Clone)]
pub struct Node {
    node: NodeRef,
    _life: Arc<Life>,
}

/// All verbs of a node, without keeping it running: what handlers are given.
#[derive(Clone)]
pub struct NodeRef {
    shared: Arc<Shared>,
}

/// A reference to a node that keeps nothing of it: what a handler stores.
#[derive(Clone, Debug)]
pub struct WeakNode {
    shared: Weak<Shared>,
}

/// What was still there when a shutdown ended: all zero when everything was given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ShutdownReport {
    /// Slots of connections in their handshake.
    pub permits: u64,
    /// Links.
    pub connections: u64,
    /// Peers in the pool, and entries of its derived indexes.
    pub peers: u64,
    /// Tasks.
    pub tasks: u64,
}

impl ShutdownReport {
    /// Whether nothing was left.
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

impl Node {
    /// Begins to describe a node.
    pub fn builder() -> NodeBuilder {
        NodeBuilder::new()
    }

    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let life = Arc::new(Life { shared: Arc::clone(&shared) });
        Self { node: NodeRef { shared }, _life: life }
    }
}

impl Deref for Node {
    type Target = NodeRef;

    fn deref(&self) -> &NodeRef {
        &self.node
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.node.fmt(f)
    }
}

impl std::fmt::Debug for NodeRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("nonce", &self.shared.nonce)
            .field("peers", &self.shared.pool.len())
            .finish()
    }
}

impl NodeRef {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// A reference that keeps nothing of the node.
    pub fn downgrade(&self) -> WeakNode {
        WeakNode { shared: Arc::downgrade(&self.shared) }
    }

    /// The addresses listened on, with the ports that the system chose.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.shared.listening.lock().iter().map(|(_, addr)| *addr).collect()
    }

    /// Whether the node is shutting down or has ended.
    pub fn is_stopping(&self) -> bool {
        self.shared.is_stopping()
    }

    /// Shuts the node down: nothing new comes in, what is queued goes out, every peer is told goodbye, the book is written;
    /// all within `deadline`. Returns what was still there at its end: nothing, unless a handler blocks its thread.
    ///
    /// Legal in a handler, whose own future then counts as left over until it returns. Calling it twice is harmless.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop the shutdown: everything has been told to end, and ends by itself.
    pub async fn shutdown(&self, deadline: Duration) -> ShutdownReport {
        let shared = &self.shared;
        tracing::info!(peers = shared.pool.len(), "shutting down");
        shared.stop();
        let goodbye = Goodbye::new(GoodbyeReason::Shutdown);
        // Half of the time to send what waits; the rest is for the goodbyes to be read.
        let drain = deadline / 2;
        for peer in shared.pool.roster().iter() {
            peer.connection().handle().drain(DisconnectReason::Shutdown, Some(goodbye), drain);
        }
        let begun = tokio::time::Instant::now();
        shared.wait_idle(deadline).await;
        let left = deadline.saturating_sub(begun.elapsed()).max(Duration::from_millis(50));
        shared.flush_at_end();
        shared.wait_idle(left).await;
        self.shutdown_report()
    }

    /// What a node that has ended still holds; while it runs, what it holds now.
    pub fn shutdown_report(&self) -> ShutdownReport {
        let shared = &self.shared;
        let admission = shared.pool.admission();
        ShutdownReport {
            permits: admission.pending_inbound as u64 + admission.pending_outbound as u64,
            connections: shared.links() as u64,
            peers: shared.pool.len().max(shared.instances.len()) as u64,
            tasks: shared.tasks() as u64,
        }
    }
}

impl WeakNode {
    /// The node, if anything of it is still there.
    pub fn upgrade(&self) -> Option<NodeRef> {
        self.shared.upgrade().map(NodeRef::new)
    }
}

/// Ends the node with its last handle.
struct Life {
    shared: Arc<Shared>,
}

impl Drop for Life {
    fn drop(&mut self) {
        if self.shared.is_stopping() {
            return;
        }
        self.shared.stop();
        let goodbye = Goodbye::new(GoodbyeReason::Shutdown);
        for peer in self.shared.pool.roster().iter() {
            peer.connection().handle().close(DisconnectReason::Shutdown, Some(goodbye));
        }
        // Where the runtime ends with the node, the book is as of its last regular flush.
        self.shared.flush_at_end();
    }
}
