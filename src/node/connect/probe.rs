//! Asking who listens at an address, without connecting: another name of a peer, or where one says that it listens.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::timeout;

use crate::address_book::{DialOutcome, Source, WallTime};
use crate::base::Direction;
use crate::wire::Hello;

use crate::node::error::ConnectError;
use crate::node::connect::handshake::greet;
use crate::node::session::info::{Peer, PeerInfo};
use crate::node::runtime::shared::Shared;

impl Shared {
    /// An acceptor said that we are connected already: asks it who it is, so that this address is known as another name of
    /// that peer and not dialled again and again. `false` if there is no such peer, whatever the acceptor says; where it could not
    /// be asked, and that was not its fault, that is not known.
    pub(crate) async fn learn_alias(self: &Arc<Self>, tongue: usize, addr: SocketAddr) -> bool {
        let Some(_probing) = self.probes.begin(self.runtime_config().max_concurrent_dials) else {
            return true;
        };
        let nonce = match self.ask_who(tongue, addr).await {
            Ok(hello) => hello.nonce,
            Err(error) => return self.is_stopping() || error.is_exhaustion(),
        };
        let Some(nonce) = nonce else { return false };
        let Some(peer) = self.instances.peer((tongue, nonce)) else { return false };
        if peer.direction() == Direction::Inbound {
            // It dialled us, so the book knows nothing else of it: now it does.
            peer.update_info(|info| PeerInfo { listen: Some(addr), listen_verified: true, ..info.clone() });
            self.book.record(&addr, DialOutcome::Connected, WallTime::now());
            return true;
        }
        if self.book.set_alias(addr, peer.addr()) {
            tracing::debug!(%addr, of = %peer.addr(), "another address of a peer");
            return true;
        }
        peer.addr() == addr
    }

    /// Asks who listens at an address, without connecting.
    pub(crate) async fn ask_who(
        self: &Arc<Self>,
        tongue: usize,
        addr: SocketAddr,
    ) -> Result<Hello, ConnectError> {
        let within = self.runtime_config().handshake_timeout;
        let speaks = &**self.tongues.get(tongue);
        if !speaks.features().nonce {
            // Nobody would answer a mere question in it, and the answer would prove nothing.
            return Err(ConnectError::UnknownProtocol);
        }
        let asking = async {
            let mut stream = self.transport.dial(addr).await?;
            let ours = self.hello(tongue, true)?;
            let (hello, _) = greet(&mut stream, speaks, &self.budget, &ours).await?;
            Ok(hello)
        };
        tokio::select! {
            biased;
            () = self.stopped() => Err(ConnectError::Shutdown),
            asked = timeout(within, asking) => asked.unwrap_or(Err(ConnectError::Timeout)),
        }
    }

    /// Dials back to where an inbound peer says it listens: only an address at which the very same process answers is
    /// remembered and told to others.
    pub(crate) fn verify_listen(self: &Arc<Self>, peer: &Arc<Peer>) -> bool {
        let (listen, nonce, verified) =
            peer.read_info(|info| (info.listen, info.nonce, info.listen_verified));
        let tongue = peer.connection().tongue();
        let probed = self.tongues.get(tongue).features().nonce;
        let Some(listen) = listen.filter(|_| probed && !verified && nonce.is_some()) else { return true };
        let Some(probing) = self.probes.begin(self.runtime_config().max_concurrent_dials) else {
            return false;
        };
        if !peer.connection().begin_verifying() {
            return true;
        }
        let shared = Arc::clone(self);
        let peer = Arc::clone(peer);
        self.spawn(async move {
            let asked = shared.ask_who(tongue, listen).await;
            drop(probing);
            peer.connection().end_verifying();
            if !matches!(&asked, Ok(hello) if hello.nonce == nonce) {
                let nobody = |error: &ConnectError| {
                    matches!(error, ConnectError::Io(io) if io.kind() == std::io::ErrorKind::ConnectionRefused)
                };
                // No room there, or no time: it is asked again with one of the next pings.
                let may_be_so = asked.is_err_and(|error| !nobody(&error));
                if may_be_so && peer.connection().verified_in_vain() < TRIES {
                    return;
                }
                tracing::debug!(peer = %peer.key(), %listen, "does not listen where it says");
                // Claimed falsely or unreachable: not asked again on this connection.
                peer.update_info(|info| PeerInfo { listen: None, ..info.clone() });
                return;
            }
            peer.update_info(|info| PeerInfo { listen_verified: true, ..info.clone() });
            let now = WallTime::now();
            shared.tongues.learn(listen, tongue);
            // A full or picky book is no reason to do anything else.
            let _ = shared.book.add(listen, Source::Peer(peer.addr().ip()), now);
            shared.book.record(&listen, DialOutcome::Connected, now);
            shared.kick.notify_one();
        });
        true
    }
}

/// How often a claimed address is asked in vain before the claim counts as false.
const TRIES: u8 = 3;
