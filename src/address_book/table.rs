//! The records of the book, the indexes that keep its bounds cheap, and the marks for the file.
//!
//! No lock, no I/O, no clock. Every change of an entry goes through `insert`, `edit` or `remove`,
//! which keep the indexes and the marks up to date.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use super::address::{AddRefused, Added, Address, DialOutcome, ReportedBy, refusal};
use super::bans::{Ban, BanTarget, Bans};
use super::config::AddressBookConfig;
use super::dirty::DirtySet;
#[cfg(feature = "redb")]
use super::dirty::{Batch, Dirty};
use super::eviction::EvictionQueues;
use super::quota::SourceQuotas;
use super::select::{Candidate, MAX_ALIAS_HOPS, View};
use super::wall_time::WallTime;
use crate::base::{PeerId, Source};

/// The records of the book. The maps are ordered, so that equal seeds make equal choices.
#[derive(Debug)]
pub(super) struct AddrTable {
    config: AddressBookConfig,
    entries: BTreeMap<SocketAddr, Address>,
    pub(super) bans: Bans,
    eviction: EvictionQueues,
    quotas: SourceQuotas,
    rng: fastrand::Rng,
    dirty: DirtySet,
    pub(super) refused: u64,
    pub(super) evicted: u64,
}

/// What [`AddrTable::evict`] may remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    /// Addresses in the eviction queues only.
    Expendable,
    /// If there is none of these, a proven address, but never a trusted one.
    AlsoProven,
}

impl AddrTable {
    pub(super) fn new(config: AddressBookConfig) -> Self {
        let rng = config.seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
        Self {
            config,
            entries: BTreeMap::new(),
            bans: Bans::default(),
            eviction: EvictionQueues::default(),
            quotas: SourceQuotas::default(),
            rng,
            dirty: DirtySet::default(),
            refused: 0,
            evicted: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn get(&self, addr: &SocketAddr) -> Option<&Address> {
        self.entries.get(addr)
    }

    pub(super) fn shorten_waits(&mut self, max: Duration, now: WallTime) {
        let latest = now.after(max);
        let late: Vec<_> = self
            .entries
            .values()
            .filter(|entry| entry.next_attempt > latest)
            .map(|entry| entry.addr)
            .collect();
        for addr in late {
            self.edit(&addr, |entry| entry.next_attempt = latest);
        }
    }

    /// Dates the last success of these addresses to `now`.
    pub(super) fn confirm(&mut self, addrs: &[SocketAddr], now: WallTime) {
        for addr in addrs {
            if self.entries.get(addr).is_some_and(|entry| entry.last_success.is_some()) {
                self.edit(addr, |entry| entry.last_success = Some(now));
            }
        }
    }

    pub(super) fn count_at(&self, source: Source, max: usize) -> usize {
        let (first, last) = addr_range(source);
        self.entries.range(first..=last).take(max).count()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Address> {
        self.entries.values()
    }

    /// The book as the selection sees it.
    pub(super) fn view(&self, now: WallTime) -> View<'_> {
        View { entries: &self.entries, bans: &self.bans, config: &self.config, now }
    }

    /// The addresses that may be dialled now, in random order, and a generator for
    /// [`interleave`](super::select::interleave).
    pub(super) fn due(&mut self, now: WallTime) -> (Vec<Candidate>, fastrand::Rng) {
        let mut due = self.view(now).due();
        let mut rng = self.rng.fork();
        rng.shuffle(&mut due);
        (due, rng)
    }

    /// Up to `max` random addresses to share with peers.
    pub(super) fn sample(&mut self, now: WallTime, max: usize) -> Vec<SocketAddr> {
        let mut rng = self.rng.fork();
        rng.choose_multiple(self.view(now).shareable(), max)
    }

    pub(super) fn add(
        &mut self,
        addr: SocketAddr,
        reported_by: ReportedBy,
        now: WallTime,
    ) -> Result<Added, AddRefused> {
        if self.entries.contains_key(&addr) {
            return Ok(Added::Known);
        }
        let result = self.make_room(addr, reported_by, now);
        match result {
            Ok(()) => self.insert(Address::new(addr, reported_by, now)),
            Err(_) => self.refused += 1,
        }
        result.map(|()| Added::New)
    }

    pub(super) fn record(&mut self, addr: &SocketAddr, outcome: DialOutcome, now: WallTime) -> bool {
        let backoff = self.config.backoff;
        let random = self.rng.u64(..);
        if outcome == DialOutcome::Collision {
            return self.entries.contains_key(addr);
        }
        self.edit(addr, |entry| entry.apply(outcome, now, backoff, random))
    }

    pub(super) fn set_trusted(
        &mut self,
        addr: SocketAddr,
        trusted: bool,
        now: WallTime,
    ) -> Result<(), AddRefused> {
        if trusted {
            self.add(addr, ReportedBy::Operator, now)?;
        }
        self.edit(&addr, |entry| {
            entry.trusted = trusted;
            // The operator is its source from now on: no quota counts the address again when the
            // trust ends.
            if trusted {
                entry.reported_by = ReportedBy::Operator;
            }
        });
        Ok(())
    }

    pub(super) fn set_alias(&mut self, addr: SocketAddr, of: SocketAddr) -> bool {
        if addr == of || !self.entries.contains_key(&addr) || !self.entries.contains_key(&of) {
            return false;
        }
        // If `of` leads to `addr`, the new knowledge replaces that link, so that no circle arises.
        let mut current = of;
        for _ in 0..MAX_ALIAS_HOPS {
            match self.entries.get(&current).and_then(|entry| entry.alias_of) {
                Some(next) if next == addr => {
                    self.edit(&current, |entry| entry.alias_of = None);
                    break;
                }
                Some(next) => current = next,
                None => break,
            }
        }
        self.edit(&addr, |entry| entry.alias_of = Some(of))
    }

    pub(super) fn mark_self(&mut self, addr: SocketAddr, now: WallTime) {
        // Our own address is worth a record even if peers may not report such addresses, but no
        // proven address.
        if !self.entries.contains_key(&addr) {
            if refusal(addr).is_some() || (self.is_full() && !self.evict(Victim::Expendable)) {
                return;
            }
            self.insert(Address::new(addr, ReportedBy::Operator, now));
        }
        self.edit(&addr, |entry| entry.self_since = Some(now));
    }

    pub(super) fn remove(&mut self, addr: &SocketAddr) -> bool {
        let Some(entry) = self.entries.remove(addr) else { return false };
        self.unindex(&entry);
        self.mark(*addr);
        true
    }

    pub(super) fn ban(&mut self, target: BanTarget, until: WallTime, now: WallTime) -> bool {
        if until <= now || !self.bans.put(Ban { target, since: now, until }) {
            return false;
        }
        self.mark_ban(target);
        self.reindex_banned(&target);
        if self.bans.len() > self.config.max_bans.get() {
            self.expire(now);
            self.shrink_bans(Some(target));
        }
        true
    }

    pub(super) fn unban(&mut self, target: &BanTarget) -> bool {
        let existed = self.bans.remove(target);
        if existed {
            self.mark_ban(*target);
            self.reindex_banned(target);
        }
        existed
    }

    pub(super) fn expire(&mut self, now: WallTime) -> usize {
        let (expired, rebased) = self.bans.check_times(now);
        rebased.into_iter().for_each(|target| self.mark_ban(target));
        expired.iter().filter(|target| self.unban(target)).count()
    }

    /// Records that the file does not have yet.
    pub(super) fn unflushed(&self) -> usize {
        self.dirty.len(self.entries.len() + self.bans.len())
    }

    /// Marks above which the whole file is rewritten.
    fn max_marks(&self) -> usize {
        self.config.max_addresses.get().saturating_add(self.config.max_bans.get())
    }

    fn mark(&mut self, addr: SocketAddr) {
        self.dirty.mark(addr, self.max_marks());
    }

    fn mark_ban(&mut self, target: BanTarget) {
        self.dirty.mark_ban(target, self.max_marks());
    }

    /// Removes the bans that end first, other than `except`, down to the limit.
    fn shrink_bans(&mut self, except: Option<BanTarget>) {
        while self.bans.len() > self.config.max_bans.get() {
            let Some(first) = self.bans.first_to_end(except) else { break };
            self.unban(&first);
        }
    }

    fn is_full(&self) -> bool {
        self.entries.len() >= self.config.max_addresses.get()
    }

    /// Makes sure that a new address from this source may enter.
    fn make_room(
        &mut self,
        addr: SocketAddr,
        reported_by: ReportedBy,
        now: WallTime,
    ) -> Result<(), AddRefused> {
        if let Some(refused) = refusal(addr) {
            return Err(refused);
        }
        if self.bans.holds_addr(addr, now) {
            return Err(AddRefused::Banned);
        }
        let max_per_source = self.config.max_per_source.get();
        for bucket in SourceQuotas::buckets_of(&Address::new(addr, reported_by, now)) {
            let Some(counted) = self.quotas.at_least(bucket, max_per_source) else { continue };
            // At a quota, a new address may only replace one that does not answer.
            let dead = counted
                .iter()
                .filter_map(|addr| self.entries.get(addr))
                .filter(|entry| entry.failures > 0 && entry.self_since.is_none())
                .max_by_key(|entry| entry.failures)
                .map(|entry| entry.addr)
                .ok_or(AddRefused::SourceQuota)?;
            self.remove(&dead);
            self.evicted += 1;
        }
        let victim =
            if reported_by == ReportedBy::Operator { Victim::AlsoProven } else { Victim::Expendable };
        if self.is_full() && !self.evict(victim) {
            return Err(AddRefused::Full);
        }
        Ok(())
    }

    fn insert(&mut self, entry: Address) {
        self.index(&entry);
        self.mark(entry.addr);
        self.entries.insert(entry.addr, entry);
    }

    /// Changes an entry and updates the indexes. Returns whether the address is known.
    fn edit(&mut self, addr: &SocketAddr, change: impl FnOnce(&mut Address)) -> bool {
        let Some(mut entry) = self.entries.remove(addr) else { return false };
        self.unindex(&entry);
        change(&mut entry);
        let buckets = SourceQuotas::buckets_of(&entry);
        self.insert(entry);
        for bucket in buckets {
            self.enforce_quota(bucket, Some(addr));
        }
        true
    }

    /// Evicts the least valuable address of a bucket above its quota, other than `except`.
    ///
    /// Order: addresses that fail most, then never connected ones, then the longest without
    /// success. Our own addresses go last.
    fn enforce_quota(&mut self, bucket: ReportedBy, except: Option<&SocketAddr>) -> bool {
        let max = self.config.max_per_source.get();
        let Some(all) = self.quotas.at_least(bucket, max.saturating_add(1)) else { return false };
        let others =
            all.iter().filter(|addr| Some(*addr) != except).filter_map(|addr| self.entries.get(addr));
        let value = |entry: &&Address| {
            (entry.self_since.is_some(), Reverse(entry.failures), entry.last_success, entry.first_seen)
        };
        let Some(least) = others.min_by_key(value).map(|entry| entry.addr) else { return false };
        self.evicted += 1;
        self.remove(&least)
    }

    /// Removes the least valuable address that `victim` allows. Returns whether there was one.
    fn evict(&mut self, victim: Victim) -> bool {
        let victim = self.eviction.first().or_else(|| {
            let proven = self.entries.values().filter(|entry| victim == Victim::AlsoProven && !entry.trusted);
            proven.min_by_key(|entry| entry.last_success).map(|entry| entry.addr)
        });
        let Some(victim) = victim else { return false };
        self.evicted += 1;
        self.remove(&victim)
    }

    fn index(&mut self, entry: &Address) {
        self.eviction.insert(entry, self.bans.mentions(entry.addr));
        self.quotas.insert(entry);
    }

    fn unindex(&mut self, entry: &Address) {
        self.eviction.remove(entry);
        self.quotas.remove(entry);
    }

    /// Moves the addresses of a target whose ban came or went to their new eviction class.
    fn reindex_banned(&mut self, target: &BanTarget) {
        let (first, last) = match *target {
            BanTarget::Ip(ip) => addr_range(Source::of(ip)),
            BanTarget::Peer(PeerId::Addr(addr)) => (addr, addr),
            BanTarget::Peer(PeerId::Key(_)) => return,
        };
        for (_, entry) in self.entries.range(first..=last) {
            self.eviction.remove(entry);
            self.eviction.insert(entry, self.bans.mentions(entry.addr));
        }
    }

    /// Panics unless every index matches the entries.
    #[cfg(all(test, not(peerpool_loom)))]
    pub(super) fn check(&self) {
        let mut fresh = Self::new(self.config.clone());
        for ban in self.bans.iter() {
            fresh.bans.put(ban);
        }
        self.entries.values().for_each(|entry| fresh.index(entry));
        assert!(self.entries.iter().all(|(addr, entry)| *addr == entry.addr));
        assert_eq!(self.eviction, fresh.eviction);
        assert_eq!(self.quotas, fresh.quotas);
        assert!(self.entries.len() <= self.config.max_addresses.get());
        assert!(self.bans.len() <= self.config.max_bans.get());
        assert!(self.quotas.max_len() <= self.config.max_per_source.get());
    }
}

/// What a book with a file needs.
#[cfg(feature = "redb")]
impl AddrTable {
    /// Loads the contents of the file, then removes what the configuration no longer allows.
    pub(super) fn restore(&mut self, addresses: Vec<Address>, bans: Vec<Ban>) {
        // Bans first: they decide the eviction class of an address.
        for ban in bans {
            self.bans.put(Ban { target: ban.target.canonical(), ..ban });
        }
        for entry in addresses {
            self.index(&entry);
            self.entries.insert(entry.addr, entry);
        }
        self.dirty.track();
        while self.entries.len() > self.config.max_addresses.get() && self.evict(Victim::AlsoProven) {}
        for bucket in self.quotas.buckets() {
            while self.enforce_quota(bucket, None) {}
        }
        self.shrink_bans(None);
    }

    /// Marks all records: the file is empty, or its contents are unknown.
    pub(super) fn mark_all(&mut self) {
        self.dirty.mark_all();
    }

    /// Clones the records that the file does not have yet, and clears their marks.
    pub(super) fn take_batch(&mut self) -> Batch {
        match self.dirty.take() {
            Dirty::All => Batch {
                replace_all: true,
                addresses: self.iter().map(|entry| (entry.addr, Some(entry.clone()))).collect(),
                bans: self.bans.iter().map(|ban| (ban.target, Some(ban))).collect(),
            },
            Dirty::Some { addresses, bans } => Batch {
                replace_all: false,
                addresses: addresses.into_iter().map(|addr| (addr, self.get(&addr).cloned())).collect(),
                bans: bans.into_iter().map(|target| (target, self.bans.get(&target))).collect(),
            },
        }
    }

    /// Marks the records of a batch that was not written.
    pub(super) fn restore_batch(&mut self, batch: &Batch) {
        self.dirty.restore(batch, self.max_marks());
    }
}

/// The lowest and the highest socket address of a source.
fn addr_range(source: Source) -> (SocketAddr, SocketAddr) {
    let first = source.network();
    let last = match first {
        IpAddr::V4(_) => SocketAddr::new(first, u16::MAX),
        IpAddr::V6(v6) => {
            let last = Ipv6Addr::from(u128::from(v6) | u128::from(u64::MAX));
            SocketAddr::V6(SocketAddrV6::new(last, u16::MAX, u32::MAX, u32::MAX))
        }
    };
    (SocketAddr::new(first, 0), last)
}
