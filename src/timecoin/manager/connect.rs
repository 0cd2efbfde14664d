//! Connections: made, taken over, ended.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use crate::address_book::{Source, WallTime};
use crate::base::canonical;
use crate::node::{CompletedHandshake, ConnectError, NodeRef, Peer, StartError};
use crate::timecoin::PeerInfo;
use crate::timecoin::connection::PeerConnection;
use crate::timecoin::peer_lookup::{PROTOCOL_NAME, dial_addr, peer_ip_addr};
use crate::timecoin::quarantine::{QuarantineReason, Quarantined};

use super::PeerManager;
use super::error::{AdoptError, PeerConnectError};
use super::state::State;

/// Dials of one batch at the same time.
const MAX_CONCURRENT_DIALS: usize = 10;
/// How long a batch is waited for.
const BATCH_TIMEOUT: Duration = Duration::from_secs(10);
/// Addresses that wait to be dialled again, at the most.
const MAX_REDIALS: usize = 1_024;

impl PeerManager {
    /// Listens for old peers at this address, or at the one that [`PeerManager::new`] was told. Returns the address with the port
    /// that the system chose.
    ///
    /// # Errors
    /// See [`StartError`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing bound.
    pub async fn listen(&self, addr: Option<SocketAddr>) -> Result<SocketAddr, StartError> {
        self.node().listen(PROTOCOL_NAME, addr.unwrap_or(self.listen_addr())).await
    }

    /// Connects to a peer, 5 s at the longest, in the dialect that its address was learnt in, else in this network's. Our own
    /// address, and one that is connected already, are in order as they are.
    ///
    /// # Errors
    /// See [`PeerConnectError`].
    ///
    /// # Cancel safety
    /// Dropping the future closes what was opened and gives everything back.
    pub async fn connect_to_peer(&self, peer: PeerInfo) -> Result<(), PeerConnectError> {
        connect(self.state(), self.node(), self.listen_addr(), peer).await
    }

    /// Connects to these peers, at most 10 at a time, and waits at most 10 s for all of them; those that take longer go on.
    /// How it went is in the log, in the book, and in [`PeerManager::get_connected_peers`].
    pub async fn connect_to_peers(&self, peer_list: Vec<PeerInfo>) {
        let places = Arc::new(tokio::sync::Semaphore::new(MAX_CONCURRENT_DIALS));
        let (done, mut all_done) = tokio::sync::mpsc::channel::<()>(1);
        for peer in peer_list {
            let (places, done, address) = (Arc::clone(&places), done.clone(), peer.address);
            // A dial does not keep the manager alive: its last clone ends all of them.
            let (state, node, listen) = (self.state_arc(), self.node().downgrade(), self.listen_addr());
            self.state().tasks.spawn(async move {
                let _done = done;
                let Ok(_place) = places.acquire().await else { return };
                let Some(node) = node.upgrade() else { return };
                if let Err(error) = connect(&state, &node, listen, peer).await {
                    tracing::debug!(addr = %address, %error, "not connected");
                }
            });
        }
        drop(done);
        // Ends with the last task, or leaves the others going.
        let _ = tokio::time::timeout(BATCH_TIMEOUT, all_done.recv()).await;
    }

    /// Remembers a peer to be dialled when one is needed: there is no connection to add here. For one that is made, see
    /// [`PeerManager::add_connected_peer_with_connection`].
    pub async fn add_connected_peer(&self, peer: PeerInfo) {
        self.state().remember_peer(peer.address, peer.version, Source::Seed);
    }

    /// Makes a connection that was made elsewhere the manager's. Whose it is, is what the handshake and the socket say; `peer` is
    /// only remembered. One that another connection to the same peer makes needless is closed, which is no error.
    ///
    /// # Errors
    /// See [`AdoptError`].
    pub async fn add_connected_peer_with_connection(
        &self,
        peer: PeerInfo,
        mut conn: PeerConnection,
    ) -> Result<(), AdoptError> {
        self.adopt(peer, &mut conn).await
    }

    /// As [`PeerManager::add_connected_peer_with_connection`]; who else holds the connection can go on sending and asking with it,
    /// through the pool.
    ///
    /// # Errors
    /// See [`AdoptError`].
    pub async fn add_connected_peer_with_connection_arc(
        &self,
        peer: PeerInfo,
        conn_arc: Arc<Mutex<PeerConnection>>,
    ) -> Result<(), AdoptError> {
        let mut conn = conn_arc.lock().await;
        self.adopt(peer, &mut conn).await
    }

    async fn adopt(&self, peer: PeerInfo, conn: &mut PeerConnection) -> Result<(), AdoptError> {
        let parts = conn.take_parts().ok_or(AdoptError::NotOpen)?;
        if self.state().quarantine.contains(&parts.addr.ip()) {
            return Err(AdoptError::Quarantined(parts.addr.ip()));
        }
        let asked = parts.open_requests.into_iter().map(|open| (open.kind.code(), open.payload)).collect();
        let before = CompletedHandshake { hello: parts.hello, buffered: parts.rest, pending_requests: asked };
        let adopted = self
            .node()
            .adopt_handshaken(PROTOCOL_NAME, parts.stream, parts.direction, parts.addr, before)
            .await;
        match adopted {
            Ok(pooled) => {
                let addr = dial_addr(&pooled, self.network);
                if peer.address.ip() == addr.ip() {
                    self.state().remember_peer(peer.address, peer.version, Source::Peer(addr.ip()));
                }
                conn.set_pooled(pooled);
                Ok(())
            }
            Err(error) if error.is_collision() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends the connection to the peer at this IP address. `false` if there is none.
    pub async fn remove_connected_peer(&self, addr: &IpAddr) -> bool {
        self.disconnect(*addr)
    }

    /// The same as [`PeerManager::remove_connected_peer`].
    pub async fn remove_peer_connection(&self, peer_ip: IpAddr) -> bool {
        self.disconnect(peer_ip)
    }

    /// Ends the connection to the peer at this IP address and dials it again, once, after 30 s, where it was known to listen.
    /// `false` if there is none; it is dialled again all the same.
    pub async fn remove_dead_connection(&self, peer_ip: IpAddr) -> bool {
        let state = self.state();
        let addr = self.last_known_addr(peer_ip);
        let was = self.disconnect(peer_ip);
        let wait = state.config.reconnect.redial_delay;
        {
            let mut redials = state.redials.lock();
            if redials.len() >= MAX_REDIALS || !redials.insert(peer_ip) {
                return was;
            }
        }
        let (shared, node, listen) = (self.state_arc(), self.node().downgrade(), self.listen_addr());
        state.tasks.spawn(async move {
            tokio::time::sleep(wait).await;
            shared.redials.lock().remove(&peer_ip);
            let Some(node) = node.upgrade() else { return };
            if let Err(error) = connect(&shared, &node, listen, PeerInfo::new(addr, shared.network)).await {
                tracing::debug!(%addr, %error, "not connected again");
            }
        });
        was
    }

    /// Keeps a peer out, and ends its connections. The old network had no caller for this; whoever finds a peer misbehaving is one.
    pub async fn quarantine_peer(&self, peer_ip: IpAddr, reason: QuarantineReason) -> Quarantined {
        let became = self.state().quarantine.quarantine_peer(peer_ip, reason).await;
        if matches!(became, Quarantined::Until(_)) {
            // All that it has; one in its handshake meanwhile finds the quarantine when it is live.
            self.disconnect(peer_ip);
            let others = self
                .node()
                .peers_at(peer_ip)
                .into_iter()
                .filter(|peer| is_quarantined_peer(self.state(), peer));
            for peer in others {
                self.node().disconnect(peer.key());
            }
        }
        became
    }

    /// Something came from the peer at this IP address. Every frame that arrives says so by itself; this is for what comes by
    /// another way. `false` if it is not connected.
    ///
    /// # Cost
    /// One shard's read lock, and an atomic on the entry.
    pub async fn peer_seen(&self, addr: IpAddr) -> bool {
        let peer = self.state().peer_by_ip(self.node(), addr);
        peer.is_some_and(|peer| peer.seen(self.node().now()) == crate::pool::SeenOutcome::Alive)
    }

    fn disconnect(&self, ip: IpAddr) -> bool {
        self.state().peer_by_ip(self.node(), ip).is_some_and(|peer| self.node().disconnect(peer.key()))
    }
}

/// Whether a peer is in quarantine.
pub(super) fn is_quarantined_peer(state: &State, peer: &Peer) -> bool {
    state.quarantine.contains(&peer_ip_addr(peer))
}

/// A dial that failed counts against the address, unless it was our own want of room, or our end.
pub(super) fn record_dial_failure(state: &State, addr: SocketAddr, error: &ConnectError) {
    if error.is_address_fault() {
        state.exchange.lock().record_failure(addr.ip());
    }
}

/// Connects to a peer. Holds the node without keeping it running.
async fn connect(
    state: &State,
    node: &NodeRef,
    listen: SocketAddr,
    peer: PeerInfo,
) -> Result<(), PeerConnectError> {
    let addr = canonical(peer.address);
    if state.is_own_addr(addr) || addr == listen {
        return Ok(());
    }
    if state.quarantine.contains(&addr.ip()) {
        return Err(PeerConnectError::Quarantined(addr.ip()));
    }
    if state.peer_by_addr(node, addr).is_some() {
        return Ok(());
    }
    state.exchange.lock().add_peer(addr, peer.version, WallTime::now());
    // In the dialect that the address was learnt in: it may be a native peer's. UnmatchedFrames are dialled in this network's.
    match node.connect(addr).await {
        Ok(_) => Ok(()),
        // Somebody else was quicker, or it is us: what was wanted is so.
        Err(error) if error.is_collision() || matches!(error, ConnectError::SelfDial) => Ok(()),
        Err(error) => {
            record_dial_failure(state, addr, &error);
            Err(error.into())
        }
    }
}
