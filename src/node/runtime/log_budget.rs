//! How many log lines strangers can cause.
//!
//! Invariant: `output_never_hurts_the_node`.
//! - Statement: what others do writes a few lines a second at most. What is left out is summarised:
//!   how often, by how many sources, in what time.
//! - Enforced by: each event of a connection asks [`LogBudget::allows`] before it is logged, and
//!   the maintenance logs the summaries.
//! - Breaks if: a line above the debug level is logged for what a peer does without asking here.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use crate::base::{Source, Tick};
use crate::sync::Mutex;

/// Lines of one kind that may come at once.
const BURST: u32 = 20;
/// Time in which one more line of a kind is allowed.
const REFILL: Duration = Duration::from_millis(500);
/// How often lines that were left out are summarised.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(5);
/// Sources that are told apart in a summary.
const MAX_SOURCES: usize = 1024;

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogKind {
    PeerUp,
    PeerDown,
    Refused,
    DialFailed,
    PeerSlow,
    SelfSlow,
    HandlerPanic,
}

impl LogKind {
    const ALL: [Self; 7] = [
        Self::PeerUp,
        Self::PeerDown,
        Self::Refused,
        Self::DialFailed,
        Self::PeerSlow,
        Self::SelfSlow,
        Self::HandlerPanic,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::PeerUp => "peer up",
            Self::PeerDown => "peer down",
            Self::Refused => "inbound refused",
            Self::DialFailed => "dial failed",
            Self::PeerSlow => "slow peer",
            Self::SelfSlow => "missed broadcasts",
            Self::HandlerPanic => "handler panic",
        }
    }
}

/// A token bucket for each kind of line.
#[derive(Debug, Default)]
pub(crate) struct LogBudget(Mutex<[Bucket; LogKind::ALL.len()]>);

#[derive(Debug)]
struct Bucket {
    left: u32,
    refilled_at: Tick,
    left_out: u64,
    sources: HashSet<Source>,
    /// When the first line since the last summary was left out.
    since: Tick,
}

impl Default for Bucket {
    fn default() -> Self {
        Self {
            left: BURST,
            refilled_at: Tick::ZERO,
            left_out: 0,
            sources: HashSet::new(),
            since: Tick::ZERO,
        }
    }
}

/// Lines of one kind that were left out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LogSummary {
    pub(crate) kind: &'static str,
    pub(crate) count: u64,
    /// At most [`MAX_SOURCES`].
    pub(crate) sources: usize,
    pub(crate) within: Duration,
}

impl fmt::Display for LogSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more = if self.sources == MAX_SOURCES { "at least " } else { "" };
        let Self { kind, count, sources, within } = self;
        write!(f, "{count} more of kind `{kind}` from {more}{sources} sources in {within:.1?}, not listed")
    }
}

impl LogBudget {
    /// Whether a line about a peer at this address may be logged. If not, it is counted.
    pub(crate) fn allows(&self, kind: LogKind, ip: IpAddr, now: Tick) -> bool {
        let mut buckets = self.0.lock();
        let bucket = &mut buckets[kind as usize];
        let earned = now.since(bucket.refilled_at).as_millis() / REFILL.as_millis();
        if earned > 0 {
            bucket.refilled_at = now;
            bucket.left = bucket.left.saturating_add(u32::try_from(earned).unwrap_or(BURST)).min(BURST);
        }
        if bucket.left > 0 {
            bucket.left -= 1;
            return true;
        }
        if bucket.left_out == 0 {
            bucket.since = now;
        }
        bucket.left_out += 1;
        if bucket.sources.len() < MAX_SOURCES {
            bucket.sources.insert(Source::of(ip));
        }
        false
    }

    /// The summaries that are due.
    pub(crate) fn take_summaries(&self, now: Tick) -> Vec<LogSummary> {
        let mut buckets = self.0.lock();
        let mut due = Vec::new();
        for (kind, bucket) in LogKind::ALL.into_iter().zip(buckets.iter_mut()) {
            let within = now.since(bucket.since);
            if bucket.left_out > 0 && within >= SUMMARY_INTERVAL {
                let sources = std::mem::take(&mut bucket.sources).len();
                let count = std::mem::take(&mut bucket.left_out);
                due.push(LogSummary { kind: kind.name(), count, sources, within });
            }
        }
        due
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_flood_writes_a_burst_and_a_summary() {
        let budget = LogBudget::default();
        let at = Tick::from_millis;
        let ip = |n: u32| IpAddr::from([20, 0, (n % 7) as u8, 1]);
        let lines =
            (0..100_000u32).filter(|n| budget.allows(LogKind::Refused, ip(*n), at(u64::from(n / 20)))).count();
        assert!(lines <= BURST as usize + 10, "{lines} lines in five seconds");
        assert!(budget.allows(LogKind::PeerUp, ip(0), at(5_000)), "another kind has a budget of its own");
        let summaries = budget.take_summaries(at(5_100));
        assert_eq!(summaries.len(), 1);
        assert_eq!((summaries[0].count, summaries[0].sources), (100_000 - lines as u64, 7));
        assert!(budget.take_summaries(at(60_000)).is_empty());
    }
}
