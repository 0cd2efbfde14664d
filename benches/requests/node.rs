//! peerpool itself: one task with a pipeline, and as many tasks as requests are to be in flight, each of which calls `request` in a
//! loop.

use std::net::SocketAddr;
use std::time::Duration;

use peerpool::base::PeerId;
use peerpool::node::{Message, Node};
use tokio::runtime::Runtime;

use crate::baseline::{in_tasks, request};
use crate::{ANSWERS, Contender, Goal, child};

/// One connection, asked either way.
#[derive(Clone)]
pub(crate) struct Asked {
    node: Node,
    peer: PeerId,
}

impl Asked {
    pub(crate) fn new(runtime: &Runtime, addr: SocketAddr) -> Self {
        runtime.block_on(async {
            let node = Node::builder().config(child::config()).start().await.expect("a node");
            let peer = *node.connect(addr).await.expect("the other end listens").key();
            Self { node, peer }
        })
    }
}

const WITHIN: Duration = Duration::from_secs(10);

/// One task that does it all: each answer is followed by the next request.
pub(crate) struct Pipelined(pub(crate) Asked);

impl Contender for Pipelined {
    fn name(&self) -> &'static str {
        "peerpool"
    }

    fn ask(&mut self, runtime: &Runtime, answer: usize, depth: usize, goal: Goal) -> u64 {
        let mut line = self.0.node.pipeline(&self.0.peer, WITHIN).expect("connected");
        let work = runtime.spawn(async move {
            let request = request(answer);
            let (mut asked, mut done) = (0, 0);
            while asked < depth as u64 {
                line.request(Message::new(1, request.clone())).expect("there is room");
                asked += 1;
            }
            let mut over = false;
            while let Some((_, response)) = line.next().await {
                assert_eq!(response.expect("an answer").len(), ANSWERS[answer]);
                // As often as the competitors looks at the clock, or more.
                if done % depth as u64 == 0 {
                    over |= goal.reached(asked);
                }
                done += 1;
                if !over {
                    line.request(Message::new(1, request.clone())).expect("there is room");
                    asked += 1;
                }
            }
            done
        });
        runtime.block_on(work).expect("the task")
    }
}

/// A task per request in flight.
pub(crate) struct Tasks(pub(crate) Asked);

impl Contender for Tasks {
    fn name(&self) -> &'static str {
        "peerpool, tasks"
    }

    fn ask(&mut self, runtime: &Runtime, answer: usize, depth: usize, goal: Goal) -> u64 {
        let Asked { node, peer } = self.0.clone();
        let request = request(answer);
        in_tasks(runtime, depth, goal, move || {
            let (node, message) = (node.clone(), Message::new(1, request.clone()));
            async move {
                let response = node.request(&peer, message, WITHIN).await.expect("an answer");
                assert_eq!(response.len(), ANSWERS[answer]);
            }
        })
    }
}
