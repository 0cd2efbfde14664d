//! What is said on a link, whatever the dialect that says it.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::base::{Lane, Nonce};

use super::error::AgentError;

/// What a message of the application is, apart from its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MessageHeader {
    /// Something the peer is told, without an answer.
    Event {
        /// The application's kind of message.
        kind: u16,
    },
    /// Something the peer is asked.
    Request {
        /// Chosen by the asking side, unique among its requests that await an answer on this connection.
        id: u32,
        /// The application's kind of message.
        kind: u16,
    },
    /// The answer to a request.
    Response {
        /// The request's id.
        id: u32,
        /// How the request fared.
        status: Status,
    },
    /// The asking side no longer wants the answer. Has no payload.
    Cancel {
        /// The request's id.
        id: u32,
    },
}

impl MessageHeader {
    /// The kind of frame that carries it.
    pub const fn frame_kind(&self) -> FrameKind {
        match self {
            Self::Event { .. } => FrameKind::Event,
            Self::Request { .. } => FrameKind::Request,
            Self::Response { .. } => FrameKind::Response,
            Self::Cancel { .. } => FrameKind::Cancel,
        }
    }

    /// The id that ties request, response and cancel together; an event has none.
    pub const fn id(&self) -> Option<u32> {
        match *self {
            Self::Event { .. } => None,
            Self::Request { id, .. } | Self::Response { id, .. } | Self::Cancel { id } => Some(id),
        }
    }
}

/// The five kinds of frames.
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

/// How a request fared: one byte on the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Status {
    /// Answered; the payload is the answer.
    Ok,
    /// The handler ended without an answer.
    NoReply,
    /// The handler does not answer this peer, or not this question.
    Refused,
    /// Too many requests are being handled; a later one may be answered.
    Busy,
    /// The handler failed; the payload may say why.
    Failed,
    /// The request's kind has no handler.
    UnknownKind,
    /// The answer exceeds the cap of its lane.
    TooLarge,
    /// A code without a name here: a later version's, or (from 128 up) the application's own.
    Other(u8),
}

impl Status {
    /// The byte on the line.
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

    /// The status with this byte; [`Status::Other`] for one without a name.
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

/// The protocol's own messages; none of them reaches the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// Are you there? To be answered by a pong with the same token, at once.
    Ping {
        /// What the pong repeats; zero where the dialect's pings have none.
        token: u64,
    },
    /// The answer to a ping.
    Pong {
        /// The ping's token; zero where the dialect's pings have none.
        token: u64,
    },
    /// The sender closes the connection after this.
    Goodbye(Goodbye),
    /// The rest of the open message on this lane will not come. The decoder has already dropped what had come.
    Abort {
        /// The lane; never [`Lane::Control`].
        lane: Lane,
    },
    /// Which peers do you know?
    GetPeers {
        /// Most addresses wanted.
        max: u16,
    },
    /// Addresses that the sender knows; canonical.
    Peers(Vec<SocketAddr>),
}

/// Why a connection is refused or ended, and when to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Goodbye {
    /// Why.
    pub reason: GoodbyeReason,
    /// Not before so long; `None` leaves it to the peer's own backoff. On the line in whole milliseconds, rounded up, at
    /// most 49 days.
    pub retry_after: Option<Duration>,
}

impl Goodbye {
    /// A goodbye that leaves the time of return to the peer.
    pub const fn new(reason: GoodbyeReason) -> Self {
        Self { reason, retry_after: None }
    }

    /// The same goodbye with a time before which the peer need not come back.
    #[must_use]
    pub const fn retry_after(self, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..self }
    }
}

/// Why a connection is refused or ended: two bytes on the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GoodbyeReason {
    /// No reason given: the application closed the connection.
    Closed,
    /// The node shuts down.
    Shutdown,
    /// No slot is free: globally, for the address or for its subnet.
    Full,
    /// The address or the peer is banned.
    Banned,
    /// Another network.
    WrongNetwork,
    /// A version of the dialect that is not spoken.
    WrongVersion,
    /// Another genesis.
    WrongGenesis,
    /// The nonce is our own: you dialled yourself.
    SelfDial,
    /// Another connection of the same two nodes survives.
    Duplicate,
    /// A newer connection of the same peer took this one's place.
    Replaced,
    /// What came broke the protocol.
    Protocol,
    /// Nothing came for too long.
    Stale,
    /// The peer reads too slowly.
    TooSlow,
    /// The node is overloaded.
    Overloaded,
    /// The application's verdict on the hello.
    Rejected,
    /// The handshake took too long.
    Timeout,
    /// A code without a name here.
    Other(u16),
}

impl GoodbyeReason {
    /// The number on the line.
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
            Self::Other(code) => code,
        }
    }

    /// The reason with this number; [`GoodbyeReason::Other`] for one without a name.
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
            other => Self::Other(other),
        }
    }
}

/// The first thing each side says. The dialler speaks first; the acceptor's hello is its acceptance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Version of the dialect that the sender speaks; see [`Protocol::version`](super::Protocol::version). Another one
    /// than ours still decodes, so that it can be refused with a reason.
    pub version: u32,
    /// The network: nodes of different ones do not stay connected.
    pub network: u64,
    /// The sender's instance nonce; `None` only where the dialect has none, and then neither self-dials nor collisions
    /// can be told by it.
    pub nonce: Option<Nonce>,
    /// What the sender can do, as bits of the application; unknown ones are ignored.
    pub features: u64,
    /// Where the sender says it listens; canonical when decoded, not verified.
    pub listen: Option<SocketAddr>,
    /// Name and version of the sender's software: at most [`Hello::MAX_AGENT`] bytes, no control characters.
    pub agent: String,
    /// Hash of the first block, where the application has one; with one on both sides they must be equal.
    pub genesis: Option<[u8; 32]>,
    /// The application's own bytes, at most [`Hello::MAX_APP`].
    pub app: Bytes,
}

impl Hello {
    /// Longest agent, in bytes of UTF-8.
    pub const MAX_AGENT: usize = 128;
    /// Most bytes of the application's own in the native dialect.
    pub const MAX_APP: usize = 1024;

    /// A hello that says the least: who speaks, in which network.
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

    /// Whether this may stand as an agent, in any dialect.
    ///
    /// # Errors
    /// Says what is wrong with it.
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

/// How a connection begins: the acceptor answers with either, the dialler begins with a hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FirstFrame {
    /// "This is who I am"; from the acceptor also "I accept you".
    Hello(Hello),
    /// "I do not accept you".
    Goodbye(Goodbye),
}
