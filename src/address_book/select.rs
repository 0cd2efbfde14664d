//! Selection: which addresses to dial next, and which ones to share with peers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::address::Address;
use super::bans::Bans;
use super::config::AddressBookConfig;
use super::wall_time::WallTime;

/// Failures above this count no further in the order of candidates.
const MAX_RANKED_FAILURES: u32 = 4;

/// How many aliases in a row are followed.
pub(super) const MAX_ALIAS_HOPS: usize = 8;

/// A read-only view of the book at one time.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'book> {
    pub(super) entries: &'book BTreeMap<SocketAddr, Address>,
    pub(super) bans: &'book Bans,
    pub(super) config: &'book AddressBookConfig,
    pub(super) now: WallTime,
}

/// An address that may be dialled now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    addr: SocketAddr,
    trusted: bool,
    /// A handshake with it has succeeded before.
    proven: bool,
    failures: u32,
}

impl View<'_> {
    /// The addresses that may be dialled now, ordered by address.
    pub(super) fn due(&self) -> Vec<Candidate> {
        self.entries
            .values()
            .filter(|entry| self.wait(entry).is_zero() && self.may_dial(entry))
            .map(|entry| Candidate {
                addr: entry.addr,
                trusted: entry.trusted,
                proven: entry.last_success.is_some(),
                failures: entry.failures,
            })
            .collect()
    }

    /// When the next address may be dialled, not before `now`.
    pub(super) fn next_due(&self) -> Option<WallTime> {
        let dialable = self.entries.values().filter(|entry| self.may_dial(entry));
        dialable.map(|entry| self.wait(entry)).min().map(|wait| self.now.after(wait))
    }

    /// Whether an address is known and may be dialled now. Ignores aliases.
    pub(super) fn is_due(&self, addr: &SocketAddr) -> bool {
        self.entries.get(addr).is_some_and(|entry| self.wait(entry).is_zero() && self.is_allowed(entry))
    }

    /// The addresses to share with peers: they connected not too long ago and do not fail now.
    pub(super) fn shareable(&self) -> impl Iterator<Item = SocketAddr> {
        // A success in the future is of before the clock jumped back.
        let is_recent = |at: WallTime| self.now.since(at) <= self.config.max_shared_age;
        self.entries
            .values()
            .filter(move |entry| entry.last_success.is_some_and(is_recent))
            .filter(|entry| !entry.is_failing() && self.may_dial(entry))
            .map(|entry| entry.addr)
    }

    /// Whether an address is our own, as far as we remember.
    ///
    /// A clock that jumped back makes the book forget it; the price is one dial to ourselves.
    pub(super) fn is_self(&self, entry: &Address) -> bool {
        let memory = self.config.self_memory;
        entry.self_since.is_some_and(|since| self.now.since(since) < memory && since.since(self.now) < memory)
    }

    /// Whether an address may be dialled at some time: not our own, not banned, not an alias of a
    /// reachable address.
    fn may_dial(&self, entry: &Address) -> bool {
        self.is_allowed(entry) && !self.is_alias_of_reachable(entry)
    }

    /// The same, ignoring aliases.
    fn is_allowed(&self, entry: &Address) -> bool {
        !self.is_self(entry) && !self.bans.holds_addr(entry.addr, self.now)
    }

    /// Whether another address of the same peer is dialled instead: one that is known and not
    /// failing.
    fn is_alias_of_reachable(&self, entry: &Address) -> bool {
        let mut next = entry.alias_of;
        for _ in 0..MAX_ALIAS_HOPS {
            let Some(target) = next.and_then(|addr| self.entries.get(&addr)) else { return false };
            if target.alias_of.is_none() {
                return !target.is_failing();
            }
            next = target.alias_of;
        }
        false
    }

    fn wait(&self, entry: &Address) -> Duration {
        entry.remaining_wait(self.now, self.config.backoff.cap)
    }
}

/// Selects up to `max` candidates: trusted ones first, then proven and new ones in random turns,
/// each with fewer failures first. Neither a flood of new addresses nor a set of old peers takes
/// every slot.
///
/// `candidates` are in random order.
pub(super) fn interleave(
    mut candidates: Vec<Candidate>,
    mut rng: fastrand::Rng,
    max: usize,
    skip: &dyn Fn(&SocketAddr) -> bool,
) -> Vec<SocketAddr> {
    // A stable sort keeps equal candidates in random order.
    candidates.sort_by_key(|candidate| candidate.failures.min(MAX_RANKED_FAILURES));
    let of = |class: fn(&Candidate) -> bool| {
        candidates.iter().filter(move |candidate| class(candidate)).map(|candidate| candidate.addr)
    };
    let mut proven = of(|candidate| !candidate.trusted && candidate.proven).peekable();
    let mut new = of(|candidate| !candidate.trusted && !candidate.proven).peekable();
    let mixed = std::iter::from_fn(|| match (proven.peek(), new.peek()) {
        (Some(_), Some(_)) if rng.bool() => proven.next(),
        (Some(_), None) => proven.next(),
        _ => new.next(),
    });
    of(|candidate| candidate.trusted).chain(mixed).filter(|addr| !skip(addr)).take(max).collect()
}
