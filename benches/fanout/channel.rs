//! A bounded channel and a writer task per peer; the message is encoded once and shared.
//!
//! *Batched* takes all that waits in the channel, copies small messages together and writes up to
//! 128 KiB by one call. It writes large messages from where they are, up to 64 by one vectored
//! call. *Plain* is what most nodes do: one message, one write.

use std::io::{self, IoSlice};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::common::contest::{Contender, Contest, Goal, Produced, window};
use crate::common::native;
use crate::common::receivers::Group;

/// Messages below this size are copied together.
const COPIED_BELOW_BYTES: usize = 4 * 1024;
/// The most that is copied together.
const MAX_BATCH_BYTES: usize = 128 * 1024;
/// Large messages in one call.
const MAX_SLICES: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Batched,
    Plain,
}

impl Style {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Batched => "channel, batched",
            Self::Plain => "channel, plain",
        }
    }
}

pub(crate) struct Channels {
    runtime: Arc<Runtime>,
    style: Style,
    senders: Arc<Vec<Sender<Bytes>>>,
    group: Group,
}

impl Channels {
    pub(crate) fn new(contest: &mut Contest, style: Style) -> Self {
        let (sockets, group) = contest.receivers.sockets(contest.peers, contest.mode);
        let runtime = &contest.runtime;
        let _inside = runtime.enter();
        let senders = sockets.into_iter().map(|socket| {
            // Plain writes one at a time, however many wait.
            let depth = if style == Style::Plain { 64 } else { 1024 };
            let (sender, receiver) = channel(depth);
            runtime.spawn(async move {
                let _ = match style {
                    Style::Plain => plain(socket, receiver).await,
                    Style::Batched => batched(socket, receiver).await,
                };
            });
            sender
        });
        let senders = Arc::new(senders.collect());
        Self { runtime: Arc::clone(runtime), style, senders, group }
    }
}

async fn plain(socket: TcpStream, mut messages: Receiver<Bytes>) -> io::Result<()> {
    let mut stream = tokio::net::TcpStream::from_std(socket)?;
    while let Some(message) = messages.recv().await {
        stream.write_all(&message).await?;
    }
    Ok(())
}

async fn batched(socket: TcpStream, mut messages: Receiver<Bytes>) -> io::Result<()> {
    let mut stream = tokio::net::TcpStream::from_std(socket)?;
    let (mut batch, mut buffer) = (Vec::new(), Vec::with_capacity(MAX_BATCH_BYTES));
    while messages.recv_many(&mut batch, 1024).await > 0 {
        let mut rest = &batch[..];
        while let Some(first) = rest.first() {
            if first.len() < COPIED_BELOW_BYTES {
                buffer.clear();
                while let Some(message) = rest.first()
                    && message.len() < COPIED_BELOW_BYTES
                    && buffer.len() + message.len() <= MAX_BATCH_BYTES
                {
                    buffer.extend_from_slice(message);
                    rest = &rest[1..];
                }
                stream.write_all(&buffer).await?;
            } else {
                let many = rest.len().min(MAX_SLICES);
                write_all_vectored(&mut stream, &rest[..many]).await?;
                rest = &rest[many..];
            }
        }
        batch.clear();
    }
    Ok(())
}

async fn write_all_vectored(stream: &mut tokio::net::TcpStream, messages: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = messages.iter().map(|message| IoSlice::new(message)).collect();
    let mut slices = &mut slices[..];
    while !slices.is_empty() {
        let count = stream.write_vectored(slices).await?;
        IoSlice::advance_slices(&mut slices, count);
    }
    Ok(())
}

impl Contender for Channels {
    fn name(&self) -> &'static str {
        self.style.name()
    }

    fn wire_len(&self, size: usize) -> usize {
        native::frame(size).len()
    }

    fn produce(&mut self, _: usize, size: usize, goal: Goal) -> Produced {
        let since = Instant::now();
        let senders = Arc::clone(&self.senders);
        let frame = native::frame(size);
        let producer = self.runtime.spawn(async move {
            let mut countdown = goal.start(size);
            let window = window(size);
            while countdown.next() {
                for sender in &*senders {
                    let capacity = sender.max_capacity();
                    if capacity - sender.capacity() >= window {
                        // A channel is bounded in messages; large ones may not fill it.
                        drop(sender.reserve_many(capacity - window + 1).await);
                    }
                    match sender.try_send(frame.clone()) {
                        Ok(()) => {}
                        Err(TrySendError::Full(frame)) => sender.send(frame).await.expect("the writer lives"),
                        Err(TrySendError::Closed(_)) => panic!("the writer died"),
                    }
                }
            }
            countdown.done()
        });
        let messages = self.runtime.block_on(producer).expect("the producer");
        Produced { since, bytes: messages * self.senders.len() as u64 * self.wire_len(size) as u64 }
    }

    fn group(&mut self) -> &mut Group {
        &mut self.group
    }
}
