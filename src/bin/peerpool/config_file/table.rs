//! The one table of knobs: name, words, and how each is got and set. Defaults are read from the configuration itself, so that
//! what is documented, what is parsed and what runs cannot differ.

use toml::Value;

use peerpool::pool::Misbehavior;

use super::Settings;
use super::kinds::{Addr, Hex, Kind, Lag, Maybe, Number, Plain, Size, Time};

/// One knob.
pub(super) struct Knob {
    /// Dotted: what stands before the last dot is its section.
    pub(super) name: &'static str,
    pub(super) doc: &'static str,
    /// Its value in TOML; `None` where it is not set.
    pub(super) get: fn(&Settings) -> Option<String>,
    pub(super) set: fn(&mut Settings, &Value) -> Result<(), String>,
    /// For one that is not set by default: what it might look like.
    pub(super) example: &'static str,
}

/// A section: name, way to write it, where it is, what it does, and for one that is not set by default an example.
macro_rules! section {
    ($($name:literal ($kind:ty) $($path:ident).+: $doc:literal $(like $example:literal)?;)+) => {
        &[$(Knob {
            name: $name,
            doc: $doc,
            get: |settings| <$kind as Kind<_>>::show(&settings.$($path).+),
            set: |settings, value| {
                settings.$($path).+ = <$kind as Kind<_>>::read(value)?;
                Ok(())
            },
            example: concat!($($example)?),
        }),+]
    };
}

macro_rules! penalty {
    ($name:literal, $cause:ident $(($level:literal))?, $doc:literal) => {
        Knob {
            name: $name,
            doc: $doc,
            get: |settings| Number::show(&settings.node.runtime.health.penalties.get(Misbehavior::$cause$(($level))?)),
            set: |settings, value| {
                let points = <Number as Kind<u8>>::read(value)?;
                if points > 100 {
                    return Err(format!("{points} is too much, 100 is the most"));
                }
                let penalties = &mut settings.node.runtime.health.penalties;
                *penalties = penalties.with(Misbehavior::$cause$(($level))?, points);
                Ok(())
            },
            example: "",
        }
    };
}

/// Every knob, section by section.
pub(super) const KNOBS: &[&[Knob]] =
    &[NODE, LINK, WIRE, RELAY, HOT, LIMITS, LIVENESS, HEALTH, PENALTIES, TCP, BOOK];

const NODE: &[Knob] = section! {
    "network" (Number) node.network:
        "The network: nodes of another one are refused.";
    "agent" (Plain) node.agent:
        "Name and version of the software, told in every hello; at most 128 bytes.";
    "genesis" (Maybe<Hex>) node.genesis:
        "Hash of the first block, 64 hexadecimal digits. Where both ends have one, they must be equal."
        like "\"00000000000000000000000000000000000000000000000000000000000000ff\"";
    "features" (Number) node.features:
        "Application bits told in every hello; the highest bit is the protocol's own.";
    "app" (Hex) node.app:
        "The application's own bytes in every hello, in hexadecimal; at most 1 KiB.";
    "listen" (Addr) node.listen:
        "Addresses to listen on, beside those of --listen. Port 0 takes any.";
    "advertise" (Maybe<Addr>) node.advertise:
        "The address that peers are told where it is not the first one listened on (behind a port mapping). Only its port counts."
        like "\"192.0.2.1:9000\"";
    "seeds" (Addr) node.seeds:
        "First addresses to dial, beside those of --peer.";
    "trusted" (Addr) node.trusted:
        "Addresses that are always dialled, whatever the number of peers, and take reserved slots.";
    "expected_peers" (Number) node.expected_peers:
        "Peers that the pool makes room for at the start; a hint, 0 takes it from the limits.";
    "log_ring_bytes" (Size) node.log_ring_bytes:
        "Ring of each of the three broadcast logs: what a slow peer may fall behind.";
    "max_state_keys" (Number) node.max_state_keys:
        "Values of state: the most keys.";
    "max_state_bytes" (Size) node.max_state_bytes:
        "Values of state: the most bytes.";
    "event_backlog" (Number) node.event_backlog:
        "Events that a slow subscriber may fall behind before it gets a new snapshot.";
};

const LINK: &[Knob] = section! {
    "link.inbox_messages" (Number) node.connection.inbox_messages:
        "Received messages that wait for the handler. One more and reading pauses.";
    "link.inbox_bytes" (Size) node.connection.inbox_bytes:
        "Bytes of received messages that wait for the handler.";
    "link.requests" (Number) node.connection.max_inbound_requests:
        "Requests of one peer that are handled at the same time; more wait in the inbox.";
    "link.outbox_messages" (Number) node.connection.outbox_messages:
        "Messages that wait to be sent on one lane; more come back as full.";
    "link.outbox_bytes" (Size) node.connection.outbox_bytes:
        "Bytes that wait to be sent on one lane.";
    "link.waiters" (Number) node.connection.max_outbound_requests:
        "Our own requests that await an answer on one link.";
    "link.batch" (Size) node.connection.write_batch_bytes:
        "The most one write takes of the logs; half of it where something else is to be sent too.";
    "link.linger" (Time) node.connection.linger:
        "How long a closing link may take to say goodbye.";
    "link.peers_interval" (Time) node.connection.peers_interval:
        "The shortest time between two address lists that a peer gets from us.";
};

const WIRE: &[Knob] = section! {
    "wire.urgent" (Size) node.wire.urgent:
        "Largest message on the urgent lane.";
    "wire.normal" (Size) node.wire.normal:
        "Largest message on the normal lane.";
    "wire.bulk" (Size) node.wire.bulk:
        "Largest message on the bulk lane.";
    "wire.hello" (Size) node.wire.hello:
        "Largest greeting: 2 to 4 KiB.";
    "wire.chunk" (Size) node.wire.chunk:
        "Largest payload of one chunk: 1 to 16 KiB. A more urgent lane waits for at most one.";
    "wire.peers" (Number) node.wire.peers:
        "Most addresses in one list of addresses; at most 800.";
};

const RELAY: &[Knob] = section! {
    "relay.retention" (Time) node.relay.retention:
        "How long a message is remembered; must exceed the time it needs to die out in the mesh.";
    "relay.capacity" (Number) node.relay.capacity:
        "The most ids remembered. A full memory refuses new ones before it forgets young ones.";
    "relay.peer_share_percent" (Number) node.relay.peer_share_percent:
        "The share of the capacity that ids first brought by one connection may take, in percent.";
};

const HOT: &[Knob] = section! {
    "runtime.target_peers" (Number) node.runtime.target_peers:
        "Live peers, both directions, under which the node dials more; 0 dials trusted peers only.";
    "runtime.max_concurrent_dials" (Number) node.runtime.max_concurrent_dials:
        "Dials at the same time.";
    "runtime.handshake_timeout" (Time) node.runtime.handshake_timeout:
        "How long a dial with its handshake, or the handshake of an accepted connection, may take.";
    "runtime.maintenance_interval" (Time) node.runtime.maintenance_interval:
        "How often the maintenance looks.";
    "runtime.ping_interval" (Time) node.runtime.ping_interval:
        "How often a peer is pinged; at most half of runtime.liveness.stale_after.";
    "runtime.write_stall_timeout" (Time) node.runtime.write_stall_timeout:
        "How long written bytes may make no progress before the peer is closed.";
    "runtime.stable_after" (Time) node.runtime.stable_after:
        "How long a session must last to reset its address' backoff.";
    "runtime.discovery_interval" (Time) node.runtime.discovery_interval:
        "How often a peer is asked for addresses; at once while too few are known.";
    "runtime.flush_interval" (Time) node.runtime.flush_interval:
        "How often the book is written.";
    "runtime.min_replace_age" (Time) node.runtime.min_replace_age:
        "The shortest life of a connection that another one with the same proven identity may replace.";
    "runtime.memory_limit" (Size) node.runtime.memory_limit:
        "The memory ceiling: rings, state, inboxes, lanes, reassembly, remainders.";
    "runtime.urgent_lag" (Lag) node.runtime.urgent_lag:
        "A peer too slow for urgent broadcasts: \"disconnect\" it, or \"skip\" what it misses.";
    "runtime.normal_lag" (Lag) node.runtime.normal_lag:
        "A peer too slow for normal broadcasts: \"disconnect\" or \"skip\".";
    "runtime.bulk_lag" (Lag) node.runtime.bulk_lag:
        "A peer too slow for bulk broadcasts: \"disconnect\" or \"skip\".";
};

const LIMITS: &[Knob] = section! {
    "runtime.limits.max_inbound" (Number) node.runtime.limits.max_inbound:
        "Connections they dialled; at most 1,048,575.";
    "runtime.limits.max_outbound" (Number) node.runtime.limits.max_outbound:
        "Connections we dialled; at most 1,048,575.";
    "runtime.limits.max_pending_inbound" (Number) node.runtime.limits.max_pending_inbound:
        "Inbound handshakes under way at once; at most 4,095.";
    "runtime.limits.max_pending_outbound" (Number) node.runtime.limits.max_pending_outbound:
        "Outbound handshakes under way at once; at most 2,047.";
    "runtime.limits.max_per_ip" (Number) node.runtime.limits.max_per_ip:
        "Connections of one IP address.";
    "runtime.limits.max_per_subnet" (Number) node.runtime.limits.max_per_subnet:
        "Connections of one /24 of IPv4 or one /64 of IPv6.";
    "runtime.limits.max_per_site" (Number) node.runtime.limits.max_per_site:
        "Connections of one /48 of IPv6.";
    "runtime.limits.reserved_inbound" (Number) node.runtime.limits.reserved_inbound:
        "The last so many inbound slots are for trusted peers only.";
    "runtime.limits.reserved_outbound" (Number) node.runtime.limits.reserved_outbound:
        "The last so many outbound slots are for trusted peers only.";
    "runtime.limits.floor" (Number) node.runtime.limits.floor:
        "Nobody is evicted if fewer live peers than this would remain.";
    "runtime.limits.trim_step" (Number) node.runtime.limits.trim_step:
        "How many peers at most are let go at a time after limits were lowered.";
};

const LIVENESS: &[Knob] = section! {
    "runtime.liveness.stale_after" (Time) node.runtime.liveness.stale_after:
        "A peer from which nothing came for longer than this is reaped. Three ping intervals or more are wise.";
};

const HEALTH: &[Knob] = section! {
    "runtime.health.healthy_above" (Number) node.runtime.health.healthy_above:
        "A peer with more points than this, of 100, is healthy.";
    "runtime.health.window" (Time) node.runtime.health.window:
        "Within one window each cause counts once a peer.";
    "runtime.health.recovery_step" (Time) node.runtime.health.recovery_step:
        "One point comes back every so often.";
    "runtime.health.reward" (Number) node.runtime.health.reward:
        "Points that a reward gives.";
    "runtime.health.mass_failure_quorum" (Number) node.runtime.health.mass_failure_quorum:
        "From so many failing peers on, more than half of all failing at once counts as our own fault.";
};

const PENALTIES: &[Knob] = &[
    penalty!("runtime.health.penalties.unresponsive", Unresponsive, "Points it costs not to answer pings."),
    penalty!("runtime.health.penalties.timeout", Timeout, "Points it costs not to answer a request in time."),
    penalty!("runtime.health.penalties.malformed", Malformed, "Points it costs to send what cannot be read."),
    penalty!("runtime.health.penalties.protocol", Protocol, "Points it costs to break the protocol."),
    penalty!("runtime.health.penalties.oversized", Oversized, "Points it costs to send what is too large."),
    penalty!("runtime.health.penalties.flood", Flood, "Points it costs to flood."),
    penalty!("runtime.health.penalties.bad_data", BadData, "Points it costs to send data that is wrong."),
    penalty!(
        "runtime.health.penalties.bad_request",
        BadRequest,
        "Points it costs to ask for what makes no sense."
    ),
    penalty!("runtime.health.penalties.useless", Useless, "Points it costs to be of no use."),
    penalty!("runtime.health.penalties.app0", App(0), "Points of the application's first cause of its own."),
    penalty!("runtime.health.penalties.app1", App(1), "Points of the application's second cause."),
    penalty!("runtime.health.penalties.app2", App(2), "Points of the application's third cause."),
    penalty!("runtime.health.penalties.app3", App(3), "Points of the application's fourth cause."),
];

const TCP: &[Knob] = section! {
    "tcp.nodelay" (Plain) tcp.nodelay:
        "Send small segments at once.";
    "tcp.keepalive" (Plain) keepalive:
        "Let the system probe silent connections.";
    "tcp.keepalive_idle" (Time) keepalive_times.idle:
        "Silence before the first probe, in whole seconds on most systems.";
    "tcp.keepalive_interval" (Time) keepalive_times.interval:
        "Time between probes.";
    "tcp.keepalive_retries" (Number) keepalive_times.retries:
        "Unanswered probes before the connection is given up.";
    "tcp.reuse_addr" (Plain) tcp.reuse_addr:
        "Bind although connections of an earlier process linger.";
    "tcp.send_buffer" (Maybe<Size>) tcp.send_buffer:
        "The kernel's send buffer of a connection. Not set, the system tunes it."
        like "\"1 MiB\"";
    "tcp.recv_buffer" (Maybe<Size>) tcp.recv_buffer:
        "The kernel's receive buffer of a connection. Not set, the system tunes it."
        like "\"1 MiB\"";
    "tcp.notsent_lowat" (Maybe<Size>) tcp.notsent_lowat:
        "Unsent bytes above which a socket counts as not writable. Not set, the system decides."
        like "\"128 KiB\"";
    "tcp.backlog" (Number) tcp.backlog:
        "Connections that may wait to be accepted.";
    "tcp.dial_from_v4" (Maybe<Addr>) tcp.dial_from_v4:
        "Dial IPv4 from this address. Not set, the system chooses."
        like "\"192.0.2.1\"";
    "tcp.dial_from_v6" (Maybe<Addr>) tcp.dial_from_v6:
        "Dial IPv6 from this address. Not set, the system chooses."
        like "\"2001:db8::1\"";
};

const BOOK: &[Knob] = section! {
    "book.max_addresses" (Number) book.max_addresses:
        "Addresses kept at the most. When full, the oldest that never connected goes first.";
    "book.max_per_source" (Number) book.max_per_source:
        "Addresses that never connected, kept per source at the most.";
    "book.max_bans" (Number) book.max_bans:
        "Bans kept at the most. When full, the one that ends first goes.";
    "book.allow_private" (Plain) book.allow_private:
        "Whether private and loopback addresses are taken. A node on the public internet turns it off.";
    "book.backoff_base" (Time) book.backoff.base:
        "The wait after an address' first failure; it doubles with each one.";
    "book.backoff_cap" (Time) book.backoff.cap:
        "The longest wait.";
    "book.self_memory" (Time) book.self_memory:
        "How long an address that turned out to be our own is not dialled.";
    "book.seed" (Maybe<Number>) book.seed:
        "Seed of the book's random choices. Not set, from the operating system."
        like "7";
};
