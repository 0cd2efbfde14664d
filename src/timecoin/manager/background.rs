//! What goes on without being asked: the node's one maintenance loop does nearly all of it and is only configured here.

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

/// Peers asked for peers at once.
const MAX_DISCOVERY_PEERS: usize = 64;
/// Seconds after which a peer that was not heard of is forgotten.
const FORGET_AFTER_SECS: i64 = 604_800;

impl PeerManager {
    /// Lets silent peers go after 300 s, and pings those that have been silent for a minute every 30 s. It is what a manager does from its start; this
    /// sets it back to that after [`PeerManager::spawn_reaper_with`]. Starts no task: the node's own loop does it, until shutdown.
    pub fn spawn_reaper(&self) {
        self.spawn_reaper_with(ReaperConfig::default());
    }

    /// As [`PeerManager::spawn_reaper`], with times of one's own, which act on live connections too.
    pub fn spawn_reaper_with(&self, reaper: ReaperConfig) {
        self.state().policy.ping_before_stale(reaper.stale_after);
        reconfigure(self.node(), |runtime| reaper.apply(runtime));
    }

    /// Looks for peers: with fewer than 8 known addresses are dialled and peers asked for more, with fewer than 5 the seeds are asked
    /// too, every 30 s. It is what a manager does from its start; this sets it back to that. One task at the most runs for it,
    /// however often this is called, until shutdown; dialling is done by the node's own loop.
    pub fn spawn_reconnection_task(&self) {
        self.spawn_reconnection_task_with(ReconnectConfig::default());
    }

    /// As [`PeerManager::spawn_reconnection_task`], with numbers and times of one's own.
    pub fn spawn_reconnection_task_with(&self, reconnect: ReconnectConfig) {
        reconfigure(self.node(), |runtime| runtime.target_peers = reconnect.target_peers);
        self.state().reconnect.send_if_modified(|before| {
            let changed = *before != reconnect;
            *before = reconnect;
            changed
        });
    }

    /// Pings peers that have been silent for a minute this often, and takes their answers as signs of life. Those that speak by
    /// themselves need none. What a ping takes is [`PeerManager::send_ping`]'s to tell.
    pub fn keep_alive(&self, every: Duration) {
        reconfigure(self.node(), |runtime| runtime.ping_interval = every);
    }

    /// Asks every peer that answers questions for the peers it knows, beside each other, 15 s at the longest; how many of what they
    /// told was new. Old nodes that dialled us read no questions and are left out.
    pub async fn discover_peers_from_masternodes(&self) -> usize {
        discover(&self.downgrade()).await
    }

    /// The task that looks for peers, and the one that notes which dials failed.
    pub(super) fn start_background(&self) {
        let manager = self.downgrade();
        let changes = self.state().reconnect.subscribe();
        self.state().tasks.spawn(run_discovery(manager, changes));
        self.state().tasks.spawn(record_failed_dials(self.downgrade(), self.node().subscribe()));
    }
}

/// Notes which of the node's own dials failed, as long as the manager lives.
async fn record_failed_dials(manager: WeakManager, mut events: Subscription) {
    loop {
        if let SubscriptionItem::Event(NodeEvent::DialFailed { addr, cause }) = events.next().await {
            let Some(manager) = manager.upgrade() else { return };
            record_dial_failure(manager.state(), addr, &cause);
        }
    }
}

/// Looks for peers as long as the manager lives. Holds it weakly, and only while it looks.
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
        tracing::debug!(live, found, "asked the seeds");
    }
    if live < reconnect.target_peers {
        let new = discover(manager).await;
        tracing::debug!(live, new, "asked the peers");
    }
    drop(state);
}

/// Asks the peers for peers.
async fn discover(manager: &WeakManager) -> usize {
    let mut asked = tokio::task::JoinSet::new();
    {
        let Some(manager) = manager.upgrade() else { return 0 };
        for peer in manager.peers_taking_requests().into_iter().take(MAX_DISCOVERY_PEERS) {
            asked.spawn(request_peers_from(manager.state_arc(), manager.node().downgrade(), peer));
        }
    }
    let mut new = 0;
    while let Some(told) = asked.join_next().await {
        new += told.unwrap_or(0);
    }
    new
}
