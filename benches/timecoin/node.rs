//! peerpool: a node that only speaks the legacy network's protocol. Each broadcast encodes a typed
//! message.

use std::sync::Arc;
use std::time::Instant;

use peerpool::timecoin::wire::{NetworkMessage, Software, TimeCoin, TransactionMessage};
use peerpool::{Lane, Message, Node, ProtocolConfig};
use tokio::runtime::Runtime;

use crate::common::contest::{Contender, Contest, Goal, Produced};
use crate::common::node::{quiet_config, start};
use crate::common::receivers::Group;
use crate::messages::{self, Kind};

pub(crate) struct Peerpool {
    runtime: Arc<Runtime>,
    node: Node,
    /// Messages sent so far; the next slice continues their numbers.
    sent: u64,
    group: Group,
}

impl Peerpool {
    pub(crate) fn new(contest: &mut Contest) -> Self {
        let mut config = quiet_config();
        let protocol = TimeCoin::testnet(Software::default());
        config.network = protocol.network().id();
        let protocol = ProtocolConfig::new(protocol).listen(([127, 0, 0, 1], 0).into());
        let node = start(&contest.runtime, Node::builder().config(config).first_protocol(protocol));
        let group = contest.receivers.join(&node, contest.peers, contest.mode);
        Self { runtime: Arc::clone(&contest.runtime), node, sent: 0, group }
    }
}

/// The typed message that the application broadcasts.
fn typed(kind: Kind, number: u64) -> NetworkMessage {
    match kind.message(number) {
        messages::Message::UpdateTip { height, hash } => NetworkMessage::UpdateTip { height, hash },
        messages::Message::Transaction(payment) => NetworkMessage::Transaction(TransactionMessage {
            txid: payment.txid,
            from: payment.from,
            to: payment.to,
            amount: payment.amount,
            fee: payment.fee,
            timestamp: payment.timestamp,
            signature: payment.signature,
            nonce: payment.nonce,
        }),
        messages::Message::BlockProposal(bytes) => NetworkMessage::BlockProposal(bytes),
    }
}

impl Contender for Peerpool {
    fn name(&self) -> &'static str {
        "peerpool"
    }

    fn wire_len(&self, size: usize) -> usize {
        size
    }

    fn produce(&mut self, _: usize, size: usize, goal: Goal) -> Produced {
        let since = Instant::now();
        let (node, first) = (self.node.clone(), self.sent);
        let producer = self.runtime.spawn(async move {
            let mut message = typed(Kind::of(size), 0);
            let code = message.kind().code();
            let mut countdown = goal.start(size);
            while countdown.next() {
                if let NetworkMessage::UpdateTip { height, .. } = &mut message {
                    *height = messages::height(first + countdown.done() - 1);
                }
                let json = message.to_bytes().expect("a message");
                node.ready(Lane::Normal).await;
                node.broadcast(&Message::new(code, json)).expect("a legal message");
            }
            countdown.done()
        });
        let messages = self.runtime.block_on(producer).expect("the producer");
        self.sent += messages;
        Produced { since, bytes: messages * self.group.peers * self.wire_len(size) as u64 }
    }

    fn group(&mut self) -> &mut Group {
        &mut self.group
    }
}
