//! Two connections to one peer: the pure rule that decides which one stays.
//!
//! Invariant: `both_ends_keep_the_same_connection`.
//! - Statement: of two connections between the same two processes exactly one survives, and both
//!   ends choose the same one without a message.
//! - Enforced by: for simultaneous opens the rule uses the two nonces only, which both ends know.
//!   In all other cases the older one stays while it answers, and the dialler follows the
//!   acceptor's hello.
//! - Breaks if: an end decides by arrival order or by its own clock alone.
//!
//! Without proven keys the two are of one host, because a nonce counts for one source only (see
//! [`process_index`](super::process_index)). With a proven key the other host has the key too: a
//! clone, or a peer that moved. A new connection then takes the place of one that does not answer.

use std::net::IpAddr;
use std::time::Duration;

use crate::base::{Direction, Nonce, Tick};

/// The longest that an old connection has to answer the ping that decides whether it stays.
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// One of the two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) direction: Direction,
    /// When it was dialled or accepted here.
    pub(crate) since: Tick,
    /// Whether the transport proved the peer's key.
    pub(crate) authenticated: bool,
    /// Whether the address stands for the process, in a protocol without nonces.
    pub(crate) by_address: bool,
    /// The remote host, as dialled or observed.
    pub(crate) ip: IpAddr,
}

impl Candidate {
    /// Whether both connections lead to the same host, as far as addresses show. All loopback
    /// addresses are one host.
    pub(crate) fn is_same_host(&self, other: &Self) -> bool {
        self.ip == other.ip || (self.ip.is_loopback() && other.ip.is_loopback())
    }
}

/// What happens to a new connection while an old one to the same peer exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The old one stays. The new one ends as a collision, which is not a failure.
    KeepOld,
    /// The old one stays, and the address dialled for the new one is an alias of the same peer, if
    /// both are on the [same host](Candidate::is_same_host).
    KeepOldAsAlias,
    /// The new one takes over.
    TakeNew,
    /// The old one stays if it answers a ping within [`PROBE_TIMEOUT`]; otherwise the new one takes
    /// over.
    ProbeOld,
}

/// The nonces of both ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nonces {
    pub(crate) ours: Nonce,
    /// From the hello of the new connection.
    pub(crate) theirs: Nonce,
    /// From the hello of the old connection. It differs if the peer restarted.
    pub(crate) theirs_before: Nonce,
}

impl Nonces {
    /// The direction, seen from here, of the connection that survives a simultaneous open: the one
    /// dialled by the smaller nonce.
    pub(crate) fn surviving_direction(&self) -> Direction {
        if self.ours < self.theirs { Direction::Outbound } else { Direction::Inbound }
    }
}

/// Decides between a new connection, whose peer has just been identified, and an old one to the
/// same peer.
///
/// `handshake_timeout`: two connections that are both younger than this were opened simultaneously.
pub(crate) fn resolve(
    new: Candidate,
    old: Candidate,
    nonces: Nonces,
    handshake_timeout: Duration,
    now: Tick,
) -> Decision {
    if nonces.theirs != nonces.theirs_before {
        // The peer restarted, and its old connection is dead; or it is a clone of the peer's key,
        // and the old one answers.
        return Decision::ProbeOld;
    }
    let is_young = |candidate: Candidate| now.since(candidate.since) < handshake_timeout;
    if new.direction != old.direction && is_young(new) && is_young(old) {
        return match new.direction == nonces.surviving_direction() {
            true if new.is_same_host(&old) => Decision::TakeNew,
            // On another host the nonce may be copied. If it is the same process after all, that
            // process ends the old one.
            true => Decision::ProbeOld,
            false => Decision::KeepOld,
        };
    }
    match (new.direction, old.direction) {
        // Two dials of ours: the acceptor sees two inbound connections, and refuses the second
        // while the first is alive.
        (Direction::Outbound, Direction::Outbound) if is_young(old) => Decision::KeepOldAsAlias,
        (Direction::Outbound, Direction::Outbound) => Decision::ProbeOld,
        // An acceptor that has accepted knows that the old one is gone; then the old one does not
        // answer.
        (Direction::Outbound, Direction::Inbound) => Decision::ProbeOld,
        // Without nonces it may be another process of that host, or the next life of the same one.
        (Direction::Inbound, Direction::Inbound) if new.by_address && is_young(old) => Decision::TakeNew,
        (Direction::Inbound, Direction::Inbound) if is_young(old) => Decision::KeepOld,
        (Direction::Inbound, Direction::Inbound) => Decision::ProbeOld,
        (Direction::Inbound, Direction::Outbound) => Decision::ProbeOld,
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;
    use Direction::{Inbound, Outbound};

    const HANDSHAKE: Duration = Duration::from_secs(10);
    const SMALL: Nonce = Nonce([1; 16]);
    const LARGE: Nonce = Nonce([2; 16]);

    fn candidate(direction: Direction, since: u64) -> Candidate {
        let ip = IpAddr::from([192, 0, 2, 1]);
        Candidate { direction, since: Tick::from_millis(since), authenticated: false, by_address: false, ip }
    }

    fn nonces(ours: Nonce, theirs: Nonce) -> Nonces {
        Nonces { ours, theirs, theirs_before: theirs }
    }

    fn flip(direction: Direction) -> Direction {
        if direction == Inbound { Outbound } else { Inbound }
    }

    #[test]
    fn both_ends_keep_the_same_connection_in_either_order() {
        let now = Tick::from_millis(5_000);
        for first in [Inbound, Outbound] {
            let (old, new) = (candidate(first, 1), candidate(flip(first), 2));
            let here = resolve(new, old, nonces(SMALL, LARGE), HANDSHAKE, now);
            // The far end sees each connection with the opposite direction, and may have met them
            // in either order.
            let (old, new) = (candidate(flip(first), 1), candidate(first, 2));
            let there = resolve(new, old, nonces(LARGE, SMALL), HANDSHAKE, now);
            assert_eq!(here, there);
            let (old, new) = (candidate(first, 1), candidate(flip(first), 2));
            let there_reordered = resolve(new, old, nonces(LARGE, SMALL), HANDSHAKE, now);
            assert_ne!(
                here, there_reordered,
                "met in the other order, the same connection is now the other candidate"
            );
        }
    }

    #[test]
    fn the_connection_dialled_by_the_smaller_nonce_survives() {
        let now = Tick::from_millis(5_000);
        let decision =
            resolve(candidate(Outbound, 2), candidate(Inbound, 1), nonces(SMALL, LARGE), HANDSHAKE, now);
        assert_eq!(decision, Decision::TakeNew);
        let decision =
            resolve(candidate(Outbound, 2), candidate(Inbound, 1), nonces(LARGE, SMALL), HANDSHAKE, now);
        assert_eq!(decision, Decision::KeepOld);
    }

    #[test]
    fn an_old_unauthenticated_connection_stays_only_if_it_answers() {
        let now = Tick::from_millis(60_000);
        for direction in [Inbound, Outbound] {
            let decision = resolve(
                candidate(Inbound, 59_999),
                candidate(direction, 1),
                nonces(SMALL, LARGE),
                HANDSHAKE,
                now,
            );
            assert_eq!(decision, Decision::ProbeOld);
        }
    }

    #[test]
    fn another_process_with_the_same_key_takes_the_place_of_one_that_does_not_answer() {
        let other = Nonces { ours: LARGE, theirs: SMALL, theirs_before: Nonce([9; 16]) };
        let now = Tick::from_millis(2);
        for (new, old) in [(Inbound, Inbound), (Inbound, Outbound), (Outbound, Inbound), (Outbound, Outbound)]
        {
            let proven = |direction, since| Candidate { authenticated: true, ..candidate(direction, since) };
            assert_eq!(resolve(proven(new, 2), proven(old, 1), other, HANDSHAKE, now), Decision::ProbeOld);
        }
    }

    #[test]
    fn where_the_address_is_the_identity_a_second_inbound_takes_the_place_of_a_young_one() {
        let by_address = |since| Candidate { by_address: true, ..candidate(Inbound, since) };
        let resolve =
            |new, now| resolve(by_address(new), by_address(1), nonces(LARGE, SMALL), HANDSHAKE, Tick::from_millis(now));
        assert_eq!(resolve(2, 3), Decision::TakeNew);
        assert_eq!(resolve(60_000, 60_001), Decision::ProbeOld);
    }

    #[test]
    fn the_older_of_two_dials_to_one_process_stays() {
        let now = Tick::from_millis(3);
        let dialler =
            resolve(candidate(Outbound, 2), candidate(Outbound, 1), nonces(SMALL, LARGE), HANDSHAKE, now);
        assert_eq!(dialler, Decision::KeepOldAsAlias);
        let acceptor =
            resolve(candidate(Inbound, 2), candidate(Inbound, 1), nonces(LARGE, SMALL), HANDSHAKE, now);
        assert_eq!(acceptor, Decision::KeepOld);
    }

    #[test]
    fn a_dialler_takes_the_new_connection_if_the_old_does_not_answer() {
        let now = Tick::from_millis(60_000);
        let (new, old) = (candidate(Outbound, 59_999), candidate(Inbound, 1));
        assert_eq!(resolve(new, old, nonces(LARGE, SMALL), HANDSHAKE, now), Decision::ProbeOld);
        let new = Candidate { authenticated: true, ..new };
        assert_eq!(resolve(new, old, nonces(LARGE, SMALL), HANDSHAKE, now), Decision::ProbeOld);
    }

    #[test]
    fn a_key_from_another_host_replaces_nothing_that_answers() {
        let now = Tick::from_millis(5_000);
        for (new, ours, theirs) in [(Inbound, LARGE, SMALL), (Outbound, SMALL, LARGE)] {
            let old = candidate(flip(new), 1);
            let new = Candidate { ip: IpAddr::from([192, 0, 2, 2]), ..candidate(new, 2) };
            assert_eq!(resolve(new, old, nonces(ours, theirs), HANDSHAKE, now), Decision::ProbeOld);
            assert_eq!(resolve(new, old, nonces(theirs, ours), HANDSHAKE, now), Decision::KeepOld);
            // All loopback addresses are one host.
            let (new, old) = (
                Candidate { ip: [127, 0, 0, 2].into(), ..new },
                Candidate { ip: [127, 0, 0, 1].into(), ..old },
            );
            assert_eq!(resolve(new, old, nonces(ours, theirs), HANDSHAKE, now), Decision::TakeNew);
        }
    }
}
