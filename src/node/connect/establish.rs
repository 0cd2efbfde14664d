//! From a greeted connection to a live peer: who it is, whether it stays, and its start.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::address_book::{DialOutcome, WallTime};
use crate::base::{Direction, PeerId, canonical_ip};
use crate::connection::{InitialIo, ResumePoints};
use crate::pool::{Claim, ClaimFailure, ClaimHolder, CommitFailure, DisconnectReason};
use crate::transport::BoxStream;
use crate::wire::{Goodbye, GoodbyeReason};

use crate::node::connect::tie_break::{Candidate, Decision, Nonces, PROBE, judge};
use crate::node::error::ConnectError;
use crate::node::api::handle::NodeRef;
use crate::node::session::callbacks::PeerSession;
use crate::node::session::info::{NodeConnection, Peer, PeerInfo};
use crate::node::connect::process_index::{Owner, Pending};
use crate::node::session::task::PeerTask;
use crate::node::connect::reservation::{HandshakeInfo, HandshakenStream, Reservation};
use crate::node::runtime::shared::Shared;

impl Shared {
    /// Makes a greeted connection a live peer, or says why not; on failure the stream comes back, so that the other end can be
    /// told.
    ///
    /// Invariant 27. Statement: whoever dialled, a connection becomes a peer, and its link starts, in the same steps.
    /// Enforced by: dialled, accepted and adopted streams all come through here once they are greeted, and no link is started
    /// elsewhere; the direction is a field of the seat. Breaks if: a link is started by whoever greets.
    ///
    /// # Cancel safety
    /// Dropping the future gives back slot, key and place among the instances; dropping what it returns, the peer departs.
    pub(crate) async fn join(
        self: &Arc<Self>,
        seat: Reservation,
        greeted: HandshakenStream,
    ) -> Result<Established, (ConnectError, BoxStream)> {
        match self.place(seat, &greeted.about).await {
            Ok(placed) => self.go_live(placed, greeted),
            Err(error) => Err((error, greeted.stream)),
        }
    }

    async fn place<'a>(
        &'a self,
        seat: Reservation,
        about: &HandshakeInfo,
    ) -> Result<Placement<'a>, ConnectError> {
        let (id, addr, direction) = (seat.id(), seat.addr(), seat.direction());
        let key = match (about.identity, about.key, &seat) {
            (Some(identity), ..) => PeerId::Key(identity),
            (None, Some(key), _) => key,
            (None, None, Reservation::Claim(claim)) => *claim.key(),
            (None, None, Reservation::Permit(_)) => PeerId::from_addr(addr),
        };
        if self.is_barred(key, addr) {
            return Err(ConnectError::Banned);
        }
        if direction == Direction::Inbound {
            self.hold(about, addr).await;
        }
        let authenticated = about.identity.is_some();
        let contender =
            Candidate { direction, since: about.since, authenticated, ip: canonical_ip(addr.ip()) };
        let speaker = Owner { conn: id, key, contender, peer: None };
        let mut heir_of = None;
        let entered = self.settle(speaker, about, addr, &mut heir_of).await?;
        let claim = self.claim(seat, key, contender, about, &mut heir_of).await?;
        // All this took its time; and for one that is not let in nobody leaves.
        if self.is_barred(key, addr) {
            return Err(ConnectError::Banned);
        }
        let positions = match heir_of {
            Some(old) => Some(self.inherit(&old).await),
            None => None,
        };
        Ok(Placement { claim, entered, positions })
    }

    /// Whether a peer of this key at this address is banned.
    fn is_barred(&self, key: PeerId, addr: SocketAddr) -> bool {
        let wall = WallTime::now();
        self.book.is_banned(&key.into(), wall) || self.book.is_banned_addr(addr, wall)
    }

    /// An inbound connection that would lose to a dial of ours still under way waits until that dial is decided.
    ///
    /// Invariant 9. Statement: a preference for a direction always ends. Enforced by: the dial's own deadline releases its
    /// claim, and the whole handshake runs under the permit's. Breaks if: a claim can outlive its deadline.
    async fn hold(&self, about: &HandshakeInfo, from: SocketAddr) {
        let Some(theirs) = about.hello.nonce else { return };
        if self.tongues.instance(about.tongue) >= theirs {
            return;
        }
        let Some(listen) = about.listen(from) else { return };
        let dialled = PeerId::from_addr(listen);
        if let Some(watch) = self.pool.watch_claim(&dialled) {
            tracing::debug!(%from, %dialled, "inbound held until our dial is decided");
            watch.await;
        }
    }

    /// Becomes the speaker for the peer's process, or finds that another connection stays it.
    async fn settle<'a>(
        &'a self,
        speaker: Owner,
        about: &HandshakeInfo,
        addr: SocketAddr,
        heir_of: &mut Option<Arc<Peer>>,
    ) -> Result<Option<Pending<'a>>, ConnectError> {
        let Some(theirs) = about.hello.nonce else { return Ok(None) };
        let ours = self.tongues.instance(about.tongue);
        let pair = Nonces { ours, theirs, theirs_before: theirs };
        let mut instead_of = None;
        loop {
            let instance = (about.tongue, theirs);
            let old = match self.instances.enter(instance, speaker.clone(), instead_of) {
                Ok(entered) => return Ok(Some(entered)),
                Err(old) => old,
            };
            if (speaker.contender.authenticated || old.contender.authenticated) && old.key != speaker.key {
                // What is proven is who it is; anybody can repeat a nonce.
                return Ok(None);
            }
            instead_of = Some(old.conn);
            let gone = old.peer.as_ref().is_some_and(|peer| !peer.is_live());
            if gone
                || self.takes_over(speaker.contender, old.contender, old.peer.as_ref(), pair, addr).await?
            {
                heir_of.clone_from(&old.peer);
                continue;
            }
            return Err(ConnectError::AlreadyConnected(old.key));
        }
    }

    /// Claims the key, taking it from its holder where the rule says so.
    async fn claim(
        &self,
        mut seat: Reservation,
        key: PeerId,
        contender: Candidate,
        about: &HandshakeInfo,
        heir_of: &mut Option<Arc<Peer>>,
    ) -> Result<Claim<PeerId, NodeConnection>, ConnectError> {
        loop {
            let (back, why) = match seat.claim(key) {
                Ok(claim) => return Ok(claim),
                Err(failure) => failure,
            };
            seat = back;
            match why {
                ClaimFailure::Held(ClaimHolder::Live(old)) => {
                    if old.connection().tongue() != about.tongue {
                        // What their instances are called says nothing about each other.
                        return Err(ConnectError::AlreadyConnected(key));
                    }
                    let theirs_before = old.read_info(|info| info.nonce);
                    let (Some(theirs), Some(theirs_before)) = (about.hello.nonce, theirs_before) else {
                        return Err(ConnectError::AlreadyConnected(key));
                    };
                    let pair = Nonces { ours: self.tongues.instance(about.tongue), theirs, theirs_before };
                    let since = old.connected_at();
                    let before = Candidate { direction: old.direction(), since, ip: old.ip(), ..contender };
                    // What was decided about it among the instances need not be asked again: a second probe would take
                    // what is left of the handshake's time.
                    let beaten = heir_of.as_ref().is_some_and(|beaten| beaten.id() == old.id());
                    if !beaten && !self.takes_over(contender, before, Some(&old), pair, seat.addr()).await? {
                        return Err(ConnectError::AlreadyConnected(key));
                    }
                    if theirs != theirs_before
                        && old.uptime(self.now()) < self.runtime_config().min_replace_age
                    {
                        return Err(ConnectError::TooSoon);
                    }
                    self.pool.remove(&key, old.id(), DisconnectReason::Replaced);
                    // What lives and was beaten among the instances is the same process: that is whose place it takes, and who has
                    // yet to leave.
                    if !heir_of.as_ref().is_some_and(|beaten| beaten.is_live()) {
                        *heir_of = Some(old);
                    }
                }
                ClaimFailure::Held(ClaimHolder::Claimed { watch, .. }) => {
                    watch.await;
                }
                _ => return Err(self.revoked()),
            }
        }
    }

    /// Applies the rule; where it asks for a ping, sends one.
    async fn takes_over(
        &self,
        new: Candidate,
        old: Candidate,
        old_peer: Option<&Arc<Peer>>,
        pair: Nonces,
        addr: SocketAddr,
    ) -> Result<bool, ConnectError> {
        match judge(new, old, pair, self.runtime_config().handshake_timeout, self.now()) {
            Decision::TakeNew => Ok(true),
            Decision::KeepOld => Ok(false),
            Decision::KeepOldAsAlias => {
                if let Some(kept) = old_peer {
                    self.note_kept(addr, kept, new.is_beside(&old));
                }
                Ok(false)
            }
            Decision::ProbeOld => {
                // Without a peer it is in its handshake, and so young enough to stay.
                let Some(kept) = old_peer else { return Ok(false) };
                // The answer must come while this handshake still lasts.
                let within = PROBE.min(self.runtime_config().handshake_timeout / 2);
                let answered = timeout(within, kept.connection().handle().probe()).await;
                // One that we do not read from cannot answer (38).
                let lives = matches!(answered, Ok(Some(_))) || (kept.is_live() && kept.is_paused());
                if lives && new.direction == Direction::Outbound {
                    self.note_kept(addr, kept, new.is_beside(&old));
                }
                Ok(!lives)
            }
        }
    }

    /// An address that we dialled is that of a peer we are connected to, by the nonce it greets with: on the same host it is not dialled
    /// again while that lasts. On another one it waits as one that refused us: an honest process would have refused the second dial
    /// itself, so one of the two only repeats the nonce, and an alias would outlast that one.
    fn note_kept(&self, addr: SocketAddr, old: &Arc<Peer>, is_beside: bool) {
        let known = old.direction() == Direction::Outbound
            && (old.addr() == addr || (is_beside && self.book.set_alias(addr, old.addr())));
        if !known {
            self.book.record(&addr, DialOutcome::Busy { retry_after: None }, WallTime::now());
        }
    }

    /// Ends the connection whose place is taken, and waits a moment for where it stood.
    async fn inherit(&self, old: &Arc<Peer>) -> ResumePoints {
        self.pool.remove(old.key(), old.id(), DisconnectReason::Collision);
        let link = old.connection().handle();
        let waiting = match link.final_resume_points() {
            Ok(positions) => return positions,
            Err(waiting) => waiting,
        };
        match timeout(INHERIT, waiting).await {
            Ok(Ok(positions)) => positions,
            // It hangs in a handler or a runtime that is busy: what it has surely written is known all the same.
            _ => link.resume_points(),
        }
    }

    fn revoked(&self) -> ConnectError {
        if self.is_stopping() { ConnectError::Shutdown } else { ConnectError::Timeout }
    }

    fn go_live(
        self: &Arc<Self>,
        placed: Placement<'_>,
        greeted: HandshakenStream,
    ) -> Result<Established, (ConnectError, BoxStream)> {
        let Placement { claim, entered, positions } = placed;
        let about = &greeted.about;
        let addr = claim.addr();
        let listen = match claim.direction() {
            Direction::Inbound => about.listen(addr),
            Direction::Outbound => about.hello.listen.map(|_| addr),
        };
        let info = PeerInfo::of(&about.hello, self.agents.share(&about.hello.agent), listen, about.local);
        let tongue = self.tongues.get(about.tongue);
        let capabilities = tongue.policy().capabilities(&about.hello, claim.direction());
        let prepared = tongue.prepare(claim.id(), positions, capabilities);
        // Before anybody can ask anything over it.
        prepared.link().expect_replies(&about.pending_requests);
        let conn = NodeConnection::new(Arc::clone(prepared.link()), about.tongue, about.identity.is_some());
        let now = self.now();
        conn.set_pinged(now);
        let peer = match claim.go_live(conn, info, now) {
            Ok(peer) => peer,
            Err(failure) => {
                let error = match failure.cause {
                    CommitFailure::Closed => ConnectError::Shutdown,
                    CommitFailure::Revoked => ConnectError::Timeout,
                };
                return Err((error, greeted.stream));
            }
        };
        if let Some(entered) = entered
            && !entered.keep(&peer)
        {
            // Another connection of the same process overtook this one between its two steps.
            self.pool.remove(peer.key(), peer.id(), DisconnectReason::Collision);
        }
        // A ban or a stop that came during the handshake did not find it among the live ones. It is none that the floor could keep:
        // nobody knows of it yet.
        if self.is_barred(*peer.key(), addr) {
            self.pool.remove(peer.key(), peer.id(), DisconnectReason::Banned);
        }
        if let Some(DisconnectReason::Banned | DisconnectReason::Collision) = peer.disconnect_reason() {
            // It never was a peer for anybody: no hook has run, no event was told.
            if let Some(nonce) = about.hello.nonce {
                self.instances.leave((about.tongue, nonce), peer.id());
            }
            let error = match peer.disconnect_reason() {
                Some(DisconnectReason::Banned) => ConnectError::Banned,
                _ => ConnectError::AlreadyConnected(*peer.key()),
            };
            return Err((error, greeted.stream));
        }
        if self.is_stopping() {
            peer.connection()
                .handle()
                .close(DisconnectReason::Shutdown, Some(Goodbye::new(GoodbyeReason::Shutdown)));
        }
        let HandshakeInfo { buffered, greeting, .. } = greeted.about;
        let host = PeerSession::new(NodeRef::new(Arc::clone(self)), Arc::clone(&peer));
        self.events.up(&peer, self.now());
        tracing::info!(peer = %peer.key(), conn = %peer.id(), direction = ?peer.direction(), "peer up");
        let opening =
            InitialIo {
            write_first: &greeting,
            already_read: buffered,
            suppress_declines: !capabilities.rejections };
        let link = prepared.start(greeted.stream, host, opening);
        Ok(Established { peer, link })
    }
}

/// A peer that is live, and its link, which somebody has to run: dropped, it ends the peer.
#[must_use = "without its link a peer departs"]
pub(crate) struct Established {
    pub(crate) peer: Arc<Peer>,
    pub(crate) link: PeerTask,
}

impl Established {
    /// Has the link run in a task of its own.
    pub(crate) fn spawn(self, shared: &Shared) -> Arc<Peer> {
        shared.spawn_course(self.link);
        self.peer
    }
}

struct Placement<'a> {
    claim: Claim<PeerId, NodeConnection>,
    entered: Option<Pending<'a>>,
    positions: Option<ResumePoints>,
}

/// How long the winner waits for the loser's task to say where it stood.
const INHERIT: Duration = Duration::from_millis(200);
