//! One peer: identity, connection, info, liveness, health and counters in one allocation.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;

use crate::base::{ConnId, Direction, Tick};
use crate::sync::SwapCell;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::admission::Admission;
use super::health::{Health, HealthRules};
use super::liveness::{Liveness, LivenessReading};
use super::{
    ConnectionHandle, DisconnectReason, Misbehavior, PeerKey, PenaltyOutcome, Phase, SeenOutcome, SlotClass,
};

const FLAG_INBOUND: u8 = 1;
const FLAG_RESERVED: u8 = 2;
const FLAG_EXEMPT: u8 = 4;

/// State that all peers of a pool share. It holds no peer, so there is no cycle of references.
#[derive(Debug)]
pub(super) struct PeerShared {
    pub(super) admission: Admission,
    pub(super) health_rules: SwapCell<HealthRules>,
}

/// Bytes moved on one connection, as its owner counted them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByteCounts {
    /// Bytes received from the peer.
    pub received: u64,
    /// Bytes sent to the peer.
    pub sent: u64,
}

/// A peer that is, or was, live in a [`Pool`](super::Pool): socket, info, liveness and health in
/// one entry.
///
/// The holder of an `Arc<Peer>` works on it with atomics only, without the pool. Holding a peer
/// does not keep it connected; [`Peer::phase`] says whether it is.
///
/// The layout is fixed by hand: the reference counts and the liveness word, which a look-up
/// touches, are adjacent, and there is no padding.
#[repr(C)]
pub struct Peer<K: PeerKey, C: ConnectionHandle> {
    liveness: Liveness,
    key: K,
    /// IPv4 addresses in their IPv4-mapped form.
    ip: Ipv6Addr,
    flags: u8,
    port: u16,
    scope_id: u32,
    /// Smoothed round-trip time in microseconds. Zero: not measured. A hint.
    rtt_micros: AtomicU32,
    health: Health,
    id: ConnId,
    connected_at: Tick,
    /// Counters; hints.
    received: AtomicU64,
    sent: AtomicU64,
    info: SwapCell<C::Info>,
    shared: Arc<PeerShared>,
    conn: C,
}

/// The facts about a connection that are known before it is live.
pub(super) struct Origin {
    pub(super) id: ConnId,
    /// Canonical.
    pub(super) addr: SocketAddr,
    pub(super) direction: Direction,
    pub(super) slot: SlotClass,
}

impl<K: PeerKey, C: ConnectionHandle> Peer<K, C> {
    pub(super) fn new(
        key: K,
        origin: &Origin,
        conn: C,
        info: C::Info,
        now: Tick,
        shared: Arc<PeerShared>,
    ) -> Self {
        let (ip, scope_id) = match origin.addr {
            SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 0),
            SocketAddr::V6(v6) => (*v6.ip(), v6.scope_id()),
        };
        let inbound = if origin.direction == Direction::Inbound { FLAG_INBOUND } else { 0 };
        let slot = match origin.slot {
            SlotClass::Ordinary => 0,
            SlotClass::Exempt => FLAG_EXEMPT,
            SlotClass::Reserved => FLAG_RESERVED,
        };
        Self {
            liveness: Liveness::new(now),
            key,
            ip,
            flags: inbound | slot,
            port: origin.addr.port(),
            scope_id,
            rtt_micros: AtomicU32::new(0),
            health: Health::new(now),
            id: origin.id,
            connected_at: now,
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            info: SwapCell::new(Arc::new(info)),
            shared,
            conn,
        }
    }

    /// The peer's key in the pool.
    pub fn key(&self) -> &K {
        &self.key
    }

    /// The id of this connection.
    pub fn id(&self) -> ConnId {
        self.id
    }

    /// The remote address, canonical: as dialled (outbound) or as observed (inbound).
    pub fn addr(&self) -> SocketAddr {
        match self.ip() {
            IpAddr::V4(ip) => SocketAddr::from((ip, self.port)),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, self.port, 0, self.scope_id).into(),
        }
    }

    /// The remote IP address, canonical.
    pub fn ip(&self) -> IpAddr {
        IpAddr::V6(self.ip).to_canonical()
    }

    /// The remote IP address, IPv4 in its IPv4-mapped form: the key of the address index.
    pub(super) fn mapped_ip(&self) -> &Ipv6Addr {
        &self.ip
    }

    /// The side that opened the connection.
    pub fn direction(&self) -> Direction {
        if self.flags & FLAG_INBOUND != 0 { Direction::Inbound } else { Direction::Outbound }
    }

    /// The class of slot that it was admitted to.
    pub fn slot_class(&self) -> SlotClass {
        match self.flags & (FLAG_RESERVED | FLAG_EXEMPT) {
            0 => SlotClass::Ordinary,
            FLAG_EXEMPT => SlotClass::Exempt,
            _ => SlotClass::Reserved,
        }
    }

    /// The user's handle of the connection.
    pub fn connection(&self) -> &C {
        &self.conn
    }

    /// The current info. Readers never wait for a writer.
    ///
    /// # Cost
    /// One reference count.
    pub fn info(&self) -> Arc<C::Info> {
        self.info.load()
    }

    /// Passes the current info to `inspect`, without a reference count.
    pub fn read_info<R>(&self, inspect: impl FnOnce(&C::Info) -> R) -> R {
        self.info.read(inspect)
    }

    /// Replaces the info by `change` of it. No change of another thread is lost: `change` is called
    /// again if the info changed meanwhile. No lock is held.
    pub fn update_info(&self, change: impl FnMut(&C::Info) -> C::Info) {
        self.info.update(change);
    }

    /// Records that a complete frame arrived. Last-seen never moves back.
    ///
    /// # Cost
    /// A load and, only if the tick moved forward, one compare-exchange.
    #[inline]
    pub fn seen(&self, now: Tick) -> SeenOutcome {
        self.liveness.seen(now)
    }

    /// When the last frame arrived, or when the peer went live.
    pub fn last_seen(&self) -> Tick {
        self.liveness.read().last_seen()
    }

    /// Whether nothing arrived for longer than `after`.
    pub fn is_stale(&self, after: Duration, now: Tick) -> bool {
        now.since(self.last_seen()) > after
    }

    /// How long the peer has been connected.
    pub fn uptime(&self, now: Tick) -> Duration {
        now.since(self.connected_at)
    }

    /// When the peer went live.
    pub fn connected_at(&self) -> Tick {
        self.connected_at
    }

    /// Whether the peer is live, or why it disconnected.
    pub fn phase(&self) -> Phase {
        self.liveness.read_phase().phase()
    }

    /// Whether the peer is live.
    pub fn is_live(&self) -> bool {
        self.liveness.read_phase().is_live()
    }

    /// Why the peer disconnected. `None` while it is live.
    pub fn disconnect_reason(&self) -> Option<DisconnectReason> {
        match self.phase() {
            Phase::Live => None,
            Phase::Disconnected(reason) => Some(reason),
        }
    }

    /// Marks that this node stopped reading from the peer. The sweep does not examine the peer
    /// until [`Peer::resume`].
    pub fn pause(&self) {
        self.liveness.pause();
    }

    /// Ends [`Peer::pause`] and marks the peer as seen: its silence during the pause does not
    /// count.
    pub fn resume(&self, now: Tick) {
        self.liveness.resume(now);
    }

    /// Whether this node paused the peer.
    pub fn is_paused(&self) -> bool {
        self.liveness.read().is_paused()
    }

    /// The current health, 0 to 100, recovery included.
    pub fn health(&self, now: Tick) -> u8 {
        self.shared.health_rules.read(|rules| self.health_by(rules, now))
    }

    /// Whether the health is above the threshold (default 30).
    pub fn is_healthy(&self, now: Tick) -> bool {
        self.shared.health_rules.read(|rules| self.health_by(rules, now) > rules.policy.healthy_above)
    }

    /// Subtracts the price of a fault from the health.
    ///
    /// Each cause counts once per window, and not at all if more than half of the live peers fail
    /// in the same window.
    pub fn penalize(&self, cause: Misbehavior, now: Tick) -> PenaltyOutcome {
        self.shared.health_rules.read(|rules| self.penalize_by(rules, cause, now))
    }

    /// Adds the policy's reward to the health. Returns the new health.
    pub fn reward(&self, now: Tick) -> u8 {
        self.shared.health_rules.read(|rules| self.health.reward(now, rules))
    }

    /// Adds one measured round-trip time, at most 71 minutes, to the average (7/8 old, 1/8 new).
    pub fn set_rtt(&self, sample: Duration) {
        let sample = sample.as_micros().clamp(1, u128::from(u32::MAX)) as u64;
        let average = u64::from(self.rtt_micros.load(Ordering::Relaxed));
        let average = if average == 0 { sample } else { (average * 7 + sample).div_ceil(8) };
        // Relaxed, and a store: of two concurrent samples either may win.
        self.rtt_micros.store(average as u32, Ordering::Relaxed);
    }

    /// The smoothed round-trip time. `None` before the first sample.
    pub fn rtt(&self) -> Option<Duration> {
        match self.rtt_micros.load(Ordering::Relaxed) {
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

    /// The bytes counted so far.
    pub fn bytes(&self) -> ByteCounts {
        ByteCounts {
            received: self.received.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
        }
    }

    pub(super) fn health_by(&self, rules: &HealthRules, now: Tick) -> u8 {
        self.health.value(now, rules)
    }

    pub(super) fn penalize_by(&self, rules: &HealthRules, cause: Misbehavior, now: Tick) -> PenaltyOutcome {
        // A fault of a disconnected peer says nothing about the live ones.
        let live_peers = || self.is_live().then(|| self.shared.admission.live());
        self.health.penalize(cause, now, rules, live_peers)
    }

    pub(super) fn liveness_reading(&self) -> LivenessReading {
        self.liveness.read()
    }

    /// Marks a live peer disconnected. False if it was already.
    pub(super) fn mark_disconnected(&self, reason: DisconnectReason) -> bool {
        self.liveness.disconnect(reason)
    }

    /// Marks the peer disconnected if its liveness word is still the one that was examined.
    pub(super) fn mark_disconnected_if(&self, examined: LivenessReading, reason: DisconnectReason) -> bool {
        self.liveness.disconnect_if(examined, reason)
    }

    /// Removes a disconnected peer's failure from the mass-failure count, which compares peers that
    /// were connected.
    pub(super) fn forget_failure(&self) {
        // Most peers never failed and skip the rules.
        if self.health.has_failed() {
            self.shared.health_rules.read(|rules| self.health.forget_failure(self.connected_at, rules));
        }
    }

    /// Takes connection and info out of a peer that never became visible.
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

/// The value of the only `Arc` to it.
fn sole_owner<T>(value: Arc<T>) -> T {
    match Arc::into_inner(value) {
        Some(value) => value,
        None => unreachable!("a rejected peer was never shared"),
    }
}
