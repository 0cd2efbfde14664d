//! The progress display on stderr. It draws only on a terminal; notes are printed everywhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::{Instant, sleep};

use super::super::output::eprint;
use super::cluster::Cluster;
use super::read;

/// How often the display is updated during the traffic.
const UPDATE_INTERVAL: Duration = Duration::from_millis(250);

/// A progress bar with the current stage of the run.
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

    /// Shows the name of the current stage.
    pub(super) fn stage(&self, name: &str) {
        self.bar.set_style(style("{spinner} {msg}"));
        self.bar.set_message(name.to_owned());
    }

    /// Shows and logs the traffic. Runs until dropped.
    pub(super) async fn follow(&self, cluster: &Cluster, duration: Duration) {
        self.bar.set_style(style("{spinner} [{bar:30}] {msg}").progress_chars("=> "));
        self.bar.set_length(duration.as_millis() as u64);
        let started = Instant::now();
        let (mut last_time, mut last_count) = (started, read(&cluster.ledger.delivered));
        loop {
            sleep(UPDATE_INTERVAL).await;
            let (now, delivered) = (Instant::now(), read(&cluster.ledger.delivered));
            let rate = (delivered - last_count) as f64 / (now - last_time).as_secs_f64();
            (last_time, last_count) = (now, delivered);
            self.bar.set_position(started.elapsed().min(duration).as_millis() as u64);
            self.bar.set_message(status_line(cluster, rate));
            tracing::debug!(delivered, rate, "traffic");
        }
    }

    /// Prints a line to stderr, on a terminal above the bar.
    pub(super) fn note(&self, text: &str) {
        self.bar.suspend(|| eprint(text));
    }

    /// Removes the bar.
    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// Describes the state of all nodes in one line.
fn status_line(cluster: &Cluster, rate: f64) -> String {
    let alive = cluster.alive();
    let (mut peers, mut missed, mut rtt_sum, mut rtt_count) = (0, 0, 0.0, 0u32);
    for member in &alive {
        let stats = member.node.stats();
        peers += stats.pool.total_connections;
        missed += stats.missed_broadcasts;
        if stats.pool.avg_rtt_ms > 0.0 {
            rtt_sum += stats.pool.avg_rtt_ms;
            rtt_count += 1;
        }
    }
    let rtt = rtt_sum / f64::from(rtt_count.max(1));
    let nodes = alive.len();
    format!("{rate:>7.0} deliveries/s  {nodes} nodes  {peers} peers  missed {missed}  RTT {rtt:.2} ms")
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
