//! One address: where it came from, how it went, and which addresses are none.

use std::io;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::WallTime;
use crate::base::{Subnet, canonical_ip};

/// What the book knows about one address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address, canonical.
    pub addr: SocketAddr,
    /// Who told us first.
    pub source: Source,
    /// When we were told first.
    pub first_seen: WallTime,
    /// When it was dialled last.
    pub last_attempt: Option<WallTime>,
    /// When a handshake with it last succeeded. `None`: it never did, and nobody else is told about it.
    pub last_success: Option<WallTime>,
    /// Failures in a row; only a stable session resets them.
    pub failures: u32,
    /// Not to be dialled before this.
    pub next_attempt: WallTime,
    /// The operator vouches for it: never forgotten, dialled first, backed off like any other.
    pub trusted: bool,
    /// The address under which the same peer is already known.
    pub alias_of: Option<SocketAddr>,
    /// When it turned out to be our own.
    pub self_since: Option<WallTime>,
    /// Why it last failed.
    pub last_cause: Option<FailureCause>,
}

impl Address {
    pub(super) fn new(addr: SocketAddr, source: Source, now: WallTime) -> Self {
        Self {
            addr,
            source,
            first_seen: now,
            last_attempt: None,
            last_success: None,
            failures: 0,
            next_attempt: now,
            trusted: false,
            alias_of: None,
            self_since: None,
            last_cause: None,
        }
    }

    /// Whether it has failed so often in a row that it no longer counts as reachable.
    pub(super) fn is_failing(&self) -> bool {
        self.failures >= FAILING
    }
}

/// Who told us about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Source {
    // Stored by position: append only.
    /// Whoever runs this node; no quota.
    Operator,
    /// A seed list or a DNS seed. All seeds share one quota.
    Seed,
    /// The peer at this IP address, by peer exchange or by claiming a listen address.
    Peer(IpAddr),
}

impl Source {
    /// The same source in the one form that is stored and compared.
    pub(super) fn canonical(self) -> Self {
        match self {
            Self::Peer(ip) => Self::Peer(canonical_ip(ip)),
            other => other,
        }
    }

    /// What shares a quota; `None` has none. An IPv6 host commonly owns a /64, so that is one source.
    pub(super) fn bucket(self) -> Option<Self> {
        match self.canonical() {
            Self::Operator => None,
            Self::Peer(ip @ IpAddr::V6(_)) => {
                Subnet::of(ip).next().map(|subnet| Self::Peer(subnet.network()))
            }
            other => Some(other),
        }
    }
}

/// What came of dialling an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialOutcome {
    /// A dial has begun. Only stamps the time.
    Attempt,
    /// The handshake succeeded. The address may be told to others from now on, and is no other name of another one; its backoff stays as it was, so that a
    /// peer which accepts and hangs up is not redialled at once.
    Connected,
    /// The session lasted. Alone resets the backoff.
    Stable,
    /// The dial, the handshake or a session that never became stable failed.
    Failed(FailureCause),
    /// The peer refused for want of room. Backs off like a failure, and at least as long as the peer asked for, which
    /// counts up to the backoff's cap.
    Busy {
        /// The peer's wish.
        retry_after: Option<std::time::Duration>,
    },
    /// The dial failed while we had no peer at all, so that our own network may be down. Counts as a failure, but is tried again
    /// within [`DialOutcome::MAX_LOCAL_FAULT_WAIT`].
    NoNetwork(FailureCause),
    /// We could not even dial (out of descriptors or memory), or are finding out what the address is. Says nothing about it; it is
    /// tried again within [`DialOutcome::MAX_LOCAL_FAULT_WAIT`].
    Deferred,
    /// The connection gave way to another one with the same peer. Counts as nothing.
    Collision,
}

impl DialOutcome {
    /// How long an address waits at the most when the fault may be ours: long enough for a lack to pass, short enough not to be
    /// missed when it has.
    pub const MAX_LOCAL_FAULT_WAIT: std::time::Duration = std::time::Duration::from_secs(10);
}

/// Why an address failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureCause {
    // Stored by position: append only.
    /// Nobody listens there.
    Refused,
    /// No answer within the deadline.
    Timeout,
    /// No way there.
    Unreachable,
    /// The connection broke.
    Reset,
    /// What answered does not speak our dialect.
    Handshake,
    /// It belongs to another network.
    WrongNetwork,
    /// The peer does not want us.
    Rejected,
    /// The peer broke the protocol.
    Protocol,
    /// The session ended before it was stable.
    Unstable,
    /// The peer had no room.
    Busy,
    /// Anything else.
    Other,
}

impl FailureCause {
    /// The cause that an I/O error stands for.
    pub fn of(error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::ConnectionRefused => Self::Refused,
            Kind::TimedOut => Self::Timeout,
            Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown | Kind::AddrNotAvailable => {
                Self::Unreachable
            }
            Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe | Kind::UnexpectedEof => {
                Self::Reset
            }
            _ => Self::Other,
        }
    }
}

/// Whether an address was new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It is in the book now.
    New,
    /// It was already; nothing changed.
    Known,
}

/// Why an address was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum AddRefused {
    /// Port 0 cannot be dialled.
    #[error("port 0 cannot be dialled")]
    Port,
    /// `0.0.0.0/8` or `::`.
    #[error("the unspecified address names no host")]
    Unspecified,
    /// A group, not a host.
    #[error("a multicast address names no host")]
    Multicast,
    /// IPv4's broadcast address or its reserved range 240.0.0.0/4.
    #[error("a broadcast or reserved address names no host")]
    Broadcast,
    /// Private, loopback, link-local or shared, while the configuration does not allow such.
    #[error("private addresses are not taken; `allow_private` allows them")]
    Private,
    /// It is banned; an existing record of it would stay.
    #[error("the address is banned; unban it first")]
    Banned,
    /// The source has told us as many addresses that never connected as it may.
    #[error("its source has used up its quota of untried addresses")]
    SourceQuota,
    /// The book is full of addresses worth more than an untried one.
    #[error("the book is full of proven addresses; raise `max_addresses` to keep more")]
    Full,
}

/// Says why a canonical address cannot be in a book.
pub(super) fn refusal(addr: SocketAddr, allow_private: bool) -> Option<AddRefused> {
    if addr.port() == 0 {
        return Some(AddRefused::Port);
    }
    let private = match addr.ip() {
        IpAddr::V4(ip) => match ip.octets() {
            [0, ..] => return Some(AddRefused::Unspecified),
            [224..=239, ..] => return Some(AddRefused::Multicast),
            [240..=255, ..] => return Some(AddRefused::Broadcast),
            // 100.64.0.0/10 is shared between the customers of one carrier.
            [100, 64..=127, ..] => true,
            _ => ip.is_private() || ip.is_loopback() || ip.is_link_local(),
        },
        IpAddr::V6(ip) if ip.is_unspecified() => return Some(AddRefused::Unspecified),
        IpAddr::V6(ip) if ip.is_multicast() => return Some(AddRefused::Multicast),
        IpAddr::V6(ip) => {
            let top = ip.segments()[0];
            // fc00::/7 unique local, fe80::/10 link-local, fec0::/10 site-local (of old).
            ip.is_loopback() || top & 0xfe00 == 0xfc00 || top & 0xff80 == 0xfe80
        }
    };
    (private && !allow_private).then_some(AddRefused::Private)
}

/// Failures in a row from which on an address counts as unreachable: it is not told to others, may be evicted although
/// it once connected, and no longer keeps its aliases from being dialled.
const FAILING: u32 = 3;
