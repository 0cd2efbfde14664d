//! Background work: keep-alive, reaping and discovery.
//!
//! The node's maintenance loop does most of it and is only configured here. One task of the manager
//! runs discovery, another records failed dials.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval_at};

use crate::base::MAX_WAIT;
use crate::node::{NodeEvent, Subscription, SubscriptionItem};

use super::config::{ReaperConfig, ReconnectConfig};
use super::connect::record_dial_failure;
use super::request::request_peers_from;
use super::seeds::load_seeds;
use super::state::reconfigure;
use super::{PeerManager, WeakManager};

/// Maximum number of peers asked for peers at once.
const MAX_DISCOVERY_PEERS: usize = 64;
/// Age in seconds at which the record of a silent peer is removed: a week.
const FORGET_AFTER_SECS: i64 = 604_800;

impl PeerManager {
    /// Reaps peers after 300 s of silence, and pings those silent for a minute every 30 s. This is
    /// the default; the call restores it after [`PeerManager::spawn_reaper_with`]. Starts no task:
    /// the node's loop does the work, until shutdown.
    pub fn spawn_reaper(&self) {
        self.spawn_reaper_with(ReaperConfig::default());
    }

    /// [`PeerManager::spawn_reaper`] with other times, which apply to live connections too.
    pub fn spawn_reaper_with(&self, reaper: ReaperConfig) {
        self.state().policy.ping_before_stale(reaper.stale_after);
        reconfigure(self.node(), |runtime| reaper.apply(runtime));
    }

    /// Looks for peers every 30 s. With fewer than 8 live peers, known addresses are dialled and
    /// peers are asked for more; with fewer than 5 the seeds are asked too. This is the default;
    /// the call restores it. At most one task runs, however often this is called; the node's loop
    /// dials.
    pub fn spawn_reconnection_task(&self) {
        self.spawn_reconnection_task_with(ReconnectConfig::default());
    }

    /// [`PeerManager::spawn_reconnection_task`] with other numbers and times.
    pub fn spawn_reconnection_task_with(&self, reconnect: ReconnectConfig) {
        reconfigure(self.node(), |runtime| runtime.target_outbound = reconnect.target_peers);
        self.state().reconnect.send_if_modified(|before| {
            let changed = *before != reconnect;
            *before = reconnect;
            changed
        });
    }

    /// Sets how often silent peers are pinged. A peer counts as silent after a minute without a
    /// frame. [`PeerManager::send_ping`] returns round-trip times.
    pub fn keep_alive(&self, every: Duration) {
        reconfigure(self.node(), |runtime| runtime.ping_interval = every);
    }

    /// Asks all peers that take requests for the peers they know, concurrently and for at most 15
    /// s. Returns how many of the addresses were new. Legacy nodes that dialled us take no requests
    /// and are not asked.
    pub async fn discover_peers_from_masternodes(&self) -> usize {
        discover(&self.downgrade()).await
    }

    /// Starts the discovery task and the one that records failed dials.
    pub(super) fn start_background(&self) {
        let manager = self.downgrade();
        let changes = self.state().reconnect.subscribe();
        self.state().tasks.spawn(run_discovery(manager, changes));
        self.state().tasks.spawn(record_failed_dials(self.downgrade(), self.node().subscribe()));
    }
}

/// Records which of the node's own dials failed, until the manager ends.
async fn record_failed_dials(manager: WeakManager, mut events: Subscription) {
    loop {
        if let SubscriptionItem::Event(NodeEvent::DialFailed { addr, cause }) = events.next().await {
            let Some(manager) = manager.upgrade() else { return };
            record_dial_failure(manager.state(), addr, &cause);
        }
    }
}

/// Runs discovery until the manager ends. Holds the manager weakly except during a step.
async fn run_discovery(manager: WeakManager, mut changes: watch::Receiver<ReconnectConfig>) {
    loop {
        let reconnect = changes.borrow_and_update().clone();
        let every = reconnect.interval.clamp(Duration::from_millis(1), MAX_WAIT);
        let first = tokio::time::Instant::now() + reconnect.initial_delay.min(MAX_WAIT);
        let mut ticks = interval_at(first, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                changed = changes.changed() => match changed {
                    Ok(()) => break,
                    // The manager is gone.
                    Err(_) => return,
                },
                _ = ticks.tick() => {}
            }
            discover_once(&manager, &reconnect).await;
        }
    }
}

async fn discover_once(manager: &WeakManager, reconnect: &ReconnectConfig) {
    let Some((live, state)) =
        manager.upgrade().map(|manager| (manager.node().peer_count(), manager.state_arc()))
    else {
        return;
    };
    state.exchange.lock().cleanup_stale_peers(FORGET_AFTER_SECS, crate::address_book::WallTime::now());
    state.quarantine.cleanup_expired().await;
    if live < reconnect.seed_below {
        let found = load_seeds(&state).await;
        tracing::debug!(live, found, "seeds loaded");
    }
    if live < reconnect.target_peers {
        let new = discover(manager).await;
        tracing::debug!(live, new, "peers asked for addresses");
    }
    drop(state);
}

/// Asks the peers for the peers they know.
async fn discover(manager: &WeakManager) -> usize {
    let mut requests = tokio::task::JoinSet::new();
    {
        let Some(manager) = manager.upgrade() else { return 0 };
        for peer in manager.peers_taking_requests().into_iter().take(MAX_DISCOVERY_PEERS) {
            requests.spawn(request_peers_from(manager.state_arc(), manager.node().downgrade(), peer));
        }
    }
    let mut new = 0;
    while let Some(found) = requests.join_next().await {
        new += found.unwrap_or(0);
    }
    new
}
