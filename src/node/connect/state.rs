//! What the types of this room share across connections: indexes and bounds.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::base::counts::SourceCounts;
use crate::base::{Source, Tick};
use crate::node::protocol::ProtocolId;
use crate::node::runtime::interner::Interner;
use crate::sync::Mutex;

use super::pending_inbound::PendingInbound;
use super::process_index::ProcessIndex;
use super::source_slots::{SlotLimits, SourceSlots};

/// Goodbyes written at the same time. Each holds a socket for up to two seconds.
pub(crate) const GOODBYE_LIMITS: SlotLimits = SlotLimits { total: 512, per_source: 64, per_subnet: 128 };
/// Probes at the same time: enough that a few dozen listeners that do not answer delay nobody
/// else's.
pub(crate) const PROBE_LIMITS: SlotLimits = SlotLimits { total: 64, per_source: 4, per_subnet: 8 };

/// Sources remembered before the old ones are dropped.
const MAX_REMEMBERED_SOURCES: usize = 1024;

/// Indexes and bounds of connection attempts.
#[derive(Debug)]
pub(crate) struct ConnectState {
    /// The connection that owns each remote process.
    pub(crate) processes: ProcessIndex,
    /// Agent strings of peers, each kept once.
    pub(crate) agents: Interner,
    /// Listeners: the protocol and the bound address of each.
    pub(crate) listeners: Mutex<Vec<(ProtocolId, SocketAddr)>>,
    /// Connections of peers, those that are closing included, by source. An index derived from the
    /// sessions.
    pub(crate) sessions: Mutex<SourceCounts>,
    /// Handshakes of strangers that dialled us.
    pub(crate) pending_inbound: Arc<PendingInbound>,
    /// Handshakes of those that stand for a trusted address.
    pub(crate) trusted_pending: SourceSlots,
    /// Dials of the node's own accord that are under way.
    pub(crate) dials: SourceSlots,
    /// Those of them to addresses that a source which is no peer told, by that source.
    pub(crate) dials_of_strangers: SourceSlots,
    /// When each source was last dialled of the node's own accord.
    pub(crate) dialled: RecentSources,
    /// When each source that found no free slot was last told addresses.
    pub(crate) helped: RecentSources,
    /// Probes under way. They have a bound of their own, so that they take no room from dials.
    pub(crate) probes: SourceSlots,
    /// Goodbyes that are being written. Beyond the bounds a connection is closed without one.
    pub(crate) goodbyes: SourceSlots,
}

impl ConnectState {
    pub(crate) fn new() -> Self {
        Self {
            processes: ProcessIndex::new(),
            agents: Interner::default(),
            listeners: Mutex::default(),
            sessions: Mutex::default(),
            pending_inbound: Arc::default(),
            trusted_pending: SourceSlots::default(),
            dials: SourceSlots::default(),
            dials_of_strangers: SourceSlots::default(),
            dialled: RecentSources::default(),
            helped: RecentSources::default(),
            probes: SourceSlots::default(),
            goodbyes: SourceSlots::default(),
        }
    }

    /// The bound addresses, in the order in which they were bound.
    pub(crate) fn local_addrs(&self) -> Vec<SocketAddr> {
        self.listeners.lock().iter().map(|(_, addr)| *addr).collect()
    }
}

/// The sources that something was done for lately, and when.
#[derive(Debug, Default)]
pub(crate) struct RecentSources(Mutex<HashMap<Source, Tick>>);

impl RecentSources {
    /// Whether it was done for a source less than `interval` ago.
    pub(crate) fn is_recent(&self, ip: IpAddr, interval: Duration, now: Tick) -> bool {
        if interval.is_zero() {
            return false;
        }
        self.0.lock().get(&Source::of(ip)).is_some_and(|at| now.since(*at) < interval)
    }

    /// Remembers that it is done now. Above the bound, sources for which it was done longer ago than
    /// `interval` are forgotten. `false` if that leaves no room.
    pub(crate) fn record(&self, ip: IpAddr, interval: Duration, now: Tick) -> bool {
        if interval.is_zero() {
            return true;
        }
        let mut recent = self.0.lock();
        if recent.len() >= MAX_REMEMBERED_SOURCES {
            recent.retain(|_, at| now.since(*at) < interval);
        }
        let has_room = recent.len() < MAX_REMEMBERED_SOURCES;
        if has_room {
            recent.insert(Source::of(ip), now);
        }
        has_room
    }

    /// Whether it may be done now, if it is done for a source once in `interval`; remembered then.
    pub(crate) fn begin(&self, ip: IpAddr, interval: Duration, now: Tick) -> bool {
        !self.is_recent(ip, interval, now) && self.record(ip, interval, now)
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn recent_dials_are_bounded_and_forgotten() {
        let (dials, pause) = (RecentSources::default(), Duration::from_secs(5));
        let at = Tick::from_millis;
        let ip = |n: u16| IpAddr::from([20, 0, (n >> 8) as u8, n as u8]);
        (0..2_000).for_each(|n| _ = dials.record(ip(n), pause, at(0)));
        assert_eq!(dials.0.lock().len(), MAX_REMEMBERED_SOURCES);
        assert!(dials.is_recent(ip(0), pause, at(4_999)) && !dials.is_recent(ip(0), pause, at(5_000)));
        dials.record(ip(3_000), pause, at(6_000));
        assert_eq!(dials.0.lock().len(), 1);
    }
}
