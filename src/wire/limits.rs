//! What a dialect accepts at most.

use crate::base::Lane;
use serde::{Deserialize, Serialize};

/// The caps of a dialect, all in bytes unless said otherwise. They hold both ways: what a peer with the same limits would
/// refuse is not sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WireLimits {
    /// Largest message on [`Lane::Urgent`], counted as payload without frame heads. Default 256 KiB. A message that takes
    /// long to send delays every vote behind it, so this one is meant to be small.
    #[serde(with = "crate::base::config_serde::byte_size")]
    pub urgent: usize,
    /// Largest message on [`Lane::Normal`]. Default 4 MiB.
    #[serde(with = "crate::base::config_serde::byte_size")]
    pub normal: usize,
    /// Largest message on [`Lane::Bulk`]. Default 32 MiB. A link's reassembly holds at most the sum of the three.
    #[serde(with = "crate::base::config_serde::byte_size")]
    pub bulk: usize,
    /// Largest greeting, all its bytes counted. Default and, in the native dialect, maximum: 4 KiB; minimum 2 KiB.
    #[serde(with = "crate::base::config_serde::byte_size")]
    pub hello: usize,
    /// Largest payload of one chunk we send. Default and, in the native dialect, maximum: 16 KiB; minimum 1 KiB. A more
    /// urgent lane waits for at most one such chunk.
    #[serde(with = "crate::base::config_serde::byte_size")]
    pub chunk: usize,
    /// What a reader must be able to hold in one piece: a step that sees so many bytes is never
    /// [`DecodeStep::NeedMore`](super::DecodeStep::NeedMore). A dialect sets it itself; what is configured here is overwritten.
    #[serde(skip)]
    pub window: usize,
    /// Most addresses in one `peers` message. Default 256; in the native dialect at most 800.
    pub peers: usize,
}

impl WireLimits {
    /// The cap of a message on this lane; zero on [`Lane::Control`], which carries no application message.
    pub const fn message(&self, lane: Lane) -> usize {
        match lane {
            Lane::Control => 0,
            Lane::Urgent => self.urgent,
            Lane::Normal => self.normal,
            Lane::Bulk => self.bulk,
        }
    }

    /// What one decoder's reassembly can hold at most: one open message a lane.
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
