//! Connections that we open: asked for, or of the node's own accord.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::address_book::{DialOutcome, WallTime};
use crate::base::{Direction, PeerId, Tick, canonical};
use crate::pool::{Claim, ClaimFailure, ClaimHolder, Permit, SlotClass};
use crate::transport::BoxStream;
use crate::wire::{Goodbye, GoodbyeReason};

use crate::node::error::ConnectError;
use crate::node::api::events::NodeEvent;
use crate::node::connect::handshake::{PROBE_BIT, greet};
use crate::node::session::info::{NodeConnection, Peer};
use crate::node::connect::reservation::{CompletedHandshake, HandshakeInfo, HandshakenStream, Reservation};
use crate::node::runtime::shared::{Shared, count};

impl Shared {
    /// Dials an address and makes the connection a live peer. Outcomes go to the book.
    ///
    /// Invariant 20. Statement: a future that is dropped at any of its awaits has given everything back: socket, slot, key, place
    /// among the instances. Enforced by: each is a value that the future owns and that gives back in its drop; what must go on
    /// without it is spawned. Breaks if: something is taken, and an await comes before the value that gives it back.
    ///
    /// # Cancel safety
    /// Dropping the future closes what was opened and gives back slot and key.
    pub(crate) async fn dial(self: &Arc<Self>, addr: SocketAddr) -> Result<Arc<Peer>, ConnectError> {
        let addr = canonical(addr);
        self.dial_in(self.tongues.at(addr), addr).await
    }

    /// As [`Shared::dial`], in this dialect.
    ///
    /// Invariant 2. Statement: a dial that fails ends no session that came meanwhile, under whatever key. Enforced by: what a dial
    /// has is its claim, which releases its own slot of the map only; of a failure the book is told, and nothing is looked up to be
    /// removed. Breaks if: somebody departs whoever is at the address of a dial that failed.
    pub(crate) async fn dial_in(
        self: &Arc<Self>,
        tongue: usize,
        addr: SocketAddr,
    ) -> Result<Arc<Peer>, ConnectError> {
        let addr = canonical(addr);
        let within = self.runtime_config().handshake_timeout;
        let dialled = self.dial_within(tongue, addr, within);
        let outcome = tokio::select! {
            biased;
            () = self.stopped() => Err(ConnectError::Shutdown),
            outcome = timeout(within, dialled) => outcome.unwrap_or(Err(ConnectError::Timeout)),
        };
        let outcome = outcome.map_err(|error| match (self.connected_at(tongue, addr), &error) {
            // Who refuses by closing cannot say that another connection of ours is there already: it is.
            (Some(peer), ConnectError::Eof | ConnectError::Io(_)) => {
                ConnectError::AlreadyConnected(*peer.key())
            }
            // It has met its own instance.
            (_, ConnectError::Refused(goodbye)) if goodbye.reason == GoodbyeReason::SelfDial => {
                ConnectError::SelfDial
            }
            _ => error,
        });
        self.note_dial(tongue, addr, &outcome);
        outcome
    }

    /// The live peer at an address, where the dialect's rules know its key beforehand.
    pub(crate) fn connected_at(&self, tongue: usize, addr: SocketAddr) -> Option<Arc<Peer>> {
        self.tongues.get(tongue).policy().key_at(addr).and_then(|key| self.pool.get(&key))
    }

    async fn dial_within(
        self: &Arc<Self>,
        tongue: usize,
        addr: SocketAddr,
        within: Duration,
    ) -> Result<Arc<Peer>, ConnectError> {
        let speaks = &**self.tongues.get(tongue);
        if let Some(peer) = self.connected_at(tongue, addr) {
            return Err(ConnectError::AlreadyConnected(*peer.key()));
        }
        if let Some(peer) = self.listens_at(addr) {
            return Err(ConnectError::AlreadyConnected(*peer.key()));
        }
        let claim = self.claim_dial(addr, within)?;
        count(&self.counters.dials);
        self.book.record(&addr, DialOutcome::Attempt, WallTime::now());
        let since = self.now();
        let mut stream = self.transport.dial(addr).await?;
        let ours = self.hello(tongue, false)?;
        let (hello, rest) = greet(&mut stream, speaks, &self.budget, &ours).await?;
        self.take_in(Reservation::Claim(claim), tongue, stream, (hello, rest), None, since).await
    }

    /// Makes a peer of a stream on which both greetings are done. Who is not taken is told why, where the dialect can.
    async fn take_in(
        self: &Arc<Self>,
        seat: Reservation,
        tongue: usize,
        stream: BoxStream,
        said: impl Into<CompletedHandshake>,
        identity: Option<[u8; 32]>,
        since: Tick,
    ) -> Result<Arc<Peer>, ConnectError> {
        let CompletedHandshake { mut hello, buffered, pending_requests } = said.into();
        // Who is to become a peer does not merely ask: the bit means nothing, and the application is asked about every peer.
        hello.features &= !PROBE_BIT;
        let key = self.identify(tongue, &mut hello, seat.addr(), seat.direction());
        let taken = match self.check_hello(tongue, &hello, seat.addr()) {
            Ok(()) => {
                let local = stream.local_addr();
                let greeting = Vec::new();
                let about = HandshakeInfo {
                    tongue,
                    hello,
                    buffered,
                    pending_requests,
                    key,
                    identity,
                    local,
                    since,
                    greeting,
                };
                let joined = self.join(seat, HandshakenStream { stream, about }).await;
                joined.map(|joined| joined.spawn(self))
            }
            Err(error) => Err((error, stream)),
        };
        taken.map_err(|(error, stream)| {
            self.part(tongue, stream, &error);
            error
        })
    }

    fn claim_dial(
        self: &Arc<Self>,
        addr: SocketAddr,
        within: Duration,
    ) -> Result<Claim<PeerId, NodeConnection>, ConnectError> {
        if self.book.is_banned_addr(addr, WallTime::now()) {
            return Err(ConnectError::Banned);
        }
        let trusted = self.config.trusted.iter().any(|trusted| canonical(*trusted) == addr);
        let slot = if trusted { SlotClass::Reserved } else { SlotClass::Ordinary };
        let permit = self.pool.admit(addr, Direction::Outbound, slot, self.now().after(within))?;
        permit.claim(PeerId::from_addr(addr)).map_err(|failure| match failure.cause {
            ClaimFailure::Held(ClaimHolder::Live(peer)) => ConnectError::AlreadyConnected(*peer.key()),
            ClaimFailure::Held(ClaimHolder::Claimed { .. }) => ConnectError::InProgress,
            _ => ConnectError::Timeout,
        })
    }

    /// Tells the acceptor why we leave, after it has accepted us.
    fn part(self: &Arc<Self>, tongue: usize, mut stream: BoxStream, error: &ConnectError) {
        let Some(goodbye) = error.goodbye(Duration::ZERO) else { return };
        let Ok(place) = Arc::clone(&self.refusals).try_acquire_owned() else { return };
        let control = crate::wire::Control::Goodbye(Goodbye { retry_after: None, ..goodbye });
        let Some(out) = self.tongues.get(tongue).encode_control(&control) else { return };
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

    fn note_dial(&self, tongue: usize, addr: SocketAddr, outcome: &Result<Arc<Peer>, ConnectError>) {
        let now = WallTime::now();
        let error = match outcome {
            Ok(_) => {
                self.book.record(&addr, DialOutcome::Connected, now);
                return;
            }
            Err(error) => error,
        };
        if matches!(error, ConnectError::SelfDial) {
            count(&self.counters.self_dials);
            self.book.mark_self(addr, now);
            tracing::debug!(%addr, "our own address");
            return;
        }
        if error.is_collision() {
            count(&self.counters.collisions);
            self.book.record(&addr, DialOutcome::Collision, now);
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
        if matches!(error, ConnectError::Wire(_) | ConnectError::Eof | ConnectError::Timeout) {
            self.tongues.doubt(addr, tongue, || {
                self.book.get(&addr).is_some_and(|known| known.last_success.is_some())
            });
        }
        if error.is_exhaustion() {
            self.book.record(&addr, DialOutcome::Deferred, now);
        } else if let (true, true, Some(cause)) =
            (error.is_no_way(), self.pool.is_empty(), error.fail_cause())
        {
            self.book.record(&addr, DialOutcome::NoNetwork(cause), now);
        } else if let ConnectError::Refused(Goodbye { reason: GoodbyeReason::Full, retry_after }) = error {
            self.book.record(&addr, DialOutcome::Busy { retry_after: *retry_after }, now);
        } else if let Some(cause) = error.fail_cause() {
            self.book.record(&addr, DialOutcome::Failed(cause), now);
        }
    }

    /// Dials of the node's own accord, as many as the budget allows.
    ///
    /// Invariant 8. Statement: a collision is no failure: it costs no health and no backoff, and wakes nobody who would dial again.
    /// Enforced by: the book is told of a collision as such, and only other outcomes wake the maintenance, here and where a peer
    /// goes down. Breaks if: a refusal as a duplicate is taken for one of another kind.
    pub(crate) fn dial_in_background(self: &Arc<Self>, addr: SocketAddr, budget: usize) -> bool {
        let Some(dialling) = self.dials.begin(budget) else { return false };
        let shared = Arc::clone(self);
        self.spawn(async move {
            let outcome = shared.dial(addr).await;
            drop(dialling);
            // Only what the book has noted, and so will not offer again at once, is a reason to look for more at once; and not what
            // the next one will meet too.
            let noted = outcome.as_ref().err().is_none_or(|error| {
                matches!(error, ConnectError::SelfDial)
                    || (error.fail_cause().is_some() && !error.is_collision() && !error.is_no_way())
            }) && shared.book.get(&addr).is_some();
            if let Err(error) = outcome {
                if let ConnectError::Refused(Goodbye {
                    reason: GoodbyeReason::Duplicate | GoodbyeReason::Replaced,
                    retry_after,
                }) = error
                {
                    // Not offered again at once, while it is asked.
                    shared.book.record(&addr, DialOutcome::Deferred, WallTime::now());
                    if !shared.learn_alias(shared.tongues.at(addr), addr).await {
                        shared.book.record(&addr, DialOutcome::Busy { retry_after }, WallTime::now());
                    }
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

    /// Takes over a stream that somebody else connected, in the node's first dialect.
    pub(crate) async fn adopt(
        self: &Arc<Self>,
        mut stream: BoxStream,
        direction: Direction,
        addr: SocketAddr,
        identity: Option<[u8; 32]>,
    ) -> Result<Arc<Peer>, ConnectError> {
        let tongue = 0;
        self.adopting(direction, addr, async |permit, since| match direction {
            Direction::Outbound => {
                let ours = self.hello(tongue, false)?;
                let speaks = &**self.tongues.get(tongue);
                let said = greet(&mut stream, speaks, &self.budget, &ours).await?;
                self.take_in(Reservation::Permit(permit), tongue, stream, said, identity, since).await
            }
            Direction::Inbound => {
                let joined = self.handshake_inbound(tongue, stream, permit, identity).await;
                joined.map(|joined| joined.spawn(self)).map_err(|(error, stream)| {
                    if let Some(stream) = stream {
                        self.tell_refusal(tongue, stream, &error);
                    }
                    error
                })
            }
        })
        .await
    }

    /// Takes over a stream whose handshake somebody else has done.
    pub(crate) async fn adopt_handshaken(
        self: &Arc<Self>,
        tongue: usize,
        stream: BoxStream,
        direction: Direction,
        addr: SocketAddr,
        said: CompletedHandshake,
    ) -> Result<Arc<Peer>, ConnectError> {
        self.adopting(direction, addr, async |permit, since| {
            self.take_in(Reservation::Permit(permit), tongue, stream, said, None, since).await
        })
        .await
    }

    /// Gets a slot for somebody else's stream and works under its deadline.
    async fn adopting(
        self: &Arc<Self>,
        direction: Direction,
        addr: SocketAddr,
        work: impl AsyncFnOnce(Permit<PeerId, NodeConnection>, Tick) -> Result<Arc<Peer>, ConnectError>,
    ) -> Result<Arc<Peer>, ConnectError> {
        let addr = canonical(addr);
        let within = self.runtime_config().handshake_timeout;
        let since = self.now();
        if self.book.is_banned_addr(addr, WallTime::now()) {
            return Err(ConnectError::Banned);
        }
        let permit = self.pool.admit(addr, direction, SlotClass::Ordinary, since.after(within))?;
        tokio::select! {
            biased;
            () = self.stopped() => Err(ConnectError::Shutdown),
            adopted = timeout(within, work(permit, since)) => adopted.unwrap_or(Err(ConnectError::Timeout)),
        }
    }
}
