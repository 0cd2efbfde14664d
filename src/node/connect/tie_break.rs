//! Two connections, one peer: who stays. A pure rule, so that every branch can be tested without a socket.
//!
//! Invariant 7. Statement: of two connections between the same two processes exactly one survives, and both ends name
//! the same one without asking. Enforced by: for simultaneous opens the rule looks at nothing but the two nonces, which
//! both ends know; in every other case the older one stays as long as it answers, and the dialler follows what the acceptor's
//! greeting says. Breaks if: an end decides by arrival order or by its own clock alone.
//!
//! A nonce is no secret: whoever has met a process can repeat it. So nothing that lives is ended for a nonce that comes from another
//! host, or for one beside another proven identity; and for a greeting that repeats one, no address becomes another name of a peer on
//! another host. It may where the address itself says that we are connected already: hosts may have several addresses.

use std::net::IpAddr;
use std::time::Duration;

use crate::base::{Direction, Nonce, Tick};

/// One of the two connections, as the rule sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Who dialled it.
    pub(crate) direction: Direction,
    /// When it was dialled or accepted here.
    pub(crate) since: Tick,
    /// Whether the transport proved the peer's identity.
    pub(crate) authenticated: bool,
    /// The host at its other end, as dialled or observed.
    pub(crate) ip: IpAddr,
}

impl Candidate {
    /// Whether both lead to the same host, as far as addresses can say: those of this machine are one.
    pub(crate) fn is_beside(&self, other: &Self) -> bool {
        self.ip == other.ip || (self.ip.is_loopback() && other.ip.is_loopback())
    }
}

/// What the rule says about a new connection while an old one to the same peer is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The old one stays; the new one ends as a collision, which is no failure.
    KeepOld,
    /// The old one stays, and the address dialled for the new one is another name of the same peer, if it is [beside] it.
    ///
    /// [beside]: Candidate::is_beside
    KeepOldAsAlias,
    /// The new one takes over.
    TakeNew,
    /// The old one stays if it answers a ping within [`PROBE`]; otherwise the new one takes over.
    ProbeOld,
}

/// What both ends know of each other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nonces {
    pub(crate) ours: Nonce,
    /// The nonce in the new connection's hello.
    pub(crate) theirs: Nonce,
    /// The nonce that the old connection's hello carried: another one after the peer restarted.
    pub(crate) theirs_before: Nonce,
}

impl Nonces {
    /// The direction, seen from here, of the connection that survives a simultaneous open: the one dialled by the
    /// smaller nonce.
    pub(crate) fn surviving_direction(&self) -> Direction {
        if self.ours < self.theirs { Direction::Outbound } else { Direction::Inbound }
    }
}

/// Decides between a connection that has just learnt who its peer is and one that was there before.
///
/// `handshake` is the handshake deadline: two connections that are both younger count as opened simultaneously.
pub(crate) fn judge(
    new: Candidate,
    old: Candidate,
    pair: Nonces,
    handshake: Duration,
    now: Tick,
) -> Decision {
    let same_process = pair.theirs == pair.theirs_before;
    if !same_process {
        // Only a proven identity can meet itself under another nonce: the peer restarted, the old one is a corpse.
        return Decision::TakeNew;
    }
    let young = |one: Candidate| now.since(one.since) < handshake;
    if new.direction != old.direction && young(new) && young(old) {
        return match new.direction == pair.surviving_direction() {
            true if new.is_beside(&old) => Decision::TakeNew,
            // From another host it may be anybody. If it is the same process there after all, it ends the old one itself.
            true => Decision::ProbeOld,
            false => Decision::KeepOld,
        };
    }
    match new.direction {
        // Two dials of ours: to the acceptor they are inbound twice, and it refuses the second while the first lives.
        Direction::Outbound if old.direction == Direction::Outbound => {
            if young(old) {
                Decision::KeepOldAsAlias
            } else {
                Decision::ProbeOld
            }
        }
        // An acceptor that has accepted knows the old one to be gone: then it does not answer.
        Direction::Outbound if new.authenticated => Decision::TakeNew,
        Direction::Outbound => Decision::ProbeOld,
        Direction::Inbound if old.direction == Direction::Inbound && young(old) => Decision::KeepOld,
        Direction::Inbound if new.authenticated && old.direction == Direction::Outbound => Decision::TakeNew,
        Direction::Inbound => Decision::ProbeOld,
    }
}

/// How long an old connection has to answer the ping that decides whether it stays.
pub(crate) const PROBE: Duration = Duration::from_secs(5);

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;
    use Direction::{Inbound, Outbound};

    const HANDSHAKE: Duration = Duration::from_secs(10);
    const SMALL: Nonce = Nonce([1; 16]);
    const LARGE: Nonce = Nonce([2; 16]);

    fn contender(direction: Direction, since: u64) -> Candidate {
        let ip = IpAddr::from([192, 0, 2, 1]);
        Candidate { direction, since: Tick::from_millis(since), authenticated: false, ip }
    }

    fn pair(ours: Nonce, theirs: Nonce) -> Nonces {
        Nonces { ours, theirs, theirs_before: theirs }
    }

    fn flip(direction: Direction) -> Direction {
        if direction == Inbound { Outbound } else { Inbound }
    }

    #[test]
    fn both_ends_name_the_same_survivor_in_both_orders() {
        let now = Tick::from_millis(5_000);
        for first in [Inbound, Outbound] {
            let (old, new) = (contender(first, 1), contender(flip(first), 2));
            let here = judge(new, old, pair(SMALL, LARGE), HANDSHAKE, now);
            // The other end sees each connection from its other side, and may have met them in either order.
            let (old, new) = (contender(flip(first), 1), contender(first, 2));
            let there = judge(new, old, pair(LARGE, SMALL), HANDSHAKE, now);
            assert_eq!(here, there);
            let (old, new) = (contender(first, 1), contender(flip(first), 2));
            let there_reordered = judge(new, old, pair(LARGE, SMALL), HANDSHAKE, now);
            assert_ne!(
                here, there_reordered,
                "met in the other order, the same connection is now the other contender"
            );
        }
    }

    #[test]
    fn the_one_dialled_by_the_smaller_nonce_survives() {
        let now = Tick::from_millis(5_000);
        let verdict =
            judge(contender(Outbound, 2), contender(Inbound, 1), pair(SMALL, LARGE), HANDSHAKE, now);
        assert_eq!(verdict, Decision::TakeNew);
        let verdict =
            judge(contender(Outbound, 2), contender(Inbound, 1), pair(LARGE, SMALL), HANDSHAKE, now);
        assert_eq!(verdict, Decision::KeepOld);
    }

    #[test]
    fn an_old_unproven_connection_stays_only_if_it_answers() {
        let now = Tick::from_millis(60_000);
        for direction in [Inbound, Outbound] {
            let verdict = judge(
                contender(Inbound, 59_999),
                contender(direction, 1),
                pair(SMALL, LARGE),
                HANDSHAKE,
                now,
            );
            assert_eq!(verdict, Decision::ProbeOld);
        }
    }

    #[test]
    fn a_proven_newer_inbound_replaces_our_old_dial() {
        let now = Tick::from_millis(60_000);
        let proven = |direction, since| Candidate { authenticated: true, ..contender(direction, since) };
        let verdict = judge(proven(Inbound, 59_999), proven(Outbound, 1), pair(SMALL, LARGE), HANDSHAKE, now);
        assert_eq!(verdict, Decision::TakeNew);
    }

    #[test]
    fn a_proven_peer_that_restarted_replaces_its_own_corpse() {
        let restarted = Nonces { ours: LARGE, theirs: SMALL, theirs_before: Nonce([9; 16]) };
        let now = Tick::from_millis(2);
        for (new, old) in [(Inbound, Inbound), (Inbound, Outbound), (Outbound, Inbound), (Outbound, Outbound)]
        {
            let verdict = judge(contender(new, 2), contender(old, 1), restarted, HANDSHAKE, now);
            assert_eq!(verdict, Decision::TakeNew);
        }
    }

    #[test]
    fn of_two_dials_to_one_process_the_older_stays() {
        let now = Tick::from_millis(3);
        let dialler =
            judge(contender(Outbound, 2), contender(Outbound, 1), pair(SMALL, LARGE), HANDSHAKE, now);
        assert_eq!(dialler, Decision::KeepOldAsAlias);
        let acceptor =
            judge(contender(Inbound, 2), contender(Inbound, 1), pair(LARGE, SMALL), HANDSHAKE, now);
        assert_eq!(acceptor, Decision::KeepOld);
    }

    #[test]
    fn a_dialler_follows_an_acceptor_that_accepted_if_the_old_one_is_gone_or_the_identity_proven() {
        let now = Tick::from_millis(60_000);
        let (new, old) = (contender(Outbound, 59_999), contender(Inbound, 1));
        assert_eq!(judge(new, old, pair(LARGE, SMALL), HANDSHAKE, now), Decision::ProbeOld);
        let new = Candidate { authenticated: true, ..new };
        assert_eq!(judge(new, old, pair(LARGE, SMALL), HANDSHAKE, now), Decision::TakeNew);
    }

    #[test]
    fn a_nonce_from_another_host_ends_nothing_that_answers() {
        let now = Tick::from_millis(5_000);
        for (new, ours, theirs) in [(Inbound, LARGE, SMALL), (Outbound, SMALL, LARGE)] {
            let old = contender(flip(new), 1);
            let new = Candidate { ip: IpAddr::from([192, 0, 2, 2]), ..contender(new, 2) };
            assert_eq!(judge(new, old, pair(ours, theirs), HANDSHAKE, now), Decision::ProbeOld);
            assert_eq!(judge(new, old, pair(theirs, ours), HANDSHAKE, now), Decision::KeepOld);
            // The addresses of this machine are one host.
            let (new, old) = (
                Candidate { ip: [127, 0, 0, 2].into(), ..new },
                Candidate { ip: [127, 0, 0, 1].into(), ..old },
            );
            assert_eq!(judge(new, old, pair(ours, theirs), HANDSHAKE, now), Decision::TakeNew);
        }
    }
}
