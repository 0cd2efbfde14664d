//! The second process: it dials, then reads and counts, and says how much came.
//!
//! Two threads, each with an epoll of its own; a ready socket is emptied. On two cores what receivers spend is taken from
//! the senders, so these spend as little as a receiver can: the kernel delivers and counts every byte, but does not copy
//! it out (`MSG_TRUNC`, see tcp(7)). With `--receivers copy` they read into a buffer of 256 KiB instead. Told what to do by
//! lines on standard input, one answer each.

use std::io::{self, BufRead, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};
use rustix::net::RecvFlags;

use crate::native;
use crate::order::Order;

/// The argument that makes the bench this process.
pub(crate) const FLAG: &str = "--receiver";

const THREADS: usize = 2;
const BUFFER: usize = 256 * 1024;
/// Reads of one socket before the others get their turn.
const READS: usize = 4;
const WAKE: Token = Token(usize::MAX);

/// The connections to one contender.
#[derive(Debug)]
struct Group {
    each: Vec<AtomicU64>,
    /// Numbered messages, and those of them that came after a later one.
    numbered: [AtomicU64; 2],
}

impl Group {
    fn totals(&self) -> (u64, u64, u64) {
        self.each
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .fold((0, u64::MAX, 0), |(sum, least, most), count| {
                (sum + count, least.min(count), most.max(count))
            })
    }
}

struct Conn {
    stream: TcpStream,
    group: Arc<Group>,
    at: usize,
    order: Order,
}

/// What receivers do with the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taking {
    /// Have the kernel count them and let them go.
    Discard,
    /// Copy them out.
    Copy,
    /// Copy them out and see whether what is numbered in them is in order.
    Order,
}

impl Taking {
    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Discard => "discard",
            Self::Copy => "copy",
            Self::Order => "order",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::Discard, Self::Copy, Self::Order].into_iter().find(|taking| taking.name() == name)
    }
}

struct Worker {
    conns: Sender<Conn>,
    waker: Waker,
}

pub(crate) fn main(taking: Taking) {
    let workers: Vec<Worker> = (0..THREADS).map(|_| start(taking)).collect();
    let mut groups: Vec<Arc<Group>> = Vec::new();
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else { return };
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match words[..] {
            ["dial", addr, count, greet] => {
                let group = dial(&workers, addr, count, greet == "native");
                groups.push(group);
                (groups.len() - 1).to_string()
            }
            ["wait", group, total] => {
                let (sum, least, most) = wait(&groups[number(group)], number(total) as u64);
                format!("{sum} {least} {most}")
            }
            ["order", group] => {
                let [messages, overtaken] =
                    groups[number(group)].numbered.each_ref().map(|count| count.load(Ordering::Relaxed));
                format!("{messages} {overtaken}")
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

fn dial(workers: &[Worker], addr: &str, count: &str, greet: bool) -> Arc<Group> {
    static NONCES: AtomicU64 = AtomicU64::new(1);
    let addr: SocketAddr = addr.parse().expect("an address");
    let group = Arc::new(Group {
        each: (0..number(count)).map(|_| AtomicU64::new(0)).collect(),
        numbered: Default::default(),
    });
    for at in 0..group.each.len() {
        let mut stream = std::net::TcpStream::connect(addr).expect("the bench listens");
        if greet {
            stream.write_all(&native::hello(NONCES.fetch_add(1, Ordering::Relaxed))).expect("a hello");
            let (mut seen, mut some) = (Vec::new(), [0; 1024]);
            let rest = loop {
                let count = stream.read(&mut some).expect("an answer");
                assert!(count > 0, "the node closed the connection");
                seen.extend_from_slice(&some[..count]);
                if let Some(used) = native::answer(&seen) {
                    break seen.len() - used;
                }
            };
            group.each[at].fetch_add(rest as u64, Ordering::Relaxed);
        }
        stream.set_nonblocking(true).expect("a socket");
        let worker = &workers[at % workers.len()];
        let conn = Conn {
            stream: TcpStream::from_std(stream),
            group: Arc::clone(&group),
            at,
            order: Order::default(),
        };
        worker.conns.send(conn).expect("the thread lives");
        worker.waker.wake().expect("the thread lives");
    }
    group
}

/// Waits until so many bytes came, or nothing has come for a while.
fn wait(group: &Group, total: u64) -> (u64, u64, u64) {
    let (mut last, mut since) = (0, Instant::now());
    loop {
        let totals = group.totals();
        if totals.0 != last {
            (last, since) = (totals.0, Instant::now());
        }
        if totals.0 >= total || since.elapsed() > Duration::from_secs(3) {
            return totals;
        }
        thread::sleep(Duration::from_micros(100));
    }
}

fn start(taking: Taking) -> Worker {
    let poll = Poll::new().expect("an epoll");
    let waker = Waker::new(poll.registry(), WAKE).expect("a waker");
    let (conns, new) = channel();
    thread::spawn(move || serve(poll, &new, taking));
    Worker { conns, waker }
}

fn serve(mut poll: Poll, new: &Receiver<Conn>, taking: Taking) {
    let mut conns: Vec<Option<Conn>> = Vec::new();
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; BUFFER];
    // Sockets that had their turn and may have more.
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
            match conns[at].as_mut().map(|conn| conn.read(&mut buffer, taking)) {
                Some(Turn::More) => again.push(at),
                Some(Turn::Gone) => conns[at] = None,
                Some(Turn::Empty) | None => {}
            }
        }
    }
}

/// Takes up to a buffer of bytes off the stream, without writing to the buffer.
fn discard(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let (_, count) = rustix::net::recv(stream, buffer, RecvFlags::TRUNC)?;
    Ok(count)
}

enum Turn {
    Empty,
    More,
    Gone,
}

impl Conn {
    fn read(&mut self, buffer: &mut [u8], taking: Taking) -> Turn {
        let count = &self.group.each[self.at];
        for _ in 0..READS {
            let result = match taking {
                Taking::Copy | Taking::Order => self.stream.read(buffer),
                Taking::Discard => discard(&self.stream, buffer),
            };
            match result {
                Ok(0) => return Turn::Gone,
                Ok(some) => {
                    if taking == Taking::Order {
                        let found = self.order.read(&buffer[..some]);
                        let [messages, overtaken] = &self.group.numbered;
                        messages.fetch_add(found.messages, Ordering::Relaxed);
                        overtaken.fetch_add(found.overtaken, Ordering::Relaxed);
                    }
                    // Only this thread writes it.
                    count.store(count.load(Ordering::Relaxed) + some as u64, Ordering::Relaxed);
                    if some < buffer.len() {
                        return Turn::Empty;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Turn::Empty,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Turn::Gone,
            }
        }
        Turn::More
    }
}
