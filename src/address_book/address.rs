//! One address: where it comes from, its history, and the rules for acceptable addresses.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::wall_time::WallTime;
use crate::base::{Backoff, Source, canonical_ip};

/// Failures in a row after which an address counts as unreachable: it is not shared with peers, may
/// be evicted although it once connected, and no longer keeps its aliases from being dialled.
const UNREACHABLE_AFTER_FAILURES: u32 = 3;

/// Wait of an address whose peer has no free slot and does not say when.
const BUSY_WAIT: Duration = Duration::from_secs(30);
/// Longest wait of an address while this node reaches nobody.
pub(crate) const MAX_OUTAGE_WAIT: Duration = Duration::from_secs(30);
/// Longest wait of an address when the fault may be ours: long enough for a shortage to pass, short
/// enough not to be missed after it.
pub(super) const MAX_LOCAL_FAULT_WAIT: Duration = Duration::from_secs(10);

/// The record of one address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address, canonical.
    pub addr: SocketAddr,
    /// Where we first learned of it.
    pub reported_by: ReportedBy,
    /// When we first learned of it.
    pub first_seen: WallTime,
    /// The last dial.
    pub last_attempt: Option<WallTime>,
    /// The last successful handshake. `None`: there was none, and the address is not shared with
    /// peers.
    pub last_success: Option<WallTime>,
    /// Failures in a row. Only a stable session resets them.
    pub failures: u32,
    /// Not to be dialled before this.
    pub next_attempt: WallTime,
    /// The operator trusts it: it is never evicted and dialled first, but backs off like any other.
    pub trusted: bool,
    /// Another address of the same peer.
    pub alias_of: Option<SocketAddr>,
    /// When it was found to be our own address.
    pub self_since: Option<WallTime>,
    /// The cause of its last failure.
    pub last_cause: Option<FailureCause>,
}

impl Address {
    pub(super) fn new(addr: SocketAddr, reported_by: ReportedBy, now: WallTime) -> Self {
        Self {
            addr,
            reported_by,
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

    /// Records the outcome of a dial or its session.
    ///
    /// `random` decides the jitter of a new wait.
    pub(super) fn apply(&mut self, outcome: DialOutcome, now: WallTime, backoff: Backoff, random: u64) {
        let soon = MAX_LOCAL_FAULT_WAIT.min(backoff.cap);
        let fail = |entry: &mut Self, cause, min_wait| {
            entry.failures = entry.failures.saturating_add(1);
            entry.next_attempt = now.after(backoff.delay(entry.failures, random).max(min_wait));
            entry.last_cause = Some(cause);
        };
        // A wait without a failure does not shorten the current wait.
        let wait_at_least = |entry: &mut Self, wait: Duration| {
            entry.next_attempt = now.after(entry.remaining_wait(now, backoff.cap).max(wait));
        };
        match outcome {
            DialOutcome::Attempt => self.last_attempt = Some(now),
            DialOutcome::Connected => {
                self.last_success = Some(now);
                (self.self_since, self.alias_of) = (None, None);
                // However the session ends, a redial waits at least as long as after one failure.
                wait_at_least(self, backoff.delay(self.failures.max(1), random));
            }
            DialOutcome::Stable => {
                self.last_success = Some(now);
                self.failures = 0;
                self.next_attempt = now;
                self.last_cause = None;
            }
            DialOutcome::Failed(cause) => fail(self, cause, Duration::ZERO),
            DialOutcome::Busy { retry_after } => {
                // The peer chose this wait, so it counts within our own waits only.
                let asked =
                    retry_after.unwrap_or(BUSY_WAIT).clamp(backoff.base.min(backoff.cap), backoff.cap);
                self.next_attempt = now.after(asked);
                self.last_cause = Some(FailureCause::Busy);
            }
            DialOutcome::NoNetwork(cause) => {
                self.next_attempt = now.after(Backoff { base: soon, cap: soon }.delay(1, random));
                self.last_cause = Some(cause);
            }
            DialOutcome::Deferred => {
                wait_at_least(self, Backoff { base: soon, cap: soon }.delay(1, random));
            }
            DialOutcome::Collision => {}
        }
    }

    /// How long the next dial still has to wait; `cap` is the longest possible wait.
    pub(super) fn remaining_wait(&self, now: WallTime, cap: Duration) -> Duration {
        let left = self.next_attempt.since(now);
        // A wait above the cap was set before the clock jumped back.
        if left > cap { Duration::ZERO } else { left }
    }

    /// Whether it counts as unreachable, after too many failures in a row.
    pub(super) fn is_failing(&self) -> bool {
        self.failures >= UNREACHABLE_AFTER_FAILURES
    }
}

/// Where an address comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ReportedBy {
    // The file stores the position of a variant: append only.
    /// The operator of this node. No quota.
    Operator,
    /// A seed list or a DNS seed. All seeds share one quota.
    Seed,
    /// The peer at this IP address, by peer exchange or by claiming a listen address.
    Peer(IpAddr),
}

impl ReportedBy {
    /// The canonical form, which is stored and compared.
    pub(super) fn canonical(self) -> Self {
        match self {
            Self::Peer(ip) => Self::Peer(canonical_ip(ip)),
            other => other,
        }
    }

    /// The source that a quota counts; `None` for no quota. An IPv6 host commonly has a /64, so a
    /// /64 is one source.
    pub(super) fn bucket(self) -> Option<Self> {
        match self.canonical() {
            Self::Operator => None,
            Self::Peer(ip) => Some(Self::Peer(Source::of(ip).network())),
            other => Some(other),
        }
    }

    /// The subnet of the reporter: a /24, or a /48. The operator and the seeds are one each.
    pub(super) fn subnet(self) -> Self {
        match self {
            Self::Peer(ip) => Self::Peer(Source::of(ip).subnet().network()),
            other => other,
        }
    }
}

/// The outcome of dialling an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DialOutcome {
    /// A dial has begun. Only records the time.
    Attempt,
    /// The handshake succeeded. The address may be shared with peers from now on, and is no alias
    /// any more. Its backoff is not reset, so that a peer that accepts and hangs up is not
    /// redialled at once.
    Connected,
    /// The session has become stable. Only this resets the backoff.
    Stable,
    /// The dial or the handshake failed, or the session ended before it was stable.
    Failed(FailureCause),
    /// The peer had no free slot. No failure: the next attempt is due when the peer asked for it,
    /// within the base and the cap of the backoff.
    Busy {
        /// How long the peer asked us to wait; `None` for 30 s.
        retry_after: Option<Duration>,
    },
    /// The dial failed while this node reached nobody, so our own network may be down. No failure;
    /// the next attempt is due within 10 s.
    NoNetwork(FailureCause),
    /// We could not dial (out of descriptors or memory), or are still probing the address. No
    /// failure; the next attempt is due within 10 s.
    Deferred,
    /// Another connection with the same peer was kept. Changes nothing.
    Collision,
}

/// Why a dial or a session failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureCause {
    // The file stores the position of a variant: append only.
    /// The host has no listener on the port.
    Refused,
    /// No answer within the deadline.
    Timeout,
    /// No route to the host.
    Unreachable,
    /// The connection broke.
    Reset,
    /// The peer does not speak our protocol.
    Handshake,
    /// The peer belongs to another network.
    WrongNetwork,
    /// The peer rejected us.
    Rejected,
    /// The peer violated the protocol.
    Protocol,
    /// The session ended before it was stable.
    Unstable,
    /// The peer had no free slot.
    Busy,
    /// Any other cause.
    Other,
}

impl FailureCause {
    /// Classifies an I/O error.
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

/// Whether an added address was new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It was added.
    New,
    /// It was known; nothing changed.
    Known,
}

/// Why an address was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum AddRefused {
    /// Port 0 cannot be dialled.
    #[error("port 0 cannot be dialled")]
    Port,
    /// `0.0.0.0/8` or `::`.
    #[error("the unspecified address names no host")]
    Unspecified,
    /// A multicast address.
    #[error("a multicast address names no host")]
    Multicast,
    /// The IPv4 broadcast address, or its reserved range 240.0.0.0/4.
    #[error("a broadcast or reserved address names no host")]
    Broadcast,
    /// It is banned. An existing record stays.
    #[error("the address is banned; unban it first")]
    Banned,
    /// The source has reported as many addresses as its quota allows.
    #[error("its source has used up its quota of untried addresses")]
    SourceQuota,
    /// The book is full of addresses that are worth more than an untried one.
    #[error("the book is full of proven addresses; raise `max_addresses` to keep more")]
    Full,
}

/// Why a canonical address cannot be in the book; `None` if it can.
pub(super) fn refusal(addr: SocketAddr) -> Option<AddRefused> {
    if addr.port() == 0 {
        return Some(AddRefused::Port);
    }
    match addr.ip() {
        IpAddr::V4(ip) => match ip.octets() {
            [0, ..] => Some(AddRefused::Unspecified),
            [224..=239, ..] => Some(AddRefused::Multicast),
            [240..=255, ..] => Some(AddRefused::Broadcast),
            _ => None,
        },
        IpAddr::V6(ip) if ip.is_unspecified() => Some(AddRefused::Unspecified),
        IpAddr::V6(ip) if ip.is_multicast() => Some(AddRefused::Multicast),
        IpAddr::V6(_) => None,
    }
}
