//! The bounds of one connection.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Bounds of one connection: what it queues, holds and waits for. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConnectionConfig {
    /// Received messages that wait for the handler. Reading pauses when they are reached. Default
    /// 64.
    pub inbox_messages: usize,
    /// Bytes of received messages that wait for the handler. Reading pauses when they are reached.
    /// Default 256 KiB.
    #[serde(with = "crate::base::config_serde::byte_size")]
    pub inbox_bytes: usize,
    /// Requests of the peer that are handled at the same time, at least one. More wait in the
    /// inbox. Default 16.
    pub max_inbound_requests: usize,
    /// Messages that wait to be sent on one lane. More are refused as full. Default 1,024.
    pub outbox_messages: usize,
    /// Bytes that wait to be sent on one lane. Default 8 MiB.
    #[serde(with = "crate::base::config_serde::byte_size")]
    pub outbox_bytes: usize,
    /// Our requests that await a response on one connection. Default 1,024.
    pub max_outbound_requests: usize,
    /// Bytes that one write takes at most; half of it if more than the logs is to be sent. Default
    /// 512 KiB: with less than 128 KiB the system calls cost more, with more than 1 MiB the cache
    /// misses do.
    #[serde(with = "crate::base::config_serde::byte_size")]
    pub write_batch_bytes: usize,
    /// Bytes a second that an unfinished message of the peer grows by at least, and that the peer
    /// takes at least of what waits for it; 0 for no such bound. Default 1 KiB.
    #[serde(with = "crate::base::config_serde::byte_size")]
    pub min_progress: usize,
    /// The time over which that is measured, while we read. Default 20 s.
    #[serde(with = "humantime_serde")]
    pub progress_window: Duration,
    /// How long a closing connection may take to say goodbye. Default 500 ms.
    #[serde(with = "humantime_serde")]
    pub linger: Duration,
    /// The shortest time between two address lists that a peer gets from us. Default 1 s.
    #[serde(with = "humantime_serde")]
    pub peers_interval: Duration,
}

impl Default for ConnectionConfig {
    fn default() -> Self {
        Self {
            inbox_messages: 64,
            inbox_bytes: 256 * 1024,
            max_inbound_requests: 16,
            outbox_messages: 1024,
            outbox_bytes: 8 * 1024 * 1024,
            max_outbound_requests: 1024,
            write_batch_bytes: 512 * 1024,
            min_progress: 1024,
            progress_window: Duration::from_secs(20),
            linger: Duration::from_millis(500),
            peers_interval: Duration::from_secs(1),
        }
    }
}
