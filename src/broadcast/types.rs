//! What is said to a log and what it says: set-up, results, counters.

use std::time::Duration;

use bytes::Bytes;

use crate::base::ConnId;

/// What happens to a link whose next message has left the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum LagPolicy {
    /// It is told to end: nothing of this class may be missed.
    Disconnect,
    /// It goes on behind the newest message, and the gap is counted.
    Skip,
}

/// How a log is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Bytes of memory the log may hold, indexes and referenced payloads included. Default 16 MiB. A message may take
    /// half of it; producers that wait are stopped when the slowest link is a quarter of it behind. Hot.
    pub ring_bytes: usize,
    /// Size of a block of memory that messages are gathered in, hence of the largest sealed segment. Default 256 KiB; an
    /// eighth of the ring at most.
    pub block_bytes: usize,
    /// How long a link may stand still before producers stop waiting for it, a year at the most. Default 1 s. The other
    /// times of back-pressure are parts and multiples of it: see [`RoomWait`](super::RoomWait).
    pub stall: Duration,
    /// What happens to a link that falls behind the ring. Default [`LagPolicy::Skip`]. Hot.
    pub lag: LagPolicy,
}

impl LogConfig {
    /// What a node starts with.
    pub const fn recommended() -> Self {
        Self {
            ring_bytes: 16 << 20,
            block_bytes: 256 << 10,
            stall: Duration::from_secs(1),
            lag: LagPolicy::Skip,
        }
    }

    /// Small enough that tests reach every limit.
    pub const fn test() -> Self {
        Self { ring_bytes: 64 << 10, block_bytes: 4 << 10, ..Self::recommended() }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self::recommended()
    }
}

/// Where an append put its message. [`CursorView::status_of`](super::CursorView::status_of) says what became of it at a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Appended {
    /// Number of the message in this log, from zero.
    pub seq: u64,
    /// The link that it came from and is not written to.
    pub origin: Option<ConnId>,
}

/// Why a message was not appended. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// There were no bytes.
    #[error("a message of no bytes")]
    Empty,
    /// More than half of the ring. Raise `ring_bytes`, or send it to each peer by itself.
    #[error("a message of {len} bytes for a log that takes at most {limit}")]
    TooLarge {
        /// Its length.
        len: usize,
        /// The most that this log takes.
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
    /// A chunk. The header is copied, the body is not.
    pub fn new(head: &[u8], body: Bytes) -> Self {
        Self { head: Bytes::copy_from_slice(head), body }
    }
}

/// Counters of a log. `evicted` and `skipped` rising together mean that links do not keep up with what is broadcast.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct LogStats {
    /// Bytes of memory held.
    pub bytes: usize,
    /// Bytes of memory it may hold.
    pub ring_bytes: usize,
    /// Messages ever appended.
    pub messages: u64,
    /// Bytes ever appended.
    pub appended_bytes: u64,
    /// Messages that have left the ring.
    pub evicted: u64,
    /// Messages that links passed by because they lagged, summed over the links.
    pub skipped: u64,
    /// Cursors alive.
    pub cursors: usize,
}

pub(super) const fn limit_of(ring_bytes: usize) -> usize {
    // Offsets within a segment are 32 bits wide, and a message takes half of the ring at most.
    let most = u32::MAX as usize;
    if ring_bytes < MIN_RING_BYTES {
        MIN_RING_BYTES
    } else if ring_bytes > most {
        most
    } else {
        ring_bytes
    }
}

pub(super) const fn check_len(len: usize, limit: usize) -> Result<(), AppendError> {
    match len {
        0 => Err(AppendError::Empty),
        len if len > limit / 2 => Err(AppendError::TooLarge { len, limit: limit / 2 }),
        _ => Ok(()),
    }
}

/// Smallest ring.
const MIN_RING_BYTES: usize = 8 << 10;
