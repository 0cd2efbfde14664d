//! What an application uses: the handles of a node, and the handler that it implements.
//!
//! - [`handle`]: `Node`, `NodeRef`, `WeakNode`, and the shutdown.
//! - [`peers`]: connect, listen, adopt, disconnect, ban, and look up peers. [`settings`]: change
//!   settings while the node runs.
//! - [`broadcast`]: send, broadcast, relay, state. [`receipt`]: what became of a broadcast.
//! - [`request`]: requests to one peer, to any peer, and pipelines of them.
//! - [`handler`]: the trait for everything that arrives. [`events`]: the event stream. [`stats`]:
//!   counters and gauges.
//! - [`typed`]: serde types as messages.

pub(crate) mod broadcast;
pub(crate) mod events;
pub(crate) mod handle;
pub(crate) mod handler;
pub(crate) mod peers;
pub(crate) mod receipt;
pub(crate) mod request;
pub(crate) mod settings;
pub(crate) mod stats;
pub(crate) mod typed;
