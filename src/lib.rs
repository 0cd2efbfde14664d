#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr))]
//! A sharded pool of peer connections, and the peer-to-peer engine that runs them.
//!
//! A high-throughput peer-to-peer node holds hundreds of connections and touches all of them all
//! the time. peerpool keeps each connection as *one* entry (socket, peer info, liveness, health) in
//! a sharded map. Marking a peer seen is an atomic on the entry that its connection already holds,
//! and a broadcast is one append to a log that all connections read from. Neither takes a global
//! lock.
//!
//! ```text
//!                 +------------------------------ node -------------------------------+
//!  your code      |  broadcast --encode once--> log (one per lane) --cursor each--+   |
//!  (Handler) <----+-- event, request <-- inbox <-- reader <-- socket              |   |
//!      |          |                                  | seen: one atomic     vectored  |
//!      |          |                                  v                       writes   |
//!      +-- API ---+--> pool: key -> Peer {connection, info, liveness, health}     |   |
//!                 |      ^ one reaper; admission is one packed word    socket <---+   |
//!                 +-------------------------------------------------------------------+
//! ```
//!
//! # Concepts
//!
//! - A **node** ([`Node`]) listens, dials, and keeps its peers. Dropping its last handle, or
//!   [`shutdown`](NodeRef::shutdown), ends every task of it.
//! - A **peer** ([`Peer`]) is one remote node that is connected now. Its [`PeerId`] is a proven key
//!   where the transport proves one, and an address otherwise.
//! - A **message** ([`Message`]) is a kind (a number of yours), a payload, and a [`Lane`]. Lanes
//!   are sent in the order urgent, normal, bulk; a waiting lower lane gets a sixteenth of what is
//!   written.
//! - A **handler** ([`Handler`]) receives events and requests. [`Typed`] adds serde types.
//! - **Broadcast, relay, state, request** are the four ways to send. A broadcast goes to every live
//!   peer; a relay is a broadcast that each node passes on once; state is the newest value of a
//!   key, which peers that connect later receive too; a request is answered by one peer.
//! - A **slow peer** costs itself: the [`LagPolicy`] of the lane says whether it misses messages or
//!   is disconnected.
//!
//! # Modules
//!
//! | module | what it holds | feature |
//! |---|---|---|
//! | the root | the engine's types: [`Node`], [`NodeConfig`], [`Handler`], [`Message`], errors | `node` |
//! | [`pool`] | who is connected: no I/O, no clock, no runtime; usable alone | - |
//! | [`wire`] | messages as bytes; the [`wire::Protocol`] trait for a protocol of your own | `node` |
//! | [`transport`] | byte streams: TCP, and a simulated network in memory for tests | `node` |
//! | [`address_book`] | known addresses, their outcomes, bans | `node`; in a file with `redb` |
//! | `timecoin` | the TIME Coin network: its protocol, its messages, its `PeerManager` | `timecoin` |
//!
//! With `default-features = false` the pool remains, without tokio, for a program with its own
//! transport. The feature `serde` adds serde to configuration and statistics, `cli` builds the
//! `peerpool` command, and `unstable` makes internal modules public for benches and tests, without
//! any promise.
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

/// Declares a module that is internal, and public only with the feature `unstable`: benches, fuzz
/// targets, models and the integration tests of single layers use it. Nothing in it follows
/// semantic versioning.
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

#[cfg(feature = "test-util")]
pub use base::test_util;
pub use base::{
    Backoff, Clock, ConnId, Direction, Endpoint, EndpointError, Lane, Network, NetworkError, Nonce, PeerId,
    Scope, Source, Subnet, Tick, canonical, canonical_ip,
};
#[cfg(feature = "node")]
#[doc(inline)]
pub use node::{
    Appended, BanReport, BroadcastError, BroadcastReceipt, CompletedHandshake, ConfigError, ConnectError,
    Context, Digest, DiscoveryConfig, Event, Handled, Handler, Identity, LagPolicy, LaneStats, MemoryStats,
    Message, Node, NodeBuilder, NodeConfig, NodeConnection, NodeEvent, NodeRef, NodeStats, Peer,
    PeerCapabilities, PeerDecision, PeerInfo, PeerPolicy, PeerRequestError, PeerSendError, Pool,
    ProtocolConfig, Receipt, RelayConfig, RelayOutcome, Request, RequestAnyOptions, RequestError,
    RequestPipeline, Responder, Response, RuntimeConfig, SendError, ShutdownReport, StartError, StateError,
    Subscription, SubscriptionItem, Typed, TypedError, WeakNode,
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
