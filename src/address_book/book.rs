//! The address book's public type: one lock around the table, and the file.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::address::{AddRefused, Added, Address, DialOutcome, ReportedBy};
use super::bans::{Ban, BanTarget};
use super::config::AddressBookConfig;
use super::error::AddressBookError;
use super::select;
#[cfg(feature = "redb")]
use super::store;
use super::table::AddrTable;
use super::wall_time::WallTime;
use crate::base::{Source, canonical};
use crate::sync::Mutex;

/// The address book. Share it in an `Arc`: every call takes `&self`.
///
/// Addresses and ban targets are canonicalised on the way in. Dropping a book does not flush it.
///
/// # Cost
/// Every call except [`open`](Self::open) and [`flush`](Self::flush) is short and does no I/O. A
/// call for one address takes O(log n); calls that walk the book say so.
#[derive(Debug)]
pub struct AddressBook {
    pub(super) table: Mutex<AddrTable>,
    /// Its lock also orders flushes: an earlier flush must not overwrite a later one with older
    /// records.
    #[cfg(feature = "redb")]
    pub(super) store: Option<Mutex<store::Store>>,
}

/// Counts of a book.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressBookStats {
    /// Known addresses.
    pub addresses: usize,
    /// Addresses that once connected.
    pub proven: usize,
    /// Addresses that the operator trusts.
    pub trusted: usize,
    /// Recorded bans, including expired ones that are not yet removed.
    pub bans: usize,
    /// Records that the file does not have yet. A rising count means that flushes fail or are not
    /// called.
    pub unflushed: usize,
    /// Addresses refused since the start. A fast rise means that a source floods the book.
    pub refused: u64,
    /// Addresses evicted since the start. A fast rise means that `max_addresses` is small for the
    /// network.
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

    /// Opens the book in this file, or creates it. Blocks: reads and checks the whole file.
    ///
    /// # Errors
    /// [`AddressBookError`] names the file and a remedy. A file that is damaged or not a book stays
    /// unchanged.
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

    /// Whether the book has a file.
    pub fn has_file(&self) -> bool {
        #[cfg(feature = "redb")]
        return self.store.is_some();
        #[cfg(not(feature = "redb"))]
        false
    }

    /// Writes the changes since the last flush in one transaction. Returns the number of records.
    ///
    /// When it returns, the records survive `kill -9` and, if the disk honours its sync, a loss of
    /// power.
    ///
    /// Blocks for a sync of the disk: call it on a thread that may block. Flushes run one after
    /// another. Other calls go on meanwhile; their changes belong to the next flush.
    ///
    /// # Errors
    /// [`AddressBookError`]. The changes stay marked, and the next flush tries again.
    #[cfg(feature = "redb")]
    pub fn flush(&self) -> Result<usize, AddressBookError> {
        let Some(store) = &self.store else { return Ok(0) };
        let mut store = store.lock();
        if store.reopen()? == store::Reopened::Empty {
            self.table.lock().mark_all();
        }
        let batch = self.table.lock().take_batch();
        if batch.is_empty() {
            return Ok(0);
        }
        store.write(&batch).inspect_err(|_| self.table.lock().restore_batch(&batch))?;
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

    /// Adds an address.
    ///
    /// # Errors
    /// [`AddRefused`] says why the address was refused.
    ///
    /// # Cost
    /// O(log n). O(quota) for a source at its quota. O(n) for an operator's address in a book full
    /// of proven ones.
    pub fn add(&self, addr: SocketAddr, reported_by: ReportedBy, now: WallTime) -> Result<Added, AddRefused> {
        self.table.lock().add(canonical(addr), reported_by.canonical(), now)
    }

    /// Records the outcome of a dial or of its session. Returns whether the address is known;
    /// unknown addresses are ignored.
    pub fn record(&self, addr: &SocketAddr, outcome: DialOutcome, now: WallTime) -> bool {
        self.table.lock().record(&canonical(*addr), outcome, now)
    }

    /// Up to `max` addresses to dial now.
    ///
    /// An address qualifies if it is due, not banned, not our own, not an alias of a reachable
    /// address, and `skip` returns `false` for it. Trusted addresses come first. Then follow proven
    /// and new ones in random turns, with fewer failures first.
    ///
    /// The call does not record attempts: until they are recorded, a second call may return the
    /// same addresses.
    ///
    /// # Cost
    /// O(n log n). `skip` runs outside the lock and may call the book.
    pub fn candidates(
        &self,
        now: WallTime,
        max: usize,
        skip: &dyn Fn(&SocketAddr) -> bool,
    ) -> Vec<SocketAddr> {
        let (due, rng) = self.table.lock().due(now);
        select::interleave(due, rng, max, skip)
    }

    /// Whether an address may be dialled now: known, due, not banned, not our own. Ignores aliases.
    pub fn is_due(&self, addr: &SocketAddr, now: WallTime) -> bool {
        self.table.lock().view(now).is_due(&canonical(*addr))
    }

    /// Up to `max` random addresses to share with peers.
    ///
    /// An address qualifies if it once connected, does not fail now, is not banned, not our own,
    /// and not an alias of a reachable address.
    ///
    /// # Cost
    /// O(n).
    pub fn sample(&self, now: WallTime, max: usize) -> Vec<SocketAddr> {
        self.table.lock().sample(now, max)
    }

    /// When the next address is due: `now` if one is due already, `None` if there is none to dial.
    ///
    /// # Cost
    /// O(n).
    pub fn next_due(&self, now: WallTime) -> Option<WallTime> {
        self.table.lock().view(now).next_due()
    }

    /// Sets whether the operator trusts an address. An unknown address is added first; a full book
    /// evicts any untrusted address for it. The operator becomes the source of a trusted address.
    ///
    /// # Errors
    /// [`AddRefused`] if the address is unknown and cannot be added.
    pub fn set_trusted(&self, addr: SocketAddr, trusted: bool, now: WallTime) -> Result<(), AddRefused> {
        self.table.lock().set_trusted(canonical(addr), trusted, now)
    }

    /// Records that `addr` leads to the same peer as `of`: it is not dialled while `of` is
    /// reachable. Returns whether both are known and differ.
    pub fn set_alias(&self, addr: SocketAddr, of: SocketAddr) -> bool {
        self.table.lock().set_alias(canonical(addr), canonical(of))
    }

    /// Records that `addr` is our own. The book remembers it for
    /// [`AddressBookConfig::self_memory`].
    pub fn mark_self(&self, addr: SocketAddr, now: WallTime) {
        self.table.lock().mark_self(canonical(addr), now);
    }

    /// Whether `addr` is our own, as far as the book remembers.
    pub fn is_self(&self, addr: &SocketAddr, now: WallTime) -> bool {
        let table = self.table.lock();
        table.get(&canonical(*addr)).is_some_and(|entry| table.view(now).is_self(entry))
    }

    /// Removes an address. Returns whether it was known.
    pub fn remove(&self, addr: &SocketAddr) -> bool {
        self.table.lock().remove(&canonical(*addr))
    }

    /// The record of an address.
    pub fn get(&self, addr: &SocketAddr) -> Option<Address> {
        self.table.lock().get(&canonical(*addr)).cloned()
    }

    /// All records, ordered by address.
    ///
    /// # Cost
    /// O(n), a copy.
    pub fn addresses(&self) -> Vec<Address> {
        self.table.lock().iter().cloned().collect()
    }

    /// Number of known addresses.
    pub fn len(&self) -> usize {
        self.table.lock().len()
    }

    /// Shortens every longer wait to `max`, as after an outage.
    ///
    /// # Cost
    /// A walk over the book, under its lock.
    pub(crate) fn shorten_waits(&self, max: Duration, now: WallTime) {
        self.table.lock().shorten_waits(max, now);
    }

    /// Dates the last success of these addresses to `now`: their peers are connected. Addresses that
    /// are unknown or never connected are left as they are.
    ///
    /// # Cost
    /// O(k log n) for k addresses, under the book's lock.
    pub(crate) fn confirm(&self, addrs: &[SocketAddr], now: WallTime) {
        self.table.lock().confirm(addrs, now);
    }

    /// Number of addresses of a source, counted up to `max`.
    ///
    /// # Cost
    /// The book's lock, and up to `max` steps.
    pub fn count_at(&self, source: Source, max: usize) -> usize {
        self.table.lock().count_at(source, max)
    }

    /// Whether no address is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bans a target until a time; [`WallTime::MAX`] is for good. A recorded ban that ends later
    /// stays. Returns whether anything changed.
    ///
    /// Above [`AddressBookConfig::max_bans`] bans, the ban with the earliest end, other than this one, is
    /// removed.
    pub fn ban(&self, target: BanTarget, until: WallTime, now: WallTime) -> bool {
        self.table.lock().ban(target.canonical(), until, now)
    }

    /// Removes a ban. Returns whether there was one.
    pub fn unban(&self, target: &BanTarget) -> bool {
        self.table.lock().unban(&target.canonical())
    }

    /// Whether exactly this target is banned. A clock that jumps back lifts no ban.
    pub fn is_banned(&self, target: &BanTarget, now: WallTime) -> bool {
        self.table.lock().bans.holds(&target.canonical(), now)
    }

    /// Whether an address is banned: by its IP, or as a peer that has no identity other than this
    /// address.
    pub fn is_banned_addr(&self, addr: SocketAddr, now: WallTime) -> bool {
        self.table.lock().bans.holds_addr(canonical(addr), now)
    }

    /// All bans, ordered by target, including expired ones that are not yet removed.
    ///
    /// # Cost
    /// O(bans), a copy.
    pub fn bans(&self) -> Vec<Ban> {
        self.table.lock().bans.iter().collect()
    }

    /// Removes the expired bans and returns their number. Call it now and then.
    ///
    /// A ban that begins in the future, because the clock jumped back, begins again now with the
    /// same length.
    ///
    /// # Cost
    /// O(bans).
    pub fn expire(&self, now: WallTime) -> usize {
        self.table.lock().expire(now)
    }

    /// Counts of the book.
    ///
    /// # Cost
    /// O(n).
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
