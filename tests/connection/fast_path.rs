//! The short write path of a sleeping connection, over streams that take a part, fail or do not
//! flush.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use peerpool::broadcast::{Appended, Receipt};
use peerpool::connection::{
    CloseReason, ConnectionBuilder, ConnectionHandler, ConnectionSetup, InitialIo, MemoryOrigin, Message,
};
use peerpool::transport::Stream;
use peerpool::wire::{DecodeStep, Decoder, MessageHeader, Native, Protocol};
use peerpool::{ConnId, Lane};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::sleep;

use crate::harness::*;

/// What a stream took, and how much more it will take.
#[derive(Default)]
struct Valve {
    taken: Vec<u8>,
    room: usize,
    flushes: bool,
    /// Write calls that took something.
    writes: usize,
    waits: Option<Waker>,
    failure: Option<Failure>,
}

/// Which call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    Write,
    /// A write while there is no room.
    Full,
    /// A write that takes nothing.
    NoByte,
    Flush,
}

/// A stream without input that takes what its valve lets through.
#[derive(Clone, Default)]
struct Tight(Arc<Mutex<Valve>>);

impl Tight {
    fn open(&self, room: usize, flushes: bool) {
        let mut valve = self.0.lock().unwrap();
        (valve.room, valve.flushes) = (room, flushes);
        if let Some(waker) = valve.waits.take() {
            waker.wake();
        }
    }

    fn taken(&self) -> usize {
        self.0.lock().unwrap().taken.len()
    }

    fn writes(&self) -> usize {
        self.0.lock().unwrap().writes
    }

    /// The events taken so far, which must be whole.
    fn events(&self, protocol: &Native) -> Vec<(u16, Vec<u8>)> {
        let mut decoder = protocol.decoder();
        let mut events = Vec::new();
        let taken = self.0.lock().unwrap().taken.clone();
        let mut bytes = &taken[..];
        while !bytes.is_empty() {
            let step = decoder.step(bytes).expect("legal bytes");
            let used = step.used();
            match step {
                DecodeStep::Message { header: MessageHeader::Event { kind }, payload, .. } => {
                    events.push((kind, payload.into_bytes().to_vec()));
                }
                other => panic!("{other:?}"),
            }
            bytes = &bytes[used..];
        }
        events
    }
}

impl AsyncRead for Tight {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Tight {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes = slices.iter().flat_map(|slice| slice.iter()).copied().collect::<Vec<_>>();
        let mut valve = self.0.lock().unwrap();
        match valve.failure {
            Some(Failure::Write) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Some(Failure::NoByte) => return Poll::Ready(Ok(0)),
            Some(Failure::Full) if valve.room == 0 => {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            Some(Failure::Flush | Failure::Full) | None => {}
        }
        let most = bytes.len().min(valve.room);
        if most == 0 {
            valve.waits = Some(cx.waker().clone());
            return Poll::Pending;
        }
        valve.room -= most;
        valve.writes += 1;
        valve.taken.extend_from_slice(&bytes[..most]);
        Poll::Ready(Ok(most))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut valve = self.0.lock().unwrap();
        if valve.failure == Some(Failure::Flush) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if valve.flushes {
            return Poll::Ready(Ok(()));
        }
        valve.waits = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Stream for Tight {}

/// A payload whose length depends on the kind.
fn body(kind: u16) -> Vec<u8> {
    vec![kind as u8; 5 + usize::from(kind) * 3]
}

fn append(side: &TestSide<Native>, lane: Lane, kind: u16) -> (Appended, usize) {
    let event = side.event(lane, kind, &body(kind));
    (side.log(lane).append(&event, None).unwrap(), event.len())
}

/// Three messages wake a connection whose stream takes `room` bytes of them.
async fn check_partial_write(room: usize, flushes: bool) {
    let side = TestSide::new(Native::default());
    let stream = Tight::default();
    let running = side.start(stream.clone(), RecordingHandler::new());
    settle().await;
    stream.open(room, flushes);
    let said: Vec<_> = (1..=3).map(|kind| append(&side, Lane::Normal, kind)).collect();
    settle().await;
    let whole: usize = said.iter().map(|(_, len)| len).sum();
    assert_eq!(stream.taken(), room.min(whole));
    let view = running.connection.cursor_view(Lane::Normal).unwrap();
    let mut end = 0;
    for (appended, len) in &said {
        end += len;
        let written = end <= room && flushes;
        let expected = if written { Receipt::Written } else { Receipt::Behind };
        assert_eq!(view.status_of(appended), expected, "{end} bytes, {room} taken, flushes: {flushes}");
    }
    // A more urgent message waits only for the message that has begun.
    append(&side, Lane::Urgent, 4);
    running.connection.send(Message::new(5, body(5))).unwrap();
    settle().await;
    stream.open(usize::MAX, true);
    settle().await;
    let events = stream.events(&side.protocol);
    assert!(events.iter().all(|(kind, bytes)| *bytes == body(*kind)), "glued or cut");
    let mut kinds: Vec<_> = events.iter().map(|(kind, _)| *kind).collect();
    let of_the_log: Vec<_> = kinds.iter().copied().filter(|kind| *kind <= 3).collect();
    assert_eq!(of_the_log, [1, 2, 3]);
    let begun = said.iter().scan(0, |end, (_, len)| {
        let begin = *end;
        *end += len;
        Some(begin)
    });
    let before = kinds.iter().take_while(|kind| **kind != 4).filter(|kind| **kind <= 3).count();
    assert_eq!(before, begun.filter(|begin| *begin < room).count(), "{room}");
    kinds.sort_unstable();
    assert_eq!(kinds, [1, 2, 3, 4, 5]);
    assert!(said.iter().all(|(appended, _)| view.status_of(appended) == Receipt::Written));
    // It sleeps again, and continues from the right position.
    append(&side, Lane::Normal, 6);
    settle().await;
    assert_eq!(stream.events(&side.protocol).len(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_partial_write_is_followed_by_its_rest() {
    let side = TestSide::new(Native::default());
    let whole: usize = (1..=3).map(|kind| side.event(Lane::Normal, kind, &body(kind)).len()).sum();
    for room in 0..=whole {
        check_partial_write(room, true).await;
    }
}

#[tokio::test(start_paused = true)]
async fn unflushed_bytes_do_not_count_as_written() {
    for room in [1, 20, 1_000] {
        check_partial_write(room, false).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_few_messages_take_one_write_call_and_skip_their_origin() {
    let side = TestSide::new(Native::default());
    let stream = Tight::default();
    stream.open(usize::MAX, true);
    let running = side.start(stream.clone(), RecordingHandler::new());
    let other = side.start(Tight::default(), RecordingHandler::new());
    settle().await;
    let mut expected = Vec::new();
    for burst in 0..12u16 {
        let writes = stream.writes();
        for n in 0..burst {
            let kind = burst * 16 + n;
            let origin =
                [None, Some(running.connection.id()), Some(other.connection.id())][usize::from(kind) % 3];
            let event = side.event(Lane::Normal, kind, &body(kind));
            side.log(Lane::Normal).append(&event, origin).unwrap();
            if origin != Some(running.connection.id()) {
                expected.push((kind, body(kind)));
            }
        }
        settle().await;
        assert!(stream.writes() <= writes + 1, "burst of {burst}");
        assert!(stream.events(&side.protocol) == expected, "burst of {burst}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_fast_path_skips_messages_from_a_replaced_connection() {
    let side = TestSide::new(Native::default());
    let before = side.start(Tight::default(), RecordingHandler::new());
    settle().await;
    let positions = Lane::ALL.into_iter().filter_map(|lane| before.connection.cursor_view(lane));
    let positions: Vec<_> = positions.map(|view| view.resume_point()).collect();
    let id = ConnId::new(99).unwrap();
    let builder = ConnectionBuilder::new(ConnectionSetup {
        id,
        protocol: Arc::clone(&side.protocol),
        shared: Arc::clone(&side.shared),
        origin: MemoryOrigin::EXEMPT,
        positions: side.logs.join(id, Some(positions.try_into().unwrap())),
        state: side.state.cursor(),
        parker: side.wake_set.parker(),
    });
    let stream = Tight::default();
    stream.open(usize::MAX, true);
    let _task = tokio::spawn(builder.start(stream.clone(), RecordingHandler::new(), InitialIo::default()));
    settle().await;
    for (kind, origin) in [(1, None), (2, Some(before.connection.id())), (3, Some(id)), (4, None)] {
        side.log(Lane::Normal).append(&side.event(Lane::Normal, kind, &body(kind)), origin).unwrap();
        settle().await;
    }
    assert_eq!(stream.events(&side.protocol), [(1, body(1)), (4, body(4))]);
}

#[tokio::test(start_paused = true)]
async fn a_failing_stream_on_the_fast_path_closes_the_connection() {
    for failure in [Failure::Write, Failure::NoByte, Failure::Flush] {
        let side = TestSide::new(Native::default());
        let stream = Tight::default();
        stream.open(usize::MAX, true);
        let running = side.start(stream.clone(), RecordingHandler::new());
        settle().await;
        stream.0.lock().unwrap().failure = Some(failure);
        let (appended, _) = append(&side, Lane::Normal, 1);
        let view = running.connection.cursor_view(Lane::Normal).unwrap();
        let end = running.end().await;
        let kind =
            if failure == Failure::NoByte { io::ErrorKind::WriteZero } else { io::ErrorKind::BrokenPipe };
        assert!(matches!(&end, CloseReason::Io(error) if error.kind() == kind), "{failure:?}: {end:?}");
        assert_eq!(view.status_of(&appended), Receipt::LeftBefore, "{failure:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_finished_flush_ends_the_stall_of_a_sleeping_connection() {
    let side = TestSide::new(Native::default());
    let stream = Tight::default();
    let handler = RecordingHandler::new();
    let running = side.start(stream.clone(), handler.clone());
    settle().await;
    stream.open(usize::MAX, false);
    append(&side, Lane::Normal, 1);
    sleep(Duration::from_secs(1)).await;
    assert!(running.connection.stalled_for(handler.now()) > Duration::ZERO, "what hangs in a flush waits");
    stream.open(usize::MAX, true);
    settle().await;
    sleep(Duration::from_secs(30)).await;
    assert_eq!(stream.events(&side.protocol), [(1, body(1))]);
    assert_eq!(running.connection.stalled_for(handler.now()), Duration::ZERO);
}

/// Bytes that were taken before the failure count as written, unless the flush is pending.
#[tokio::test(start_paused = true)]
async fn a_receipt_reports_what_was_flushed_before_the_end() {
    for (flushes, fails) in [(true, true), (false, true), (false, false)] {
        let side = TestSide::new(Native::default());
        let stream = Tight::default();
        let running = side.start(stream.clone(), RecordingHandler::new());
        settle().await;
        // Two lanes, so that the fast path does not apply.
        let (first, len) = append(&side, Lane::Urgent, 1);
        let (second, _) = append(&side, Lane::Normal, 2);
        stream.0.lock().unwrap().failure = fails.then_some(Failure::Full);
        stream.open(if fails { len } else { usize::MAX }, flushes);
        settle().await;
        assert!(stream.taken() >= len);
        let [urgent, normal] =
            [Lane::Urgent, Lane::Normal].map(|lane| running.connection.cursor_view(lane).unwrap());
        if fails {
            assert!(matches!(running.end().await, CloseReason::Io(_)));
        } else {
            running.task.abort();
            assert!(running.task.await.is_err());
        }
        let written = if flushes { Receipt::LeftAfter } else { Receipt::LeftBefore };
        assert_eq!(urgent.status_of(&first), written, "flushes: {flushes}, fails: {fails}");
        assert_eq!(normal.status_of(&second), Receipt::LeftBefore);
    }
}
