//! A protocol of the node without its type.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::base::{ConnId, Lane, Tick};
use crate::broadcast::{Log, WakeSet};
use crate::connection::{Connection, ConnectionBuilder, InitialIo, MemoryOrigin, Message, ResumePoints};
use crate::node::config::RuntimeConfig;
use crate::node::session::callbacks::PeerSession;
use crate::node::session::task::{PeerTask, run_connection};
use crate::transport::BoxStream;
use crate::node::error::BroadcastError;
use crate::wire::{Control, EncodeError, Features, FirstFrame, Hello, Protocol, Refusal, WireError};

use super::broadcaster::StateError;
use super::policy::{PeerCapabilities, PeerPolicy};

/// One protocol of a node, type-erased: its codec, its broadcast logs, its state table and its
/// policy.
///
/// Only calls made once a broadcast, a connection or a tick go through it. The driver of a
/// connection knows the type.
pub(crate) trait DynProtocol: Send + Sync {
    fn name(&self) -> &'static str;

    fn version(&self) -> u32;

    /// The largest payload that this node takes, in bytes.
    fn max_message(&self) -> usize;

    fn features(&self) -> Features;

    fn policy(&self) -> &dyn PeerPolicy;

    /// The address that hellos of this protocol carry, where one is configured.
    fn advertised_addr(&self) -> Option<SocketAddr>;

    fn wake_set(&self) -> &Arc<WakeSet>;

    /// The broadcast log of a lane; `None` for the control lane.
    fn log(&self, lane: Lane) -> Option<&Arc<Log>>;

    /// Whether [`DynProtocol::append`] would accept this message. Copies nothing.
    fn check(&self, message: &Message) -> Result<(), BroadcastError>;

    /// Encodes a message once and appends it to its lane's log. Returns its sequence number there.
    ///
    /// # Cost
    /// One encoding and one memcpy under a short lock. Payloads from 16 KiB up are not copied.
    fn append(&self, message: &Message, origin: Option<ConnId>) -> Result<u64, BroadcastError>;

    /// Whether [`DynProtocol::set_state`] would accept this value now.
    fn check_state(&self, kind: u16, id: &[u8], value: &Bytes) -> Result<(), StateError>;

    fn set_state(&self, kind: u16, id: &[u8], value: Bytes) -> Result<u64, StateError>;

    fn clear_state(&self, kind: u16, id: &[u8]) -> bool;

    fn reconfigure(&self, runtime: &RuntimeConfig);

    fn tick(&self, now: Tick);

    /// Bytes held by the logs and the state table.
    fn bytes(&self) -> usize;

    /// The most bytes of a hello.
    fn max_hello_bytes(&self) -> usize;

    fn encode_hello(&self, hello: &Hello) -> Result<BytesMut, EncodeError>;

    /// A refusal in place of a hello; `None` where the protocol refuses by closing.
    fn encode_refusal(&self, refusal: &Refusal) -> Option<BytesMut>;

    /// A control message; `None` where the protocol cannot express it.
    fn encode_control(&self, control: &Control) -> Option<BytesMut>;

    /// The first frame of a connection and the bytes it took; `None` while it is incomplete.
    fn decode_first_frame(&self, buf: &[u8]) -> Result<Option<(FirstFrame, usize)>, WireError>;

    /// Makes a connection that waits for its stream. Its positions in the logs are taken here,
    /// before its key goes live.
    ///
    /// - `resume`: positions of the connection it takes over from; `None` starts at the end of each
    ///   log.
    /// - `capabilities`: decides whether the peer gets all state, or only what is set from now on.
    fn prepare(
        &self,
        id: ConnId,
        origin: MemoryOrigin,
        resume: Option<ResumePoints>,
        capabilities: PeerCapabilities,
    ) -> Box<dyn ReadyConnection>;
}

/// A connection that waits for its stream.
pub(crate) trait ReadyConnection: Send {
    fn connection(&self) -> &Arc<Connection>;

    /// The task that drives the connection over `stream` and calls `session`.
    fn start(self: Box<Self>, stream: BoxStream, session: PeerSession, start: InitialIo<'_>) -> PeerTask;
}

impl<P: Protocol> ReadyConnection for ConnectionBuilder<P> {
    fn connection(&self) -> &Arc<Connection> {
        ConnectionBuilder::connection(self)
    }

    fn start(self: Box<Self>, stream: BoxStream, session: PeerSession, start: InitialIo<'_>) -> PeerTask {
        run_connection((*self).start(stream, session, start))
    }
}
