//! The two structures of the legacy TIME Coin node, written again from their description.
//!
//! Both hold each connection behind `Arc<tokio::Mutex<_>>`, have keys by IP address and the
//! standard hasher, encode JSON for each peer, and mark a peer as seen after each successful send.
//! What does not belong to them is left out on both sides: no clock is read (`now` is given),
//! nothing is logged.

mod cascade;
mod unified;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use cascade::Cascade;
use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
pub(crate) use unified::Unified;

use crate::counting_locks::{ConnectionLock, Key};

/// A write that takes longer than this fails.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// What the legacy node kept of a peer.
#[derive(Clone, Debug)]
#[allow(dead_code, reason = "only their memory counts")]
pub(crate) struct PeerInfo {
    pub(crate) address: SocketAddr,
    pub(crate) last_seen: u64,
    pub(crate) version: String,
    pub(crate) mainnet: bool,
    pub(crate) commit_date: Option<String>,
    pub(crate) commit_count: Option<String>,
    pub(crate) wallet_address: Option<String>,
    pub(crate) latency_ms: Option<u64>,
    pub(crate) successful_connections: u32,
    pub(crate) failed_connections: u32,
}

impl PeerInfo {
    pub(crate) fn new(ip: IpAddr) -> Self {
        Self {
            address: SocketAddr::new(ip, 24_100),
            last_seen: 0,
            version: "0.6.4-ec2a412".to_owned(),
            mainnet: false,
            commit_date: Some("2026-04-11T15:10:01-07:00".to_owned()),
            commit_count: Some("2059".to_owned()),
            wallet_address: None,
            latency_ms: None,
            successful_connections: 0,
            failed_connections: 0,
        }
    }
}

/// Something to which a message is written.
pub(crate) trait Sink: Send + 'static {
    fn write(&mut self, json: &[u8]) -> impl Future<Output = io::Result<()>> + Send;
}

/// A length, then the JSON: two writes, as in the legacy node.
impl Sink for TcpStream {
    async fn write(&mut self, json: &[u8]) -> io::Result<()> {
        let length = u32::try_from(json.len()).map_err(io::Error::other)?;
        self.write_all(&length.to_be_bytes()).await?;
        self.write_all(json).await
    }
}

/// Accepts everything, to measure what a send costs beside the write.
impl Sink for () {
    async fn write(&mut self, _json: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// A connection as both structures hold it.
pub(crate) type Shared<C, K> = Arc<ConnectionLock<C, K>>;

/// One of the two structures.
#[allow(dead_code, reason = "one of the two benches does not broadcast")]
pub(crate) trait Structure<K: Key, C: Sink>: Default + Send + Sync + 'static {
    const NAME: &'static str;

    /// Adds a connection.
    fn insert(&self, key: K, info: PeerInfo, sink: C, now: Instant) -> impl Future<Output = ()> + Send;

    fn remove(&self, key: &K) -> impl Future<Output = bool> + Send;

    /// The connection of a peer.
    fn connection(&self, key: &K) -> impl Future<Output = Option<Shared<C, K>>> + Send;

    /// Marks a peer as seen, if it is there.
    fn peer_seen(&self, key: &K, now: Instant) -> impl Future<Output = bool> + Send;

    fn keys(&self) -> impl Future<Output = Vec<K>> + Send;

    /// Removes peers that were not seen for `stale`; how many.
    fn sweep(&self, now: Instant, stale: Duration) -> impl Future<Output = usize> + Send;

    /// Encodes for this peer, writes holding its connection, marks it as seen.
    fn send<M: Serialize + Sync>(&self, key: &K, message: &M) -> impl Future<Output = bool> + Send {
        async move {
            let Some(connection) = self.connection(key).await else { return false };
            let sent = {
                let mut sink = connection.lock().await;
                match serde_json::to_vec(message) {
                    Ok(json) => matches!(timeout(SEND_TIMEOUT, sink.write(&json)).await, Ok(Ok(()))),
                    Err(_) => false,
                }
            };
            if sent {
                self.peer_seen(key, Instant::now()).await;
            } else {
                self.remove(key).await;
            }
            sent
        }
    }
}
