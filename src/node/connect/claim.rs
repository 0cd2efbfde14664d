//! The step that decides between two connections to one peer: claims the process and the key, or
//! finds who keeps them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::address_book::{DialOutcome, WallTime};
use crate::base::{Direction, PeerId, canonical_ip};
use crate::connection::ResumePoints;
use crate::node::error::ConnectError;
use crate::node::runtime::shared::Shared;
use crate::node::session::peer::{NodeConnection, Peer};
use crate::pool::{Claim, ClaimFailure, ClaimHolder, DisconnectReason};

use super::process_index::{Owner, Pending};
use super::reservation::{HandshakeInfo, Reservation};
use super::tie_break::{Candidate, Decision, Nonces, PROBE_TIMEOUT, resolve};

/// The longest that a connection waits for its predecessor's task to report its log positions.
const TAKE_OVER_TIMEOUT: Duration = Duration::from_millis(200);

/// All that a connection needs to go live.
pub(crate) struct Placement<'a> {
    pub(crate) claim: Claim<PeerId, NodeConnection>,
    /// `None` if the protocol has no nonces, or a proven key decides alone.
    pub(crate) process: Option<Pending<'a>>,
    /// The log positions of the connection it takes over from.
    pub(crate) resume: Option<ResumePoints>,
}

/// Claims the process and the key of a connection whose handshake is over.
///
/// # Errors
/// [`ConnectError::Banned`]; [`ConnectError::AlreadyConnected`] if another connection stays;
/// [`ConnectError::Timeout`] or [`ConnectError::Shutdown`] if the slot was revoked.
///
/// # Cancel safety
/// Dropping the future gives back slot, key and process.
pub(crate) async fn claim<'a>(
    shared: &'a Shared,
    reservation: Reservation,
    info: &HandshakeInfo,
) -> Result<Placement<'a>, ConnectError> {
    let (id, addr, direction) = (reservation.id(), reservation.addr(), reservation.direction());
    let key = match (info.proven_key, info.key, &reservation) {
        (Some(proven), ..) => PeerId::Key(proven),
        (None, Some(key), _) => key,
        (None, None, Reservation::Claim(claim)) => *claim.key(),
        (None, None, Reservation::Permit(_)) => PeerId::from_addr(addr),
    };
    if shared.is_banned(key, addr) {
        return Err(ConnectError::Banned);
    }
    if direction == Direction::Inbound {
        await_outbound(shared, info, addr).await;
    }
    let authenticated = info.proven_key.is_some();
    let by_address = !shared.protocols.get(info.protocol).features().nonce;
    let candidate = Candidate {
        direction,
        since: info.since,
        authenticated,
        by_address,
        ip: canonical_ip(addr.ip()),
    };
    let mut contest = Contest { shared, info, key, addr, candidate, predecessor: None };
    let owner = Owner { conn: id, key, candidate, peer: None };
    let process = contest.claim_process(owner).await?;
    let claim = contest.claim_key(reservation).await?;
    // A ban may have come meanwhile. Checked before the predecessor departs: it does not leave for
    // a banned connection.
    if shared.is_banned(key, addr) {
        return Err(ConnectError::Banned);
    }
    let resume = match contest.predecessor {
        Some(old) => Some(take_over(shared, &old).await),
        None => None,
    };
    Ok(Placement { claim, process, resume })
}

/// Delays an inbound connection that would lose to a dial of ours still under way, until that dial
/// is decided.
///
/// Invariant: `preferred_direction_has_a_deadline`.
/// - Statement: a preference for a direction always ends.
/// - Enforced by: the dial's own deadline releases its claim, and the whole handshake runs under
///   the permit's deadline.
/// - Breaks if: a claim can outlive its deadline.
async fn await_outbound(shared: &Shared, info: &HandshakeInfo, from: SocketAddr) {
    let Some(theirs) = info.hello.nonce else { return };
    if shared.protocols.local_nonce(info.protocol) >= theirs {
        return;
    }
    let Some(listen) = info.listen_addr(from) else { return };
    let dialled = PeerId::from_addr(listen);
    if let Some(watch) = shared.pool.watch_claim(&dialled) {
        tracing::debug!(%from, %dialled, "inbound connection waits for our dial to the same peer");
        watch.await;
    }
}

/// Ends the connection that is replaced, and waits a moment for the log positions it reached.
async fn take_over(shared: &Shared, old: &Arc<Peer>) -> ResumePoints {
    shared.pool.remove(old.key(), old.id(), DisconnectReason::Collision);
    let connection = old.connection().handle();
    let waiting = match connection.final_resume_points() {
        Ok(positions) => return positions,
        Err(waiting) => waiting,
    };
    match timeout(TAKE_OVER_TIMEOUT, waiting).await {
        Ok(Ok(positions)) => positions,
        // Its task hangs in a handler, or the runtime is busy. What it has surely written is known
        // all the same.
        _ => connection.resume_points(),
    }
}

/// A new connection against those that are there.
struct Contest<'a, 'i> {
    shared: &'a Shared,
    info: &'i HandshakeInfo,
    key: PeerId,
    addr: SocketAddr,
    candidate: Candidate,
    /// The live peer that the new connection takes over from.
    predecessor: Option<Arc<Peer>>,
}

impl<'a> Contest<'a, '_> {
    /// Becomes the owner of the peer's process, or fails because another connection stays the
    /// owner.
    async fn claim_process(&mut self, owner: Owner) -> Result<Option<Pending<'a>>, ConnectError> {
        let Some(theirs) = self.info.hello.nonce else { return Ok(None) };
        let processes = &self.shared.connecting.processes;
        let process = processes.process(self.info.protocol, theirs, self.candidate.ip);
        let mut instead_of = None;
        loop {
            let old = match processes.claim(process, owner.clone(), instead_of) {
                Ok(pending) => return Ok(Some(pending)),
                Err(old) => old,
            };
            if (self.candidate.authenticated || old.candidate.authenticated) && old.key != self.key {
                // A proven key identifies the peer. Anybody can repeat a nonce.
                return Ok(None);
            }
            instead_of = Some(old.conn);
            let is_gone = old.peer.as_ref().is_some_and(|peer| !peer.is_live());
            if is_gone || self.replaces(old.candidate, old.peer.as_ref(), theirs).await? {
                self.predecessor.clone_from(&old.peer);
                continue;
            }
            return Err(ConnectError::AlreadyConnected(old.key));
        }
    }

    /// Claims the key, from its holder where the rule says so.
    async fn claim_key(
        &mut self,
        mut reservation: Reservation,
    ) -> Result<Claim<PeerId, NodeConnection>, ConnectError> {
        loop {
            let (back, why) = match reservation.claim(self.key) {
                Ok(claim) => return Ok(claim),
                Err(failure) => failure,
            };
            reservation = back;
            match why {
                ClaimFailure::Held(ClaimHolder::Live(old)) => self.replace_holder(old).await?,
                ClaimFailure::Held(ClaimHolder::Claimed { watch, .. }) => {
                    watch.await;
                }
                _ => {
                    return Err(if self.shared.is_stopping() {
                        ConnectError::Shutdown
                    } else {
                        ConnectError::Timeout
                    });
                }
            }
        }
    }

    /// Makes the live holder of the key depart, or fails if it stays.
    async fn replace_holder(&mut self, old: Arc<Peer>) -> Result<(), ConnectError> {
        let key = self.key;
        if old.connection().protocol_id() != self.info.protocol {
            // Nonces of different protocols cannot be compared.
            return Err(ConnectError::AlreadyConnected(key));
        }
        let theirs_before = old.read_info(|info| info.nonce);
        let (Some(_), Some(theirs_before)) = (self.info.hello.nonce, theirs_before) else {
            return Err(ConnectError::AlreadyConnected(key));
        };
        let since = old.connected_at();
        let before = Candidate { direction: old.direction(), since, ip: old.ip(), ..self.candidate };
        // What was decided about it as the owner of the process is not decided again: a second
        // probe would take what is left of the handshake's time.
        let is_beaten = self.predecessor.as_ref().is_some_and(|beaten| beaten.id() == old.id());
        if !is_beaten && !self.replaces(before, Some(&old), theirs_before).await? {
            return Err(ConnectError::AlreadyConnected(key));
        }
        self.shared.pool.remove(&key, old.id(), DisconnectReason::Replaced);
        // A live predecessor is the same process: its positions are resumed, and it has yet to
        // depart.
        if !self.predecessor.as_ref().is_some_and(|beaten| beaten.is_live()) {
            self.predecessor = Some(old);
        }
        Ok(())
    }

    /// Applies the rule of [`tie_break`](super::tie_break), with the ping that it may ask for.
    async fn replaces(
        &self,
        old: Candidate,
        old_peer: Option<&Arc<Peer>>,
        theirs_before: crate::base::Nonce,
    ) -> Result<bool, ConnectError> {
        let shared = self.shared;
        let new = self.candidate;
        // The caller has checked that there is a nonce.
        let theirs = self.info.hello.nonce.unwrap_or(theirs_before);
        let ours = shared.protocols.local_nonce(self.info.protocol);
        let handshake_timeout = shared.runtime_config().handshake_timeout;
        let nonces = Nonces { ours, theirs, theirs_before };
        match resolve(new, old, nonces, handshake_timeout, shared.now()) {
            Decision::TakeNew => Ok(true),
            Decision::KeepOld => Ok(false),
            Decision::KeepOldAsAlias => {
                if let Some(kept) = old_peer {
                    self.record_alias(kept, new.is_same_host(&old));
                }
                Ok(false)
            }
            Decision::ProbeOld => {
                // Without a peer it is in its handshake, and so young enough to stay.
                let Some(kept) = old_peer else { return Ok(false) };
                // The answer must come while this handshake still lasts, and a second one may be
                // asked for.
                let left = handshake_timeout.saturating_sub(shared.now().since(self.info.since));
                let within = PROBE_TIMEOUT.min(left * 3 / 4);
                let answered = timeout(within, kept.connection().handle().probe()).await;
                // A paused peer cannot answer: we do not read from it
                // (`reader_never_waits_for_a_handler`).
                let is_alive = matches!(answered, Ok(Some(_))) || (kept.is_live() && kept.is_paused());
                if is_alive && new.direction == Direction::Outbound {
                    self.record_alias(kept, new.is_same_host(&old));
                }
                Ok(!is_alive)
            }
        }
    }

    /// Records that the dialled address leads to a connected peer, by the nonce in its hello.
    ///
    /// - On the same host it is an alias, and not dialled again while that holds.
    /// - On another host it waits as a busy address does. An honest process would have refused the
    ///   second dial itself, so one of the two addresses only repeats the nonce, and an alias would
    ///   outlast it.
    fn record_alias(&self, old: &Arc<Peer>, is_same_host: bool) {
        let book = &self.shared.book;
        let is_known = old.direction() == Direction::Outbound
            && (old.addr() == self.addr || (is_same_host && book.set_alias(self.addr, old.addr())));
        if !is_known {
            book.record(&self.addr, DialOutcome::Busy { retry_after: None }, WallTime::now());
        }
    }
}
