//! peerpool itself: one node, `ready()` and `broadcast()` for each message, everything else as shipped.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use peerpool::base::Lane;
use peerpool::node::{Message, Node, NodeConfig};
use peerpool::pool::PoolConfig;
use peerpool::transport::{Tcp, TcpConfig};
use tokio::runtime::Runtime;

use crate::contender::{Contender, Goal, Produced};
use crate::native;
use crate::receivers::{Greets, Group, Receivers};

pub(crate) struct Peerpool {
    runtime: Arc<Runtime>,
    node: Node,
    peers: u64,
    name: &'static str,
    group: Group,
}

impl Peerpool {
    pub(crate) fn new(
        runtime: &Arc<Runtime>,
        receivers: &mut Receivers,
        peers: usize,
        lowat: Option<usize>,
    ) -> Self {
        let mut config = NodeConfig::local();
        config.listen.push(([127, 0, 0, 1], 0).into());
        config.runtime.limits = PoolConfig::test().limits;
        config.runtime.target_peers = 0;
        // The receivers answer nothing: they must not be asked, nor judged by their silence. The others ask nothing.
        let hour = Duration::from_secs(3600);
        (config.runtime.ping_interval, config.runtime.discovery_interval) = (hour, hour);
        config.runtime.liveness.stale_after = 3 * hour;
        let mut builder = Node::builder().config(config);
        if let Some(lowat) = lowat {
            let notsent_lowat = NonZeroU32::new(lowat as u32);
            builder = builder.transport(Tcp::new(TcpConfig { notsent_lowat, ..TcpConfig::default() }));
        }
        let name = if lowat.is_some() { "peerpool, lowat" } else { "peerpool" };
        let node = runtime.block_on(builder.start()).expect("a node");
        let group = receivers.dial(node.local_addrs()[0], peers, Greets::Native);
        let since = Instant::now();
        while node.roster().iter().count() < peers {
            assert!(since.elapsed() < Duration::from_secs(10), "not all peers are live");
            std::thread::sleep(Duration::from_millis(1));
        }
        Self { runtime: Arc::clone(runtime), node, peers: peers as u64, name, group }
    }
}

impl Contender for Peerpool {
    fn name(&self) -> &'static str {
        self.name
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
        Produced { since, bytes: messages * self.peers * self.wire_len(size) as u64 }
    }

    fn group(&mut self) -> &mut Group {
        &mut self.group
    }
}
