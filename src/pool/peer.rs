//! One peer: who it is, its connection, and its vitals.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;

use crate::base::{ConnId, Direction, Tick};
use crate::sync::SwapCell;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::admission::Admission;
use super::health::{Health, Rules};
use super::liveness::{Liveness, Reading};
use super::{
    ConnectionHandle, DisconnectReason, Misbehavior, PeerKey, PenaltyOutcome, Phase, SeenOutcome, SlotClass,
};

/// What all peers of a pool share. It knows no peer, so there is no cycle of references.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) admission: Admission,
    pub(super) rules: SwapCell<Rules>,
}

/// ByteCounts moved on one connection, as its owner counted them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByteCounts {
    /// Received from the peer.
    pub received: u64,
    /// Sent to the peer.
    pub sent: u64,
}

/// A peer that is, or was, live in a [`Pool`](super::Pool): socket, info, liveness and health in one entry.
///
/// Whoever holds the `Arc<Peer>` works on it with atomics only, without the pool. Holding it does not keep the peer
/// connected: [`Peer::phase`] tells. Laid out by hand: reference counts, vitals and key, which a look-up touches, come
/// first and together; nothing is padded.
#[repr(C)]
pub struct Peer<K: PeerKey, C: ConnectionHandle> {
    vitals: Liveness,
    key: K,
    ip: [u8; 16],
    flags: u8,
    port: u16,
    scope: u32,
    /// Smoothed round-trip time in microseconds; zero: none yet. A hint.
    rtt: AtomicU32,
    health: Health,
    id: ConnId,
    connected_at: Tick,
    /// Counters; hints.
    received: AtomicU64,
    sent: AtomicU64,
    info: SwapCell<C::Info>,
    shared: Arc<Shared>,
    conn: C,
}

/// What a peer is made from, before it has a connection.
pub(super) struct Origin {
    pub(super) id: ConnId,
    /// Canonical.
    pub(super) addr: SocketAddr,
    pub(super) direction: Direction,
    pub(super) slot: SlotClass,
}

impl<K: PeerKey, C: ConnectionHandle> Peer<K, C> {
    pub(super) fn new(key: K, from: &Origin, conn: C, info: C::Info, now: Tick, shared: Arc<Shared>) -> Self {
        let (ip, scope) = match from.addr {
            SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 0),
            SocketAddr::V6(v6) => (*v6.ip(), v6.scope_id()),
        };
        let inbound = if from.direction == Direction::Inbound { INBOUND } else { 0 };
        let reserved = if from.slot == SlotClass::Reserved { RESERVED } else { 0 };
        Self {
            vitals: Liveness::new(now),
            key,
            ip: ip.octets(),
            flags: inbound | reserved,
            port: from.addr.port(),
            scope,
            rtt: AtomicU32::new(0),
            health: Health::new(now),
            id: from.id,
            connected_at: now,
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            info: SwapCell::new(Arc::new(info)),
            shared,
            conn,
        }
    }

    /// The key under which it is in the pool.
    pub fn key(&self) -> &K {
        &self.key
    }

    /// The id of this connection.
    pub fn id(&self) -> ConnId {
        self.id
    }

    /// The far end's address, canonical: as dialled, or as observed.
    pub fn addr(&self) -> SocketAddr {
        match self.ip() {
            IpAddr::V4(ip) => SocketAddr::from((ip, self.port)),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, self.port, 0, self.scope).into(),
        }
    }

    /// The far end's IP address, canonical.
    pub fn ip(&self) -> IpAddr {
        IpAddr::V6(Ipv6Addr::from(self.ip)).to_canonical()
    }

    /// Who opened the connection.
    pub fn direction(&self) -> Direction {
        if self.flags & INBOUND != 0 { Direction::Inbound } else { Direction::Outbound }
    }

    /// The kind of slot it was admitted to.
    pub fn slot_class(&self) -> SlotClass {
        if self.flags & RESERVED != 0 { SlotClass::Reserved } else { SlotClass::Ordinary }
    }

    /// The user's side of it.
    pub fn connection(&self) -> &C {
        &self.conn
    }

    /// What is known about the peer now. Cost: one reference count; readers never wait for a writer.
    pub fn info(&self) -> Arc<C::Info> {
        self.info.load()
    }

    /// Looks at what is known about the peer now, without a reference count.
    pub fn read_info<R>(&self, look: impl FnOnce(&C::Info) -> R) -> R {
        self.info.read(look)
    }

    /// Replaces what is known about the peer and returns what was.
    pub fn set_info(&self, info: Arc<C::Info>) -> Arc<C::Info> {
        self.info.swap(info)
    }

    /// Changes what is known about the peer. `change` may be called again if somebody else changed it meanwhile, so no
    /// change is lost; no lock is held.
    pub fn update_info(&self, change: impl FnMut(&C::Info) -> C::Info) {
        self.info.update(change);
    }

    /// A complete frame came: the peer is alive. Last-seen never moves back.
    ///
    /// # Cost
    /// A load and, only when the tick moved forward, one compare-exchange.
    #[inline]
    pub fn seen(&self, now: Tick) -> SeenOutcome {
        self.vitals.seen(now)
    }

    /// When the last frame came, or when it went live.
    pub fn last_seen(&self) -> Tick {
        self.vitals.read().last_seen()
    }

    /// Whether nothing came for longer than this.
    pub fn is_stale(&self, after: Duration, now: Tick) -> bool {
        now.since(self.last_seen()) > after
    }

    /// How long it has been connected.
    pub fn uptime(&self, now: Tick) -> Duration {
        now.since(self.connected_at)
    }

    /// When it went live.
    pub fn connected_at(&self) -> Tick {
        self.connected_at
    }

    /// Where it is in its life.
    pub fn phase(&self) -> Phase {
        self.vitals.read_phase().phase()
    }

    /// Whether it has not departed.
    pub fn is_live(&self) -> bool {
        self.vitals.read_phase().is_live()
    }

    /// Why it departed, if it has.
    pub fn disconnect_reason(&self) -> Option<DisconnectReason> {
        match self.phase() {
            Phase::Live => None,
            Phase::Disconnected(reason) => Some(reason),
        }
    }

    /// We stopped reading from it: the sweep does not judge it until [`Peer::resume`] (38).
    pub fn pause(&self) {
        self.vitals.pause();
    }

    /// We read from it again. Counts as seen: for the time of the pause the peer is not to blame.
    pub fn resume(&self, now: Tick) {
        self.vitals.resume(now);
    }

    /// Whether it is paused by us.
    pub fn is_paused(&self) -> bool {
        self.vitals.read().is_paused()
    }

    /// Health now, 0 to 100, recovery included.
    pub fn health(&self, now: Tick) -> u8 {
        self.shared.rules.read(|rules| self.health_by(rules, now))
    }

    /// Whether its health is above the threshold (30 unless configured otherwise).
    pub fn is_healthy(&self, now: Tick) -> bool {
        self.shared.rules.read(|rules| self.health_by(rules, now) > rules.policy.healthy_above)
    }

    /// Counts a fault: once a cause and window, and not at all when more than half of the live peers fail in the
    /// same window.
    pub fn penalize(&self, cause: Misbehavior, now: Tick) -> PenaltyOutcome {
        self.shared.rules.read(|rules| self.penalize_by(rules, cause, now))
    }

    /// Gives points for something useful; returns its health.
    pub fn reward(&self, now: Tick) -> u8 {
        self.shared.rules.read(|rules| self.health.reward(now, rules))
    }

    /// Takes one measured round-trip time into the average (7/8 old, 1/8 new). Up to 71 minutes.
    pub fn set_rtt(&self, sample: Duration) {
        let sample = sample.as_micros().clamp(1, u128::from(u32::MAX)) as u64;
        let average = u64::from(self.rtt.load(Ordering::Relaxed));
        let average = if average == 0 { sample } else { (average * 7 + sample).div_ceil(8) };
        // Relaxed and not exchanged: of two samples at once either may win.
        self.rtt.store(average as u32, Ordering::Relaxed);
    }

    /// The smoothed round-trip time, once one was measured.
    pub fn rtt(&self) -> Option<Duration> {
        match self.rtt.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(Duration::from_micros(u64::from(micros))),
        }
    }

    /// Counts received bytes.
    pub fn add_bytes_in(&self, count: u64) {
        self.received.fetch_add(count, Ordering::Relaxed);
    }

    /// Counts sent bytes.
    pub fn add_bytes_out(&self, count: u64) {
        self.sent.fetch_add(count, Ordering::Relaxed);
    }

    /// ByteCounts counted so far.
    pub fn bytes(&self) -> ByteCounts {
        ByteCounts {
            received: self.received.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
        }
    }

    pub(super) fn health_by(&self, rules: &Rules, now: Tick) -> u8 {
        self.health.value(now, rules)
    }

    pub(super) fn penalize_by(&self, rules: &Rules, cause: Misbehavior, now: Tick) -> PenaltyOutcome {
        // Of one that has left nobody can tell whether the others fail.
        let live = || self.is_live().then(|| self.shared.admission.live());
        self.health.penalize(cause, now, rules, live)
    }

    pub(super) fn reading(&self) -> Reading {
        self.vitals.read()
    }

    pub(super) fn mark_departed(&self, reason: DisconnectReason) -> bool {
        self.vitals.depart(reason)
    }

    pub(super) fn mark_departed_if(&self, judged: Reading, reason: DisconnectReason) -> bool {
        self.vitals.depart_if(judged, reason)
    }

    /// It was marked departed: a storm is a matter of those who were there.
    pub(super) fn forget_failure(&self) {
        // Most never failed, and need not ask for the rules.
        if self.health.has_failed() {
            self.shared.rules.read(|rules| self.health.depart(self.connected_at, rules));
        }
    }

    /// Takes connection and info out of a peer that never became visible to anybody.
    pub(super) fn dismantle(self: Arc<Self>) -> (C, C::Info) {
        let Self { conn, info, .. } = sole_owner(self);
        (conn, sole_owner(info.into_inner()))
    }
}

impl<K: PeerKey, C: ConnectionHandle> fmt::Debug for Peer<K, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("key", &self.key)
            .field("id", &self.id)
            .field("addr", &self.addr())
            .field("direction", &self.direction())
            .field("phase", &self.phase())
            .finish_non_exhaustive()
    }
}

/// What the only `Arc` of something holds.
fn sole_owner<T>(value: Arc<T>) -> T {
    match Arc::into_inner(value) {
        Some(value) => value,
        None => unreachable!("what the map rejected was shown to nobody"),
    }
}

const INBOUND: u8 = 1;
const RESERVED: u8 = 2;
