//! Bytes and their meaning: frames, reassembly, the greeting, control messages. No I/O, no clock, no task.
//!
//! ```text
//!   MessageHeader + payload --encode/chunks--> bytes ....stream.... bytes --Decoder::step--> Message | Control | Chunk
//!   Hello | Goodbye --encode_hello/goodbye--> bytes ....... bytes --decode_first_frame--> FirstFrame
//! ```
//!
//! A [`Protocol`] is the framing and the handshake spoken on a link; [`Native`] is ours. Whoever drives the bytes (the
//! link) hands a [`Decoder`] what has been received and not yet consumed, and drops what a step says it used.
//!
//! # Invariants
//! - **No allocation of a size the peer chose.** *Enforced by*: every cap is checked on the header, before the bytes it
//!   announces are waited for; reassembly grows with the bytes that came, to twice of them (and a page) and never above
//!   the lane's cap; a list is made only after its length was proved by bytes in hand. *Breaks if* a buffer is reserved from a
//!   length field.
//! - **Two messages are never glued together** (42). *Enforced by*: every chunk says whether it continues a message,
//!   and a chunk that does so without an open message of its kind and id, or does not do so while one is open, is
//!   refused; `abort` closes the open one. *Breaks if* a sender skips inside a message without `abort`.
//! - **Every step makes progress.** *Enforced by*: with [`WireLimits::window`] bytes in hand a step is never
//!   [`DecodeStep::NeedMore`], and every other step uses at least one byte. *Breaks if* a protocol's frame can be larger than
//!   its window without being taken in piecemeal.
//!
//! # One source a lane
//! Whoever begins a chunked message on a lane finishes or aborts it before anything else goes on that lane, a cancel
//! included: a cancel that must not wait goes on the control lane, where nothing is ever open.
//!
//! # Not promised
//! A decoder that returned an error is out of step: its connection can only be closed.

mod chunk;
mod error;
mod limits;
mod message;
mod native;
mod protocol;

pub use chunk::{Chunk, ChunkTemplate, Chunks, CompleteHeader, HeaderBytes};
pub use error::{AgentError, EncodeError, WireError};
pub use limits::WireLimits;
pub use message::{Control, FirstFrame, FrameKind, Goodbye, GoodbyeReason, Hello, MessageHeader, Status};
pub use native::{Native, NativeDecoder};
pub use protocol::{DecodeStep, Decoder, Features, Payload, Protocol, ReplyMatcher};
