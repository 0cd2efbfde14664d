//! A view of a pooled connection with the method names of the legacy crate.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::base::Tick;
use crate::node::{NodeRef, Peer, WeakNode};
use crate::pool::{Misbehavior, PenaltyOutcome, SeenOutcome};

use super::peer_lookup::{peer_info, peer_ip_addr};
use super::{NetworkType, PeerInfo};

/// A view of one pooled connection: socket, info, liveness and health in one entry.
///
/// Every call reads the pool's own entry with atomics; nothing is copied. Holding a view does not
/// keep the peer connected.
#[derive(Clone, Debug)]
pub struct UnifiedPeerConnection {
    peer: Arc<Peer>,
    node: WeakNode,
    network: NetworkType,
}

impl UnifiedPeerConnection {
    /// A view of this peer of this node.
    pub fn from_arc(peer: Arc<Peer>, node: &NodeRef, network: NetworkType) -> Self {
        Self { peer, node: node.downgrade(), network }
    }

    /// The pool entry.
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// What is known of the peer now.
    pub fn info(&self) -> PeerInfo {
        peer_info(&self.peer, self.network, self.now().unwrap_or(self.peer.last_seen()))
    }

    /// Its IP address, which identifies a peer in this network.
    pub fn ip(&self) -> IpAddr {
        peer_ip_addr(&self.peer)
    }

    /// Marks the peer as seen. The connection does so for every frame; this is for contact by other
    /// means. Returns `false` if the peer has left.
    ///
    /// # Cost
    /// One load, and one compare-exchange if the clock's tick has moved.
    pub fn mark_seen(&self) -> bool {
        self.now().is_some_and(|now| self.peer.seen(now) == SeenOutcome::Alive)
    }

    /// Whether the peer has been silent for more than `stale_after`. All peers of an ended node are
    /// stale.
    pub fn is_stale(&self, stale_after: Duration) -> bool {
        self.now().is_none_or(|now| self.peer.is_stale(stale_after, now))
    }

    /// Takes health for a fault that only the application can detect. Returns `None` if the node
    /// has ended.
    ///
    /// `amount` chooses a grade: up to 10 mild (`Misbehavior::App(0)`), up to 20 annoying, up to 30
    /// bad, more hostile (`Misbehavior::App(3)`). The penalties are
    /// [`HealthPolicy::penalties`](crate::pool::HealthPolicy::penalties). Each grade counts once in
    /// a window, and not at all while most peers fail at once.
    pub fn penalize_health(&self, amount: u8) -> Option<PenaltyOutcome> {
        let cause = match amount {
            0..=10 => Misbehavior::App(0),
            11..=20 => Misbehavior::App(1),
            21..=30 => Misbehavior::App(2),
            _ => Misbehavior::App(3),
        };
        self.now().map(|now| self.peer.penalize(cause, now))
    }

    /// Gives health for something useful and returns the new health. The reward of the policy (5
    /// points) is given as often as it takes to reach `amount`, rounded up.
    pub fn reward_health(&self, amount: u8) -> u8 {
        let Some((now, node)) = self.now().zip(self.node.upgrade()) else { return 0 };
        let step = node.runtime_config().health.reward.max(1);
        for _ in 0..amount.min(100).div_ceil(step) {
            self.peer.reward(now);
        }
        self.peer.health(now)
    }

    /// Health now, 0 to 100.
    pub fn health_score(&self) -> u8 {
        self.now().map_or(0, |now| self.peer.health(now))
    }

    /// Whether the peer is connected and its health is above the policy's limit (30 by default).
    pub fn is_healthy(&self) -> bool {
        self.peer.is_live() && self.now().is_some_and(|now| self.peer.is_healthy(now))
    }

    /// How long the peer has been connected.
    pub fn uptime(&self) -> Duration {
        self.now().map_or(Duration::ZERO, |now| self.peer.uptime(now))
    }

    /// Whether the peer is connected.
    pub fn is_connected(&self) -> bool {
        self.peer.is_live()
    }

    fn now(&self) -> Option<Tick> {
        self.node.upgrade().map(|node| node.now())
    }
}
