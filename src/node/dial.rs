//! Connections that we open: asked for, or of the node's own accord.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::base::{Direction, PeerId, canonical};
use crate::book::{Outcome, Source, WallTime};
use crate::pool::{Claim, ClaimFailure, Holder, Slot};
use crate::transport::BoxStream;
use crate::wire::{Goodbye, GoodbyeReason, Hello};

use super::error::ConnectError;
use super::events::NodeEvent;
use super::handshake::{greet, refuse};
use super::info::{Conn, Peer};
use super::join::{About, Greeted, Seat};
use super::shared::{Shared, count};

impl Shared {
    /// Dials an address and makes the connection a live peer. Outcomes go to the book.
    ///
    /// # Cancel safety
    /// Dropping the future closes what was opened and gives back slot and key.
    pub(super) async fn dial(self: &Arc<Self>, addr: SocketAddr) -> Result<Arc<Peer>, ConnectError> {
        let addr = canonical(addr);
        let within = self.hot().handshake;
        let dialled = self.dial_within(addr, within);
        let outcome = tokio::select! {
            biased;
            () = self.stopped() => Err(ConnectError::Shutdown),
            outcome = timeout(within, dialled) => outcome.unwrap_or(Err(ConnectError::Timeout)),
        };
        self.note_dial(addr, &outcome);
        outcome
    }

    async fn dial_within(
        self: &Arc<Self>,
        addr: SocketAddr,
        within: Duration,
    ) -> Result<Arc<Peer>, ConnectError> {
        let claim = self.claim_dial(addr, within)?;
        count(&self.counters.dials);
        self.book.record(&addr, Outcome::Attempt, WallTime::now());
        let since = self.now();
        let mut stream = self.transport.dial(addr).await?;
        let ours = self.hello(false)?;
        let (hello, rest) = greet(&mut stream, &*self.voice.dialect, &ours).await?;
        if let Err(error) = self.check_hello(&hello, addr) {
            self.part(stream, &error);
            return Err(error);
        }
        let local = stream.local_addr();
        let greeted = Greeted {
            stream,
            about: About { hello, rest, identity: None, local, since, greeting: Vec::new() },
        };
        self.join(Seat::Claim(claim), greeted).await.map_err(|(error, stream)| {
            self.part(stream, &error);
            error
        })
    }

    fn claim_dial(
        self: &Arc<Self>,
        addr: SocketAddr,
        within: Duration,
    ) -> Result<Claim<PeerId, Conn>, ConnectError> {
        if self.book.is_banned_addr(addr, WallTime::now()) {
            return Err(ConnectError::Banned);
        }
        let trusted = self.config.trusted.iter().any(|trusted| canonical(*trusted) == addr);
        let slot = if trusted { Slot::Reserved } else { Slot::Ordinary };
        let permit = self.pool.admit(addr, Direction::Outbound, slot, self.now().after(within))?;
        permit.claim(PeerId::from_addr(addr)).map_err(|failure| match failure.why {
            ClaimFailure::Held(Holder::Live(peer)) => ConnectError::AlreadyConnected(*peer.key()),
            ClaimFailure::Held(Holder::Claimed { .. }) => ConnectError::InProgress,
            _ => ConnectError::Timeout,
        })
    }

    /// Tells the acceptor why we leave, after it has accepted us.
    fn part(self: &Arc<Self>, mut stream: BoxStream, error: &ConnectError) {
        use crate::wire::Dialect as _;
        let Some(goodbye) = error.goodbye(Duration::ZERO) else { return };
        let Ok(place) = Arc::clone(&self.refusals).try_acquire_owned() else { return };
        let mut out = bytes::BytesMut::new();
        let control = crate::wire::Control::Goodbye(Goodbye { retry_after: None, ..goodbye });
        if !matches!(self.voice.dialect.encode_control(&control, &mut out), Ok(true)) {
            return;
        }
        let shared = Arc::clone(self);
        self.spawn(async move {
            let parting = async {
                use tokio::io::{AsyncReadExt, AsyncWriteExt};
                // The acceptor may be gone already; then it needs no goodbye.
                let _ = stream.write_all(&out).await;
                let _ = stream.shutdown().await;
                let mut scrap = [0u8; 512];
                while matches!(stream.read(&mut scrap).await, Ok(count) if count > 0) {}
            };
            tokio::select! {
                () = shared.stopped() => {}
                _ = timeout(Duration::from_secs(1), parting) => {}
            }
            drop(place);
        });
    }

    fn note_dial(&self, addr: SocketAddr, outcome: &Result<Arc<Peer>, ConnectError>) {
        let now = WallTime::now();
        let error = match outcome {
            Ok(_) => {
                self.book.record(&addr, Outcome::Connected, now);
                return;
            }
            Err(error) => error,
        };
        let refused_as_self =
            matches!(error, ConnectError::Refused(goodbye) if goodbye.reason == GoodbyeReason::SelfDial);
        if matches!(error, ConnectError::SelfDial) || refused_as_self {
            count(&self.counters.self_dials);
            self.book.mark_self(addr, now);
            tracing::debug!(%addr, "our own address");
            return;
        }
        if error.is_collision() {
            count(&self.counters.collisions);
            self.book.record(&addr, Outcome::Collision, now);
            tracing::debug!(%addr, reason = %error, "dial gave way");
            return;
        }
        count(&self.counters.dial_failures);
        if let ConnectError::Admission(_) = error {
            // Our own want of room says nothing about the address.
            tracing::debug!(%addr, reason = %error, "not dialled");
            return;
        }
        tracing::info!(%addr, reason = %error, "dial failed");
        if let ConnectError::Refused(Goodbye { reason: GoodbyeReason::Full, retry_after }) = error {
            self.book.record(&addr, Outcome::Busy { retry_after: *retry_after }, now);
        } else if let Some(cause) = error.fail_cause() {
            self.book.record(&addr, Outcome::Failed(cause), now);
        }
    }

    /// Dials of the node's own accord, as many as the budget allows.
    pub(super) fn dial_in_background(self: &Arc<Self>, addr: SocketAddr, budget: usize) -> bool {
        let Some(dialling) = self.dials.begin(budget) else { return false };
        let shared = Arc::clone(self);
        self.spawn(async move {
            let outcome = shared.dial(addr).await;
            drop(dialling);
            // Only what the book has noted, and so will not offer again at once, is a reason to look for more at once.
            let noted = outcome.as_ref().err().is_none_or(|error| {
                matches!(error, ConnectError::SelfDial)
                    || (error.fail_cause().is_some() && !error.is_collision())
            });
            if let Err(error) = outcome {
                if matches!(&error, ConnectError::Refused(goodbye) if goodbye.reason == GoodbyeReason::Duplicate) {
                    shared.learn_alias(addr).await;
                }
                if !error.is_collision() && shared.events.is_heard() {
                    shared.events.send(NodeEvent::DialFailed { addr, cause: Arc::new(error) });
                }
            }
            if noted {
                shared.kick.notify_one();
            }
        });
        true
    }

    /// An acceptor said that we are connected already: asks it who it is, so that this address is known as another name of
    /// that peer and not dialled again and again.
    async fn learn_alias(self: &Arc<Self>, addr: SocketAddr) {
        let Some(_probing) = self.probes.begin(self.hot().dial_budget) else { return };
        let Ok(Hello { nonce: Some(nonce), .. }) = self.ask_who(addr).await else { return };
        let Some(peer) = self.instances.peer(nonce) else { return };
        if peer.direction() == Direction::Inbound {
            // It dialled us, so the book knows nothing else of it: now it does.
            peer.update_info(|info| super::info::PeerInfo {
                listen: Some(addr),
                listen_verified: true,
                ..info.clone()
            });
            self.book.record(&addr, Outcome::Connected, WallTime::now());
        } else if self.book.set_alias(addr, peer.addr()) {
            tracing::debug!(%addr, of = %peer.addr(), "another address of a peer");
        }
    }

    /// Asks who listens at an address, without connecting.
    pub(super) async fn ask_who(self: &Arc<Self>, addr: SocketAddr) -> Result<Hello, ConnectError> {
        let within = self.hot().handshake;
        let asking = async {
            let mut stream = self.transport.dial(addr).await?;
            let ours = self.hello(true)?;
            let (hello, _) = greet(&mut stream, &*self.voice.dialect, &ours).await?;
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
    pub(super) fn verify_listen(self: &Arc<Self>, peer: &Arc<Peer>) -> bool {
        let (listen, nonce, verified) =
            peer.read_info(|info| (info.listen, info.nonce, info.listen_verified));
        let Some(listen) = listen.filter(|_| !verified && nonce.is_some()) else { return true };
        let Some(probing) = self.probes.begin(self.hot().dial_budget) else { return false };
        if !peer.connection().begin_verifying() {
            return true;
        }
        let shared = Arc::clone(self);
        let peer = Arc::clone(peer);
        self.spawn(async move {
            let asked = shared.ask_who(listen).await;
            drop(probing);
            peer.connection().end_verifying();
            if !asked.is_ok_and(|hello| hello.nonce == nonce) {
                tracing::debug!(peer = %peer.key(), %listen, "does not listen where it says");
                // Claimed falsely or unreachable: not asked again on this connection.
                peer.update_info(|info| super::info::PeerInfo { listen: None, ..info.clone() });
                return;
            }
            peer.update_info(|info| super::info::PeerInfo { listen_verified: true, ..info.clone() });
            let now = WallTime::now();
            // A full or picky book is no reason to do anything else.
            let _ = shared.book.add(listen, Source::Peer(peer.addr().ip()), now);
            shared.book.record(&listen, Outcome::Connected, now);
            shared.kick.notify_one();
        });
        true
    }

    /// Takes over a stream that somebody else connected.
    pub(super) async fn adopt(
        self: &Arc<Self>,
        mut stream: BoxStream,
        direction: Direction,
        addr: SocketAddr,
        identity: Option<[u8; 32]>,
    ) -> Result<Arc<Peer>, ConnectError> {
        let within = self.hot().handshake;
        let since = self.now();
        if self.book.is_banned_addr(addr, WallTime::now()) {
            return Err(ConnectError::Banned);
        }
        let permit = self.pool.admit(canonical(addr), direction, Slot::Ordinary, since.after(within))?;
        let adopting = async {
            use super::handshake::read_hello;
            let dialect = &*self.voice.dialect;
            let ours = self.hello(false)?;
            let greeted = match direction {
                Direction::Outbound => greet(&mut stream, dialect, &ours).await,
                Direction::Inbound => read_hello(&mut stream, dialect).await,
            };
            let checked =
                greeted.and_then(|(hello, rest)| self.check_hello(&hello, addr).map(|()| (hello, rest)));
            let (hello, rest) = match checked {
                Ok(greeted) => greeted,
                Err(error) => {
                    if let (Direction::Inbound, Some(goodbye)) = (direction, error.goodbye(Duration::ZERO)) {
                        refuse(&mut stream, dialect, goodbye).await;
                    }
                    return Err(error);
                }
            };
            let greeting = if direction == Direction::Inbound { ours.to_vec() } else { Vec::new() };
            let local = stream.local_addr();
            let greeted = Greeted { stream, about: About { hello, rest, identity, local, since, greeting } };
            self.join(Seat::Permit(permit), greeted).await.map_err(|(error, stream)| {
                match direction {
                    Direction::Inbound => self.tell_refusal(stream, &error),
                    Direction::Outbound => self.part(stream, &error),
                }
                error
            })
        };
        tokio::select! {
            biased;
            () = self.stopped() => Err(ConnectError::Shutdown),
            adopted = timeout(within, adopting) => adopted.unwrap_or(Err(ConnectError::Timeout)),
        }
    }
}
