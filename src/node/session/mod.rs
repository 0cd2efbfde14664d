//! A live peer on the node's side: its task, the callbacks of its connection, and what the pool
//! holds of it.
//!
//! ```text
//! socket -> connection's reader -> dispatch -> inbox -> callbacks::PeerSession -> Handler
//! ```
//!
//! - [`task`]: [`PeerTask`](task::PeerTask), what the runtime polls: a handshake first, then the
//!   connection's driver.
//! - [`callbacks`]: [`PeerSession`](callbacks::PeerSession), owned by the driver. It hands messages
//!   to the application's handler, and when it is dropped the peer's life ends: hooks, events,
//!   indexes.
//! - [`peer`]: [`NodeConnection`](peer::NodeConnection) and [`PeerInfo`](peer::PeerInfo), the
//!   values of the pool.

pub(crate) mod callbacks;
pub(crate) mod peer;
pub(crate) mod task;
