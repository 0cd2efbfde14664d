//! How far the file is dirty the map.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::BanTarget;
#[cfg(feature = "redb")]
use super::{Address, Ban, table::AddrTable};

/// What the file does not have yet, removals included.
#[derive(Debug, Default)]
pub(super) struct DirtySet {
    /// `false` for a book without a file, which would gather removals for nobody.
    tracking: bool,
    /// Everything: the file is to be written anew.
    all: bool,
    addresses: BTreeSet<SocketAddr>,
    bans: BTreeSet<BanTarget>,
}

impl DirtySet {
    /// An address changed, came or went. `bound` is how many may be noted one by one: a file that cannot be written must
    /// not make this set grow, so beyond that everything is.
    pub(super) fn note(&mut self, addr: SocketAddr, bound: usize) {
        if self.tracking && !self.all {
            self.addresses.insert(addr);
            self.collapse(bound);
        }
    }

    /// A ban changed, came or went; `bound` as for [`note`](Self::note).
    pub(super) fn note_ban(&mut self, target: BanTarget, bound: usize) {
        if self.tracking && !self.all {
            self.bans.insert(target);
            self.collapse(bound);
        }
    }

    /// How many records are to be written, if the book has `everything`.
    pub(super) fn len(&self, everything: usize) -> usize {
        if self.all { everything } else { self.addresses.len() + self.bans.len() }
    }

    fn collapse(&mut self, bound: usize) {
        if self.addresses.len() + self.bans.len() > bound {
            *self = Self { tracking: true, all: true, ..Self::default() };
        }
    }
}

/// Changes on their way to the file; `None` is a removal.
#[cfg(feature = "redb")]
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Whatever else the file has is to go.
    pub(super) anew: bool,
    pub(super) addresses: Vec<(SocketAddr, Option<Address>)>,
    pub(super) bans: Vec<(BanTarget, Option<Ban>)>,
}

#[cfg(feature = "redb")]
impl Batch {
    pub(super) fn len(&self) -> usize {
        self.addresses.len() + self.bans.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.anew && self.len() == 0
    }
}

#[cfg(feature = "redb")]
impl AddrTable {
    /// From now on there is a file, and it has what the table has.
    pub(super) fn track(&mut self) {
        self.dirty = DirtySet { tracking: true, ..DirtySet::default() };
    }

    /// The file has nothing, or nobody knows what.
    pub(super) fn mark_all(&mut self) {
        self.dirty = DirtySet { tracking: true, all: true, ..DirtySet::default() };
    }

    /// Clones out what the file does not have yet, and takes it for written.
    pub(super) fn take_dirty(&mut self) -> Batch {
        let dirty = std::mem::replace(&mut self.dirty, DirtySet { tracking: true, ..DirtySet::default() });
        if dirty.all {
            return Batch {
                anew: true,
                addresses: self.iter().map(|entry| (entry.addr, Some(entry.clone()))).collect(),
                bans: self.bans.iter().map(|ban| (ban.target, Some(ban))).collect(),
            };
        }
        Batch {
            anew: false,
            addresses: dirty.addresses.into_iter().map(|addr| (addr, self.get(&addr).cloned())).collect(),
            bans: dirty.bans.into_iter().map(|target| (target, self.bans.get(&target))).collect(),
        }
    }

    /// A batch was not written after all.
    pub(super) fn put_back(&mut self, batch: &Batch) {
        if batch.anew || self.dirty.all {
            return self.mark_all();
        }
        let bound = self.bound();
        batch.addresses.iter().for_each(|(addr, _)| self.dirty.note(*addr, bound));
        batch.bans.iter().for_each(|(target, _)| self.dirty.note_ban(*target, bound));
    }
}
