//! The TIME Coin network: what its nodes say to each other, and the API that they are written against, on top of
//! [`node`](crate::node).
//!
//! | part | what it is |
//! |---|---|
//! | [`wire`] | messages, handshake and framing: JSON with a length before it |
//! | [`AddressRules`] | whom a connection belongs to: one a peer, by its IP address |
//! | [`PeerManager`] | connections, questions, broadcasts, by their old names |
//! | [`ChainSource`] | the caller's side: what a node answers, and what becomes of the rest |
//! | [`UnifiedPeerConnection`], [`PeerConnection`], [`PeerListener`] | a pooled connection, one outside of the pool, and accepting such |
//! | [`PeerQuarantine`], [`RateLimiter`], [`PeerExchange`], [`Announcements`], [`WalletSubscriptions`] | the network's policies, pure and bounded |
//!
//! For a program that comes from the old network layer, `docs/MIGRATION.md` goes through it method by method.

mod alone;
mod announce;
mod chain;
mod connection;
mod exchange;
mod find;
mod import;
mod info;
mod listener;
mod manager;
mod ports;
mod quarantine;
mod rate;
mod rules;
mod unified;
mod wallets;
pub mod wire;

pub use announce::{Announce, AnnounceConfig, Announcements};
pub use chain::{
    Answer, ChainSource, ChainTip, Finality, Incoming, MAX_BLOCKS, Sender, StateSnapshot, VoteAck,
    WalletHistory,
};
pub use connection::{ConnectionError, PeerConnection};
pub use exchange::{PeerExchange, PersistentPeerInfo};
pub use import::{ImportError, Imported, import_peers_json, read_peers_json};
pub use info::UNKNOWN_VERSION;
pub use listener::PeerListener;
#[cfg(fuzzing)]
#[doc(hidden)]
pub use manager::fuzz_balances;
pub use manager::{
    AdoptError, Announced, BadAddress, BroadcastError, FetchError, ManagerConfig, Notified, PeerAt,
    PeerConnectError, PeerManager, PeerManagerBuilder, PeerRequestError, PeerSendError, PingError,
    ReaperConfig, ReconnectConfig, SeedConfig, SeedError, SeedProvider, Snapshot, SnapshotError,
    SnapshotFault, VoteError,
};
pub use ports::{FIRST_EPHEMERAL_PORT, is_ephemeral};
pub use quarantine::{
    PeerQuarantine, Quarantine, QuarantineConfig, QuarantineEntry, QuarantineReason, QuarantineSeverity,
    QuarantineStats, Quarantined,
};
pub use rate::{Limiter, RateLimitError, RateLimiter, RateLimiterConfig};
pub use rules::AddressRules;
pub use unified::UnifiedPeerConnection;
pub use wallets::{SubscribeRefused, Subscribed, WalletConfig, WalletSubscriptions};
pub use wire::{NetworkMessage, NetworkType, PeerInfo};

pub use crate::pool::PoolStats;
