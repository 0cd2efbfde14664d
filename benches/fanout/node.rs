//! peerpool itself: one node, `ready()` and `broadcast()` for each message, everything else as
//! shipped.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use peerpool::transport::{Tcp, TcpConfig};
use peerpool::{Lane, Message, Node};
use tokio::runtime::Runtime;

use crate::common::contest::{Contender, Contest, Goal, Produced};
use crate::common::native;
use crate::common::node::{quiet_listener, start};
use crate::common::receivers::Group;

pub(crate) struct Peerpool {
    runtime: Arc<Runtime>,
    node: Node,
    name: &'static str,
    group: Group,
}

impl Peerpool {
    /// With the `TCP_NOTSENT_LOWAT` that is shipped, or another one.
    pub(crate) fn new(contest: &mut Contest, lowat: Option<u32>) -> Self {
        let mut builder = Node::builder().config(quiet_listener());
        if let Some(lowat) = lowat {
            let notsent_lowat = NonZeroU32::new(lowat);
            builder = builder.transport(Tcp::new(TcpConfig { notsent_lowat, ..TcpConfig::default() }));
        }
        let name = if lowat.is_some() { "peerpool, lowat" } else { "peerpool" };
        let node = start(&contest.runtime, builder);
        let group = contest.receivers.join(&node, contest.peers, contest.mode);
        Self { runtime: Arc::clone(&contest.runtime), node, name, group }
    }
}

impl Contender for Peerpool {
    fn name(&self) -> &'static str {
        self.name
    }

    fn wire_len(&self, size: usize) -> usize {
        native::frame(size).len()
    }

    fn produce(&mut self, _: usize, size: usize, goal: Goal) -> Produced {
        let since = Instant::now();
        let node = self.node.clone();
        let producer = self.runtime.spawn(async move {
            let message = Message::new(native::KIND, native::payload(size));
            let mut countdown = goal.start(size);
            while countdown.next() {
                node.ready(Lane::Normal).await;
                node.broadcast(&message).expect("a legal message");
            }
            countdown.done()
        });
        let messages = self.runtime.block_on(producer).expect("the producer");
        Produced { since, bytes: messages * self.group.peers * self.wire_len(size) as u64 }
    }

    fn group(&mut self) -> &mut Group {
        &mut self.group
    }
}
