//! What reads and writes one connection: lanes, the shared broadcast log, the inbox, requests.
//!
//! ```text
//!  broadcast --encode once--> log (one a lane, shared by all connections) --cursor--+
//!  set_state ---------------> state table (latest wins) ------cursor--------- +--> round --one vectored write--> stream
//!  send, request, answer ---> outbox (one a connection and lane) -------------------+
//!
//!  stream --thread's buffer--> decoder --> control, responses: at once
//!                                     +--> events, requests: handler, or the bounded inbox while it is busy
//! ```
//!
//! One [`ConnectionDriver`] polls both directions of one stream. It holds no lock across an await, no buffer while idle, and never
//! stops reading because a handler is slow (only because the inbox is full).
//!
//! # Not promised
//! Order between lanes, between broadcasts and messages to one peer, between state and log. Delivery to the application
//! at the far end: accepted means queued, written means handed to the stream.

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

pub use budget::{MemoryBudget, MemoryReservation};
pub use builder::{ConnectionBuilder, ConnectionSetup, InitialIo};
pub use close_reason::CloseReason;
pub use config::ConnectionConfig;
pub use driver::ConnectionDriver;
pub use handle::{Connection, PendingCounts, ResumePoints};
pub use handler::ConnectionHandler;
pub use message::{Event, Handled, Message, Request, RequestError, Response, SendError};
pub use request::{RequestPipeline, RespondError, Responder};
pub use shared::ConnectionShared;
