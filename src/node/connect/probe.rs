//! Asking who listens at an address, without connecting: to find aliases, and to verify the listen
//! addresses that peers claim.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::address_book::{DialOutcome, ReportedBy, WallTime};
use crate::base::{Direction, Nonce, Source};
use crate::connection::MemoryOrigin;
use crate::node::error::ConnectError;
use crate::node::protocol::ProtocolId;
use crate::node::runtime::shared::Shared;
use crate::node::session::peer::{Peer, PeerInfo};
use crate::wire::{FirstFrame, Hello};

use super::handshake::{HelloPurpose, encode_hello, exchange_hello};
use super::state::PROBE_LIMITS;

/// Failed probes of a claimed listen address after which the claim counts as false.
const MAX_FAILED_PROBES: u8 = 3;

/// Asks who listens at addresses.
#[derive(Clone)]
pub(crate) struct Prober {
    shared: Arc<Shared>,
}

impl Prober {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared) }
    }

    /// Finds the peer whose alias an address is, after its acceptor has said that we are connected
    /// already. The alias is recorded, so that the address is not dialled again and again.
    ///
    /// Returns `false` if there is no such peer, whatever the acceptor says; `true` also where that
    /// stays unknown for no fault of the acceptor.
    pub(crate) async fn learn_alias(&self, protocol: ProtocolId, addr: SocketAddr) -> bool {
        let shared = &self.shared;
        let Some(_in_flight) = shared.connecting.probes.begin(addr.ip(), PROBE_LIMITS) else { return true };
        let nonce = match self.probe(protocol, addr).await {
            Ok(hello) => hello.nonce,
            Err(error) => return shared.is_stopping() || error.is_exhaustion(),
        };
        let Some(nonce) = nonce else { return false };
        let processes = &shared.connecting.processes;
        let process = processes.process(protocol, nonce, addr.ip());
        let Some(peer) = processes.live_peer(process) else { return false };
        if peer.direction() == Direction::Inbound {
            // It dialled us: this is the first address of it that the book can record.
            peer.update_info(|info| PeerInfo { listen: Some(addr), listen_verified: true, ..info.clone() });
            shared.book.record(&addr, DialOutcome::Connected, WallTime::now());
            return true;
        }
        if shared.book.set_alias(addr, peer.addr()) {
            tracing::debug!(%addr, of = %peer.addr(), "another address of a peer");
            return true;
        }
        peer.addr() == addr
    }

    /// The hello of the process that listens at an address.
    ///
    /// # Errors
    /// [`ConnectError::UnknownProtocol`] where hellos carry no nonce: an acceptor would not answer
    /// a mere question, and the answer would prove nothing.
    async fn probe(&self, protocol: ProtocolId, addr: SocketAddr) -> Result<Hello, ConnectError> {
        let shared = &self.shared;
        let handshake_timeout = shared.runtime_config().handshake_timeout;
        let spoken = &**shared.protocols.get(protocol);
        if !spoken.features().nonce {
            return Err(ConnectError::UnknownProtocol);
        }
        let account = shared.budget.account(MemoryOrigin::of(Source::of(addr.ip())));
        let exchange = async {
            let mut stream = shared.transport.dial(addr).await?;
            let our_hello = encode_hello(shared, protocol, HelloPurpose::Probe)?;
            match exchange_hello(&mut stream, spoken, &account, &our_hello).await? {
                (FirstFrame::Hello(hello), _) => Ok(hello),
                (FirstFrame::Refusal(refusal), _) => Err(ConnectError::Refused(refusal.goodbye())),
            }
        };
        shared.until_stopped_or(handshake_timeout, exchange).await
    }

    /// Dials back, in a task of its own, to where an inbound peer claims to listen. Only an address
    /// at which the same process answers is recorded, and shared with other peers.
    ///
    /// Returns `false` if too many probes are under way; then it is worth another call.
    pub(crate) fn verify_listen_addr(&self, peer: &Arc<Peer>) -> bool {
        let shared = &self.shared;
        let (listen, nonce, verified) =
            peer.read_info(|info| (info.listen, info.nonce, info.listen_verified));
        let protocol = peer.connection().protocol_id();
        let is_verifiable =
            shared.protocols.get(protocol).features().nonce && !verified && nonce.is_some();
        let Some(listen) = listen.filter(|_| is_verifiable) else { return true };
        let Some(in_flight) = shared.connecting.probes.begin(listen.ip(), PROBE_LIMITS) else { return false };
        if !peer.connection().begin_verification() {
            return true;
        }
        let prober = self.clone();
        let peer = Arc::clone(peer);
        shared.tasks.spawn(async move {
            let answer = prober.probe(protocol, listen).await;
            drop(in_flight);
            peer.connection().end_verification();
            prober.record_verification(&peer, listen, nonce, answer);
        });
        true
    }

    fn record_verification(
        &self,
        peer: &Peer,
        listen: SocketAddr,
        nonce: Option<Nonce>,
        answer: Result<Hello, ConnectError>,
    ) {
        let shared = &self.shared;
        if !matches!(&answer, Ok(hello) if hello.nonce == nonce) {
            let is_nobody = |error: &ConnectError| {
                matches!(error, ConnectError::Io(io) if io.kind() == io::ErrorKind::ConnectionRefused)
            };
            // No room or no time there: it is asked again with one of the next pings.
            let may_be_true = answer.is_err_and(|error| !is_nobody(&error));
            if may_be_true && peer.connection().count_failed_verification() < MAX_FAILED_PROBES {
                return;
            }
            tracing::debug!(peer = %peer.key(), %listen, "does not listen where it claims");
            // A false claim, or an unreachable address: not asked again on this connection.
            peer.update_info(|info| PeerInfo { listen: None, ..info.clone() });
            return;
        }
        peer.update_info(|info| PeerInfo { listen_verified: true, ..info.clone() });
        let now = WallTime::now();
        shared.protocols.remember_hint(listen, peer.connection().protocol_id());
        let max = shared.runtime_config().discovery.max_addrs_per_source;
        if shared.book.count_at(Source::of(listen.ip()), max) < max {
            // A book that refuses the address changes nothing else.
            let _ = shared.book.add(listen, ReportedBy::Peer(peer.addr().ip()), now);
        }
        shared.book.record(&listen, DialOutcome::Connected, now);
        shared.wake_maintenance();
    }
}
