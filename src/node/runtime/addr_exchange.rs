//! Which addresses peers are told, and which of theirs are believed: in lists, and in refusals.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::address_book::{Added, ReportedBy, WallTime};
use crate::base::Source;
use crate::node::protocol::ProtocolId;

use super::addr_sample::Asker;
use super::shared::{Shared, count};

/// Addresses for a peer that asks: at most `max`.
///
/// # Cost
/// A short lock and a walk over the present sample; see [`AddrSample`](super::addr_sample::AddrSample).
pub(crate) fn tell(shared: &Shared, asker: &Asker, max: usize) -> Vec<SocketAddr> {
    shared.addr_sample.renew(&shared.book, |addr| shared.protocols.for_addr(addr), shared.now());
    shared.addr_sample.for_peer(asker, max, &shared.runtime_config().discovery)
}

/// Enters the addresses that `from` told us into the book, those that it may tell. Returns how many
/// were new.
pub(crate) fn learn(
    shared: &Shared,
    from: IpAddr,
    protocol: ProtocolId,
    addrs: impl IntoIterator<Item = SocketAddr>,
) -> usize {
    let config = &shared.runtime_config().discovery;
    let (now, reported_by) = (WallTime::now(), ReportedBy::Peer(from));
    let mut new = 0;
    for addr in addrs {
        let max = config.max_addrs_per_source;
        if !config.may_tell(from, addr.ip()) || shared.book.count_at(Source::of(addr.ip()), max) >= max {
            count(&shared.counters.addrs_refused);
            continue;
        }
        if matches!(shared.book.add(addr, reported_by, now), Ok(Added::New)) {
            shared.protocols.remember_hint(addr, protocol);
            new += 1;
        }
    }
    new
}

/// Addresses for a stranger that finds no free slot: none if its source got some less than
/// `interval` ago.
pub(crate) fn tell_refused(shared: &Shared, asker: &Asker, max: usize, interval: Duration) -> Vec<SocketAddr> {
    if !shared.connecting.helped.begin(asker.ip, interval, shared.now()) {
        return Vec::new();
    }
    tell(shared, asker, max)
}
