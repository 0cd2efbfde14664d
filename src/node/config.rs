//! The configuration of a node, and the part of it that may change while the node runs.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::base::{Endpoint, Network};
use crate::broadcast::LagPolicy;
use crate::connection::{ConnectionConfig, MemoryBudget};
use crate::pool::{HealthPolicy, Limits, LivenessPolicy, Misbehavior, PoolConfig};
use crate::wire::{Native, WireLimits};

use super::discovery::{DiscoveryConfig, NO_LIMIT};
use super::runtime::seen_set::RelayConfig;

/// The most events of a backlog: room for them is allocated at the start.
const MAX_EVENT_BACKLOG: usize = 1 << 20;
/// The smallest ring of a broadcast log.
const MIN_LOG_RING_BYTES: usize = 64 * 1024;

/// The configuration of a node. Sizes are in bytes. Start from [`NodeConfig::recommended`] or
/// [`NodeConfig::local`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeConfig {
    /// The network id. Nodes of another network are refused. Default 0.
    #[serde(with = "crate::base::config_serde::large_number")]
    pub network: u64,
    /// Name and version of the software, sent in every hello; at most 128 bytes.
    pub agent: String,
    /// Hash of the first block. If both ends have one, they must be equal.
    #[serde(with = "crate::base::config_serde::hex_option", skip_serializing_if = "Option::is_none")]
    pub genesis: Option<[u8; 32]>,
    /// Feature bits of the application, sent in every hello. The highest bit is reserved.
    pub features: u64,
    /// Bytes of the application, sent in every hello; at most 1 KiB.
    #[serde(with = "crate::base::config_serde::hex")]
    pub app: Bytes,
    /// Addresses to listen on; empty for a node that only dials. Port 0 takes any free port.
    pub listen: Vec<SocketAddr>,
    /// The listen address that hellos carry. Default: the first one listened on. Set it behind a
    /// port mapping. Peers use only the port, and combine it with the address they observe.
    pub advertise: Option<SocketAddr>,
    /// First addresses to dial. Names are looked up at the start and again every ten minutes; one
    /// that does not resolve stops nothing.
    pub seeds: Vec<Endpoint>,
    /// Peers that are dialled whatever the number of peers, and use reserved slots. Names as in
    /// `seeds`.
    pub trusted: Vec<Endpoint>,
    /// Peers for which the pool allocates room at the start; a hint. Default 0: derived from the
    /// limits.
    pub expected_peers: usize,
    /// Bounds of each connection.
    pub connection: ConnectionConfig,
    /// Size limits of messages.
    pub wire: WireLimits,
    /// Size of the ring of each of the three broadcast logs: how far a slow peer may fall behind. A
    /// message may take half of it. Default 8 MiB.
    #[serde(with = "crate::base::config_serde::byte_size")]
    pub log_ring_bytes: usize,
    /// The most keys of the state table. Default 1,024.
    pub max_state_keys: usize,
    /// The most bytes of the state table. Default 1 MiB.
    #[serde(with = "crate::base::config_serde::byte_size")]
    pub max_state_bytes: usize,
    /// Events that a slow subscriber may fall behind before it gets a new snapshot. Default 1,024.
    pub event_backlog: usize,
    /// The memory of relayed messages.
    pub relay: RelayConfig,
    /// Settings that may change while the node runs.
    pub runtime: RuntimeConfig,
}

/// Settings that may change while the node runs. A change acts on live connections too
/// ([`NodeRef::reconfigure`]).
///
/// [`NodeRef::reconfigure`]: super::NodeRef::reconfigure
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuntimeConfig {
    /// Numbers of connections: global, for each address and subnet, and the floor.
    pub limits: Limits,
    /// When a silent peer is stale.
    pub liveness: LivenessPolicy,
    /// How the health of a peer falls and recovers.
    pub health: HealthPolicy,
    /// The node dials more addresses while it has dialled fewer live peers than this. Peers that
    /// dialled it do not count, so that nobody can keep it from choosing peers of its own. With 0
    /// it dials trusted addresses only. Default 8.
    pub target_outbound: usize,
    /// Which addresses are learnt from peers, told to them and dialled.
    pub discovery: DiscoveryConfig,
    /// The most dials of the node's own accord at the same time. Default 16.
    pub max_concurrent_dials: usize,
    /// Time for a dial and its handshake, or for the handshake of an accepted connection. Default
    /// 10 s.
    #[serde(with = "humantime_serde")]
    pub handshake_timeout: Duration,
    /// Period of the maintenance loop. Default 250 ms.
    #[serde(with = "humantime_serde")]
    pub maintenance_interval: Duration,
    /// Period of pings to a peer. A dead socket is found after the stale time at the latest.
    /// Default 15 s.
    #[serde(with = "humantime_serde")]
    pub ping_interval: Duration,
    /// How long written bytes may make no progress before the peer is closed. Default 20 s.
    #[serde(with = "humantime_serde")]
    pub write_stall_timeout: Duration,
    /// How long a session must last to count as stable. Only a stable session resets the backoff of
    /// its address. Default 60 s.
    #[serde(with = "humantime_serde")]
    pub stable_after: Duration,
    /// How often some peer is asked for addresses; more often while the node knows too few. Default
    /// 30 s.
    #[serde(with = "humantime_serde")]
    pub discovery_interval: Duration,
    /// How often the address book is written. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub flush_interval: Duration,
    /// Networks whose hosts have no shares: the limits of a source or a subnet, on connections,
    /// handshakes, relay memory and memory, do not bind them. Default: none, and the loopback
    /// networks in [`NodeConfig::local`], where all peers are one source.
    pub exempt_networks: Vec<Network>,
    /// The limit of all memory held for peers: rings, state, relay, inboxes, lanes, reassembly,
    /// partial reads. Default 256 MiB. Strangers get three quarters of what rings, state and relay
    /// leave, one source half of that, and the largest message must fit there.
    #[serde(with = "crate::base::config_serde::byte_size")]
    pub memory_limit: usize,
    /// What happens to a peer that is too slow for urgent broadcasts. Default: disconnect it.
    pub urgent_lag: LagPolicy,
    /// What happens to a peer that is too slow for normal broadcasts. Default: skip some for it.
    pub normal_lag: LagPolicy,
    /// What happens to a peer that is too slow for bulk broadcasts. Default: disconnect it.
    pub bulk_lag: LagPolicy,
}

impl NodeConfig {
    /// Settings for a node on the open internet.
    pub fn recommended() -> Self {
        Self::with(PoolConfig::recommended())
    }

    /// Settings for many nodes on one machine or in one rack: no limits for each address, and short
    /// intervals.
    pub fn local() -> Self {
        let mut config = Self::with(PoolConfig::local());
        // All peers are one source.
        (config.relay.source_share_percent, config.relay.subnet_share_percent) = (100, 100);
        config.runtime.discovery = DiscoveryConfig::local();
        config.runtime.exempt_networks = Network::LOOPBACK.to_vec();
        config.runtime.ping_interval = Duration::from_secs(2);
        config.runtime.liveness.stale_after = Duration::from_secs(8);
        config.runtime.discovery_interval = Duration::from_secs(5);
        config
    }

    fn with(pool: PoolConfig) -> Self {
        Self {
            network: 0,
            agent: concat!("peerpool/", env!("CARGO_PKG_VERSION")).into(),
            genesis: None,
            features: 0,
            app: Bytes::new(),
            listen: Vec::new(),
            advertise: None,
            seeds: Vec::new(),
            trusted: Vec::new(),
            expected_peers: pool.expected_peers,
            connection: ConnectionConfig::default(),
            wire: WireLimits::default(),
            log_ring_bytes: 8 * 1024 * 1024,
            max_state_keys: 1024,
            max_state_bytes: 1024 * 1024,
            event_backlog: 1024,
            relay: RelayConfig::default(),
            runtime: RuntimeConfig {
                limits: pool.limits,
                liveness: pool.liveness,
                health: pool.health,
                target_outbound: 8,
                discovery: DiscoveryConfig::recommended(),
                max_concurrent_dials: 16,
                handshake_timeout: Duration::from_secs(10),
                maintenance_interval: Duration::from_millis(250),
                ping_interval: Duration::from_secs(15),
                write_stall_timeout: Duration::from_secs(20),
                stable_after: Duration::from_secs(60),
                discovery_interval: Duration::from_secs(30),
                flush_interval: Duration::from_secs(5),
                exempt_networks: Vec::new(),
                memory_limit: 256 * 1024 * 1024,
                urgent_lag: LagPolicy::Disconnect,
                normal_lag: LagPolicy::Skip,
                bulk_lag: LagPolicy::Disconnect,
            },
        }
    }

    /// Checks every field.
    ///
    /// Invariant: `contradicting_settings_are_refused`.
    ///
    /// # Errors
    /// Names the field and what is wrong with it.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_fields()?;
        self.check_memory(&self.runtime, std::iter::once(self.wire.max_message()))
    }

    /// Checks what does not depend on the protocols that the node speaks.
    pub(super) fn check_fields(&self) -> Result<(), ConfigError> {
        let wrong = |field, why| Err(ConfigError { field, why });
        if let Err(fault) = crate::wire::Hello::validate_agent(self.agent.as_bytes()) {
            return Err(ConfigError { field: "agent", why: fault.to_string() });
        }
        if self.app.len() > crate::wire::Hello::MAX_APP {
            return wrong("app", format!("{} bytes, at most 1024 are allowed", self.app.len()));
        }
        if self.features >> 63 != 0 {
            return wrong("features", "the highest bit is the protocol's own".into());
        }
        if self.log_ring_bytes < MIN_LOG_RING_BYTES {
            return wrong("log_ring_bytes", "at least 64 KiB are needed".into());
        }
        within("event_backlog", self.event_backlog, 1..=MAX_EVENT_BACKLOG)?;
        within("wire.chunk", self.wire.chunk, Native::CHUNK_RANGE)?;
        within("wire.hello", self.wire.hello, Native::HELLO_RANGE)?;
        within("wire.peers", self.wire.peers, Native::PEERS_RANGE)?;
        self.relay.check()?;
        within("max_state_keys", self.max_state_keys, 1..=NO_LIMIT)?;
        let ConnectionConfig {
            inbox_messages, inbox_bytes, max_inbound_requests, outbox_messages, outbox_bytes, max_outbound_requests, ..
        } = self.connection;
        for (field, value) in [
            ("connection.inbox_messages", inbox_messages),
            ("connection.inbox_bytes", inbox_bytes),
            ("connection.max_inbound_requests", max_inbound_requests),
            ("connection.outbox_messages", outbox_messages),
            ("connection.outbox_bytes", outbox_bytes),
            ("connection.max_outbound_requests", max_outbound_requests),
        ] {
            within(field, value, 1..=usize::MAX)?;
        }
        self.runtime.check()
    }

    /// The memory that connections do not share: rings and state tables in this number of
    /// protocols, and the relay's.
    pub(super) fn fixed_memory(&self, protocols: usize) -> usize {
        let of_protocol = self.log_ring_bytes.saturating_mul(3).saturating_add(self.max_state_bytes);
        of_protocol.saturating_mul(protocols).saturating_add(self.relay.max_bytes())
    }

    /// Checks that the limit leaves one source room for the largest message of each protocol.
    pub(super) fn check_memory(
        &self,
        runtime: &RuntimeConfig,
        max_messages: impl ExactSizeIterator<Item = usize>,
    ) -> Result<(), ConfigError> {
        let refused = |why| Err(ConfigError { field: "memory_limit", why });
        let limit = runtime.memory_limit;
        let fixed = self.fixed_memory(max_messages.len());
        let Some(left) = limit.checked_sub(fixed).filter(|left| *left > 0) else {
            return refused(format!(
                "{limit} bytes, of which rings, state and relay take {fixed}: raise it, or lower `log_ring_bytes` or \
                 `relay.capacity`"
            ));
        };
        let share = MemoryBudget::source_share(left);
        let largest = max_messages.max().unwrap_or(0);
        if largest > share {
            return refused(format!(
                "{limit} bytes, of which rings, state and relay take {fixed} and one source at most {share}, \
                 less than the largest message, {largest}: raise it, or lower `wire.bulk`"
            ));
        }
        Ok(())
    }
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self::recommended()
    }
}

impl Default for RuntimeConfig {
    /// The runtime part of [`NodeConfig::recommended`].
    fn default() -> Self {
        NodeConfig::recommended().runtime
    }
}

impl RuntimeConfig {
    /// Checks every field.
    ///
    /// Invariant: `contradicting_settings_are_refused`.
    ///
    /// # Errors
    /// Names the field and what is wrong with it.
    pub fn check(&self) -> Result<(), ConfigError> {
        let durations = [
            ("handshake_timeout", self.handshake_timeout),
            ("maintenance_interval", self.maintenance_interval),
            ("ping_interval", self.ping_interval),
            ("write_stall_timeout", self.write_stall_timeout),
            ("discovery_interval", self.discovery_interval),
            ("flush_interval", self.flush_interval),
            ("stale_after", self.liveness.stale_after),
        ];
        for (field, value) in durations {
            if value < Duration::from_millis(1) {
                return Err(ConfigError { field, why: "must be at least a millisecond".into() });
            }
        }
        if self.liveness.stale_after < self.ping_interval.saturating_mul(2) {
            let why = "must be at least twice ping_interval, or peers are stale before they can answer";
            return Err(ConfigError { field: "stale_after", why: why.into() });
        }
        self.discovery.check()?;
        if self.max_concurrent_dials == 0 {
            return Err(ConfigError { field: "max_concurrent_dials", why: "must not be zero".into() });
        }
        if self.health.window < HealthPolicy::MIN_WINDOW {
            let why = format!("must be at least {:?}", HealthPolicy::MIN_WINDOW);
            return Err(ConfigError { field: "health.window", why });
        }
        let penalties = self.health.penalties;
        for cause in Misbehavior::ALL {
            within("health.penalties", penalties.get(cause), 0..=100)?;
        }
        // The pool would clamp them, and the configuration would not show what is in force.
        let Limits { max_inbound, max_outbound, max_pending_inbound, max_pending_outbound, .. } = self.limits;
        within("limits.max_inbound", max_inbound, 0..=Limits::MAX_LIVE)?;
        within("limits.max_outbound", max_outbound, 0..=Limits::MAX_LIVE)?;
        within("limits.max_pending_inbound", max_pending_inbound, 0..=Limits::MAX_PENDING_INBOUND)?;
        within("limits.max_pending_outbound", max_pending_outbound, 0..=Limits::MAX_PENDING_OUTBOUND)?;
        self.check_contradictions()
    }

    /// Checks limits against each other: both names are in the error.
    fn check_contradictions(&self) -> Result<(), ConfigError> {
        let Limits { max_inbound, max_outbound, max_pending_inbound, max_pending_outbound, .. } = self.limits;
        let Limits { max_per_source, max_per_subnet, max_per_site, .. } = self.limits;
        let Limits { reserved_inbound, reserved_outbound, .. } = self.limits;
        // The first is wanted, and the second leaves no room for it.
        let without_room = [
            ("limits.max_inbound", max_inbound, "limits.max_pending_inbound", max_pending_inbound),
            ("limits.max_outbound", max_outbound, "limits.max_pending_outbound", max_pending_outbound),
            ("limits.max_inbound", max_inbound, "limits.max_per_source", max_per_source),
            ("limits.max_inbound", max_inbound, "limits.max_per_subnet", max_per_subnet),
            ("limits.max_inbound", max_inbound, "limits.max_per_site", max_per_site),
        ];
        for (wanted, number, field, room) in without_room {
            if number > 0 && room == 0 {
                return Err(ConfigError { field, why: format!("is 0, and `{wanted}` is {number}: nobody could connect") });
            }
        }
        let is_default = reserved_inbound == Limits::default().reserved_inbound;
        let reserved = [
            ("limits.reserved_inbound", reserved_inbound, "limits.max_inbound", max_inbound),
            ("limits.reserved_outbound", reserved_outbound, "limits.max_outbound", max_outbound),
        ];
        for (field, kept, of, max) in reserved {
            if kept > max && !(is_default && field == "limits.reserved_inbound") {
                return Err(ConfigError { field, why: format!("is {kept}, above `{of}`, {max}") });
            }
        }
        Ok(())
    }

    /// The limits in force. Without trusted peers no slot is reserved, and the default reserves a
    /// tenth at most, so that a small number of slots is what it says.
    pub(crate) fn limits_in_force(&self, has_trusted: bool) -> Limits {
        let Limits { max_inbound, reserved_inbound, reserved_outbound, .. } = self.limits;
        let is_default = reserved_inbound == Limits::default().reserved_inbound;
        let inbound = if is_default { reserved_inbound.min(max_inbound / 10) } else { reserved_inbound };
        Limits {
            reserved_inbound: if has_trusted { inbound } else { 0 },
            reserved_outbound: if has_trusted { reserved_outbound } else { 0 },
            ..self.limits.clone()
        }
    }
}

pub(super) fn within<T: PartialOrd + Display>(
    field: &'static str,
    value: T,
    bounds: RangeInclusive<T>,
) -> Result<(), ConfigError> {
    if bounds.contains(&value) {
        return Ok(());
    }
    let (from, to) = bounds.into_inner();
    Err(ConfigError { field, why: format!("must be from {from} to {to}, and is {value}") })
}

/// An invalid configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct ConfigError {
    /// The field.
    pub field: &'static str,
    /// What is wrong with it.
    pub why: String,
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;
    use crate::base::{Direction, Tick};
    use crate::pool::{Pool, SlotClass};
    use crate::wire::Protocol as _;

    #[test]
    fn the_event_backlog_is_bounded() {
        for (event_backlog, fits) in [(0, false), (1, true), (MAX_EVENT_BACKLOG, true), (usize::MAX, false)] {
            let config = NodeConfig { event_backlog, ..NodeConfig::default() };
            let refused = config.check().err().map(|error| error.field);
            assert_eq!(refused, (!fits).then_some("event_backlog"), "{event_backlog}");
        }
    }

    #[test]
    fn a_setting_is_in_force_or_refused() {
        type Set = fn(&mut NodeConfig, usize);
        let cases: [(&str, Set, RangeInclusive<usize>); 8] = [
            ("wire.chunk", |config, to| config.wire.chunk = to, Native::CHUNK_RANGE),
            ("wire.hello", |config, to| config.wire.hello = to, Native::HELLO_RANGE),
            ("wire.peers", |config, to| config.wire.peers = to, Native::PEERS_RANGE),
            ("limits.max_inbound", |config, to| config.runtime.limits.max_inbound = to as u32, 0..=1_048_575),
            (
                "limits.max_outbound",
                |config, to| config.runtime.limits.max_outbound = to as u32,
                0..=1_048_575,
            ),
            ("relay.own_share_percent", |config, to| config.relay.own_share_percent = to as u8, 0..=100),
            (
                "limits.max_pending_inbound",
                |config, to| config.runtime.limits.max_pending_inbound = to as u32,
                1..=most_pending(Direction::Inbound),
            ),
            (
                "limits.max_pending_outbound",
                |config, to| config.runtime.limits.max_pending_outbound = to as u32,
                1..=most_pending(Direction::Outbound),
            ),
        ];
        for (field, set, bounds) in cases {
            let refused = |value| {
                let mut config = NodeConfig::default();
                set(&mut config, value);
                let wire = Native::new(config.wire.clone());
                let in_force = wire.limits().chunk == config.wire.chunk
                    && wire.limits().hello == config.wire.hello
                    && wire.limits().peers == config.wire.peers;
                let error = config.check().err();
                assert!(in_force || error.is_some(), "{field} = {value}");
                error.map(|error| error.field)
            };
            assert_eq!(refused(*bounds.end()), None);
            assert_eq!(refused(*bounds.end() + 1), Some(field));
            assert_eq!(refused(*bounds.start()), None);
            if let Some(below) = bounds.start().checked_sub(1) {
                assert_eq!(refused(below), Some(field));
            }
        }
        let mut runtime = NodeConfig::default().runtime;
        runtime.health.window = Duration::from_millis(9);
        assert_eq!(runtime.check().map_err(|error| error.field), Err("health.window"));
    }

    #[test]
    fn contradicting_settings_are_refused_with_both_names() {
        type Set = fn(&mut NodeConfig);
        let cases: [(&str, &str, Set); 11] = [
            ("limits.max_per_source", "limits.max_inbound", |config| config.runtime.limits.max_per_source = 0),
            ("limits.max_per_subnet", "limits.max_inbound", |config| config.runtime.limits.max_per_subnet = 0),
            ("limits.max_pending_inbound", "limits.max_inbound", |config| {
                config.runtime.limits.max_pending_inbound = 0;
            }),
            ("limits.max_pending_outbound", "limits.max_outbound", |config| {
                config.runtime.limits.max_pending_outbound = 0;
            }),
            ("limits.reserved_inbound", "limits.max_inbound", |config| config.runtime.limits.reserved_inbound = 300),
            ("limits.reserved_outbound", "limits.max_outbound", |config| config.runtime.limits.reserved_outbound = 300),
            ("relay.source_share_percent", "relay.subnet_share_percent", |config| {
                config.relay.subnet_share_percent = 1;
            }),
            ("discovery.max_outbound_per_source", "discovery.max_outbound_per_subnet", |config| {
                config.runtime.discovery.max_outbound_per_source = 3;
            }),
            ("memory_limit", "relay.capacity", |config| config.relay.capacity = usize::MAX),
            ("memory_limit", "wire.bulk", |config| config.runtime.memory_limit = 96 << 20),
            ("relay.retention", "zero", |config| config.relay.retention = Duration::ZERO),
        ];
        for (field, other, set) in cases {
            let mut config = NodeConfig::recommended();
            set(&mut config);
            let error = config.check().expect_err(field);
            assert!(error.field == field && error.why.contains(other), "{error}");
        }
    }

    #[test]
    fn a_small_number_of_inbound_slots_is_what_it_says() {
        for max_inbound in [1, 4, 8, 9, 80, 256] {
            let mut runtime = NodeConfig::recommended().runtime;
            runtime.limits.max_inbound = max_inbound;
            runtime.check().expect("a legal number");
            assert_eq!(runtime.limits_in_force(false).reserved_inbound, 0, "of {max_inbound}, nobody is trusted");
            assert_eq!(runtime.limits_in_force(true).reserved_inbound, (max_inbound / 10).min(8));
        }
    }

    /// The number of permits that the pool grants, whatever its limits say.
    fn most_pending(direction: Direction) -> usize {
        let mut config = PoolConfig::test();
        config.limits.max_pending_inbound = u32::MAX;
        config.limits.max_pending_outbound = u32::MAX;
        let pool = Pool::<u32, ()>::new(config);
        let addr = SocketAddr::from(([127, 0, 0, 1], 1));
        let admit = |_| pool.admit(addr, direction, SlotClass::Reserved, Tick::MAX).ok();
        (0..).map_while(admit).collect::<Vec<_>>().len()
    }
}
