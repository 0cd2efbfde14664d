//! The map that is the truth, and the indexes that keep its bounds cheap. No lock, no I/O, no clock.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use super::address::refusal;
use super::bans::Bans;
use super::dirty::DirtySet;
use super::eviction::{EvictionOrder, quota};
use super::select::wait_of;
use super::{
    AddRefused, Added, Address, AddressBookConfig, Ban, BanTarget, DialOutcome, FailureCause, Source,
    WallTime,
};

/// What the book holds. Ordered maps, so that one seed gives one choice.
#[derive(Debug)]
pub(super) struct AddrTable {
    pub(super) config: AddressBookConfig,
    entries: BTreeMap<SocketAddr, Address>,
    /// What may be evicted. Derived from `entries` and `bans`.
    pub(super) shelves: EvictionOrder,
    /// What counts against each source's quota. Derived from `entries`.
    pub(super) by_source: BTreeMap<Source, BTreeSet<SocketAddr>>,
    pub(super) bans: Bans,
    pub(super) rng: fastrand::Rng,
    pub(super) dirty: DirtySet,
    pub(super) refused: u64,
    pub(super) evicted: u64,
}

impl AddrTable {
    pub(super) fn new(config: AddressBookConfig) -> Self {
        let rng = config.seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
        Self {
            config,
            entries: BTreeMap::new(),
            shelves: EvictionOrder::default(),
            by_source: BTreeMap::new(),
            bans: Bans::default(),
            rng,
            dirty: DirtySet::default(),
            refused: 0,
            evicted: 0,
        }
    }

    /// Puts back what the file had, then drops what the configuration no longer allows.
    #[cfg(feature = "redb")]
    pub(super) fn restore(&mut self, addresses: Vec<Address>, bans: Vec<Ban>) {
        // Bans first: they decide on which shelf an address stands.
        for ban in bans {
            self.bans.put(ban);
        }
        for entry in addresses {
            self.shelve(&entry);
            self.entries.insert(entry.addr, entry);
        }
        self.track();
        let allowed = self.config.allow_private;
        let refused = |entry: &&Address| !entry.trusted && refusal(entry.addr, allowed).is_some();
        let gone: Vec<SocketAddr> = self.entries.values().filter(refused).map(|entry| entry.addr).collect();
        for addr in gone {
            self.remove(&addr);
        }
        while self.entries.len() > self.config.max_addresses.get() && self.evict(true) {}
        for bucket in self.by_source.keys().copied().collect::<Vec<_>>() {
            while self.thin(bucket, None) {}
        }
        self.shrink_bans(None);
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn get(&self, addr: &SocketAddr) -> Option<&Address> {
        self.entries.get(addr)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Address> {
        self.entries.values()
    }

    pub(super) fn add(
        &mut self,
        addr: SocketAddr,
        source: Source,
        now: WallTime,
    ) -> Result<Added, AddRefused> {
        if self.entries.contains_key(&addr) {
            return Ok(Added::Known);
        }
        let result = self.make_room(addr, source, now);
        match result {
            Ok(()) => self.insert(Address::new(addr, source, now)),
            Err(_) => self.refused += 1,
        }
        result.map(|()| Added::New)
    }

    pub(super) fn record(&mut self, addr: &SocketAddr, outcome: DialOutcome, now: WallTime) -> bool {
        let backoff = self.config.backoff;
        let random = self.rng.u64(..);
        let fail = |entry: &mut Address, cause, at_least| {
            entry.failures = entry.failures.saturating_add(1);
            entry.next_attempt = now.after(backoff.delay(entry.failures, random).max(at_least));
            entry.last_cause = Some(cause);
        };
        let soon = DialOutcome::MAX_LOCAL_FAULT_WAIT.min(backoff.cap);
        match outcome {
            DialOutcome::NoNetwork(cause) => self.edit(addr, |entry| {
                fail(entry, cause, std::time::Duration::ZERO);
                entry.next_attempt = entry.next_attempt.min(now.after(soon));
            }),
            DialOutcome::Deferred => self.edit(addr, |entry| {
                let wait = crate::base::Backoff { base: soon, cap: soon }.delay(1, random);
                entry.next_attempt = now.after(wait_of(entry, now, backoff.cap).max(wait));
            }),
            DialOutcome::Collision => self.entries.contains_key(addr),
            DialOutcome::Attempt => self.edit(addr, |entry| entry.last_attempt = Some(now)),
            DialOutcome::Connected => self.edit(addr, |entry| {
                entry.last_success = Some(now);
                (entry.self_since, entry.alias_of) = (None, None);
                // Whatever becomes of the session, a redial waits as after one failure at least.
                let wait = backoff.delay(entry.failures.max(1), random);
                entry.next_attempt = now.after(wait_of(entry, now, backoff.cap).max(wait));
            }),
            DialOutcome::Stable => self.edit(addr, |entry| {
                entry.last_success = Some(now);
                entry.failures = 0;
                entry.next_attempt = now;
                entry.last_cause = None;
            }),
            DialOutcome::Failed(cause) => {
                self.edit(addr, |entry| fail(entry, cause, std::time::Duration::ZERO))
            }
            DialOutcome::Busy { retry_after } => {
                // The peer chose this number, so it counts no further than our own longest wait.
                let wish = retry_after.unwrap_or_default().min(backoff.cap);
                self.edit(addr, |entry| fail(entry, FailureCause::Busy, wish))
            }
        }
    }

    pub(super) fn set_trusted(
        &mut self,
        addr: SocketAddr,
        trusted: bool,
        now: WallTime,
    ) -> Result<(), AddRefused> {
        if trusted {
            self.add(addr, Source::Operator, now)?;
        }
        self.edit(&addr, |entry| {
            entry.trusted = trusted;
            // Told by somebody or not, the operator has named it now; no quota counts it again should the trust end.
            if trusted {
                entry.source = Source::Operator;
            }
        });
        Ok(())
    }

    pub(super) fn set_alias(&mut self, addr: SocketAddr, of: SocketAddr) -> bool {
        if addr == of || !self.entries.contains_key(&addr) || !self.entries.contains_key(&of) {
            return false;
        }
        // Should `of` itself lead to `addr`, what is known now is the other way round.
        let mut at = of;
        for _ in 0..HOPS {
            match self.entries.get(&at).and_then(|entry| entry.alias_of) {
                Some(next) if next == addr => {
                    self.edit(&at, |entry| entry.alias_of = None);
                    break;
                }
                Some(next) => at = next,
                None => break,
            }
        }
        self.edit(&addr, |entry| entry.alias_of = Some(of))
    }

    /// Whether another address of the same peer is dialled instead: one that is known and not failing.
    pub(super) fn is_stood_in(&self, entry: &Address) -> bool {
        let mut at = entry.alias_of;
        for _ in 0..HOPS {
            let Some(target) = at.and_then(|addr| self.entries.get(&addr)) else { return false };
            if target.alias_of.is_none() {
                return !target.is_failing();
            }
            at = target.alias_of;
        }
        false
    }

    pub(super) fn mark_self(&mut self, addr: SocketAddr, now: WallTime) {
        // Our own address is worth knowing even if a peer may not tell us such, but not at any price.
        if !self.entries.contains_key(&addr) {
            if refusal(addr, true).is_some() || (self.is_full() && !self.evict(false)) {
                return;
            }
            self.insert(Address::new(addr, Source::Operator, now));
        }
        self.edit(&addr, |entry| entry.self_since = Some(now));
    }

    /// Whether an address is our own, as far as we remember. A clock that jumped back makes us forget: the price is
    /// one dial to ourselves.
    pub(super) fn is_own(&self, entry: &Address, now: WallTime) -> bool {
        entry.self_since.is_some_and(|since| {
            now.since(since) < self.config.self_memory && since.since(now) < self.config.self_memory
        })
    }

    pub(super) fn remove(&mut self, addr: &SocketAddr) -> bool {
        let Some(entry) = self.entries.remove(addr) else { return false };
        self.unshelve(&entry);
        self.note(*addr);
        true
    }

    pub(super) fn ban(&mut self, target: BanTarget, until: WallTime, now: WallTime) -> bool {
        if until <= now || !self.bans.put(Ban { target, since: now, until }) {
            return false;
        }
        self.note_ban(target);
        self.reshelve(&target);
        if self.bans.len() > self.config.max_bans.get() {
            self.expire(now);
            self.shrink_bans(Some(target));
        }
        true
    }

    pub(super) fn unban(&mut self, target: &BanTarget) -> bool {
        let was = self.bans.remove(target);
        if was {
            self.note_ban(*target);
            self.reshelve(target);
        }
        was
    }

    pub(super) fn expire(&mut self, now: WallTime) -> usize {
        let (over, moved) = self.bans.settle(now);
        moved.into_iter().for_each(|target| self.note_ban(target));
        over.iter().filter(|target| self.unban(target)).count()
    }

    /// Records that the file does not have yet.
    pub(super) fn unflushed(&self) -> usize {
        self.dirty.len(self.entries.len() + self.bans.len())
    }

    /// How many changes are noted one by one.
    pub(super) fn bound(&self) -> usize {
        self.config.max_addresses.get().saturating_add(self.config.max_bans.get())
    }

    fn note(&mut self, addr: SocketAddr) {
        self.dirty.note(addr, self.bound());
    }

    fn note_ban(&mut self, target: BanTarget) {
        self.dirty.note_ban(target, self.bound());
    }

    /// Drops the bans that end first, other than `but`, down to the bound.
    fn shrink_bans(&mut self, but: Option<BanTarget>) {
        while self.bans.len() > self.config.max_bans.get() {
            let Some(first) = self.bans.first_to_end(but) else { break };
            self.unban(&first);
        }
    }

    fn is_full(&self) -> bool {
        self.entries.len() >= self.config.max_addresses.get()
    }

    /// Makes sure that a new address from this source may enter.
    fn make_room(&mut self, addr: SocketAddr, source: Source, now: WallTime) -> Result<(), AddRefused> {
        if let Some(why) = refusal(addr, self.config.allow_private) {
            return Err(why);
        }
        if self.bans.holds_addr(addr, now) {
            return Err(AddRefused::Banned);
        }
        let told = source.bucket().and_then(|bucket| self.by_source.get(&bucket));
        if let Some(told) = told.filter(|told| told.len() >= self.config.max_per_source.get()) {
            // A source with a long life may replace what it told us and what turned out not to answer, nothing else.
            let dead = told
                .iter()
                .filter_map(|addr| self.entries.get(addr))
                .filter(|entry| entry.failures > 0 && entry.self_since.is_none())
                .max_by_key(|entry| entry.failures)
                .map(|entry| entry.addr)
                .ok_or(AddRefused::SourceQuota)?;
            self.remove(&dead);
            self.evicted += 1;
        }
        if self.is_full() && !self.evict(source == Source::Operator) {
            return Err(AddRefused::Full);
        }
        Ok(())
    }

    fn insert(&mut self, entry: Address) {
        self.shelve(&entry);
        self.note(entry.addr);
        self.entries.insert(entry.addr, entry);
    }

    /// Changes an entry and its place in the indexes.
    fn edit(&mut self, addr: &SocketAddr, change: impl FnOnce(&mut Address)) -> bool {
        let Some(mut entry) = self.entries.remove(addr) else { return false };
        self.unshelve(&entry);
        change(&mut entry);
        let bucket = quota(&entry);
        self.insert(entry);
        if let Some(bucket) = bucket {
            self.thin(bucket, Some(addr));
        }
        true
    }

    /// Takes out what is worth least of a quota that is passed, other than `but`: what does not answer, then what has never
    /// connected, then what did so longest ago; our own addresses last.
    fn thin(&mut self, bucket: Source, but: Option<&SocketAddr>) -> bool {
        let Some(all) =
            self.by_source.get(&bucket).filter(|all| all.len() > self.config.max_per_source.get())
        else {
            return false;
        };
        let others = all.iter().filter(|addr| Some(*addr) != but).filter_map(|addr| self.entries.get(addr));
        let worth = |entry: &&Address| {
            (entry.self_since.is_some(), Reverse(entry.failures), entry.last_success, entry.first_seen)
        };
        let Some(least) = others.min_by_key(worth).map(|entry| entry.addr) else { return false };
        self.evicted += 1;
        self.remove(&least)
    }

    /// Takes the least valuable address out. With `force` a proven one goes too, if it must, but never a trusted one.
    fn evict(&mut self, force: bool) -> bool {
        let first = self.shelves.iter().find_map(|shelf| shelf.first().map(|(_, addr)| *addr));
        let victim = first.or_else(|| {
            let proven = self.entries.values().filter(|entry| force && !entry.trusted);
            proven.min_by_key(|entry| entry.last_success).map(|entry| entry.addr)
        });
        let Some(victim) = victim else { return false };
        self.evicted += 1;
        self.remove(&victim)
    }

    /// A ban came or went: moves the addresses that it concerns.
    fn reshelve(&mut self, target: &BanTarget) {
        let (first, last) = match *target {
            BanTarget::Ip(ip) => ends(ip),
            BanTarget::Peer(crate::base::PeerId::Addr(addr)) => (addr, addr),
            BanTarget::Peer(crate::base::PeerId::Key(_)) => return,
        };
        let concerned: Vec<Address> =
            self.entries.range(first..=last).map(|(_, entry)| entry.clone()).collect();
        for entry in &concerned {
            self.unshelve(entry);
            self.shelve(entry);
        }
    }

    /// Panics unless every index is what the entries say.
    #[cfg(all(test, not(peerpool_loom)))]
    pub(super) fn check(&self) {
        let mut fresh = Self::new(self.config.clone());
        for ban in self.bans.iter() {
            fresh.bans.put(ban);
        }
        self.entries.values().for_each(|entry| fresh.shelve(entry));
        assert!(self.entries.iter().all(|(addr, entry)| *addr == entry.addr));
        assert_eq!(self.shelves, fresh.shelves);
        assert_eq!(self.by_source, fresh.by_source);
        assert!(self.entries.len() <= self.config.max_addresses.get());
        assert!(self.bans.len() <= self.config.max_bans.get());
        assert!(self.by_source.values().all(|told| told.len() <= self.config.max_per_source.get()));
    }
}

/// The lowest and the highest socket address of a host.
fn ends(ip: IpAddr) -> (SocketAddr, SocketAddr) {
    let last = match ip {
        IpAddr::V4(_) => SocketAddr::new(ip, u16::MAX),
        IpAddr::V6(v6) => SocketAddr::V6(SocketAddrV6::new(v6, u16::MAX, u32::MAX, u32::MAX)),
    };
    (SocketAddr::new(ip, 0), last)
}

/// How far a chain of aliases is followed.
const HOPS: usize = 8;
