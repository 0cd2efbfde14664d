//! A pooled connection as the old entry type shows it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::base::Tick;
use crate::node::{NodeRef, Peer, WeakNode};
use crate::pool::{Misbehavior, PenaltyOutcome, SeenOutcome};

use super::peer_lookup::{peer_info, peer_ip_addr};
use super::{NetworkType, PeerInfo};

/// A view of one pooled connection: socket, info, liveness and health in one entry. Every call looks at the pool's own entry, with
/// atomics only; nothing here is a copy. Holding it does not keep the peer connected.
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

    /// The pool's entry.
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// What is known of the peer now.
    pub fn info(&self) -> PeerInfo {
        peer_info(&self.peer, self.network, self.now().unwrap_or(self.peer.last_seen()))
    }

    /// Its IP address: what the old network knows a peer by.
    pub fn ip(&self) -> IpAddr {
        peer_ip_addr(&self.peer)
    }

    /// Something came from the peer. Its link says so of every frame; this is for what arrives by another way. `false` if it has
    /// left.
    ///
    /// # Cost
    /// A load and, only when the clock's tick moved forward, one compare-exchange.
    pub fn mark_seen(&self) -> bool {
        self.now().is_some_and(|now| self.peer.seen(now) == SeenOutcome::Alive)
    }

    /// Whether nothing came for longer than this. Of a node that has ended all peers are stale.
    pub fn is_stale(&self, stale_after: Duration) -> bool {
        self.now().is_none_or(|now| self.peer.is_stale(stale_after, now))
    }

    /// Takes health for something that only the application knows is wrong, graded by how much it would have cost: up to 10 points
    /// a mild fault, up to 20 an annoying one, up to 30 a bad one, more a hostile one. The prices are
    /// [`HealthPolicy::penalties`](crate::pool::HealthPolicy::penalties) of [`Misbehavior::App`], levels 0 to 3; each counts
    /// once a window, and not at all where most peers fail at once. `None` if the node has ended.
    pub fn penalize_health(&self, amount: u8) -> Option<PenaltyOutcome> {
        let cause = match amount {
            0..=10 => Misbehavior::App(0),
            11..=20 => Misbehavior::App(1),
            21..=30 => Misbehavior::App(2),
            _ => Misbehavior::App(3),
        };
        self.now().map(|now| self.peer.penalize(cause, now))
    }

    /// Gives health for something useful: the policy's reward (5 points), as often as it takes to reach `amount`; what is not a
    /// multiple is rounded up. Returns the health then.
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

    /// Whether its health is above 30, unless configured otherwise, and it is still connected.
    pub fn is_healthy(&self) -> bool {
        self.peer.is_live() && self.now().is_some_and(|now| self.peer.is_healthy(now))
    }

    /// How long it has been connected.
    pub fn uptime(&self) -> Duration {
        self.now().map_or(Duration::ZERO, |now| self.peer.uptime(now))
    }

    /// Whether it is still connected.
    pub fn is_connected(&self) -> bool {
        self.peer.is_live()
    }

    fn now(&self) -> Option<Tick> {
        self.node.upgrade().map(|node| node.now())
    }
}
