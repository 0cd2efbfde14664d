//! pea2pea: `unicast_fast` to every address, which it recommends in place of its deprecated
//! `broadcast`. It is less work, too: the addresses are collected once. The message is encoded
//! once, the codec copies it.
//!
//! pea2pea drops what a full queue does not take. So the producer sends bursts of half a queue.
//! Before the next burst but one it waits until the burst's last message was flushed to every peer,
//! which `unicast` reports. Queues hold 1,024 messages, and buffers 256 KiB: pea2pea writes when
//! one is full.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use pea2pea::protocols::Writing;
use pea2pea::{Config, ConnectionSide, Node, Pea2Pea};
use tokio::runtime::Runtime;
use tokio_util::codec::Encoder;

use crate::common::contest::{Contender, Contest, Goal, Produced, window};
use crate::common::native;
use crate::common::receivers::{Group, Opening};

#[derive(Clone)]
struct Pea2PeaNode {
    node: Node,
}

impl Pea2Pea for Pea2PeaNode {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Writing for Pea2PeaNode {
    const MESSAGE_QUEUE_DEPTH: usize = 1024;
    const INITIAL_BUFFER_SIZE: usize = 256 * 1024;
    type Message = Bytes;
    type Codec = Copying;

    fn codec(&self, _: SocketAddr, _: ConnectionSide) -> Self::Codec {
        Copying
    }
}

struct Copying;

impl Encoder<Bytes> for Copying {
    type Error = io::Error;

    fn encode(&mut self, message: Bytes, out: &mut BytesMut) -> io::Result<()> {
        out.extend_from_slice(&message);
        Ok(())
    }
}

pub(crate) struct Pea2PeaContender {
    runtime: Arc<Runtime>,
    node: Pea2PeaNode,
    addrs: Arc<Vec<SocketAddr>>,
    group: Group,
}

impl Pea2PeaContender {
    pub(crate) fn new(contest: &mut Contest) -> Self {
        let (runtime, peers) = (Arc::clone(&contest.runtime), contest.peers);
        let config = Config {
            listener_addr: Some(([127, 0, 0, 1], 0).into()),
            listener_backlog: 4096,
            max_connections: 4096,
            max_connections_per_ip: 4096,
            max_connecting: 4096,
            ..Config::default()
        };
        let node = Pea2PeaNode { node: Node::new(config) };
        let addr = runtime.block_on(async {
            node.enable_writing().await;
            node.node().toggle_listener().await.expect("a port").expect("an address")
        });
        let group = contest.receivers.dial(addr, peers, Opening::Silent, contest.mode);
        let since = Instant::now();
        while node.node().num_connected() < peers {
            assert!(since.elapsed() < Duration::from_secs(10), "not all peers are connected");
            std::thread::sleep(Duration::from_millis(1));
        }
        let addrs = Arc::new(node.node().connected_addrs());
        Self { runtime, node, addrs, group }
    }
}

impl Contender for Pea2PeaContender {
    fn name(&self) -> &'static str {
        "pea2pea"
    }

    fn wire_len(&self, size: usize) -> usize {
        native::frame(size).len()
    }

    fn produce(&mut self, _: usize, size: usize, goal: Goal) -> Produced {
        let since = Instant::now();
        let (node, addrs) = (self.node.clone(), Arc::clone(&self.addrs));
        let producer = self.runtime.spawn(async move {
            let frame = native::frame(size);
            let burst = window(size) / 2;
            let mut countdown = goal.start(size);
            let mut unflushed = Vec::new();
            let mut more = true;
            while more {
                let mut last_of_each = Vec::with_capacity(addrs.len());
                for at in 1..=burst {
                    more = countdown.next();
                    if !more {
                        break;
                    }
                    for addr in &*addrs {
                        if at < burst {
                            node.unicast_fast(*addr, frame.clone()).expect("room");
                        } else {
                            last_of_each.push(node.unicast(*addr, frame.clone()).expect("room"));
                        }
                    }
                }
                for last in std::mem::replace(&mut unflushed, last_of_each) {
                    last.await.expect("the writer lives").expect("written");
                }
            }
            for last in unflushed {
                last.await.expect("the writer lives").expect("written");
            }
            countdown.done()
        });
        let messages = self.runtime.block_on(producer).expect("the producer");
        Produced { since, bytes: messages * (self.addrs.len() * self.wire_len(size)) as u64 }
    }

    fn group(&mut self) -> &mut Group {
        &mut self.group
    }
}

impl Drop for Pea2PeaContender {
    fn drop(&mut self) {
        self.runtime.block_on(self.node.node().shut_down());
    }
}
