//! What the pool holds of a peer: its connection, and what is known of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::base::{Nonce, PeerId, Tick};
use crate::connection::Connection;
use crate::node::protocol::ProtocolId;
use crate::pool::{self, ConnectionHandle, DisconnectReason};
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use crate::wire::{Goodbye, GoodbyeReason, Hello};

/// A peer of a node.
pub type Peer = pool::Peer<PeerId, NodeConnection>;

/// The pool of a node.
pub type Pool = pool::Pool<PeerId, NodeConnection>;

/// What is known of a peer. Change it while the peer is connected with [`pool::Peer::update_info`],
/// on a clone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerInfo {
    /// Name and version of its software, as it says. Peers with the same string share it.
    pub agent: Arc<str>,
    /// Version of the protocol it speaks.
    pub version: u32,
    /// Private: the process index finds the peer by it.
    pub(crate) nonce: Option<Nonce>,
    /// Feature bits of the application.
    pub features: u64,
    /// Where it claims to listen: the port it names, at the address we observe.
    pub listen: Option<SocketAddr>,
    /// Whether a dial to [`PeerInfo::listen`] reached this very process.
    pub listen_verified: bool,
    /// Our end of the connection, where the transport knows it.
    pub local: Option<SocketAddr>,
    /// The application's own bytes of its hello.
    pub app: Arc<[u8]>,
    /// The peer's progress, for example a block height. Set and read by the application only.
    pub height: Option<u64>,
}

impl PeerInfo {
    /// The nonce of its process.
    pub const fn nonce(&self) -> Option<Nonce> {
        self.nonce
    }

    pub(crate) fn new(
        hello: &Hello,
        agent: Arc<str>,
        listen: Option<SocketAddr>,
        local: Option<SocketAddr>,
    ) -> Self {
        // Most peers send no bytes, and an empty slice needs no allocation.
        let app = if hello.app.is_empty() { Arc::default() } else { Arc::from(&*hello.app) };
        Self {
            agent,
            version: hello.version,
            nonce: hello.nonce,
            features: hello.features,
            listen,
            listen_verified: false,
            local,
            app,
            height: None,
        }
    }
}

/// The connection of a peer as the pool holds it: its handle, and notes of the maintenance.
#[derive(Debug)]
pub struct NodeConnection {
    handle: Arc<Connection>,
    /// When it was last pinged, in milliseconds of the node's clock. A hint: only the maintenance
    /// writes it.
    pinged_at: AtomicU64,
    protocol: ProtocolId,
    /// Whether the transport proved the peer's key.
    is_authenticated: bool,
    is_stable: AtomicBool,
    /// A probe to the listen address that the peer claims is under way.
    is_verifying: AtomicBool,
    failed_verifications: AtomicU8,
}

impl NodeConnection {
    pub(crate) fn new(handle: Arc<Connection>, protocol: ProtocolId, is_authenticated: bool) -> Self {
        Self {
            handle,
            pinged_at: AtomicU64::new(0),
            protocol,
            is_authenticated,
            is_stable: AtomicBool::new(false),
            is_verifying: AtomicBool::new(false),
            failed_verifications: AtomicU8::new(0),
        }
    }

    /// The connection's handle: it reaches this connection, even if another one holds the peer's
    /// key by now.
    #[cfg(feature = "unstable")]
    pub fn handle(&self) -> &Arc<Connection> {
        &self.handle
    }

    /// The connection's handle: it reaches this connection, even if another one holds the peer's
    /// key by now.
    #[cfg(not(feature = "unstable"))]
    pub(crate) fn handle(&self) -> &Arc<Connection> {
        &self.handle
    }

    /// Sends a ping and returns its round-trip time, or `None` if the connection closes first.
    ///
    /// # Cancel safety
    /// Dropping the future discards the answer and nothing else.
    pub async fn ping(&self) -> Option<Duration> {
        self.handle.probe().await
    }

    /// The name of the protocol it speaks.
    pub fn protocol(&self) -> &'static str {
        self.handle.protocol()
    }

    pub(crate) fn protocol_id(&self) -> ProtocolId {
        self.protocol
    }

    pub(crate) fn is_authenticated(&self) -> bool {
        self.is_authenticated
    }

    pub(crate) fn pinged_at(&self) -> Tick {
        Tick::from_millis(self.pinged_at.load(Ordering::Relaxed))
    }

    pub(crate) fn set_pinged_at(&self, at: Tick) {
        self.pinged_at.store(at.as_millis(), Ordering::Relaxed);
    }

    /// Marks the session as stable. `true` for the first call.
    pub(crate) fn mark_stable(&self) -> bool {
        !self.is_stable.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn is_stable(&self) -> bool {
        self.is_stable.load(Ordering::Relaxed)
    }

    /// `true` for one caller until [`NodeConnection::end_verification`].
    pub(crate) fn begin_verification(&self) -> bool {
        !self.is_verifying.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn end_verification(&self) {
        self.is_verifying.store(false, Ordering::Relaxed);
    }

    /// Counts a failed probe of the claimed listen address. Returns how many there have been.
    pub(crate) fn count_failed_verification(&self) -> u8 {
        self.failed_verifications.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    pub(crate) fn has_failed_verification(&self) -> bool {
        self.failed_verifications.load(Ordering::Relaxed) > 0
    }
}

impl ConnectionHandle for NodeConnection {
    type Info = PeerInfo;

    fn close(&self, reason: DisconnectReason) {
        self.handle.close(reason, goodbye_for(reason));
    }
}

/// The goodbye that a peer gets when the pool closes its connection.
fn goodbye_for(reason: DisconnectReason) -> Option<Goodbye> {
    let reason = match reason {
        DisconnectReason::Lost => return None,
        DisconnectReason::Stale | DisconnectReason::NoProgress => GoodbyeReason::Stale,
        DisconnectReason::Replaced => GoodbyeReason::Replaced,
        DisconnectReason::Collision => GoodbyeReason::Duplicate,
        DisconnectReason::Banned => GoodbyeReason::Banned,
        DisconnectReason::Protocol | DisconnectReason::Misbehaved => GoodbyeReason::Protocol,
        DisconnectReason::Overloaded => GoodbyeReason::Overloaded,
        DisconnectReason::OverLimit => GoodbyeReason::Full,
        DisconnectReason::Shutdown => GoodbyeReason::Shutdown,
        _ => GoodbyeReason::Closed,
    };
    Some(Goodbye::new(reason))
}
