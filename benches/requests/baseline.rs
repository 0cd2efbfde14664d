//! The hand-written alternative: tokio's length-delimited codec, answers in order.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use crate::{ANSWER_BYTES, Contender, Goal, REQUEST_BYTES};

pub(crate) type FramedStream = Framed<TcpStream, LengthDelimitedCodec>;

/// As large as what the node reads at once.
const BUFFER_BYTES: usize = 128 * 1024;
/// Requests that wait for the task which owns the connection, and that it takes at once.
const MAX_QUEUED: usize = 1024;

pub(crate) fn framed(stream: TcpStream) -> FramedStream {
    stream.set_nodelay(true).expect("a socket option");
    let mut framed = Framed::with_capacity(stream, LengthDelimitedCodec::new(), BUFFER_BYTES);
    framed.set_backpressure_boundary(BUFFER_BYTES);
    framed
}

/// The next frame, if it has come already.
pub(crate) fn ready_now(framed: &mut FramedStream) -> Option<BytesMut> {
    framed.next().now_or_never().flatten().map(|frame| frame.expect("the other end lives"))
}

pub(crate) async fn flush(framed: &mut FramedStream) -> io::Result<()> {
    SinkExt::<Bytes>::flush(framed).await
}

/// A request for the answer of this index.
pub(crate) fn request(answer: usize) -> Bytes {
    let mut bytes = vec![0; REQUEST_BYTES];
    bytes[0] = answer as u8;
    bytes.into()
}

async fn connect(addr: SocketAddr) -> FramedStream {
    framed(TcpStream::connect(addr).await.expect("the other end listens"))
}

/// One task that does it all: the next request follows each answer.
pub(crate) struct PingPong {
    stream: Option<FramedStream>,
}

impl PingPong {
    pub(crate) fn new(runtime: &Runtime, addr: SocketAddr) -> Self {
        Self { stream: Some(runtime.block_on(connect(addr))) }
    }
}

impl Contender for PingPong {
    fn name(&self) -> &'static str {
        "ping-pong"
    }

    fn run(&mut self, runtime: &Runtime, answer: usize, depth: usize, goal: Goal) -> u64 {
        let mut stream = self.stream.take().expect("given back after each turn");
        let work = runtime.spawn(async move {
            let request = request(answer);
            let (mut sent, mut done) = (0, 0);
            while sent < depth as u64 {
                stream.feed(request.clone()).await.expect("the other end lives");
                sent += 1;
            }
            flush(&mut stream).await.expect("the other end lives");
            while done < sent {
                let over = goal.is_reached(sent);
                let mut got = Some(stream.next().await.expect("open").expect("an answer"));
                while let Some(frame) = got {
                    assert_eq!(frame.len(), ANSWER_BYTES[answer]);
                    done += 1;
                    if !over {
                        stream.feed(request.clone()).await.expect("the other end lives");
                        sent += 1;
                    }
                    got = ready_now(&mut stream);
                }
                flush(&mut stream).await.expect("the other end lives");
            }
            (stream, done)
        });
        let (stream, done) = runtime.block_on(work).expect("the task");
        self.stream = Some(stream);
        done
    }
}

type PendingRequest = (Bytes, oneshot::Sender<BytesMut>);

/// A task per request in flight, each with a one-shot channel for its answer. One task owns the
/// connection.
pub(crate) struct Tasks {
    requests: mpsc::Sender<PendingRequest>,
}

impl Tasks {
    pub(crate) fn new(runtime: &Runtime, addr: SocketAddr) -> Self {
        let (requests, queue) = mpsc::channel(MAX_QUEUED);
        let stream = runtime.block_on(connect(addr));
        runtime.spawn(own_connection(stream, queue));
        Self { requests }
    }
}

async fn own_connection(mut stream: FramedStream, mut queue: mpsc::Receiver<PendingRequest>) {
    let mut waiting: VecDeque<oneshot::Sender<BytesMut>> = VecDeque::new();
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            count = queue.recv_many(&mut batch, MAX_QUEUED) => {
                if count == 0 {
                    return;
                }
                for (request, answer) in batch.drain(..) {
                    stream.feed(request).await.expect("the other end lives");
                    waiting.push_back(answer);
                }
                flush(&mut stream).await.expect("the other end lives");
            }
            frame = stream.next(), if !waiting.is_empty() => {
                let mut got = Some(frame.expect("open").expect("an answer"));
                while let Some(frame) = got {
                    let _ = waiting.pop_front().expect("a request for each answer").send(frame);
                    got = if waiting.is_empty() { None } else { ready_now(&mut stream) };
                }
            }
        }
    }
}

impl Contender for Tasks {
    fn name(&self) -> &'static str {
        "ping-pong, tasks"
    }

    fn run(&mut self, runtime: &Runtime, answer: usize, depth: usize, goal: Goal) -> u64 {
        let requests = self.requests.clone();
        in_tasks(runtime, depth, goal, move || {
            let requests = requests.clone();
            async move {
                let (sender, receiver) = oneshot::channel();
                requests.send((request(answer), sender)).await.expect("the connection's task lives");
                assert_eq!(receiver.await.expect("an answer").len(), ANSWER_BYTES[answer]);
            }
        })
    }
}

/// Sends requests in `depth` tasks until the goal is reached; how many were answered.
pub(crate) fn in_tasks<F, A>(runtime: &Runtime, depth: usize, goal: Goal, round_trip: F) -> u64
where
    F: Fn() -> A + Clone + Send + 'static,
    A: Future<Output = ()> + Send,
{
    let sent = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..depth)
        .map(|_| {
            let (round_trip, sent) = (round_trip.clone(), Arc::clone(&sent));
            runtime.spawn(async move {
                let mut done = 0;
                loop {
                    let before = match goal {
                        Goal::Requests(_) => sent.fetch_add(1, Ordering::Relaxed),
                        Goal::Until(_) => 0,
                    };
                    if goal.is_reached(before) {
                        return done;
                    }
                    round_trip().await;
                    done += 1;
                }
            })
        })
        .collect();
    tasks.into_iter().map(|task| runtime.block_on(task).expect("a task")).sum()
}
