#![cfg_attr(not(feature = "redb"), allow(rustdoc::broken_intra_doc_links))]
//! The address book: which addresses we know, how each went, who is banned. It survives `kill -9`.
//!
//! Every read and every change is served from memory under one short lock. The file ([`AddressBook::open`], feature `redb`) follows:
//! changes are noted, and [`AddressBook::flush`] writes them in one durable transaction, on a thread that may block. A
//! crash loses what was not flushed and nothing else.
//!
//! # Invariants
//! **Backoff resets only after a stable session; trusted addresses back off too** (33). Enforced by:
//! [`DialOutcome::Stable`] alone sets the failures to zero, and no code path asks whether an address is trusted before it waits.
//! Breaks if: a handshake counts as success, and a peer that accepts and hangs up is redialled in a loop.
//!
//! **A collision is no failure** (8). Enforced by: [`DialOutcome::Collision`] changes nothing. Breaks if: it is recorded as
//! a failure, and two nodes that dial each other push each other away.
//!
//! **One source cannot fill the book** (15, 22). Enforced by: the quota per bucket, of a source on addresses that never
//! connected and of a host on its own that did, whoever told them, kept at every insertion and change; the total is bounded too. Breaks if: an insertion
//! bypasses `AddrTable::make_room`, or a change `AddrTable::edit`.
//!
//! **No I/O and no caller's code under the lock** (16). Enforced by: a flush clones the changed entries out, and
//! [`AddressBook::candidates`] asks `skip` after the lock is released. Breaks if: either happens inside.

mod address;
mod bans;
mod config;
mod dirty;
mod error;
mod eviction;
mod select;
#[cfg(feature = "redb")]
mod store;
mod table;
mod wall_time;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

pub use address::{AddRefused, Added, Address, DialOutcome, FailureCause, Source};
pub use bans::{Ban, BanTarget};
pub use config::AddressBookConfig;
pub use error::AddressBookError;
pub use wall_time::WallTime;

use self::table::AddrTable;
use crate::base::canonical;
use crate::sync::Mutex;

/// The address book. Share it in an `Arc`; every call takes `&self`.
///
/// Addresses and ban targets are canonicalised on the way in. Every call except [`open`](Self::open) and
/// [`flush`](Self::flush) is short and does no I/O; calls that look at one address cost O(log n), those that walk the
/// book say so.
///
/// Dropping a book does not flush it.
#[derive(Debug)]
pub struct AddressBook {
    table: Mutex<AddrTable>,
    /// Also orders flushes: a later one must not be overtaken by an earlier one with older records.
    #[cfg(feature = "redb")]
    store: Option<Mutex<store::Store>>,
}

/// Counts of a book.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressBookStats {
    /// Addresses known.
    pub addresses: usize,
    /// Addresses that once connected.
    pub proven: usize,
    /// Addresses that the operator vouches for.
    pub trusted: usize,
    /// Bans recorded, including those that are over and not yet forgotten.
    pub bans: usize,
    /// Records that the file does not have yet. Rising: flushes fail, or nobody calls them.
    pub unflushed: usize,
    /// Addresses refused since the start. Rising fast: somebody floods us.
    pub refused: u64,
    /// Addresses evicted since the start. Rising fast: `max_addresses` is small for this network.
    pub evicted: u64,
}

impl AddressBook {
    /// A book without a file: [`flush`](Self::flush) does nothing.
    pub fn in_memory(config: AddressBookConfig) -> Self {
        Self {
            table: Mutex::new(AddrTable::new(config)),
            #[cfg(feature = "redb")]
            store: None,
        }
    }

    /// The book in this file, created if there is none. Blocks: reads and checks the whole file.
    ///
    /// # Errors
    /// [`AddressBookError`] names the file and what to do. A file that is damaged or not a book is left as it is.
    #[cfg(feature = "redb")]
    pub fn open(
        path: impl AsRef<std::path::Path>,
        config: AddressBookConfig,
    ) -> Result<Self, AddressBookError> {
        let (store, contents) = store::Store::open(path.as_ref())?;
        let mut table = AddrTable::new(config);
        table.restore(contents.addresses, contents.bans);
        Ok(Self { table: Mutex::new(table), store: Some(Mutex::new(store)) })
    }

    /// Whether there is a file that the book is written to.
    pub fn has_file(&self) -> bool {
        #[cfg(feature = "redb")]
        return self.store.is_some();
        #[cfg(not(feature = "redb"))]
        false
    }

    /// Writes what has changed since the last flush in one transaction, and returns how many records that were. When it
    /// returns, they survive `kill -9` and, as far as the disk keeps its word, a loss of power.
    ///
    /// Blocks for a sync of the disk: call it on a thread that may. Flushes run one after another; other calls go on
    /// meanwhile, and what they change is for the next flush.
    ///
    /// # Errors
    /// [`AddressBookError`]; the changes stay noted, and the next flush tries again.
    #[cfg(feature = "redb")]
    pub fn flush(&self) -> Result<usize, AddressBookError> {
        let Some(store) = &self.store else { return Ok(0) };
        let mut store = store.lock();
        if store.reopen()? == store::Reopened::Empty {
            self.table.lock().mark_all();
        }
        let batch = self.table.lock().take_dirty();
        if batch.is_empty() {
            return Ok(0);
        }
        store.write(&batch).inspect_err(|_| self.table.lock().put_back(&batch))?;
        Ok(batch.len())
    }

    /// Does nothing: without the feature `redb` there is no file.
    ///
    /// # Errors
    /// None.
    #[cfg(not(feature = "redb"))]
    pub fn flush(&self) -> Result<usize, AddressBookError> {
        Ok(0)
    }

    /// Takes an address that somebody told us about.
    ///
    /// # Errors
    /// [`AddRefused`] says why it was not taken.
    ///
    /// # Cost
    /// O(log n); for a source at its quota O(quota); for an operator's address in a book full of good ones O(n).
    pub fn add(&self, addr: SocketAddr, source: Source, now: WallTime) -> Result<Added, AddRefused> {
        self.table.lock().add(canonical(addr), source.canonical(), now)
    }

    /// Notes how a dial or its session went. Returns whether the address is known; of others nothing is noted.
    pub fn record(&self, addr: &SocketAddr, outcome: DialOutcome, now: WallTime) -> bool {
        self.table.lock().record(&canonical(*addr), outcome, now)
    }

    /// Up to `max` addresses to dial now: due, not banned, not our own, not another name of one that works, and not
    /// those that `skip` says yes to. Trusted ones first, then a random interleave of proven and new, in which those that failed
    /// less come first.
    ///
    /// It does not note the attempts: until they are recorded, a second call may return the same addresses.
    ///
    /// # Cost
    /// O(n log n); `skip` runs outside the lock and may call the book.
    pub fn candidates(
        &self,
        now: WallTime,
        max: usize,
        skip: &dyn Fn(&SocketAddr) -> bool,
    ) -> Vec<SocketAddr> {
        let (due, rng) = self.table.lock().due(now);
        select::interleave(due, rng, max, skip)
    }

    /// Whether an address may be dialled now: known, due, not banned and not our own. It may be another name of one that works.
    pub fn is_due(&self, addr: &SocketAddr, now: WallTime) -> bool {
        self.table.lock().is_due(&canonical(*addr), now)
    }

    /// Up to `max` random addresses to tell other peers: such that once connected and do not fail now, not banned, not
    /// our own, each peer under one name.
    ///
    /// # Cost
    /// O(n).
    pub fn sample(&self, now: WallTime, max: usize) -> Vec<SocketAddr> {
        self.table.lock().sample(now, max)
    }

    /// When the next address is due; `now` if one is already, `None` if there is nobody to dial.
    ///
    /// # Cost
    /// O(n).
    pub fn next_due(&self, now: WallTime) -> Option<WallTime> {
        self.table.lock().next_due(now)
    }

    /// Sets whether the operator vouches for an address; adds it first if it is not known, whatever must go for it.
    /// From then on its source is the operator.
    ///
    /// # Errors
    /// [`AddRefused`] if it is not known and cannot be added.
    pub fn set_trusted(&self, addr: SocketAddr, trusted: bool, now: WallTime) -> Result<(), AddRefused> {
        self.table.lock().set_trusted(canonical(addr), trusted, now)
    }

    /// Notes that `addr` leads to the peer that is known as `of`: it is not dialled while `of` works. Returns whether
    /// both are known and differ.
    pub fn set_alias(&self, addr: SocketAddr, of: SocketAddr) -> bool {
        self.table.lock().set_alias(canonical(addr), canonical(of))
    }

    /// Notes that `addr` is our own. It is remembered for [`AddressBookConfig::self_memory`].
    pub fn mark_self(&self, addr: SocketAddr, now: WallTime) {
        self.table.lock().mark_self(canonical(addr), now);
    }

    /// Whether `addr` is our own, as far as we remember.
    pub fn is_self(&self, addr: &SocketAddr, now: WallTime) -> bool {
        let table = self.table.lock();
        table.get(&canonical(*addr)).is_some_and(|entry| table.is_own(entry, now))
    }

    /// Forgets an address. Returns whether it was known.
    pub fn remove(&self, addr: &SocketAddr) -> bool {
        self.table.lock().remove(&canonical(*addr))
    }

    /// What is known about an address.
    pub fn get(&self, addr: &SocketAddr) -> Option<Address> {
        self.table.lock().get(&canonical(*addr)).cloned()
    }

    /// Everything that is known, ordered by address. Cost: O(n), a copy.
    pub fn addresses(&self) -> Vec<Address> {
        self.table.lock().iter().cloned().collect()
    }

    /// How many addresses are known.
    pub fn len(&self) -> usize {
        self.table.lock().len()
    }

    /// Whether no address is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bans a target until a moment, [`WallTime::MAX`] for good. A longer ban that is there stays. Returns whether
    /// anything changed.
    ///
    /// When there are more bans than [`AddressBookConfig::max_bans`], the one that ends first goes, other than this one.
    pub fn ban(&self, target: BanTarget, until: WallTime, now: WallTime) -> bool {
        self.table.lock().ban(target.canonical(), until, now)
    }

    /// Lifts a ban. Returns whether there was one.
    pub fn unban(&self, target: &BanTarget) -> bool {
        self.table.lock().unban(&target.canonical())
    }

    /// Whether exactly this target is banned. A clock that jumps back lifts no ban.
    pub fn is_banned(&self, target: &BanTarget, now: WallTime) -> bool {
        self.table.lock().bans.holds(&target.canonical(), now)
    }

    /// Whether an address is banned: its IP, or the peer that has no other identity than this address.
    pub fn is_banned_addr(&self, addr: SocketAddr, now: WallTime) -> bool {
        self.table.lock().bans.holds_addr(canonical(addr), now)
    }

    /// The bans, ordered by target, including those that are over and not yet forgotten. Cost: O(bans), a copy.
    pub fn bans(&self) -> Vec<Ban> {
        self.table.lock().bans.iter().collect()
    }

    /// Forgets the bans that are over and returns how many that were. Bans that a clock jumping back has moved into
    /// the future begin again now, with the length they had. Call it now and then. Cost: O(bans).
    pub fn expire(&self, now: WallTime) -> usize {
        self.table.lock().expire(now)
    }

    /// Counts. Cost: O(n).
    pub fn stats(&self) -> AddressBookStats {
        let table = self.table.lock();
        AddressBookStats {
            addresses: table.len(),
            proven: table.iter().filter(|entry| entry.last_success.is_some()).count(),
            trusted: table.iter().filter(|entry| entry.trusted).count(),
            bans: table.bans.len(),
            unflushed: table.unflushed(),
            refused: table.refused,
            evicted: table.evicted,
        }
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests;
