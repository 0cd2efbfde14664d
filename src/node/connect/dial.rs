//! Connections that we open: because the application asks, or of the node's own accord.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::address_book::{DialOutcome, FailureCause, WallTime};
use crate::base::{Direction, PeerId, canonical};
use crate::node::api::events::NodeEvent;
use crate::node::error::ConnectError;
use crate::node::protocol::ProtocolId;
use crate::node::runtime::log_budget::LogKind;
use crate::node::runtime::outbound_spread::reporter_outside;
use crate::node::runtime::shared::{Shared, count};
use crate::node::session::peer::{NodeConnection, Peer};
use crate::pool::{Claim, ClaimFailure, ClaimHolder, SlotClass};
use crate::wire::{Goodbye, GoodbyeReason};

use super::establish::{Establisher, NewStream, Opening};
use super::goodbye::send_goodbye;
use super::probe::Prober;
use super::reservation::Reservation;
use super::source_slots::SlotLimits;

/// Without a peer and without a dial that reached anybody for this long, it is an outage.
const OUTAGE_AFTER: Duration = Duration::from_secs(10);
/// Peers of one IP address up to which a look-up by address visits each of them.
const MAX_SCANNED_PEERS: usize = 64;

/// Dials addresses and makes the streams peers.
///
/// Invariant: `dropped_futures_leave_nothing_behind`.
/// - Statement: a future dropped at any await has given everything back: socket, slot, key,
///   process.
/// - Enforced by: each is a value that the future owns and that releases in its drop. Work that
///   must go on is spawned.
/// - Breaks if: something is taken, and an await comes before the value that gives it back.
#[derive(Clone)]
pub(crate) struct Dialer {
    shared: Arc<Shared>,
    establisher: Establisher,
}

impl Dialer {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared), establisher: Establisher::new(shared) }
    }

    /// Dials an address in the protocol that it is known for, and makes the connection a live peer.
    /// The outcome goes to the address book.
    ///
    /// # Cancel safety
    /// Dropping the future closes what was opened and gives back slot and key.
    pub(crate) async fn dial(&self, addr: SocketAddr) -> Result<Arc<Peer>, ConnectError> {
        let addr = canonical(addr);
        self.dial_in(self.shared.protocols.for_addr(addr), addr).await
    }

    /// As [`Dialer::dial`], in this protocol.
    ///
    /// Invariant: `failed_dial_spares_the_session_that_arrived`.
    /// - Statement: a failed dial ends no session that came meanwhile, under whatever key.
    /// - Enforced by: a dial owns its claim only, and the claim releases its own slot of the pool.
    ///   A failure is recorded in the book; no peer is looked up to be removed.
    /// - Breaks if: the peer at the address of a failed dial is made to depart.
    pub(crate) async fn dial_in(
        &self,
        protocol: ProtocolId,
        addr: SocketAddr,
    ) -> Result<Arc<Peer>, ConnectError> {
        let addr = canonical(addr);
        let handshake_timeout = self.shared.runtime_config().handshake_timeout;
        let attempt = self.attempt(protocol, addr, handshake_timeout);
        let outcome = self.shared.until_stopped_or(handshake_timeout, attempt).await;
        let outcome = outcome.map_err(|error| self.explain(error, protocol, addr));
        self.record(protocol, addr, &outcome);
        outcome
    }

    /// Reserve, dial, establish, spawn.
    async fn attempt(
        &self,
        protocol: ProtocolId,
        addr: SocketAddr,
        handshake_timeout: Duration,
    ) -> Result<Arc<Peer>, ConnectError> {
        let shared = &self.shared;
        let connected = self.connected_at(protocol, addr).or_else(|| self.verified_listener_at(addr));
        if let Some(peer) = connected {
            return Err(ConnectError::AlreadyConnected(*peer.key()));
        }
        let claim = self.claim_addr(addr, handshake_timeout)?;
        count(&shared.counters.dials);
        shared.book.record(&addr, DialOutcome::Attempt, WallTime::now());
        let since = shared.now();
        let stream = shared.transport.dial(addr).await?;
        let new = NewStream { stream, protocol, proven_key: None, since };
        match self.establisher.establish(Reservation::Claim(claim), new, Opening::Initiate).await {
            Ok(established) => Ok(established.spawn(shared)),
            Err(failure) => {
                if let Some(stream) = failure.stream {
                    send_goodbye(shared, protocol, stream, addr, &failure.error);
                }
                Err(failure.error)
            }
        }
    }

    /// Reserves a slot and claims the key that stands for the address until the peer is identified.
    fn claim_addr(
        &self,
        addr: SocketAddr,
        handshake_timeout: Duration,
    ) -> Result<Claim<PeerId, NodeConnection>, ConnectError> {
        let is_trusted = self.shared.names.trusted().contains(&addr);
        let class =
            if is_trusted { SlotClass::Reserved } else { self.shared.stranger_class(addr.ip()) };
        let deadline = self.shared.now().after(handshake_timeout);
        let permit = self.establisher.reserve(addr, Direction::Outbound, class, deadline)?;
        permit.claim(PeerId::from_addr(addr)).map_err(|failure| match failure.cause {
            ClaimFailure::Held(ClaimHolder::Live(peer)) => ConnectError::AlreadyConnected(*peer.key()),
            ClaimFailure::Held(ClaimHolder::Claimed { .. }) => ConnectError::InProgress,
            _ => ConnectError::Timeout,
        })
    }

    /// Replaces an error by the more precise one that our own state shows.
    fn explain(&self, error: ConnectError, protocol: ProtocolId, addr: SocketAddr) -> ConnectError {
        match (self.connected_at(protocol, addr), &error) {
            // An acceptor that refuses by closing cannot say that we are connected already.
            (Some(peer), ConnectError::Eof | ConnectError::Io(_)) => {
                ConnectError::AlreadyConnected(*peer.key())
            }
            // The acceptor has met its own nonce.
            (_, ConnectError::Refused(goodbye)) if goodbye.reason == GoodbyeReason::SelfDial => {
                ConnectError::SelfDial
            }
            _ => error,
        }
    }

    /// The live peer at an address, where the protocol's policy knows its key beforehand.
    pub(crate) fn connected_at(&self, protocol: ProtocolId, addr: SocketAddr) -> Option<Arc<Peer>> {
        let key = self.shared.protocols.get(protocol).policy().key_at(addr)?;
        self.shared.pool.get(&key)
    }

    /// The peer that dialled us and is verified to listen at this address, if its IP address has
    /// few peers.
    fn verified_listener_at(&self, addr: SocketAddr) -> Option<Arc<Peer>> {
        self.find_at_ip(addr, |peer| {
            peer.read_info(|info| info.listen_verified && info.listen == Some(addr))
        })
    }

    /// Whether a peer at this IP address, if it has few, is connected from `addr` or claims to
    /// listen there. A peer that dialled us is not found under the address that we would dial.
    pub(crate) fn is_connected_or_listening_at(&self, addr: SocketAddr) -> bool {
        let is_at =
            |peer: &Peer| peer.addr() == addr || peer.read_info(|info| info.listen == Some(addr));
        self.find_at_ip(addr, is_at).is_some()
    }

    fn find_at_ip(&self, addr: SocketAddr, matches: impl Fn(&Peer) -> bool) -> Option<Arc<Peer>> {
        let pool = &self.shared.pool;
        if pool.count_by_ip(addr.ip()) > MAX_SCANNED_PEERS {
            return None;
        }
        pool.by_ip(addr.ip()).into_iter().find(|peer| matches(peer))
    }

    /// Records the outcome of a dial: in the counters, the log and the address book.
    fn record(&self, protocol: ProtocolId, addr: SocketAddr, outcome: &Result<Arc<Peer>, ConnectError>) {
        let shared = &self.shared;
        let (book, counters) = (&shared.book, &shared.counters);
        let now = WallTime::now();
        if outcome.as_ref().err().is_none_or(ConnectError::has_reached_somebody) {
            shared.note_reached();
        }
        let error = match outcome {
            Ok(_) => {
                book.record(&addr, DialOutcome::Connected, now);
                return;
            }
            Err(error) => error,
        };
        if matches!(error, ConnectError::SelfDial) {
            count(&counters.self_dials);
            book.mark_self(addr, now);
            tracing::debug!(%addr, "our own address");
            return;
        }
        if error.is_collision() {
            count(&counters.collisions);
            book.record(&addr, DialOutcome::Collision, now);
            tracing::debug!(%addr, reason = %error, "dial gave way to another connection");
            return;
        }
        count(&counters.dial_failures);
        if let ConnectError::Admission(_) = error {
            // Our own lack of slots says nothing about the address.
            tracing::debug!(%addr, reason = %error, "not dialled");
            return;
        }
        if shared.may_log(LogKind::DialFailed, addr.ip()) {
            tracing::info!(%addr, reason = %error, "dial failed");
        }
        if matches!(error, ConnectError::Wire(_) | ConnectError::Eof | ConnectError::Timeout) {
            shared.protocols.forget_hint(addr, protocol, || {
                book.get(&addr).is_some_and(|known| known.last_success.is_some())
            });
        }
        if let Some(outcome) = self.failure_outcome(error) {
            book.record(&addr, outcome, now);
        }
    }

    /// What the address book records of a failed dial.
    fn failure_outcome(&self, error: &ConnectError) -> Option<DialOutcome> {
        if error.is_exhaustion() {
            return Some(DialOutcome::Deferred);
        }
        if let ConnectError::Refused(Goodbye { reason: GoodbyeReason::Full, retry_after }) = error {
            return Some(DialOutcome::Busy { retry_after: *retry_after });
        }
        let cause = error.fail_cause()?;
        // Without any peer our own network may be down, or swallow what we send.
        let is_cut_off = self.shared.pool.is_empty()
            && (error.is_unreachable() || (error.is_silence() && self.shared.reaches_nobody_for(OUTAGE_AFTER)));
        Some(if is_cut_off { DialOutcome::NoNetwork(cause) } else { DialOutcome::Failed(cause) })
    }

    /// Dials in a task of its own, unless too many of the node's own dials are under way; `false`
    /// then.
    ///
    /// Invariant: `collision_is_not_a_failure`.
    /// - Statement: a collision costs no health and no backoff, and does not wake the maintenance
    ///   to dial again.
    /// - Enforced by: the book records a collision as such, and only other outcomes wake the
    ///   maintenance, here and where a peer goes down.
    /// - Breaks if: a refusal as a duplicate is handled as another refusal.
    pub(crate) fn dial_in_background(&self, addr: SocketAddr, limits: SlotLimits) -> bool {
        let connecting = &self.shared.connecting;
        let Some(in_flight) = connecting.dials.begin(addr.ip(), limits) else { return false };
        let interval = self.shared.runtime_config().discovery.source_dial_interval;
        let _ = connecting.dialled.record(addr.ip(), interval, self.shared.now());
        // The choice of addresses bounds these.
        let of_stranger = reporter_outside(&self.shared, &addr)
            .and_then(|reporter| connecting.dials_of_strangers.begin(reporter, SlotLimits::NONE));
        let dialer = self.clone();
        self.shared.tasks.spawn(async move {
            let outcome = dialer.dial(addr).await;
            drop((in_flight, of_stranger));
            dialer.after_background_dial(addr, outcome).await;
        });
        true
    }

    async fn after_background_dial(&self, addr: SocketAddr, outcome: Result<Arc<Peer>, ConnectError>) {
        let shared = &self.shared;
        // Looking for more at once is useful only after an outcome that the book has recorded, so
        // that it does not offer the address again at once, and that the next address will not meet
        // too.
        let dial_more = outcome.as_ref().err().is_none_or(|error| {
            matches!(error, ConnectError::SelfDial)
                || (error.fail_cause().is_some() && !error.is_collision() && !error.is_unreachable())
        }) && shared.book.get(&addr).is_some();
        if let Err(error) = outcome {
            if let ConnectError::Refused(Goodbye {
                reason: GoodbyeReason::Duplicate | GoodbyeReason::Replaced, ..
            }) = error
            {
                self.resolve_duplicate(addr).await;
            }
            if !error.is_collision() && shared.events.has_subscribers() {
                shared.events.send(NodeEvent::DialFailed { addr, cause: Arc::new(error) });
            }
        }
        if dial_more {
            shared.wake_maintenance();
        }
    }

    /// An acceptor refused us as a duplicate: finds the peer whose alias the address is, or counts
    /// a failure.
    async fn resolve_duplicate(&self, addr: SocketAddr) {
        let book = &self.shared.book;
        // Keeps the address from being offered during the probe.
        book.record(&addr, DialOutcome::Deferred, WallTime::now());
        let protocol = self.shared.protocols.for_addr(addr);
        if !Prober::new(&self.shared).learn_alias(protocol, addr).await {
            book.record(&addr, DialOutcome::Failed(FailureCause::Busy), WallTime::now());
        }
    }
}
