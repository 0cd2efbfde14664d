//! Bans: their targets, and until when they hold.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::wall_time::WallTime;
use crate::base::{PeerId, Source};

/// A ban may begin this far in the future: two readings of one clock can pass each other.
const CLOCK_SLACK: Duration = Duration::from_secs(60);

/// The target of a ban.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum BanTarget {
    /// Every peer at this source: an IPv4 address, or the first address of an IPv6 /64.
    Ip(IpAddr),
    /// One peer, at any address.
    Peer(PeerId),
}

impl BanTarget {
    pub(super) fn canonical(self) -> Self {
        match self {
            Self::Ip(ip) => Self::Ip(Source::of(ip).network()),
            Self::Peer(PeerId::Addr(addr)) => Self::Peer(PeerId::from_addr(addr)),
            key => key,
        }
    }
}

impl From<IpAddr> for BanTarget {
    fn from(ip: IpAddr) -> Self {
        Self::Ip(ip).canonical()
    }
}

impl From<PeerId> for BanTarget {
    fn from(peer: PeerId) -> Self {
        Self::Peer(peer).canonical()
    }
}

/// A ban.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ban {
    /// The banned target.
    pub target: BanTarget,
    /// The start of the ban.
    pub since: WallTime,
    /// The end of the ban; [`WallTime::MAX`] is never.
    pub until: WallTime,
}

/// The recorded bans.
#[derive(Debug, Default)]
pub(super) struct Bans {
    by_target: BTreeMap<BanTarget, Ban>,
}

impl Bans {
    pub(super) fn len(&self) -> usize {
        self.by_target.len()
    }

    #[cfg(feature = "redb")]
    pub(super) fn get(&self, target: &BanTarget) -> Option<Ban> {
        self.by_target.get(target).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Ban> {
        self.by_target.values().copied()
    }

    /// Adds a ban, or replaces an earlier end by a later one. Returns whether anything changed.
    pub(super) fn put(&mut self, ban: Ban) -> bool {
        if self.by_target.get(&ban.target).is_some_and(|old| old.until >= ban.until) {
            return false;
        }
        self.by_target.insert(ban.target, ban);
        true
    }

    pub(super) fn remove(&mut self, target: &BanTarget) -> bool {
        self.by_target.remove(target).is_some()
    }

    /// The ban that ends first, other than `except`.
    pub(super) fn first_to_end(&self, except: Option<BanTarget>) -> Option<BanTarget> {
        let others = self.by_target.values().filter(|ban| Some(ban.target) != except);
        others.min_by_key(|ban| ban.until).map(|ban| ban.target)
    }

    /// Whether exactly this target is banned.
    pub(super) fn holds(&self, target: &BanTarget, now: WallTime) -> bool {
        // A clock that jumped back is before `until` too, so it lifts no ban.
        self.by_target.get(target).is_some_and(|ban| now < ban.until)
    }

    /// Whether an address is banned, by its IP or as a peer.
    pub(super) fn holds_addr(&self, addr: SocketAddr, now: WallTime) -> bool {
        !self.by_target.is_empty() && targets_of(addr).iter().any(|target| self.holds(target, now))
    }

    /// Whether a ban of an address is recorded, expired ones included.
    pub(super) fn mentions(&self, addr: SocketAddr) -> bool {
        !self.by_target.is_empty()
            && targets_of(addr).iter().any(|target| self.by_target.contains_key(target))
    }

    /// Compares the bans with the clock. Returns the expired ones, and those whose times it has
    /// changed.
    ///
    /// A ban that begins in the future was recorded before the clock jumped back. It begins again
    /// now with its full length, so that a jump by years does not lengthen it by years.
    pub(super) fn check_times(&mut self, now: WallTime) -> (Vec<BanTarget>, Vec<BanTarget>) {
        let (mut expired, mut rebased) = (Vec::new(), Vec::new());
        for ban in self.by_target.values_mut() {
            if ban.until <= now {
                expired.push(ban.target);
            } else if ban.until != WallTime::MAX && ban.since.since(now) > CLOCK_SLACK {
                ban.until = now.after(ban.until.since(ban.since));
                ban.since = now;
                rebased.push(ban.target);
            }
        }
        (expired, rebased)
    }
}

/// The targets that include an address.
fn targets_of(addr: SocketAddr) -> [BanTarget; 2] {
    [BanTarget::from(addr.ip()), BanTarget::from(PeerId::from_addr(addr))]
}
