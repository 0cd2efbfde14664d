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

mod accept;
mod agents;
mod ask;
mod builder;
mod config;
mod dial;
mod dialect;
mod duel;
mod error;
mod events;
mod handle;
mod handler;
mod handshake;
mod host;
mod info;
mod instances;
mod join;
mod life;
mod maintain;
mod probe;
mod receipt;
mod relay;
mod say;
mod seat;
mod shared;
mod stats;
mod tongue;
mod typed;
mod verbs;
mod voice;

pub use ask::{RequestAnyOptions, RequestPipeline};
pub use builder::NodeBuilder;
pub use config::{ConfigError, NodeConfig, RuntimeConfig};
pub use dialect::{Identity, PeerCapabilities, PeerPolicy, ProtocolConfig};
pub use error::{BanRefused, ConnectError, PeerRequestError, PeerSendError, StartError};
pub use events::{NodeEvent, Subscription, SubscriptionItem};
pub use handle::{Node, NodeRef, ShutdownReport, WeakNode};
pub use handler::{Context, Handler, PeerDecision};
#[cfg(feature = "timecoin")]
pub(crate) use handshake::{check_kin, read_greeting};
pub use info::{NodeConnection, Peer, PeerInfo, Pool};
pub use receipt::BroadcastReceipt;
pub use relay::{Digest, RelayConfig, RelayOutcome};
pub use seat::CompletedHandshake;
pub use stats::{LaneStats, MemoryStats, NodeStats};
pub use typed::{Typed, TypedError};
pub use voice::StateError;

#[doc(inline)]
pub use crate::broadcast::{LagPolicy, Receipt};
#[doc(inline)]
pub use crate::connection::{Event, Handled, Message, Request, RequestError, Responder, Response, SendError};
