//! Who is not welcome, and until when.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::WallTime;
use crate::base::{PeerId, canonical_ip};

/// Whom a ban is against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum BanTarget {
    /// Every peer at this IP address.
    Ip(IpAddr),
    /// One peer, wherever it is.
    Peer(PeerId),
}

impl BanTarget {
    pub(super) fn canonical(self) -> Self {
        match self {
            Self::Ip(ip) => Self::Ip(canonical_ip(ip)),
            Self::Peer(PeerId::Addr(addr)) => Self::Peer(PeerId::from_addr(addr)),
            key => key,
        }
    }
}

impl From<IpAddr> for BanTarget {
    fn from(ip: IpAddr) -> Self {
        Self::Ip(canonical_ip(ip))
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
    /// Whom it is against.
    pub target: BanTarget,
    /// When it began.
    pub since: WallTime,
    /// When it is over; [`WallTime::MAX`] is never.
    pub until: WallTime,
}

/// The bans.
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

    /// Adds or lengthens a ban; a longer one stays. Returns whether anything changed.
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

    /// The ban that ends first, other than `but`.
    pub(super) fn first_to_end(&self, but: Option<BanTarget>) -> Option<BanTarget> {
        let others = self.by_target.values().filter(|ban| Some(ban.target) != but);
        others.min_by_key(|ban| ban.until).map(|ban| ban.target)
    }

    pub(super) fn holds(&self, target: &BanTarget, now: WallTime) -> bool {
        // A clock that jumped back stands before `until` too, so it lifts no ban.
        self.by_target.get(target).is_some_and(|ban| now < ban.until)
    }

    pub(super) fn holds_addr(&self, addr: SocketAddr, now: WallTime) -> bool {
        !self.by_target.is_empty() && against(addr).iter().any(|target| self.holds(target, now))
    }

    /// Whether a ban against it is recorded, over or not.
    pub(super) fn mentions(&self, addr: SocketAddr) -> bool {
        !self.by_target.is_empty() && against(addr).iter().any(|target| self.by_target.contains_key(target))
    }

    /// The bans that are over, and those that changed: such from a future that a clock which jumped back has taken away start again, with
    /// their full length: a jump by years must not lengthen them by years.
    pub(super) fn settle(&mut self, now: WallTime) -> (Vec<BanTarget>, Vec<BanTarget>) {
        let (mut over, mut moved) = (Vec::new(), Vec::new());
        for ban in self.by_target.values_mut() {
            if ban.until <= now {
                over.push(ban.target);
            } else if ban.until != WallTime::MAX && ban.since.since(now) > CLOCK_SLACK {
                ban.until = now.after(ban.until.since(ban.since));
                ban.since = now;
                moved.push(ban.target);
            }
        }
        (over, moved)
    }
}

/// The bans that would concern an address.
fn against(addr: SocketAddr) -> [BanTarget; 2] {
    [BanTarget::from(addr.ip()), BanTarget::from(PeerId::from_addr(addr))]
}

/// A beginning this little ahead of `now` is two readings of one clock that passed each other.
const CLOCK_SLACK: Duration = Duration::from_secs(60);
