//! Why bytes were refused, and why a message could not be put into bytes.

use crate::base::Lane;

use super::message::FrameKind;

/// Why received bytes were refused. After one of these the connection is out of step and can only be closed.
///
/// All of them are the peer's doing (or a broken pipe in between that no checksum caught); none is caused by load.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// A header announces more than one frame may carry. Usual cause: the peer speaks another protocol.
    #[error("a frame of {size} bytes, at most {cap} are allowed")]
    FrameTooLarge {
        /// What the header announces, in bytes.
        size: usize,
        /// The cap it broke.
        cap: usize,
    },
    /// A frame is too short for the fields its kind begins with.
    #[error("a {kind} frame of {size} bytes, at least {need} are needed")]
    FrameTooShort {
        /// The kind the header names.
        kind: FrameKind,
        /// What the header announces, in bytes.
        size: usize,
        /// What the fields take.
        need: usize,
    },
    /// A bit that must be zero was set. Usual cause: the peer speaks a later version without having agreed on it.
    #[error("reserved bits set in header byte {byte:#04x}")]
    ReservedBits {
        /// The header's last byte.
        byte: u8,
    },
    /// The header names a frame kind that does not exist.
    #[error("unknown frame kind {code}")]
    UnknownKind {
        /// The kind's number.
        code: u8,
    },
    /// A control frame came on a lane of the application.
    #[error("a control frame on the {lane:?} lane")]
    ControlOffLane {
        /// The lane it came on.
        lane: Lane,
    },
    /// An event, request or response came on the control lane.
    #[error("a {kind} frame on the control lane")]
    ControlLaneReserved {
        /// What came.
        kind: FrameKind,
    },
    /// A kind that fits one frame by definition (control, cancel) came as a chunk of several.
    #[error("a {kind} frame cannot be chunked")]
    NotChunkable {
        /// What came.
        kind: FrameKind,
    },
    /// A chunk that is not the last one carries so little that chunks would not be bounded by bytes.
    #[error("a chunk of {size} bytes with more to come, at least {min} are needed")]
    ChunkTooSmall {
        /// What it carries, in bytes.
        size: usize,
        /// What it must carry.
        min: usize,
    },
    /// A continuation came on a lane where no message is open.
    #[error("a continuation on the {lane:?} lane, where no message is open")]
    NothingToContinue {
        /// The lane.
        lane: Lane,
    },
    /// A new message came on a lane whose open message is not finished. Usual cause: a sender that skipped without `abort`.
    #[error("a new {got} on the {lane:?} lane, where a {open} is open")]
    Interrupted {
        /// The lane.
        lane: Lane,
        /// The kind of the open message.
        open: FrameKind,
        /// The kind that came.
        got: FrameKind,
    },
    /// A continuation is of another kind than the open message.
    #[error("a {got} continues the {open} that is open on the {lane:?} lane")]
    WrongContinuation {
        /// The lane.
        lane: Lane,
        /// The kind of the open message.
        open: FrameKind,
        /// The kind that came.
        got: FrameKind,
    },
    /// A continuation carries another id than the open message.
    #[error("id {got} continues the message with id {open} on the {lane:?} lane")]
    WrongId {
        /// The lane.
        lane: Lane,
        /// The id of the open message.
        open: u32,
        /// The id that came.
        got: u32,
    },
    /// The chunks of a message exceed the cap of its lane, the chunk just announced included.
    #[error("a message of at least {size} bytes on the {lane:?} lane, at most {cap} are allowed")]
    MessageTooLarge {
        /// The lane.
        lane: Lane,
        /// What has come and what was announced, in bytes.
        size: usize,
        /// The lane's cap.
        cap: usize,
    },
    /// A cancel carries a payload.
    #[error("a cancel with {size} bytes of payload")]
    CancelPayload {
        /// Bytes after its id.
        size: usize,
    },
    /// A control frame of a kind that does not exist.
    #[error("unknown control message {code}")]
    UnknownControl {
        /// Its number.
        code: u8,
    },
    /// A control frame whose length does not fit its fields.
    #[error("a {control} of {size} bytes, {need} are needed")]
    ControlLength {
        /// Which control message.
        control: &'static str,
        /// Bytes that it has after its number.
        size: usize,
        /// Bytes that its fields take, as far as they could be told.
        need: usize,
    },
    /// An abort names a lane that does not exist, or the control lane, which never has an open message.
    #[error("an abort of lane {code}")]
    BadLane {
        /// The lane's number.
        code: u8,
    },
    /// An abort names a lane where no message is open.
    #[error("an abort of the {lane:?} lane, where no message is open")]
    NothingToAbort {
        /// The lane.
        lane: Lane,
    },
    /// A `peers` message lists more addresses than allowed.
    #[error("a list of {count} peers, at most {cap} are allowed")]
    TooManyPeers {
        /// What it announces.
        count: usize,
        /// The cap.
        cap: usize,
    },
    /// An address of a family that does not exist.
    #[error("unknown address family {code}")]
    AddressFamily {
        /// The family's number.
        code: u8,
    },
    /// The greeting does not begin with the dialect's magic. Usual cause: the peer speaks another protocol, or is of
    /// another network where the magic tells them apart. Found on the first wrong byte.
    #[error("the greeting does not begin with this dialect's magic")]
    BadMagic,
    /// The greeting is neither a hello nor a goodbye.
    #[error("unknown greeting {code}")]
    UnknownFirstFrame {
        /// Its number.
        code: u8,
    },
    /// The greeting announces more than the cap.
    #[error("a greeting of {size} bytes, at most {cap} are allowed")]
    FirstFrameTooLarge {
        /// What it announces, its head included.
        size: usize,
        /// The cap.
        cap: usize,
    },
    /// The greeting ends inside a field.
    #[error("the greeting ends inside its {field}")]
    FirstFrameTruncated {
        /// The field.
        field: &'static str,
    },
    /// The greeting goes on after its last field, in a version that has no more fields.
    #[error("{count} bytes after the greeting's last field")]
    FirstFrameTrailingBytes {
        /// How many bytes.
        count: usize,
    },
    /// An optional field of the greeting is marked with something other than 0 (absent) or its one mark.
    #[error("mark {code} on the greeting's {field}")]
    BadOptionTag {
        /// The field.
        field: &'static str,
        /// The mark.
        code: u8,
    },
    /// The greeting's agent is no presentable text.
    #[error("the greeting's agent is refused: {0}")]
    Agent(AgentError),
    /// The greeting's application bytes exceed the cap.
    #[error("{size} application bytes in the greeting, at most {cap} are allowed")]
    AppTooLarge {
        /// What it announces.
        size: usize,
        /// The cap.
        cap: usize,
    },
    /// A frame or greeting of a dialect with a grammar of its own does not parse.
    #[error("malformed {what}")]
    Malformed {
        /// What did not parse.
        what: &'static str,
    },
}

/// Why an agent text is refused, sent or received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    /// Longer than [`Hello::MAX_AGENT`](super::Hello::MAX_AGENT) bytes.
    #[error("{size} bytes, at most 128 are allowed")]
    TooLong {
        /// Its bytes.
        size: usize,
    },
    /// Not UTF-8.
    #[error("not UTF-8")]
    NotUtf8,
    /// A control character: it would reach logs and terminals.
    #[error("a control character")]
    ControlCharacter,
}

/// Why a message could not be put into bytes. The output buffer is then as it was before the call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The message exceeds the cap of its lane. Cure: send less, or on a lane for large transfers.
    #[error("a message of {size} bytes on the {lane:?} lane, at most {cap} are allowed")]
    TooLarge {
        /// The lane.
        lane: Lane,
        /// The payload, in bytes.
        size: usize,
        /// The lane's cap.
        cap: usize,
    },
    /// An event, request or response was to go on the control lane, which is the protocol's own.
    #[error("a {kind} cannot go on the control lane")]
    ControlLaneReserved {
        /// What was to go there.
        kind: FrameKind,
    },
    /// A cancel was given a payload; it has none.
    #[error("a cancel with {size} bytes of payload")]
    CancelPayload {
        /// The payload, in bytes.
        size: usize,
    },
    /// The dialect has no such thing; see [`Protocol::features`](super::Protocol::features).
    #[error("this dialect has no {what}")]
    Unsupported {
        /// What it has not.
        what: &'static str,
    },
    /// A `peers` message lists more addresses than allowed.
    #[error("a list of {count} peers, at most {cap} are allowed")]
    TooManyPeers {
        /// The addresses given.
        count: usize,
        /// The cap.
        cap: usize,
    },
    /// An abort of the control lane, which never has an open message.
    #[error("the control lane has nothing to abort")]
    BadLane,
    /// A field that the dialect needs is absent from the hello.
    #[error("the hello lacks its {field}")]
    Missing {
        /// The field.
        field: &'static str,
    },
    /// The hello's agent is no presentable text.
    #[error("the hello's agent is refused: {0}")]
    Agent(AgentError),
    /// The hello's application bytes exceed the cap.
    #[error("{size} application bytes in the hello, at most {cap} are allowed")]
    AppTooLarge {
        /// The bytes given.
        size: usize,
        /// The cap.
        cap: usize,
    },
    /// The greeting as a whole exceeds the cap.
    #[error("a greeting of {size} bytes, at most {cap} are allowed")]
    FirstFrameTooLarge {
        /// Its bytes.
        size: usize,
        /// The cap.
        cap: usize,
    },
}
