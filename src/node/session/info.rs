//! What is known of a peer, and the connection as the pool holds it.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::base::{Nonce, PeerId, Tick};
use crate::connection::Connection;
use crate::pool::{self, ConnectionHandle, DisconnectReason};
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use crate::wire::{Goodbye, GoodbyeReason, Hello};

/// A peer of a node.
pub type Peer = pool::Peer<PeerId, NodeConnection>;

/// The pool of a node.
pub type Pool = pool::Pool<PeerId, NodeConnection>;

/// What is known of a peer. Changes while connected are made with [`pool::Peer::update_info`], on a clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    /// Name and version of its software, as it says. Peers that say the same share it.
    pub agent: Arc<str>,
    /// Version of the dialect it speaks.
    pub version: u32,
    /// Not for others to change: what ends with the peer is found by it.
    pub(crate) nonce: Option<Nonce>,
    /// What it can do, as bits of the application.
    pub features: u64,
    /// Where it says it listens: the port it claims under the address we observe.
    pub listen: Option<SocketAddr>,
    /// Whether a dial to [`PeerInfo::listen`] found this very process there.
    pub listen_verified: bool,
    /// Our end of the connection, where the transport knows it.
    pub local: Option<SocketAddr>,
    /// The application's own bytes of its hello.
    pub app: Arc<[u8]>,
    /// The application's last word on how far the peer is; free for its use.
    pub height: Option<u64>,
}

impl PeerInfo {
    /// Its instance nonce.
    pub const fn nonce(&self) -> Option<Nonce> {
        self.nonce
    }

    pub(crate) fn of(
        hello: &Hello,
        agent: Arc<str>,
        listen: Option<SocketAddr>,
        local: Option<SocketAddr>,
    ) -> Self {
        // Most say nothing, and nothing needs no allocation.
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

/// A connection as the pool holds it: the link, and what the maintenance notes on it.
#[derive(Debug)]
pub struct NodeConnection {
    link: Arc<Connection>,
    /// When it was last pinged, in ticks; a hint of the maintenance alone.
    pinged_at: AtomicU64,
    /// Which of the node's dialects it speaks.
    tongue: u16,
    /// The transport proved the peer's identity.
    authenticated: bool,
    stable: AtomicBool,
    /// Somebody is asking at the address where the peer says it listens.
    verifying: AtomicBool,
    /// How often that came to nothing.
    in_vain: AtomicU8,
}

impl NodeConnection {
    pub(crate) fn new(link: Arc<Connection>, tongue: usize, authenticated: bool) -> Self {
        Self {
            link,
            pinged_at: AtomicU64::new(0),
            // A node speaks a handful at the most.
            tongue: u16::try_from(tongue).unwrap_or(u16::MAX),
            authenticated,
            stable: AtomicBool::new(false),
            verifying: AtomicBool::new(false),
            in_vain: AtomicU8::new(0),
        }
    }

    /// The link: to send to this connection whatever becomes of its key.
    pub fn handle(&self) -> &Arc<Connection> {
        &self.link
    }

    /// The name of the dialect it speaks.
    pub fn protocol(&self) -> &'static str {
        self.link.protocol()
    }

    pub(crate) fn tongue(&self) -> usize {
        usize::from(self.tongue)
    }

    pub(crate) fn is_authenticated(&self) -> bool {
        self.authenticated
    }

    pub(crate) fn pinged_at(&self) -> Tick {
        Tick::from_millis(self.pinged_at.load(Ordering::Relaxed))
    }

    pub(crate) fn set_pinged(&self, at: Tick) {
        self.pinged_at.store(at.as_millis(), Ordering::Relaxed);
    }

    /// `true` once, when the session is first found stable.
    pub(crate) fn turns_stable(&self) -> bool {
        !self.stable.swap(true, Ordering::Relaxed)
    }

    /// `true` for one caller until [`NodeConnection::end_verifying`].
    pub(crate) fn begin_verifying(&self) -> bool {
        !self.verifying.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn end_verifying(&self) {
        self.verifying.store(false, Ordering::Relaxed);
    }

    /// Notes that asking has come to nothing; how often it has.
    pub(crate) fn verified_in_vain(&self) -> u8 {
        self.in_vain.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    /// Whether asking has come to nothing before.
    pub(crate) fn was_verified_in_vain(&self) -> bool {
        self.in_vain.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn is_stable(&self) -> bool {
        self.stable.load(Ordering::Relaxed)
    }
}

impl ConnectionHandle for NodeConnection {
    type Info = PeerInfo;

    fn close(&self, reason: DisconnectReason) {
        self.link.close(reason, goodbye_for(reason));
    }
}

/// What the peer is told when the pool lets it go.
fn goodbye_for(reason: DisconnectReason) -> Option<Goodbye> {
    let reason = match reason {
        DisconnectReason::Lost => return None,
        DisconnectReason::Stale => GoodbyeReason::Stale,
        DisconnectReason::Replaced => GoodbyeReason::Replaced,
        DisconnectReason::Collision => GoodbyeReason::Duplicate,
        DisconnectReason::Banned => GoodbyeReason::Banned,
        DisconnectReason::Protocol => GoodbyeReason::Protocol,
        DisconnectReason::Overloaded => GoodbyeReason::Overloaded,
        DisconnectReason::OverLimit => GoodbyeReason::Full,
        DisconnectReason::Shutdown => GoodbyeReason::Shutdown,
        _ => GoodbyeReason::Closed,
    };
    Some(Goodbye::new(reason))
}
