//! The second process: a node and a plain listener that answer requests.

use bytes::Bytes;
use peerpool::{Context, Handled, Handler, Node, NodeConfig, Request, Responder};
use tokio::net::{TcpListener, TcpStream};

use crate::ANSWER_BYTES;
use crate::baseline::{FramedStream, flush, framed, ready_now};
use crate::common::node::{quiet_config, runtime, start};

/// The argument that starts this process.
pub(crate) const FLAG: &str = "--responders";
/// 256 answers of 64 KiB at a time: twice what a lane queues by default.
const OUTBOX_BYTES: usize = 32 * 1024 * 1024;

/// The answers, made once.
fn answers() -> Vec<Bytes> {
    ANSWER_BYTES.iter().map(|size| vec![b'a'; *size].into()).collect()
}

struct RespondingHandler(Vec<Bytes>);

impl Handler for RespondingHandler {
    fn request(&self, _: Context<'_>, request: Request<'_>, responder: Responder) -> Handled {
        let _ = responder.respond(self.0[usize::from(request.payload[0])].clone());
        Handled::Done
    }
}

/// The configuration of both nodes.
pub(crate) fn config() -> NodeConfig {
    let mut config = quiet_config();
    config.connection.outbox_bytes = OUTBOX_BYTES;
    config
}

pub(crate) fn main() {
    let runtime = runtime(2);
    let mut config = config();
    config.listen.push(([127, 0, 0, 1], 0).into());
    let node = start(&runtime, Node::builder().config(config).handler(RespondingHandler(answers())));
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
    println!("{} {}", node.local_addrs()[0], listener.local_addr().expect("an address"));
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer_in_order(stream));
        }
    });
    // Until the bench is over.
    let _ = std::io::stdin().read_line(&mut String::new());
}

/// Answers in order, with one flush for all requests that came together.
async fn answer_in_order(stream: TcpStream) {
    use futures_util::{SinkExt, StreamExt};
    let answers = answers();
    let mut framed: FramedStream = framed(stream);
    while let Some(Ok(first)) = framed.next().await {
        let mut request = Some(first);
        while let Some(bytes) = request {
            let answer = answers[usize::from(bytes[0])].clone();
            if framed.feed(answer).await.is_err() {
                return;
            }
            request = ready_now(&mut framed);
        }
        if flush(&mut framed).await.is_err() {
            return;
        }
    }
}
