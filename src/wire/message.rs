//! The messages of a connection, independent of the protocol that encodes them.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::base::{Lane, Nonce};

use super::error::AgentError;

/// The header of an application message: its kind and its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MessageHeader {
    /// A one-way message.
    Event {
        /// The message type, defined by the application.
        kind: u16,
    },
    /// A message that asks for a response.
    Request {
        /// Chosen by the requester; unique among its pending requests on this connection.
        id: u32,
        /// The message type, defined by the application.
        kind: u16,
    },
    /// The response to a request.
    Response {
        /// The request's id.
        id: u32,
        /// The result of the request.
        status: Status,
    },
    /// The requester no longer wants the response. Has no payload.
    Cancel {
        /// The request's id.
        id: u32,
    },
}

impl MessageHeader {
    /// The kind of frame that carries the message.
    pub const fn frame_kind(&self) -> FrameKind {
        match self {
            Self::Event { .. } => FrameKind::Event,
            Self::Request { .. } => FrameKind::Request,
            Self::Response { .. } => FrameKind::Response,
            Self::Cancel { .. } => FrameKind::Cancel,
        }
    }

    /// The id that ties request, response and cancel together; `None` for an event.
    pub const fn id(&self) -> Option<u32> {
        match *self {
            Self::Event { .. } => None,
            Self::Request { id, .. } | Self::Response { id, .. } | Self::Cancel { id } => Some(id),
        }
    }
}

/// The kinds of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameKind {
    /// See [`MessageHeader::Event`].
    Event,
    /// See [`MessageHeader::Request`].
    Request,
    /// See [`MessageHeader::Response`].
    Response,
    /// See [`MessageHeader::Cancel`].
    Cancel,
    /// See [`Control`].
    Control,
}

impl fmt::Display for FrameKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Event => "event",
            Self::Request => "request",
            Self::Response => "response",
            Self::Cancel => "cancel",
            Self::Control => "control",
        })
    }
}

/// The result of a request: one byte on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Status {
    /// The payload is the answer.
    Ok,
    /// The handler ended without an answer.
    NoReply,
    /// The handler does not answer this peer or this request.
    Refused,
    /// Too many requests are in progress. A later request may succeed.
    Busy,
    /// The handler failed; the payload may say why.
    Failed,
    /// The request's kind has no handler.
    UnknownKind,
    /// The answer exceeds the limit of its lane.
    TooLarge,
    /// A code without a name in this version. Codes from 128 up belong to the application.
    Other(u8),
}

impl Status {
    /// The byte on the wire.
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::NoReply => 1,
            Self::Refused => 2,
            Self::Busy => 3,
            Self::Failed => 4,
            Self::UnknownKind => 5,
            Self::TooLarge => 6,
            Self::Other(code) => code,
        }
    }

    /// The status of a byte; [`Status::Other`] for a byte without a name.
    pub const fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Ok,
            1 => Self::NoReply,
            2 => Self::Refused,
            3 => Self::Busy,
            4 => Self::Failed,
            5 => Self::UnknownKind,
            6 => Self::TooLarge,
            other => Self::Other(other),
        }
    }
}

/// A message of the protocol itself, which does not reach the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// Asks for an immediate pong with the same token.
    Ping {
        /// Repeated by the pong. Zero in a protocol without ping tokens.
        token: u64,
    },
    /// Answers a ping.
    Pong {
        /// The token of the ping. Zero in a protocol without ping tokens.
        token: u64,
    },
    /// The sender closes the connection after this.
    Goodbye(Goodbye),
    /// The rest of the partial message on this lane will not come. The decoder has dropped its
    /// received part.
    Abort {
        /// The lane; never [`Lane::Control`].
        lane: Lane,
    },
    /// Asks for addresses of other peers.
    GetPeers {
        /// Most addresses to return.
        max: u16,
    },
    /// Addresses known to the sender, canonical.
    Peers(Vec<SocketAddr>),
    /// The receiver read too slowly: broadcasts of this lane that come before the next one on it
    /// were left out.
    Missed {
        /// The lane; never [`Lane::Control`].
        lane: Lane,
        /// How many were left out since the last report.
        count: u64,
    },
}

/// Why a connection is refused or ended, and when to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Goodbye {
    /// Why.
    pub reason: GoodbyeReason,
    /// The peer should not reconnect earlier. `None`: its own backoff decides. On the wire in whole
    /// milliseconds, rounded up, at most 49 days.
    pub retry_after: Option<Duration>,
}

impl Goodbye {
    /// A goodbye without a retry time.
    pub const fn new(reason: GoodbyeReason) -> Self {
        Self { reason, retry_after: None }
    }

    /// Sets how long the peer should wait before it reconnects.
    #[must_use]
    pub const fn retry_after(self, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..self }
    }
}

/// Why a connection is refused or ended: two bytes on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GoodbyeReason {
    /// The application closed the connection without a reason.
    Closed,
    /// The node shuts down.
    Shutdown,
    /// No slot is free: in total, for the address, or for its subnet.
    Full,
    /// The address or the peer is banned.
    Banned,
    /// The peer belongs to another network.
    WrongNetwork,
    /// The protocol version is not supported.
    WrongVersion,
    /// The peer has another genesis block.
    WrongGenesis,
    /// The nonce is our own: the node has dialled itself.
    SelfDial,
    /// Another connection between the same two nodes is kept.
    Duplicate,
    /// A newer connection of the same peer replaces this one.
    Replaced,
    /// The peer violated the protocol.
    Protocol,
    /// The peer was silent for too long.
    Stale,
    /// The peer reads too slowly.
    TooSlow,
    /// The node is overloaded.
    Overloaded,
    /// The application rejects the hello.
    Rejected,
    /// The handshake took too long.
    Timeout,
    /// The node failed internally.
    Failed,
    /// A code without a name in this version.
    Other(u16),
}

impl GoodbyeReason {
    /// The number on the wire.
    pub const fn code(self) -> u16 {
        match self {
            Self::Closed => 0,
            Self::Shutdown => 1,
            Self::Full => 2,
            Self::Banned => 3,
            Self::WrongNetwork => 4,
            Self::WrongVersion => 5,
            Self::WrongGenesis => 6,
            Self::SelfDial => 7,
            Self::Duplicate => 8,
            Self::Replaced => 9,
            Self::Protocol => 10,
            Self::Stale => 11,
            Self::TooSlow => 12,
            Self::Overloaded => 13,
            Self::Rejected => 14,
            Self::Timeout => 15,
            Self::Failed => 16,
            Self::Other(code) => code,
        }
    }

    /// The reason of a number; [`GoodbyeReason::Other`] for a number without a name.
    pub const fn from_code(code: u16) -> Self {
        match code {
            0 => Self::Closed,
            1 => Self::Shutdown,
            2 => Self::Full,
            3 => Self::Banned,
            4 => Self::WrongNetwork,
            5 => Self::WrongVersion,
            6 => Self::WrongGenesis,
            7 => Self::SelfDial,
            8 => Self::Duplicate,
            9 => Self::Replaced,
            10 => Self::Protocol,
            11 => Self::Stale,
            12 => Self::TooSlow,
            13 => Self::Overloaded,
            14 => Self::Rejected,
            15 => Self::Timeout,
            16 => Self::Failed,
            other => Self::Other(other),
        }
    }
}

/// Introduces a node to its peer. The dialler sends its hello first; the acceptor's hello accepts
/// the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The sender's protocol version; see [`Protocol::version`](super::Protocol::version). Other
    /// versions than ours decode too, so that they can be refused with a reason.
    pub version: u32,
    /// The network. Nodes of different networks do not stay connected.
    pub network: u64,
    /// The nonce of the sender's process. `None` only in a protocol without nonces, which then
    /// detects neither self-dials nor collisions by nonce.
    pub nonce: Option<Nonce>,
    /// Feature bits, defined by the application. Unknown bits are ignored.
    pub features: u64,
    /// The listen address that the sender claims. Canonical when decoded; not verified.
    pub listen: Option<SocketAddr>,
    /// Name and version of the sender's software: at most [`Hello::MAX_AGENT`] bytes, no control
    /// characters.
    pub agent: String,
    /// Hash of the genesis block, if the application has one. If both sides send one, they must be
    /// equal.
    pub genesis: Option<[u8; 32]>,
    /// Bytes of the application, at most [`Hello::MAX_APP`].
    pub app: Bytes,
}

impl Hello {
    /// Longest agent, in bytes.
    pub const MAX_AGENT: usize = 128;
    /// Most application bytes in the native protocol.
    pub const MAX_APP: usize = 1024;

    /// A hello with the mandatory fields only.
    pub fn new(version: u32, network: u64, nonce: Nonce) -> Self {
        Self {
            version,
            network,
            nonce: Some(nonce),
            features: 0,
            listen: None,
            agent: String::new(),
            genesis: None,
            app: Bytes::new(),
        }
    }

    /// Checks an agent text: length, UTF-8, no control characters. Every protocol applies it.
    ///
    /// # Errors
    /// [`AgentError`] says which check failed.
    pub fn validate_agent(agent: &[u8]) -> Result<&str, AgentError> {
        if agent.len() > Self::MAX_AGENT {
            return Err(AgentError::TooLong { size: agent.len() });
        }
        let text = std::str::from_utf8(agent).map_err(|_| AgentError::NotUtf8)?;
        if text.chars().any(char::is_control) {
            return Err(AgentError::ControlCharacter);
        }
        Ok(text)
    }
}

/// The first frame of each side. The dialler sends a hello; the acceptor answers with either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FirstFrame {
    /// Introduces the sender. From the acceptor it also accepts the connection.
    Hello(Hello),
    /// Refuses the connection.
    Refusal(Refusal),
}

/// Refuses a connection in place of the acceptor's hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: GoodbyeReason,
    /// See [`Goodbye::retry_after`].
    pub retry_after: Option<Duration>,
    /// The protocol version that the acceptor speaks.
    pub version: u32,
    /// The acceptor's network.
    pub network: u64,
    /// Other nodes that the dialler may try, canonical; at most [`Refusal::MAX_ADDRS`]. Empty
    /// unless the reason is [`GoodbyeReason::Full`].
    pub addrs: Vec<SocketAddr>,
}

impl Refusal {
    /// The most addresses that a refusal carries.
    pub const MAX_ADDRS: usize = 8;

    /// The refusal for a reason, by an acceptor of this version and network. Without addresses.
    pub const fn new(goodbye: Goodbye, version: u32, network: u64) -> Self {
        let Goodbye { reason, retry_after } = goodbye;
        Self { reason, retry_after, version, network, addrs: Vec::new() }
    }

    /// Reason and retry time.
    pub const fn goodbye(&self) -> Goodbye {
        Goodbye { reason: self.reason, retry_after: self.retry_after }
    }
}
