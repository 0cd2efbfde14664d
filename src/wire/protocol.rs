//! The faces of a dialect: how messages become bytes and bytes become messages.

use std::fmt::Debug;
use std::ops::Deref;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::base::Lane;

use super::chunk::Chunks;
use super::error::{EncodeError, WireError};
use super::limits::WireLimits;
use super::message::{Control, FirstFrame, Goodbye, Hello, MessageHeader};

/// Framing and handshake spoken on a link. One value serves all links; what belongs to one link is its [`Decoder`].
///
/// Every encoding method appends to `out`, and leaves it as it was when it fails.
pub trait Protocol: Send + Sync + 'static {
    /// What one link keeps between reads.
    type Decoder: Decoder;

    /// The name in logs, stats and configuration.
    fn name(&self) -> &'static str;

    /// What goes into [`Hello::version`].
    fn version(&self) -> u32;

    /// What this dialect can say at all.
    fn features(&self) -> Features;

    /// The caps: per lane, of the greeting, of a chunk; and the window a reader needs.
    fn limits(&self) -> &WireLimits;

    /// A decoder for a new connection, to be fed what follows the greeting.
    fn decoder(&self) -> Self::Decoder;

    /// Appends a whole message, in as many chunks as it takes.
    ///
    /// # Errors
    /// [`EncodeError::TooLarge`], [`EncodeError::ControlLaneReserved`], [`EncodeError::CancelPayload`],
    /// [`EncodeError::Unsupported`].
    ///
    /// # Cost
    /// One reservation and one copy of the payload.
    fn encode(
        &self,
        lane: Lane,
        header: &MessageHeader,
        payload: &[u8],
        out: &mut BytesMut,
    ) -> Result<(), EncodeError>;

    /// The same bytes as [`Protocol::encode`] makes, as chunks that share the payload.
    ///
    /// # Errors
    /// Those of [`Protocol::encode`].
    ///
    /// # Cost
    /// One reference count a chunk; no copy, no allocation.
    fn chunks(&self, lane: Lane, header: MessageHeader, payload: Bytes) -> Result<Chunks, EncodeError>;

    /// Appends a control message; `false`, and nothing appended, if this dialect has no such thing.
    ///
    /// # Errors
    /// [`EncodeError::TooManyPeers`], [`EncodeError::BadLane`].
    fn encode_control(&self, control: &Control, out: &mut BytesMut) -> Result<bool, EncodeError>;

    /// Appends the greeting that opens a connection, or accepts one.
    ///
    /// # Errors
    /// [`EncodeError::Missing`], [`EncodeError::Agent`], [`EncodeError::AppTooLarge`],
    /// [`EncodeError::FirstFrameTooLarge`].
    fn encode_hello(&self, hello: &Hello, out: &mut BytesMut) -> Result<(), EncodeError>;

    /// Appends the greeting that refuses a connection; `false`, and nothing appended, if this dialect refuses by closing.
    ///
    /// # Errors
    /// [`EncodeError::FirstFrameTooLarge`].
    fn encode_goodbye(&self, goodbye: &Goodbye, out: &mut BytesMut) -> Result<bool, EncodeError>;

    /// How answers find their requests where the line carries no ids; `None`, the default: by id.
    fn reply_matcher(&self) -> Option<Arc<dyn ReplyMatcher>> {
        None
    }

    /// Reads the greeting at the start of `buf`, and how many bytes it took; `None` while it is incomplete and nothing is
    /// wrong with it so far. With [`WireLimits::hello`] bytes in hand it is never `None`.
    ///
    /// # Errors
    /// A typed refusal, as early as the bytes allow: a wrong magic on its first wrong byte, a length over the cap before
    /// anything it announces.
    fn decode_first_frame(&self, buf: &[u8]) -> Result<Option<(FirstFrame, usize)>, WireError>;
}

/// Pairs requests and answers by what they are, for a dialect whose messages carry no ids.
///
/// Each request waits in a *place*, one at a time; the decoder gives a received request its place as its id, and hands
/// answers over as events, and that there is none as a response whose id is the place.
pub trait ReplyMatcher: Debug + Send + Sync + 'static {
    /// The place in which a request of this kind waits for its answer; `None` for a kind that asks nothing.
    fn request_slot(&self, kind: u16) -> Option<u32>;

    /// The place that a message of this kind may answer; `None` for one that answers nothing.
    fn reply_slot(&self, kind: u16) -> Option<u32>;

    /// Whether this can be the answer to what was asked: the fields that must agree do.
    fn is_reply_to(&self, kind: u16, asked: &[u8], reply_kind: u16, reply: &[u8]) -> bool;

    /// Whether no answer to one of two requests of a place can be taken for the other's, so that one may be sent although the
    /// other, given up, may still be answered. Default: no.
    fn are_distinguishable(&self, _kind: u16, _asked: &[u8], _other_kind: u16, _other: &[u8]) -> bool {
        false
    }
}

/// What one link keeps between reads: the messages that have begun and not ended.
pub trait Decoder: Send + 'static {
    /// Takes one step over `buf`: all that has been received and not yet used, oldest byte first. The caller drops the
    /// bytes that the step says it used and calls again, until [`DecodeStep::NeedMore`].
    ///
    /// # Errors
    /// A typed refusal; the connection can then only be closed. Never panics, whatever the bytes.
    ///
    /// # Cost
    /// A message in one frame costs no allocation and no copy; chunks are copied once into the reassembly.
    fn step<'b>(&mut self, buf: &'b [u8]) -> Result<DecodeStep<'b>, WireError>;

    /// Bytes of memory held for messages that have begun and not ended: at most [`WireLimits::reassembly`]. Zero when
    /// none is open.
    fn buffered(&self) -> usize;
}

/// What a [`Decoder::step`] found. `used` is never zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecodeStep<'b> {
    /// Nothing can be taken before more bytes come; nothing was used.
    NeedMore,
    /// A part of a frame was taken in. No frame is complete, so this is no sign of life yet.
    PartialFrame {
        /// Bytes to drop from the front of the buffer.
        used: usize,
    },
    /// A complete frame, whose message is not complete.
    Chunk {
        /// Bytes to drop from the front of the buffer.
        used: usize,
    },
    /// A complete message of the application.
    Message {
        /// Bytes to drop from the front of the buffer, once the payload is done with.
        used: usize,
        /// The lane it came on.
        lane: Lane,
        /// What it is.
        header: MessageHeader,
        /// What it carries.
        payload: Payload<'b>,
    },
    /// A complete message of the protocol itself.
    Control {
        /// Bytes to drop from the front of the buffer.
        used: usize,
        /// What it says.
        control: Control,
    },
}

impl DecodeStep<'_> {
    /// Bytes to drop from the front of the buffer; zero for [`DecodeStep::NeedMore`] only.
    pub const fn used(&self) -> usize {
        match *self {
            Self::NeedMore => 0,
            Self::PartialFrame { used }
            | Self::Chunk { used }
            | Self::Message { used, .. }
            | Self::Control { used, .. } => used,
        }
    }
}

/// The payload of a received message: in the read buffer still, or reassembled.
#[derive(Clone, Debug)]
pub enum Payload<'b> {
    /// A message that came in one frame, where it was read. Keeping it means copying it.
    Borrowed(&'b [u8]),
    /// A message put together from several frames or reads.
    Owned(Bytes),
}

impl Payload<'_> {
    /// The payload as bytes of their own. Cost: copies a borrowed one, so that it does not pin the read buffer; an owned one
    /// is handed out.
    pub fn into_bytes(self) -> Bytes {
        match self {
            Self::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
            Self::Owned(bytes) => bytes,
        }
    }
}

impl Deref for Payload<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for Payload<'_> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl PartialEq for Payload<'_> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Payload<'_> {}

/// What a dialect can say at all. What it cannot say is refused by its encoder, or ([`Protocol::encode_control`]) left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Events and requests of the kinds below this. [`Features::ALL_KINDS`] where every kind can be said.
    pub kinds: u32,
    /// Requests, responses and cancels with ids.
    pub requests: bool,
    /// Lanes are told apart on the line. Without them everything arrives on [`Lane::Normal`].
    pub lanes: bool,
    /// Large messages go in chunks, so other lanes come between, and [`Control::Abort`] ends one. Without, a message is
    /// one frame, however large.
    pub chunks: bool,
    /// Pongs repeat the ping's token. Without, tokens arrive as zero and a pong answers the oldest ping; and nothing bounds the bulk
    /// that is under way, since that is followed by pings of its own (tokens with the highest bit).
    pub ping_tokens: bool,
    /// [`Control::Goodbye`], and a goodbye in place of a hello.
    pub goodbye: bool,
    /// [`Control::GetPeers`] and [`Control::Peers`].
    pub peers: bool,
    /// Hellos carry a nonce.
    pub nonce: bool,
}

impl Features {
    /// Every kind there is.
    pub const ALL_KINDS: u32 = 1 << 16;
    /// All of them.
    pub const ALL: Self = Self {
        kinds: Self::ALL_KINDS,
        requests: true,
        lanes: true,
        chunks: true,
        ping_tokens: true,
        goodbye: true,
        peers: true,
        nonce: true,
    };
    /// None of them: events of every kind and pings only.
    pub const NONE: Self = Self {
        kinds: Self::ALL_KINDS,
        requests: false,
        lanes: false,
        chunks: false,
        ping_tokens: false,
        goodbye: false,
        peers: false,
        nonce: false,
    };

    /// Whether what such a header begins can be said, on a lane that it may take.
    ///
    /// # Errors
    /// [`EncodeError::Unsupported`], as [`Protocol::encode`] would say it.
    pub const fn check(&self, header: &MessageHeader) -> Result<(), EncodeError> {
        match *header {
            MessageHeader::Request { .. } | MessageHeader::Response { .. } | MessageHeader::Cancel { .. }
                if !self.requests =>
            {
                Err(EncodeError::Unsupported { what: "request" })
            }
            MessageHeader::Event { kind } | MessageHeader::Request { kind, .. }
                if kind as u32 >= self.kinds =>
            {
                Err(EncodeError::Unsupported { what: "message of this kind" })
            }
            _ => Ok(()),
        }
    }
}
