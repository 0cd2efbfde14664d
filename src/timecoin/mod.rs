//! The TIME Coin network: its wire protocol and its peer API, on top of [`node`](crate::node).
//!
//! A full node, wallet or masternode of the existing network replaces its network layer by this
//! module. The bytes on the wire and the method names stay; connections, broadcasts and requests
//! run on the shared engine.
//!
//! | part | purpose |
//! |---|---|
//! | [`wire`] | messages, handshake and framing: length-prefixed JSON |
//! | [`AddressPolicy`] | identifies peers: one connection per IP address |
//! | [`PeerManager`] | connections, requests and broadcasts, with the method names of the legacy crate |
//! | [`ChainSource`] | implemented by the application: replies to requests, receives everything else |
//! | [`UnifiedPeerConnection`] | view of a pooled connection |
//! | [`PeerConnection`], [`PeerListener`] | a connection outside of the pool, and a listener for such connections |
//! | [`PeerQuarantine`], [`RateLimiter`], [`PeerExchange`], [`Announcements`], [`WalletSubscriptions`] | the network's policies: pure, bounded, no I/O |
//!
//! A *legacy node* is a node of the existing network that does not run this crate.
//! `docs/MIGRATION.md` lists every method of the legacy crate and what changed.

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
    AdoptError, Announced, BadAddress, BroadcastError, FetchError, ManagerConfig, ManagerStartError,
    Notified, PeerConnectError, PeerManager, PeerManagerBuilder, PeerRequestError, PeerSendError, PingError,
    ReaperConfig, ReconnectConfig, SeedConfig, SeedError, SeedProvider, Snapshot, SnapshotError,
    SnapshotFault, ToPeerAddr, VoteError,
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
