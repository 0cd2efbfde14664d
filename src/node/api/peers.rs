//! Connecting, disconnecting, banning, settings, and what a node says of itself.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::address_book::{AddressBook, BanTarget, Source, WallTime};
use crate::base::{Direction, PeerId, Tick};
use crate::pool::{DisconnectReason, EvictOutcome, Roster};
use crate::transport::Stream;

use crate::node::config::{ConfigError, RuntimeConfig};
use crate::node::error::{BanRefused, ConnectError, StartError};
use crate::node::api::events::Subscription;
use crate::node::api::handle::NodeRef;
use crate::node::session::info::{NodeConnection, Peer};
use crate::node::connect::reservation::CompletedHandshake;

/// Connections.
impl NodeRef {
    /// Dials an address and waits until the peer is live. The address is remembered. Of several dialects it is the one in
    /// which the address was learnt, else the one whose [`PeerPolicy::matches_addr`](crate::node::PeerPolicy::matches_addr) knows it, else the first.
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
        let tongue = shared.tongues.by_name(dialect).ok_or(ConnectError::UnknownProtocol)?;
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
        let tongue = shared.tongues.by_name(dialect).ok_or(StartError::UnknownProtocol)?;
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
    pub async fn adopt_handshaken(
        &self,
        dialect: &str,
        stream: impl Stream,
        direction: Direction,
        addr: SocketAddr,
        said: impl Into<CompletedHandshake>,
    ) -> Result<Arc<Peer>, ConnectError> {
        let shared = self.shared();
        let tongue = shared.tongues.by_name(dialect).ok_or(ConnectError::UnknownProtocol)?;
        shared.adopt_handshaken(tongue, Box::new(stream), direction, addr, said.into()).await
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
    /// has fewer peers than its [`degree`](crate::node::RuntimeConfig::degree): to keep a peer out, [ban](NodeRef::ban_ip) it.
    pub fn disconnect(&self, key: &PeerId) -> bool {
        self.shared().pool.remove_current(key, DisconnectReason::Requested).is_some()
    }

    /// Bans an address for a time and closes its connections; how many were closed.
    ///
    /// # Errors
    /// [`BanRefused`] where that would leave the node with fewer live peers than its floor: nothing is done then.
    pub fn ban_ip(&self, ip: IpAddr, how_long: Duration) -> Result<usize, BanRefused> {
        self.ban(BanTarget::Ip(ip), how_long)
    }

    /// Bans a peer by its key; see [`NodeRef::ban_ip`].
    ///
    /// # Errors
    /// As for [`NodeRef::ban_ip`].
    pub fn ban_peer(&self, key: PeerId, how_long: Duration) -> Result<usize, BanRefused> {
        self.ban(BanTarget::Peer(key), how_long)
    }

    fn ban(&self, target: BanTarget, how_long: Duration) -> Result<usize, BanRefused> {
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
            return Err(BanRefused { left, floor });
        }
        // The ban first, so that nobody slips back in between: who goes live before it is found here, who does after it finds
        // it in the book. A peer that the floor still keeps stays until it leaves.
        shared.book.ban(target, now.after(how_long), now);
        let evicted = |peer: &&Arc<Peer>| {
            matches!(shared.pool.evict(peer.key(), peer.id(), DisconnectReason::Banned), EvictOutcome::Evicted(_))
        };
        Ok(victims().iter().filter(evicted).count())
    }

    /// Lifts a ban. `false` if there was none.
    pub fn unban(&self, target: impl Into<BanTarget>) -> bool {
        self.shared().book.unban(&target.into())
    }

    /// The address book.
    pub fn book(&self) -> &Arc<AddressBook> {
        &self.shared().book
    }

    /// The live peers.
    pub fn roster(&self) -> Roster<PeerId, NodeConnection> {
        self.shared().pool.roster()
    }

    /// How many peers are live. Cost: one load.
    pub fn peer_count(&self) -> usize {
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
    pub fn runtime_config(&self) -> Arc<RuntimeConfig> {
        self.shared().runtime_config()
    }

    /// Changes limits, intervals and policies; they act on live connections too: those over a lowered limit are let go step by
    /// step, never below the floor.
    ///
    /// # Errors
    /// Names what makes no sense; nothing is changed then.
    pub fn reconfigure(&self, runtime: RuntimeConfig) -> Result<(), ConfigError> {
        self.set_runtime_config(None, runtime).map(drop)
    }

    /// As [`NodeRef::reconfigure`], if the configuration is still this one; `false`, and nothing changed, if it is not. For whoever
    /// changes a part of it, so that two at once lose neither's change.
    ///
    /// # Errors
    /// As [`NodeRef::reconfigure`].
    pub fn reconfigure_from(
        &self,
        before: &Arc<RuntimeConfig>,
        runtime: RuntimeConfig,
    ) -> Result<bool, ConfigError> {
        self.set_runtime_config(Some(before), runtime)
    }

    fn set_runtime_config(
        &self,
        before: Option<&Arc<RuntimeConfig>>,
        runtime: RuntimeConfig,
    ) -> Result<bool, ConfigError> {
        let shared = self.shared();
        runtime.check()?;
        // Two at once: all of one, then all of the other.
        let _one_by_one = shared.reconfiguring.lock();
        if before.is_some_and(|before| !Arc::ptr_eq(before, &shared.runtime_config())) {
            return Ok(false);
        }
        let dialects = shared.tongues.count();
        shared.config.check_memory(&runtime, dialects)?;
        shared.pool.set_limits(runtime.limits.clone());
        shared.pool.set_liveness_policy(runtime.liveness);
        shared.pool.set_health_policy(runtime.health);
        shared.tongues.iter().for_each(|tongue| tongue.reconfigure(&runtime));
        shared.budget.set_limit(runtime.memory_limit.saturating_sub(shared.config.fixed_memory(dialects)));
        drop(shared.runtime_config.swap(Arc::new(runtime)));
        shared.kick.notify_one();
        Ok(true)
    }
}
