//! What an operator asks first.

use std::time::Duration;

use crate::base::Tick;
use crate::sync::atomic::{AtomicU64, Ordering};

use super::sweep::AT_ONCE;
use super::{AdmitError, ConnectionHandle, DisconnectReason, PeerKey, Pool};

/// A look at the pool.
///
/// The first and the in/out/pending numbers are one reading of the admission word. Everything that asks each peer
/// comes from one walk over the roster, with its own count (`walked_connections`); the two are a moment apart, so
/// they are never added to or subtracted from each other.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PoolStats {
    /// Live connections.
    pub total_connections: usize,
    /// Of the walked: health above the threshold.
    pub healthy_connections: usize,
    /// Of the walked: silent for longer than the policy allows and not paused by us. Should be near zero; what is
    /// there longer than one sweep round is a sweep that does not run.
    pub stale_connections: usize,
    /// Mean health of the walked, 0 to 100; 0 if there is nobody.
    pub avg_health_score: f64,
    /// Uptime of the longest connected of the walked, in seconds.
    pub oldest_connection_secs: u64,
    /// Live connections they dialled.
    pub inbound: usize,
    /// Live connections we dialled.
    pub outbound: usize,
    /// Inbound handshakes under way. Rising: a flood, or handshakes that hang.
    pub pending_inbound: usize,
    /// Outbound dials under way.
    pub pending_outbound: usize,
    /// Whether the pool is closed.
    pub closed: bool,
    /// How many peers the walk met.
    pub walked_connections: usize,
    /// Of the walked: paused by us. Rising: handlers are too slow.
    pub paused_connections: usize,
    /// Of the walked: mean smoothed round-trip time in milliseconds of those that have one; 0 if none has.
    pub avg_rtt_ms: f64,
    /// Of the walked: bytes received.
    pub bytes_received: u64,
    /// Of the walked: bytes sent.
    pub bytes_sent: u64,
    /// Permits and claims revoked at their deadline, since the start. Rising: handshakes hang.
    pub revoked: u64,
    /// RefusalCounts since the start.
    pub refused: RefusalCounts,
    /// DisconnectCounts since the start.
    pub disconnects: DisconnectCounts,
}

/// Who was refused a slot, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RefusalCounts {
    /// By the limit of one address. Rising: one abusive or very popular address.
    pub per_ip: u64,
    /// By the limit of a subnet.
    pub per_subnet: u64,
    /// Because all slots were taken. Rising: raise the limits, or be content.
    pub full: u64,
    /// Because too many handshakes were under way.
    pub too_many_pending: u64,
    /// Because the pool was closed.
    pub closed: u64,
}

/// DisconnectCounts by reason, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct DisconnectCounts([u64; DisconnectReason::ALL.len()]);

impl DisconnectCounts {
    /// How many left for this reason.
    pub fn of(&self, reason: DisconnectReason) -> u64 {
        self.0[reason.index()]
    }

    /// How many left.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Every reason and how many left for it.
    pub fn iter(&self) -> impl Iterator<Item = (DisconnectReason, u64)> {
        DisconnectReason::ALL.into_iter().zip(self.0)
    }
}

/// Counters; hints, relaxed.
#[derive(Debug, Default)]
pub(super) struct Counters {
    per_ip: AtomicU64,
    per_subnet: AtomicU64,
    full: AtomicU64,
    too_many_pending: AtomicU64,
    closed: AtomicU64,
    revoked: AtomicU64,
    departed: [AtomicU64; DisconnectReason::ALL.len()],
}

impl Counters {
    pub(super) fn refused(&self, why: AdmitError) {
        let counter = match why {
            AdmitError::PerIp => &self.per_ip,
            AdmitError::PerSubnet => &self.per_subnet,
            AdmitError::Full(_) => &self.full,
            AdmitError::TooManyPending(_) => &self.too_many_pending,
            AdmitError::Closed => &self.closed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn revoked(&self) {
        self.revoked.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn departed(&self, reason: DisconnectReason) {
        self.departed[reason.index()].fetch_add(1, Ordering::Relaxed);
    }

    fn refusals(&self) -> RefusalCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RefusalCounts {
            per_ip: read(&self.per_ip),
            per_subnet: read(&self.per_subnet),
            full: read(&self.full),
            too_many_pending: read(&self.too_many_pending),
            closed: read(&self.closed),
        }
    }

    fn departures(&self) -> DisconnectCounts {
        DisconnectCounts(std::array::from_fn(|index| self.departed[index].load(Ordering::Relaxed)))
    }
}

impl<K: PeerKey, C: ConnectionHandle> Pool<K, C> {
    /// Everything an operator asks first. Cost: one walk over the roster, a few loads a peer; no lock of the map.
    pub fn stats(&self, now: Tick) -> PoolStats {
        let counts = self.admission();
        let stale_after = self.liveness_policy().stale_after;
        let rules = self.shared.rules.load();
        let mut stats = PoolStats {
            total_connections: counts.live() as usize,
            inbound: counts.live_inbound as usize,
            outbound: counts.live_outbound as usize,
            pending_inbound: counts.pending_inbound as usize,
            pending_outbound: counts.pending_outbound as usize,
            closed: counts.closed,
            revoked: self.counters.revoked.load(Ordering::Relaxed),
            refused: self.counters.refusals(),
            disconnects: self.counters.departures(),
            ..PoolStats::default()
        };
        let (mut health_sum, mut oldest, mut rtt_sum, mut with_rtt) =
            (0u64, Duration::ZERO, Duration::ZERO, 0u32);
        for index in 0..self.roster_shard_count() {
            let view = self.roster_shard(index);
            let mut read = Vec::with_capacity(AT_ONCE);
            for some in view.all().chunks(AT_ONCE) {
                // As in a sweep: what comes from memory is asked of some together, before anything is done with it.
                read.extend(some.iter().map(|peer| (peer, peer.reading(), peer.bytes(), peer.rtt())));
                for (peer, vitals, bytes, rtt) in read.drain(..).filter(|(_, vitals, ..)| vitals.is_live()) {
                    let health = peer.health_by(&rules, now);
                    let stale = now.since(vitals.last_seen()) > stale_after;
                    stats.walked_connections += 1;
                    stats.healthy_connections += usize::from(health > rules.policy.healthy_above);
                    stats.stale_connections += usize::from(stale && !vitals.is_paused());
                    stats.paused_connections += usize::from(vitals.is_paused());
                    stats.bytes_received = stats.bytes_received.saturating_add(bytes.received);
                    stats.bytes_sent = stats.bytes_sent.saturating_add(bytes.sent);
                    health_sum += u64::from(health);
                    oldest = oldest.max(peer.uptime(now));
                    if let Some(rtt) = rtt {
                        rtt_sum += rtt;
                        with_rtt += 1;
                    }
                }
            }
        }
        stats.avg_health_score = mean(health_sum as f64, stats.walked_connections as f64);
        stats.avg_rtt_ms = mean(rtt_sum.as_secs_f64() * 1e3, f64::from(with_rtt));
        stats.oldest_connection_secs = oldest.as_secs();
        stats
    }
}

fn mean(sum: f64, count: f64) -> f64 {
    if count > 0.0 { sum / count } else { 0.0 }
}
