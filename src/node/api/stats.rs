//! What an operator sees of a node.

use crate::pool::PoolStats;
use crate::sync::atomic::Ordering;

use crate::node::api::handle::NodeRef;

/// A node's numbers at one moment. Counters count since the start.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct NodeStats {
    /// Connections.
    pub pool: PoolStats,
    /// Links whose task runs.
    pub connections: u64,
    /// Tasks of the node, links included.
    pub tasks: u64,
    /// Memory held for peers.
    pub memory: MemoryStats,
    /// The broadcast logs of all dialects: urgent, normal, bulk.
    pub logs: [LaneStats; 3],
    /// Addresses in the book.
    pub book: u64,
    /// Connections accepted; those that came to nothing are in `refused` or `collisions`, unless they only asked who listens here.
    pub accepted: u64,
    /// Inbound connections refused. A rising number next to few peers: look at the reasons in the log.
    pub refused: u64,
    /// Dials.
    pub dials: u64,
    /// Dials that failed.
    pub dial_failures: u64,
    /// Connections that gave way to another one of the same two nodes.
    pub collisions: u64,
    /// Dials that found ourselves.
    pub self_dials: u64,
    /// Events handed to the application.
    pub events: u64,
    /// Requests handed to the application.
    pub requests: u64,
    /// Broadcasts.
    pub broadcasts: u64,
    /// Messages relayed the first time they were seen, our own included.
    pub relayed: u64,
    /// Messages that came again.
    pub duplicates: u64,
    /// New messages not relayed because the memory of ids, or a peer's share of it, was full.
    pub relay_refused: u64,
    /// Ids remembered.
    pub relay_remembered: u64,
    /// Broadcasts that slow peers missed. A rising number: peers too slow, or rings too small.
    pub missed_broadcasts: u64,
    /// Peers reaped for silence.
    pub reaped: u64,
    /// Panics in handlers and maintenance. Anything but zero is a bug.
    pub panics: u64,
}

/// Memory held for peers, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct MemoryStats {
    /// Inboxes, lanes, reassembly, remainders.
    pub connections: u64,
    /// The ceiling of those.
    pub connections_limit: u64,
    /// Logs and state.
    pub logs: u64,
    /// The whole ceiling.
    pub limit: u64,
    /// How often something was refused for lack of memory.
    pub refused: u64,
}

/// The broadcast log of one lane, over all dialects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct LaneStats {
    /// Bytes in its ring.
    pub bytes: u64,
    /// The ring's bound.
    pub limit: u64,
}

impl NodeRef {
    /// The numbers of this moment. Cost: a walk over the roster.
    pub fn stats(&self) -> NodeStats {
        let shared = self.shared();
        let counters = &shared.counters;
        let read = |counter: &crate::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let lanes = [crate::base::Lane::Urgent, crate::base::Lane::Normal, crate::base::Lane::Bulk];
        NodeStats {
            pool: shared.pool.stats(shared.now()),
            connections: shared.links() as u64,
            tasks: shared.tasks() as u64,
            memory: MemoryStats {
                connections: shared.budget.used() as u64,
                connections_limit: shared.budget.limit() as u64,
                logs: shared.tongues.bytes() as u64,
                limit: shared.runtime_config().memory_limit as u64,
                refused: shared.budget.refused(),
            },
            logs: lanes.map(|lane| {
                let mut of_all = LaneStats { bytes: 0, limit: 0 };
                for log in shared.tongues.iter().filter_map(|tongue| tongue.log(lane)) {
                    of_all.bytes += log.bytes() as u64;
                    of_all.limit += log.ring_bytes() as u64;
                }
                of_all
            }),
            book: shared.book.len() as u64,
            accepted: read(&counters.accepted),
            refused: read(&counters.refused),
            dials: read(&counters.dials),
            dial_failures: read(&counters.dial_failures),
            collisions: read(&counters.collisions),
            self_dials: read(&counters.self_dials),
            events: read(&counters.events),
            requests: read(&counters.requests),
            broadcasts: read(&counters.broadcasts),
            relayed: read(&counters.relayed),
            duplicates: read(&counters.duplicates),
            relay_refused: shared.seen.refused(),
            relay_remembered: shared.seen.len() as u64,
            missed_broadcasts: read(&counters.missed_broadcasts),
            reaped: read(&counters.reaped),
            panics: read(&counters.panics),
        }
    }
}
