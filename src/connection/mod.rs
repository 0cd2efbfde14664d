//! One connection to one peer: lanes, the shared broadcast log, requests, the inbox, and how it
//! ends.
//!
//! ```text
//!  broadcast --encode once--> log (one a lane, shared) -------cursor--+
//!  set_state ----------------> latest-value state ----------cursor----+--> round --one vectored write--> stream
//!  send, request, respond ---> outbox (one a connection and lane) ----+
//!
//!  stream --thread's buffer--> decoder --> responses, control: at once
//!                                     +--> events, requests: the handler, or the bounded inbox while it is busy
//! ```
//!
//! A connection has two parts. [`Connection`] is the handle that others hold: it sends, requests,
//! pings and closes. [`ConnectionDriver`] is the one task that polls both directions of the stream
//! and calls the [`ConnectionHandler`]. It holds no lock across an await and no buffer while idle.
//! It never stops reading because a handler is slow; only a full inbox pauses reading.
//!
//! # Not promised
//! - Order between lanes, between broadcasts and messages to one peer, and between state and log.
//! - Delivery to the application at the far end: accepted means queued, written means handed to the
//!   stream.

mod budget;
mod builder;
mod close;
mod close_reason;
mod config;
mod driver;
mod handle;
mod handler;
mod lazy_box;
mod message;
mod ping;
mod read;
mod request;
mod shared;
mod wake_flag;
mod write;

pub use budget::{MemoryAccount, MemoryBudget, MemoryOrigin, MemoryReservation};
pub use builder::{ConnectionBuilder, ConnectionSetup, InitialIo};
pub use close_reason::CloseReason;
pub use config::ConnectionConfig;
pub use driver::ConnectionDriver;
pub use handle::{Connection, PendingCounts, ResumePoints};
pub use handler::ConnectionHandler;
pub use message::{Event, Handled, Message, Request, RequestError, Response, SendError};
pub use request::{RequestPipeline, RespondError, Responder};
pub use shared::ConnectionShared;
