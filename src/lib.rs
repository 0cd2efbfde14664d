#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr))]
//! One sharded pool of unified peer connections, and the engine that runs them.
//!
//! A high-throughput peer-to-peer node holds hundreds of connections and touches all of them all the time. peerpool keeps
//! each as *one* entry (socket, peer info, liveness, health) in a sharded map; marking a peer seen is an atomic on the entry
//! its link already holds, and a broadcast is one append to a log that all links read from. Neither takes a global lock.
//!
//! ```text
//!                    +----------------------------- node ------------------------------+
//!   your code        |  broadcast --encode once--> log (one per lane) --cursor a link--+--> vectored writes
//!   (Handler) <------+-- event, request <-- inbox <-- decoder <-- read buffer <--------+--- socket
//!        |           |                                   | seen: one atomic            |
//!        +-- verbs --+--> pool: key -> Peer {connection, info, vitals, health}         |
//!                    |      ^ one reaper walks its cells; admission is one packed word |
//!                    +-----------------------------------------------------------------+
//! ```
//!
//! | module | what it is | feature |
//! |---|---|---|
//! | [`base`] | ids, ticks, backoff, addresses, and the one door to everything that synchronises | - |
//! | [`pool`] | who is connected: no I/O, no clock, no runtime | - |
//! | [`wire`] | bytes and their meaning: frames, hello, control | `node` |
//! | [`transport`] | byte pipes: TCP, and a world in memory for tests | `node` |
//! | [`address_book`] | the addresses we know | `node`, its file `redb` |
//! | [`connection`] | reads and writes one connection; the broadcast log | `node` |
//! | [`node`] | many links, one pool: the engine | `node` |
//! | `timecoin` | the TIME Coin network: its dialect, its messages, its `PeerManager` | `timecoin` |
//!
//! Imports point down this table only. With `default-features = false` the pool remains, without tokio, for a program that
//! brings its own transport.
#![cfg_attr(feature = "node", doc = "\n")]
#![cfg_attr(feature = "node", doc = include_str!("node/example.md"))]
#![cfg_attr(not(feature = "node"), doc = "\n(The links above need the feature `node`.)\n")]
#![cfg_attr(not(feature = "node"), allow(rustdoc::broken_intra_doc_links))]

#[cfg(feature = "node")]
pub mod address_book;
pub mod pool;
#[cfg(feature = "timecoin")]
pub mod timecoin;
#[cfg(feature = "node")]
pub mod transport;
#[cfg(feature = "node")]
pub mod wire;

/// Declares a module that is internal, and public only with the feature `unstable`: benches, fuzz targets, models and the
/// integration tests of single layers use it. Nothing in it follows semantic versioning.
macro_rules! internal_modules {
    ($($(#[$cfg:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$cfg])*
        #[cfg(feature = "unstable")]
        pub mod $name;
        $(#[$cfg])*
        #[cfg(not(feature = "unstable"))]
        #[allow(unreachable_pub, dead_code, unused_imports)]
        mod $name;
    )+};
}

internal_modules! {
    base,
    sync,
    #[cfg(feature = "node")]
    broadcast,
    #[cfg(feature = "node")]
    connection,
    #[cfg(feature = "node")]
    node,
}

pub use base::{
    Backoff, Clock, ConnId, Direction, Lane, Nonce, PeerId, Subnet, Tick, canonical, canonical_ip,
};
#[cfg(feature = "node")]
#[doc(inline)]
pub use node::{
    BanRefused, BroadcastReceipt, CompletedHandshake, ConfigError, ConnectError, Context, Digest, Event,
    Handled, Handler, Identity, LagPolicy, LaneStats, MemoryStats, Message, Node, NodeBuilder, NodeConfig,
    NodeConnection, NodeEvent, NodeRef, NodeStats, Peer, PeerCapabilities, PeerDecision, PeerInfo,
    PeerPolicy, PeerRequestError, PeerSendError, Pool, ProtocolConfig, Receipt, RelayConfig, RelayOutcome,
    Request, RequestAnyOptions, RequestError, RequestPipeline, Responder, Response, RuntimeConfig, SendError,
    ShutdownReport, StartError, StateError, Subscription, SubscriptionItem, Typed, TypedError, WeakNode,
};
#[cfg(feature = "node")]
#[doc(inline)]
pub use {
    address_book::{AddressBook, AddressBookConfig, AddressBookError},
    connection::{ConnectionConfig, RespondError},
    wire::{EncodeError, WireError, WireLimits},
};

/// The README's example is a test too.
#[cfg(all(doctest, feature = "node"))]
#[doc = include_str!("../README.md")]
struct Readme;
