//! The old structures as contenders: a broadcast spawns a task per peer, each of which clones the message, looks the
//! connection up, locks it, encodes JSON and writes.
//!
//! So many broadcasts are under way at the same time; the old node had no such bound and would only pile up tasks.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use crate::contender::{Contender, Goal, Produced};
use crate::legacy::{PeerInfo, Structure};
use crate::messages::Sort;
use crate::receivers::{Group, Receivers};

pub(crate) struct Legacy<S> {
    runtime: Arc<Runtime>,
    structure: Arc<S>,
    places: Arc<Semaphore>,
    peers: usize,
    /// Messages sent so far: their numbers go on from slice to slice.
    sent: u64,
    group: Group,
}

impl<S: Structure<IpAddr, TcpStream>> Legacy<S> {
    pub(crate) fn new(
        runtime: &Arc<Runtime>,
        receivers: &mut Receivers,
        peers: usize,
        at_once: usize,
    ) -> Self {
        let (sockets, group) = receivers.sockets(peers);
        let structure = Arc::new(S::default());
        runtime.block_on(async {
            for (n, socket) in (0u32..).zip(sockets) {
                // All sockets are of one address; the structures know a peer by its own.
                let ip = IpAddr::from((0x0A00_0000 + n).to_be_bytes());
                let line = TcpStream::from_std(socket).expect("a socket");
                let mut info = PeerInfo::new(ip);
                info.address = SocketAddr::new(ip, 24_100);
                structure.insert(ip, info, line, Instant::now()).await;
            }
        });
        let places = Arc::new(Semaphore::new(at_once * peers));
        Self { runtime: Arc::clone(runtime), structure, places, peers, sent: 0, group }
    }
}

impl<S: Structure<IpAddr, TcpStream>> Contender for Legacy<S> {
    fn name(&self) -> &'static str {
        S::NAME
    }

    fn produce(&mut self, _: usize, size: usize, goal: Goal) -> Produced {
        let since = Instant::now();
        let first = self.sent;
        let (structure, places) = (Arc::clone(&self.structure), Arc::clone(&self.places));
        let producer = self.runtime.spawn(async move {
            let mut countdown = goal.start(64 * 1024);
            while countdown.next() {
                let message = Sort::of(size).message(first + countdown.done() - 1);
                for key in structure.keys().await {
                    let place = Arc::clone(&places).acquire_owned().await.expect("open");
                    let (structure, message) = (Arc::clone(&structure), message.clone());
                    tokio::spawn(async move {
                        assert!(structure.send(&key, &message).await, "the receiver lives");
                        drop(place);
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
