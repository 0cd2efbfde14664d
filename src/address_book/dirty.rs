//! Which records differ from the file.

use std::collections::BTreeSet;
use std::net::SocketAddr;

#[cfg(feature = "redb")]
use super::address::Address;
#[cfg(feature = "redb")]
use super::bans::Ban;
use super::bans::BanTarget;

/// The records that the file does not have yet, removals included.
#[derive(Debug, Default)]
pub(super) struct DirtySet {
    /// `false` for a book without a file, which would collect changes that no flush takes.
    tracking: bool,
    /// All records are dirty: the next flush rewrites the file.
    all: bool,
    addresses: BTreeSet<SocketAddr>,
    bans: BTreeSet<BanTarget>,
}

impl DirtySet {
    /// Marks an address that was added, changed or removed.
    ///
    /// Above `max` marks, all records become dirty: a file that cannot be written must not make
    /// this set grow.
    pub(super) fn mark(&mut self, addr: SocketAddr, max: usize) {
        if self.tracking && !self.all {
            self.addresses.insert(addr);
            self.collapse(max);
        }
    }

    /// Marks a ban that was added, changed or removed; `max` as for [`mark`](Self::mark).
    pub(super) fn mark_ban(&mut self, target: BanTarget, max: usize) {
        if self.tracking && !self.all {
            self.bans.insert(target);
            self.collapse(max);
        }
    }

    /// Number of dirty records in a book of `total` records.
    pub(super) fn len(&self, total: usize) -> usize {
        if self.all { total } else { self.addresses.len() + self.bans.len() }
    }

    fn collapse(&mut self, max: usize) {
        if self.addresses.len() + self.bans.len() > max {
            *self = Self { tracking: true, all: true, ..Self::default() };
        }
    }
}

#[cfg(feature = "redb")]
impl DirtySet {
    /// Starts tracking for a file that has every record.
    pub(super) fn track(&mut self) {
        *self = Self { tracking: true, ..Self::default() };
    }

    /// Marks all records: the file is empty, or its contents are unknown.
    pub(super) fn mark_all(&mut self) {
        *self = Self { tracking: true, all: true, ..Self::default() };
    }

    /// Takes the marks and leaves none.
    pub(super) fn take(&mut self) -> Dirty {
        let Self { all, addresses, bans, .. } = std::mem::take(self);
        self.track();
        if all { Dirty::All } else { Dirty::Some { addresses, bans } }
    }

    /// Marks the records of a batch that was not written.
    pub(super) fn restore(&mut self, batch: &Batch, max: usize) {
        if batch.replace_all || self.all {
            return self.mark_all();
        }
        batch.addresses.iter().for_each(|(addr, _)| self.mark(*addr, max));
        batch.bans.iter().for_each(|(target, _)| self.mark_ban(*target, max));
    }
}

/// The marks of a [`DirtySet`].
#[cfg(feature = "redb")]
#[derive(Debug)]
pub(super) enum Dirty {
    /// All records.
    All,
    /// These records.
    Some { addresses: BTreeSet<SocketAddr>, bans: BTreeSet<BanTarget> },
}

/// Changes to write to the file. `None` in place of a record removes it.
#[cfg(feature = "redb")]
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Whether to clear the file first.
    pub(super) replace_all: bool,
    pub(super) addresses: Vec<(SocketAddr, Option<Address>)>,
    pub(super) bans: Vec<(BanTarget, Option<Ban>)>,
}

#[cfg(feature = "redb")]
impl Batch {
    pub(super) fn len(&self) -> usize {
        self.addresses.len() + self.bans.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.replace_all && self.len() == 0
    }
}
