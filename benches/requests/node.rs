//! peerpool itself: one task with a pipeline, and as many tasks as requests in flight, each of
//! which calls `request` in a loop.

use std::net::SocketAddr;
use std::time::Duration;

use peerpool::{Message, Node, PeerId};
use tokio::runtime::Runtime;

use crate::baseline::{in_tasks, request};
use crate::common::native::KIND;
use crate::{ANSWER_BYTES, Contender, Goal, child};

const TIMEOUT: Duration = Duration::from_secs(10);

/// One connection, used either way.
#[derive(Clone)]
pub(crate) struct Client {
    node: Node,
    peer: PeerId,
}

impl Client {
    pub(crate) fn new(runtime: &Runtime, addr: SocketAddr) -> Self {
        runtime.block_on(async {
            let node = Node::builder().config(child::config()).start().await.expect("a node");
            let peer = *node.connect(addr).await.expect("the other end listens").key();
            Self { node, peer }
        })
    }
}

/// One task that does it all: the next request follows each answer.
pub(crate) struct Pipeline(pub(crate) Client);

impl Contender for Pipeline {
    fn name(&self) -> &'static str {
        "peerpool"
    }

    fn run(&mut self, runtime: &Runtime, answer: usize, depth: usize, goal: Goal) -> u64 {
        let mut pipeline = self.0.node.pipeline(&self.0.peer, TIMEOUT).expect("connected");
        let work = runtime.spawn(async move {
            let request = request(answer);
            let (mut sent, mut done) = (0, 0);
            while sent < depth as u64 {
                pipeline.request(Message::new(KIND, request.clone())).expect("there is room");
                sent += 1;
            }
            let mut over = false;
            while let Some((_, response)) = pipeline.next().await {
                assert_eq!(response.expect("an answer").len(), ANSWER_BYTES[answer]);
                // At least as often as the ping-pong reads the clock.
                if done % depth as u64 == 0 {
                    over |= goal.is_reached(sent);
                }
                done += 1;
                if !over {
                    pipeline.request(Message::new(KIND, request.clone())).expect("there is room");
                    sent += 1;
                }
            }
            done
        });
        runtime.block_on(work).expect("the task")
    }
}

/// A task per request in flight.
pub(crate) struct Tasks(pub(crate) Client);

impl Contender for Tasks {
    fn name(&self) -> &'static str {
        "peerpool, tasks"
    }

    fn run(&mut self, runtime: &Runtime, answer: usize, depth: usize, goal: Goal) -> u64 {
        let Client { node, peer } = self.0.clone();
        let request = request(answer);
        in_tasks(runtime, depth, goal, move || {
            let (node, message) = (node.clone(), Message::new(KIND, request.clone()));
            async move {
                let response = node.request(&peer, message, TIMEOUT).await.expect("an answer");
                assert_eq!(response.len(), ANSWER_BYTES[answer]);
            }
        })
    }
}
