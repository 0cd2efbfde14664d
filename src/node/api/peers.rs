//! Connecting, disconnecting, banning, and looking up peers.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::address_book::{AddressBook, BanTarget, ReportedBy, WallTime};
use crate::base::{Direction, PeerId, canonical, Source};
use crate::node::connect::accept::Acceptor;
use crate::node::connect::adopt::{Adopter, GivenStream};
use crate::node::connect::dial::Dialer;
use crate::node::connect::reservation::CompletedHandshake;
use crate::node::error::{ConnectError, StartError};
use crate::node::protocol::ProtocolId;
use crate::node::session::peer::{NodeConnection, Peer};
use crate::pool::{DisconnectReason, Roster};
use crate::transport::Stream;

use super::events::Subscription;
use super::handle::NodeRef;

/// Connections.
impl NodeRef {
    /// Dials an address and waits until the peer is live. The address is remembered.
    ///
    /// A node with several protocols dials in the one in which it learnt the address, else in the
    /// one whose [`PeerPolicy::matches_addr`](crate::node::PeerPolicy::matches_addr) knows it, else
    /// in the first.
    ///
    /// # Errors
    /// See [`ConnectError`]; [`ConnectError::AlreadyConnected`] if a connection exists. Without a
    /// proven identity a key stands for one connection: the address dialled, or the one a peer came
    /// from.
    ///
    /// # Cancel safety
    /// Dropping the future closes what was opened and gives everything back.
    pub async fn connect(&self, addr: SocketAddr) -> Result<Arc<Peer>, ConnectError> {
        let shared = self.shared();
        if shared.is_stopping() {
            return Err(ConnectError::Shutdown);
        }
        // The dial refuses an address that the book refuses (port 0, multicast), with a better
        // error.
        let _ = shared.book.add(addr, ReportedBy::Operator, WallTime::now());
        Dialer::new(shared).dial(addr).await
    }

    /// As [`NodeRef::connect`], in the protocol of this name.
    ///
    /// # Errors
    /// See [`ConnectError`].
    ///
    /// # Cancel safety
    /// As [`NodeRef::connect`].
    pub async fn connect_in(&self, protocol: &str, addr: SocketAddr) -> Result<Arc<Peer>, ConnectError> {
        let shared = self.shared();
        let protocol = self.protocol(protocol)?;
        if shared.is_stopping() {
            return Err(ConnectError::Shutdown);
        }
        shared.protocols.remember_hint(canonical(addr), protocol);
        // As in `connect`.
        let _ = shared.book.add(addr, ReportedBy::Operator, WallTime::now());
        Dialer::new(shared).dial_in(protocol, addr).await
    }

    fn protocol(&self, name: &str) -> Result<ProtocolId, ConnectError> {
        self.shared().protocols.by_name(name).ok_or(ConnectError::UnknownProtocol)
    }

    /// Listens on one more address for peers of the protocol of this name. Port 0 takes any free
    /// port. Returns the bound address.
    ///
    /// # Errors
    /// See [`StartError`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing bound.
    pub async fn listen(&self, protocol: &str, addr: SocketAddr) -> Result<SocketAddr, StartError> {
        let protocol = self.shared().protocols.by_name(protocol).ok_or(StartError::UnknownProtocol)?;
        Acceptor::new(self.shared()).listen(protocol, addr).await
    }

    /// Takes over a stream that the application connected, in the node's first protocol, and does
    /// the handshake. `proven_key` is the public key that the transport proved, if it proves one;
    /// it becomes the peer's key.
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
        proven_key: Option<[u8; 32]>,
    ) -> Result<Arc<Peer>, ConnectError> {
        let stream = Box::new(stream);
        let given = GivenStream { stream, direction, addr, protocol: ProtocolId::FIRST, proven_key };
        Adopter::new(self.shared()).adopt(given, None).await
    }

    /// As [`NodeRef::adopt`], for a stream whose handshake the application has done, in the
    /// protocol of this name.
    ///
    /// # Errors
    /// See [`ConnectError`].
    ///
    /// # Cancel safety
    /// As [`NodeRef::adopt`].
    pub async fn adopt_handshaken(
        &self,
        protocol: &str,
        stream: impl Stream,
        direction: Direction,
        addr: SocketAddr,
        handshake: impl Into<CompletedHandshake>,
    ) -> Result<Arc<Peer>, ConnectError> {
        let protocol = self.protocol(protocol)?;
        let given =
            GivenStream { stream: Box::new(stream), direction, addr, protocol, proven_key: None };
        Adopter::new(self.shared()).adopt(given, Some(handshake.into())).await
    }

    /// Closes the connection to a peer with a goodbye. Returns `false` if there is none.
    ///
    /// Either node may dial the other again at once while it has fewer peers than its
    /// [`target_outbound`](crate::node::RuntimeConfig::target_outbound). To keep a peer out,
    /// [ban](NodeRef::ban_ip) it.
    pub fn disconnect(&self, key: &PeerId) -> bool {
        self.shared().pool.remove_current(key, DisconnectReason::Requested).is_some()
    }

    /// Bans the source of an IP address for a time and closes its connections: the address itself,
    /// or the /64 of an IPv6 address. The ban is recorded whatever peers are left.
    ///
    /// # Cost
    /// A walk over the live peers.
    pub fn ban_ip(&self, ip: IpAddr, duration: Duration) -> BanReport {
        self.ban(BanTarget::from(ip), duration)
    }

    /// Bans a peer by its key; see [`NodeRef::ban_ip`]. A peer without a proven key is known by an
    /// address whose port may differ the next time, so its source is banned.
    pub fn ban_peer(&self, key: PeerId, duration: Duration) -> BanReport {
        match key {
            PeerId::Addr(addr) => self.ban_ip(addr.ip(), duration),
            PeerId::Key(_) => self.ban(BanTarget::from(key), duration),
        }
    }

    /// Invariant: `operator_ban_always_holds`.
    /// - Statement: a ban that the operator asks for is recorded and enforced; the floor binds
    ///   evictions of the node's own accord only.
    /// - Enforced by: nothing is checked before the ban is recorded, and the peers are removed
    ///   unconditionally.
    /// - Breaks if: a banned peer is removed by [`Pool::evict`](crate::pool::Pool::evict).
    fn ban(&self, target: BanTarget, duration: Duration) -> BanReport {
        let shared = self.shared();
        let now = WallTime::now();
        // The ban first, so that no peer slips in between: one that is live before it is found
        // below, one that goes live after it finds the ban in the book.
        shared.book.ban(target, now.after(duration), now);
        let banned: Vec<_> = match target {
            BanTarget::Ip(ip) => {
                let source = Source::of(ip);
                shared.pool.roster().iter().filter(|peer| Source::of(peer.ip()) == source).cloned().collect()
            }
            BanTarget::Peer(key) => shared.pool.get(&key).into_iter().collect(),
        };
        let is_closed = |peer: &&Arc<Peer>| {
            shared.pool.remove(peer.key(), peer.id(), DisconnectReason::Banned).is_some()
        };
        BanReport { target, closed: banned.iter().filter(is_closed).count() }
    }

    /// Lifts a ban. Returns `false` if there was none.
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

    /// How many peers are live.
    ///
    /// # Cost
    /// One load.
    pub fn peer_count(&self) -> usize {
        self.shared().pool.len()
    }

    /// A live peer by its key.
    ///
    /// # Cost
    /// One shard's read lock.
    pub fn peer(&self, key: &PeerId) -> Option<Arc<Peer>> {
        self.shared().pool.get(key)
    }

    /// The live peers at an IP address, as it was dialled or observed.
    ///
    /// # Cost
    /// One shard's read lock, and one more for each peer.
    pub fn peers_at(&self, ip: IpAddr) -> Vec<Arc<Peer>> {
        self.shared().pool.by_ip(ip)
    }

    /// Subscribes to the node's events: a snapshot of the live peers, then each event.
    pub fn subscribe(&self) -> Subscription {
        self.shared().events.subscribe()
    }
}

/// What a ban did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BanReport {
    /// What is banned; [`NodeRef::unban`] takes it back.
    pub target: BanTarget,
    /// Connections that were closed.
    pub closed: usize,
}
