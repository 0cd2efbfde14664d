//! The order in which addresses are evicted from a full book.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::address::{Address, ReportedBy};
use super::wall_time::WallTime;

/// Number of [`EvictionClass`]es.
const CLASSES: usize = 3;

/// Why an address may be evicted. The first class goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EvictionClass {
    /// Never connected.
    Unproven = 0,
    /// Once connected and failing now, or our own address.
    FailingOrSelf = 1,
    /// Banned. Its record is part of what we hold against it, so it goes last; the ban itself is
    /// stored elsewhere.
    Banned = 2,
}

/// The addresses that may be evicted. Derived from the entries and the bans.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct EvictionQueues([ClassQueue; CLASSES]);

/// The addresses of a class by who reported them: the largest group gives first, of it the oldest.
///
/// A group is what one subnet reported (a /24, or a /48, in which anybody can have 65,536
/// sources), so that a subnet that fills the book pushes out its own.
#[derive(Debug, Default, PartialEq, Eq)]
struct ClassQueue {
    groups: BTreeMap<ReportedBy, BTreeSet<Aged>>,
    /// Each group by its size and its oldest.
    order: BTreeSet<(Reverse<usize>, Aged)>,
}

type Aged = (WallTime, SocketAddr);

impl ClassQueue {
    fn change(&mut self, reported_by: ReportedBy, change: impl FnOnce(&mut BTreeSet<Aged>) -> bool) {
        let key = reported_by.subnet();
        let group = self.groups.entry(key).or_default();
        let rank = |group: &BTreeSet<Aged>| group.first().map(|oldest| (Reverse(group.len()), *oldest));
        if let Some(before) = rank(group) {
            self.order.remove(&before);
        }
        change(group);
        if let Some(after) = rank(group) {
            self.order.insert(after);
        } else {
            self.groups.remove(&key);
        }
    }

    fn first(&self) -> Option<SocketAddr> {
        self.order.first().map(|(_, (_, addr))| *addr)
    }
}

impl EvictionQueues {
    /// Adds an address; `banned` is whether a ban against it is recorded.
    pub(super) fn insert(&mut self, entry: &Address, banned: bool) {
        if let Some((class, age)) = classify(entry, banned) {
            self.0[class as usize].change(entry.reported_by, |group| group.insert((age, entry.addr)));
        }
    }

    /// Removes an address, which must be unchanged since it was added.
    pub(super) fn remove(&mut self, entry: &Address) {
        // Bans come and go without the entry changing, so it may be in either of two classes.
        for (class, age) in [true, false].into_iter().filter_map(|banned| classify(entry, banned)) {
            self.0[class as usize].change(entry.reported_by, |group| group.remove(&(age, entry.addr)));
        }
    }

    /// The address to evict first.
    pub(super) fn first(&self) -> Option<SocketAddr> {
        self.0.iter().find_map(ClassQueue::first)
    }
}

/// The class of an address, and the time that orders it there. `None`: it is kept.
fn classify(entry: &Address, banned: bool) -> Option<(EvictionClass, WallTime)> {
    if entry.trusted {
        return None;
    }
    if banned {
        return Some((EvictionClass::Banned, entry.first_seen));
    }
    if let Some(since) = entry.self_since {
        return Some((EvictionClass::FailingOrSelf, since));
    }
    match entry.last_success {
        None => Some((EvictionClass::Unproven, entry.first_seen)),
        Some(success) if entry.is_failing() => Some((EvictionClass::FailingOrSelf, success)),
        Some(_) => None,
    }
}
