//! What one would write by hand: tokio's length-delimited codec, answers in order.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio_util::codec::LengthDelimitedCodec;

use crate::{ANSWERS, ASK, Contender, Goal};

pub(crate) type Framed = tokio_util::codec::Framed<TcpStream, LengthDelimitedCodec>;

/// As large as what the node reads at once.
const BUFFER: usize = 128 * 1024;

pub(crate) fn framed(stream: TcpStream) -> Framed {
    stream.set_nodelay(true).expect("a socket");
    let mut framed = Framed::with_capacity(stream, LengthDelimitedCodec::new(), BUFFER);
    framed.set_backpressure_boundary(BUFFER);
    framed
}

/// The next frame, if it has come already.
pub(crate) fn ready_now(framed: &mut Framed) -> Option<BytesMut> {
    framed.next().now_or_never().flatten().map(|frame| frame.expect("the other end lives"))
}

pub(crate) async fn flush(framed: &mut Framed) -> io::Result<()> {
    SinkExt::<Bytes>::flush(framed).await
}

/// A request for the answer of this number.
pub(crate) fn request(answer: usize) -> Bytes {
    let mut bytes = vec![0; ASK];
    bytes[0] = answer as u8;
    bytes.into()
}

impl Goal {
    pub(crate) fn reached(self, asked: u64) -> bool {
        match self {
            Self::Until(until) => Instant::now() >= until,
            Self::Requests(most) => asked >= most,
        }
    }
}

async fn connect(addr: SocketAddr) -> Framed {
    framed(TcpStream::connect(addr).await.expect("the other end listens"))
}

/// One task that does it all: each answer is followed by the next request.
pub(crate) struct PingPong {
    line: Option<Framed>,
}

impl PingPong {
    pub(crate) fn new(runtime: &Runtime, addr: SocketAddr) -> Self {
        Self { line: Some(runtime.block_on(connect(addr))) }
    }
}

impl Contender for PingPong {
    fn name(&self) -> &'static str {
        "ping-pong"
    }

    fn ask(&mut self, runtime: &Runtime, answer: usize, depth: usize, goal: Goal) -> u64 {
        let mut line = self.line.take().expect("given back after each turn");
        let work = runtime.spawn(async move {
            let request = request(answer);
            let (mut asked, mut done) = (0, 0);
            while asked < depth as u64 {
                line.feed(request.clone()).await.expect("the other end lives");
                asked += 1;
            }
            flush(&mut line).await.expect("the other end lives");
            while done < asked {
                let over = goal.reached(asked);
                let mut got = Some(line.next().await.expect("open").expect("an answer"));
                while let Some(frame) = got {
                    assert_eq!(frame.len(), ANSWERS[answer]);
                    done += 1;
                    if !over {
                        line.feed(request.clone()).await.expect("the other end lives");
                        asked += 1;
                    }
                    got = ready_now(&mut line);
                }
                flush(&mut line).await.expect("the other end lives");
            }
            (line, done)
        });
        let (line, done) = runtime.block_on(work).expect("the task");
        self.line = Some(line);
        done
    }
}

type Question = (Bytes, oneshot::Sender<BytesMut>);

/// A task per request in flight, each with a one-shot channel for its answer; one task has the line.
pub(crate) struct Tasks {
    questions: mpsc::Sender<Question>,
}

impl Tasks {
    pub(crate) fn new(runtime: &Runtime, addr: SocketAddr) -> Self {
        let (questions, asked) = mpsc::channel(1024);
        let line = runtime.block_on(connect(addr));
        runtime.spawn(serve(line, asked));
        Self { questions }
    }
}

async fn serve(mut line: Framed, mut questions: mpsc::Receiver<Question>) {
    let mut waiting: VecDeque<oneshot::Sender<BytesMut>> = VecDeque::new();
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            count = questions.recv_many(&mut batch, 1024) => {
                if count == 0 {
                    return;
                }
                for (question, answer) in batch.drain(..) {
                    line.feed(question).await.expect("the other end lives");
                    waiting.push_back(answer);
                }
                flush(&mut line).await.expect("the other end lives");
            }
            frame = line.next(), if !waiting.is_empty() => {
                let mut got = Some(frame.expect("open").expect("an answer"));
                while let Some(frame) = got {
                    let _ = waiting.pop_front().expect("a question for each answer").send(frame);
                    got = if waiting.is_empty() { None } else { ready_now(&mut line) };
                }
            }
        }
    }
}

impl Contender for Tasks {
    fn name(&self) -> &'static str {
        "ping-pong, tasks"
    }

    fn ask(&mut self, runtime: &Runtime, answer: usize, depth: usize, goal: Goal) -> u64 {
        let questions = self.questions.clone();
        in_tasks(runtime, depth, goal, move || {
            let questions = questions.clone();
            async move {
                let (sender, receiver) = oneshot::channel();
                questions.send((request(answer), sender)).await.expect("the line's task lives");
                assert_eq!(receiver.await.expect("an answer").len(), ANSWERS[answer]);
            }
        })
    }
}

/// Asks in so many tasks until the goal is reached; how many were answered.
pub(crate) fn in_tasks<F, A>(runtime: &Runtime, depth: usize, goal: Goal, ask: F) -> u64
where
    F: Fn() -> A + Clone + Send + 'static,
    A: Future<Output = ()> + Send,
{
    let asked = std::sync::Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..depth)
        .map(|_| {
            let (ask, asked) = (ask.clone(), std::sync::Arc::clone(&asked));
            runtime.spawn(async move {
                let mut done = 0;
                loop {
                    let before = match goal {
                        Goal::Requests(_) => asked.fetch_add(1, Ordering::Relaxed),
                        Goal::Until(_) => 0,
                    };
                    if goal.reached(before) {
                        return done;
                    }
                    ask().await;
                    done += 1;
                }
            })
        })
        .collect();
    tasks.into_iter().map(|task| runtime.block_on(task).expect("a task")).sum()
}
