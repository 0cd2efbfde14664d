//! What was sent, whom it was promised to, and who got it.
//!
//! Statement: a message is *expected* at every incarnation that a path joins with its origin in the graph of links which were
//! up at both ends, without interruption or gap, from before the send until [`WINDOW`] after it. Enforced by: bounds of the
//! nodes' own event times, taken so that a link counts as shorter than it was, never longer. Breaks if: an event is lost, which
//! fails the run.

use peerpool::sync::Mutex;
use peerpool::sync::atomic::{AtomicU64, Ordering};

use super::clock::Micros;
use super::graph::{Groups, Incarnation, Link};

/// How long after the send the path must hold.
pub(super) const WINDOW: Micros = 5_000_000;

/// A message that was sent to everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) by: Incarnation,
    /// When, at the latest: taken before it was handed to the node.
    pub(super) at: Micros,
}

/// All messages, by number.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    sent: Mutex<Vec<Sent>>,
    /// First hand-overs anywhere, for the display.
    pub(super) delivered: AtomicU64,
}

impl Ledger {
    /// Enters a message; its number.
    pub(super) fn enter(&self, sent: Sent) -> u64 {
        let mut all = self.sent.lock();
        all.push(sent);
        all.len() as u64 - 1
    }

    pub(super) fn all(&self) -> Vec<Sent> {
        self.sent.lock().clone()
    }

    pub(super) fn count_delivered(&self) {
        self.delivered.fetch_add(1, Ordering::Relaxed);
    }
}

/// When an incarnation lived.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    pub(super) from: Micros,
    /// The end of time for one that was never killed.
    pub(super) until: Micros,
}

/// A message that somebody should have got and did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) message: u64,
    pub(super) sent: Sent,
    pub(super) at: Incarnation,
}

/// The outcome of the comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DeliveryReport {
    /// Pairs of a message and another incarnation that lived when it was sent.
    pub(super) pairs: u64,
    /// Of these, the promised ones.
    pub(super) expected: u64,
    /// Promised and not delivered: the first few by name.
    pub(super) missing: Vec<Missing>,
    pub(super) lost: u64,
}

/// Compares what was promised with what was delivered; `got(incarnation, message)` says the latter.
pub(super) fn reconcile(
    sent: &[Sent],
    lives: &[Life],
    links: &[Link],
    got: impl Fn(Incarnation, u64) -> bool,
) -> DeliveryReport {
    let mut reconcile = DeliveryReport::default();
    for (number, message) in (0u64..).zip(sent) {
        let until = message.at + WINDOW;
        let mut groups = Groups::of(lives.len(), links.iter().filter(|link| link.holds(message.at, until)));
        for (at, life) in (0 as Incarnation..).zip(lives) {
            if at == message.by || message.at < life.from || life.until <= message.at {
                continue;
            }
            reconcile.pairs += 1;
            if !groups.joined(message.by, at) {
                continue;
            }
            reconcile.expected += 1;
            if !got(at, number) {
                reconcile.lost += 1;
                if reconcile.missing.len() < MISSING_SHOWN {
                    reconcile.missing.push(Missing { message: number, sent: *message, at });
                }
            }
        }
    }
    reconcile
}

const MISSING_SHOWN: usize = 10;

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;
    use peerpool::base::ConnId;

    const SECOND: Micros = 1_000_000;

    fn link(one: Incarnation, other: Incarnation, up: Micros, down: Micros) -> Link {
        let conn = ConnId::new(1).expect("not zero");
        Link { ends: [(one, conn), (other, conn)], up, down, gaps: Vec::new() }
    }

    fn alive() -> Life {
        Life { from: 0, until: Micros::MAX }
    }

    fn sent(by: Incarnation, at: Micros) -> Vec<Sent> {
        vec![Sent { by, at }]
    }

    #[test]
    fn a_steady_chain_promises_everything_to_everybody() {
        let links = [link(0, 1, 0, Micros::MAX), link(1, 2, 0, Micros::MAX)];
        let found = reconcile(&sent(0, SECOND), &[alive(); 3], &links, |_, _| true);
        assert_eq!((found.pairs, found.expected, found.lost), (2, 2, 0));
    }

    #[test]
    fn what_was_promised_and_did_not_come_is_named() {
        let links = [link(0, 1, 0, Micros::MAX), link(1, 2, 0, Micros::MAX)];
        let found = reconcile(&sent(0, SECOND), &[alive(); 3], &links, |at, _| at == 1);
        assert_eq!((found.expected, found.lost), (2, 1));
        assert_eq!((found.missing[0].message, found.missing[0].at), (0, 2));
    }

    #[test]
    fn a_link_that_breaks_within_the_window_promises_nothing_beyond_it() {
        let links = [link(0, 1, 0, Micros::MAX), link(1, 2, 0, SECOND + WINDOW - 1)];
        let found = reconcile(&sent(0, SECOND), &[alive(); 3], &links, |at, _| at == 1);
        assert_eq!((found.pairs, found.expected, found.lost), (2, 1, 0));
        let links = [link(0, 1, 0, Micros::MAX), link(1, 2, 0, SECOND + WINDOW)];
        assert_eq!(reconcile(&sent(0, SECOND), &[alive(); 3], &links, |at, _| at == 1).lost, 1);
    }

    #[test]
    fn a_link_that_comes_up_after_the_send_promises_nothing() {
        let links = [link(0, 1, SECOND + 1, Micros::MAX)];
        assert_eq!(reconcile(&sent(0, SECOND), &[alive(); 2], &links, |_, _| false).expected, 0);
    }

    #[test]
    fn two_links_that_hold_in_turn_are_no_unbroken_path() {
        let links = [link(0, 1, 0, 3 * SECOND), link(0, 1, 3 * SECOND, Micros::MAX)];
        assert_eq!(reconcile(&sent(0, SECOND), &[alive(); 2], &links, |_, _| false).expected, 0);
    }

    #[test]
    fn the_dead_and_the_unborn_are_no_pairs() {
        let dead = Life { from: 0, until: SECOND };
        let unborn = Life { from: SECOND + 1, until: Micros::MAX };
        let found = reconcile(&sent(0, SECOND), &[alive(), dead, unborn, alive()], &[], |_, _| false);
        assert_eq!((found.pairs, found.expected), (1, 0));
    }

    #[test]
    fn a_later_message_is_judged_by_the_links_of_its_own_time() {
        let links = [link(0, 1, 0, 10 * SECOND)];
        let both = [Sent { by: 0, at: SECOND }, Sent { by: 0, at: 6 * SECOND }];
        let found = reconcile(&both, &[alive(); 2], &links, |_, message| message == 0);
        assert_eq!((found.pairs, found.expected, found.lost), (2, 1, 0));
    }
}
