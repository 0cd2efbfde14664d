//! Many links, one pool: a node accepts, dials, broadcasts, relays, asks, keeps alive, reconnects and discovers.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use peerpool::node::{Message, Node};
//!
//! let node = Node::builder().listen("127.0.0.1:0".parse()?).start().await?;
//! node.connect("127.0.0.1:9000".parse()?).await?;
//! node.broadcast(&Message::new(1, "hello, everybody"))?;
//! # Ok(()) }
//! ```
//!
//! | to | use | that is |
//! |---|---|---|
//! | tell one peer | [`send`](NodeRef::send) | queued for its connection |
//! | tell everybody connected | [`broadcast`](NodeRef::broadcast) | encoded and appended once |
//! | pass on what was heard, each message once, in a mesh | [`relay`](NodeRef::relay) | a broadcast past whoever sent it, remembered |
//! | keep everybody up to date, those who come later too | [`set_state`](NodeRef::set_state) | the newest value of each key only |
//! | ask | [`request`](NodeRef::request), [`request_any`](NodeRef::request_any), [`pipeline`](NodeRef::pipeline) | answered by the other end's [`Handler`] |
//!
//! What arrives goes to the [`Handler`]; who comes and goes tells [`subscribe`](NodeRef::subscribe); [`Typed`] puts serde types over
//! kinds and bytes. Several nodes on one machine share an IP address, of which [`NodeConfig::recommended`] takes eight connections:
//! there [`NodeConfig::local`] is the one to begin with.

mod api;
mod builder;
mod config;
mod connect;
mod error;
mod protocol;
mod runtime;
mod session;

pub use api::events::{NodeEvent, Subscription, SubscriptionItem};
pub use api::handle::{Node, NodeRef, ShutdownReport, WeakNode};
pub use api::handler::{Context, Handler, PeerDecision};
pub use api::receipt::BroadcastReceipt;
pub use api::request::{RequestAnyOptions, RequestPipeline};
pub use api::stats::{LaneStats, MemoryStats, NodeStats};
pub use api::typed::{Typed, TypedError};
pub use builder::NodeBuilder;
pub use config::{ConfigError, NodeConfig, RuntimeConfig};
#[cfg(feature = "timecoin")]
pub(crate) use connect::handshake::{check_kin, read_greeting};
pub use connect::reservation::CompletedHandshake;
pub use error::{BanRefused, ConnectError, PeerRequestError, PeerSendError, StartError};
pub use protocol::broadcaster::StateError;
pub use protocol::config::{Identity, PeerCapabilities, PeerPolicy, ProtocolConfig};
pub use runtime::seen_set::{Digest, RelayConfig, RelayOutcome};
pub use session::info::{NodeConnection, Peer, PeerInfo, Pool};

#[doc(inline)]
pub use crate::broadcast::{LagPolicy, Receipt};
#[doc(inline)]
pub use crate::connection::{Event, Handled, Message, Request, RequestError, Responder, Response, SendError};
