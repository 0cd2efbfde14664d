//! The TIME Coin network: what its nodes say to each other, and the API that they are written against, on top of
//! [`node`](crate::node).
//!
//! | part | what it is |
//! |---|---|
//! | [`wire`] | messages, handshake and framing: JSON with a length before it |
//! | [`AddressPolicy`] | whom a connection belongs to: one a peer, by its IP address |
//! | [`PeerManager`] | connections, questions, broadcasts, by their old names |
//! | [`ChainSource`] | the caller's side: what a node answers, and what becomes of the rest |
//! | [`UnifiedPeerConnection`], [`PeerConnection`], [`PeerListener`] | a pooled connection, one outside of the pool, and accepting such |
//! | [`PeerQuarantine`], [`RateLimiter`], [`PeerExchange`], [`Announcements`], [`WalletSubscriptions`] | the network's policies, pure and bounded |
//!
//! For a program that comes from the old network layer, `docs/MIGRATION.md` goes through it method by method.

mod address_policy;
mod announce;
mod chain;
mod connection;
mod exchange;
mod listener;
mod manager;
mod one_shot_lock;
mod peer_info;
mod peer_lookup;
mod peers_json;
mod quarantine;
mod rate_limit;
mod unified_connection;
mod wallets;
pub mod wire;

pub use address_policy::AddressPolicy;
pub use announce::{AnnounceConfig, AnnounceDecision, Announcements};
pub use chain::{
    ChainSource, ChainTip, Finality, Incoming, MAX_BLOCKS, Reply, Sender, StateSnapshot, VoteAck,
    WalletHistory,
};
pub use connection::{ConnectionError, PeerConnection};
pub use exchange::{PeerExchange, PersistentPeerInfo};
pub use listener::PeerListener;
#[cfg(fuzzing)]
#[doc(hidden)]
pub use manager::fuzz_balances;
pub use manager::{
    AdoptError, Announced, BadAddress, BroadcastError, FetchError, ManagerConfig, Notified, PeerConnectError,
    PeerManager, PeerManagerBuilder, PeerRequestError, PeerSendError, PingError, ReaperConfig,
    ReconnectConfig, SeedConfig, SeedError, SeedProvider, Snapshot, SnapshotError, SnapshotFault, ToPeerAddr,
    VoteError,
};
pub use peer_info::{PeerInfo, UNKNOWN_VERSION};
pub use peers_json::{ImportError, Imported, import_peers_json, read_peers_json};
pub use quarantine::{
    PeerQuarantine, Quarantine, QuarantineConfig, QuarantineEntry, QuarantineReason, QuarantineSeverity,
    QuarantineStats, Quarantined,
};
pub use rate_limit::{RateLimitError, RateLimiter, RateLimiterConfig, SlidingWindowLimiter};
pub use unified_connection::UnifiedPeerConnection;
pub use wallets::{SubscribeRefused, Subscribed, WalletConfig, WalletSubscriptions};
pub use wire::{FIRST_EPHEMERAL_PORT, NetworkMessage, NetworkType, is_ephemeral};

pub use crate::pool::PoolStats;
