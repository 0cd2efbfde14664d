//! The client process: dials, answers pings, and sends messages over some of its connections.
//!
//! Commands: `dial COUNT` answers with the seconds that it took; `talk ACTIVE SECONDS` with the
//! number of messages sent.

use std::io::{self, BufRead, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use peerpool::wire::{Control, DecodeStep, Decoder, Native, Protocol};
use socket2::{Domain, Socket, Type};

use crate::common::native::{NATIVE, append_frame, hello_of_agent, read_answer};

/// The argument that starts the client process. The address of the server follows.
pub(crate) const FLAG: &str = "--clients";
/// Connections that dial at the same time, in each thread.
const DIALS_AT_ONCE: usize = 64;
const DIAL_THREADS: usize = 2;
/// Connections from one address.
const PORTS_PER_ADDR: usize = 10_000;
/// Between two messages of an active connection.
const MESSAGE_PERIOD: Duration = Duration::from_millis(10);
const PAYLOAD: [u8; 100] = [7; 100];

pub(crate) fn main(addr: &str) {
    let addr: SocketAddr = addr.parse().expect("an address");
    let (lines, commands) = channel();
    thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            let _ = lines.send(line);
        }
    });
    let mut clients = Clients::new();
    while let Some(line) = clients.wait_for_command(&commands) {
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match words[..] {
            ["dial", count] => clients.dial(addr, count.parse().expect("a number")),
            ["talk", active, seconds] => {
                let seconds = Duration::from_secs_f64(seconds.parse().expect("a number"));
                clients.talk(active.parse().expect("a number"), seconds)
            }
            _ => panic!("unknown command {line:?}"),
        };
        println!("{answer}");
    }
}

struct Clients {
    poll: Poll,
    events: Events,
    all: Vec<TcpStream>,
    buffer: Vec<u8>,
}

impl Clients {
    fn new() -> Self {
        let poll = Poll::new().expect("an epoll");
        Self { poll, events: Events::with_capacity(1024), all: Vec::new(), buffer: vec![0; 64 * 1024] }
    }

    /// Seconds until all were answered.
    fn dial(&mut self, addr: SocketAddr, count: usize) -> f64 {
        let begun = Instant::now();
        let part = count.div_ceil(DIAL_THREADS);
        let dialled: Vec<_> = thread::scope(|scope| {
            let share = |at: usize| (at * part).min(count)..((at + 1) * part).min(count);
            let shares: Vec<_> =
                (0..DIAL_THREADS).map(|at| scope.spawn(move || dial(addr, share(at)))).collect();
            shares.into_iter().flat_map(|share| share.join().expect("a dialling thread")).collect()
        });
        let took = begun.elapsed().as_secs_f64();
        for stream in dialled {
            stream.set_nonblocking(true).expect("a socket option");
            let mut stream = TcpStream::from_std(stream);
            let token = Token(self.all.len());
            self.poll.registry().register(&mut stream, token, Interest::READABLE).expect("a socket");
            self.all.push(stream);
        }
        took
    }

    /// Answers pings until a command comes; `None` when the parent is gone.
    fn wait_for_command(&mut self, commands: &Receiver<String>) -> Option<String> {
        loop {
            match commands.try_recv() {
                Ok(line) => return Some(line),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => self.answer_pings(Duration::from_millis(2)),
            }
        }
    }

    /// How many messages were sent.
    fn talk(&mut self, active: usize, seconds: Duration) -> f64 {
        let mut frame = BytesMut::new();
        append_frame(&PAYLOAD, &mut frame);
        let (begun, mut next, mut sent) = (Instant::now(), Instant::now(), 0);
        while begun.elapsed() < seconds {
            for stream in &mut self.all[..active] {
                // So little fits the socket of any server that reads.
                stream.write_all(&frame).expect("the server lives");
                sent += 1;
            }
            next += MESSAGE_PERIOD;
            loop {
                let left = next.saturating_duration_since(Instant::now());
                self.answer_pings(left);
                if left.is_zero() {
                    break;
                }
            }
        }
        f64::from(sent)
    }

    /// Answers the pings of one wake-up, after at most `timeout`.
    fn answer_pings(&mut self, timeout: Duration) {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return,
            other => other.expect("an epoll"),
        }
        for event in &self.events {
            let stream = &mut self.all[event.token().0];
            while let Ok(count) = stream.read(&mut self.buffer) {
                assert!(count > 0, "the server closed a connection");
                let answers = pongs(&self.buffer[..count]);
                if !answers.is_empty() {
                    stream.write_all(&answers).expect("the server lives");
                }
            }
        }
    }
}

/// The answers to the pings among some frames. Pings are a few bytes and come whole.
fn pongs(mut bytes: &[u8]) -> BytesMut {
    let mut answers = BytesMut::new();
    let mut decoder = Native::default().decoder();
    while let Ok(step) = decoder.step(bytes) {
        match &step {
            DecodeStep::NeedMore => break,
            DecodeStep::Control { control: Control::Ping { token }, .. } => {
                let pong = Control::Pong { token: *token };
                Native::default().encode_control(&pong, &mut answers).expect("a pong");
            }
            _ => {}
        }
        bytes = &bytes[step.used()..];
    }
    answers
}

/// Dials for connections of these numbers, some at a time: all connect and send a hello, then each
/// waits for its answer.
fn dial(addr: SocketAddr, numbers: std::ops::Range<usize>) -> Vec<std::net::TcpStream> {
    let mut all = Vec::with_capacity(numbers.len());
    let numbers: Vec<usize> = numbers.collect();
    for some in numbers.chunks(DIALS_AT_ONCE) {
        let first = all.len();
        for &number in some {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            let from = Ipv4Addr::new(127, 0, 0, 2 + (number / PORTS_PER_ADDR) as u8);
            socket.bind(&SocketAddr::from((from, 0)).into()).expect("an address");
            socket.connect(&addr.into()).expect("the server listens");
            // A reset leaves no state behind at the end.
            socket.set_linger(Some(Duration::ZERO)).expect("a socket option");
            let mut stream = std::net::TcpStream::from(socket);
            let hello = hello_of_agent(number as u64, "a peer of the bench/1.0");
            stream.write_all(&hello).expect("the server lives");
            all.push(stream);
        }
        all[first..].iter_mut().for_each(|stream| read_answer(stream, &NATIVE));
    }
    all
}
