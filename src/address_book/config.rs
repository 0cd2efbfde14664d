//! Configuration of the address book.

use std::num::NonZeroUsize;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::Backoff;

/// Limits and waits of an [`AddressBook`](super::AddressBook).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AddressBookConfig {
    /// Most addresses in the book. Default: 10,000 (about 3 MB). A full book evicts addresses
    /// that never connected first: the oldest of the subnet (/24 or /48) that reported most.
    pub max_addresses: NonZeroUsize,
    /// Most addresses per source. Default: 256. It bounds what one peer can push into the book, so
    /// keep it well below `max_addresses`.
    ///
    /// - A source is one IPv4 address or one IPv6 /64.
    /// - An address counts against its own host, and until it connects against the source that
    ///   reported it, too.
    pub max_per_source: NonZeroUsize,
    /// Most bans. Default: 10,000. Above that, the ban that ends first is dropped.
    pub max_bans: NonZeroUsize,
    /// Waits after failures. Default: 1 s, doubled per failure up to 10 min, with jitter.
    pub backoff: Backoff,
    /// How long our own address is not dialled. Default: 24 h, since addresses change hands.
    #[serde(with = "humantime_serde")]
    pub self_memory: Duration,
    /// How long after the last success an address is told to peers. Default: 30 days.
    #[serde(with = "humantime_serde")]
    pub max_shared_age: Duration,
    /// Seed of the book's random choices. Default: `None`, a seed from the operating system.
    pub seed: Option<u64>,
}

impl Default for AddressBookConfig {
    fn default() -> Self {
        Self {
            max_addresses: const { NonZeroUsize::new(10_000).expect("not zero") },
            max_per_source: const { NonZeroUsize::new(256).expect("not zero") },
            max_bans: const { NonZeroUsize::new(10_000).expect("not zero") },
            max_shared_age: Duration::from_secs(30 * 24 * 60 * 60),
            backoff: Backoff::default(),
            self_memory: Duration::from_secs(24 * 60 * 60),
            seed: None,
        }
    }
}
