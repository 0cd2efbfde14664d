//! Configuration, results and counters of a log.

use std::time::Duration;

use bytes::Bytes;

use crate::base::ConnId;

/// Smallest ring.
const MIN_RING_BYTES: usize = 8 << 10;
/// Largest ring: offsets within a segment are 32 bits wide.
const MAX_RING_BYTES: usize = u32::MAX as usize;

/// What happens to a connection whose next message has left the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum LagPolicy {
    /// It is closed: no message of this lane may be missed.
    Disconnect,
    /// It continues behind the newest message, and the skipped messages are counted.
    Skip,
}

/// Configuration of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Bytes of memory that the log may hold, indexes and referenced payloads included. Default 16
    /// MiB. A message may take half of it. Producers that wait for room are stopped when the
    /// slowest connection is a quarter of it behind. Can change at run time.
    pub ring_bytes: usize,
    /// Bytes of a block of memory that messages are copied into, and so of the largest segment of
    /// small messages. Default 256 KiB; an eighth of the ring at most.
    pub block_bytes: usize,
    /// How long a connection may stand still before producers stop waiting for it, a year at most.
    /// Default 1 s. The other times of back-pressure are parts and multiples of it: see
    /// [`RoomWait`](super::RoomWait).
    pub stall: Duration,
    /// What happens to a connection that falls behind the ring. Default [`LagPolicy::Skip`]. Can
    /// change at run time.
    pub lag: LagPolicy,
}

impl LogConfig {
    /// The defaults of a node.
    pub const fn recommended() -> Self {
        Self {
            ring_bytes: 16 << 20,
            block_bytes: 256 << 10,
            stall: Duration::from_secs(1),
            lag: LagPolicy::Skip,
        }
    }

    /// Small enough for tests to reach every limit.
    pub const fn test() -> Self {
        Self { ring_bytes: 64 << 10, block_bytes: 4 << 10, ..Self::recommended() }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self::recommended()
    }
}

/// Where an append put its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Appended {
    /// Number of the message in this log, from zero.
    pub seq: u64,
    /// The connection that the message came from. It is not written there.
    pub origin: Option<ConnId>,
}

/// Why a message was not appended. The log is unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The message has no bytes.
    #[error("the message is empty")]
    Empty,
    /// The message is larger than half of the ring. Raise `ring_bytes`, or send it to each peer
    /// separately.
    #[error("the message has {len} bytes, more than the {limit} that this log takes")]
    TooLarge {
        /// Bytes of the message.
        len: usize,
        /// Bytes of the largest message that this log takes.
        limit: usize,
    },
}

/// One chunk of a large message: a header of a few bytes and a slice of the payload.
#[derive(Clone, Debug)]
pub struct LogChunk {
    pub(super) head: Bytes,
    pub(super) body: Bytes,
}

impl LogChunk {
    /// A chunk. Copies the header but not the body.
    pub fn new(head: &[u8], body: Bytes) -> Self {
        Self { head: Bytes::copy_from_slice(head), body }
    }
}

/// Counters of a log. If `evicted` and `skipped` rise together, connections do not keep up with the
/// broadcasts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct LogStats {
    /// Bytes of memory held.
    pub bytes: usize,
    /// Bytes of memory that may be held.
    pub ring_bytes: usize,
    /// Messages ever appended.
    pub messages: u64,
    /// Bytes ever appended.
    pub appended_bytes: u64,
    /// Messages that have left the ring.
    pub evicted: u64,
    /// Messages that connections skipped because they lagged, summed over the connections.
    pub skipped: u64,
    /// Connections that have a position in the log.
    pub cursors: usize,
}

/// The bytes that a ring may hold, within the bounds.
pub(super) const fn clamp_ring_bytes(ring_bytes: usize) -> usize {
    if ring_bytes < MIN_RING_BYTES {
        MIN_RING_BYTES
    } else if ring_bytes > MAX_RING_BYTES {
        MAX_RING_BYTES
    } else {
        ring_bytes
    }
}

/// Refuses an empty message and one larger than half of the ring.
pub(super) const fn check_len(len: usize, ring_bytes: usize) -> Result<(), AppendError> {
    match len {
        0 => Err(AppendError::Empty),
        len if len > ring_bytes / 2 => Err(AppendError::TooLarge { len, limit: ring_bytes / 2 }),
        _ => Ok(()),
    }
}
