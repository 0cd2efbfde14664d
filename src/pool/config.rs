//! Configuration of the pool: limits, liveness and health. All of it can change while peers are
//! connected.

use std::time::Duration;

use super::health::Misbehavior;

/// Most peers that shards are laid out for before any joins.
const MAX_EXPECTED_PEERS: usize = 1 << 21;

/// Initial configuration of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct PoolConfig {
    /// Expected number of peers, which sets the number of shards. 0 takes it from the limits
    /// (default). More peers fit; they only make the shards larger.
    pub expected_peers: usize,
    /// Limits of connections.
    pub limits: Limits,
    /// When a silent peer is stale.
    pub liveness: LivenessPolicy,
    /// Prices of misbehaviour.
    pub health: HealthPolicy,
}

impl PoolConfig {
    /// For a node on the public network: the defaults.
    pub fn recommended() -> Self {
        Self::default()
    }

    /// For many nodes on one address: no limit per address or subnet.
    pub fn local() -> Self {
        let limits = Limits {
            max_per_source: u32::MAX,
            max_per_subnet: u32::MAX,
            max_per_site: u32::MAX,
            ..Limits::default()
        };
        Self { limits, ..Self::default() }
    }

    /// For tests and benches: as [`PoolConfig::local`], with a million slots per direction and no
    /// reserved slots.
    pub fn test() -> Self {
        let mut config = Self::local();
        config.limits.max_inbound = 1_000_000;
        config.limits.max_outbound = 1_000_000;
        config.limits.reserved_inbound = 0;
        config.expected_peers = 1_024;
        config
    }

    /// The number of peers to lay the shards out for.
    pub(super) fn expected_or_limit(&self) -> usize {
        let limit = self.limits.max_inbound as usize + self.limits.max_outbound as usize;
        let expected = if self.expected_peers > 0 { self.expected_peers } else { limit };
        expected.min(MAX_EXPECTED_PEERS)
    }
}

/// Limits of connections. Live and pending connections count together, by address, by subnet and
/// globally.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct Limits {
    /// Inbound connections; at most [`Limits::MAX_LIVE`], 1,048,575 (default 256).
    pub max_inbound: u32,
    /// Outbound connections; at most [`Limits::MAX_LIVE`] (default 64).
    pub max_outbound: u32,
    /// Concurrent inbound handshakes; at most [`Limits::MAX_PENDING_INBOUND`], 4,095 (default 256).
    /// Bounds what unknown hosts can make this node hold.
    pub max_pending_inbound: u32,
    /// Concurrent outbound handshakes; at most [`Limits::MAX_PENDING_OUTBOUND`], 2,047 (default
    /// 64).
    pub max_pending_outbound: u32,
    /// Connections of one source: an IPv4 address, or an IPv6 /64 (default 8).
    pub max_per_source: u32,
    /// Connections of one /24 of IPv4 (default 32).
    pub max_per_subnet: u32,
    /// Connections of one /48 of IPv6 (default 64).
    pub max_per_site: u32,
    /// Inbound slots kept for [`SlotClass::Reserved`](super::SlotClass::Reserved) (default 8), which
    /// takes them before ordinary ones. A
    /// node keeps none while it has no trusted peers, and as a default a tenth of `max_inbound` at
    /// most.
    pub reserved_inbound: u32,
    /// Outbound slots kept for [`SlotClass::Reserved`](super::SlotClass::Reserved) (default 0).
    pub reserved_outbound: u32,
    /// Evictions leave at least this many live peers (default 8).
    pub floor: u32,
    /// Peers that one [`trim`](super::Pool::trim) removes at most, after limits were lowered
    /// (default 64). A larger number drains faster; a smaller one spreads the reconnects that
    /// follow.
    pub trim_step: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_inbound: 256,
            max_outbound: 64,
            max_pending_inbound: 256,
            max_pending_outbound: 64,
            max_per_source: 8,
            max_per_subnet: 32,
            max_per_site: 64,
            reserved_inbound: 8,
            reserved_outbound: 0,
            floor: 8,
            trim_step: 64,
        }
    }
}

/// When a silent peer is stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct LivenessPolicy {
    /// The sweep removes a peer that was silent for longer than this (default 90 s). Keep it at
    /// three ping intervals or more, so that one lost ping does not remove a peer.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub stale_after: Duration,
}

impl Default for LivenessPolicy {
    fn default() -> Self {
        Self { stale_after: Duration::from_secs(90) }
    }
}

/// Prices of misbehaviour, and recovery from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct HealthPolicy {
    /// A peer is healthy if its health is above this (default 30).
    pub healthy_above: u8,
    /// Within one window each cause counts once per peer (default 10 s; at least
    /// [`HealthPolicy::MIN_WINDOW`]). A change starts a new window; for a peer that failed just
    /// before, sometimes the one after that.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub window: Duration,
    /// Time in which one point recovers (default 10 s), in whole tenths of a second, at least one.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub recovery_step: Duration,
    /// Points of one reward (default 5).
    pub reward: u8,
    /// Points that each cause costs.
    pub penalties: Penalties,
    /// A mass failure (more than half of the live peers fail in one window) needs at least this
    /// many failing peers (default 3): one or two are no evidence.
    pub mass_failure_quorum: u32,
}

impl HealthPolicy {
    /// Lower bound of [`HealthPolicy::window`]; a shorter one counts as this.
    pub const MIN_WINDOW: Duration = Duration::from_millis(10);
}

impl Default for HealthPolicy {
    fn default() -> Self {
        Self {
            healthy_above: 30,
            window: Duration::from_secs(10),
            recovery_step: Duration::from_secs(10),
            reward: 5,
            penalties: Penalties::default(),
            mass_failure_quorum: 3,
        }
    }
}

/// Points, 0 to 100, that each cause costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct Penalties {
    /// Points for [`Misbehavior::Unresponsive`].
    pub unresponsive: u8,
    /// Points for [`Misbehavior::Timeout`].
    pub timeout: u8,
    /// Points for [`Misbehavior::Malformed`].
    pub malformed: u8,
    /// Points for [`Misbehavior::Protocol`].
    pub protocol: u8,
    /// Points for [`Misbehavior::Oversized`].
    pub oversized: u8,
    /// Points for [`Misbehavior::Flood`].
    pub flood: u8,
    /// Points for [`Misbehavior::BadData`].
    pub bad_data: u8,
    /// Points for [`Misbehavior::BadRequest`].
    pub bad_request: u8,
    /// Points for [`Misbehavior::Useless`].
    pub useless: u8,
    /// Points for [`Misbehavior::App`], by severity.
    pub app: [u8; 4],
}

impl Penalties {
    /// The points that this cause costs.
    pub const fn get(mut self, cause: Misbehavior) -> u8 {
        *self.get_mut(cause)
    }

    /// Returns a copy with other points for one cause. More than 100 count as 100.
    #[must_use]
    pub fn with(mut self, cause: Misbehavior, points: u8) -> Self {
        *self.get_mut(cause) = points.min(100);
        self
    }

    const fn get_mut(&mut self, cause: Misbehavior) -> &mut u8 {
        match cause {
            Misbehavior::Unresponsive => &mut self.unresponsive,
            Misbehavior::Timeout => &mut self.timeout,
            Misbehavior::Malformed => &mut self.malformed,
            Misbehavior::Protocol => &mut self.protocol,
            Misbehavior::Oversized => &mut self.oversized,
            Misbehavior::Flood => &mut self.flood,
            Misbehavior::BadData => &mut self.bad_data,
            Misbehavior::BadRequest => &mut self.bad_request,
            Misbehavior::Useless => &mut self.useless,
            Misbehavior::App(severity) => &mut self.app[if severity < 3 { severity as usize } else { 3 }],
        }
    }
}

impl Default for Penalties {
    /// From 5 for faults that happen to honest peers to 40 for faults of broken or hostile ones.
    fn default() -> Self {
        Self {
            unresponsive: 10,
            timeout: 10,
            malformed: 40,
            protocol: 40,
            oversized: 40,
            flood: 20,
            bad_data: 30,
            bad_request: 10,
            useless: 5,
            app: [10, 20, 30, 40],
        }
    }
}
