//! The receiving process: raw receivers and, for votes, a whole node.
//!
//! One command more than receivers have: `node LOWAT SEND_BUFFER RECV_BUFFER` starts the node. It
//! answers with the port, the group that notes votes, and the group that counts the bytes of
//! blocks.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;

use peerpool::transport::{Tcp, TcpConfig};
use peerpool::{Context, Event, Handled, Handler, Node, NodeConfig};
use tokio::runtime::Runtime;

use crate::Sockets;
use crate::common::child_process::answer_lines;
use crate::common::native::{KIND, NATIVE};
use crate::common::node::{NEVER, quiet_listener, runtime, start};
use crate::common::receivers::child::{Counters, ReceiverProcess};

pub(crate) fn main(args: &[String]) {
    let mut receivers = ReceiverProcess::start(args, NATIVE);
    // Kept alive until the process ends.
    let mut nodes = Vec::new();
    answer_lines(|words| match *words {
        ["node", lowat, send, recv] => {
            let sockets = Sockets {
                lowat: lowat.parse().ok(),
                send_buffer: send.parse().ok(),
                recv_buffer: recv.parse().ok(),
            };
            let (runtime, node, answer) = remote_node(sockets, &mut receivers);
            nodes.push((runtime, node));
            answer
        }
        _ => receivers.answer(words),
    });
}

/// Starts a node whose handler feeds two groups.
fn remote_node(sockets: Sockets, receivers: &mut ReceiverProcess) -> (Runtime, Node, String) {
    let (votes, blocks) = (Counters::new(1), Counters::new(1));
    let (votes_id, blocks_id) = (receivers.add_group(&votes), receivers.add_group(&blocks));
    let runtime = runtime(2);
    let builder = Node::builder().config(patient_config()).transport(transport(sockets));
    let node = start(&runtime, builder.handler(RemoteHandler { votes, blocks }));
    let port = node.local_addrs()[0].port();
    (runtime, node, format!("{port} {votes_id} {blocks_id}"))
}

/// A quiet configuration that tolerates peers which read slowly.
pub(crate) fn patient_config() -> NodeConfig {
    let mut config = quiet_listener();
    config.runtime.write_stall_timeout = NEVER;
    config
}

/// TCP as shipped, but for these options.
pub(crate) fn transport(sockets: Sockets) -> Tcp {
    let mut config = TcpConfig::default();
    if let Some(lowat) = sockets.lowat {
        config.notsent_lowat = NonZeroU32::new(lowat);
    }
    if let Some(size) = sockets.send_buffer {
        config.send_buffer = NonZeroUsize::new(size);
    }
    if let Some(size) = sockets.recv_buffer {
        config.recv_buffer = NonZeroUsize::new(size);
    }
    Tcp::new(config)
}

/// The application of the remote node.
struct RemoteHandler {
    votes: Arc<Counters>,
    blocks: Arc<Counters>,
}

impl Handler for RemoteHandler {
    fn event(&self, _: Context<'_>, event: Event<'_>) -> Handled {
        let payload: &[u8] = &event.payload;
        if event.kind == KIND {
            self.votes.note_latency(&payload[payload.len() - 8..]);
        } else {
            self.blocks.count(0, payload.len());
        }
        Handled::Done
    }
}
