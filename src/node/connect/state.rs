//! What the types of this room share across connections: indexes and bounds.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::node::protocol::ProtocolId;
use crate::node::runtime::interner::Interner;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicUsize, Ordering};

use super::process_index::ProcessIndex;

/// Goodbyes written at the same time. Each holds a socket for up to two seconds.
const MAX_CONCURRENT_GOODBYES: usize = 64;

/// Indexes and bounds of connection attempts.
#[derive(Debug)]
pub(crate) struct ConnectState {
    /// The connection that owns each remote process.
    pub(crate) processes: ProcessIndex,
    /// Agent strings of peers, each kept once.
    pub(crate) agents: Interner,
    /// Listeners: the protocol and the bound address of each.
    pub(crate) listeners: Mutex<Vec<(ProtocolId, SocketAddr)>>,
    /// Dials of the node's own accord that are under way.
    pub(crate) dials: InFlight,
    /// Probes under way. They have a bound of their own, so that they take no room from dials.
    pub(crate) probes: InFlight,
    /// Bounds the goodbyes that are being written. Beyond it a connection is closed without one.
    pub(crate) goodbyes: Arc<Semaphore>,
}

impl ConnectState {
    pub(crate) fn new() -> Self {
        Self {
            processes: ProcessIndex::new(),
            agents: Interner::default(),
            listeners: Mutex::default(),
            dials: InFlight::default(),
            probes: InFlight::default(),
            goodbyes: Arc::new(Semaphore::new(MAX_CONCURRENT_GOODBYES)),
        }
    }

    /// The bound addresses, in the order in which they were bound.
    pub(crate) fn local_addrs(&self) -> Vec<SocketAddr> {
        self.listeners.lock().iter().map(|(_, addr)| *addr).collect()
    }
}

/// Counts operations that are under way.
#[derive(Clone, Debug, Default)]
pub(crate) struct InFlight {
    count: Arc<AtomicUsize>,
}

impl InFlight {
    /// Counts one more operation until the guard is dropped; `None` if `max` are under way.
    pub(crate) fn begin(&self, max: usize) -> Option<InFlightGuard> {
        let begun = self
            .count
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |count| (count < max).then_some(count + 1));
        begun.ok().map(|_| InFlightGuard { operations: self.clone() })
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

/// Ends the counting of one operation when dropped.
#[must_use = "dropped, the operation counts as over"]
pub(crate) struct InFlightGuard {
    operations: InFlight,
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.operations.count.fetch_sub(1, Ordering::AcqRel);
    }
}
