//! The legacy structures as contenders. A broadcast spawns a task per peer, each of which clones
//! the message, looks the connection up, locks it, encodes JSON and writes.
//!
//! Only `at_once` broadcasts are under way at the same time. The legacy node has no such bound;
//! tasks would only pile up.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use crate::common::contest::{Contender, Contest, Goal, Produced};
use crate::common::receivers::Group;
use crate::legacy::{PeerInfo, Structure};
use crate::messages::Kind;

pub(crate) struct LegacyContender<S> {
    runtime: Arc<Runtime>,
    structure: Arc<S>,
    permits: Arc<Semaphore>,
    peers: usize,
    /// Messages sent so far; the next slice continues their numbers.
    sent: u64,
    group: Group,
}

impl<S: Structure<IpAddr, TcpStream>> LegacyContender<S> {
    pub(crate) fn new(contest: &mut Contest, at_once: usize) -> Self {
        let (runtime, peers) = (&contest.runtime, contest.peers);
        let (sockets, group) = contest.receivers.sockets(peers, contest.mode);
        let structure = Arc::new(S::default());
        runtime.block_on(async {
            for (n, socket) in (0u32..).zip(sockets) {
                // All sockets have one address; the structures know each peer by an address of its
                // own.
                let ip = IpAddr::from((0x0A00_0000 + n).to_be_bytes());
                let stream = TcpStream::from_std(socket).expect("a socket");
                let mut info = PeerInfo::new(ip);
                info.address = SocketAddr::new(ip, 24_100);
                structure.insert(ip, info, stream, Instant::now()).await;
            }
        });
        let permits = Arc::new(Semaphore::new(at_once * peers));
        Self { runtime: Arc::clone(runtime), structure, permits, peers, sent: 0, group }
    }
}

impl<S: Structure<IpAddr, TcpStream>> Contender for LegacyContender<S> {
    fn name(&self) -> &'static str {
        S::NAME
    }

    fn wire_len(&self, size: usize) -> usize {
        size
    }

    fn produce(&mut self, _: usize, size: usize, goal: Goal) -> Produced {
        let since = Instant::now();
        let first = self.sent;
        let (structure, permits) = (Arc::clone(&self.structure), Arc::clone(&self.permits));
        let producer = self.runtime.spawn(async move {
            let mut countdown = goal.start(64 * 1024);
            while countdown.next() {
                let message = Kind::of(size).message(first + countdown.done() - 1);
                for key in structure.keys().await {
                    let permit = Arc::clone(&permits).acquire_owned().await.expect("open");
                    let (structure, message) = (Arc::clone(&structure), message.clone());
                    tokio::spawn(async move {
                        assert!(structure.send(&key, &message).await, "the receiver lives");
                        drop(permit);
                    });
                }
            }
            countdown.done()
        });
        let messages = self.runtime.block_on(producer).expect("the producer");
        self.sent += messages;
        Produced { since, bytes: messages * (self.peers * self.wire_len(size)) as u64 }
    }

    fn group(&mut self) -> &mut Group {
        &mut self.group
    }
}
