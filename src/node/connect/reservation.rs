//! What a connection has before it is a peer: its slot, and the result of its handshake.

use std::net::SocketAddr;

use bytes::Bytes;

use crate::base::{ConnId, Direction, PeerId, Tick};
use crate::node::protocol::ProtocolId;
use crate::node::session::peer::NodeConnection;
use crate::pool::{Claim, ClaimFailure, Permit, SlotClass};
use crate::transport::BoxStream;
use crate::wire::Hello;

/// A handshake that the caller of
/// [`NodeRef::adopt_handshaken`](crate::node::NodeRef::adopt_handshaken) has completed.
#[derive(Debug)]
pub struct CompletedHandshake {
    /// The far end's hello.
    pub hello: Hello,
    /// Bytes that were read after the hello.
    pub buffered: Vec<u8>,
    /// Our requests that may still be answered, in a protocol without request ids: kind and
    /// payload. Each keeps its reply slot until its answer arrives.
    pub pending_requests: Vec<(u16, Bytes)>,
}

impl From<(Hello, Vec<u8>)> for CompletedHandshake {
    fn from((hello, buffered): (Hello, Vec<u8>)) -> Self {
        Self { hello, buffered, pending_requests: Vec::new() }
    }
}

/// A stream and the handshake that was completed on it.
pub(crate) struct HandshakenStream {
    pub(crate) stream: BoxStream,
    pub(crate) info: HandshakeInfo,
}

/// What a handshake yields, apart from the stream.
pub(crate) struct HandshakeInfo {
    pub(crate) protocol: ProtocolId,
    /// Their hello, with the instance nonce that the protocol's policy found.
    pub(crate) hello: Hello,
    /// Bytes read after their hello.
    pub(crate) buffered: Vec<u8>,
    /// Our requests that may still be answered.
    pub(crate) pending_requests: Vec<(u16, Bytes)>,
    /// The key that the protocol's policy found.
    pub(crate) key: Option<PeerId>,
    /// The key that the transport proved.
    pub(crate) proven_key: Option<[u8; 32]>,
    /// The address of our end.
    pub(crate) local_addr: Option<SocketAddr>,
    /// When the stream was dialled or accepted.
    pub(crate) since: Tick,
    /// The bytes to write first: our hello where we accepted, else nothing.
    pub(crate) first_bytes: Vec<u8>,
}

impl HandshakeInfo {
    /// Where an inbound peer listens, as it claims: its port, at the address observed or at the one
    /// its policy knows. The scope of a link-local address is kept.
    pub(crate) fn listen_addr(&self, observed: SocketAddr) -> Option<SocketAddr> {
        let mut addr = if let Some(PeerId::Addr(known)) = self.key { known } else { observed };
        addr.set_port(self.hello.listen?.port());
        Some(addr)
    }
}

/// The slot of a connection that is being established, released when dropped.
pub(crate) enum Reservation {
    /// A slot, and no key yet.
    Permit(Permit<PeerId, NodeConnection>),
    /// A slot and a key.
    Claim(Claim<PeerId, NodeConnection>),
}

impl Reservation {
    pub(crate) fn id(&self) -> ConnId {
        match self {
            Self::Permit(permit) => permit.id(),
            Self::Claim(claim) => claim.id(),
        }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        match self {
            Self::Permit(permit) => permit.addr(),
            Self::Claim(claim) => claim.addr(),
        }
    }

    pub(crate) fn direction(&self) -> Direction {
        match self {
            Self::Permit(permit) => permit.direction(),
            Self::Claim(claim) => claim.direction(),
        }
    }

    pub(crate) fn slot_class(&self) -> SlotClass {
        match self {
            Self::Permit(permit) => permit.slot_class(),
            Self::Claim(claim) => claim.slot_class(),
        }
    }

    /// Claims a key. A key held before is released afterwards. On failure the reservation comes
    /// back.
    pub(crate) fn claim(
        self,
        key: PeerId,
    ) -> Result<Claim<PeerId, NodeConnection>, (Self, ClaimFailure<PeerId, NodeConnection>)> {
        match self {
            Self::Permit(permit) => permit.claim(key).map_err(|e| (Self::Permit(e.permit), e.cause)),
            Self::Claim(claim) if *claim.key() == key => Ok(claim),
            Self::Claim(claim) => claim.rekey(key).map_err(|e| (Self::Claim(e.claim), e.cause)),
        }
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use std::net::SocketAddrV6;

    use super::*;
    use crate::base::Nonce;

    #[test]
    fn a_link_local_peer_listens_in_its_own_scope() {
        let mut hello = Hello::new(1, 0, Nonce([7; 16]));
        hello.listen = Some(SocketAddr::from(([192, 0, 2, 1], 9_000)));
        let mut info = HandshakeInfo {
            protocol: ProtocolId::FIRST,
            hello,
            buffered: Vec::new(),
            pending_requests: Vec::new(),
            key: None,
            proven_key: None,
            local_addr: None,
            since: Tick::ZERO,
            first_bytes: Vec::new(),
        };
        let from = |port| SocketAddr::V6(SocketAddrV6::new("fe80::1".parse().unwrap(), port, 0, 2));
        assert_eq!(info.listen_addr(from(50_000)), Some(from(9_000)));
        let known = SocketAddr::from(([198, 51, 100, 1], 0));
        info.key = Some(PeerId::Addr(known));
        assert_eq!(info.listen_addr(from(50_000)), Some(SocketAddr::new(known.ip(), 9_000)));
        info.hello.listen = None;
        assert_eq!(info.listen_addr(from(50_000)), None);
    }
}
