//! Counters and gauges of a node.

use crate::pool::PoolStats;
use crate::sync::atomic::Ordering;

use super::handle::NodeRef;

/// Counters and gauges of a node at one moment. Counters count since the start.
///
/// Invariant: `stats_come_from_the_deciding_words`: each number is read from the atomic that the
/// node itself decides by.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct NodeStats {
    /// Connections.
    pub pool: PoolStats,
    /// Connections whose task runs.
    pub connections: u64,
    /// Tasks of the node, connections included.
    pub tasks: u64,
    /// Memory held for peers.
    pub memory: MemoryStats,
    /// The broadcast logs, summed over all protocols: urgent, normal, bulk.
    pub logs: [LaneStats; 3],
    /// Addresses in the address book.
    pub book: u64,
    /// Connections accepted. Those that failed are in `refused` or `collisions`, except probes,
    /// which only ask who listens.
    pub accepted: u64,
    /// Inbound connections refused. If it rises while there are few peers, read the reasons in the
    /// log.
    pub refused: u64,
    /// Inbound handshakes that gave way to a newcomer, because handshakes took all slots.
    pub evicted_handshakes: u64,
    /// Addresses that peers told and that were not learnt: not for this node's scope, or too many
    /// of one host.
    pub addrs_refused: u64,
    /// How often this process stood still for longer than a maintenance interval.
    pub stalls: u64,
    /// Dials.
    pub dials: u64,
    /// Dialled peers that are missing to
    /// [`target_outbound`](crate::node::RuntimeConfig::target_outbound). If it stays above zero,
    /// the node knows too few addresses.
    pub missing_outbound: u64,
    /// Dials that failed.
    pub dial_failures: u64,
    /// Connections that gave way to another one between the same two nodes.
    pub collisions: u64,
    /// Dials that reached this node itself.
    pub self_dials: u64,
    /// Events handed to the application.
    pub events: u64,
    /// Requests handed to the application.
    pub requests: u64,
    /// Broadcasts.
    pub broadcasts: u64,
    /// New messages that were relayed, our own included.
    pub relayed: u64,
    /// Messages that arrived again.
    pub duplicates: u64,
    /// New messages that were not relayed because the relay memory, or a peer's share of it, was
    /// full.
    pub relay_refused: u64,
    /// Ids in the relay memory.
    pub relay_remembered: u64,
    /// Broadcasts that slow peers missed. If it rises, peers are too slow or rings too small.
    pub missed_broadcasts: u64,
    /// Broadcasts that peers left out for this node, because it read too slowly, as they say.
    pub missed_from_peers: u64,
    /// Peers reaped for silence.
    pub reaped: u64,
    /// Panics in handlers and in the maintenance. Any but zero shows a bug.
    pub panics: u64,
}

/// Memory held for peers, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct MemoryStats {
    /// Held by connections: inboxes, lanes, reassembly, partial reads.
    pub connections: u64,
    /// The limit of `connections`.
    pub connections_limit: u64,
    /// Held by logs and state tables.
    pub logs: u64,
    /// The limit of the whole.
    pub limit: u64,
    /// How often memory was refused because of the limit, or of a share.
    pub refused: u64,
    /// Connections that are not read until there is room.
    pub waiting: u64,
}

/// The broadcast logs of one lane, summed over all protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LaneStats {
    /// Bytes in the ring.
    pub bytes: u64,
    /// The bound of the ring.
    pub limit: u64,
}

impl NodeRef {
    /// Counters and gauges of this moment.
    ///
    /// # Cost
    /// A walk over the roster.
    pub fn stats(&self) -> NodeStats {
        let shared = self.shared();
        let counters = &shared.counters;
        let read = |counter: &crate::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let lanes = [crate::base::Lane::Urgent, crate::base::Lane::Normal, crate::base::Lane::Bulk];
        NodeStats {
            pool: shared.pool.stats(shared.now()),
            connections: shared.tasks.connections() as u64,
            tasks: shared.tasks.running() as u64,
            memory: MemoryStats {
                connections: shared.budget.used() as u64,
                connections_limit: shared.budget.limit() as u64,
                logs: shared.protocols.bytes() as u64,
                limit: shared.runtime_config().memory_limit as u64,
                refused: shared.budget.refused(),
                waiting: shared.budget.waiting() as u64,
            },
            logs: lanes.map(|lane| {
                let mut of_all = LaneStats { bytes: 0, limit: 0 };
                for log in shared.protocols.iter().filter_map(|protocol| protocol.log(lane)) {
                    of_all.bytes += log.bytes() as u64;
                    of_all.limit += log.ring_bytes() as u64;
                }
                of_all
            }),
            book: shared.book.len() as u64,
            accepted: read(&counters.accepted),
            refused: read(&counters.refused),
            evicted_handshakes: read(&counters.evicted_handshakes),
            addrs_refused: read(&counters.addrs_refused),
            stalls: read(&counters.stalls),
            dials: read(&counters.dials),
            missing_outbound: shared.runtime_config().target_outbound.saturating_sub(shared.live_outbound()) as u64,
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
            missed_from_peers: read(&counters.missed_from_peers),
            reaped: read(&counters.reaped),
            panics: read(&counters.panics),
        }
    }
}
