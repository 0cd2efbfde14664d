//! The path from a stream to a live peer. Read top to bottom, it is the order of the steps:
//!
//! 1. [`Establisher::reserve`]: a slot of the pool, before any await.
//! 2. The caller dials, or has a stream.
//! 3. `handshake`: exchange hellos, identify the peer, check that it belongs here.
//! 4. [`claim`](super::claim): tie-break against other connections of the same peer, claim process
//!    and key.
//! 5. `go_live`: enter the pool, tell subscribers.
//! 6. [`Established`]: the caller spawns the session's task, and records the outcome.
//!
//! Invariant: `same_path_for_both_directions`.
//! - Statement: a connection becomes a peer by the same steps, whichever end dialled.
//! - Enforced by: dialled, accepted and adopted streams all pass [`Establisher::establish`], and no
//!   connection is started elsewhere. The direction is a field of the reservation.
//! - Breaks if: a connection is started by the code that reads or writes hellos.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::io::AsyncWriteExt;

use crate::base::{Direction, PeerId, Source, Tick};
use crate::connection::InitialIo;
use crate::node::api::handle::NodeRef;
use crate::node::api::handler::PeerDecision;
use crate::node::error::ConnectError;
use crate::node::protocol::ProtocolId;
use crate::node::protocol::policy::Identity;
use crate::node::runtime::addr_exchange;
use crate::node::runtime::log_budget::LogKind;
use crate::node::runtime::shared::{Shared, count};
use crate::node::session::callbacks::PeerSession;
use crate::node::session::peer::{NodeConnection, Peer, PeerInfo};
use crate::node::session::task::PeerTask;
use crate::pool::{AdmitError, CommitFailure, DisconnectReason, Permit, SlotClass};
use crate::transport::BoxStream;
use crate::wire::{FirstFrame, Goodbye, GoodbyeReason, Hello, Refusal};

use super::claim::{Placement, claim};
use super::handshake::{
    HelloPurpose, PROBE_BIT, check_network, encode_hello, exchange_hello, read_hello, refused,
};
use super::reservation::{CompletedHandshake, HandshakeInfo, HandshakenStream, Reservation};

/// Turns streams into live peers.
#[derive(Clone)]
pub(crate) struct Establisher {
    shared: Arc<Shared>,
}

/// A stream that is not a peer's yet.
pub(crate) struct NewStream {
    pub(crate) stream: BoxStream,
    pub(crate) protocol: ProtocolId,
    /// The key that the transport proved, if it proves one.
    pub(crate) proven_key: Option<[u8; 32]>,
    /// When the stream was dialled or accepted.
    pub(crate) since: Tick,
}

/// How the far end's hello is obtained.
pub(crate) enum Opening {
    /// We send our hello, and the far end answers with its own.
    Initiate,
    /// The far end sends its hello. Ours is the acceptance, and goes out as the connection's first
    /// bytes.
    Respond,
    /// Both hellos have been exchanged by the caller.
    Completed(Box<CompletedHandshake>),
}

/// Why a stream did not become a peer.
pub(crate) struct Failure {
    pub(crate) error: ConnectError,
    /// The stream, if the far end can still be told.
    pub(crate) stream: Option<BoxStream>,
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        Self { error, stream: None }
    }
}

impl Establisher {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared) }
    }

    /// Reserves a slot until `deadline`.
    ///
    /// Invariant: `inbound_is_reserved_before_the_handshake`.
    /// - Statement: no byte of an inbound stream is read without a slot.
    /// - Enforced by: a [`Reservation`] is an argument of [`Establisher::establish`], and only this
    ///   function makes permits.
    /// - Breaks if: a listener reads before it reserves.
    pub(crate) fn reserve(
        &self,
        addr: SocketAddr,
        direction: Direction,
        class: SlotClass,
        deadline: Tick,
    ) -> Result<Permit<PeerId, NodeConnection>, ConnectError> {
        if self.shared.is_addr_banned(addr) {
            return Err(ConnectError::Banned);
        }
        // A connection that is closing has left the pool, and still has a socket and a task.
        if class == SlotClass::Ordinary && direction == Direction::Inbound {
            let max = self.shared.runtime_config().limits.max_per_source as usize;
            if self.shared.connecting.sessions.lock().of_source(Source::of(addr.ip())) >= max {
                return Err(AdmitError::PerSource.into());
            }
        }
        Ok(self.shared.pool.admit(addr, direction, class, deadline)?)
    }

    /// Makes a stream a live peer.
    ///
    /// # Cancel safety
    /// Dropping the future gives back slot, key and process. Dropping what it returns makes the
    /// peer depart.
    pub(crate) async fn establish(
        &self,
        reservation: Reservation,
        new: NewStream,
        opening: Opening,
    ) -> Result<Established, Failure> {
        let handshaken = self.handshake(&reservation, new, opening).await?;
        let outcome = match claim(&self.shared, reservation, &handshaken.info).await {
            Ok(placement) => self.go_live(placement, handshaken),
            Err(error) => Err((error, handshaken.stream)),
        };
        outcome.map_err(|(error, stream)| Failure { error, stream: Some(stream) })
    }

    /// Obtains the far end's hello, identifies the peer and checks it.
    async fn handshake(
        &self,
        reservation: &Reservation,
        new: NewStream,
        opening: Opening,
    ) -> Result<HandshakenStream, Failure> {
        let NewStream { mut stream, protocol: id, proven_key, since } = new;
        let shared = &*self.shared;
        let (addr, direction) = (reservation.addr(), reservation.direction());
        let protocol = &**shared.protocols.get(id);
        let is_responding = matches!(opening, Opening::Respond);
        let origin = shared.memory_origin(reservation.slot_class(), addr.ip());
        let mut completed: CompletedHandshake = match opening {
            Opening::Completed(completed) => *completed,
            Opening::Initiate => {
                let our_hello = encode_hello(shared, id, HelloPurpose::Connect)?;
                let account = shared.budget.account(origin);
                match exchange_hello(&mut stream, protocol, &account, &our_hello).await? {
                    (FirstFrame::Hello(hello), buffered) => (hello, buffered).into(),
                    (FirstFrame::Refusal(refusal), _) => return Err(self.on_refused(id, addr, refusal).into()),
                }
            }
            Opening::Respond => {
                let account = shared.budget.account(origin);
                match read_hello(&mut stream, protocol, &account).await {
                    Ok(received) => received.into(),
                    Err(error) => return Err(Failure { error, stream: Some(stream) }),
                }
            }
        };
        if !is_responding {
            // Only a dialler can probe. Elsewhere the bit means nothing, and the application is
            // asked about every peer.
            completed.hello.features &= !PROBE_BIT;
        }
        let CompletedHandshake { mut hello, buffered, pending_requests } = completed;
        let Identity { key, instance } = protocol.policy().identify(&hello, addr, direction);
        hello.nonce = instance;
        let first_bytes = self.check_hello(id, &hello, addr).and_then(|()| {
            let acceptance = is_responding.then(|| encode_hello(shared, id, HelloPurpose::Connect));
            acceptance.transpose().map(|bytes| bytes.map_or_else(Vec::new, |bytes| bytes.to_vec()))
        });
        let first_bytes = match first_bytes {
            Ok(bytes) => bytes,
            Err(error) => return Err(Failure { error, stream: Some(stream) }),
        };
        if hello.features & PROBE_BIT != 0 {
            // A prober that does not wait for the answer does not need it.
            let _ = stream.write_all(&first_bytes).await;
            let _ = stream.shutdown().await;
            return Err(ConnectError::Probe.into());
        }
        let local_addr = stream.local_addr();
        let info = HandshakeInfo {
            protocol: id,
            hello,
            buffered,
            pending_requests,
            key,
            proven_key,
            local_addr,
            since,
            first_bytes,
        };
        Ok(HandshakenStream { stream, info })
    }

    /// Notes which addresses an acceptor told instead of accepting us, and why it did not.
    fn on_refused(&self, id: ProtocolId, addr: SocketAddr, refusal: Refusal) -> ConnectError {
        let shared = &*self.shared;
        let error = refused(&refusal, shared.protocols.get(id).version(), shared.config.network);
        if refusal.reason == GoodbyeReason::Full {
            let new = addr_exchange::learn(shared, addr.ip(), id, refusal.addrs);
            tracing::debug!(%addr, new, "a full node told addresses");
            if new > 0 {
                shared.wake_maintenance();
            }
        }
        error
    }

    /// Whether a peer with this hello belongs here at all.
    fn check_hello(&self, id: ProtocolId, hello: &Hello, from: SocketAddr) -> Result<(), ConnectError> {
        let shared = &*self.shared;
        let version = shared.protocols.get(id).version();
        check_network(hello, version, shared.config.network, shared.config.genesis.as_ref())?;
        if hello.nonce == Some(shared.protocols.local_nonce(id)) {
            return Err(ConnectError::SelfDial);
        }
        if hello.features & PROBE_BIT != 0 {
            return Ok(());
        }
        let ask = AssertUnwindSafe(|| shared.handler.accept_peer(hello, from));
        // Without a decision the peer is rejected; the panic does not take the caller down.
        let decision = catch_unwind(ask).unwrap_or_else(|_| {
            count(&shared.counters.panics);
            if shared.may_log(LogKind::HandlerPanic, from.ip()) {
                tracing::error!(%from, "a handler panicked");
            }
            PeerDecision::Reject
        });
        match decision {
            PeerDecision::Accept => Ok(()),
            PeerDecision::Reject => Err(ConnectError::Rejected),
        }
    }

    /// Enters the connection into the pool as a live peer, and tells subscribers.
    fn go_live(
        &self,
        placement: Placement<'_>,
        handshaken: HandshakenStream,
    ) -> Result<Established, (ConnectError, BoxStream)> {
        let shared = &self.shared;
        let Placement { claim, process, resume } = placement;
        let HandshakenStream { stream, info } = handshaken;
        let addr = claim.addr();
        let protocol = shared.protocols.get(info.protocol);
        let capabilities = protocol.policy().capabilities(&info.hello, claim.direction());
        let origin = shared.memory_origin(claim.slot_class(), addr.ip());
        let ready = protocol.prepare(claim.id(), origin, resume, capabilities);
        // Before the application can send a request over it.
        ready.connection().expect_replies(&info.pending_requests);
        let listen = match claim.direction() {
            Direction::Inbound => info.listen_addr(addr),
            Direction::Outbound => info.hello.listen.map(|_| addr),
        };
        let agent = shared.connecting.agents.intern(&info.hello.agent);
        let peer_info = PeerInfo::new(&info.hello, agent, listen, info.local_addr);
        let connection =
            NodeConnection::new(Arc::clone(ready.connection()), info.protocol, info.proven_key.is_some());
        let now = shared.now();
        connection.set_pinged_at(now);
        let peer = match claim.go_live(connection, peer_info, now) {
            Ok(peer) => peer,
            Err(failure) => {
                let error = match failure.cause {
                    CommitFailure::Closed => ConnectError::Shutdown,
                    CommitFailure::Revoked => ConnectError::Timeout,
                };
                return Err((error, stream));
            }
        };
        if let Some(process) = process
            && !process.go_live(&peer)
        {
            // Another connection of the same process overtook this one between its two steps.
            shared.pool.remove(peer.key(), peer.id(), DisconnectReason::Collision);
        }
        if let Err(error) = self.recheck(&peer, &info) {
            return Err((error, stream));
        }
        let session = PeerSession::new(NodeRef::new(Arc::clone(shared)), Arc::clone(&peer));
        shared.events.up(&peer, shared.now());
        if shared.may_log(LogKind::PeerUp, peer.ip()) {
            let (agent, direction) = (&*info.hello.agent, peer.direction());
            tracing::info!(peer = %peer.key(), conn = %peer.id(), ?direction, agent, "peer up");
        }
        let start = InitialIo {
            write_first: &info.first_bytes,
            already_read: info.buffered,
            suppress_declines: !capabilities.rejections,
        };
        let task = ready.start(stream, session, start);
        Ok(Established { peer, task })
    }

    /// Checks a peer that has just entered the pool once more, before anybody is told of it.
    ///
    /// A ban or a stop that came during the handshake did not find it among the live peers.
    fn recheck(&self, peer: &Arc<Peer>, info: &HandshakeInfo) -> Result<(), ConnectError> {
        let shared = &self.shared;
        if shared.is_banned(*peer.key(), peer.addr()) {
            // `never_below_the_floor` does not apply: nobody knows of the peer yet.
            shared.pool.remove(peer.key(), peer.id(), DisconnectReason::Banned);
        }
        let error = match peer.disconnect_reason() {
            Some(DisconnectReason::Banned) => ConnectError::Banned,
            Some(DisconnectReason::Collision) => ConnectError::AlreadyConnected(*peer.key()),
            _ => {
                if shared.is_stopping() {
                    let goodbye = Goodbye::new(GoodbyeReason::Shutdown);
                    peer.connection().handle().close(DisconnectReason::Shutdown, Some(goodbye));
                }
                return Ok(());
            }
        };
        // It never was a peer for the application: no hook has run, no event was sent.
        if let Some(nonce) = info.hello.nonce {
            let processes = &shared.connecting.processes;
            processes.remove(processes.process(info.protocol, nonce, peer.ip()), peer.id());
        }
        Err(error)
    }
}

/// A live peer and the task of its session, which somebody has to run.
#[must_use = "dropped, the peer departs"]
pub(crate) struct Established {
    pub(crate) peer: Arc<Peer>,
    pub(crate) task: PeerTask,
}

impl Established {
    /// Runs the session in a task of its own.
    pub(crate) fn spawn(self, shared: &Shared) -> Arc<Peer> {
        shared.tasks.spawn_peer(self.task);
        self.peer
    }
}
