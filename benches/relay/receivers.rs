//! The second process: 64 peers, 8 of which bring the same messages.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use peerpool::base::{Lane, Nonce};
use peerpool::wire::{Hello, MessageHeader, Native, Protocol};
use rustix::net::RecvFlags;
use rustix::time::{ClockId, clock_gettime};

use crate::{BODY, PEERS, SENDERS};

/// The argument that makes the bench this process.
pub(crate) const FLAG: &str = "--receivers";
/// Messages written by one call.
const BATCH: u64 = 128;
/// Messages that may be under way where the bringers wait for the 64: less than half of what the node keeps for them.
const AHEAD: u64 = 4096;
/// A message on the line.
const FRAME: u64 = 4 + 2 + BODY as u64;

/// CPU time that this process has taken.
pub(crate) fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The second process as the bench sees it; it ends with its standard input.
pub(crate) struct Receivers {
    child: Child,
    tell: Option<ChildStdin>,
    hear: BufReader<ChildStdout>,
}

impl Receivers {
    pub(crate) fn start(addr: SocketAddr) -> Self {
        let exe = std::env::current_exe().expect("this very program");
        let mut child = Command::new(exe)
            .args([FLAG, &addr.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a second process");
        let tell = child.stdin.take();
        let hear = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, tell, hear }
    }

    pub(crate) fn ask(&mut self, line: &str) -> Vec<u64> {
        let tell = self.tell.as_mut().expect("a pipe");
        writeln!(tell, "{line}").and_then(|()| tell.flush()).expect("the receivers lives");
        let mut answer = String::new();
        self.hear.read_line(&mut answer).expect("the receivers lives");
        answer.split_whitespace().map(|word| word.parse().expect("a number")).collect()
    }
}

impl Drop for Receivers {
    fn drop(&mut self) {
        self.tell = None;
        let _ = self.child.wait();
    }
}

pub(crate) fn main(addr: &str) {
    let addr: SocketAddr = addr.parse().expect("an address");
    let peers: Vec<TcpStream> = (0..PEERS).map(|number| enter(addr, number)).collect();
    let bringers: Vec<TcpStream> =
        peers[..SENDERS as usize].iter().map(|peer| peer.try_clone().expect("a socket")).collect();
    let received: Arc<[AtomicU64]> = (0..PEERS).map(|_| AtomicU64::new(0)).collect();
    let counters = Arc::clone(&received);
    thread::spawn(move || take(&peers, &counters));
    let (mut next, mut counted) = (0u64, 0);
    for line in io::stdin().lock().lines() {
        let line = line.expect("the bench speaks");
        let (word, number) = line.split_once(' ').expect("a word and a number");
        let number: u64 = number.parse().expect("a number");
        let answer = match word {
            "send" => bring(&bringers, &mut next, number, None, |_| false),
            "send-for" => {
                let until = Instant::now() + Duration::from_millis(number);
                bring(&bringers, &mut next, u64::MAX, Some(until), |_| false)
            }
            // No quicker than the slowest takes what is relayed.
            "keep-up-for" => {
                let (until, first) = (Instant::now() + Duration::from_millis(number), next);
                // Those who bring nothing get everything.
                let listeners = &received[SENDERS as usize..];
                let before: Vec<u64> = listeners.iter().map(count).collect();
                let behind = |next: u64| {
                    let got = listeners.iter().zip(&before).map(|(now, before)| count(now) - before);
                    next - first - got.min().unwrap_or(0) / FRAME
                };
                bring(&bringers, &mut next, u64::MAX, Some(until), |next| behind(next) > AHEAD)
            }
            "wait" => {
                let (total, idle) = wait(&received, counted + number * FRAME);
                let arrived = total - counted;
                counted = total;
                assert_eq!(arrived % FRAME, 0, "half a message");
                println!("{} {}", arrived / FRAME, idle.as_micros());
                continue;
            }
            _ => panic!("the bench said {line:?}"),
        };
        println!("{answer}");
    }
}

fn enter(addr: SocketAddr, number: u64) -> TcpStream {
    let mut nonce = [2; 16];
    nonce[..8].copy_from_slice(&number.to_le_bytes());
    let mut hello = BytesMut::new();
    let ours = Hello::new(Native::VERSION, 0, Nonce(nonce));
    Native::default().encode_hello(&ours, &mut hello).expect("a legal hello");
    let mut stream = TcpStream::connect(addr).expect("the node listens");
    stream.set_nodelay(true).expect("a socket");
    stream.write_all(&hello).expect("the node lives");
    let (mut seen, mut some) = (Vec::new(), [0; 512]);
    while Native::default().decode_first_frame(&seen).expect("a greeting").is_none() {
        let count = stream.read(&mut some).expect("an answer");
        assert!(count > 0, "refused");
        seen.extend_from_slice(&some[..count]);
    }
    stream
}

/// Writes messages that nobody has seen to all bringers, the same to each, and rests while it is far ahead; how many.
fn bring(
    bringers: &[TcpStream],
    next: &mut u64,
    most: u64,
    until: Option<Instant>,
    is_far_ahead: impl Fn(u64) -> bool,
) -> u64 {
    let mut body = [b'x'; BODY];
    let (mut batch, first) = (BytesMut::new(), *next);
    while *next - first < most && until.is_none_or(|until| Instant::now() < until) {
        if is_far_ahead(*next) {
            thread::sleep(Duration::from_micros(50));
            continue;
        }
        batch.clear();
        for number in *next..(*next + BATCH).min(first.saturating_add(most)) {
            body[..8].copy_from_slice(&number.to_le_bytes());
            let head = MessageHeader::Event { kind: 7 };
            Native::default().encode(Lane::Normal, &head, &body, &mut batch).expect("a legal message");
            *next = number + 1;
        }
        for mut bringer in bringers {
            bringer.write_all(&batch).expect("the node lives");
        }
    }
    *next - first
}

/// Takes all that comes, for good.
fn take(peers: &[TcpStream], received: &[AtomicU64]) {
    let mut poll = Poll::new().expect("an epoll");
    for (at, peer) in peers.iter().enumerate() {
        let fd = peer.as_raw_fd();
        poll.registry().register(&mut SourceFd(&fd), Token(at), Interest::READABLE).expect("a socket");
    }
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        poll.poll(&mut events, None).expect("an epoll");
        for event in &events {
            // Counted and let go by the kernel, not copied out.
            let flags = RecvFlags::TRUNC | RecvFlags::DONTWAIT;
            while let Ok((_, count)) = rustix::net::recv(&peers[event.token().0], &mut *buffer, flags) {
                if count == 0 {
                    return;
                }
                received[event.token().0].fetch_add(count as u64, Ordering::Relaxed);
            }
        }
    }
}

/// Waits until so much came in all, or nothing has come for a while. How much came, and how long ago the last of it.
fn wait(received: &[AtomicU64], total: u64) -> (u64, Duration) {
    let (mut last, mut since) = (0, Instant::now());
    loop {
        let now = received.iter().map(count).sum();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        if now >= total || since.elapsed() > Duration::from_secs(1) {
            return (now, since.elapsed());
        }
        thread::sleep(Duration::from_micros(100));
    }
}

fn count(received: &AtomicU64) -> u64 {
    received.load(Ordering::Relaxed)
}
