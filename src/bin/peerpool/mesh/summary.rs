//! The summary of a run, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::process::ExitCode;

use serde::Serialize;
use serde_json::Value;

use peerpool::ShutdownReport;
use peerpool::pool::PoolStats;

use super::super::output::{eprint, failure, try_print};
use super::ledger::MissingDelivery;
use super::report::RunReport;

/// What `--json` prints.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Summary {
    pub(super) nodes: usize,
    pub(super) connections: usize,
    pub(super) seconds: f64,
    /// A signal ended the traffic early.
    pub(super) interrupted: bool,
    pub(super) broadcasts: u64,
    pub(super) expected: u64,
    pub(super) delivered: u64,
    pub(super) lost: u64,
    pub(super) duplicates: u64,
    pub(super) redundant: u64,
    pub(super) promised_share: f64,
    pub(super) deliveries_per_s: f64,
    pub(super) latency_ms: Latency,
    pub(super) requests: Requests,
    pub(super) reconnects: usize,
    pub(super) reaped: u64,
    pub(super) leaked: ShutdownReport,
    pub(super) pool: PoolStats,
}

impl Summary {
    pub(super) fn leaked_text(&self) -> String {
        let ShutdownReport { permits, connections, peers, tasks } = self.leaked;
        format!("{permits} permits, {connections} connections, {peers} peers, {tasks} tasks")
    }
}

/// Latencies in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Latency {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

impl Latency {
    /// The percentiles of latencies in microseconds. Sorts them.
    pub(super) fn of(latencies_us: &mut [u32]) -> Self {
        latencies_us.sort_unstable();
        let percentile = |share: f64| {
            let index = ((latencies_us.len() as f64 * share).ceil() as usize).saturating_sub(1);
            latencies_us.get(index).map_or(0.0, |latency| f64::from(*latency) / 1e3)
        };
        Self { p50: percentile(0.5), p99: percentile(0.99), max: percentile(1.0) }
    }
}

/// The outcomes of the requests.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Requests {
    pub(super) sent: u64,
    pub(super) answered: u64,
    pub(super) failed: u64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
}

/// Merges the statistics of the nodes' pools.
///
/// - Counts are added.
/// - Means are weighted by the number of connections that they cover.
/// - The oldest connection is the oldest of all pools.
pub(super) fn merge_pools(pools: impl Iterator<Item = PoolStats>) -> PoolStats {
    let (mut sum, mut health, mut rtt) = (Value::Null, 0.0, 0.0);
    let mut oldest = 0;
    for pool in pools {
        health += pool.avg_health_score * pool.walked_connections as f64;
        rtt += pool.avg_rtt_ms * pool.walked_connections as f64;
        oldest = oldest.max(pool.oldest_connection_secs);
        if let Ok(value) = serde_json::to_value(&pool) {
            add_values(&mut sum, value);
        }
    }
    let mut merged: PoolStats = serde_json::from_value(sum).unwrap_or_default();
    let walked = merged.walked_connections.max(1) as f64;
    merged.avg_health_score = health / walked;
    merged.avg_rtt_ms = rtt / walked;
    merged.oldest_connection_secs = oldest;
    merged
}

/// Adds the numbers of `value` to those at the same place in `sum`. Booleans are combined with
/// "or".
fn add_values(sum: &mut Value, value: Value) {
    match (sum, value) {
        (Value::Object(sum), Value::Object(value)) => {
            for (key, value) in value {
                add_values(sum.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::Array(sum), Value::Array(value)) => {
            sum.iter_mut().zip(value).for_each(|(sum, value)| add_values(sum, value));
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

/// Prints the table to stdout, failures to stderr and, if `json` is set, the JSON object in the
/// last line. Returns the exit code of the command.
pub(super) fn print_report(report: &RunReport, json: bool) -> ExitCode {
    let table_printed = try_print(&table(report));
    for missing in &report.missing {
        let MissingDelivery { message, sent, receiver } = missing;
        eprint(&format!(
            "missing: message {message}, sent by incarnation {} at {:.3} s, at incarnation {receiver}",
            sent.sender,
            sent.sent_at as f64 / 1e6
        ));
    }
    let code = if report.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        failure(&report.failures.join("\nerror: "))
    };
    let json_printed = match serde_json::to_string(&report.summary) {
        Ok(line) if json => try_print(&line),
        _ => Ok(()),
    };
    json_printed.and(table_printed).map_or_else(|message| failure(&message), |()| code)
}

/// The report as a table for people.
pub(super) fn table(report: &RunReport) -> String {
    let s = &report.summary;
    let mut rows = vec![(
        "mesh",
        format!("{} nodes, {} connections, {:.0} s, seed {}", s.nodes, s.connections, s.seconds, report.seed),
    )];
    if s.interrupted {
        rows.push(("cut short", format!("by a signal: {} s of traffic were wanted", report.wanted_seconds)));
    }
    if report.chaos {
        let faults = list_counts(&report.faults);
        rows.push((
            "chaos",
            if faults.is_empty() { "none: the run is too short for a fault".into() } else { faults },
        ));
    }
    rows.extend(delivery_rows(report));
    rows.extend([
        ("connections", format!("{} reconnects, {} reaped", s.reconnects, s.reaped)),
        (
            "pool",
            format!(
                "{} live, health {:.1}, RTT {:.2} ms",
                s.pool.total_connections, s.pool.avg_health_score, s.pool.avg_rtt_ms
            ),
        ),
        ("leaked", s.leaked_text()),
    ]);
    let result =
        if report.failures.is_empty() { "every expected message was delivered once" } else { "FAILED" };
    rows.push(("result", result.to_owned()));
    rows.iter().map(|(name, value)| format!("{name:<11} {value}")).collect::<Vec<_>>().join("\n")
}

fn delivery_rows(report: &RunReport) -> [(&'static str, String); 7] {
    let s = &report.summary;
    let mut failures = list_counts(&report.request_failures);
    if !failures.is_empty() {
        failures = format!(" ({failures})");
    }
    let Latency { p50, p99, max } = s.latency_ms;
    let Requests { answered, failed, p50_ms, p99_ms, .. } = s.requests;
    [
        ("sent", format!("{} broadcasts, {} tips, {} requests", s.broadcasts, report.tips, s.requests.sent)),
        (
            "expected",
            format!("{} deliveries, {:.1} % of {} pairs", s.expected, s.promised_share * 100.0, report.pairs),
        ),
        ("delivered", format!("{} ({:.0} a second)", s.delivered, s.deliveries_per_s)),
        ("lost", s.lost.to_string()),
        ("duplicates", format!("{} ({} redundant copies on the wire)", s.duplicates, s.redundant)),
        ("latency", format!("p50 {p50:.2} ms, p99 {p99:.2} ms, max {max:.2} ms")),
        (
            "requests",
            format!("{answered} answered, {failed} failed{failures}, p50 {p50_ms:.2} ms, p99 {p99_ms:.2} ms"),
        ),
    ]
}

/// Formats counts as "2 stall, 1 restart".
fn list_counts<K: Display>(counts: &BTreeMap<K, u64>) -> String {
    counts.iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
}
