//! The TIME Coin network: what its nodes say to each other, and the API that they are written against, on top of
//! [`node`](crate::node).
//!
//! | part | what it is |
//! |---|---|
//! | [`wire`] | messages, handshake and framing: JSON with a length before it |

mod announce;
mod exchange;
mod import;
mod info;
mod ports;
mod quarantine;
mod rate;
mod wallets;
pub mod wire;

pub use announce::{Announce, AnnounceConfig, Announcements};
pub use exchange::{PeerExchange, PersistentPeerInfo};
pub use import::{ImportError, Imported, import_peers_json, read_peers_json};
pub use info::UNKNOWN_VERSION;
pub use ports::{FIRST_EPHEMERAL_PORT, is_ephemeral};
pub use quarantine::{
    PeerQuarantine, Quarantine, QuarantineConfig, QuarantineEntry, QuarantineReason, QuarantineSeverity,
    QuarantineStats, Quarantined,
};
pub use rate::{Limiter, RateLimitError, RateLimiter, RateLimiterConfig};
pub use wallets::{SubscribeRefused, Subscribed, WalletConfig, WalletSubscriptions};
pub use wire::{NetworkMessage, NetworkType, PeerInfo};
