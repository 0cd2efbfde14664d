//! Behaviour and timing of a legacy node.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::handshake::Network;
use super::message::Message;

/// All durations of the legacy node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    /// Dial and handshake together, as the dialler. The acceptor has no time limit.
    pub(crate) dial: Duration,
    /// A write, once the connection's mutex is held.
    pub(crate) send: Duration,
    /// A read of one frame.
    pub(crate) receive: Duration,
    /// The wait for what a ping takes for its answer.
    pub(crate) pong: Duration,
    pub(crate) ping_every: Duration,
    /// The request for peers after dialling, whose reply is not recognised: until then it reads
    /// nothing else.
    pub(crate) mute: Duration,
    /// Silence after which a peer is reaped.
    pub(crate) stale: Duration,
    pub(crate) first_tick: Duration,
    pub(crate) tick: Duration,
    /// From the removal of a dead connection to the one dial that follows it.
    pub(crate) redial: Duration,
    /// Minimum interval between announcements of one peer.
    pub(crate) told: Duration,
    /// The window of the limit of 60 announcements.
    pub(crate) minute: Duration,
    /// Delay before a request is repeated after a broken pipe.
    pub(crate) broken_pipe: Duration,
}

impl Timing {
    /// As measured.
    pub(crate) fn real() -> Self {
        let seconds = Duration::from_secs;
        Self {
            dial: seconds(5),
            send: seconds(5),
            receive: seconds(60),
            pong: seconds(10),
            ping_every: seconds(30),
            mute: seconds(15),
            stale: seconds(300),
            first_tick: seconds(10),
            tick: seconds(30),
            redial: seconds(30),
            told: seconds(300),
            minute: seconds(60),
            broken_pipe: Duration::from_millis(100),
        }
    }

    /// Shortens the periodic delays by a factor: 50 turns 15 s into 300 ms. Time limits stay, so
    /// that a busy machine does not trigger them.
    pub(crate) fn faster(by: u32) -> Self {
        let real = Self::real();
        Self {
            ping_every: real.ping_every / by,
            mute: real.mute / by,
            stale: real.stale / by,
            first_tick: real.first_tick / by,
            tick: real.tick / by,
            redial: real.redial / by,
            told: real.told / by,
            minute: real.minute / by,
            broken_pipe: real.broken_pipe / by,
            ..real
        }
    }
}

/// What embeds the legacy network layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodeKind {
    /// The layer alone: reads inside requests and pings only, keyed by the handshake's
    /// `listen_addr`.
    Layer,
    /// The last full node: a read loop on accepted connections, keyed by the socket's address.
    Full,
}

/// Answers of a full node to one message: `None` leaves it to the built-in ones.
pub(crate) type Answers = dyn Fn(&Message) -> Option<Vec<String>> + Send + Sync;

/// How a legacy node is set up. Fields are public; [`ConnectionSetup::new`] gives what a node ships
/// with.
#[derive(Clone)]
pub(crate) struct ConnectionSetup {
    pub(crate) network: Network,
    pub(crate) kind: NodeKind,
    pub(crate) times: Timing,
    /// Where it listens; `None`: it does not.
    pub(crate) listen: Option<SocketAddr>,
    /// What its handshakes advertise when it dials; where it listens, unless set.
    pub(crate) public: Option<SocketAddr>,
    /// The source address of its dials; `None`: the system's choice (127.0.0.1 on loopback).
    pub(crate) dial_from: Option<IpAddr>,
    /// The version text of its handshake.
    pub(crate) version: String,
    /// Its genesis, if it was given a chain: then it checks that of an acceptor that names one.
    pub(crate) genesis: Option<String>,
    /// The port that ephemeral ones are replaced with, that it redials to, and that a full node
    /// puts into peer lists.
    pub(crate) standard_port: u16,
    /// Asked for peers on every tick while it has few.
    pub(crate) seeds: Vec<SocketAddr>,
    /// Whether each tick dials when there are few peers.
    pub(crate) reconnect: bool,
    /// Whether new peers are announced to the others.
    pub(crate) tell: bool,
    /// The height of a full node's chain, `None`: no genesis yet.
    pub(crate) height: Option<u64>,
    /// Asked first, by a full node.
    pub(crate) answers: Option<Arc<Answers>>,
}

impl ConnectionSetup {
    /// A testnet node of the layer alone on 127.0.0.`host`, port chosen by the system.
    pub(crate) fn new(host: u8, times: Timing) -> Self {
        Self {
            network: Network::Testnet,
            kind: NodeKind::Layer,
            times,
            listen: Some(SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), 0))),
            public: None,
            dial_from: None,
            version: "0.6.4-ec2a412".to_owned(),
            genesis: None,
            standard_port: 24_100,
            seeds: Vec::new(),
            reconnect: false,
            tell: true,
            height: Some(42),
            answers: None,
        }
    }

    /// The last full node.
    pub(crate) fn full(host: u8, times: Timing) -> Self {
        Self { kind: NodeKind::Full, ..Self::new(host, times) }
    }

    /// On this port of its address.
    pub(crate) fn port(mut self, port: u16) -> Self {
        if let Some(listen) = &mut self.listen {
            listen.set_port(port);
        }
        self
    }

    /// Does not listen; advertises `public`.
    pub(crate) fn only_dials(mut self, public: SocketAddr) -> Self {
        self.listen = None;
        self.public = Some(public);
        self
    }

    /// Dials from its own address, so that the far end sees that instead of 127.0.0.1.
    pub(crate) fn dials_from_itself(mut self) -> Self {
        self.dial_from = self.public.or(self.listen).map(|addr| addr.ip());
        self
    }
}
