//! The node as a test holds it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Mutex;

use super::Stream;
use super::connection::Connection;
use super::handshake::Handshake;
use super::manager::Manager;
use super::message::Message;
use super::record::{PeerCounts, Record, What};
use super::replies;
use super::setup::{ConnectionSetup, NodeKind};

/// A running legacy node; dropped, it is gone with all its sockets.
pub(crate) struct LegacyNode {
    manager: Arc<Manager>,
}

impl LegacyNode {
    /// Binds, if it is to listen, and starts all that runs by itself.
    pub(crate) async fn start(setup: ConnectionSetup) -> Self {
        let listener = match setup.listen {
            Some(addr) => Some(TcpListener::bind(addr).await.unwrap()),
            None => None,
        };
        let listen = listener.as_ref().map(|listener| listener.local_addr().unwrap());
        let manager = Manager::new(setup, listen);
        if let Some(listener) = listener {
            manager.spawn(accept(Arc::clone(&manager), listener));
        }
        manager.spawn(Arc::clone(&manager).maintain());
        Self { manager }
    }

    /// Ends it and waits until its sockets are closed.
    pub(crate) async fn stop(self) {
        if let Some(mut tasks) = self.manager.end() {
            while tasks.join_next().await.is_some() {}
        }
        self.manager.pool.write().await.clear();
    }

    /// Where it listens.
    ///
    /// # Panics
    /// If it does not.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.manager.listen.unwrap()
    }

    pub(crate) fn record(&self) -> &Record {
        &self.manager.record
    }

    pub(crate) fn counts(&self, ip: IpAddr) -> PeerCounts {
        self.record().counts(ip)
    }

    /// The addresses in its pool, and what it keeps as the peer's address.
    pub(crate) async fn peers(&self) -> Vec<(IpAddr, SocketAddr)> {
        let pool = self.manager.pool.read().await;
        let mut peers: Vec<_> = pool.iter().map(|(ip, entry)| (*ip, entry.addr)).collect();
        peers.sort();
        peers
    }

    /// Dials, with a deadline over connect and handshake. Nothing to do for an address that it has,
    /// or its own.
    pub(crate) async fn connect_to_peer(&self, addr: SocketAddr) -> Result<(), String> {
        self.manager.connect_to_peer(addr).await
    }

    /// The same over a stream that is connected already.
    pub(crate) async fn connect_over(&self, stream: impl Stream, addr: SocketAddr) -> Result<(), String> {
        let (stream, theirs) = self.manager.greet(Box::new(stream)).await?;
        self.manager.pool_dialled(addr, stream, &theirs).await;
        Ok(())
    }

    /// Accepts a stream that comes from `from`, as the listener would.
    pub(crate) async fn accept_over(&self, stream: impl Stream, from: SocketAddr) -> Result<(), String> {
        answer(&self.manager, Box::new(stream), from).await
    }

    /// Sends through the pool: waits for the connection's mutex without a bound, writes within 5 s,
    /// removes on an error.
    pub(crate) async fn send_to_peer_tcp(&self, ip: IpAddr, json: &str) -> Result<(), String> {
        self.manager.send_to_peer_tcp(ip, json).await
    }

    /// Sends while the pool's read lock is held.
    pub(crate) async fn send_message_to_peer(&self, ip: IpAddr, json: &str) -> Result<(), String> {
        self.manager.send_message_to_peer(ip, json).await
    }

    /// Writes raw bytes on the connection, in its turn.
    pub(crate) async fn send_raw(&self, ip: IpAddr, bytes: &[u8]) -> Result<(), String> {
        let connection = self.manager.connection(ip).await?;
        connection.lock().await.send_raw(bytes).await
    }

    /// Asks and waits for a reply that is recognised; removes the peer on an error.
    pub(crate) async fn request(&self, ip: IpAddr, json: &str, within: Duration) -> Result<Message, String> {
        let connection = self.manager.connection(ip).await?;
        let reply = connection.lock().await.request_response(json, within).await;
        match &reply {
            Ok(_) => self.manager.peer_seen(ip).await,
            Err(_) => self.manager.remove_dead_connection(ip).await,
        }
        reply
    }

    /// Sends a ping without waiting for the pong.
    pub(crate) async fn send_ping(&self, ip: IpAddr) -> Result<(), String> {
        let sent = self.manager.send_message_to_peer(ip, r#""Ping""#).await;
        if sent.is_err() {
            self.manager.remove_dead_connection(ip).await;
        }
        sent
    }

    /// A task per peer; returns at once. Two broadcasts may overtake each other.
    pub(crate) async fn broadcast_message(&self, json: &str) {
        broadcast(&self.manager, json, None).await;
    }

    /// One peer after another.
    pub(crate) async fn broadcast_tip_update(&self, height: u64, hash: &str) {
        let json = format!(r#"{{"UpdateTip":{{"height":{height},"hash":"{hash}"}}}}"#);
        for ip in self.manager.ips().await {
            if self.send_to_peer_tcp(ip, &json).await.is_err() {
                self.manager.remove_dead_connection(ip).await;
            }
        }
    }

    /// Asks every peer for its peers and does not read the answers.
    pub(crate) async fn discover_peers_from_masternodes(&self) {
        for ip in self.manager.ips().await {
            let _ = self.send_to_peer_tcp(ip, r#""GetPeerList""#).await;
        }
    }

    pub(crate) async fn peer_seen(&self, ip: IpAddr) {
        self.manager.peer_seen(ip).await;
    }

    /// Removes from the pool; the socket closes with the last holder of the connection.
    pub(crate) async fn remove_connected_peer(&self, ip: IpAddr) {
        self.manager.remove(ip, "asked to").await;
    }

    pub(crate) async fn remove_dead_connection(&self, ip: IpAddr) {
        self.manager.remove_dead_connection(ip).await;
    }
}

impl Drop for LegacyNode {
    fn drop(&mut self) {
        drop(self.manager.end());
    }
}

pub(super) async fn broadcast(manager: &Arc<Manager>, json: &str, but: Option<IpAddr>) {
    for ip in manager.ips().await.into_iter().filter(|ip| Some(*ip) != but) {
        let (this, json) = (Arc::clone(manager), json.to_owned());
        manager.spawn(async move {
            let _ = this.send_to_peer_tcp(ip, &json).await;
        });
    }
}

/// Accepts for ever, each handshake inline: a silent client blocks all others.
async fn accept(manager: Arc<Manager>, listener: TcpListener) {
    loop {
        let Ok((stream, from)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let _ = answer(&manager, Box::new(stream), from).await;
    }
}

/// The acceptor's side of the handshake: nothing is sent before the dialler's handshake is
/// accepted.
async fn answer(manager: &Arc<Manager>, mut stream: Box<dyn Stream>, from: SocketAddr) -> Result<(), String> {
    let theirs = match Handshake::receive(&mut *stream, manager.setup.network).await {
        Ok(theirs) => theirs,
        Err(error) => {
            manager.record.add(from.ip(), What::Refused(error.clone()));
            return Err(error);
        }
    };
    // The acceptor never names a genesis.
    let ours = Handshake { genesis_hash: None, ..manager.handshake() };
    ours.send(&mut *stream).await.map_err(|error| error.to_string())?;
    let full = manager.setup.kind == NodeKind::Full;
    let addr =
        if full { SocketAddr::new(from.ip(), manager.setup.standard_port) } else { theirs.listen_addr };
    manager.record.add(addr.ip(), What::Accepted);
    let this = Arc::clone(manager);
    manager.spawn(async move {
        let pooled = this.add_connected_peer_with_connection(addr, &theirs.version, stream).await;
        if let (true, Some(connection)) = (full, pooled) {
            read_loop(&this, addr.ip(), &connection).await;
        }
    });
    Ok(())
}

/// A full node's loop: the mutex is held while it waits for the peer to speak; the first error ends
/// it. If the peer was silent for too long the connection stays, and nobody reads from it any more.
async fn read_loop(manager: &Arc<Manager>, ip: IpAddr, connection: &Arc<Mutex<Connection>>) {
    loop {
        let read = connection.lock().await.read().await;
        match read {
            Ok(message) => replies::handle(manager, ip, &message).await,
            Err(error) => {
                let is_deaf = error.starts_with("Receive timeout");
                manager.record.add(ip, What::LoopEnded(error));
                if !is_deaf {
                    manager.remove(ip, "read loop ended").await;
                }
                return;
            }
        }
    }
}
