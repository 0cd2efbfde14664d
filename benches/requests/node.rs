//! peerpool itself: as many tasks as requests are to be in flight, each of which calls `request` in a loop.

use std::net::SocketAddr;
use std::time::Duration;

use peerpool::base::PeerId;
use peerpool::node::{Message, Node};
use tokio::runtime::Runtime;

use crate::byhand::{in_tasks, request};
use crate::{ANSWERS, Contender, Goal, answering};

pub(crate) struct Peerpool {
    node: Node,
    peer: PeerId,
}

impl Peerpool {
    pub(crate) fn new(runtime: &Runtime, addr: SocketAddr) -> Self {
        let (node, peer) = runtime.block_on(async {
            let node = Node::builder().config(answering::config()).start().await.expect("a node");
            let peer = *node.connect(addr).await.expect("the other end listens").key();
            (node, peer)
        });
        Self { node, peer }
    }
}

impl Contender for Peerpool {
    fn name(&self) -> &'static str {
        "peerpool"
    }

    fn ask(&mut self, runtime: &Runtime, answer: usize, depth: usize, goal: Goal) -> u64 {
        let (node, peer, request) = (self.node.clone(), self.peer, request(answer));
        in_tasks(runtime, depth, goal, move || {
            let (node, message) = (node.clone(), Message::new(1, request.clone()));
            async move {
                let within = Duration::from_secs(10);
                let response = node.request(&peer, message, within).await.expect("an answer");
                assert_eq!(response.len(), ANSWERS[answer]);
            }
        })
    }
}
