//! What one sees while the mesh runs: on stderr, and but for what is logged only on a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::{Instant, sleep};

use super::super::eprint;
use super::cluster::Cluster;
use super::read;

/// The progress display.
pub(super) struct ProgressDisplay {
    bar: ProgressBar,
}

impl ProgressDisplay {
    pub(super) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
        bar.set_style(style("{spinner} {msg}"));
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { bar }
    }

    /// Names what is going on.
    pub(super) fn stage(&self, what: &str) {
        self.bar.set_style(style("{spinner} {msg}"));
        self.bar.set_message(what.to_owned());
    }

    /// Shows the traffic as it flows, until dropped.
    pub(super) async fn follow(&self, cluster: &Cluster, lasting: Duration) {
        self.bar.set_style(style("{spinner} [{bar:30}] {msg}").progress_chars("=> "));
        self.bar.set_length(lasting.as_millis() as u64);
        let begun = Instant::now();
        let mut before = (begun, read(&cluster.ledger.delivered));
        loop {
            sleep(STEP).await;
            let now = (Instant::now(), read(&cluster.ledger.delivered));
            let rate = (now.1 - before.1) as f64 / (now.0 - before.0).as_secs_f64();
            before = now;
            self.bar.set_position(begun.elapsed().min(lasting).as_millis() as u64);
            self.bar.set_message(line(cluster, rate));
            tracing::debug!(delivered = now.1, rate, "traffic");
        }
    }

    /// Says something to stderr, terminal or not.
    pub(super) fn note(&self, what: &str) {
        self.bar.suspend(|| eprint(what));
    }

    /// Takes the display away.
    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// One line about the whole mesh.
fn line(cluster: &Cluster, rate: f64) -> String {
    let alive = cluster.alive();
    let (mut peers, mut missed, mut rtt, mut timed) = (0, 0, 0.0, 0u32);
    for member in &alive {
        let stats = member.node.stats();
        peers += stats.pool.total_connections;
        missed += stats.missed_broadcasts;
        if stats.pool.avg_rtt_ms > 0.0 {
            rtt += stats.pool.avg_rtt_ms;
            timed += 1;
        }
    }
    let rtt = if timed > 0 { rtt / f64::from(timed) } else { 0.0 };
    let nodes = alive.len();
    format!("{rate:>7.0} deliveries/s  {nodes} nodes  {peers} peers  lag {missed}  RTT {rtt:.2} ms")
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

const STEP: Duration = Duration::from_millis(250);
