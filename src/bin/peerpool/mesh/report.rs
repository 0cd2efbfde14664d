//! The account of a run: the figures, and what is wrong with them.
//!
//! Order of calls: [`RunReport::begin`] before the traffic, [`RunReport::collect`] after it,
//! [`RunReport::set_leaked`] after the shutdown, then [`RunReport::evaluate`].

use std::collections::BTreeMap;
use std::time::Duration;

use peerpool::ShutdownReport;

use super::app::Received;
use super::chaos::FaultCounts;
use super::clock::Micros;
use super::cluster::Cluster;
use super::graph::Edge;
use super::ledger::{MissingDelivery, reconcile};
use super::summary::{Latency, Requests, Summary, merge_pools};
use super::traffic::Traffic;
use super::{MeshArgs, lock, read};

/// A run in which a smaller share of all deliveries was expected shows nothing.
const MIN_EXPECTED_SHARE: f64 = 0.5;

/// The figures of a run and its failures.
#[derive(Debug)]
pub(super) struct RunReport {
    pub(super) summary: Summary,
    pub(super) seed: u64,
    pub(super) chaos: bool,
    /// How long the traffic was to last, in seconds.
    pub(super) wanted_seconds: u64,
    pub(super) pairs: u64,
    pub(super) tips: u64,
    pub(super) faults: BTreeMap<&'static str, u64>,
    pub(super) request_failures: BTreeMap<String, u64>,
    pub(super) missing: Vec<MissingDelivery>,
    /// What must not happen and did. The run succeeded if this is empty.
    pub(super) failures: Vec<String>,
    traffic_started_at: Micros,
    /// The received messages of each incarnation.
    received: Vec<Received>,
    edges: Vec<Edge>,
}

impl RunReport {
    /// Starts the report before the traffic.
    pub(super) fn begin(args: &MeshArgs, seed: u64, cluster: &Cluster) -> Self {
        let connections = cluster.edges().iter().filter(|edge| edge.is_up()).count();
        Self {
            summary: Summary { nodes: args.nodes, connections, ..Summary::default() },
            seed,
            chaos: args.chaos,
            wanted_seconds: args.seconds,
            pairs: 0,
            tips: 0,
            faults: BTreeMap::new(),
            request_failures: BTreeMap::new(),
            missing: Vec::new(),
            failures: Vec::new(),
            traffic_started_at: cluster.epoch.now(),
            received: Vec::new(),
            edges: Vec::new(),
        }
    }

    pub(super) fn add_failure(&mut self, message: String) {
        self.failures.push(message);
    }

    fn fail_if_any(&mut self, count: u64, what: &str) {
        if count > 0 {
            self.add_failure(format!("{count} {what}"));
        }
    }

    /// Collects the figures after the traffic, while the nodes still run. Later deliveries do not
    /// count.
    pub(super) fn collect(&mut self, cluster: &Cluster, traffic: &Traffic, faults: &FaultCounts) {
        self.edges = cluster.edges();
        let duration = *lock(&traffic.duration);
        self.summary.seconds = duration.as_secs_f64();
        self.summary.interrupted = duration < Duration::from_secs(self.wanted_seconds);
        self.summary.broadcasts = read(&traffic.broadcasts);
        self.tips = read(&traffic.tips);
        self.faults = lock(&faults.by_name).clone();
        self.failures.append(&mut lock(&faults.failed_restarts).clone());
        self.collect_members(cluster);
        self.collect_requests(traffic);
        self.summary.deliveries_per_s = self.summary.delivered as f64 / self.summary.seconds.max(0.001);
        let started_at = self.traffic_started_at;
        self.summary.reconnects = self.edges.iter().filter(|edge| edge.up > started_at).count();
        self.summary.pool = merge_pools(cluster.alive().iter().map(|member| member.node.stats().pool));
        self.fail_if_any(read(&traffic.refused_broadcasts), "broadcasts were refused by the sending node");
    }

    fn collect_members(&mut self, cluster: &Cluster) {
        let mut latencies_us = Vec::new();
        let (mut not_relayed, mut corrupt, mut reordered, mut slow_peers, mut panics) = (0, 0, 0, 0, 0);
        for member in cluster.all() {
            let app = &member.app;
            let received = app.received();
            latencies_us.extend_from_slice(&received.latencies_us);
            self.received.push(received);
            self.summary.delivered += read(&app.delivered);
            self.summary.duplicates += read(&app.duplicates);
            self.summary.redundant += read(&app.redundant);
            not_relayed += read(&app.not_relayed);
            corrupt += read(&app.corrupt);
            reordered += read(&app.tips_reordered);
            slow_peers += read(&member.log.slow_peers);
            let stats = member.node.stats();
            self.summary.reaped += stats.reaped;
            panics += stats.panics;
            if let Some(defect) = member.log.defect() {
                self.add_failure(format!("node {}: {defect}, so the account is not exact", member.index));
            }
        }
        self.summary.latency_ms = Latency::of(&mut latencies_us);
        self.fail_if_any(not_relayed, "new messages were not relayed: the relay's memory was full");
        self.fail_if_any(corrupt, "messages differ from what was sent");
        self.fail_if_any(reordered, "tips arrived after a newer one on the same connection");
        self.fail_if_any(panics, "panics");
        if !self.chaos {
            self.fail_if_any(slow_peers, "times a peer was too slow, without chaos");
        }
    }

    fn collect_requests(&mut self, traffic: &Traffic) {
        let mut requests = lock(&traffic.requests);
        let failed = requests.failures.values().sum();
        let Latency { p50, p99, .. } = Latency::of(&mut requests.round_trips_us);
        let (sent, answered) = (read(&traffic.requests_sent), read(&traffic.requests_answered));
        self.summary.requests = Requests { sent, answered, failed, p50_ms: p50, p99_ms: p99 };
        self.request_failures.clone_from(&requests.failures);
        let open = sent - answered - failed;
        self.fail_if_any(open, "requests were neither answered nor failed with a reason");
        self.fail_if_any(read(&traffic.wrong_answers), "answers are not the requested block");
    }

    /// Sets what remained after the shutdown.
    pub(super) fn set_leaked(&mut self, leaked: ShutdownReport) {
        self.summary.leaked = leaked;
        if !leaked.is_clean() {
            self.add_failure(format!("left after the shutdown: {}", self.summary.leaked_text()));
        }
    }

    /// Compares the expected with the actual deliveries.
    pub(super) fn evaluate(&mut self, cluster: &Cluster) {
        let lifetimes: Vec<_> = cluster.all().iter().map(|member| member.lifetime()).collect();
        let was_delivered = |receiver: u32, message: u64| {
            self.received.get(receiver as usize).is_some_and(|received| received.contains(message))
        };
        let found = reconcile(&cluster.ledger.all(), &lifetimes, &self.edges, was_delivered);
        let share = if found.pairs > 0 { found.expected as f64 / found.pairs as f64 } else { 1.0 };
        self.pairs = found.pairs;
        self.summary.expected = found.expected;
        self.summary.lost = found.lost;
        self.summary.promised_share = share;
        self.missing = found.missing;
        if found.pairs == 0 {
            self.add_failure("no message had a receiver, so the run shows nothing".into());
        }
        self.fail_if_any(found.lost, "expected deliveries are missing");
        self.fail_if_any(self.summary.duplicates, "messages were delivered twice");
        if !self.chaos {
            self.fail_if_any(found.pairs - found.expected, "deliveries had no unbroken path, without chaos");
        }
        if share < MIN_EXPECTED_SHARE {
            self.add_failure(format!(
                "only {:.0} % of all deliveries were expected, at least {:.0} % are needed",
                share * 100.0,
                MIN_EXPECTED_SHARE * 100.0
            ));
        }
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_run_in_which_nothing_was_sent_is_a_failure() {
        let args = MeshArgs::minimal();
        let cluster = Cluster::new(&args);
        let mut report = RunReport::begin(&args, 0, &cluster);
        report.evaluate(&cluster);
        assert!(report.failures.iter().any(|why| why.contains("shows nothing")), "{:?}", report.failures);
        assert!(super::super::summary::table(&report).contains("FAILED"));
    }
}
