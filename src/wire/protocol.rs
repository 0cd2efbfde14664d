//! The traits of a protocol: [`Protocol`] encodes, [`Decoder`] decodes, [`ReplyMatcher`] pairs
//! replies without ids.

use std::fmt::Debug;
use std::ops::Deref;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::base::Lane;

use super::chunk::Chunks;
use super::error::{EncodeError, WireError};
use super::features::Features;
use super::limits::WireLimits;
use super::message::{Control, FirstFrame, Hello, MessageHeader, Refusal};

/// Framing and handshake of a connection.
///
/// One value serves all connections; the state of one connection is its [`Decoder`]. Every encoding
/// method appends to `out` and leaves `out` unchanged when it fails.
pub trait Protocol: Send + Sync + 'static {
    /// The decoding state of one connection.
    type Decoder: Decoder;

    /// The name in logs, stats and configuration.
    fn name(&self) -> &'static str;

    /// The version to put into [`Hello::version`].
    fn version(&self) -> u32;

    /// What this protocol can express.
    fn features(&self) -> Features;

    /// The size limits of messages, first frames and chunks, and the window that a reader needs.
    fn limits(&self) -> &WireLimits;

    /// A decoder for a new connection. Its input starts behind the first frame.
    fn decoder(&self) -> Self::Decoder;

    /// Appends a whole message, in as many chunks as it takes.
    ///
    /// # Errors
    /// [`EncodeError::TooLarge`], [`EncodeError::ControlLaneReserved`],
    /// [`EncodeError::CancelPayload`], [`EncodeError::Unsupported`].
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

    /// The bytes of [`Protocol::encode`] as chunks that share the payload.
    ///
    /// # Errors
    /// Those of [`Protocol::encode`].
    ///
    /// # Cost
    /// One reference count per chunk; no copy, no allocation.
    fn chunks(&self, lane: Lane, header: MessageHeader, payload: Bytes) -> Result<Chunks, EncodeError>;

    /// Appends a control message. Returns `false`, and appends nothing, if this protocol has no
    /// such message.
    ///
    /// # Errors
    /// [`EncodeError::TooManyPeers`], [`EncodeError::BadLane`].
    fn encode_control(&self, control: &Control, out: &mut BytesMut) -> Result<bool, EncodeError>;

    /// Appends the hello that opens or accepts a connection.
    ///
    /// # Errors
    /// [`EncodeError::Missing`], [`EncodeError::Agent`], [`EncodeError::AppTooLarge`],
    /// [`EncodeError::FirstFrameTooLarge`].
    fn encode_hello(&self, hello: &Hello, out: &mut BytesMut) -> Result<(), EncodeError>;

    /// Appends the refusal of a connection. Returns `false`, and appends nothing, if this protocol
    /// refuses by closing.
    ///
    /// # Errors
    /// [`EncodeError::FirstFrameTooLarge`], [`EncodeError::TooManyPeers`].
    fn encode_refusal(&self, refusal: &Refusal, out: &mut BytesMut) -> Result<bool, EncodeError>;

    /// Decodes the first frame at the start of `buf`. Returns it with the number of bytes used, or
    /// `None` if more bytes are needed. With [`WireLimits::hello`] bytes it never returns `None`.
    ///
    /// # Errors
    /// A typed error, as early as the bytes allow: a wrong magic on its first wrong byte, a length
    /// above the limit before the bytes that it announces.
    fn decode_first_frame(&self, buf: &[u8]) -> Result<Option<(FirstFrame, usize)>, WireError>;

    /// How replies find their requests if frames carry no ids. Default: `None`, by id.
    fn reply_matcher(&self) -> Option<Arc<dyn ReplyMatcher>> {
        None
    }
}

/// Pairs requests and replies by kind and content, for a protocol whose frames carry no ids.
///
/// Requests wait in numbered *reply slots*, one at a time per slot. The decoder reports:
/// - a received request with its slot number as id;
/// - a received reply as an event;
/// - an answer that says "nothing found" as a response whose id is the slot number.
pub trait ReplyMatcher: Debug + Send + Sync + 'static {
    /// The slot in which a request of this kind waits; `None` for a kind that is not a request.
    fn request_slot(&self, kind: u16) -> Option<u32>;

    /// The slot that a message of this kind may fill; `None` for a kind that is not a reply.
    fn reply_slot(&self, kind: u16) -> Option<u32>;

    /// Whether `reply` can be the reply to `request`: the fields that must agree do.
    fn is_reply_to(&self, kind: u16, request: &[u8], reply_kind: u16, reply: &[u8]) -> bool;

    /// Whether no message can be a reply to both of two requests of one slot. Default: `false`.
    ///
    /// If so, one may be sent although the peer may still reply to the other, which has been given
    /// up.
    fn are_distinguishable(&self, _kind: u16, _request: &[u8], _other_kind: u16, _other: &[u8]) -> bool {
        false
    }
}

/// The decoding state of one connection: the messages that are partly received.
pub trait Decoder: Send + 'static {
    /// Decodes one step from `buf`, the received and unused bytes, oldest first.
    ///
    /// The caller drops the bytes that the step used and calls again, until
    /// [`DecodeStep::NeedMore`].
    ///
    /// # Errors
    /// A typed error; the connection can then only be closed. No input panics.
    ///
    /// # Cost
    /// A message in one frame takes no allocation and no copy. Chunks are copied once, into the
    /// reassembly buffer.
    fn step<'b>(&mut self, buf: &'b [u8]) -> Result<DecodeStep<'b>, WireError>;

    /// Bytes of memory held for partly received messages: at most [`WireLimits::reassembly`], and
    /// zero without any.
    fn buffered(&self) -> usize;
}

/// The result of a [`Decoder::step`]. `used` is the number of bytes to drop from the front of the
/// buffer; it is never zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecodeStep<'b> {
    /// More bytes are needed; nothing was used.
    NeedMore,
    /// A part of a frame. No frame is complete, so this does not count as a sign of life.
    PartialFrame {
        /// Bytes to drop.
        used: usize,
    },
    /// A complete frame of a message that is not complete.
    Chunk {
        /// Bytes to drop.
        used: usize,
    },
    /// A complete message of the application.
    Message {
        /// Bytes to drop, once the payload is no longer needed.
        used: usize,
        /// The lane it came on.
        lane: Lane,
        /// What kind of message it is.
        header: MessageHeader,
        /// The application's bytes.
        payload: Payload<'b>,
    },
    /// A complete message of the protocol itself.
    Control {
        /// Bytes to drop.
        used: usize,
        /// The message.
        control: Control,
    },
}

impl DecodeStep<'_> {
    /// Bytes to drop from the front of the buffer; zero only for [`DecodeStep::NeedMore`].
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

/// The payload of a received message, in the read buffer or reassembled.
#[derive(Clone, Debug)]
pub enum Payload<'b> {
    /// The payload of a single frame, inside the read buffer. Keeping it means copying it.
    Borrowed(&'b [u8]),
    /// A payload assembled from several frames or reads.
    Owned(Bytes),
}

impl Payload<'_> {
    /// The payload as bytes that do not pin the read buffer.
    ///
    /// # Cost
    /// Copies a borrowed payload; an owned one is returned as it is.
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
