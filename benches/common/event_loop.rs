//! Threads that read many sockets, each with an epoll of its own.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};
use rustix::net::RecvFlags;

/// Bytes that one call reads at most.
const BUFFER_BYTES: usize = 256 * 1024;
const WAKE: Token = Token(usize::MAX);

/// A connection that an event loop reads.
pub(crate) trait Readable: Send + 'static {
    fn stream(&mut self) -> &mut TcpStream;

    /// Reads while there is something, as much as one turn allows.
    fn read(&mut self, buffer: &mut [u8]) -> ReadTurn;
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadTurn {
    /// Nothing more is there.
    Empty,
    /// There may be more; other sockets come first.
    More,
    /// The connection is closed, and is dropped.
    Closed,
}

impl ReadTurn {
    /// What follows from the result of one read; `Err` carries the end of a turn.
    pub(crate) fn after(read: io::Result<usize>) -> Result<usize, Self> {
        match read {
            Ok(0) => Err(Self::Closed),
            Ok(count) => Ok(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Self::Empty),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(Self::More),
            Err(_) => Err(Self::Closed),
        }
    }
}

/// Has the kernel count and discard what has arrived, up to a buffer of it (`MSG_TRUNC`, see
/// tcp(7)).
///
/// Receivers share the cores with the senders; this is the least that a receiver can cost.
pub(crate) fn discard(stream: impl std::os::fd::AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    let (_, count) = rustix::net::recv(stream, buffer, RecvFlags::TRUNC | RecvFlags::DONTWAIT)?;
    Ok(count)
}

struct Thread<C> {
    connections: Sender<C>,
    waker: Waker,
}

/// Threads that share connections evenly. They run until the process ends.
pub(crate) struct EventLoops<C> {
    threads: Vec<Thread<C>>,
    added: usize,
}

impl<C: Readable> EventLoops<C> {
    pub(crate) fn start(threads: usize) -> Self {
        Self { threads: (0..threads).map(|_| start()).collect(), added: 0 }
    }

    /// Hands a connection to the next thread.
    pub(crate) fn add(&mut self, connection: C) {
        let thread = &self.threads[self.added % self.threads.len()];
        thread.connections.send(connection).expect("the thread lives");
        thread.waker.wake().expect("the thread lives");
        self.added += 1;
    }
}

fn start<C: Readable>() -> Thread<C> {
    let poll = Poll::new().expect("an epoll");
    let waker = Waker::new(poll.registry(), WAKE).expect("a waker");
    let (connections, added) = channel();
    thread::spawn(move || run(poll, &added));
    Thread { connections, waker }
}

fn run<C: Readable>(mut poll: Poll, added: &Receiver<C>) {
    let mut connections: Vec<Option<C>> = Vec::new();
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; BUFFER_BYTES];
    // Connections that had their turn and may have more.
    let (mut ready, mut again): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
    loop {
        let timeout = if again.is_empty() { None } else { Some(Duration::ZERO) };
        match poll.poll(&mut events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other.expect("an epoll"),
        }
        std::mem::swap(&mut ready, &mut again);
        for event in &events {
            if event.token() != WAKE {
                ready.push(event.token().0);
                continue;
            }
            while let Ok(mut connection) = added.try_recv() {
                let token = Token(connections.len());
                poll.registry().register(connection.stream(), token, Interest::READABLE).expect("a socket");
                connections.push(Some(connection));
            }
        }
        for at in ready.drain(..) {
            match connections[at].as_mut().map(|connection| connection.read(&mut buffer)) {
                Some(ReadTurn::More) => again.push(at),
                Some(ReadTurn::Closed) => connections[at] = None,
                Some(ReadTurn::Empty) | None => {}
            }
        }
    }
}
