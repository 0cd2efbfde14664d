//! Connecting, sending, broadcasting, relaying, banning.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use crate::base::{ConnId, Direction, Lane, PeerId, Tick};
use crate::book::{BanTarget, Book, Source, WallTime};
use crate::link::log::Appended;
use crate::link::{Message, SendError};
use crate::pool::{Departure, Evicted, Roster};
use crate::transport::Stream;
use crate::wire::EncodeError;

use super::config::{ConfigError, HotConfig};
use super::error::{AtFloor, ConnectError, SendToError, StartError};
use super::events::Subscription;
use super::handle::NodeRef;
use super::info::{Conn, Peer};
use super::receipt::{BroadcastReceipt, Recipient};
use super::relay::{Digest, Fresh};
use super::seat::Prelude;
use super::shared::count;
use super::voice::StateRefused;

/// Connections.
impl NodeRef {
    /// Dials an address and waits until the peer is live. The address is remembered. Of several dialects it is the one in
    /// which the address was learnt, else the one whose [`Rules::speaks_at`](super::Rules::speaks_at) knows it, else the first.
    ///
    /// # Errors
    /// See [`ConnectError`]; where we are connected already that is an error too, which names the key. Without a proven identity a key
    /// is that of one connection: the address dialled, or the one a peer came from.
    ///
    /// # Cancel safety
    /// Dropping the future closes what was opened and gives everything back.
    pub async fn connect(&self, addr: SocketAddr) -> Result<Arc<Peer>, ConnectError> {
        let shared = self.shared();
        if shared.is_stopping() {
            return Err(ConnectError::Shutdown);
        }
        // An address that the book refuses (port 0, multicast) is refused by the dial with a better reason.
        let _ = shared.book.add(addr, Source::Operator, WallTime::now());
        shared.dial(addr).await
    }

    /// As [`NodeRef::connect`], in the dialect of this name.
    ///
    /// # Errors
    /// See [`ConnectError`].
    ///
    /// # Cancel safety
    /// As [`NodeRef::connect`].
    pub async fn connect_in(&self, dialect: &str, addr: SocketAddr) -> Result<Arc<Peer>, ConnectError> {
        let shared = self.shared();
        let tongue = shared.tongues.by_name(dialect).ok_or(ConnectError::UnknownDialect)?;
        if shared.is_stopping() {
            return Err(ConnectError::Shutdown);
        }
        shared.tongues.learn(crate::base::canonical(addr), tongue);
        // As in `connect`.
        let _ = shared.book.add(addr, Source::Operator, WallTime::now());
        shared.dial_in(tongue, addr).await
    }

    /// Listens on one more address for peers of the dialect of this name. Port 0 takes any; the address with the port that the
    /// system chose comes back.
    ///
    /// # Errors
    /// See [`StartError`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing bound.
    pub async fn listen(&self, dialect: &str, addr: SocketAddr) -> Result<SocketAddr, StartError> {
        let shared = self.shared();
        let tongue = shared.tongues.by_name(dialect).ok_or(StartError::UnknownDialect)?;
        shared.listen(tongue, addr).await
    }

    /// Makes a peer of a stream whose handshake is over, done by somebody else: what the far end's hello said, what was read behind
    /// it, and where something was asked since, what may still be answered.
    ///
    /// # Errors
    /// See [`ConnectError`].
    ///
    /// # Cancel safety
    /// Dropping the future closes the stream and gives everything back.
    pub async fn adopt_greeted(
        &self,
        dialect: &str,
        stream: impl Stream,
        direction: Direction,
        addr: SocketAddr,
        said: impl Into<Prelude>,
    ) -> Result<Arc<Peer>, ConnectError> {
        let shared = self.shared();
        let tongue = shared.tongues.by_name(dialect).ok_or(ConnectError::UnknownDialect)?;
        shared.adopt_greeted(tongue, Box::new(stream), direction, addr, said.into()).await
    }

    /// Takes over a stream that somebody else connected, as if it had been dialled or accepted here. `identity` is what the
    /// transport proved about the far end, if it proves anything; it makes the key.
    ///
    /// # Errors
    /// See [`ConnectError`].
    ///
    /// # Cancel safety
    /// Dropping the future closes the stream and gives everything back.
    pub async fn adopt(
        &self,
        stream: impl Stream,
        direction: Direction,
        addr: SocketAddr,
        identity: Option<[u8; 32]>,
    ) -> Result<Arc<Peer>, ConnectError> {
        self.shared().adopt(Box::new(stream), direction, addr, identity).await
    }

    /// Closes the connection to a peer, with a goodbye. `false` if there is none. Either node may dial the other again at once while it
    /// has fewer peers than its [`degree`](super::HotConfig::degree): to keep a peer out, [ban](NodeRef::ban_ip) it.
    pub fn disconnect(&self, key: &PeerId) -> bool {
        self.shared().pool.remove(key, Departure::Requested).is_some()
    }

    /// Bans an address for a time and closes its connections; how many were closed.
    ///
    /// # Errors
    /// [`AtFloor`] where that would leave the node with fewer live peers than its floor: nothing is done then.
    pub fn ban_ip(&self, ip: IpAddr, how_long: Duration) -> Result<usize, AtFloor> {
        self.ban(BanTarget::Ip(ip), how_long)
    }

    /// Bans a peer by its key; see [`NodeRef::ban_ip`].
    ///
    /// # Errors
    /// As for [`NodeRef::ban_ip`].
    pub fn ban_peer(&self, key: PeerId, how_long: Duration) -> Result<usize, AtFloor> {
        self.ban(BanTarget::Peer(key), how_long)
    }

    fn ban(&self, target: BanTarget, how_long: Duration) -> Result<usize, AtFloor> {
        let shared = self.shared();
        let now = WallTime::now();
        let victims = || match &target {
            BanTarget::Ip(ip) => shared.pool.by_ip(*ip),
            BanTarget::Peer(key) => shared.pool.get(key).into_iter().collect(),
        };
        let present = victims();
        let floor = shared.pool.limits().floor as usize;
        let left = shared.pool.len().saturating_sub(present.len());
        if !present.is_empty() && left < floor {
            return Err(AtFloor { left, floor });
        }
        // The ban first, so that nobody slips back in between: who goes live before it is found here, who does after it finds
        // it in the book. A peer that the floor still keeps stays until it leaves.
        shared.book.ban(target, now.after(how_long), now);
        let evicted = |peer: &&Arc<Peer>| {
            matches!(shared.pool.evict(peer.key(), peer.id(), Departure::Banned), Evicted::Departed(_))
        };
        Ok(victims().iter().filter(evicted).count())
    }

    /// Lifts a ban. `false` if there was none.
    pub fn unban(&self, target: impl Into<BanTarget>) -> bool {
        self.shared().book.unban(&target.into())
    }

    /// The address book.
    pub fn book(&self) -> &Arc<Book> {
        &self.shared().book
    }

    /// The live peers.
    pub fn roster(&self) -> Roster<PeerId, Conn> {
        self.shared().pool.roster()
    }

    /// How many peers are live. Cost: one load.
    pub fn live(&self) -> usize {
        self.shared().pool.len()
    }

    /// A live peer by its key. Cost: one shard's read lock.
    pub fn peer(&self, key: &PeerId) -> Option<Arc<Peer>> {
        self.shared().pool.get(key)
    }

    /// The live peers at an IP address, as it was dialled or observed. Cost: one shard's read lock, and one more a peer.
    pub fn peers_at(&self, ip: IpAddr) -> Vec<Arc<Peer>> {
        self.shared().pool.by_ip(ip)
    }

    /// Who comes and goes: a snapshot, then events.
    pub fn subscribe(&self) -> Subscription {
        self.shared().events.subscribe()
    }

    /// Resolves when the node stops: shut down, or its last handle dropped.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn stopped(&self) {
        self.shared().stopped().await;
    }

    /// The present tick of the node's clock, which event times are on.
    pub fn now(&self) -> Tick {
        self.shared().now()
    }

    /// The configuration that may change.
    pub fn hot_config(&self) -> Arc<HotConfig> {
        self.shared().hot()
    }

    /// Changes limits, intervals and policies; they act on live connections too: those over a lowered limit are let go step by
    /// step, never below the floor.
    ///
    /// # Errors
    /// Names what makes no sense; nothing is changed then.
    pub fn reconfigure(&self, hot: HotConfig) -> Result<(), ConfigError> {
        self.set_hot(None, hot).map(drop)
    }

    /// As [`NodeRef::reconfigure`], if the configuration is still this one; `false`, and nothing changed, if it is not. For whoever
    /// changes a part of it, so that two at once lose neither's change.
    ///
    /// # Errors
    /// As [`NodeRef::reconfigure`].
    pub fn reconfigure_from(&self, before: &Arc<HotConfig>, hot: HotConfig) -> Result<bool, ConfigError> {
        self.set_hot(Some(before), hot)
    }

    fn set_hot(&self, before: Option<&Arc<HotConfig>>, hot: HotConfig) -> Result<bool, ConfigError> {
        let shared = self.shared();
        hot.check()?;
        // Two at once: all of one, then all of the other.
        let _one_by_one = shared.reconfiguring.lock();
        if before.is_some_and(|before| !Arc::ptr_eq(before, &shared.hot())) {
            return Ok(false);
        }
        let dialects = shared.tongues.count();
        shared.config.check_memory(&hot, dialects)?;
        shared.pool.set_limits(hot.limits.clone());
        shared.pool.set_policy(hot.liveness);
        shared.pool.set_health(hot.health);
        shared.tongues.iter().for_each(|tongue| tongue.reconfigure(&hot));
        shared.budget.set_limit(hot.memory.saturating_sub(shared.config.fixed_memory(dialects)));
        drop(shared.hot.swap(Arc::new(hot)));
        shared.kick.notify_one();
        Ok(true)
    }
}

/// Sending.
impl NodeRef {
    /// Queues a message for one peer. Never waits; accepted is not delivered.
    ///
    /// # Errors
    /// See [`SendToError`]; the message comes back.
    ///
    /// # Cost
    /// One shard's read lock, one short lock of the link.
    pub fn send(&self, key: &PeerId, message: Message) -> Result<(), SendToError> {
        match self.peer(key) {
            Some(peer) => Ok(peer.connection().link().send(message)?),
            None => Err(SendToError::NotConnected(*key, message)),
        }
    }

    /// Queues a message for each of these peers. Returns those it was not taken for, and why.
    pub fn send_many<'k>(
        &self,
        keys: impl IntoIterator<Item = &'k PeerId>,
        message: &Message,
    ) -> Vec<(PeerId, SendToError)> {
        keys.into_iter()
            .filter_map(|key| self.send(key, message.clone()).err().map(|error| (*key, error)))
            .collect()
    }

    /// Appends a message to its lane's log, which all links read from. Never waits, never fails because of a peer, never looks
    /// at the map: costs the same for 8 peers and for 1,000. With no peers it goes nowhere.
    ///
    /// # Errors
    /// Where the dialect cannot say it: too large for its lane or for half of the [ring](super::NodeConfig::ring), or on the control
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
            let mut waiter = log.waiter();
            // Maintenance brings the clock too seldom to find out soon whom all others wait for.
            while timeout(log.look_pause(), poll_fn(|cx| waiter.poll(cx, self.shared().now()))).await.is_err()
            {
            }
        }
    }

    /// Sets a value of state: of each `(kind, id)` every peer gets the newest version, not those between; a new peer gets the
    /// newest of all at once. It arrives as an event of this kind.
    ///
    /// # Errors
    /// See [`StateRefused`]; the value comes back.
    pub fn set_state(&self, kind: u16, id: &[u8], value: impl Into<Bytes>) -> Result<u64, StateRefused> {
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
    pub fn relay(&self, message: &Message, from: Option<ConnId>) -> Result<Fresh, EncodeError> {
        let shared = self.shared();
        let digest = shared.seen.digest(message.kind, &message.payload);
        shared.tongues.check(message)?;
        let fresh = shared.seen.insert(digest, from, &shared.config.relay, shared.now());
        match fresh {
            Fresh::New => {
                count(&shared.counters.relayed);
                shared.tongues.append_checked(message, from)?;
            }
            Fresh::Seen => count(&shared.counters.redundant),
            Fresh::Full => {}
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

impl From<SendToError> for Message {
    fn from(error: SendToError) -> Self {
        match error {
            SendToError::NotConnected(_, message) => message,
            SendToError::Link(error) => SendError::into_message(error),
        }
    }
}
