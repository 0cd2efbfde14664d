//! The event stream of a node: a snapshot of its peers, then events, in order for each key.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::broadcast;

use crate::base::{ConnId, Lane, PeerId, Tick};
use crate::pool::DisconnectReason;
use crate::sync::Mutex;

use crate::node::error::ConnectError;
use crate::node::session::peer::Peer;

/// An event of a node.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum NodeEvent {
    /// A peer is live.
    Up {
        /// The peer.
        peer: Arc<Peer>,
        /// When, on the node's clock.
        at: Tick,
    },
    /// A peer is gone.
    Down {
        /// Its key.
        key: PeerId,
        /// Its connection.
        conn: ConnId,
        /// Why.
        reason: DisconnectReason,
        /// When, on the node's clock.
        at: Tick,
    },
    /// A peer was too slow for the broadcasts of a lane.
    PeerLagged {
        /// Its key.
        key: PeerId,
        /// Its connection.
        conn: ConnId,
        /// The lane.
        lane: Lane,
        /// How many messages were skipped for it.
        missed: u64,
        /// When, on the node's clock.
        at: Tick,
    },
    /// This node was too slow for a peer's broadcasts of a lane, as the peer says.
    BroadcastsMissed {
        /// Its key.
        key: PeerId,
        /// Its connection.
        conn: ConnId,
        /// The lane.
        lane: Lane,
        /// How many messages the peer skipped for us.
        missed: u64,
        /// When, on the node's clock.
        at: Tick,
    },
    /// A dial of the node's own accord failed.
    DialFailed {
        /// The address.
        addr: SocketAddr,
        /// Why.
        cause: Arc<ConnectError>,
    },
    /// An accepted connection did not become a peer.
    Refused {
        /// Where it came from.
        addr: SocketAddr,
        /// Why.
        cause: Arc<ConnectError>,
    },
}

/// An item of a [`Subscription`].
#[derive(Clone, Debug)]
pub enum SubscriptionItem {
    /// The live peers; the events continue from here. The first item, and the one after
    /// [`SubscriptionItem::Lagged`].
    Snapshot(Vec<Arc<Peer>>),
    /// An event.
    Event(NodeEvent),
    /// The subscriber was too slow and missed this many events; a new snapshot follows.
    Lagged(u64),
}

/// Sends events to subscribers.
///
/// Invariant: `disconnect_runs_exactly_once`, as subscribers see it.
/// - Statement: the events of a key alternate between Up and Down; the Down of a connection
///   precedes the Up of its successor.
/// - Enforced by: both are sent under one lock, which guards the set of peers whose Up was sent
///   last. An Up that finds another connection in the set sends that one's Down first.
/// - Breaks if: an Up or a Down is sent past this type.
#[derive(Debug)]
pub(crate) struct EventHub {
    announced: Mutex<HashSet<AnnouncedPeer, foldhash::fast::RandomState>>,
    sender: broadcast::Sender<NodeEvent>,
}

/// A peer in a set with one entry for each key. One pointer, so that a growing set moves little.
#[derive(Debug)]
struct AnnouncedPeer(Arc<Peer>);

impl Borrow<PeerId> for AnnouncedPeer {
    fn borrow(&self) -> &PeerId {
        self.0.key()
    }
}

impl Hash for AnnouncedPeer {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key().hash(state);
    }
}

impl PartialEq for AnnouncedPeer {
    fn eq(&self, other: &Self) -> bool {
        self.0.key() == other.0.key()
    }
}

impl Eq for AnnouncedPeer {}

impl EventHub {
    pub(crate) fn new(backlog: usize) -> Self {
        Self { announced: Mutex::default(), sender: broadcast::Sender::new(backlog) }
    }

    pub(crate) fn up(&self, peer: &Arc<Peer>, at: Tick) {
        let displaced = {
            let mut announced = self.announced.lock();
            if !peer.is_live() {
                // It departed before its Up. A successor may be up already, so neither its Up nor
                // its Down is sent.
                return;
            }
            let displaced = announced.replace(AnnouncedPeer(Arc::clone(peer)));
            if let Some(AnnouncedPeer(old)) = &displaced {
                let reason = old.disconnect_reason().unwrap_or(DisconnectReason::Replaced);
                self.send(NodeEvent::Down { key: *old.key(), conn: old.id(), reason, at });
            }
            self.send(NodeEvent::Up { peer: Arc::clone(peer), at });
            displaced
        };
        drop(displaced);
    }

    pub(crate) fn down(&self, peer: &Peer, reason: DisconnectReason, at: Tick) {
        let gone = {
            let mut announced = self.announced.lock();
            if announced.get(peer.key()).is_none_or(|AnnouncedPeer(known)| known.id() != peer.id()) {
                // Its Down was sent when its successor came up.
                return;
            }
            self.send(NodeEvent::Down { key: *peer.key(), conn: peer.id(), reason, at });
            announced.take(peer.key())
        };
        drop(gone);
    }

    /// Sends an event that has no order to keep.
    pub(crate) fn send(&self, event: NodeEvent) {
        // It is usual that nobody has subscribed.
        let _ = self.sender.send(event);
    }

    pub(crate) fn has_subscribers(&self) -> bool {
        self.sender.receiver_count() > 0
    }

    pub(crate) fn subscribe(self: &Arc<Self>) -> Subscription {
        let (snapshot, receiver) = self.snapshot();
        Subscription { hub: Arc::clone(self), receiver, snapshot: Some(snapshot) }
    }

    fn snapshot(&self) -> (Vec<Arc<Peer>>, broadcast::Receiver<NodeEvent>) {
        let announced = self.announced.lock();
        // Both under the lock, so that no event is lost between them.
        (announced.iter().map(|AnnouncedPeer(peer)| Arc::clone(peer)).collect(), self.sender.subscribe())
    }
}

/// A stream of a node's events. It does not keep the node alive. After the node has ended, nothing
/// more arrives.
#[derive(Debug)]
pub struct Subscription {
    hub: Arc<EventHub>,
    receiver: broadcast::Receiver<NodeEvent>,
    snapshot: Option<Vec<Arc<Peer>>>,
}

impl Subscription {
    /// The next item. Waits for ever once the node has ended: select on
    /// [`NodeRef::stopped`](crate::node::NodeRef::stopped) too.
    ///
    /// # Cancel safety
    /// Safe: no item is lost.
    pub async fn next(&mut self) -> SubscriptionItem {
        if let Some(peers) = self.snapshot.take() {
            return SubscriptionItem::Snapshot(peers);
        }
        loop {
            match self.receiver.recv().await {
                Ok(event) => return SubscriptionItem::Event(event),
                Err(broadcast::error::RecvError::Lagged(missed)) => return self.restart(missed),
                // Cannot happen: `self` holds the hub, which holds the sender.
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }

    /// The next item, if there is one.
    pub fn try_next(&mut self) -> Option<SubscriptionItem> {
        if let Some(peers) = self.snapshot.take() {
            return Some(SubscriptionItem::Snapshot(peers));
        }
        match self.receiver.try_recv() {
            Ok(event) => Some(SubscriptionItem::Event(event)),
            Err(broadcast::error::TryRecvError::Lagged(missed)) => Some(self.restart(missed)),
            Err(_) => None,
        }
    }

    fn restart(&mut self, missed: u64) -> SubscriptionItem {
        // The unread events are skipped too: the snapshot includes what they led to.
        let missed = missed.saturating_add(self.receiver.len() as u64);
        let (snapshot, receiver) = self.hub.snapshot();
        self.receiver = receiver;
        self.snapshot = Some(snapshot);
        SubscriptionItem::Lagged(missed)
    }
}
