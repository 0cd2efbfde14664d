//! The receiving process: two threads read all sockets and count, per connection.
//!
//! Commands: `dial ADDR COUNT hello|silent MODE` (answers with the number of the group),
//! `received GROUP`, `wait GROUP BYTES`, `order GROUP`, `latency-count GROUP`, `latencies GROUP`.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mio::net::TcpStream;

use super::ReadMode;
use super::order::Order;
use crate::common::child_process::{answer_lines, number};
use crate::common::event_loop::{EventLoops, ReadTurn, Readable, discard};
use crate::common::native::{WireFormat, connect};
use crate::common::system::{clock, pin};

const THREADS: usize = 2;
/// Reads of one socket in a row while bytes are only counted or copied.
const MAX_READS: usize = 4;
/// Without news for this long, `wait` gives up.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two reads of a slow reader.
const SLOW_STEP: Duration = Duration::from_millis(5);
/// The most that a slow reader takes at once.
const SLOW_READ_BYTES: usize = 256 * 1024;
/// Lanes in the header of a native frame.
const CONTROL: u32 = 0;
const URGENT: u32 = 1;
/// Control frames, by the first byte of their payload.
const PING: u8 = 1;
const PONG: u8 = 2;

/// What a group of receivers got.
#[derive(Debug)]
pub(crate) struct Counters {
    /// Bytes of each receiver.
    bytes: Vec<AtomicU64>,
    messages: AtomicU64,
    overtaken: AtomicU64,
    latencies: Mutex<Vec<u64>>,
}

impl Counters {
    pub(crate) fn new(receivers: usize) -> Arc<Self> {
        Arc::new(Self {
            bytes: (0..receivers).map(|_| AtomicU64::new(0)).collect(),
            messages: AtomicU64::new(0),
            overtaken: AtomicU64::new(0),
            latencies: Mutex::default(),
        })
    }

    /// Counts bytes of one receiver. Only one thread may do so for each.
    pub(crate) fn count(&self, receiver: usize, bytes: usize) {
        let count = &self.bytes[receiver];
        count.store(count.load(Ordering::Relaxed) + bytes as u64, Ordering::Release);
    }

    /// Notes how long ago the time was that `stamp` holds.
    pub(crate) fn note_latency(&self, stamp: &[u8]) {
        let sent = stamp.try_into().map_or(0, u64::from_le_bytes);
        let took = clock().saturating_sub(sent);
        self.latencies().push(took);
    }

    fn latencies(&self) -> MutexGuard<'_, Vec<u64>> {
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All bytes, the least and the most of one receiver.
    fn totals(&self) -> (u64, u64, u64) {
        let counts = self.bytes.iter().map(|count| count.load(Ordering::Acquire));
        counts.fold((0, u64::MAX, 0), |(sum, least, most), count| {
            (sum + count, least.min(count), most.max(count))
        })
    }

    /// Waits until this many bytes came, or nothing has come for a while.
    fn wait(&self, bytes: u64) -> (u64, u64, u64) {
        let (mut last, mut since) = (0, Instant::now());
        loop {
            let totals = self.totals();
            if totals.0 != last {
                (last, since) = (totals.0, Instant::now());
            }
            if totals.0 >= bytes || since.elapsed() > PATIENCE {
                return totals;
            }
            thread::sleep(Duration::from_micros(100));
        }
    }
}

/// The receivers of this process.
pub(crate) struct ReceiverProcess {
    format: WireFormat,
    loops: EventLoops<Connection>,
    groups: Vec<Arc<Counters>>,
    /// Connections that nobody reads.
    unread: Vec<std::net::TcpStream>,
    /// The number of the next hello.
    next_hello: u64,
}

/// Runs the process until the parent closes the pipe.
pub(crate) fn main(args: &[String], format: WireFormat) {
    let mut process = ReceiverProcess::start(args, format);
    answer_lines(|words| process.answer(words));
}

impl ReceiverProcess {
    /// Starts the threads, on one processor if the arguments name one.
    pub(crate) fn start(args: &[String], format: WireFormat) -> Self {
        if let Some(cpu) = args.first().and_then(|cpu| cpu.parse().ok()) {
            pin(Some(cpu));
        }
        let loops = EventLoops::start(THREADS);
        Self { format, loops, groups: Vec::new(), unread: Vec::new(), next_hello: 1 }
    }

    /// Adds a group; its number.
    pub(crate) fn add_group(&mut self, group: &Arc<Counters>) -> usize {
        self.groups.push(Arc::clone(group));
        self.groups.len() - 1
    }

    pub(crate) fn answer(&mut self, words: &[&str]) -> String {
        match *words {
            ["dial", addr, count, opening, mode] => {
                let (addr, mode) = (addr.parse().expect("an address"), mode.parse().expect("a way to read"));
                self.dial(addr, number(count), opening == "hello", mode).to_string()
            }
            ["received", group] => self.groups[number(group)].totals().0.to_string(),
            ["wait", group, bytes] => {
                let (sum, least, most) = self.groups[number(group)].wait(number(bytes) as u64);
                format!("{sum} {least} {most}")
            }
            ["order", group] => {
                let Counters { messages, overtaken, .. } = &*self.groups[number(group)];
                format!("{} {}", messages.load(Ordering::Relaxed), overtaken.load(Ordering::Relaxed))
            }
            ["latency-count", group] => self.groups[number(group)].latencies().len().to_string(),
            ["latencies", group] => {
                let latencies = std::mem::take(&mut *self.groups[number(group)].latencies());
                latencies.iter().map(u64::to_string).collect::<Vec<_>>().join(" ")
            }
            _ => panic!("unknown command {words:?}"),
        }
    }

    fn dial(&mut self, addr: SocketAddr, count: usize, greet: bool, mode: ReadMode) -> usize {
        let group = Counters::new(count);
        let mut streams = Vec::with_capacity(count);
        for _ in 0..count {
            streams.push(if greet {
                connect(addr, &self.format, self.next_hello)
            } else {
                std::net::TcpStream::connect(addr).expect("the bench listens")
            });
            self.next_hello += 1;
        }
        match mode {
            ReadMode::Never => self.unread.extend(streams),
            ReadMode::Slow(rate) => {
                let group = Arc::clone(&group);
                thread::spawn(move || read_slowly(&streams, rate, &group));
            }
            _ => {
                for (at, stream) in streams.into_iter().enumerate() {
                    stream.set_nonblocking(true).expect("a socket option");
                    let (stream, group) = (TcpStream::from_std(stream), Arc::clone(&group));
                    let parser = Parser { order: Order::default(), rest: Vec::new(), skip: 0 };
                    self.loops.add(Connection { stream, group, at, mode, parser });
                }
            }
        }
        self.add_group(&group)
    }
}

/// Reads each stream at `rate` bytes a second.
fn read_slowly(streams: &[std::net::TcpStream], rate: usize, group: &Counters) {
    let mut buffer = vec![0; SLOW_READ_BYTES];
    let mut before = Instant::now();
    loop {
        thread::sleep(SLOW_STEP);
        let now = Instant::now();
        let due = (rate as f64 * now.duration_since(before).as_secs_f64()) as usize;
        before = now;
        for (at, stream) in streams.iter().enumerate() {
            match ReadTurn::after(discard(stream, &mut buffer[..due.clamp(1, SLOW_READ_BYTES)])) {
                Ok(count) => group.count(at, count),
                Err(ReadTurn::Closed) => return,
                Err(_) => {}
            }
        }
    }
}

/// One receiver.
struct Connection {
    stream: TcpStream,
    group: Arc<Counters>,
    at: usize,
    mode: ReadMode,
    parser: Parser,
}

/// What remains of a message that is not complete yet.
struct Parser {
    order: Order,
    rest: Vec<u8>,
    /// Bytes to come of a frame that is only counted.
    skip: usize,
}

impl Readable for Connection {
    fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    fn read(&mut self, buffer: &mut [u8]) -> ReadTurn {
        let reads = match self.mode {
            ReadMode::Stamps(_) | ReadMode::Frames => 1,
            _ => MAX_READS,
        };
        for _ in 0..reads {
            let read = match self.mode {
                ReadMode::Discard => discard(&self.stream, buffer),
                _ => self.stream.read(buffer),
            };
            let count = match ReadTurn::after(read) {
                Ok(count) => count,
                Err(turn) => return turn,
            };
            self.take(&buffer[..count]);
            if count < buffer.len() {
                return ReadTurn::Empty;
            }
        }
        ReadTurn::More
    }
}

impl Connection {
    /// Counts bytes that were read, and looks into them where the mode asks for it.
    fn take(&mut self, bytes: &[u8]) {
        let counted = match self.mode {
            ReadMode::Order => {
                let found = self.parser.order.read(bytes);
                self.group.messages.fetch_add(found.messages, Ordering::Relaxed);
                self.group.overtaken.fetch_add(found.overtaken, Ordering::Relaxed);
                bytes.len()
            }
            ReadMode::Stamps(len) => {
                self.stamps(bytes, len);
                bytes.len()
            }
            ReadMode::Frames => self.frames(bytes),
            _ => bytes.len(),
        };
        self.group.count(self.at, counted);
    }

    fn stamps(&mut self, bytes: &[u8], len: usize) {
        let rest = &mut self.parser.rest;
        rest.extend_from_slice(bytes);
        let whole = rest.len() / len * len;
        rest[..whole].chunks_exact(len).for_each(|message| self.group.note_latency(&message[len - 8..]));
        rest.drain(..whole);
    }

    /// Takes frames apart; how many bytes were of others than control and urgent ones, headers not
    /// counted.
    fn frames(&mut self, mut bytes: &[u8]) -> usize {
        let mut bulk = 0;
        loop {
            let skipped = self.parser.skip.min(bytes.len());
            self.parser.skip -= skipped;
            bulk += skipped;
            bytes = &bytes[skipped..];
            // A header and, of an urgent frame, all of it.
            while !bytes.is_empty() && self.parser.skip == 0 {
                let rest = &mut self.parser.rest;
                rest.push(bytes[0]);
                bytes = &bytes[1..];
                let Some(word) = rest.first_chunk() else { continue };
                let word = u32::from_le_bytes(*word);
                let (len, lane) = ((word & 0xff_ffff) as usize, word >> 27 & 0b11);
                if lane != CONTROL && lane != URGENT {
                    self.parser.skip = len;
                    rest.clear();
                } else if rest.len() == 4 + len {
                    if lane == URGENT {
                        self.group.note_latency(&rest[4 + len - 8..]);
                    } else {
                        answer_ping(&mut self.stream, rest).expect("room for a pong");
                    }
                    rest.clear();
                }
            }
            if bytes.is_empty() {
                return bulk;
            }
        }
    }
}

/// Answers a ping with the same frame and the number of a pong.
fn answer_ping(stream: &mut TcpStream, frame: &mut [u8]) -> io::Result<()> {
    if frame[4] == PING {
        frame[4] = PONG;
        stream.write_all(frame)?;
    }
    Ok(())
}
