//! Where each address stands: in the order of eviction, and against its source's quota.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::table::AddrTable;
use super::{Address, Source, WallTime};

/// What may be evicted: each shelf by age, the first shelf first.
pub(super) type EvictionOrder = [BTreeSet<(WallTime, SocketAddr)>; SHELVES];

impl AddrTable {
    /// Enters an address into the indexes.
    pub(super) fn shelve(&mut self, entry: &Address) {
        if let Some((shelf, age)) = shelf(entry, self.bans.mentions(entry.addr)) {
            self.shelves[shelf].insert((age, entry.addr));
        }
        if let Some(bucket) = quota(entry) {
            self.by_source.entry(bucket).or_default().insert(entry.addr);
        }
    }

    /// Takes an address out of the indexes; it must be as it was when it entered.
    pub(super) fn unshelve(&mut self, entry: &Address) {
        // A ban that came or went since may have it on either of two shelves.
        for (shelf, age) in [true, false].into_iter().filter_map(|banned| shelf(entry, banned)) {
            self.shelves[shelf].remove(&(age, entry.addr));
        }
        if let Some(bucket) = quota(entry)
            && let Some(told) = self.by_source.get_mut(&bucket)
        {
            told.remove(&entry.addr);
            if told.is_empty() {
                self.by_source.remove(&bucket);
            }
        }
    }
}

/// Where an address stands in the order of eviction, and its age there. `None`: it stays.
fn shelf(entry: &Address, banned: bool) -> Option<(usize, WallTime)> {
    if entry.trusted {
        return None;
    }
    if banned {
        return Some((BANNED, entry.first_seen));
    }
    if let Some(since) = entry.self_since {
        return Some((WORN, since));
    }
    match entry.last_success {
        None => Some((UNPROVEN, entry.first_seen)),
        Some(success) if entry.is_failing() => Some((WORN, success)),
        Some(_) => None,
    }
}

/// Whose quota an address counts against: of what has never connected the source's who told it, and from then on its own host's,
/// which can listen at any number of ports.
pub(super) fn quota(entry: &Address) -> Option<Source> {
    let told_by = entry.source.bucket().filter(|_| !entry.trusted)?;
    if entry.last_success.is_none() { Some(told_by) } else { Source::Peer(entry.addr.ip()).bucket() }
}

/// Never connected: goes first.
const UNPROVEN: usize = 0;
/// Once connected and now failing, or our own.
const WORN: usize = 1;
/// Under a ban: goes last, as the record is part of what we have against it. The ban itself is kept elsewhere.
const BANNED: usize = 2;
const SHELVES: usize = 3;
