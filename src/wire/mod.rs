//! Messages to bytes and back: frames, reassembly, first frames, control messages. No I/O, no
//! clock, no tasks.
//!
//! ```text
//!   MessageHeader + payload -- encode / chunks --> bytes ==stream==> bytes -- Decoder::step --> Message | Control | Chunk
//!   Hello | Refusal -- encode_hello / encode_refusal --> bytes ==> bytes -- decode_first_frame --> FirstFrame
//! ```
//!
//! A [`Protocol`] is the framing and the handshake of a connection; [`Native`] is ours. The
//! connection gives a [`Decoder`] the received and unused bytes, and drops the bytes that a step
//! used.
//!
//! # Invariants
//! Invariant: `everything_is_bounded`
//! - Statement: no allocation has a size that the peer chose, and every step makes progress.
//! - Enforced by: every limit is checked on the header, before the bytes that it announces arrive.
//!   Reassembly grows with the received bytes, to at most twice of them (plus a page) and never
//!   above the lane's limit. A list is allocated only when the bytes in hand prove its length. With
//!   [`WireLimits::window`] bytes a step is never [`DecodeStep::NeedMore`], and every other step
//!   uses at least one byte.
//! - Breaks if: a buffer is reserved from a length field, or a frame can be larger than the window
//!   without being decoded in parts.
//!
//! Invariant: `skips_end_on_message_boundaries`
//! - Statement: the bytes of two messages are never joined.
//! - Enforced by: every chunk says whether it continues a message. A continuation without a partial
//!   message of its kind and id is refused, and so is a new message during a partial one. `abort`
//!   ends the partial message.
//! - Breaks if: a sender skips inside a message without `abort`.
//!
//! # One chunked message per lane
//! A sender finishes or aborts a chunked message before it sends anything else on that lane,
//! cancels included. An urgent cancel goes on the control lane, which never has a partial message.
//!
//! # Not promised
//! A decoder that has returned an error is out of sync. Its connection can only be closed.

mod chunk;
mod error;
mod features;
mod limits;
mod message;
mod native;
mod protocol;

pub use chunk::{Chunk, ChunkTemplate, Chunks, CompleteHeader, HeaderBytes};
pub use error::{AgentError, EncodeError, WireError};
pub use features::Features;
pub use limits::WireLimits;
pub use message::{
    Control, FirstFrame, FrameKind, Goodbye, GoodbyeReason, Hello, MessageHeader, Refusal, Status,
};
pub use native::{Native, NativeDecoder};
pub use protocol::{DecodeStep, Decoder, Payload, Protocol, ReplyMatcher};
