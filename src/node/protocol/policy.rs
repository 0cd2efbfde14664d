//! Who a peer of a protocol is, what it understands, and when it is dialled and pinged.

use std::net::SocketAddr;
use std::time::Duration;

use crate::base::{Direction, Nonce, PeerId};
use crate::wire::Hello;

/// What differs between the peers of one protocol and those of another. The defaults are those of
/// the native protocol; `()` has all of them.
///
/// Called from many tasks at once. No call may block.
pub trait PeerPolicy: Send + Sync + 'static {
    /// Our own instance nonce, for a protocol whose hellos carry none. Of two connections between
    /// the same two instances the one dialled by the smaller nonce survives, so both ends must
    /// derive the same values.
    fn instance(&self) -> Option<Nonce> {
        None
    }

    /// The identity behind a completed handshake.
    ///
    /// A key that is an address must not be one that is dialled; port 0 will do. A dial holds the
    /// key of its address until its handshake ends, and an inbound connection of the same peer
    /// would wait for it.
    fn identify(&self, hello: &Hello, addr: SocketAddr, direction: Direction) -> Identity {
        let _ = (addr, direction);
        Identity { key: None, instance: hello.nonce }
    }

    /// The key of the peer at this address, where it is known before dialling. A connected peer is
    /// not dialled.
    fn key_at(&self, addr: SocketAddr) -> Option<PeerId> {
        let _ = addr;
        None
    }

    /// What a peer with this hello understands. Default: everything.
    fn capabilities(&self, hello: &Hello, direction: Direction) -> PeerCapabilities {
        let _ = (hello, direction);
        PeerCapabilities::default()
    }

    /// Whether an address of which nothing else is known speaks this protocol rather than the
    /// node's first one.
    fn matches_addr(&self, addr: SocketAddr) -> bool {
        let _ = addr;
        false
    }

    /// Whether the node may dial this address of its own accord. Default: any.
    fn may_dial(&self, addr: SocketAddr) -> bool {
        let _ = addr;
        true
    }

    /// How long a peer must have been silent before it is pinged. Default: zero, so that pings keep
    /// the round-trip time of busy peers known.
    fn ping_after(&self) -> Duration {
        Duration::ZERO
    }

    /// The longest that this node may send a peer nothing, pings included: `None` for no limit. For
    /// peers that take our silence for our end, whatever they send themselves. Default: `None`.
    fn max_own_silence(&self, direction: Direction) -> Option<Duration> {
        let _ = direction;
        None
    }

    /// How long written bytes may make no progress before the peer is closed. Default:
    /// [`RuntimeConfig::write_stall_timeout`](crate::node::RuntimeConfig::write_stall_timeout).
    fn write_stall_timeout(&self) -> Option<Duration> {
        None
    }
}

impl PeerPolicy for () {}

/// The identity of a peer, as [`PeerPolicy::identify`] determines it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The peer's key; `None` takes the address dialled or observed.
    pub key: Option<PeerId>,
    /// The nonce of the peer's process.
    pub instance: Option<Nonce>,
}

/// What a peer understands, as [`PeerPolicy::capabilities`] determines it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCapabilities {
    /// The peer understands the rejection of a request. Otherwise a request without an answer is
    /// left unanswered.
    pub rejections: bool,
    /// The peer takes the newest value of each state right after the handshake. Otherwise it gets
    /// only what is set later.
    pub initial_state: bool,
}

impl Default for PeerCapabilities {
    fn default() -> Self {
        Self { rejections: true, initial_state: true }
    }
}
