//! The handles of a node: one that keeps it running, one that does not, and a weak one.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use crate::base::Tick;
use crate::node::runtime::shared::Shared;
use crate::pool::DisconnectReason;
use crate::wire::{Goodbye, GoodbyeReason};

/// The shortest time that a shutdown leaves for writing the address book.
const MIN_FLUSH_TIME: Duration = Duration::from_millis(50);

/// A running node. Cheap to clone. When the last clone is dropped, the node closes its connections
/// with a goodbye and all its tasks end. To wait for that, call [`NodeRef::shutdown`].
#[derive(Clone)]
pub struct Node {
    node: NodeRef,
    _stop_on_drop: Arc<StopOnDrop>,
}

/// All operations of a node, without keeping it running. Handlers get this type.
#[derive(Clone)]
pub struct NodeRef {
    shared: Arc<Shared>,
}

/// A weak reference to a node, for a handler to store.
#[derive(Clone)]
pub struct WeakNode {
    shared: Weak<Shared>,
}

/// What a node still held at the end of its shutdown. All zero if everything was released.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ShutdownReport {
    /// Slots of connections in their handshake.
    pub permits: u64,
    /// Connections whose task runs.
    pub connections: u64,
    /// Peers in the pool and in its derived indexes.
    pub peers: u64,
    /// Tasks, those of connections included.
    pub tasks: u64,
}

impl ShutdownReport {
    /// Whether everything was released.
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

impl Node {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let stop_on_drop = Arc::new(StopOnDrop { shared: Arc::clone(&shared) });
        Self { node: NodeRef { shared }, _stop_on_drop: stop_on_drop }
    }
}

impl Deref for Node {
    type Target = NodeRef;

    fn deref(&self) -> &NodeRef {
        &self.node
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.node.fmt(f)
    }
}

impl fmt::Debug for NodeRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("nonce", &self.shared.nonce)
            .field("peers", &self.shared.pool.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for WeakNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WeakNode")
    }
}

impl NodeRef {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// A weak reference, which keeps no part of the node alive.
    pub fn downgrade(&self) -> WeakNode {
        WeakNode { shared: Arc::downgrade(&self.shared) }
    }

    /// The addresses that the node listens on, with the ports that the system chose.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.shared.connecting.local_addrs()
    }

    /// The present tick of the node's clock. The times in events are on this clock.
    pub fn now(&self) -> Tick {
        self.shared.now()
    }

    /// Whether the node is shutting down or has ended.
    pub fn is_stopping(&self) -> bool {
        self.shared.is_stopping()
    }

    /// Resolves when the node stops: because it is shut down, or its last handle was dropped.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn stopped(&self) {
        self.shared.stopped().await;
    }

    /// Shuts the node down within `deadline`:
    ///
    /// 1. Nothing new comes in.
    /// 2. Queued messages are sent, for half of the time.
    /// 3. Every peer gets a goodbye, and the address book is written.
    ///
    /// Returns what the node still held at the end: nothing, unless a handler blocks its thread.
    /// Calling it twice is harmless.
    ///
    /// In a handler's future, code behind the await does not run: the shutdown ends the connection,
    /// and with it the futures of its handlers. Spawn a task that awaits it instead.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop the shutdown: everything has the signal, and ends by
    /// itself.
    pub async fn shutdown(&self, deadline: Duration) -> ShutdownReport {
        let shared = &self.shared;
        tracing::info!(peers = shared.pool.len(), "shutting down");
        shared.stop();
        let goodbye = Goodbye::new(GoodbyeReason::Shutdown);
        // The other half is for the peers to read the goodbyes.
        let drain = deadline / 2;
        for peer in shared.pool.roster().iter() {
            peer.connection().handle().drain(DisconnectReason::Shutdown, Some(goodbye), drain);
        }
        let begun = Instant::now();
        shared.tasks.wait_idle(deadline).await;
        let left = deadline.saturating_sub(begun.elapsed()).max(MIN_FLUSH_TIME);
        shared.spawn_last_flush();
        shared.tasks.wait_idle(left).await;
        self.shutdown_report()
    }

    /// What the node holds now. After a shutdown: what it failed to release.
    pub fn shutdown_report(&self) -> ShutdownReport {
        let shared = &self.shared;
        let admission = shared.pool.admission();
        ShutdownReport {
            permits: admission.pending_inbound as u64 + admission.pending_outbound as u64,
            connections: shared.tasks.connections() as u64,
            peers: shared.pool.len().max(shared.connecting.processes.len()) as u64,
            tasks: shared.tasks.running() as u64,
        }
    }
}

impl WeakNode {
    /// The node, if any part of it is still there.
    pub fn upgrade(&self) -> Option<NodeRef> {
        self.shared.upgrade().map(NodeRef::new)
    }
}

/// Stops the node when its last [`Node`] is dropped.
struct StopOnDrop {
    shared: Arc<Shared>,
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        if self.shared.is_stopping() {
            return;
        }
        self.shared.stop();
        let goodbye = Goodbye::new(GoodbyeReason::Shutdown);
        for peer in self.shared.pool.roster().iter() {
            peer.connection().handle().close(DisconnectReason::Shutdown, Some(goodbye));
        }
        // If the runtime ends together with the node, the book stays as of its last regular flush.
        self.shared.spawn_last_flush();
    }
}
