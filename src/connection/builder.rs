//! Building a connection: first its position in the logs, then its stream.

use std::fmt;
use std::sync::Arc;

use crate::base::ConnId;
use crate::broadcast::state::StateCursor;
use crate::broadcast::{LogPositions, Parker};
use crate::transport::Stream;
use crate::wire::Protocol;

use super::budget::MemoryOrigin;
use super::driver::ConnectionDriver;
use super::handle::Connection;
use super::handler::ConnectionHandler;
use super::read::{Inbox, Reader};
use super::shared::ConnectionShared;
use super::write::Writer;

/// What a new connection is built from.
pub struct ConnectionSetup<D> {
    /// The connection's number.
    pub id: ConnId,
    /// Its protocol.
    pub protocol: Arc<D>,
    /// What it shares with other connections.
    pub shared: Arc<ConnectionShared>,
    /// Whose share of the memory it uses.
    pub origin: MemoryOrigin,
    /// Its positions in the urgent, the normal and the bulk log, taken before its key becomes live.
    pub positions: LogPositions,
    /// Its position in the latest-value state.
    pub state: StateCursor,
    /// Its entry in the set that wakes connections.
    pub parker: Parker,
}

impl<D> fmt::Debug for ConnectionSetup<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionSetup").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A connection that has its number and its positions in the logs, and no stream yet. Messages can
/// be queued already.
pub struct ConnectionBuilder<D: Protocol> {
    connection: Arc<Connection>,
    writer: Writer,
    protocol: Arc<D>,
    parker: Parker,
}

impl<D: Protocol> ConnectionBuilder<D> {
    /// Prepares a connection.
    pub fn new(setup: ConnectionSetup<D>) -> Self {
        let ConnectionSetup { id, protocol, shared, origin, positions, state, parker } = setup;
        let cursors = Arc::clone(positions.states());
        let connection = Connection::new(shared, origin, cursors, Arc::clone(parker.parked_waker()));
        debug_assert_eq!(connection.id(), id, "positions of another connection");
        Self { connection, writer: Writer::new(positions, state), protocol, parker }
    }

    /// The handle that others hold.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Connects the handle, a stream and a handler. The returned driver must be polled.
    pub fn start<S: Stream, H: ConnectionHandler>(
        self,
        stream: S,
        handler: H,
        initial: InitialIo<'_>,
    ) -> ConnectionDriver<D, S, H> {
        let Self { connection, mut writer, protocol, parker } = self;
        writer.control_queue().start_with(initial.write_first);
        if initial.suppress_declines {
            connection.suppress_declines();
        }
        ConnectionDriver {
            stream,
            reader: Reader::new(&*protocol, &connection, initial.already_read),
            writer,
            inbox: Inbox::default(),
            protocol,
            parker,
            connection,
            closing: None,
            must_read: false,
            has_yielded: false,
            handler,
        }
    }
}

impl<D: Protocol> fmt::Debug for ConnectionBuilder<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionBuilder").field("id", &self.connection.id()).finish_non_exhaustive()
    }
}

/// What a handshake leaves for the connection to write and to decode.
#[derive(Debug, Default)]
pub struct InitialIo<'a> {
    /// Goes out before anything else.
    pub write_first: &'a [u8],
    /// Bytes that were read behind the peer's handshake.
    pub already_read: Vec<u8>,
    /// The peer cannot be told that its request has no response: nothing is sent then.
    pub suppress_declines: bool,
}
