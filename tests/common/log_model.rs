//! Drives the broadcast log by a string of bytes, and compares every step with a plain list of
//! messages.
//!
//! Shared by the property test and the fuzz target: any bytes are a valid run.

use std::io::IoSlice;

use bytes::Bytes;
use peerpool::ConnId;
use peerpool::broadcast::{
    Appended, Batch, Cursor, CursorView, Fill, LOGS_PER_SET, LagPolicy, Log, LogChunk, LogConfig,
    LogPositions, LogSet, MAX_PARTIAL_CHUNK, Receipt, ResumePoint, WakeSet,
};

#[path = "../../src/broadcast/test_reader.rs"]
pub(crate) mod test_reader;

use test_reader::{Reader, TestLog};

/// Bytes as decisions; zeros once they have run out.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> usize {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                usize::from(*first)
            }
            None => 0,
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        if bound == 0 { 0 } else { (self.byte() << 8 | self.byte()) % bound }
    }
}

struct Message {
    len: usize,
    chunk_ends: Vec<usize>,
    appended: Appended,
}

fn content(seq: u64, at: usize) -> u8 {
    (seq as usize).wrapping_mul(131).wrapping_add(at.wrapping_mul(7)) as u8
}

fn bytes_of(seq: u64, from: usize, to: usize) -> Vec<u8> {
    (from..to).map(|at| content(seq, at)).collect()
}

/// A reader of the log, and what it must do.
struct Connection {
    reader: Reader,
    batch: Batch,
    conns: Vec<ConnId>,
    start: u64,
    /// The message in progress, or the next that may have to be written, and how much of it was
    /// written.
    seq: u64,
    offset: usize,
    /// `seq` when it was last published.
    published: u64,
    gaps: Vec<(u64, u64)>,
}

/// What must be known of a connection that has departed.
struct Departed {
    view: CursorView,
    published: u64,
    gaps: Vec<(u64, u64)>,
    conns: Vec<ConnId>,
    start: u64,
}

struct Model {
    log: TestLog,
    messages: Vec<Message>,
    connections: Vec<Connection>,
    departed: Vec<Departed>,
    next_conn: u64,
    policy: LagPolicy,
}

/// One run. Panics where the log and the model differ.
pub(crate) fn run(data: &[u8]) {
    let mut choices = Choices(data);
    let ring_bytes = 16 * 1024 + choices.below(64 * 1024);
    let block_bytes = 512 + choices.below(8 * 1024);
    let config = LogConfig { ring_bytes, block_bytes, ..LogConfig::test() };
    let mut model = Model {
        log: TestLog::new(config, &WakeSet::new()),
        messages: Vec::new(),
        connections: Vec::new(),
        departed: Vec::new(),
        next_conn: 1,
        policy: LagPolicy::Skip,
    };
    model.join();
    while !choices.0.is_empty() {
        model.step(&mut choices);
        assert!(model.log.bytes() <= model.log.ring_bytes(), "the ring holds more than it may");
    }
    model.finish();
}

impl Model {
    fn step(&mut self, choices: &mut Choices<'_>) {
        match choices.byte() % 20 {
            0..=3 => {
                let size = 1 + choices.byte();
                for _ in 0..=choices.byte() % 16 {
                    self.append(size, choices);
                }
            }
            4 => {
                let size = 1 + choices.below(6000);
                self.append(size, choices);
            }
            5 | 6 => {
                let (count, size) = (1 + choices.byte() % 6, choices.below(2000));
                self.append_chunks(count, size, choices);
            }
            7 => {
                let size = choices.below(24 * 1024);
                self.append_chunks(1 + choices.byte() % 2, size, choices);
            }
            8..=13 => self.write(choices),
            14 => self.join(),
            15 => self.replace(choices),
            16 => {
                let at = choices.below(self.connections.len());
                if self.connections.len() > 1 {
                    let mut connection = self.connections.swap_remove(at);
                    connection.published = connection.seq;
                    self.close(connection);
                }
            }
            17 => self.log.set_ring_bytes(16 * 1024 + choices.below(64 * 1024)),
            18 => {
                self.policy =
                    if choices.byte().is_multiple_of(4) { LagPolicy::Disconnect } else { LagPolicy::Skip };
                self.log.set_lag_policy(self.policy);
            }
            _ => self.check_receipts(),
        }
    }

    fn origin(&self, choices: &mut Choices<'_>) -> Option<ConnId> {
        match choices.byte() {
            n if n < 128 || self.connections.is_empty() => None,
            n => self.connections[n % self.connections.len()].conns.first().copied(),
        }
    }

    fn noted(&mut self, appended: Appended, len: usize, chunk_ends: Vec<usize>) {
        assert_eq!(appended.seq, self.messages.len() as u64);
        self.messages.push(Message { len, chunk_ends, appended });
        for connection in &self.connections {
            assert!(connection.reader.has_unread());
        }
    }

    fn append(&mut self, len: usize, choices: &mut Choices<'_>) {
        let encoded = bytes_of(self.messages.len() as u64, 0, len);
        let origin = self.origin(choices);
        let appended = self.log.append(&encoded, origin).unwrap();
        self.noted(appended, len, vec![len]);
    }

    fn append_chunks(&mut self, count: usize, size: usize, choices: &mut Choices<'_>) {
        let seq = self.messages.len() as u64;
        let origin = self.origin(choices);
        let size = size.min(self.log.ring_bytes() / 2 / count - 100);
        let (mut chunks, mut ends, mut at) = (Vec::new(), Vec::new(), 0);
        for _ in 0..count {
            let head = bytes_of(seq, at, at + 4);
            chunks.push(LogChunk::new(&head, Bytes::from(bytes_of(seq, at + 4, at + 4 + size))));
            at += 4 + size;
            ends.push(at);
        }
        let appended = self.log.append_chunks(chunks, origin).unwrap();
        self.noted(appended, at, ends);
    }

    fn join(&mut self) {
        if self.connections.len() == 6 {
            return;
        }
        let conn = ConnId::new(self.next_conn).unwrap();
        self.next_conn += 1;
        let reader = self.log.join(conn);
        assert!(!reader.has_unread());
        let seq = self.messages.len() as u64;
        self.connections.push(Connection::new(reader, vec![conn], seq));
    }

    fn replace(&mut self, choices: &mut Choices<'_>) {
        if self.connections.is_empty() {
            return;
        }
        let at = choices.below(self.connections.len());
        let conn = ConnId::new(self.next_conn).unwrap();
        self.next_conn += 1;
        let mut predecessor = self.connections.swap_remove(at);
        predecessor.reader.publish();
        predecessor.published = predecessor.seq;
        let conns = vec![conn, predecessor.conns[0]];
        let reader = self.log.join_at(conn, predecessor.reader.positions.resume_points());
        // Frames of the predecessor's origin may or may not count as written.
        let seq = reader.view().start();
        assert!(
            (predecessor.seq..=predecessor.next(&self.messages)).contains(&seq),
            "a successor begins where its predecessor stood"
        );
        self.connections.push(Connection::new(reader, conns, seq));
        self.close(predecessor);
    }

    fn close(&mut self, connection: Connection) {
        let view = connection.reader.view();
        drop(connection.reader);
        let Connection { published, gaps, conns, start, .. } = connection;
        self.departed.push(Departed { view, published, gaps, conns, start });
    }

    fn write(&mut self, choices: &mut Choices<'_>) {
        if self.connections.is_empty() {
            return;
        }
        let at = choices.below(self.connections.len());
        let max = match choices.byte() % 4 {
            0 => choices.byte(),
            1 => choices.below(4096),
            2 => 16 * 1024,
            _ => 256 * 1024,
        };
        let fill = self.connections[at].fill(max, &self.messages, &self.log, self.policy);
        if fill == Fill::Overrun {
            let mut connection = self.connections.swap_remove(at);
            connection.published = connection.seq;
            self.close(connection);
            return;
        }
        let rounds = choices.byte() % 4;
        for _ in 0..rounds {
            let slices = 1 + choices.byte() % 8;
            let amount = choices.byte();
            self.connections[at].write(slices, amount, &self.messages);
        }
        if choices.byte().is_multiple_of(2) {
            self.connections[at].release(&self.messages);
        }
        if choices.byte().is_multiple_of(2) {
            self.connections[at].publish();
        }
    }

    fn check_receipts(&self) {
        for message in &self.messages {
            for connection in &self.connections {
                let got = connection.reader.view().status_of(&message.appended);
                check_receipt(
                    got,
                    &message.appended,
                    connection.published,
                    &connection.gaps,
                    &connection.conns,
                    connection.start,
                    None,
                );
            }
            for Departed { view, published, gaps, conns, start } in &self.departed {
                let got = view.status_of(&message.appended);
                check_receipt(got, &message.appended, *published, gaps, conns, *start, Some(()));
            }
        }
    }

    fn finish(&mut self) {
        for mut connection in std::mem::take(&mut self.connections) {
            loop {
                match connection.fill(256 * 1024, &self.messages, &self.log, self.policy) {
                    Fill::Ready => {
                        while !connection.batch.is_empty() {
                            connection.write(8, 255, &self.messages);
                        }
                    }
                    Fill::Skipped { .. } => {}
                    Fill::CaughtUp | Fill::Overrun => break,
                }
            }
            let gap: u64 = connection.gaps.iter().map(|(from, to)| to - from).sum();
            assert_eq!(connection.reader.view().skipped(), gap, "the gap is counted exactly");
            connection.publish();
            self.close(connection);
        }
        self.check_receipts();
    }
}

fn check_receipt(
    got: Receipt,
    message: &Appended,
    published: u64,
    gaps: &[(u64, u64)],
    conns: &[ConnId],
    start: u64,
    departed: Option<()>,
) {
    let seq = message.seq;
    if message.origin.is_some_and(|origin| conns.contains(&origin)) {
        assert!(matches!(got, Receipt::Origin | Receipt::NotJoined), "{got:?} for an own message");
        return;
    }
    let gap = gaps.iter().position(|&(from, to)| (from..to).contains(&seq));
    let forgotten = gaps.len().saturating_sub(32);
    let expired = forgotten > 0 && seq < gaps[forgotten - 1].1;
    let want = match (seq, departed) {
        _ if seq < start => Receipt::NotJoined,
        // A gap is published with what follows it.
        _ if seq >= published => {
            if departed.is_some() {
                Receipt::LeftBefore
            } else {
                Receipt::Behind
            }
        }
        _ if expired => Receipt::Expired,
        _ if gap.is_some() => Receipt::Skipped,
        (_, Some(())) => Receipt::LeftAfter,
        (_, None) => Receipt::Written,
    };
    assert_eq!(got, want, "message {seq}, published {published}, gaps {gaps:?}, start {start}");
}

impl Connection {
    fn new(reader: Reader, conns: Vec<ConnId>, seq: u64) -> Self {
        Self {
            reader,
            batch: Batch::new(),
            conns,
            start: seq,
            seq,
            offset: 0,
            published: seq,
            gaps: Vec::new(),
        }
    }

    fn is_own(&self, message: &Message) -> bool {
        message.appended.origin.is_some_and(|origin| self.conns.contains(&origin))
    }

    /// The first message from `seq` on that is to be written.
    fn next(&self, messages: &[Message]) -> u64 {
        let rest = &messages[self.seq as usize..];
        self.seq + rest.iter().take_while(|message| self.offset == 0 && self.is_own(message)).count() as u64
    }

    fn on_boundary(&self, messages: &[Message]) -> bool {
        self.offset == 0 || messages[self.seq as usize].chunk_ends.contains(&self.offset)
    }

    fn fill(&mut self, max: usize, messages: &[Message], log: &Log, policy: LagPolicy) -> Fill {
        let (before, next) = (self.batch.len(), self.next(messages));
        let fill = self.reader.fill(max, &mut self.batch);
        let end = messages.len() as u64;
        let evicted = log.stats().evicted;
        match fill {
            Fill::Ready => {
                assert!(!self.batch.is_empty());
                let added = self.batch.len() - before;
                if added > max {
                    // At least one chunk: exactly one.
                    let sizes = |message: &Message| {
                        let begins = std::iter::once(0).chain(message.chunk_ends.iter().copied());
                        begins.zip(message.chunk_ends.clone()).map(|(from, to)| to - from).collect::<Vec<_>>()
                    };
                    let torn = self.reader.is_mid_chunk(&self.batch);
                    assert!(
                        torn || messages.iter().any(|message| sizes(message).contains(&added)),
                        "{added} > {max}"
                    );
                }
            }
            Fill::CaughtUp => {
                assert!(self.batch.is_empty() && self.offset == 0 && next == end, "messages were held back");
                assert!(!self.reader.has_unread());
                self.seq = self.seq.max(end);
            }
            Fill::Skipped { messages: count, aborted } => {
                assert!(self.batch.is_empty() && policy == LagPolicy::Skip);
                let from = end - count;
                assert!((self.seq..=next).contains(&from), "a gap from {from}, not {}..={next}", self.seq);
                assert!(evicted > from, "nothing it needed was gone");
                assert!(self.on_boundary(messages));
                assert_eq!(aborted, self.offset > 0);
                match self.gaps.last_mut() {
                    Some(last) if last.1 == from => last.1 = end,
                    _ => self.gaps.push((from, end)),
                }
                (self.seq, self.offset) = (end, 0);
            }
            Fill::Overrun => {
                assert!(self.batch.is_empty() && evicted > self.seq);
                assert!(policy == LagPolicy::Disconnect || !self.on_boundary(messages));
            }
        }
        fill
    }

    /// Writes some of the batch: what the stream takes must be what the model expects, byte for
    /// byte.
    fn write(&mut self, slices: usize, amount: usize, messages: &[Message]) {
        let mut out = std::array::from_fn::<_, 8, _>(|_| IoSlice::new(&[]));
        let used = self.batch.slices(&mut out[..slices]);
        let offered: usize = out[..used].iter().map(|slice| slice.len()).sum();
        let n = if amount == 255 { offered } else { offered * amount / 255 };
        let mut wire: Vec<u8> = out[..used].iter().flat_map(|slice| slice.iter().copied()).collect();
        assert_eq!(used == 0, self.batch.is_empty());
        wire.truncate(n);
        self.reader.advance(&mut self.batch, n);
        let mut wire = &wire[..];
        while !wire.is_empty() {
            self.seq = self.next(messages);
            let message = &messages[self.seq as usize];
            let step = wire.len().min(message.len - self.offset);
            let want = bytes_of(self.seq, self.offset, self.offset + step);
            assert_eq!(wire[..step], want, "message {} from {}", self.seq, self.offset);
            wire = &wire[step..];
            self.offset += step;
            if self.offset == message.len {
                (self.seq, self.offset) = (self.seq + 1, 0);
            }
        }
        assert_eq!(self.reader.is_mid_chunk(&self.batch), !self.on_boundary(messages));
        if self.batch.is_empty() {
            assert_eq!(self.reader.is_mid_message(), self.offset > 0);
        }
    }

    fn release(&mut self, messages: &[Message]) {
        self.reader.release(&mut self.batch);
        assert!(self.batch.len() <= MAX_PARTIAL_CHUNK);
        assert_eq!(self.reader.is_mid_chunk(&self.batch), !self.on_boundary(messages));
        if self.on_boundary(messages) {
            assert!(self.batch.is_empty(), "a connection between two chunks keeps nothing");
        }
    }

    fn publish(&mut self) {
        self.reader.publish();
        self.published = self.seq;
        // As a writer that has nothing left goes to sleep, and begins again with its position only.
        if self.batch.is_empty() && self.reader.rest() {
            assert_eq!(self.offset, 0, "a position inside a message is not a plain number");
        }
    }
}
