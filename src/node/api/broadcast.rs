//! Sending, broadcasting, relaying, state.

use std::future::poll_fn;

use bytes::Bytes;
use tokio::time::timeout;

use crate::base::{ConnId, Lane, PeerId};
use crate::broadcast::Appended;
use crate::connection::{Message, SendError};
use crate::wire::EncodeError;

use crate::node::error::PeerSendError;
use crate::node::api::handle::NodeRef;
use crate::node::api::receipt::{BroadcastReceipt, Recipient};
use crate::node::runtime::seen_set::{Digest, RelayOutcome};
use crate::node::runtime::shared::count;
use crate::node::protocol::broadcaster::StateError;

/// Sending.
impl NodeRef {
    /// Queues a message for one peer. Never waits; accepted is not delivered.
    ///
    /// # Errors
    /// See [`PeerSendError`]; the message comes back.
    ///
    /// # Cost
    /// One shard's read lock, one short lock of the link.
    pub fn send(&self, key: &PeerId, message: Message) -> Result<(), PeerSendError> {
        match self.peer(key) {
            Some(peer) => Ok(peer.connection().handle().send(message)?),
            None => Err(PeerSendError::NotConnected(*key, message)),
        }
    }

    /// Queues a message for each of these peers. Returns those it was not taken for, and why.
    pub fn send_many<'k>(
        &self,
        keys: impl IntoIterator<Item = &'k PeerId>,
        message: &Message,
    ) -> Vec<(PeerId, PeerSendError)> {
        keys.into_iter()
            .filter_map(|key| self.send(key, message.clone()).err().map(|error| (*key, error)))
            .collect()
    }

    /// Appends a message to its lane's log, which all links read from. Never waits, never fails because of a peer, never looks
    /// at the map: costs the same for 8 peers and for 1,000. With no peers it goes nowhere.
    ///
    /// # Errors
    /// Where the dialect cannot say it: too large for its lane or for half of the [ring](crate::node::NodeConfig::ring), or on the control
    /// lane. A node that has shut down takes messages on, and has nobody to send them to.
    ///
    /// # Cost
    /// One encoding, one copy of the payload (none from 16 KiB up), one short lock.
    pub fn broadcast(&self, message: &Message) -> Result<Appended, EncodeError> {
        self.say(message, None)
    }

    #[inline]
    fn say(&self, message: &Message, origin: Option<ConnId>) -> Result<Appended, EncodeError> {
        let shared = self.shared();
        count(&shared.counters.broadcasts);
        Ok(Appended { seq: shared.tongues.append(message, origin)?, origin })
    }

    /// As [`NodeRef::broadcast`], to all but one connection: where the message came from.
    ///
    /// # Errors
    /// As [`NodeRef::broadcast`].
    pub fn broadcast_except(&self, message: &Message, origin: ConnId) -> Result<Appended, EncodeError> {
        self.say(message, Some(origin))
    }

    /// As [`NodeRef::broadcast`], keeping who was there, so that one can ask later what became of it.
    ///
    /// # Errors
    /// As [`NodeRef::broadcast`].
    ///
    /// # Cost
    /// A walk over the roster.
    pub fn broadcast_with_receipt(&self, message: &Message) -> Result<BroadcastReceipt, EncodeError> {
        let recipients = Recipient::all(self, message.lane);
        let shared = self.shared();
        count(&shared.counters.broadcasts);
        let said = shared.tongues.append_said(message)?;
        Ok(BroadcastReceipt::new(said, recipients))
    }

    /// Resolves when the slowest peer that is not lagging leaves room in this lane's log; at once without peers, and where there is
    /// room at the call. Call it and await it before each broadcast: one that is kept for later knows of earlier. A producer
    /// that waits for it before each broadcast makes no peer lag that keeps pace: not waited for are those that stand still for a
    /// second until they move, and those that miss messages or for two seconds keep more than half of the others from having
    /// anything to do, until they have kept up for ten.
    ///
    /// In a lane where who lags only misses messages, a peer that takes less than half as much as the others is not waited for once
    /// two thirds of all peers, and eight at least, have had nothing to do but for it for a tenth of a second. That ends when
    /// it has kept up for a second; twice as long each further time, up to ten.
    ///
    /// # Cancel safety
    /// Safe: dropping it leaves nothing behind.
    ///
    /// # Cost
    /// Three loads while there is room, at the call. A wait costs a walk over the links, once for at least an eighth of the ring.
    #[inline]
    pub fn ready(&self, lane: Lane) -> impl Future<Output = ()> + Send + '_ {
        // Before the future is made: one that waits for nothing then holds nothing.
        let has_room = self.shared().tongues.has_room(lane);
        async move {
            if !has_room {
                self.room(lane).await;
            }
        }
    }

    async fn room(&self, lane: Lane) {
        for tongue in self.shared().tongues.iter() {
            let Some(log) = tongue.log(lane) else { return };
            let mut waiter = log.room_wait();
            // Maintenance brings the clock too seldom to find out soon whom all others wait for.
            while timeout(log.check_interval(), poll_fn(|cx| waiter.poll(cx, self.shared().now())))
                .await
                .is_err()
            {}
        }
    }

    /// Sets a value of state: of each `(kind, id)` every peer gets the newest version, not those between; a new peer gets the
    /// newest of all at once. It arrives as an event of this kind.
    ///
    /// # Errors
    /// See [`StateError`]; the value comes back.
    pub fn set_state(&self, kind: u16, id: &[u8], value: impl Into<Bytes>) -> Result<u64, StateError> {
        self.shared().tongues.set_state(kind, id, value.into())
    }

    /// Forgets a value of state: new peers are no longer told. `false` if there was none.
    pub fn clear_state(&self, kind: u16, id: &[u8]) -> bool {
        self.shared().tongues.clear_state(kind, id)
    }

    /// Passes a message on to everybody but its origin, if this node has not seen it before; `from` is `None` for one's own.
    ///
    /// # Errors
    /// As [`NodeRef::broadcast`]; the message then counts as not seen... by nobody: it was refused before it was remembered.
    pub fn relay(&self, message: &Message, from: Option<ConnId>) -> Result<RelayOutcome, EncodeError> {
        let shared = self.shared();
        let digest = shared.seen.digest(message.kind, &message.payload);
        shared.tongues.check(message)?;
        let fresh = shared.seen.insert(digest, from, &shared.config.relay, shared.now());
        match fresh {
            RelayOutcome::New => {
                count(&shared.counters.relayed);
                shared.tongues.append_checked(message, from)?;
            }
            RelayOutcome::Duplicate => count(&shared.counters.duplicates),
            RelayOutcome::Full => {}
        }
        Ok(fresh)
    }

    /// Whether a message was relayed within the retention: lets a caller skip validating it again.
    pub fn contains(&self, kind: u16, payload: &[u8]) -> bool {
        let shared = self.shared();
        shared.seen.contains(self.digest(kind, payload), shared.config.relay.retention, shared.now())
    }

    /// This node's digest of a message; another node computes another one.
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
