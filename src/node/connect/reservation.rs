//! What a connection has and is before it is a peer's.

use std::net::SocketAddr;

use bytes::Bytes;

use crate::base::{ConnId, Direction, PeerId, Tick};
use crate::pool::{Claim, ClaimFailure, Permit};
use crate::transport::BoxStream;
use crate::wire::Hello;

use crate::node::session::info::NodeConnection;

/// What was said on a stream before a node takes it over.
#[derive(Debug)]
pub struct CompletedHandshake {
    /// The far end's hello.
    pub hello: Hello,
    /// Bytes that were read after the hello.
    pub buffered: Vec<u8>,
    /// Our requests that may still be answered, in a protocol without request ids: kind and payload. Each keeps its reply slot
    /// until its answer arrives.
    pub pending_requests: Vec<(u16, Bytes)>,
}

impl From<(Hello, Vec<u8>)> for CompletedHandshake {
    fn from((hello, buffered): (Hello, Vec<u8>)) -> Self {
        Self { hello, buffered, pending_requests: Vec::new() }
    }
}

/// A connection whose greeting is done on the other side.
pub(crate) struct HandshakenStream {
    pub(crate) stream: BoxStream,
    pub(crate) about: HandshakeInfo,
}

/// What is known of a greeted connection, apart from its stream.
pub(crate) struct HandshakeInfo {
    /// The dialect.
    pub(crate) tongue: usize,
    /// Their hello, with the instance that the dialect's rules see in it.
    pub(crate) hello: Hello,
    /// What was read behind it.
    pub(crate) buffered: Vec<u8>,
    /// What was asked and may still be answered.
    pub(crate) pending_requests: Vec<(u16, Bytes)>,
    /// The key that the dialect's rules have for it.
    pub(crate) key: Option<PeerId>,
    /// What the transport proved.
    pub(crate) identity: Option<[u8; 32]>,
    /// Our end.
    pub(crate) local: Option<SocketAddr>,
    /// When it was dialled or accepted.
    pub(crate) since: Tick,
    /// Goes out first: our hello, where we accept.
    pub(crate) greeting: Vec<u8>,
}

impl HandshakeInfo {
    /// Where an inbound peer says it listens: the port it claims, at the address we observe or that the rules know it by.
    pub(crate) fn listen(&self, from: SocketAddr) -> Option<SocketAddr> {
        // With the scope of a link-local one.
        let mut addr = if let Some(PeerId::Addr(known)) = self.key { known } else { from };
        addr.set_port(self.hello.listen?.port());
        Some(addr)
    }
}

/// The slot a connection has so far.
pub(crate) enum Reservation {
    Permit(Permit<PeerId, NodeConnection>),
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

    /// Claims a key, giving up another one it may hold: new first, then old.
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
        let mut about = HandshakeInfo {
            tongue: 0,
            hello,
            buffered: Vec::new(),
            pending_requests: Vec::new(),
            key: None,
            identity: None,
            local: None,
            since: Tick::ZERO,
            greeting: Vec::new(),
        };
        let from = |port| SocketAddr::V6(SocketAddrV6::new("fe80::1".parse().unwrap(), port, 0, 2));
        assert_eq!(about.listen(from(50_000)), Some(from(9_000)));
        let known = SocketAddr::from(([198, 51, 100, 1], 0));
        about.key = Some(PeerId::Addr(known));
        assert_eq!(about.listen(from(50_000)), Some(SocketAddr::new(known.ip(), 9_000)));
        about.hello.listen = None;
        assert_eq!(about.listen(from(50_000)), None);
    }
}
