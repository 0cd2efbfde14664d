//! How the node's own dials spread over sources and subnets.
//!
//! Invariant: `inbound_never_satisfies_outbound`.
//! - Statement: of its own accord the node has few connections that it dialled to one source or one
//!   subnet, and dials a source at a bounded rate, whatever addresses it was told.
//! - Enforced by: [`OutboundSpread::choose`] is asked for each candidate. It counts live outbound
//!   peers, dials under way, and what it has chosen before.
//! - Breaks if: an address from the book is dialled without being chosen. What the operator
//!   configures, seeds, and what the application asks for, is not bound.

use std::net::{IpAddr, SocketAddr};

use crate::address_book::ReportedBy;
use crate::base::counts::SourceCounts;
use crate::base::{Direction, Source, Tick};
use crate::node::config::RuntimeConfig;
use crate::node::discovery::DiscoveryConfig;
use crate::pool::SlotClass;

use super::shared::Shared;

/// Dials at a time to addresses from one source that is no peer: it refused us, or has left.
const MAX_DIALS_PER_STRANGER: usize = 2;

/// The choice of one maintenance step.
pub(super) struct OutboundSpread<'a> {
    shared: &'a Shared,
    config: &'a DiscoveryConfig,
    now: Tick,
    /// Live outbound peers and what was chosen.
    counts: SourceCounts,
    /// Who told the addresses that were chosen, if that is no peer.
    reported: SourceCounts,
}

impl<'a> OutboundSpread<'a> {
    /// # Cost
    /// A walk over the live peers, where sources are limited at all.
    pub(super) fn new(shared: &'a Shared, config: &'a RuntimeConfig) -> Self {
        let config = &config.discovery;
        let mut counts = SourceCounts::default();
        if config.limits_outbound() {
            for peer in shared.pool.roster().iter() {
                // Trusted peers are the operator's choice.
                if peer.direction() == Direction::Outbound && peer.slot_class() == SlotClass::Ordinary {
                    counts.add(Source::of(peer.ip()));
                }
            }
        }
        Self { shared, config, now: shared.now(), counts, reported: SourceCounts::default() }
    }

    /// Whether an address may be dialled; if so, it is counted.
    pub(super) fn choose(&mut self, addr: &SocketAddr) -> bool {
        if self.is_configured(addr) {
            return true;
        }
        let ip = addr.ip();
        if !self.config.may_dial(ip) {
            return false;
        }
        let connecting = &self.shared.connecting;
        if connecting.dialled.is_recent(ip, self.config.source_dial_interval, self.now) {
            return false;
        }
        if !self.config.limits_outbound() {
            return true;
        }
        let reporter = reporter_outside(self.shared, addr);
        if let Some(reporter) = reporter {
            let (dialling, _) = connecting.dials_of_strangers.of(Source::of(reporter));
            if self.reported.of_source(Source::of(reporter)) + dialling >= MAX_DIALS_PER_STRANGER {
                return false;
            }
        }
        let source = Source::of(ip);
        let (dialling_source, dialling_subnet) = connecting.dials.of(source);
        let has_room = self.counts.of_source(source) + dialling_source < self.config.max_outbound_per_source
            && self.counts.of_subnet(source) + dialling_subnet < self.config.max_outbound_per_subnet;
        if has_room {
            self.counts.add(source);
            if let Some(reporter) = reporter {
                self.reported.add(Source::of(reporter));
            }
        }
        has_room
    }

    /// Whether the operator gave the address, or a seed list did.
    fn is_configured(&self, addr: &SocketAddr) -> bool {
        let known = self.shared.book.get(addr);
        known.is_some_and(|known| matches!(known.reported_by, ReportedBy::Operator | ReportedBy::Seed))
    }
}

/// Who told an address that was never reached, if that is not a peer.
pub(in crate::node) fn reporter_outside(shared: &Shared, addr: &SocketAddr) -> Option<IpAddr> {
    let known = shared.book.get(addr)?;
    match known.reported_by {
        ReportedBy::Peer(ip) if known.last_success.is_none() && shared.pool.count_by_ip(ip) == 0 => Some(ip),
        _ => None,
    }
}
