//! The second process: it answers.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use peerpool::node::{Context, Handled, Handler, Node, NodeConfig, Request, Responder};
use tokio::net::{TcpListener, TcpStream};

use crate::ANSWERS;
use crate::baseline::{Framed, flush, framed, ready_now};

/// The argument that makes the bench this process.
pub(crate) const FLAG: &str = "--answering";

/// The second process as the bench sees it; it ends with its standard input.
pub(crate) struct Second {
    pub(crate) node: SocketAddr,
    pub(crate) baseline: SocketAddr,
    child: Child,
    tell: Option<ChildStdin>,
}

impl Second {
    pub(crate) fn start() -> Self {
        let exe = std::env::current_exe().expect("this very program");
        let mut child = Command::new(exe)
            .arg(FLAG)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a second process");
        let tell = child.stdin.take();
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("its addresses");
        let addrs: Vec<SocketAddr> =
            line.split_whitespace().map(|word| word.parse().expect("an address")).collect();
        Self { node: addrs[0], baseline: addrs[1], child, tell }
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        self.tell = None;
        let _ = self.child.wait();
    }
}

/// The answers, made once.
fn answers() -> Vec<Bytes> {
    ANSWERS.iter().map(|size| vec![b'a'; *size].into()).collect()
}

struct Answering(Vec<Bytes>);

impl Handler for Answering {
    fn request(&self, _: Context<'_>, request: Request<'_>, responder: Responder) -> Handled {
        let _ = responder.respond(self.0[usize::from(request.payload[0])].clone());
        Handled::Done
    }
}

/// What both ends of the node's connection are: nobody to dial, nothing to say by itself.
pub(crate) fn config() -> NodeConfig {
    let mut config = NodeConfig::local();
    config.runtime.target_peers = 0;
    config.runtime.ping_interval = Duration::from_secs(3600);
    config.runtime.liveness.stale_after = Duration::from_secs(3 * 3600);
    // 256 answers of 64 KiB at a time: twice what a lane queues by default.
    config.connection.outbox_bytes = 32 * 1024 * 1024;
    config
}

pub(crate) fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let mut config = config();
    config.listen.push(([127, 0, 0, 1], 0).into());
    let node = Node::builder().config(config).handler(Answering(answers())).start();
    let node = runtime.block_on(node).expect("a node");
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
    println!("{} {}", node.local_addrs()[0], listener.local_addr().expect("an address"));
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(baseline(stream));
        }
    });
    // Until the bench is over.
    let _ = std::io::stdin().read_line(&mut String::new());
}

/// Answers in order, with one flush for all that came together.
async fn baseline(stream: TcpStream) {
    use futures_util::{SinkExt, StreamExt};
    let answers = answers();
    let mut framed: Framed = framed(stream);
    while let Some(Ok(first)) = framed.next().await {
        let mut asked = Some(first);
        while let Some(request) = asked {
            let answer = answers[usize::from(request[0])].clone();
            if framed.feed(answer).await.is_err() {
                return;
            }
            asked = ready_now(&mut framed);
        }
        if flush(&mut framed).await.is_err() {
            return;
        }
    }
}
