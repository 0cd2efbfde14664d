//! The existing TIME Coin node, played from what was measured of it, over real sockets.
//!
//! Nothing in here uses the crate: bytes, JSON and rules are written out once more, so that an
//! error in the crate's own types cannot hide behind itself. All of the legacy node's habits that a
//! peer meets are here, the bad ones included:
//!
//! ```text
//!  dial -> GetPeerList -> mute for 15 s, the connection's mutex held (Ping is answered, all else thrown away)
//!  every 30 s: Ping; the next frame, whatever it is, is taken for the reply
//!  read only inside a request or a ping; sends wait for the mutex; a refusal is a closed socket and no word
//! ```
//!
//! [`LegacyNode`] is the node; what it does is written into its [`Record`], in order.
//! [`ConnectionSetup`] says how it behaves and [`Timing`] how fast: real durations for paused time
//! over [`tokio::io::duplex`], scaled ones for sockets. [`ScriptedPeer`] is a far end that the test
//! moves itself.
#![allow(dead_code, unused_imports)]

#[path = "legacy_node/connection.rs"]
mod connection;
#[path = "legacy_node/handshake.rs"]
mod handshake;
#[path = "legacy_node/manager.rs"]
mod manager;
#[path = "legacy_node/message.rs"]
mod message;
#[path = "legacy_node/node.rs"]
mod node;
#[path = "legacy_node/record.rs"]
mod record;
#[path = "legacy_node/replies.rs"]
mod replies;
#[path = "legacy_node/scripted_peer.rs"]
mod scripted_peer;
#[path = "legacy_node/setup.rs"]
mod setup;

pub(crate) use handshake::{Handshake, Network};
pub(crate) use message::{MAX_MESSAGE, Message, SAMPLES, sample};
pub(crate) use node::LegacyNode;
pub(crate) use record::{Entry, FrameFate, PeerCounts, Record, What};
pub(crate) use scripted_peer::ScriptedPeer;
pub(crate) use setup::{ConnectionSetup, NodeKind, Timing};

use tokio::io::{AsyncRead, AsyncWrite};

/// What a connection runs over.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}
