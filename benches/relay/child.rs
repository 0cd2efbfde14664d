//! The second process: 64 peers, 8 of which send the same messages.
//!
//! Commands: `send COUNT`, `send-for MS` and `keep-up-for MS` answer with the number of messages
//! sent; `wait COUNT` answers with the deliveries that arrived, and how many microseconds ago the
//! last of them did.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use crate::common::child_process::{answer_lines, number};
use crate::common::event_loop::{EventLoops, ReadTurn, Readable, discard};
use crate::common::native::{NATIVE, append_frame, connect};
use crate::{PAYLOAD_BYTES, PEERS, SENDERS};

/// The argument that starts this process. The address of the node follows.
pub(crate) const FLAG: &str = "--relay-peers";
/// Messages written by one call.
const BATCH: u64 = 128;
/// Messages that may be under way where the senders wait for the 64: less than half of what the
/// node keeps for them.
const MAX_AHEAD: u64 = 4096;
/// A message on the wire.
const FRAME_BYTES: u64 = 4 + 2 + PAYLOAD_BYTES as u64;

/// Bytes that each peer received.
type Received = Arc<[AtomicU64]>;

/// One peer's reading end.
struct Peer {
    stream: mio::net::TcpStream,
    received: Received,
    at: usize,
}

impl Readable for Peer {
    fn stream(&mut self) -> &mut mio::net::TcpStream {
        &mut self.stream
    }

    fn read(&mut self, buffer: &mut [u8]) -> ReadTurn {
        loop {
            match ReadTurn::after(discard(&self.stream, buffer)) {
                Ok(count) => _ = self.received[self.at].fetch_add(count as u64, Ordering::Relaxed),
                Err(turn) => return turn,
            }
        }
    }
}

/// The peers that send, and the number of the next message.
struct Senders {
    streams: Vec<TcpStream>,
    next: u64,
}

/// When senders stop.
enum Goal {
    Messages(u64),
    Until(Instant),
}

pub(crate) fn main(addr: &str) {
    let addr: SocketAddr = addr.parse().expect("an address");
    let peers: Vec<TcpStream> = (0..PEERS).map(|number| connect(addr, &NATIVE, number)).collect();
    let streams = peers[..SENDERS as usize].iter().map(|peer| peer.try_clone().expect("a socket")).collect();
    let mut senders = Senders { streams, next: 0 };
    let received: Received = (0..PEERS).map(|_| AtomicU64::new(0)).collect();
    let mut reader = EventLoops::start(1);
    for (at, stream) in peers.into_iter().enumerate() {
        // It stays a blocking socket, as the senders write to the same one; each read is told not
        // to block.
        let stream = mio::net::TcpStream::from_std(stream);
        reader.add(Peer { stream, received: Arc::clone(&received), at });
    }
    let mut counted = 0;
    answer_lines(|words| {
        let [command, value] = *words else { panic!("unknown command {words:?}") };
        let value = number(value) as u64;
        let until = Instant::now() + Duration::from_millis(value);
        match command {
            "send" => senders.send(&Goal::Messages(value), |_| false).to_string(),
            "send-for" => senders.send(&Goal::Until(until), |_| false).to_string(),
            "keep-up-for" => senders.send_as_read(until, &received).to_string(),
            "wait" => {
                let (total, idle) = wait(&received, counted + value * FRAME_BYTES);
                let arrived = total - counted;
                counted = total;
                assert_eq!(arrived % FRAME_BYTES, 0, "half a message");
                format!("{} {}", arrived / FRAME_BYTES, idle.as_micros())
            }
            _ => panic!("unknown command {words:?}"),
        }
    });
}

impl Senders {
    /// Sends no faster than the slowest peer reads what is relayed.
    fn send_as_read(&mut self, until: Instant, received: &[AtomicU64]) -> u64 {
        // Peers that send nothing receive everything.
        let listeners = &received[SENDERS as usize..];
        let (first, before) = (self.next, listeners.iter().map(bytes).collect::<Vec<_>>());
        let behind = |next: u64| {
            let got = listeners.iter().zip(&before).map(|(now, before)| bytes(now) - before);
            next - first - got.min().unwrap_or(0) / FRAME_BYTES
        };
        self.send(&Goal::Until(until), |next| behind(next) > MAX_AHEAD)
    }

    /// Writes new messages to all senders' streams, the same to each, and rests while it is far
    /// ahead; how many.
    fn send(&mut self, goal: &Goal, is_far_ahead: impl Fn(u64) -> bool) -> u64 {
        let mut payload = [b'x'; PAYLOAD_BYTES];
        let (mut batch, first) = (BytesMut::new(), self.next);
        loop {
            let left = match goal {
                Goal::Messages(most) => most - (self.next - first),
                Goal::Until(until) if Instant::now() >= *until => 0,
                Goal::Until(_) => BATCH,
            };
            if left == 0 {
                return self.next - first;
            }
            if is_far_ahead(self.next) {
                thread::sleep(Duration::from_micros(50));
                continue;
            }
            batch.clear();
            for _ in 0..left.min(BATCH) {
                payload[..8].copy_from_slice(&self.next.to_le_bytes());
                append_frame(&payload, &mut batch);
                self.next += 1;
            }
            for mut stream in &self.streams {
                stream.write_all(&batch).expect("the node reads");
            }
        }
    }
}

/// Waits until this many bytes came in all, or nothing has come for a while. How many came, and how
/// long ago the last of them.
fn wait(received: &[AtomicU64], total: u64) -> (u64, Duration) {
    let (mut last, mut since) = (0, Instant::now());
    loop {
        let now = received.iter().map(bytes).sum();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        if now >= total || since.elapsed() > Duration::from_secs(1) {
            return (now, since.elapsed());
        }
        thread::sleep(Duration::from_micros(100));
    }
}

fn bytes(received: &AtomicU64) -> u64 {
    received.load(Ordering::Relaxed)
}
