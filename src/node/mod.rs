//! The engine: it runs the connections of a pool. Accept, dial, broadcast, relay, request, keep
//! alive, reconnect, discover.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use peerpool::{Message, Node};
//!
//! let node = Node::builder().listen("127.0.0.1:0".parse()?).start().await?;
//! node.connect("127.0.0.1:9000".parse()?).await?;
//! node.broadcast(&Message::new(1, "hello"))?;
//! # Ok(()) }
//! ```
//!
//! | to | call | effect |
//! |---|---|---|
//! | send to one peer | [`send`](NodeRef::send) | queued for its connection |
//! | send to all peers | [`broadcast`](NodeRef::broadcast) | encoded once, appended once |
//! | gossip through a mesh, each message once | [`relay`](NodeRef::relay) | a broadcast past the message's origin, remembered |
//! | keep all peers up to date, later ones too | [`set_state`](NodeRef::set_state) | only the newest value of each key is sent |
//! | ask | [`request`](NodeRef::request), [`request_any`](NodeRef::request_any), [`pipeline`](NodeRef::pipeline) | answered by the other end's [`Handler`] |
//!
//! Incoming messages go to the [`Handler`]. [`subscribe`](NodeRef::subscribe) gives the event
//! stream. [`Typed`] puts serde types over kinds and bytes. Nodes on one machine share an IP
//! address, of which [`NodeConfig::recommended`] accepts eight connections: there, start from
//! [`NodeConfig::local`].
//!
//! Inside: `api` (handles, handler), `connect` (from an address or a stream to a live peer),
//! `session` (a live peer), `protocol` (the wire protocols, type-erased), `runtime` (common state,
//! tasks, maintenance). The common state names the protocols, which start sessions, which hold the
//! common state: the one circle of types here. All else points downwards.

mod api;
mod builder;
mod config;
mod discovery;
mod connect;
mod error;
mod protocol;
mod runtime;
mod session;

pub use api::events::{NodeEvent, Subscription, SubscriptionItem};
pub use api::handle::{Node, NodeRef, ShutdownReport, WeakNode};
pub use api::handler::{Context, Handler, PeerDecision};
pub use api::peers::BanReport;
pub use api::receipt::BroadcastReceipt;
pub use api::request::{RequestAnyOptions, RequestPipeline};
pub use api::stats::{LaneStats, MemoryStats, NodeStats};
pub use api::typed::{Typed, TypedError};
pub use builder::NodeBuilder;
pub use config::{ConfigError, NodeConfig, RuntimeConfig};
pub use discovery::DiscoveryConfig;
#[cfg(feature = "timecoin")]
pub(crate) use connect::handshake::{check_network, read_first_frame};
pub use connect::reservation::CompletedHandshake;
pub use error::{BroadcastError, ConnectError, PeerRequestError, PeerSendError, StartError};
pub use protocol::broadcaster::StateError;
pub use protocol::config::ProtocolConfig;
pub use protocol::policy::{Identity, PeerCapabilities, PeerPolicy};
pub use runtime::seen_set::{Digest, RelayConfig, RelayOutcome};
pub use session::peer::{NodeConnection, Peer, PeerInfo, Pool};

#[doc(inline)]
pub use crate::broadcast::{Appended, LagPolicy, Receipt};
#[doc(inline)]
pub use crate::connection::{Event, Handled, Message, Request, RequestError, Responder, Response, SendError};
