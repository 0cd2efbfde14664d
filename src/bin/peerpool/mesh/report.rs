//! The report of a run, what is wrong with them, and how both are told.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

use peerpool::node::ShutdownReport;
use peerpool::pool::PoolStats;

use super::super::{eprint, failure, print};
use super::chaos::FaultCounts;
use super::clock::Micros;
use super::cluster::Cluster;
use super::ledger::{Missing, reconcile};
use super::traffic::Traffic;
use super::{MeshArgs, read};

/// What `--json` prints.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Summary {
    nodes: usize,
    connections: usize,
    seconds: f64,
    /// The traffic was ended by a signal, before its time.
    interrupted: bool,
    broadcasts: u64,
    expected: u64,
    delivered: u64,
    lost: u64,
    duplicates: u64,
    redundant: u64,
    promised_share: f64,
    deliveries_per_s: f64,
    latency_ms: Latency,
    requests: Requests,
    reconnects: usize,
    reaped: u64,
    leaked: ShutdownReport,
    pool: PoolStats,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Latency {
    p50: f64,
    p99: f64,
    max: f64,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Requests {
    sent: u64,
    answered: u64,
    failed: u64,
    p50_ms: f64,
    p99_ms: f64,
}

/// Everything that is known of a run.
#[derive(Debug)]
pub(super) struct RunReport {
    summary: Summary,
    seed: u64,
    chaos: bool,
    /// Seconds that the traffic was to last.
    wanted: u64,
    began: Micros,
    pairs: u64,
    tips: u64,
    fault_counts: BTreeMap<&'static str, u64>,
    request_failures: BTreeMap<String, u64>,
    missing: Vec<Missing>,
    /// Per incarnation: the messages it got, one bit each.
    got: Vec<Vec<u64>>,
    links: Vec<super::graph::Link>,
    complaints: Vec<String>,
}

impl RunReport {
    /// Before the traffic.
    pub(super) fn begin(args: &MeshArgs, seed: u64, cluster: &Cluster) -> Self {
        let connections = cluster.links().iter().filter(|link| link.is_up()).count();
        Self {
            summary: Summary { nodes: args.nodes, connections, ..Summary::default() },
            seed,
            chaos: args.chaos,
            wanted: args.seconds,
            began: cluster.epoch.now(),
            pairs: 0,
            tips: 0,
            fault_counts: BTreeMap::new(),
            request_failures: BTreeMap::new(),
            missing: Vec::new(),
            got: Vec::new(),
            links: Vec::new(),
            complaints: Vec::new(),
        }
    }

    /// Something is not as it must be.
    pub(super) fn complain(&mut self, what: String) {
        self.complaints.push(what);
    }

    fn complain_if(&mut self, count: u64, what: &str) {
        if count > 0 {
            self.complain(format!("{count} {what}"));
        }
    }

    /// After the traffic, while the nodes still run: the account is closed, what comes later does not count.
    pub(super) fn close(&mut self, cluster: &Cluster, traffic: &Traffic, fault_counts: &FaultCounts) {
        self.links = cluster.links();
        let mut latencies = Vec::new();
        for member in cluster.all() {
            let (bits, took) = member.app.take();
            self.got.push(bits);
            latencies.extend(took);
        }
        self.summary.latency_ms = Latency::of(&mut latencies);
        let lasted = *traffic.lasted.lock();
        self.summary.seconds = lasted.as_secs_f64();
        self.summary.interrupted = lasted < Duration::from_secs(self.wanted);
        self.summary.broadcasts = read(&traffic.broadcasts);
        self.tips = read(&traffic.tips);
        self.fault_counts = fault_counts.done.lock().clone();
        self.complaints.append(&mut fault_counts.failed.lock().clone());
        self.close_members(cluster);
        self.close_requests(traffic);
        self.summary.deliveries_per_s = self.summary.delivered as f64 / self.summary.seconds.max(0.001);
        let began = self.began;
        self.summary.reconnects = self.links.iter().filter(|link| link.up > began).count();
        self.summary.pool = merge(cluster.alive().iter().map(|member| member.node.stats().pool));
        self.complain_if(read(&traffic.refused), "messages were not taken by their own node");
    }

    fn close_members(&mut self, cluster: &Cluster) {
        let (mut unremembered, mut corrupt, mut back, mut lags, mut panics) = (0, 0, 0, 0, 0);
        for member in cluster.all() {
            let app = &member.app;
            self.summary.delivered += read(&app.delivered);
            self.summary.duplicates += read(&app.duplicates);
            self.summary.redundant += read(&app.redundant);
            unremembered += read(&app.unremembered);
            corrupt += read(&app.corrupt);
            back += read(&app.tips_back);
            lags += read(&member.reports.lags);
            let stats = member.node.stats();
            self.summary.reaped += stats.reaped;
            panics += stats.panics;
            if let Some(fault) = member.reports.fault() {
                self.complain(format!("node {}: {fault}: the account is not exact", member.slot));
            }
        }
        self.complain_if(unremembered, "new messages were refused by a relay whose memory was full");
        self.complain_if(corrupt, "messages were not what was sent");
        self.complain_if(back, "tips went back on a link");
        self.complain_if(panics, "panics");
        if !self.chaos {
            self.complain_if(lags, "times a peer lagged, without chaos");
        }
    }

    fn close_requests(&mut self, traffic: &Traffic) {
        let mut asks = traffic.asks.lock();
        let failed = asks.failures();
        let Latency { p50, p99, .. } = Latency::of(&mut asks.took);
        let (sent, answered) = (read(&traffic.asked), read(&traffic.answered));
        self.summary.requests = Requests { sent, answered, failed, p50_ms: p50, p99_ms: p99 };
        self.request_failures.clone_from(&asks.failed);
        if sent != answered + failed {
            let open = sent - answered - failed;
            self.complain(format!("{open} requests were neither answered nor failed with a reason"));
        }
        self.complain_if(read(&traffic.wrong), "answers were not the block that was asked for");
    }

    /// What was left after the shutdown.
    pub(super) fn leaked(&mut self, leaked: ShutdownReport) {
        self.summary.leaked = leaked;
        if !leaked.is_clean() {
            let ShutdownReport { permits, connections, peers, tasks } = leaked;
            let what = format!("{permits} permits, {connections} connections, {peers} peers, {tasks} tasks");
            self.complain(format!("left over after the shutdown: {what}"));
        }
    }

    /// Compares what was promised with what was delivered.
    pub(super) fn judge(&mut self, cluster: &Cluster) {
        let lives: Vec<_> = cluster.all().iter().map(|member| member.life()).collect();
        let got = |at: u32, message: u64| {
            let word = self.got.get(at as usize).and_then(|bits| bits.get((message / 64) as usize));
            word.is_some_and(|word| word >> (message % 64) & 1 == 1)
        };
        let found = reconcile(&cluster.ledger.all(), &lives, &self.links, got);
        let share = if found.pairs > 0 { found.expected as f64 / found.pairs as f64 } else { 1.0 };
        self.pairs = found.pairs;
        self.summary.expected = found.expected;
        self.summary.lost = found.lost;
        self.summary.promised_share = share;
        self.missing = found.missing;
        let duplicates = self.summary.duplicates;
        if found.pairs == 0 {
            self.complain("nothing was sent that somebody should have got: the run shows nothing".into());
        }
        self.complain_if(found.lost, "promised deliveries did not come");
        self.complain_if(duplicates, "deliveries came twice");
        if !self.chaos && found.expected < found.pairs {
            let broken = found.pairs - found.expected;
            self.complain(format!("{broken} deliveries had no unbroken path, without chaos"));
        }
        if share < LEAST_SHARE {
            self.complain(format!(
                "only {:.0} % of all pairs were promised, {:.0} % are needed",
                share * 100.0,
                LEAST_SHARE * 100.0
            ));
        }
    }
}

impl Latency {
    /// Of microseconds.
    fn of(took: &mut [u32]) -> Self {
        took.sort_unstable();
        let at = |share: f64| {
            let index = ((took.len() as f64 * share).ceil() as usize).saturating_sub(1);
            took.get(index).map_or(0.0, |took| f64::from(*took) / 1e3)
        };
        Self { p50: at(0.5), p99: at(0.99), max: at(1.0) }
    }
}

/// The pools of all nodes as one: counts add up, means are weighted by what was walked, the oldest is the oldest of all.
fn merge(pools: impl Iterator<Item = PoolStats>) -> PoolStats {
    let (mut sum, mut health, mut rtt) = (serde_json::Value::Null, 0.0, 0.0);
    let mut oldest = 0;
    for pool in pools {
        health += pool.avg_health_score * pool.walked_connections as f64;
        rtt += pool.avg_rtt_ms * pool.walked_connections as f64;
        oldest = oldest.max(pool.oldest_connection_secs);
        if let Ok(value) = serde_json::to_value(&pool) {
            add(&mut sum, value);
        }
    }
    let mut merged: PoolStats = serde_json::from_value(sum).unwrap_or_default();
    let walked = merged.walked_connections.max(1) as f64;
    merged.avg_health_score = health / walked;
    merged.avg_rtt_ms = rtt / walked;
    merged.oldest_connection_secs = oldest;
    merged
}

/// Adds numbers to numbers, whatever they are nested in.
fn add(sum: &mut serde_json::Value, value: serde_json::Value) {
    use serde_json::Value;
    match (sum, value) {
        (Value::Object(sum), Value::Object(value)) => {
            for (key, value) in value {
                add(sum.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::Array(sum), Value::Array(value)) => {
            sum.iter_mut().zip(value).for_each(|(sum, value)| add(sum, value));
        }
        (sum @ Value::Number(_), Value::Number(value)) => {
            if let (Some(one), Some(other)) = (sum.as_u64(), value.as_u64()) {
                *sum = (one + other).into();
            } else if let (Some(one), Some(other)) = (sum.as_f64(), value.as_f64()) {
                *sum = (one + other).into();
            }
        }
        (Value::Bool(sum), Value::Bool(value)) => *sum |= value,
        (sum @ Value::Null, value) => *sum = value,
        _ => {}
    }
}

/// Prints the table and, if wanted, the object; what is wrong goes to stderr.
pub(super) fn tell(report: &RunReport, json: bool) -> ExitCode {
    let told = print(&table(report));
    for missing in &report.missing {
        let Missing { message, sent, at } = missing;
        eprint(&format!(
            "missing: message {message}, sent by incarnation {} at {:.3} s, at incarnation {at}",
            sent.by,
            sent.at as f64 / 1e6
        ));
    }
    let code = if report.complaints.is_empty() {
        ExitCode::SUCCESS
    } else {
        failure(&report.complaints.join("\nerror: "))
    };
    if json && let Ok(line) = serde_json::to_string(&report.summary) {
        return print(&line).and(told).map_or_else(|why| failure(&why), |()| code);
    }
    told.map_or_else(|why| failure(&why), |()| code)
}

fn table(report: &RunReport) -> String {
    let s = &report.summary;
    let ShutdownReport { permits, connections, peers, tasks } = s.leaked;
    let listed = |map: Vec<(String, u64)>| -> String {
        map.iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
    };
    let failures = listed(report.request_failures.iter().map(|(k, v)| (k.clone(), *v)).collect());
    let failures = if failures.is_empty() { failures } else { format!(" ({failures})") };
    let mut rows = vec![
        (
            "mesh",
            format!(
                "{} nodes, {} connections, {:.0} s, seed {}",
                s.nodes, s.connections, s.seconds, report.seed
            ),
        ),
        ("sent", format!("{} broadcasts, {} tips, {} requests", s.broadcasts, report.tips, s.requests.sent)),
        (
            "expected",
            format!("{} deliveries, {:.1} % of {} pairs", s.expected, s.promised_share * 100.0, report.pairs),
        ),
        ("delivered", format!("{} ({:.0} a second)", s.delivered, s.deliveries_per_s)),
        ("lost", s.lost.to_string()),
        ("duplicates", format!("{} ({} redundant copies on the wire)", s.duplicates, s.redundant)),
        (
            "latency",
            format!(
                "p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
                s.latency_ms.p50, s.latency_ms.p99, s.latency_ms.max
            ),
        ),
        (
            "requests",
            format!(
                "{} answered, {} failed{failures}, p50 {:.2} ms, p99 {:.2} ms",
                s.requests.answered, s.requests.failed, s.requests.p50_ms, s.requests.p99_ms
            ),
        ),
        ("links", format!("{} reconnects, {} reaped", s.reconnects, s.reaped)),
        (
            "pool",
            format!(
                "{} live, health {:.1}, RTT {:.2} ms",
                s.pool.total_connections, s.pool.avg_health_score, s.pool.avg_rtt_ms
            ),
        ),
        ("leaked", format!("{permits} permits, {connections} connections, {peers} peers, {tasks} tasks")),
    ];
    if report.chaos {
        let fault_counts =
            listed(report.fault_counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect());
        // Less than a fault takes, with the quiet behind it.
        let fault_counts = if report.fault_counts.is_empty() {
            "none: the run is too short for any".to_owned()
        } else {
            fault_counts
        };
        rows.insert(1, ("chaos", fault_counts));
    }
    if s.interrupted {
        rows.insert(1, ("cut short", format!("by a signal: {} s of traffic were wanted", report.wanted)));
    }
    let verdict =
        if report.complaints.is_empty() { "everything promised was delivered, once" } else { "FAILED" };
    rows.push(("verdict", verdict.to_owned()));
    rows.iter().map(|(name, value)| format!("{name:<11} {value}")).collect::<Vec<_>>().join("\n")
}

/// Below this share of promised pairs a run shows nothing.
const LEAST_SHARE: f64 = 0.5;

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_run_in_which_nothing_was_sent_is_no_success() {
        let args = MeshArgs::least();
        let cluster = Cluster::new(&args);
        let mut report = RunReport::begin(&args, 0, &cluster);
        report.judge(&cluster);
        assert!(report.complaints.iter().any(|why| why.contains("shows nothing")), "{:?}", report.complaints);
        assert!(table(&report).contains("FAILED"));
    }
}
