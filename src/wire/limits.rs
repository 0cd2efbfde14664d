//! Size limits of a protocol.

use serde::{Deserialize, Serialize};

use crate::base::Lane;

/// Size limits of a protocol, in bytes unless stated otherwise.
///
/// They hold in both directions: the encoder refuses what a peer with the same limits would refuse.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WireLimits {
    /// Largest payload on [`Lane::Urgent`]. Default: 256 KiB. Keep it small: a message that takes
    /// long to send delays every vote behind it.
    #[serde(with = "crate::base::config_serde::byte_size")]
    pub urgent: usize,
    /// Largest payload on [`Lane::Normal`]. Default: 4 MiB.
    #[serde(with = "crate::base::config_serde::byte_size")]
    pub normal: usize,
    /// Largest payload on [`Lane::Bulk`]. Default: 32 MiB. The reassembly of a connection holds at
    /// most the sum of the three.
    #[serde(with = "crate::base::config_serde::byte_size")]
    pub bulk: usize,
    /// Largest first frame, all its bytes counted. Default: 4 KiB. The native protocol takes 2 to 4
    /// KiB.
    #[serde(with = "crate::base::config_serde::byte_size")]
    pub hello: usize,
    /// Largest payload of a chunk that we send. Default: 16 KiB. The native protocol takes 1 to 16
    /// KiB. A more urgent lane waits for at most one such chunk.
    #[serde(with = "crate::base::config_serde::byte_size")]
    pub chunk: usize,
    /// Bytes that a reader must be able to hold in one piece: a step with this many bytes is never
    /// [`DecodeStep::NeedMore`](super::DecodeStep::NeedMore). The protocol sets it and ignores a
    /// configured value.
    #[serde(skip)]
    pub window: usize,
    /// Most addresses in one `peers` message. Default: 256. The native protocol takes at most 800.
    pub peers: usize,
}

impl WireLimits {
    /// Largest payload on this lane; zero on [`Lane::Control`], which carries no application
    /// message.
    pub const fn message(&self, lane: Lane) -> usize {
        match lane {
            Lane::Control => 0,
            Lane::Urgent => self.urgent,
            Lane::Normal => self.normal,
            Lane::Bulk => self.bulk,
        }
    }

    /// Largest payload on any lane.
    #[cfg(feature = "node")]
    pub(crate) fn max_message(&self) -> usize {
        self.urgent.max(self.normal).max(self.bulk)
    }

    /// Most bytes that the reassembly of one connection can hold: one partly received message per
    /// lane.
    pub const fn reassembly(&self) -> usize {
        self.urgent.saturating_add(self.normal).saturating_add(self.bulk)
    }
}

impl Default for WireLimits {
    fn default() -> Self {
        Self {
            urgent: 256 * 1024,
            normal: 4 * 1024 * 1024,
            bulk: 32 * 1024 * 1024,
            hello: 4 * 1024,
            chunk: 16 * 1024,
            window: 16 * 1024 + 4,
            peers: 256,
        }
    }
}
