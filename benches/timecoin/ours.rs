//! peerpool: a node whose only dialect is the old network's, a typed message encoded and broadcast each time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use peerpool::base::Lane;
use peerpool::node::{Message, Node, NodeConfig, ProtocolConfig};
use peerpool::pool::PoolConfig;
use peerpool::timecoin::wire::{NetworkMessage, Software, TimeCoin, TransactionMessage};
use tokio::runtime::Runtime;

use crate::contender::{Contender, Goal, Produced};
use crate::messages::{self, Sort};
use crate::receivers::{Greets, Group, Receivers};

pub(crate) struct Peerpool {
    runtime: Arc<Runtime>,
    node: Node,
    peers: u64,
    /// Messages sent so far: their numbers go on from slice to slice.
    sent: u64,
    group: Group,
}

impl Peerpool {
    pub(crate) fn new(runtime: &Arc<Runtime>, receivers: &mut Receivers, peers: usize) -> Self {
        let mut config = NodeConfig::local();
        config.runtime.limits = PoolConfig::test().limits;
        config.runtime.target_peers = 0;
        // The receivers answer nothing: they must not be asked, nor judged by their silence. The others ask nothing.
        let hour = Duration::from_secs(3600);
        (config.runtime.ping_interval, config.runtime.discovery_interval) = (hour, hour);
        config.runtime.liveness.stale_after = 3 * hour;
        let dialect = TimeCoin::testnet(Software::default());
        config.network = dialect.network().id();
        let dialect = ProtocolConfig::new(dialect).listen(([127, 0, 0, 1], 0).into());
        let node =
            runtime.block_on(Node::builder().config(config).first_protocol(dialect).start()).expect("a node");
        let group = receivers.dial(node.local_addrs()[0], peers, Greets::Native);
        let since = Instant::now();
        while node.roster().iter().count() < peers {
            assert!(since.elapsed() < Duration::from_secs(10), "not all peers are live");
            std::thread::sleep(Duration::from_millis(1));
        }
        Self { runtime: Arc::clone(runtime), node, peers: peers as u64, sent: 0, group }
    }
}

/// What the application has in hand when it broadcasts.
fn typed(sort: Sort, number: u64) -> NetworkMessage {
    match sort.message(number) {
        messages::Message::UpdateTip { height, hash } => NetworkMessage::UpdateTip { height, hash },
        messages::Message::Transaction(it) => NetworkMessage::Transaction(TransactionMessage {
            txid: it.txid,
            from: it.from,
            to: it.to,
            amount: it.amount,
            fee: it.fee,
            timestamp: it.timestamp,
            signature: it.signature,
            nonce: it.nonce,
        }),
        messages::Message::BlockProposal(bytes) => NetworkMessage::BlockProposal(bytes),
    }
}

impl Contender for Peerpool {
    fn name(&self) -> &'static str {
        "peerpool"
    }

    fn produce(&mut self, _: usize, size: usize, goal: Goal) -> Produced {
        let since = Instant::now();
        let (node, first) = (self.node.clone(), self.sent);
        let producer = self.runtime.spawn(async move {
            let sort = Sort::of(size);
            let mut message = typed(sort, 0);
            let kind = message.kind().code();
            let mut countdown = goal.start(size);
            while countdown.next() {
                if let NetworkMessage::UpdateTip { height, .. } = &mut message {
                    *height = messages::height(first + countdown.done() - 1);
                }
                let json = message.to_bytes().expect("a message");
                node.ready(Lane::Normal).await;
                node.broadcast(&Message::new(kind, json)).expect("a legal message");
            }
            countdown.done()
        });
        let messages = self.runtime.block_on(producer).expect("the producer");
        self.sent += messages;
        Produced { since, bytes: messages * self.peers * self.wire_len(size) as u64 }
    }

    fn group(&mut self) -> &mut Group {
        &mut self.group
    }
}
