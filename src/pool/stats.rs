//! Counters and the statistics that an operator reads.

use std::time::Duration;

use crate::base::Tick;
use crate::sync::atomic::{AtomicU64, Ordering};

use super::sweep::PREFETCH_PEERS;
use super::{AdmitError, ConnectionHandle, DisconnectReason, PeerKey, Pool};

/// A snapshot of the pool.
///
/// `total_connections` and the inbound, outbound and pending numbers are one reading of the
/// admission word. The numbers of the walk come from one walk over the roster and have a count of
/// their own, `walked_connections`. The two are a moment apart, so they are never added or
/// subtracted.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PoolStats {
    /// Live connections.
    pub total_connections: usize,
    /// Walk: peers with health above the threshold.
    pub healthy_connections: usize,
    /// Walk: peers silent for longer than the policy allows and not paused by this node. Near zero
    /// in a healthy pool; a number that outlasts a sweep round means that the sweep does not run.
    pub stale_connections: usize,
    /// Walk: mean health, 0 to 100; 0 without peers.
    pub avg_health_score: f64,
    /// Walk: uptime of the longest connected peer, in seconds.
    pub oldest_connection_secs: u64,
    /// Live connections that the remote side dialled.
    pub inbound: usize,
    /// Live connections that this node dialled.
    pub outbound: usize,
    /// Inbound handshakes in progress. A rising number means a flood, or handshakes that hang.
    pub pending_inbound: usize,
    /// Outbound dials in progress.
    pub pending_outbound: usize,
    /// Whether the pool is closed.
    pub closed: bool,
    /// Number of peers that the walk read.
    pub walked_connections: usize,
    /// Walk: peers paused by this node. A rising number means that handlers are too slow.
    pub paused_connections: usize,
    /// Walk: mean smoothed round-trip time in milliseconds, over peers that have one; 0 if none
    /// has.
    pub avg_rtt_ms: f64,
    /// Walk: bytes received.
    pub bytes_received: u64,
    /// Walk: bytes sent.
    pub bytes_sent: u64,
    /// Permits and claims revoked at their deadline, since the start. A rising number means that
    /// handshakes hang.
    pub revoked: u64,
    /// Refused admissions, since the start.
    pub refused: RefusalCounts,
    /// Disconnects by reason, since the start.
    pub disconnects: DisconnectCounts,
}

/// Refused admissions by limit, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RefusalCounts {
    /// By the limit of one address. A rising number means one abusive or very popular address.
    pub per_source: u64,
    /// By the limit of a subnet.
    pub per_subnet: u64,
    /// By the limit of live connections. A rising number: raise the limits, or accept it.
    pub full: u64,
    /// By the limit of handshakes in progress.
    pub too_many_pending: u64,
    /// Because the pool was closed.
    pub closed: u64,
}

/// Disconnects by reason, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct DisconnectCounts([u64; DisconnectReason::ALL.len()]);

impl DisconnectCounts {
    /// Disconnects for this reason.
    pub fn of(&self, reason: DisconnectReason) -> u64 {
        self.0[reason.index()]
    }

    /// Disconnects for any reason.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Every reason and its count.
    pub fn iter(&self) -> impl Iterator<Item = (DisconnectReason, u64)> {
        DisconnectReason::ALL.into_iter().zip(self.0)
    }
}

/// Counters of the pool; relaxed hints.
#[derive(Debug, Default)]
pub(super) struct Counters {
    per_source: AtomicU64,
    per_subnet: AtomicU64,
    full: AtomicU64,
    too_many_pending: AtomicU64,
    closed: AtomicU64,
    revoked: AtomicU64,
    disconnects: [AtomicU64; DisconnectReason::ALL.len()],
}

impl Counters {
    pub(super) fn count_refusal(&self, cause: AdmitError) {
        let counter = match cause {
            AdmitError::PerSource => &self.per_source,
            AdmitError::PerSubnet => &self.per_subnet,
            AdmitError::Full(_) => &self.full,
            AdmitError::TooManyPending(_) => &self.too_many_pending,
            AdmitError::Closed => &self.closed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_revocation(&self) {
        self.revoked.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_disconnect(&self, reason: DisconnectReason) {
        self.disconnects[reason.index()].fetch_add(1, Ordering::Relaxed);
    }

    fn refusals(&self) -> RefusalCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RefusalCounts {
            per_source: read(&self.per_source),
            per_subnet: read(&self.per_subnet),
            full: read(&self.full),
            too_many_pending: read(&self.too_many_pending),
            closed: read(&self.closed),
        }
    }

    fn disconnects(&self) -> DisconnectCounts {
        DisconnectCounts(std::array::from_fn(|index| self.disconnects[index].load(Ordering::Relaxed)))
    }
}

impl<K: PeerKey, C: ConnectionHandle> Pool<K, C> {
    /// A snapshot of the pool's statistics.
    ///
    /// # Cost
    /// One walk over the roster with a few loads per peer. No lock of the map.
    pub fn stats(&self, now: Tick) -> PoolStats {
        let counts = self.admission();
        let stale_after = self.liveness_policy().stale_after;
        let rules = self.shared.health_rules.load();
        let mut stats = PoolStats {
            total_connections: counts.live() as usize,
            inbound: counts.live_inbound as usize,
            outbound: counts.live_outbound as usize,
            pending_inbound: counts.pending_inbound as usize,
            pending_outbound: counts.pending_outbound as usize,
            closed: counts.closed,
            revoked: self.counters.revoked.load(Ordering::Relaxed),
            refused: self.counters.refusals(),
            disconnects: self.counters.disconnects(),
            ..PoolStats::default()
        };
        let (mut health_sum, mut oldest, mut rtt_sum, mut with_rtt) =
            (0u64, Duration::ZERO, Duration::ZERO, 0u32);
        for index in 0..self.roster_shard_count() {
            let view = self.roster_shard(index);
            let mut batch = Vec::with_capacity(PREFETCH_PEERS);
            for peers in view.all().chunks(PREFETCH_PEERS) {
                // As in a sweep: a batch's words are loaded before the first is used, so that cache
                // misses overlap.
                batch.extend(
                    peers.iter().map(|peer| (peer, peer.liveness_reading(), peer.bytes(), peer.rtt())),
                );
                for (peer, reading, bytes, rtt) in
                    batch.drain(..).filter(|(_, reading, ..)| reading.is_live())
                {
                    let health = peer.health_by(&rules, now);
                    let stale = now.since(reading.last_seen()) > stale_after;
                    stats.walked_connections += 1;
                    stats.healthy_connections += usize::from(health > rules.policy.healthy_above);
                    stats.stale_connections += usize::from(stale && !reading.is_paused());
                    stats.paused_connections += usize::from(reading.is_paused());
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
