//! What reads and writes one connection: lanes, the shared broadcast log, the inbox, requests.
//!
//! ```text
//!  broadcast --encode once--> log (one a lane, shared by all links) --cursor--+
//!  set_state ---------------> state table (latest wins) ------cursor--------- +--> round --one vectored write--> stream
//!  send, request, answer ---> outbox (one a link and lane) -------------------+
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
mod calls;
mod config;
mod end;
mod host;
mod inbox;
mod late;
mod message;
mod outbox;
mod pipeline;
mod read;
mod request;
mod shared;
mod task;
mod write;

pub use budget::{Budget, Reservation};
pub use config::ConnectionConfig;
pub use end::CloseReason;
pub use host::ConnectionHandler;
pub use message::{Event, Handled, Message, Request, RequestError, Response, SendError};
pub use pipeline::Pipeline;
pub use request::{AnswerError, Responder};
pub use shared::{Connection, ConnectionShared, Positions, Waiting};
pub use task::{ConnectionBuilder, ConnectionDriver, ConnectionSetup, StreamStart};
