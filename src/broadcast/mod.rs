//! The broadcast log: a broadcast costs the producer the same for 8 peers and for 1,000.
//!
//! There is one append-only [`Log`] a protocol and lane, shared by all connections. A broadcast is
//! one copy to its end. Each connection keeps a position, takes what is behind it as slices of
//! shared segments, and writes them with one vectored write. Beside the logs, the [`state`] table
//! holds values of which only the newest matters.
//!
//! ```text
//!  append(bytes) --> | segment 7 | segment 8 (large, uncopied) | segment 9 | open tail |     one short lock
//!                         ^                     ^                                ^
//!                 cursor of connection A   cursor of connection B      connection C sleeps in the WakeSet
//! ```
//!
//! A broadcast flows through this module in four steps:
//! 1. `log`: [`Log::append`] copies the message into the open tail of the `ring` and publishes the
//!    new end.
//! 2. `wake_set`: [`WakeSet`] wakes the connections that sleep, taken off the `wake_list`.
//! 3. `log_set`: the [`LogPositions`] of a connection show which logs have something to read. If
//!    that is little, and nothing else waits, the `fast_path` copies it and step 4 does not happen.
//! 4. `cursor`: [`Cursor::fill`] collects runs of `segment`s into a [`Batch`], and
//!    [`Cursor::publish`] counts them as written: for [`Receipt`]s and for `backpressure`, which
//!    lets producers wait for slow connections.
//!
//! The logs know no runtime, protocol or clock. Messages come encoded, with their chunk boundaries;
//! tasks are woken through [`std::task::Waker`]; whatever depends on time takes `now`. Order is not
//! promised between logs, between a log and messages to one peer, nor between a log and the state
//! table.
//!
//! Invariant: `everything_is_bounded`
//! - Statement: a log holds at most [`LogConfig::ring_bytes`], referenced payloads and indexes
//!   included.
//! - Enforced by: every append evicts the oldest segments before it returns, even if a connection
//!   still needs them. Positions of connections hold no reference.
//! - Breaks if: a connection keeps a [`Batch`] with runs across a wait.
//!
//! Invariant: `encode_once_share_the_bytes`
//! - Statement: a message is encoded once and all connections share its bytes.
//! - Enforced by: the log takes encoded bytes, and connections get slices. Only up to 4 KiB of
//!   the open tail are copied by a connection, so that the segments stay large.
//! - Breaks if: a broadcast is encoded or queued for each connection.
//!
//! Invariant: `live_peer_gets_the_broadcast`
//! - Statement: a connection that joined before an append writes the message, or the lag policy
//!   says why not.
//! - Enforced by: joining and appending take the same lock.
//! - Breaks if: a key goes live before the connection has joined.
//!
//! Further: `waits_are_inside_the_timeout` at [`RoomWait`], `no_lost_wakeup` in the module
//! `wake_set`, `stuck_connection_pins_a_bounded_copy` at [`Cursor::release`],
//! `skips_end_on_message_boundaries` at [`Cursor`], `joiner_sees_newest_state` in [`state`].

mod backpressure;
mod batch;
mod cursor;
mod fast_path;
mod log;
mod log_set;
mod receipt;
mod ring;
mod segment;
pub mod state;
mod types;
mod wake_list;
mod wake_set;

#[cfg(all(test, peerpool_loom))]
mod models;
#[cfg(test)]
mod test_reader;
#[cfg(all(test, not(peerpool_loom)))]
mod tests;

pub use backpressure::RoomWait;
pub use batch::Batch;
pub use cursor::{Cursor, Fill, MAX_PARTIAL_CHUNK};
pub(super) use fast_path::TailCopy;
pub use log::Log;
pub use log_set::{LOGS_PER_SET, LogMember, LogPositions, LogSet};
pub(super) use receipt::CursorStates;
pub use receipt::{CursorView, Receipt, ResumePoint};
pub use types::{AppendError, Appended, LagPolicy, LogChunk, LogConfig, LogStats};
pub(super) use wake_set::ParkedWaker;
pub use wake_set::{Parked, Parker, WakeSet, WakerTask};

#[cfg(test)]
use crate::base::ConnId;
