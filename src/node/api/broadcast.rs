//! Sending, broadcasting, relaying, and state.

use std::future::poll_fn;

use bytes::Bytes;
use tokio::time::timeout;

use crate::base::{ConnId, Lane, PeerId, Source};
use crate::broadcast::Appended;
use crate::connection::{Message, SendError};
use crate::node::error::{BroadcastError, PeerSendError};
use crate::node::protocol::broadcaster::StateError;
use crate::node::runtime::seen_set::{Digest, RelayOrigin, RelayOutcome};
use crate::node::runtime::shared::count;
use crate::node::session::peer::Peer;
use crate::pool::SlotClass;

use super::handle::NodeRef;
use super::receipt::{BroadcastReceipt, Recipient};

/// Sending.
impl NodeRef {
    /// Queues a message for one peer. Never waits. Accepted does not mean delivered.
    ///
    /// # Errors
    /// See [`PeerSendError`]; the message comes back.
    ///
    /// # Cost
    /// One shard's read lock and one short lock of the connection.
    pub fn send(&self, key: &PeerId, message: Message) -> Result<(), PeerSendError> {
        match self.peer(key) {
            Some(peer) => Ok(peer.connection().handle().send(message)?),
            None => Err(PeerSendError::NotConnected(*key, message)),
        }
    }

    /// Queues a message for each of these peers. Returns the peers it was not queued for, and why.
    pub fn send_many<'k>(
        &self,
        keys: impl IntoIterator<Item = &'k PeerId>,
        message: &Message,
    ) -> Vec<(PeerId, PeerSendError)> {
        keys.into_iter()
            .filter_map(|key| self.send(key, message.clone()).err().map(|error| (*key, error)))
            .collect()
    }

    /// Appends a message to its lane's log, which all connections read from.
    ///
    /// Never waits, never fails because of a peer and never reads the pool: it costs the same for 8
    /// peers and for 1,000. A node without peers accepts messages and sends them nowhere.
    ///
    /// # Errors
    /// See [`BroadcastError`]: the message is too large for its lane or for half of the
    /// [ring](crate::node::NodeConfig::log_ring_bytes), or is on the control lane; or the node shuts
    /// down.
    ///
    /// # Cost
    /// One encoding, one copy of the payload (none from 16 KiB up) and one short lock. Producers of
    /// one lane take turns on that lock for one copy.
    pub fn broadcast(&self, message: &Message) -> Result<Appended, BroadcastError> {
        self.append(message, None)
    }

    #[inline]
    fn append(&self, message: &Message, origin: Option<ConnId>) -> Result<Appended, BroadcastError> {
        let shared = self.shared();
        shared.check_open()?;
        count(&shared.counters.broadcasts);
        Ok(Appended { seq: shared.protocols.append(message, origin)?, origin })
    }

    /// As [`NodeRef::broadcast`], to all connections but `origin`, from which the message came.
    ///
    /// # Errors
    /// As [`NodeRef::broadcast`].
    pub fn broadcast_except(&self, message: &Message, origin: ConnId) -> Result<Appended, BroadcastError> {
        self.append(message, Some(origin))
    }

    /// As [`NodeRef::broadcast`]. The receipt says later what became of the message for each peer
    /// of this moment.
    ///
    /// # Errors
    /// As [`NodeRef::broadcast`].
    ///
    /// # Cost
    /// A walk over the roster.
    pub fn broadcast_with_receipt(&self, message: &Message) -> Result<BroadcastReceipt, BroadcastError> {
        let shared = self.shared();
        shared.check_open()?;
        let recipients = Recipient::all(self, message.lane);
        count(&shared.counters.broadcasts);
        let positions = shared.protocols.append_with_positions(message)?;
        Ok(BroadcastReceipt::new(positions, recipients))
    }

    /// Resolves when this lane's log has room: when the slowest peer that counts has made some, or
    /// at once.
    ///
    /// A producer that awaits it before each broadcast makes no peer lag that keeps pace. Room is
    /// determined at the call, so call and await it directly before each broadcast. These peers do
    /// not count:
    ///
    /// - a peer that makes no progress for a second, until it does;
    /// - a peer that misses messages, or that for two seconds keeps more than half of the other
    ///   peers idle, until it has kept up for ten seconds;
    /// - in a lane whose [lag policy](crate::broadcast::LagPolicy) skips messages: a peer that
    ///   reads at less than half the rate of the others, once two thirds of all peers, and at least
    ///   eight, have been idle because of it for 100 ms. It counts again when it has kept up for a
    ///   second, and for twice as long each further time, up to ten seconds.
    ///
    /// # Cancel safety
    /// Safe: dropping it leaves nothing behind.
    ///
    /// # Cost
    /// Three loads at the call while there is room. A wait costs a walk over the connections, once
    /// for at least an eighth of the ring.
    #[inline]
    pub fn ready(&self, lane: Lane) -> impl Future<Output = ()> + Send + '_ {
        // Before the future is made: a future that need not wait then holds nothing.
        let has_room = self.shared().protocols.has_room(lane);
        async move {
            if !has_room {
                self.wait_for_room(lane).await;
            }
        }
    }

    async fn wait_for_room(&self, lane: Lane) {
        for protocol in self.shared().protocols.iter() {
            let Some(log) = protocol.log(lane) else { return };
            let mut wait = log.room_wait();
            let mut has_room = poll_fn(|cx| wait.poll(cx, self.shared().now()));
            // The maintenance ticks too seldom to detect a slow peer soon, so this waiter checks
            // too.
            while timeout(log.check_interval(), &mut has_room).await.is_err() {}
        }
    }

    /// Sets a value of state under `(kind, id)`. Returns its version.
    ///
    /// Every peer gets the newest version of each value, not those between. A new peer gets all
    /// values when it connects. A value arrives as an event of this kind.
    ///
    /// # Errors
    /// See [`StateError`]; the value comes back.
    pub fn set_state(&self, kind: u16, id: &[u8], value: impl Into<Bytes>) -> Result<u64, StateError> {
        let (shared, value) = (self.shared(), value.into());
        if shared.check_open().is_err() {
            return Err(StateError::Shutdown(value));
        }
        shared.protocols.set_state(kind, id, value)
    }

    /// Removes a value of state: new peers no longer get it. Returns `false` if there was none.
    pub fn clear_state(&self, kind: u16, id: &[u8]) -> bool {
        self.shared().protocols.clear_state(kind, id)
    }

    /// Broadcasts a message to all peers but its origin, if this node has not seen it before.
    /// `from` is `None` for a message of one's own. What others bring takes a part of the relay's
    /// memory that belongs to their source ([`RelayConfig`](crate::node::RelayConfig)).
    ///
    /// # Errors
    /// As [`NodeRef::broadcast`]. On error the message is not marked as seen.
    pub fn relay(&self, message: &Message, from: Option<&Peer>) -> Result<RelayOutcome, BroadcastError> {
        let shared = self.shared();
        shared.check_open()?;
        let digest = shared.seen.digest(message.kind, &message.payload);
        shared.protocols.check(message)?;
        let origin = || match from {
            Some(peer) if peer.slot_class() == SlotClass::Ordinary => RelayOrigin::Source(Source::of(peer.ip())),
            _ => RelayOrigin::Trusted,
        };
        let outcome = shared.seen.insert(digest, origin, &shared.config.relay, shared.now());
        match outcome {
            RelayOutcome::New => {
                count(&shared.counters.relayed);
                shared.protocols.append_checked(message, from.map(|peer| peer.id()))?;
            }
            RelayOutcome::Duplicate => count(&shared.counters.duplicates),
            RelayOutcome::Full => {}
        }
        Ok(outcome)
    }

    /// Whether a message was relayed within the retention. A caller need not validate such a
    /// message again.
    pub fn contains(&self, kind: u16, payload: &[u8]) -> bool {
        let shared = self.shared();
        shared.seen.contains(self.digest(kind, payload), shared.config.relay.retention, shared.now())
    }

    /// This node's digest of a message. Other nodes compute other digests.
    pub fn digest(&self, kind: u16, payload: &[u8]) -> Digest {
        self.shared().seen.digest(kind, payload)
    }
}

impl From<PeerSendError> for Message {
    fn from(error: PeerSendError) -> Self {
        match error {
            PeerSendError::NotConnected(_, message) => message,
            PeerSendError::Connection(error) => SendError::into_message(error),
        }
    }
}
