//! Errors of decoding and of encoding.

use crate::base::Lane;

use super::message::FrameKind;

/// Why received bytes were refused. The connection is then out of sync and can only be closed.
///
/// The cause is always the peer, or corruption on the way that no checksum caught; never load.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// A header announces more bytes than one frame may have. Usual cause: the peer speaks another
    /// protocol.
    #[error("a frame of {size} bytes, at most {cap} are allowed")]
    FrameTooLarge {
        /// The announced length, in bytes.
        size: usize,
        /// The limit, in bytes.
        cap: usize,
    },
    /// A frame is too short for the fields of its kind.
    #[error("a {kind} frame of {size} bytes, at least {need} are needed")]
    FrameTooShort {
        /// The kind in the header.
        kind: FrameKind,
        /// The announced length, in bytes.
        size: usize,
        /// The length of the fields, in bytes.
        need: usize,
    },
    /// A reserved bit is set. Usual cause: the peer uses a later version without negotiating it.
    #[error("reserved bits set in header byte {byte:#04x}")]
    ReservedBits {
        /// The header's last byte.
        byte: u8,
    },
    /// The header has an unknown frame kind.
    #[error("unknown frame kind {code}")]
    UnknownKind {
        /// The number of the kind.
        code: u8,
    },
    /// A control frame came on another lane than the control lane.
    #[error("a control frame on the {lane:?} lane")]
    ControlOffLane {
        /// The lane it came on.
        lane: Lane,
    },
    /// An event, request or response came on the control lane.
    #[error("a {kind} frame on the control lane")]
    ControlLaneReserved {
        /// The kind that came.
        kind: FrameKind,
    },
    /// A control or cancel frame, which is never chunked, came as one chunk of several.
    #[error("a {kind} frame cannot be chunked")]
    NotChunkable {
        /// The kind that came.
        kind: FrameKind,
    },
    /// A chunk with more to come is too small: the number of chunks would not be bounded by bytes.
    #[error("a chunk of {size} bytes with more to come, at least {min} are needed")]
    ChunkTooSmall {
        /// Its length, in bytes.
        size: usize,
        /// The least length, in bytes.
        min: usize,
    },
    /// A continuation came on a lane without a partial message.
    #[error("a continuation on the {lane:?} lane, where no message is open")]
    NothingToContinue {
        /// The lane.
        lane: Lane,
    },
    /// A new message came on a lane whose partial message is not finished. Usual cause: the sender
    /// skipped without `abort`.
    #[error("a new {got} on the {lane:?} lane, where a {open} is open")]
    Interrupted {
        /// The lane.
        lane: Lane,
        /// The kind of the partial message.
        open: FrameKind,
        /// The kind that came.
        got: FrameKind,
    },
    /// A continuation has another kind than the partial message.
    #[error("a {got} continues the {open} that is open on the {lane:?} lane")]
    WrongContinuation {
        /// The lane.
        lane: Lane,
        /// The kind of the partial message.
        open: FrameKind,
        /// The kind that came.
        got: FrameKind,
    },
    /// A continuation has another id than the partial message.
    #[error("id {got} continues the message with id {open} on the {lane:?} lane")]
    WrongId {
        /// The lane.
        lane: Lane,
        /// The id of the partial message.
        open: u32,
        /// The id that came.
        got: u32,
    },
    /// The chunks of a message exceed the limit of its lane, the announced chunk included.
    #[error("a message of at least {size} bytes on the {lane:?} lane, at most {cap} are allowed")]
    MessageTooLarge {
        /// The lane.
        lane: Lane,
        /// Received and announced payload, in bytes.
        size: usize,
        /// The limit of the lane, in bytes.
        cap: usize,
    },
    /// A cancel has a payload.
    #[error("a cancel with {size} bytes of payload")]
    CancelPayload {
        /// Bytes behind its id.
        size: usize,
    },
    /// A control frame has an unknown number.
    #[error("unknown control message {code}")]
    UnknownControl {
        /// Its number.
        code: u8,
    },
    /// The length of a control frame does not match its fields.
    #[error("a {control} of {size} bytes, {need} are needed")]
    ControlLength {
        /// Which control message.
        control: &'static str,
        /// Bytes behind its number.
        size: usize,
        /// Bytes of its fields, as far as they are known.
        need: usize,
    },
    /// An abort names an unknown lane, or the control lane, which never has a partial message.
    #[error("an abort of lane {code}")]
    BadLane {
        /// The number of the lane.
        code: u8,
    },
    /// An abort names a lane without a partial message.
    #[error("an abort of the {lane:?} lane, where no message is open")]
    NothingToAbort {
        /// The lane.
        lane: Lane,
    },
    /// A `peers` message lists more addresses than allowed.
    #[error("a list of {count} peers, at most {cap} are allowed")]
    TooManyPeers {
        /// The announced number of addresses.
        count: usize,
        /// The limit.
        cap: usize,
    },
    /// An address has an unknown family.
    #[error("unknown address family {code}")]
    AddressFamily {
        /// The number of the family.
        code: u8,
    },
    /// The first frame does not begin with the protocol's magic. Found on the first wrong byte.
    /// Usual cause: the peer speaks another protocol, or belongs to another network with its own
    /// magic.
    #[error("the first frame does not begin with this protocol's magic")]
    BadMagic,
    /// The first frame is neither a hello nor a goodbye.
    #[error("unknown first frame {code}")]
    UnknownFirstFrame {
        /// Its number.
        code: u8,
    },
    /// The first frame announces more bytes than allowed.
    #[error("a first frame of {size} bytes, at most {cap} are allowed")]
    FirstFrameTooLarge {
        /// The announced length, its header included, in bytes.
        size: usize,
        /// The limit, in bytes.
        cap: usize,
    },
    /// The first frame ends inside a field.
    #[error("the first frame ends inside its {field}")]
    FirstFrameTruncated {
        /// The field.
        field: &'static str,
    },
    /// The first frame continues behind its last field, in a version without more fields.
    #[error("{count} bytes after the first frame's last field")]
    FirstFrameTrailingBytes {
        /// The number of bytes.
        count: usize,
    },
    /// The presence tag of an optional field is neither 0 (absent) nor the one tag of the field.
    #[error("presence tag {code} on the first frame's {field}")]
    BadOptionTag {
        /// The field.
        field: &'static str,
        /// The tag.
        code: u8,
    },
    /// The agent is not acceptable text.
    #[error("the agent in the first frame is refused: {0}")]
    Agent(#[source] AgentError),
    /// The application bytes exceed the limit.
    #[error("{size} application bytes in the first frame, at most {cap} are allowed")]
    AppTooLarge {
        /// The announced bytes.
        size: usize,
        /// The limit, in bytes.
        cap: usize,
    },
    /// A frame does not parse, in a protocol with its own grammar.
    #[error("malformed {what}")]
    Malformed {
        /// The kind of frame.
        what: &'static str,
    },
}

/// Why an agent text is refused, in either direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// Longer than [`Hello::MAX_AGENT`](super::Hello::MAX_AGENT) bytes.
    #[error("{size} bytes, at most 128 are allowed")]
    TooLong {
        /// Its length, in bytes.
        size: usize,
    },
    /// Not UTF-8.
    #[error("not UTF-8")]
    NotUtf8,
    /// Contains a control character, which would reach logs and terminals.
    #[error("a control character")]
    ControlCharacter,
}

/// Why a message was not encoded. The output buffer is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The payload exceeds the limit of its lane. Remedy: send less, or use a lane for larger
    /// messages.
    #[error("a message of {size} bytes on the {lane:?} lane, at most {cap} are allowed (native: `wire.{}`)", .lane.name())]
    TooLarge {
        /// The lane.
        lane: Lane,
        /// The payload, in bytes.
        size: usize,
        /// The limit of the lane, in bytes.
        cap: usize,
    },
    /// An event, request or response on the control lane, which belongs to the protocol.
    #[error("a {kind} cannot go on the control lane")]
    ControlLaneReserved {
        /// The kind of the message.
        kind: FrameKind,
    },
    /// A payload for a cancel, which has none.
    #[error("a cancel with {size} bytes of payload")]
    CancelPayload {
        /// The payload, in bytes.
        size: usize,
    },
    /// The protocol cannot express the message; see
    /// [`Protocol::features`](super::Protocol::features).
    #[error("this protocol has no {what}")]
    Unsupported {
        /// The missing feature.
        what: &'static str,
    },
    /// A `peers` message lists more addresses than allowed.
    #[error("a list of {count} peers, at most {cap} are allowed")]
    TooManyPeers {
        /// The number of addresses.
        count: usize,
        /// The limit.
        cap: usize,
    },
    /// An abort of the control lane, which never has a partial message.
    #[error("the control lane has nothing to abort")]
    BadLane,
    /// The hello lacks a field that the protocol needs.
    #[error("the hello lacks its {field}")]
    Missing {
        /// The field.
        field: &'static str,
    },
    /// The agent of the hello is not acceptable text.
    #[error("the agent of the hello is refused: {0}")]
    Agent(#[source] AgentError),
    /// The application bytes of the hello exceed the limit.
    #[error("{size} application bytes in the hello, at most {cap} are allowed")]
    AppTooLarge {
        /// The number of bytes.
        size: usize,
        /// The limit, in bytes.
        cap: usize,
    },
    /// The first frame exceeds the limit.
    #[error("a first frame of {size} bytes, at most {cap} are allowed")]
    FirstFrameTooLarge {
        /// Its length, in bytes.
        size: usize,
        /// The limit, in bytes.
        cap: usize,
    },
}
