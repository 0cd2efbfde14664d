//! The practical limit: threads that only write buffers of ready-made messages to the same kind of
//! sockets.
//!
//! No runtime, no queue, no producer. Each thread owns a share of the sockets, goes round those
//! that are writable, one call each, and sleeps in epoll when none is. The best of one and two
//! threads and of four call sizes counts; the largest is what a peerpool connection writes at most
//! by one call.

use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::{Contender, Goal, Produced};
use crate::common::native::WireFormat;
use crate::common::receivers::{Group, ReadMode, Receivers};

/// The name of the limit in tables and results.
pub(crate) const RAW_WRITE_LIMIT: &str = "raw_write_limit";

const THREADS: [usize; 2] = [1, 2];
/// Bytes of one call at most.
const CALL_KIB: [usize; 4] = [64, 128, 256, 512];

pub(crate) struct RawWriteLimit {
    sockets: Vec<TcpStream>,
    group: Group,
    format: WireFormat,
}

impl RawWriteLimit {
    pub(crate) fn new(receivers: &mut Receivers, peers: usize, mode: ReadMode, format: WireFormat) -> Self {
        let (sockets, group) = receivers.sockets(peers, mode);
        Self { sockets: sockets.into_iter().map(TcpStream::from_std).collect(), group, format }
    }
}

/// One thread's share of a slice.
struct Share<'a> {
    poll: Poll,
    sockets: &'a mut [TcpStream],
    buffer: &'a [u8],
    /// Bytes of each socket still to be written.
    left: Vec<u64>,
}

impl<'a> Share<'a> {
    fn new(sockets: &'a mut [TcpStream], buffer: &'a [u8], each: u64) -> Self {
        let poll = Poll::new().expect("an epoll");
        for (at, socket) in sockets.iter_mut().enumerate() {
            poll.registry().register(socket, Token(at), Interest::WRITABLE).expect("a socket");
        }
        let left = vec![each; sockets.len()];
        Self { poll, sockets, buffer, left }
    }

    /// Writes until the time is over or each socket has got its bytes; how many bytes.
    fn write(&mut self, until: Option<Instant>) -> u64 {
        let mut events = Events::with_capacity(1024);
        let mut offsets = vec![0; self.sockets.len()];
        let mut ready: Vec<usize> = Vec::new();
        let mut written = 0;
        let mut busy = self.sockets.len();
        while busy > 0 {
            let timeout = if ready.is_empty() { Duration::from_millis(100) } else { Duration::ZERO };
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => panic!("{error}"),
                _ => {}
            }
            ready.extend(events.iter().map(|event| event.token().0));
            let mut turn = std::mem::take(&mut ready);
            turn.sort_unstable();
            turn.dedup();
            for at in turn {
                if until.is_some_and(|until| Instant::now() >= until) {
                    return written;
                }
                let (offset, left) = (&mut offsets[at], &mut self.left[at]);
                let piece = &self.buffer[*offset..];
                let piece = &piece[..piece.len().min(usize::try_from(*left).unwrap_or(usize::MAX))];
                if piece.is_empty() {
                    continue;
                }
                match self.sockets[at].write(piece) {
                    Ok(count) => {
                        written += count as u64;
                        *left -= count as u64;
                        *offset = (*offset + count) % self.buffer.len();
                        busy -= usize::from(*left == 0);
                        if count == piece.len() {
                            ready.push(at);
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
        written
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        for socket in self.sockets.iter_mut() {
            let _ = self.poll.registry().deregister(socket);
        }
    }
}

impl Contender for RawWriteLimit {
    fn name(&self) -> &'static str {
        RAW_WRITE_LIMIT
    }

    fn wire_len(&self, size: usize) -> usize {
        (self.format.frame)(size).len()
    }

    fn variants(&self) -> Vec<String> {
        let name = |threads| move |size| format!("{threads} thr, {size} KiB");
        THREADS.iter().flat_map(|threads| CALL_KIB.iter().map(name(threads))).collect()
    }

    fn produce(&mut self, variant: usize, size: usize, goal: Goal) -> Produced {
        let threads = THREADS[variant / CALL_KIB.len()];
        let frame = (self.format.frame)(size);
        let buffer = frame.repeat((CALL_KIB[variant % CALL_KIB.len()] * 1024 / frame.len()).max(1));
        let each = match goal {
            Goal::Messages(most) => most * frame.len() as u64,
            Goal::Time(_) => u64::MAX,
        };
        let part = self.sockets.len().div_ceil(threads);
        let shares = self.sockets.chunks_mut(part).map(|sockets| Share::new(sockets, &buffer, each));
        let mut shares: Vec<Share<'_>> = shares.collect();
        let since = Instant::now();
        let until = match goal {
            Goal::Time(most) => Some(since + most),
            Goal::Messages(_) => None,
        };
        let bytes = thread::scope(|scope| {
            let running: Vec<_> =
                shares.iter_mut().map(|share| scope.spawn(move || share.write(until))).collect();
            running.into_iter().map(|thread| thread.join().expect("a writer")).sum()
        });
        Produced { since, bytes }
    }

    fn group(&mut self) -> &mut Group {
        &mut self.group
    }
}
