//! The second process: raw receivers, and for votes a whole node. Told what to do by lines on standard input, one line of
//! numbers each for an answer.
//!
//! How a receiver takes bytes: `stamps:LEN` reads messages of `LEN` bytes that end with the time of their sending;
//! `frames` takes the native dialect's frames apart, notes urgent ones like those and counts bulk; `count` has the kernel count and discard (`MSG_TRUNC`, see tcp(7)); `slow:RATE` does so at `RATE` bytes a second, in
//! steps of 5 ms; `never` does not read at all.

use std::io::{self, BufRead, Read, Write};
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};
use peerpool::node::{Context, Event, Handled, Handler, Node};
use peerpool::transport::{Tcp, TcpConfig};
use rustix::net::RecvFlags;

use crate::numbers::{clock, pin};
use crate::{Sockets, native, parent};

/// The argument that makes the bench this process.
pub(crate) const FLAG: &str = "--far";

const THREADS: usize = 2;
const BUFFER: usize = 256 * 1024;
const WAKE: Token = Token(usize::MAX);
/// The urgent lane in a frame's head.
const URGENT: u32 = 1;
/// The control lane, and two of its messages.
const CONTROL: u32 = 0;
const PING: u8 = 1;
const PONG: u8 = 2;
/// Between two reads of a slow reader.
const STEP: Duration = Duration::from_millis(5);

/// What belongs together.
#[derive(Debug, Default)]
struct Group {
    bytes: AtomicU64,
    samples: Mutex<Vec<u64>>,
}

impl Group {
    fn add(&self, stamp: &[u8]) {
        let sent = stamp.try_into().map_or(0, u64::from_le_bytes);
        let took = clock().saturating_sub(sent);
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).push(took);
    }
}

#[derive(Clone, Copy, Debug)]
enum Taking {
    Stamps(usize),
    Frames,
    Count,
}

struct Conn {
    stream: TcpStream,
    group: Arc<Group>,
    taking: Taking,
    /// What was read of a message that is not whole.
    rest: Vec<u8>,
    /// Bytes to come of a frame that nobody looks into.
    skip: usize,
}

struct Worker {
    conns: Sender<Conn>,
    waker: Waker,
}

#[derive(Default)]
struct Process {
    workers: Vec<Worker>,
    groups: Vec<Arc<Group>>,
    /// Connections that nobody reads, kept open.
    unread: Vec<std::net::TcpStream>,
    node: Option<(tokio::runtime::Runtime, Node)>,
}

pub(crate) fn main(cpu: Option<usize>) {
    if cpu.is_some() {
        pin(cpu);
    }
    let mut process = Process::default();
    process.workers.extend((0..THREADS).map(|_| work()));
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else { return };
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match words[..] {
            ["dial", addr, count, greet, how] => process.dial(addr, count, greet == "native", how),
            ["node", lowat, send, recv] => process.node(&[lowat, send, recv]),
            ["received", group] => process.group(group).bytes.load(Ordering::Acquire).to_string(),
            ["noted", group] => {
                process.group(group).samples.lock().unwrap_or_else(PoisonError::into_inner).len().to_string()
            }
            ["samples", group] => {
                let group = process.group(group);
                let samples =
                    std::mem::take(&mut *group.samples.lock().unwrap_or_else(PoisonError::into_inner));
                samples.iter().map(u64::to_string).collect::<Vec<_>>().join(" ")
            }
            _ => panic!("the bench said {line:?}"),
        };
        let mut out = io::stdout().lock();
        writeln!(out, "{answer}").and_then(|()| out.flush()).expect("the bench listens");
    }
}

fn number(text: &str) -> usize {
    text.parse().expect("a number")
}

impl Process {
    fn group(&self, text: &str) -> &Arc<Group> {
        &self.groups[number(text)]
    }

    fn dial(&mut self, addr: &str, count: &str, greet: bool, how: &str) -> String {
        let addr: SocketAddr = addr.parse().expect("an address");
        let group = Arc::new(Group::default());
        let streams: Vec<_> = (0..number(count)).map(|_| connect(addr, greet)).collect();
        match how.split_once(':') {
            None if how == "never" => self.unread.extend(streams),
            None if how == "frames" => self.read(streams, &group, Taking::Frames),
            None if how == "count" => self.read(streams, &group, Taking::Count),
            Some(("stamps", len)) => self.read(streams, &group, Taking::Stamps(number(len))),
            Some(("slow", rate)) => {
                let (rate, group) = (number(rate), Arc::clone(&group));
                thread::spawn(move || crawl(&streams, rate, &group));
            }
            _ => panic!("the bench said {how:?}"),
        }
        self.groups.push(group);
        (self.groups.len() - 1).to_string()
    }

    fn read(&self, streams: Vec<std::net::TcpStream>, group: &Arc<Group>, taking: Taking) {
        for (at, stream) in streams.into_iter().enumerate() {
            stream.set_nonblocking(true).expect("a socket");
            let worker = &self.workers[at % self.workers.len()];
            let group = Arc::clone(group);
            let conn = Conn { stream: TcpStream::from_std(stream), group, taking, rest: Vec::new(), skip: 0 };
            worker.conns.send(conn).expect("the thread lives");
            worker.waker.wake().expect("the thread lives");
        }
    }

    /// Starts a node that notes votes in a first group and counts blocks in a second; its port and those two.
    fn node(&mut self, words: &[&str]) -> String {
        let word = |at: usize| words[at].parse::<usize>().ok();
        let sockets =
            Sockets { lowat: word(0).map(|size| size as u32), send_buffer: word(1), recv_buffer: word(2) };
        let groups = [Arc::new(Group::default()), Arc::new(Group::default())];
        let at = self.groups.len();
        self.groups.extend(groups.iter().cloned());
        let runtime = parent::runtime(2);
        let listener = Listener { votes: Arc::clone(&groups[0]), blocks: Arc::clone(&groups[1]) };
        let builder = Node::builder().config(parent::quiet()).transport(transport(sockets)).handler(listener);
        let node = parent::start(&runtime, builder);
        let port = node.local_addrs()[0].port();
        self.node = Some((runtime, node));
        format!("{port} {at} {}", at + 1)
    }
}

/// TCP as shipped but for what is said here.
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

/// The application of the far node.
struct Listener {
    votes: Arc<Group>,
    blocks: Arc<Group>,
}

impl Handler for Listener {
    fn event(&self, _: Context<'_>, event: Event<'_>) -> Handled {
        let payload: &[u8] = &event.payload;
        if event.kind == native::KIND {
            self.votes.add(&payload[payload.len() - 8..]);
            self.votes.bytes.fetch_add(payload.len() as u64, Ordering::Release);
        } else {
            self.blocks.bytes.fetch_add(payload.len() as u64, Ordering::Release);
        }
        Handled::Done
    }
}

/// Connects, and says hello if told to.
fn connect(addr: SocketAddr, greet: bool) -> std::net::TcpStream {
    static NONCES: AtomicU64 = AtomicU64::new(1);
    let mut stream = std::net::TcpStream::connect(addr).expect("the bench listens");
    if greet {
        stream.write_all(&native::hello(NONCES.fetch_add(1, Ordering::Relaxed))).expect("a hello");
        let (mut seen, mut byte) = (Vec::new(), [0; 1]);
        // Byte by byte: nothing of what follows may be taken.
        while native::answer(&seen).is_none() {
            stream.read_exact(&mut byte).expect("an answer");
            seen.extend_from_slice(&byte);
        }
    }
    stream
}

/// Takes up to so many bytes off the stream, without writing them anywhere.
fn discard(stream: impl std::os::fd::AsFd, buffer: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
    let (_, count) = rustix::net::recv(stream, buffer, RecvFlags::TRUNC | flags)?;
    Ok(count)
}

/// Reads each stream at `rate` bytes a second.
fn crawl(streams: &[std::net::TcpStream], rate: usize, group: &Group) {
    let mut buffer = vec![0; BUFFER];
    let mut before = Instant::now();
    loop {
        thread::sleep(STEP);
        let now = Instant::now();
        let due = (rate as f64 * now.duration_since(before).as_secs_f64()) as usize;
        before = now;
        for stream in streams {
            let due = due.clamp(1, BUFFER);
            match discard(stream, &mut buffer[..due], RecvFlags::DONTWAIT) {
                Ok(0) => return,
                Ok(count) => {
                    group.bytes.fetch_add(count as u64, Ordering::Release);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}

fn work() -> Worker {
    let poll = Poll::new().expect("an epoll");
    let waker = Waker::new(poll.registry(), WAKE).expect("a waker");
    let (conns, new) = channel();
    thread::spawn(move || serve(poll, &new));
    Worker { conns, waker }
}

fn serve(mut poll: Poll, new: &Receiver<Conn>) {
    let mut conns: Vec<Option<Conn>> = Vec::new();
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; BUFFER];
    let (mut ready, mut again): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
    loop {
        let patience = if again.is_empty() { None } else { Some(Duration::ZERO) };
        match poll.poll(&mut events, patience) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other.expect("an epoll"),
        }
        std::mem::swap(&mut ready, &mut again);
        for event in &events {
            if event.token() != WAKE {
                ready.push(event.token().0);
                continue;
            }
            while let Ok(mut conn) = new.try_recv() {
                let token = Token(conns.len());
                poll.registry().register(&mut conn.stream, token, Interest::READABLE).expect("a socket");
                conns.push(Some(conn));
            }
        }
        for at in ready.drain(..) {
            match conns[at].as_mut().map(|conn| conn.take(&mut buffer)) {
                Some(Ok(true)) => again.push(at),
                Some(Err(())) => conns[at] = None,
                Some(Ok(false)) | None => {}
            }
        }
    }
}

impl Conn {
    /// Takes what is there, up to a buffer; whether there may be more.
    fn take(&mut self, buffer: &mut [u8]) -> Result<bool, ()> {
        let taken = match self.taking {
            Taking::Count => discard(&self.stream, buffer, RecvFlags::empty()),
            Taking::Stamps(_) | Taking::Frames => self.stream.read(buffer),
        };
        let count = match taken {
            Ok(0) => return Err(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(_) => return Err(()),
        };
        if let Taking::Stamps(len) = self.taking {
            self.rest.extend_from_slice(&buffer[..count]);
            let whole = self.rest.len() / len * len;
            self.rest[..whole].chunks_exact(len).for_each(|message| self.group.add(&message[len - 8..]));
            self.rest.drain(..whole);
        }
        if let Taking::Frames = self.taking {
            let bulk = self.frames(&buffer[..count]);
            self.group.bytes.fetch_add(bulk as u64, Ordering::Release);
            return Ok(count == buffer.len());
        }
        self.group.bytes.fetch_add(count as u64, Ordering::Release);
        Ok(count == buffer.len())
    }

    /// Answers a ping: the same frame with the number of a pong.
    fn answer(&mut self) {
        if self.rest[4] == PING {
            self.rest[4] = PONG;
            let written = self.stream.write(&self.rest).expect("a peer that listens");
            assert_eq!(written, self.rest.len(), "a pong finds room");
        }
    }

    /// Takes frames apart: notes urgent ones, and returns how many bytes were of others, heads not counted.
    fn frames(&mut self, mut bytes: &[u8]) -> usize {
        let mut bulk = 0;
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bulk += skipped;
            bytes = &bytes[skipped..];
            // A head and, of a vote, all of it.
            while !bytes.is_empty() && self.skip == 0 {
                self.rest.push(bytes[0]);
                bytes = &bytes[1..];
                let Some(word) = self.rest.first_chunk() else { continue };
                let word = u32::from_le_bytes(*word);
                let (len, lane) = ((word & 0xff_ffff) as usize, word >> 27 & 0b11);
                if lane == CONTROL {
                    if self.rest.len() == 4 + len {
                        self.answer();
                        self.rest.clear();
                    }
                } else if lane != URGENT {
                    self.skip = len;
                    self.rest.clear();
                } else if self.rest.len() == 4 + len {
                    self.group.add(&self.rest[4 + len - 8..]);
                    self.rest.clear();
                }
            }
            if bytes.is_empty() {
                return bulk;
            }
        }
    }
}
