//! Accepts connections of this network outside of a node.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::node::NodeConfig;
use crate::transport::{BoxListener, Tcp, Transport};
use crate::wire::Hello;

use super::NetworkType;
use super::connection::{ConnectionError, Connector, PeerConnection};
use super::wire::{HandshakeMessage, Software, TimeCoin};

/// Maximum number of concurrent handshakes; further connections wait in the system's queue.
const MAX_HANDSHAKES: usize = 256;
/// Time limit for dialling and handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Accepts connections and exchanges handshakes.
///
/// Handshakes run concurrently, each with a time limit, so a silent client delays nobody.
///
/// A [`PeerManager`](super::PeerManager) that [listens](super::PeerManager::listen) itself needs
/// none.
pub struct PeerListener {
    listener: BoxListener,
    connector: Arc<Connector>,
    handshakes: JoinSet<Result<PeerConnection, ConnectionError>>,
}

impl PeerListener {
    /// Listens on an address over TCP; port 0 lets the system choose. Our handshakes announce
    /// `public`.
    ///
    /// # Errors
    /// [`ConnectionError::Io`].
    pub async fn bind(
        addr: SocketAddr,
        network: NetworkType,
        public: SocketAddr,
        genesis: Option<[u8; 32]>,
    ) -> Result<Self, ConnectionError> {
        let connector = Arc::new(connector(network, public, genesis));
        let listener = connector.transport.listen(addr).await?;
        Ok(Self { listener, connector, handshakes: JoinSet::new() })
    }

    /// The bound address, with the port that the system chose.
    pub fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// The next connection whose handshake has completed or failed.
    ///
    /// # Errors
    /// The failure of one connection, or of accepting. The listener stays usable.
    ///
    /// # Cancel safety
    /// Safe: handshakes continue, and the next call returns their results.
    pub async fn accept(&mut self) -> Result<PeerConnection, ConnectionError> {
        loop {
            tokio::select! {
                Some(done) = self.handshakes.join_next() => match done {
                    Ok(result) => return result,
                    // The runtime was shut down or the task panicked: the connection is lost in
                    // both cases.
                    Err(_) => return Err(ConnectionError::Closed),
                },
                accepted = self.listener.accept(), if self.handshakes.len() < MAX_HANDSHAKES => {
                    let (stream, from) = accepted?;
                    let connector = Arc::clone(&self.connector);
                    self.handshakes.spawn(async move { connector.accept(stream, from).await });
                }
            }
        }
    }
}

impl std::fmt::Debug for PeerListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerListener").field("addr", &self.local_addr()).finish_non_exhaustive()
    }
}

/// The connector of a program without a manager: TCP and default software.
pub(super) fn connector(network: NetworkType, listen: SocketAddr, genesis: Option<[u8; 32]>) -> Connector {
    let transport: Arc<dyn Transport> = Arc::new(Tcp::default());
    let protocol = Arc::new(TimeCoin::new(network, Software::default()));
    let hello = our_hello(network, listen, genesis, NodeConfig::recommended().agent);
    Connector { transport, protocol, hello, time_limit: HANDSHAKE_TIMEOUT }
}

/// The hello that our handshakes are made of.
pub(super) fn our_hello(
    network: NetworkType,
    listen: SocketAddr,
    genesis: Option<[u8; 32]>,
    agent: String,
) -> Hello {
    Hello {
        version: HandshakeMessage::PROTOCOL_VERSION,
        network: network.id(),
        nonce: None,
        features: 0,
        listen: Some(listen),
        agent,
        genesis,
        app: bytes::Bytes::new(),
    }
}
