//! The account of the mesh: which messages were sent, and which nodes had to receive each of them.
//!
//! A message is *expected* at every incarnation that a path joins with its sender. Each edge of the
//! path was up at both ends, without interruption or gap, from before the send until
//! [`DELIVERY_WINDOW_US`] after it. The times are bounds on the nodes' own event times, chosen so
//! that an edge never counts as up for longer than it was. A lost event would make the account
//! inexact, so it fails the run.

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use super::clock::Micros;
use super::graph::{Components, Edge, Incarnation};
use super::{increment, lock};

/// How long after the send a path must hold, in microseconds.
pub(super) const DELIVERY_WINDOW_US: Micros = 5_000_000;
/// How many missing deliveries a report names.
const MAX_MISSING_NAMED: usize = 10;

/// A broadcast message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SentMessage {
    pub(super) sender: Incarnation,
    /// Taken before the message was passed to the node.
    pub(super) sent_at: Micros,
}

/// All broadcast messages. The index of a message is its number.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    sent: Mutex<Vec<SentMessage>>,
    /// First deliveries at any node; for the progress display.
    pub(super) delivered: AtomicU64,
}

impl Ledger {
    /// Records a message and returns its number.
    pub(super) fn record(&self, message: SentMessage) -> u64 {
        let mut sent = lock(&self.sent);
        sent.push(message);
        sent.len() as u64 - 1
    }

    pub(super) fn all(&self) -> Vec<SentMessage> {
        lock(&self.sent).clone()
    }

    pub(super) fn count_delivered(&self) {
        increment(&self.delivered);
    }
}

/// The time during which an incarnation ran.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lifetime {
    pub(super) from: Micros,
    /// `Micros::MAX` if it was never killed.
    pub(super) until: Micros,
}

/// An expected delivery that did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MissingDelivery {
    pub(super) message: u64,
    pub(super) sent: SentMessage,
    pub(super) receiver: Incarnation,
}

/// The result of [`reconcile`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DeliveryReport {
    /// Pairs of a message and another incarnation that was running when it was sent.
    pub(super) pairs: u64,
    /// The pairs in which the delivery was expected.
    pub(super) expected: u64,
    /// The expected deliveries that did not happen.
    pub(super) lost: u64,
    /// The first [`MAX_MISSING_NAMED`] of them.
    pub(super) missing: Vec<MissingDelivery>,
}

/// Compares expected with actual deliveries; `was_delivered(incarnation, message)` gives the
/// latter.
pub(super) fn reconcile(
    sent: &[SentMessage],
    lifetimes: &[Lifetime],
    edges: &[Edge],
    was_delivered: impl Fn(Incarnation, u64) -> bool,
) -> DeliveryReport {
    let mut report = DeliveryReport::default();
    for (number, message) in (0u64..).zip(sent) {
        let (from, until) = (message.sent_at, message.sent_at + DELIVERY_WINDOW_US);
        let holding = edges.iter().filter(|edge| edge.holds(from, until));
        let mut components = Components::new(lifetimes.len(), holding);
        for (receiver, lifetime) in (0 as Incarnation..).zip(lifetimes) {
            if receiver == message.sender || from < lifetime.from || lifetime.until <= from {
                continue;
            }
            report.pairs += 1;
            if !components.connected(message.sender, receiver) {
                continue;
            }
            report.expected += 1;
            if !was_delivered(receiver, number) {
                report.lost += 1;
                if report.missing.len() < MAX_MISSING_NAMED {
                    report.missing.push(MissingDelivery { message: number, sent: *message, receiver });
                }
            }
        }
    }
    report
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::super::graph::EndId;
    use super::*;
    use peerpool::ConnId;

    const SECOND: Micros = 1_000_000;

    fn edge(one: Incarnation, other: Incarnation, up: Micros, down: Micros) -> Edge {
        let conn = ConnId::new(1).expect("not zero");
        let ends = [one, other].map(|incarnation| EndId { incarnation, conn });
        Edge { ends, up, down, gaps: Vec::new() }
    }

    fn always() -> Lifetime {
        Lifetime { from: 0, until: Micros::MAX }
    }

    fn sent(sender: Incarnation, sent_at: Micros) -> Vec<SentMessage> {
        vec![SentMessage { sender, sent_at }]
    }

    #[test]
    fn over_a_steady_chain_every_delivery_is_expected() {
        let edges = [edge(0, 1, 0, Micros::MAX), edge(1, 2, 0, Micros::MAX)];
        let report = reconcile(&sent(0, SECOND), &[always(); 3], &edges, |_, _| true);
        assert_eq!((report.pairs, report.expected, report.lost), (2, 2, 0));
    }

    #[test]
    fn a_missing_delivery_is_named() {
        let edges = [edge(0, 1, 0, Micros::MAX), edge(1, 2, 0, Micros::MAX)];
        let report = reconcile(&sent(0, SECOND), &[always(); 3], &edges, |receiver, _| receiver == 1);
        assert_eq!((report.expected, report.lost), (2, 1));
        assert_eq!((report.missing[0].message, report.missing[0].receiver), (0, 2));
    }

    #[test]
    fn nothing_is_expected_over_an_edge_that_breaks_within_the_window() {
        let only_first = |receiver, _| receiver == 1;
        let edges = [edge(0, 1, 0, Micros::MAX), edge(1, 2, 0, SECOND + DELIVERY_WINDOW_US - 1)];
        let report = reconcile(&sent(0, SECOND), &[always(); 3], &edges, only_first);
        assert_eq!((report.pairs, report.expected, report.lost), (2, 1, 0));
        let edges = [edge(0, 1, 0, Micros::MAX), edge(1, 2, 0, SECOND + DELIVERY_WINDOW_US)];
        assert_eq!(reconcile(&sent(0, SECOND), &[always(); 3], &edges, only_first).lost, 1);
    }

    #[test]
    fn nothing_is_expected_over_an_edge_that_comes_up_after_the_send() {
        let edges = [edge(0, 1, SECOND + 1, Micros::MAX)];
        assert_eq!(reconcile(&sent(0, SECOND), &[always(); 2], &edges, |_, _| false).expected, 0);
    }

    #[test]
    fn two_edges_that_hold_in_turn_are_no_unbroken_path() {
        let edges = [edge(0, 1, 0, 3 * SECOND), edge(0, 1, 3 * SECOND, Micros::MAX)];
        assert_eq!(reconcile(&sent(0, SECOND), &[always(); 2], &edges, |_, _| false).expected, 0);
    }

    #[test]
    fn incarnations_that_were_not_running_are_no_pairs() {
        let dead = Lifetime { from: 0, until: SECOND };
        let not_started = Lifetime { from: SECOND + 1, until: Micros::MAX };
        let lifetimes = [always(), dead, not_started, always()];
        let report = reconcile(&sent(0, SECOND), &lifetimes, &[], |_, _| false);
        assert_eq!((report.pairs, report.expected), (1, 0));
    }

    #[test]
    fn each_message_is_matched_with_the_edges_of_its_own_time() {
        let edges = [edge(0, 1, 0, 10 * SECOND)];
        let both =
            [SentMessage { sender: 0, sent_at: SECOND }, SentMessage { sender: 0, sent_at: 6 * SECOND }];
        let report = reconcile(&both, &[always(); 2], &edges, |_, message| message == 0);
        assert_eq!((report.pairs, report.expected, report.lost), (2, 1, 0));
    }
}
