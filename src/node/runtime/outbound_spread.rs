//! How the node's own dials spread over sources and subnets.
//!
//! Invariant: `inbound_never_satisfies_outbound`.
//! - Statement: of its own accord the node has few connections that it dialled to one source or one
//!   subnet, and dials a source at a bounded rate, whatever addresses it was told.
//! - Enforced by: [`OutboundSpread::choose`] is asked for each candidate. It counts live outbound
//!   peers, dials under way, and what it has chosen before.
//! - Breaks if: an address from the book is dialled without being chosen. What the operator
//!   configures, seeds, and what the application asks for, is not bound.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::address_book::ReportedBy;
use crate::base::{Direction, Source, Subnet, Tick};
use crate::node::config::{DiscoveryConfig, RuntimeConfig};
use crate::pool::SlotClass;

use super::shared::Shared;

/// The choice of one maintenance step.
pub(super) struct OutboundSpread<'a> {
    shared: &'a Shared,
    config: &'a DiscoveryConfig,
    now: Tick,
    sources: HashMap<Source, usize>,
    subnets: HashMap<Subnet, usize>,
}

impl<'a> OutboundSpread<'a> {
    /// # Cost
    /// A walk over the live peers, where sources are limited at all.
    pub(super) fn new(shared: &'a Shared, config: &'a RuntimeConfig) -> Self {
        let config = &config.discovery;
        let mut spread =
            Self { shared, config, now: shared.now(), sources: HashMap::new(), subnets: HashMap::new() };
        if spread.is_limited() {
            for peer in shared.pool.roster().iter() {
                // Trusted peers are the operator's choice.
                if peer.direction() == Direction::Outbound && peer.slot_class() == SlotClass::Ordinary {
                    spread.add(Source::of(peer.ip()));
                }
            }
        }
        spread
    }

    fn is_limited(&self) -> bool {
        self.config.max_outbound_per_source.min(self.config.max_outbound_per_subnet) < usize::MAX / 2
    }

    /// Whether an address may be dialled; if so, it is counted.
    pub(super) fn choose(&mut self, addr: &SocketAddr) -> bool {
        if self.is_configured(addr) {
            return true;
        }
        let ip = addr.ip();
        let connecting = &self.shared.connecting;
        if connecting.dialled.is_recent(ip, self.config.source_dial_interval, self.now) {
            return false;
        }
        if !self.is_limited() {
            return true;
        }
        let source = Source::of(ip);
        let (dialling_source, dialling_subnet) = connecting.dials.of(source);
        let of_source = self.sources.get(&source).copied().unwrap_or(0) + dialling_source;
        let of_subnet = self.subnets.get(&source.subnet()).copied().unwrap_or(0) + dialling_subnet;
        let has_room = of_source < self.config.max_outbound_per_source
            && of_subnet < self.config.max_outbound_per_subnet;
        if has_room {
            self.add(source);
        }
        has_room
    }

    /// Whether the operator gave the address, or a seed list did.
    fn is_configured(&self, addr: &SocketAddr) -> bool {
        let known = self.shared.book.get(addr);
        known.is_some_and(|known| matches!(known.reported_by, ReportedBy::Operator | ReportedBy::Seed))
    }

    fn add(&mut self, source: Source) {
        *self.sources.entry(source).or_default() += 1;
        *self.subnets.entry(source.subnet()).or_default() += 1;
    }
}
