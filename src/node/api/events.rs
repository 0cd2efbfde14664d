//! What happens to a node's peers, for whoever subscribes: a snapshot, then events in order per key.

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
use crate::node::session::info::Peer;

/// Something happened.
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
    /// A peer was too slow for a lane's broadcasts.
    PeerLagged {
        /// Its key.
        key: PeerId,
        /// Its connection.
        conn: ConnId,
        /// The lane.
        lane: Lane,
        /// How many messages it missed.
        missed: u64,
        /// When, on the node's clock.
        at: Tick,
    },
    /// A dial of the node's own accord did not lead to a live peer.
    DialFailed {
        /// The address.
        addr: SocketAddr,
        /// Why not.
        cause: Arc<ConnectError>,
    },
    /// An accepted connection did not become a live peer.
    Refused {
        /// Where it came from.
        addr: SocketAddr,
        /// Why.
        cause: Arc<ConnectError>,
    },
}

/// What a [`Subscription`] hands out.
#[derive(Clone, Debug)]
pub enum SubscriptionItem {
    /// Who is there now; events continue from here. The first update, and again after [`SubscriptionItem::Lagged`].
    Snapshot(Vec<Arc<Peer>>),
    /// Something happened.
    Event(NodeEvent),
    /// The subscriber was too slow and missed so many events; a new snapshot follows.
    Lagged(u64),
}

/// Invariant 6, ordered per key. Statement: for each key the events are Up, Down, Up, Down, with the Down of a connection
/// before the Up of its successor. Enforced by: both are told under one lock, which knows the connection that was last told
/// up for a key; an Up that finds another one there tells its Down first. Breaks if: an event is sent past the hub.
#[derive(Debug)]
pub(crate) struct EventHub {
    told: Mutex<HashSet<Told, foldhash::fast::RandomState>>,
    sender: broadcast::Sender<NodeEvent>,
}

/// A peer in a set of one a key. One pointer: a set that grows visits them, which joining does not notice.
#[derive(Debug)]
struct Told(Arc<Peer>);

impl Borrow<PeerId> for Told {
    fn borrow(&self) -> &PeerId {
        self.0.key()
    }
}

impl Hash for Told {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key().hash(state);
    }
}

impl PartialEq for Told {
    fn eq(&self, other: &Self) -> bool {
        self.0.key() == other.0.key()
    }
}

impl Eq for Told {}

impl EventHub {
    pub(crate) fn new(backlog: usize) -> Self {
        Self { told: Mutex::default(), sender: broadcast::Sender::new(backlog) }
    }

    pub(crate) fn up(&self, peer: &Arc<Peer>, at: Tick) {
        let displaced = {
            let mut told = self.told.lock();
            if !peer.is_live() {
                // Departed before it was told: a successor may be up already, so neither its Up nor its Down is told.
                return;
            }
            let displaced = told.replace(Told(Arc::clone(peer)));
            if let Some(Told(old)) = &displaced {
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
            let mut told = self.told.lock();
            if told.get(peer.key()).is_none_or(|Told(known)| known.id() != peer.id()) {
                // Its Down was told when its successor came up.
                return;
            }
            self.send(NodeEvent::Down { key: *peer.key(), conn: peer.id(), reason, at });
            told.take(peer.key())
        };
        drop(gone);
    }

    /// Tells something that has no order to keep.
    pub(crate) fn send(&self, event: NodeEvent) {
        // Nobody listening is the usual case.
        let _ = self.sender.send(event);
    }

    pub(crate) fn is_heard(&self) -> bool {
        self.sender.receiver_count() > 0
    }

    pub(crate) fn subscribe(self: &Arc<Self>) -> Subscription {
        let (snapshot, receiver) = self.snapshot();
        Subscription { hub: Arc::clone(self), receiver, snapshot: Some(snapshot) }
    }

    fn snapshot(&self) -> (Vec<Arc<Peer>>, broadcast::Receiver<NodeEvent>) {
        let told = self.told.lock();
        // Under the lock, so that no event falls between the two.
        (told.iter().map(|Told(peer)| Arc::clone(peer)).collect(), self.sender.subscribe())
    }
}

/// A view of a node's peers as they come and go. Does not keep the node alive; once the node has ended nothing more comes.
#[derive(Debug)]
pub struct Subscription {
    hub: Arc<EventHub>,
    receiver: broadcast::Receiver<NodeEvent>,
    snapshot: Option<Vec<Arc<Peer>>>,
}

impl Subscription {
    /// The next update. Waits for one, for ever once the node has ended: wait beside [`NodeRef::stopped`](crate::node::NodeRef::stopped).
    ///
    /// # Cancel safety
    /// Safe: no update is lost.
    pub async fn next(&mut self) -> SubscriptionItem {
        if let Some(peers) = self.snapshot.take() {
            return SubscriptionItem::Snapshot(peers);
        }
        loop {
            match self.receiver.recv().await {
                Ok(event) => return SubscriptionItem::Event(event),
                Err(broadcast::error::RecvError::Lagged(missed)) => return self.start_again(missed),
                // Cannot happen while the hub lives, and it does.
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }

    /// The next update if there is one.
    pub fn try_next(&mut self) -> Option<SubscriptionItem> {
        if let Some(peers) = self.snapshot.take() {
            return Some(SubscriptionItem::Snapshot(peers));
        }
        match self.receiver.try_recv() {
            Ok(event) => Some(SubscriptionItem::Event(event)),
            Err(broadcast::error::TryRecvError::Lagged(missed)) => Some(self.start_again(missed)),
            Err(_) => None,
        }
    }

    fn start_again(&mut self, missed: u64) -> SubscriptionItem {
        // What could still be read goes too: the snapshot has what it led to.
        let missed = missed.saturating_add(self.receiver.len() as u64);
        let (snapshot, receiver) = self.hub.snapshot();
        self.receiver = receiver;
        self.snapshot = Some(snapshot);
        SubscriptionItem::Lagged(missed)
    }
}
