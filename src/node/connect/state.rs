//! What the types of this room share across connections: indexes and bounds.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::base::Source;
use crate::node::protocol::ProtocolId;
use crate::node::runtime::interner::Interner;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicUsize, Ordering};

use super::pending_inbound::PendingInbound;
use super::process_index::ProcessIndex;

/// Goodbyes written at the same time. Each holds a socket for up to two seconds.
const MAX_GOODBYES: usize = 512;
/// Those to one source.
const MAX_GOODBYES_PER_SOURCE: usize = 8;

/// Indexes and bounds of connection attempts.
#[derive(Debug)]
pub(crate) struct ConnectState {
    /// The connection that owns each remote process.
    pub(crate) processes: ProcessIndex,
    /// Agent strings of peers, each kept once.
    pub(crate) agents: Interner,
    /// Listeners: the protocol and the bound address of each.
    pub(crate) listeners: Mutex<Vec<(ProtocolId, SocketAddr)>>,
    /// Handshakes of strangers that dialled us.
    pub(crate) pending_inbound: Arc<PendingInbound>,
    /// Dials of the node's own accord that are under way.
    pub(crate) dials: InFlight,
    /// Probes under way. They have a bound of their own, so that they take no room from dials.
    pub(crate) probes: InFlight,
    /// Goodbyes that are being written. Beyond the bounds a connection is closed without one.
    pub(crate) goodbyes: Goodbyes,
}

impl ConnectState {
    pub(crate) fn new() -> Self {
        Self {
            processes: ProcessIndex::new(),
            agents: Interner::default(),
            listeners: Mutex::default(),
            pending_inbound: Arc::default(),
            dials: InFlight::default(),
            probes: InFlight::default(),
            goodbyes: Goodbyes::default(),
        }
    }

    /// The bound addresses, in the order in which they were bound.
    pub(crate) fn local_addrs(&self) -> Vec<SocketAddr> {
        self.listeners.lock().iter().map(|(_, addr)| *addr).collect()
    }
}

/// Counts goodbyes by source, so that one that is refused again and again does not silence the
/// refusals of others.
#[derive(Clone, Debug, Default)]
pub(crate) struct Goodbyes(Arc<Mutex<GoodbyeCounts>>);

#[derive(Debug, Default)]
struct GoodbyeCounts {
    total: usize,
    /// No zeros.
    sources: HashMap<Source, usize>,
}

/// One goodbye that is being written.
#[must_use = "dropped, the goodbye counts as written"]
pub(crate) struct GoodbyeGuard {
    goodbyes: Goodbyes,
    source: Source,
}

impl Goodbyes {
    /// Counts one more until the guard is dropped; `None` if there are too many.
    pub(crate) fn begin(&self, source: Source) -> Option<GoodbyeGuard> {
        let mut counts = self.0.lock();
        let of_source = counts.sources.get(&source).copied().unwrap_or(0);
        if counts.total >= MAX_GOODBYES || of_source >= MAX_GOODBYES_PER_SOURCE {
            return None;
        }
        counts.total += 1;
        counts.sources.insert(source, of_source + 1);
        Some(GoodbyeGuard { goodbyes: self.clone(), source })
    }
}

impl Drop for GoodbyeGuard {
    fn drop(&mut self) {
        let mut counts = self.goodbyes.0.lock();
        counts.total -= 1;
        if let Entry::Occupied(mut count) = counts.sources.entry(self.source) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
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

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn one_source_does_not_take_the_goodbyes_of_others() {
        let goodbyes = Goodbyes::default();
        let source = |n: u8| Source::of([192, 0, 2, n].into());
        let held: Vec<_> = (0..1_000).map_while(|_| goodbyes.begin(source(1))).collect();
        assert_eq!(held.len(), MAX_GOODBYES_PER_SOURCE);
        assert!(goodbyes.begin(source(2)).is_some());
        drop(held);
        assert!(goodbyes.begin(source(1)).is_some());
        assert!(goodbyes.0.lock().sources.is_empty() && goodbyes.0.lock().total == 0);
    }
}
