//! The network layer of the TIME Coin node: its types, its wire, its `PeerManager`.

mod announce;
mod exchange;
mod import;
mod info;
mod ports;
mod quarantine;
mod rate;
mod wallets;

pub use announce::{Announce, AnnounceConfig, Announcements};
pub use exchange::{PeerExchange, PersistentPeerInfo};
pub use import::{ImportError, Imported, import_peers_json, read_peers_json};
pub use info::{NetworkType, PeerInfo, UNKNOWN_VERSION};
pub use ports::{FIRST_EPHEMERAL_PORT, is_ephemeral};
pub use quarantine::{
    PeerQuarantine, Quarantine, QuarantineConfig, QuarantineEntry, QuarantineReason, QuarantineSeverity,
    QuarantineStats, Quarantined,
};
pub use rate::{Limiter, RateLimitError, RateLimiter, RateLimiterConfig};
pub use wallets::{SubscribeRefused, Subscribed, WalletConfig, WalletSubscriptions};
