//! What the maintenance does for one live peer: closes it if it stalls, pings it, notes that it is
//! stable, verifies its claim.

use std::sync::Arc;
use std::time::Duration;

use crate::address_book::{DialOutcome, WallTime};
use crate::base::{Direction, Tick};
use crate::node::config::RuntimeConfig;
use crate::node::connect::probe::Prober;
use crate::node::session::peer::Peer;
use crate::pool::{DisconnectReason, Misbehavior, SlotClass};

use super::log_budget::LogKind;
use super::shared::Shared;
use super::stall::StallMeter;

/// Pings are spread over this many steps between the shortest and the longest interval.
const PING_SPREAD_STEPS: u64 = 16;

/// One round of care at one moment.
pub(crate) struct PeerCare<'a> {
    shared: &'a Shared,
    prober: &'a Prober,
    config: &'a RuntimeConfig,
    now: Tick,
    /// When this process stood still: no fault of a peer.
    stalls: &'a StallMeter,
    /// No peer is pinged before this.
    shortest_ping_interval: Duration,
}

impl<'a> PeerCare<'a> {
    pub(super) fn new(
        shared: &'a Shared,
        prober: &'a Prober,
        config: &'a RuntimeConfig,
        stalls: &'a StallMeter,
    ) -> Self {
        let directions = [Direction::Inbound, Direction::Outbound];
        let silences = shared.protocols.iter().flat_map(|protocol| {
            directions.into_iter().filter_map(|direction| protocol.policy().max_own_silence(direction))
        });
        let shortest_ping_interval =
            silences.fold(shortest_ping_interval(config.ping_interval), Duration::min);
        Self { shared, prober, config, now: shared.now(), stalls, shortest_ping_interval }
    }

    /// Whether one of these peers may need [`PeerCare::attend`].
    ///
    /// Each question is put to all peers before the next one, without an early exit: a walk over
    /// idle peers is bound by memory latency, and this way the loads of several peers overlap.
    pub(crate) fn any_may_need_care(&self, peers: &[Arc<Peer>]) -> bool {
        let (config, now) = (self.config, self.now);
        let any = |test: &dyn Fn(&Peer) -> bool| peers.iter().fold(false, |any, peer| any | test(peer));
        let has_unwritten = any(&|peer| peer.connection().handle().is_stalled());
        let is_due = any(&|peer| now.since(peer.connection().pinged_at()) >= self.shortest_ping_interval);
        // Recovers with time, but not while faults go on.
        let is_bad = any(&|peer| peer.health(now) == 0);
        let turns_stable =
            any(&|peer| !peer.connection().is_stable() & (peer.uptime(now) >= config.stable_after));
        let is_unverified = any(&|peer| {
            peer.direction() == Direction::Inbound
                && peer.read_info(|info| info.listen.is_some() & !info.listen_verified)
        });
        has_unwritten | is_due | is_bad | turns_stable | is_unverified
    }

    pub(crate) fn attend(&self, peer: &Arc<Peer>) {
        if self.close_if_stalled(peer) || self.close_if_misbehaved(peer) {
            return;
        }
        let pinged = self.ping_if_due(peer);
        self.note_if_stable(peer);
        let connection = peer.connection();
        if peer.direction() == Direction::Inbound
            && (pinged || !connection.has_failed_verification())
            && !peer.read_info(|info| info.listen_verified)
        {
            self.prober.verify_listen_addr(peer);
        }
    }

    /// Makes a peer depart that has taken no data for too long.
    fn close_if_stalled(&self, peer: &Peer) -> bool {
        let connection = peer.connection();
        let policy = self.shared.protocols.get(connection.protocol_id()).policy();
        let limit = policy.write_stall_timeout().unwrap_or(self.config.write_stall_timeout);
        if connection.handle().stalled_for(self.now) <= limit.saturating_add(self.stalls.within(limit, self.now)) {
            return false;
        }
        if self.shared.may_log(LogKind::PeerDown, peer.ip()) {
            tracing::info!(peer = %peer.key(), "closed: takes no data");
        }
        self.shared.pool.remove(peer.key(), peer.id(), DisconnectReason::Overloaded);
        true
    }

    /// Makes a peer depart whose health is zero, unless the operator trusts it.
    fn close_if_misbehaved(&self, peer: &Peer) -> bool {
        if peer.health(self.now) > 0 || peer.slot_class() == SlotClass::Reserved {
            return false;
        }
        if self.shared.may_log(LogKind::PeerDown, peer.ip()) {
            tracing::info!(peer = %peer.key(), "closed: its health is zero");
        }
        self.shared.pool.remove(peer.key(), peer.id(), DisconnectReason::Misbehaved);
        true
    }

    /// Pings a peer whose interval is over, and penalises it if the ping before is still
    /// unanswered.
    ///
    /// Invariant: `dead_socket_is_found`: a silent peer is pinged, and reaped if it stays silent.
    fn ping_if_due(&self, peer: &Peer) -> bool {
        let (connection, now) = (peer.connection(), self.now);
        let protocol = self.shared.protocols.get(connection.protocol_id());
        let since_ping = now.since(connection.pinged_at());
        let is_quiet = now.since(peer.last_seen()) >= protocol.policy().ping_after()
            && since_ping >= ping_interval(peer, self.config.ping_interval);
        let own_silence = protocol.policy().max_own_silence(peer.direction());
        if !is_quiet && own_silence.is_none_or(|limit| since_ping < limit) {
            return false;
        }
        // Whatever else it sends, the last ping has had a whole interval. A paused peer cannot
        // answer: we do not read from it (`reader_never_waits_for_a_handler`).
        let interval = self.config.ping_interval;
        let had_its_time = now.since(connection.pinged_at()) > self.stalls.within(interval, now);
        if had_its_time
            && connection.handle().has_unanswered_ping()
            && protocol.features().ping_tokens
            && !peer.is_paused()
        {
            peer.penalize(Misbehavior::Unresponsive, now);
        }
        connection.set_pinged_at(now);
        connection.handle().ping();
        true
    }

    /// Rewards a session that has become stable, and resets the backoff of its address.
    ///
    /// Invariant: `backoff_resets_after_a_stable_session`.
    /// - Statement: only a session that lasted resets the backoff of its address.
    /// - Enforced by: this is the only place that records [`DialOutcome::Stable`], once a session.
    /// - Breaks if: a completed handshake resets the backoff: a peer that accepts and hangs up
    ///   would be dialled in a loop.
    fn note_if_stable(&self, peer: &Peer) {
        if peer.uptime(self.now) >= self.config.stable_after && peer.connection().mark_stable() {
            peer.reward(self.now);
            if peer.direction() == Direction::Outbound {
                self.shared.book.record(&peer.addr(), DialOutcome::Stable, WallTime::now());
            }
        }
    }
}

/// The ping interval of this peer: up to a sixteenth below or above the configured one, so that
/// peers that came together are not pinged together.
fn ping_interval(peer: &Peer, configured: Duration) -> Duration {
    let step = peer.id().get() % PING_SPREAD_STEPS;
    let spread = configured / 8;
    shortest_ping_interval(configured).saturating_add(spread.mul_f64(step as f64 / PING_SPREAD_STEPS as f64))
}

fn shortest_ping_interval(configured: Duration) -> Duration {
    configured - configured / 16
}
