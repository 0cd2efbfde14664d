//! The client process: dials, answers pings, and lets some of its connections talk.

use std::io::{self, BufRead, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use peerpool::base::{Lane, Nonce};
use peerpool::wire::{Control, DecodeStep, Decoder, FirstFrame, Hello, MessageHeader, Native, Protocol};
use socket2::{Domain, Socket, Type};

/// The argument that makes the bench the client process.
pub(crate) const FLAG: &str = "--clients";
/// Connections that dial together, and threads that do so.
const TOGETHER: usize = 64;
const THREADS: usize = 2;
/// Connections from one address.
const PORTS: usize = 10_000;
/// Between two messages of one that talks.
const PAUSE: Duration = Duration::from_millis(10);

pub(crate) fn main(addr: &str) {
    let addr: SocketAddr = addr.parse().expect("an address");
    let (tell, told) = channel();
    thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            let _ = tell.send(line);
        }
    });
    let mut peers = Peers::new();
    while let Some(line) = peers.wait(&told) {
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match words[..] {
            ["dial", count] => peers.dial(addr, count.parse().expect("a number")),
            ["talk", active, seconds] => {
                let seconds = Duration::from_secs_f64(seconds.parse().expect("a number"));
                peers.talk(active.parse().expect("a number"), seconds)
            }
            _ => panic!("the bench said {line:?}"),
        };
        println!("{answer}");
    }
}

struct Peers {
    poll: Poll,
    events: Events,
    all: Vec<TcpStream>,
    buffer: Vec<u8>,
}

impl Peers {
    fn new() -> Self {
        let poll = Poll::new().expect("an epoll");
        Self { poll, events: Events::with_capacity(1024), all: Vec::new(), buffer: vec![0; 64 * 1024] }
    }

    /// Seconds until all were answered.
    fn dial(&mut self, addr: SocketAddr, count: usize) -> f64 {
        let begun = Instant::now();
        let part = count.div_ceil(THREADS);
        let dialled: Vec<_> = thread::scope(|scope| {
            let share = |at: usize| (at * part).min(count)..((at + 1) * part).min(count);
            let shares: Vec<_> = (0..THREADS).map(|at| scope.spawn(move || dial(addr, share(at)))).collect();
            shares.into_iter().flat_map(|share| share.join().expect("a dialler")).collect()
        });
        let took = begun.elapsed().as_secs_f64();
        for stream in dialled {
            stream.set_nonblocking(true).expect("a socket");
            let mut stream = TcpStream::from_std(stream);
            let token = Token(self.all.len());
            self.poll.registry().register(&mut stream, token, Interest::READABLE).expect("a socket");
            self.all.push(stream);
        }
        took
    }

    fn wait(&mut self, told: &Receiver<String>) -> Option<String> {
        loop {
            match told.try_recv() {
                Ok(line) => return Some(line),
                Err(std::sync::mpsc::TryRecvError::Disconnected) => return None,
                Err(std::sync::mpsc::TryRecvError::Empty) => self.turn(Duration::from_millis(2)),
            }
        }
    }

    /// How many messages were sent.
    fn talk(&mut self, active: usize, seconds: Duration) -> f64 {
        let mut frame = BytesMut::new();
        let head = MessageHeader::Event { kind: 1 };
        Native::default().encode(Lane::Normal, &head, &[7; 100], &mut frame).expect("a legal message");
        let (begun, mut next, mut sent) = (Instant::now(), Instant::now(), 0);
        while begun.elapsed() < seconds {
            for stream in &mut self.all[..active] {
                // Nobody reads so slowly that this little would not fit.
                stream.write_all(&frame).expect("the server lives");
                sent += 1;
            }
            next += PAUSE;
            loop {
                let left = next.saturating_duration_since(Instant::now());
                self.turn(left);
                if left.is_zero() {
                    break;
                }
            }
        }
        f64::from(sent)
    }

    /// Answers pings for at most so long.
    fn turn(&mut self, most: Duration) {
        match self.poll.poll(&mut self.events, Some(most)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return,
            other => other.expect("an epoll"),
        }
        for event in &self.events {
            let stream = &mut self.all[event.token().0];
            while let Ok(count) = stream.read(&mut self.buffer) {
                assert!(count > 0, "the server closed a connection");
                // Pings are a few bytes and come whole.
                let mut answers = BytesMut::new();
                let mut bytes = &self.buffer[..count];
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
                if !answers.is_empty() {
                    stream.write_all(&answers).expect("the server lives");
                }
            }
        }
    }
}

/// Dials for connections of these numbers, some at a time: all connect and say hello, then each waits for its answer.
fn dial(addr: SocketAddr, numbers: std::ops::Range<usize>) -> Vec<std::net::TcpStream> {
    let mut all = Vec::with_capacity(numbers.len());
    let numbers: Vec<usize> = numbers.collect();
    for some in numbers.chunks(TOGETHER) {
        let first = all.len();
        for &number in some {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            let from = Ipv4Addr::new(127, 0, 0, 2 + (number / PORTS) as u8);
            socket.bind(&SocketAddr::from((from, 0)).into()).expect("an address");
            socket.connect(&addr.into()).expect("the server listens");
            // A reset leaves nothing behind at the end.
            socket.set_linger(Some(Duration::ZERO)).expect("a socket option");
            let mut stream = std::net::TcpStream::from(socket);
            stream.write_all(&hello(number)).expect("the server lives");
            all.push(stream);
        }
        for stream in &mut all[first..] {
            let (mut seen, mut some) = (Vec::new(), [0; 512]);
            while Native::default().decode_first_frame(&seen).expect("a greeting").is_none_or(refused) {
                let count = stream.read(&mut some).expect("an answer");
                assert!(count > 0, "the server closed a connection");
                seen.extend_from_slice(&some[..count]);
            }
        }
    }
    all
}

fn refused((greeting, _): (FirstFrame, usize)) -> bool {
    assert!(matches!(greeting, FirstFrame::Hello(_)), "{greeting:?}");
    false
}

fn hello(number: usize) -> BytesMut {
    let mut nonce = [3; 16];
    nonce[..8].copy_from_slice(&(number as u64).to_le_bytes());
    let mut hello = Hello::new(Native::VERSION, 0, Nonce(nonce));
    hello.agent = "a peer of the bench/1.0".into();
    let mut out = BytesMut::new();
    Native::default().encode_hello(&hello, &mut out).expect("a legal hello");
    out
}
