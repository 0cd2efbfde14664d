//! The design that peerpool replaces: a map of locked connections. A broadcast spawns a task per
//! peer, each of which encodes the message as JSON, locks the connection and writes.
//!
//! A few broadcasts are under way at the same time; otherwise tasks would pile up without a bound.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::{Mutex, RwLock, Semaphore};

use crate::common::contest::{Contender, Contest, Goal, Produced};
use crate::common::native;
use crate::common::receivers::Group;

/// Broadcasts under way at the same time.
const MAX_BROADCASTS: usize = 4;

type Connections = Arc<RwLock<HashMap<SocketAddr, Arc<Mutex<TcpStream>>>>>;

#[derive(Debug, Serialize)]
struct Message {
    kind: u16,
    body: String,
}

impl Message {
    fn new(size: usize) -> Arc<Self> {
        let body = String::from_utf8(native::payload(size).to_vec()).expect("letters");
        Arc::new(Self { kind: native::KIND, body })
    }

    fn encode(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("a message");
        line.push(b'\n');
        line
    }
}

pub(crate) struct Spawning {
    runtime: Arc<Runtime>,
    connections: Connections,
    permits: Arc<Semaphore>,
    peers: usize,
    group: Group,
}

impl Spawning {
    pub(crate) fn new(contest: &mut Contest) -> Self {
        let (runtime, peers) = (&contest.runtime, contest.peers);
        let (sockets, group) = contest.receivers.sockets(peers, contest.mode);
        let _inside = runtime.enter();
        let connections = sockets.into_iter().map(|socket| {
            let addr = socket.peer_addr().expect("an address");
            (addr, Arc::new(Mutex::new(TcpStream::from_std(socket).expect("a socket"))))
        });
        let connections = Arc::new(RwLock::new(connections.collect()));
        let permits = Arc::new(Semaphore::new(MAX_BROADCASTS * peers));
        Self { runtime: Arc::clone(runtime), connections, permits, peers, group }
    }
}

impl Contender for Spawning {
    fn name(&self) -> &'static str {
        "spawn + lock + JSON"
    }

    fn wire_len(&self, size: usize) -> usize {
        Message::new(size).encode().len()
    }

    fn produce(&mut self, _: usize, size: usize, goal: Goal) -> Produced {
        let since = Instant::now();
        let (connections, permits) = (Arc::clone(&self.connections), Arc::clone(&self.permits));
        let producer = self.runtime.spawn(async move {
            let message = Message::new(size);
            let mut countdown = goal.start(64 * 1024);
            while countdown.next() {
                for connection in connections.read().await.values() {
                    let permit = Arc::clone(&permits).acquire_owned().await.expect("open");
                    let (message, connection) = (Arc::clone(&message), Arc::clone(connection));
                    tokio::spawn(async move {
                        let encoded = message.encode();
                        let written = connection.lock().await.write_all(&encoded).await;
                        written.expect("the receiver lives");
                        drop(permit);
                    });
                }
            }
            countdown.done()
        });
        let messages = self.runtime.block_on(producer).expect("the producer");
        Produced { since, bytes: messages * (self.peers * self.wire_len(size)) as u64 }
    }

    fn group(&mut self) -> &mut Group {
        &mut self.group
    }
}
