//! Connecting, adopting and disconnecting peers.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use crate::address_book::{ReportedBy, WallTime};
use crate::base::canonical;
use crate::node::{CompletedHandshake, ConnectError, NodeRef, Peer, StartError};
use crate::timecoin::PeerInfo;
use crate::timecoin::connection::PeerConnection;
use crate::timecoin::peer_lookup::{PROTOCOL_NAME, dial_addr, peer_ip_addr};
use crate::timecoin::quarantine::{QuarantineReason, Quarantined};

use super::PeerManager;
use super::error::{AdoptError, PeerConnectError};
use super::state::State;

/// Maximum number of concurrent dials of one `connect_to_peers` call.
const MAX_CONCURRENT_DIALS: usize = 10;
/// How long `connect_to_peers` waits for its dials.
const BATCH_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of addresses that wait to be dialled again.
const MAX_REDIALS: usize = 1_024;

impl PeerManager {
    /// Listens for this network's protocol at `addr`, or at the address given to
    /// [`PeerManager::new`]. Returns the address with the port that the system chose.
    ///
    /// # Errors
    /// See [`StartError`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing bound.
    pub async fn listen(&self, addr: Option<SocketAddr>) -> Result<SocketAddr, StartError> {
        self.node().listen(PROTOCOL_NAME, addr.unwrap_or(self.listen_addr())).await
    }

    /// Connects to a peer within 5 s, in the protocol that its address was learnt in, or else in
    /// this network's. Does nothing for our own address and for a connected peer.
    ///
    /// # Errors
    /// See [`PeerConnectError`].
    ///
    /// # Cancel safety
    /// Dropping the future closes the socket and releases every reservation.
    pub async fn connect_to_peer(&self, peer: PeerInfo) -> Result<(), PeerConnectError> {
        connect(self.state(), self.node(), self.listen_addr(), peer).await
    }

    /// Connects to these peers, at most 10 at a time, and waits at most 10 s for all of them;
    /// slower dials continue. The outcome is in the log, in the address book, and in
    /// [`PeerManager::get_connected_peers`].
    pub async fn connect_to_peers(&self, peer_list: Vec<PeerInfo>) {
        let slots = Arc::new(tokio::sync::Semaphore::new(MAX_CONCURRENT_DIALS));
        let (done, mut all_done) = tokio::sync::mpsc::channel::<()>(1);
        for peer in peer_list {
            let (slots, done, address) = (Arc::clone(&slots), done.clone(), peer.address);
            // A dial holds the manager weakly: dropping the last clone ends it.
            let (state, node, listen) = (self.state_arc(), self.node().downgrade(), self.listen_addr());
            self.state().tasks.spawn(async move {
                let _done = done;
                let Ok(_slot) = slots.acquire().await else { return };
                let Some(node) = node.upgrade() else { return };
                if let Err(error) = connect(&state, &node, listen, peer).await {
                    tracing::debug!(addr = %address, %error, "not connected");
                }
            });
        }
        drop(done);
        // Returns when the last dial has ended, or after the time limit.
        let _ = tokio::time::timeout(BATCH_TIMEOUT, all_done.recv()).await;
    }

    /// Remembers a peer to be dialled when one is needed. To add an existing connection, use
    /// [`PeerManager::add_connected_peer_with_connection`].
    pub async fn add_connected_peer(&self, peer: PeerInfo) {
        self.state().remember_peer(peer.address, peer.version, ReportedBy::Seed);
    }

    /// Adopts a connection that was made elsewhere. The socket and the handshake identify its peer;
    /// `peer` is only remembered. If another connection to the same peer is kept instead, this one
    /// is closed without an error.
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

    /// [`PeerManager::add_connected_peer_with_connection`] for a shared connection. Other holders
    /// can go on sending and requesting through it.
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
        let pending = parts.open_requests.into_iter().map(|open| (open.kind.code(), open.payload)).collect();
        let handshake =
            CompletedHandshake { hello: parts.hello, buffered: parts.rest, pending_requests: pending };
        let adopted = self
            .node()
            .adopt_handshaken(PROTOCOL_NAME, parts.stream, parts.direction, parts.addr, handshake)
            .await;
        match adopted {
            Ok(pooled) => {
                let addr = dial_addr(&pooled, self.network);
                if peer.address.ip() == addr.ip() {
                    self.state().remember_peer(peer.address, peer.version, ReportedBy::Peer(addr.ip()));
                }
                conn.set_pooled(pooled);
                Ok(())
            }
            Err(error) if error.is_collision() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Disconnects the peer at this IP address. Returns `false` if there is none.
    pub async fn remove_connected_peer(&self, addr: &IpAddr) -> bool {
        self.disconnect(*addr)
    }

    /// An alias of [`PeerManager::remove_connected_peer`].
    pub async fn remove_peer_connection(&self, peer_ip: IpAddr) -> bool {
        self.disconnect(peer_ip)
    }

    /// Disconnects the peer at this IP address, and dials its last known listening address once
    /// after 30 s. Returns `false` if there was no peer; the address is dialled all the same.
    pub async fn remove_dead_connection(&self, peer_ip: IpAddr) -> bool {
        let state = self.state();
        let addr = self.last_known_addr(peer_ip);
        let was_connected = self.disconnect(peer_ip);
        let wait = state.config.reconnect.redial_delay;
        {
            let mut redials = state.redials.lock();
            if redials.len() >= MAX_REDIALS || !redials.insert(peer_ip) {
                return was_connected;
            }
        }
        let (shared, node, listen) = (self.state_arc(), self.node().downgrade(), self.listen_addr());
        state.tasks.spawn(async move {
            tokio::time::sleep(wait).await;
            shared.redials.lock().remove(&peer_ip);
            let Some(node) = node.upgrade() else { return };
            if let Err(error) = connect(&shared, &node, listen, PeerInfo::new(addr, shared.network)).await {
                tracing::debug!(%addr, %error, "not reconnected");
            }
        });
        was_connected
    }

    /// Quarantines a peer and ends its connections.
    pub async fn quarantine_peer(&self, peer_ip: IpAddr, reason: QuarantineReason) -> Quarantined {
        let became = self.state().quarantine.quarantine_peer(peer_ip, reason).await;
        if matches!(became, Quarantined::Until(_)) {
            // All its live connections. One in its handshake is checked again when it goes live.
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

    /// Marks the peer at this IP address as seen. Every received frame does so; this is for contact
    /// by other means. Returns `false` if the peer is not connected.
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

/// Whether a peer is quarantined.
pub(super) fn is_quarantined_peer(state: &State, peer: &Peer) -> bool {
    state.quarantine.contains(&peer_ip_addr(peer))
}

/// Records a failed dial, unless the failure was caused by our own limits or shutdown.
pub(super) fn record_dial_failure(state: &State, addr: SocketAddr, error: &ConnectError) {
    if error.is_address_fault() {
        state.exchange.lock().record_failure(addr.ip());
    }
}

/// Connects to a peer. Holds the node weakly while it waits.
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
    // The node picks the protocol that the address was learnt in, which may be the native one.
    match node.connect(addr).await {
        Ok(_) => Ok(()),
        // The peer is connected already, or it is this node: nothing is left to do.
        Err(error) if error.is_collision() || matches!(error, ConnectError::SelfDial) => Ok(()),
        Err(error) => {
            record_dial_failure(state, addr, &error);
            Err(error.into())
        }
    }
}
