//! Choosing: whom to dial next, and whom to tell others about.

use std::net::SocketAddr;
use std::time::Duration;

use super::table::AddrTable;
use super::{Address, WallTime};

/// An address that may be dialled now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due {
    addr: SocketAddr,
    trusted: bool,
    /// A handshake with it has succeeded before.
    proven: bool,
    failures: u32,
}

impl AddrTable {
    /// What may be dialled now, in random order, and randomness for [`interleave`].
    pub(super) fn due(&mut self, now: WallTime) -> (Vec<Due>, fastrand::Rng) {
        let mut due: Vec<Due> = self
            .iter()
            .filter(|entry| self.wait(entry, now).is_zero() && self.may_dial(entry, now))
            .map(|entry| Due {
                addr: entry.addr,
                trusted: entry.trusted,
                proven: entry.last_success.is_some(),
                failures: entry.failures,
            })
            .collect();
        let mut rng = self.rng.fork();
        rng.shuffle(&mut due);
        (due, rng)
    }

    /// When the next address may be dialled; not before `now`.
    pub(super) fn next_due(&self, now: WallTime) -> Option<WallTime> {
        let dialable = self.iter().filter(|entry| self.may_dial(entry, now));
        dialable.map(|entry| self.wait(entry, now)).min().map(|wait| now.after(wait))
    }

    /// Addresses worth telling others, at most `max`.
    pub(super) fn sample(&mut self, now: WallTime, max: usize) -> Vec<SocketAddr> {
        let mut rng = self.rng.fork();
        let good = self
            .iter()
            .filter(|entry| entry.last_success.is_some() && !entry.is_failing() && self.may_dial(entry, now));
        rng.choose_multiple(good.map(|entry| entry.addr), max)
    }

    /// Whether an address is to be dialled at all: not our own, not banned, not another name of one that works.
    fn may_dial(&self, entry: &Address, now: WallTime) -> bool {
        self.is_welcome(entry, now) && !self.is_stood_in(entry)
    }

    /// The same, whatever other names it has.
    fn is_welcome(&self, entry: &Address, now: WallTime) -> bool {
        !self.is_own(entry, now) && !self.bans.holds_addr(entry.addr, now)
    }

    /// Whether an address is known and may be dialled now, whatever other names it has.
    pub(super) fn is_due(&self, addr: &SocketAddr, now: WallTime) -> bool {
        self.get(addr).is_some_and(|entry| self.wait(entry, now).is_zero() && self.is_welcome(entry, now))
    }

    fn wait(&self, entry: &Address, now: WallTime) -> Duration {
        wait_of(entry, now, self.config.backoff.cap)
    }
}

/// How long an address still has to wait.
pub(super) fn wait_of(entry: &Address, now: WallTime, cap: Duration) -> Duration {
    let left = entry.next_attempt.since(now);
    // No wait is longer than the cap, so this one was set before the clock jumped back.
    if left > cap { Duration::ZERO } else { left }
}

/// Picks up to `max` of what is due, the best classes first: trusted; then proven and new by the toss of a coin, in both
/// those with fewer failures first. So neither a flood of new addresses nor a set of old friends takes every slot.
pub(super) fn interleave(
    mut due: Vec<Due>,
    mut rng: fastrand::Rng,
    max: usize,
    skip: &dyn Fn(&SocketAddr) -> bool,
) -> Vec<SocketAddr> {
    // Stable: what is equal stays in random order.
    due.sort_by_key(|due| due.failures.min(WORST));
    let of = |class: fn(&Due) -> bool| due.iter().filter(move |due| class(due)).map(|due| due.addr);
    let mut proven = of(|due| !due.trusted && due.proven).peekable();
    let mut new = of(|due| !due.trusted && !due.proven).peekable();
    let mixed = std::iter::from_fn(|| match (proven.peek(), new.peek()) {
        (Some(_), Some(_)) if rng.bool() => proven.next(),
        (Some(_), None) => proven.next(),
        _ => new.next(),
    });
    of(|due| due.trusted).chain(mixed).filter(|addr| !skip(addr)).take(max).collect()
}

/// Failures beyond which one address is as bad as another.
const WORST: u32 = 4;
