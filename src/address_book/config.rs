//! What an operator may set about the book.

use std::num::NonZeroUsize;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::Backoff;

/// Bounds and waits of a [`AddressBook`](super::AddressBook).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AddressBookConfig {
    /// Addresses kept at the most. Default: 10,000 (about 3 MB). When full, the oldest that never connected goes first.
    pub max_addresses: NonZeroUsize,
    /// Addresses that never connected, kept per source at the most, those of its own host that did connect included; a source
    /// is one IPv4 address or one IPv6 /64. Default: 256. It bounds what one peer can push into the book, so keep it well below
    /// `max_addresses`.
    pub max_per_source: NonZeroUsize,
    /// Bans kept at the most. Default: 10,000. When full, the one that ends first goes.
    pub max_bans: NonZeroUsize,
    /// Whether private, loopback, link-local and shared addresses are taken. Default: yes, for tests and local meshes; a
    /// node on the public internet turns it off, or peers can make it dial into its own network.
    pub allow_private: bool,
    /// Waits after failures. Default: 1 s doubling up to 10 min, then jitter.
    pub backoff: Backoff,
    /// How long an address that turned out to be our own is not dialled. Default: 24 h; addresses change hands.
    #[serde(with = "humantime_serde")]
    pub self_memory: Duration,
    /// Seed of the book's random choices. Default: `None`, from the operating system.
    pub seed: Option<u64>,
}

impl Default for AddressBookConfig {
    fn default() -> Self {
        Self {
            max_addresses: const { NonZeroUsize::new(10_000).expect("not zero") },
            max_per_source: const { NonZeroUsize::new(256).expect("not zero") },
            max_bans: const { NonZeroUsize::new(10_000).expect("not zero") },
            allow_private: true,
            backoff: Backoff::default(),
            self_memory: Duration::from_secs(24 * 60 * 60),
            seed: None,
        }
    }
}
