//! Memory: everything that a peer can make us hold is bounded and released.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use peerpool::broadcast::LagPolicy;
use peerpool::connection::{
    CloseReason, ConnectionConfig, ConnectionHandler, Handled, InitialIo, MemoryReservation, Message,
    SendError,
};
use peerpool::wire::{Control, MessageHeader, Native, Status};
use peerpool::{Lane, Tick};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

use crate::harness::*;
use crate::toy::Toy;

#[tokio::test(start_paused = true)]
async fn a_full_lane_returns_the_message() {
    let connection = ConnectionConfig { outbox_messages: 3, ..ConnectionConfig::default() };
    let side = TestSide::with(Native::default(), SideConfig { connection, ..SideConfig::default() });
    let builder = side.build();
    for n in 0..3 {
        builder.connection().send(Message::new(n, "x")).unwrap();
    }
    let SendError::Full(back) = builder.connection().send(Message::new(9, "mine")).unwrap_err() else {
        panic!("full")
    };
    assert_eq!(back, Message::new(9, "mine"));
    builder.connection().send(Message::new(1, "other lane").urgent()).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_message_that_the_protocol_cannot_carry_is_returned() {
    let native = TestSide::new(Native::default());
    let connection = native.build();
    let too_large = Message::new(1, vec![0; 256 * 1024 + 1]).urgent();
    assert!(matches!(connection.connection().send(too_large), Err(SendError::Refused { .. })));
    let toy = TestSide::new(Toy::new());
    let connection = toy.build();
    assert!(matches!(
        connection.connection().send(Message::new(1, vec![0; 32 * 1024 + 1])),
        Err(SendError::Refused { .. })
    ));
    let refused = connection.connection().request(Message::new(1, "no ids"), TIMEOUT).await;
    assert!(refused.is_err());
    assert_eq!(connection.connection().pending_counts().outbound_requests, 0);
}

#[tokio::test(start_paused = true)]
async fn the_ceiling_holds_with_all_connections_stuck_and_everything_is_released() {
    let ceiling = 1 << 20;
    let side = TestSide::with(Native::default(), SideConfig { budget: ceiling, ..SideConfig::default() });
    let mut far = Vec::new();
    let mut connections = Vec::new();
    for _ in 0..8 {
        let (near, other) = pipe(4096);
        far.push(other);
        connections.push(side.start(near, RecordingHandler::new()));
    }
    let mut refused = 0;
    for _ in 0..40 {
        for running in &connections {
            let message = Message::new(1, vec![7; 100_000]).bulk();
            refused += usize::from(running.connection.send(message).is_err());
        }
        settle().await;
        assert!(side.budget.used() <= ceiling);
    }
    // Ten messages of 100 kB fit: what a writer has taken out of a queue counts as well.
    assert_eq!(8 * 40 - refused, ceiling / (100_000 + 40), "taken");
    for running in connections {
        running.connection.close(peerpool::pool::DisconnectReason::Requested, None);
        running.end().await;
    }
    assert_eq!(side.budget.used(), 0);
    drop(far);
}

#[tokio::test(start_paused = true)]
async fn the_ceiling_covers_a_large_message_while_it_is_being_sent() {
    let side = TestSide::with(Native::default(), SideConfig { budget: 10 << 20, ..SideConfig::default() });
    let (near, far) = pipe(4096);
    let running = side.start(near, RecordingHandler::new());
    running.connection.send(Message::new(1, vec![1; 6 << 20]).bulk()).unwrap();
    settle().await;
    assert_eq!(running.connection.pending_counts().queued_messages, 0, "the writer has it");
    assert!(side.budget.used() >= 6 << 20, "held: {}", side.budget.used());
    assert!(matches!(
        running.connection.send(Message::new(1, vec![1; 6 << 20]).bulk()),
        Err(SendError::Full(_))
    ));
    let mut far = side.manual_peer(far);
    assert!(
        matches!(far.message().await, Some(Received::Message(Lane::Bulk, _, body)) if body.len() == 6 << 20)
    );
    settle().await;
    assert_eq!(side.budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_requests_and_never_reads_is_flooding() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(64 * 1024);
    let handler = RecordingHandler::new().on_request(|_, _, responder| {
        drop(responder);
        Handled::Done
    });
    let running = side.start(near, handler);
    let connection = Arc::clone(&running.connection);
    let mut far = side.manual_peer(far);
    let asking = tokio::spawn(async move {
        let (mut out, speaker) = (bytes::BytesMut::new(), TestSide::new(Native::default()));
        for id in 0..100_000 {
            out.extend_from_slice(&speaker.encode(
                Lane::Normal,
                &MessageHeader::Request { id, kind: 1 },
                b"",
            ));
            if out.len() > 4096 {
                if far.stream.write_all(&out.split()).await.is_err() {
                    break;
                }
                assert!(
                    connection.pending_counts().queued_messages < 5_000,
                    "answers pile up: {:?}",
                    connection.pending_counts()
                );
            }
        }
        far
    });
    assert!(matches!(running.end().await, CloseReason::Flood));
    drop(asking.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_pings_closes_the_connection() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(1024);
    let running = side.start(near, RecordingHandler::new());
    let mut far = side.manual_peer(far);
    let ping = side.control(&Control::Ping { token: 1 });
    let flood: Vec<u8> = std::iter::repeat_n(&ping[..], 10_000).flatten().copied().collect();
    // The connection ends before it has read everything.
    let _ = far.stream.write_all(&flood).await;
    assert!(matches!(running.end().await, CloseReason::Flood));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_reads_is_seen_as_stalled() {
    let side = TestSide::new(Native::default());
    let (near, mut far) = pipe(4096);
    let handler = RecordingHandler::new();
    let running = side.start(near, handler.clone());
    settle().await;
    assert_eq!(running.connection.stalled_for(handler.now()), Duration::ZERO);
    running.connection.send(Message::new(1, vec![0; 10_000])).unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    let stalled = running.connection.stalled_for(handler.now());
    assert!(stalled >= Duration::from_secs(19), "{stalled:?}");
    let mut buffer = [0; 20_000];
    let mut got = 0;
    while got < 10_000 {
        got += far.read(&mut buffer).await.unwrap();
    }
    settle().await;
    assert_eq!(running.connection.stalled_for(handler.now()), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn reading_stays_paused_while_the_ceiling_does_not_cover_the_inbox() {
    let side = TestSide::with(Native::default(), SideConfig { budget: 70_000, ..SideConfig::default() });
    let (near, far) = pipe(1 << 20);
    let handler = RecordingHandler::new()
        .on_event(|_, _, _| Handled::later(tokio::time::sleep(Duration::from_secs(1))));
    let running = side.start(near, handler.clone());
    let hog = side.budget.reserve(69_000).unwrap();
    let mut far = side.manual_peer(far);
    for n in 0..20 {
        far.send(&side.event(Lane::Normal, n, &[1; 2000])).await;
    }
    settle().await;
    for _ in 0..5 {
        running.connection.ping();
        settle().await;
    }
    assert_eq!(
        handler.callbacks().iter().filter(|one| **one == Callback::Paused(true)).count(),
        1,
        "{:?}",
        handler.callbacks().len()
    );
    drop(hog);
    handler.until_events(20).await;
    assert_eq!(handler.kinds(), (0..20).collect::<Vec<_>>());
}

/// A handler that reserves all free memory, and the cell that holds the reservation.
fn greedy(
    side: &TestSide<Native>,
    then: impl Fn() -> Handled + Send + Sync + 'static,
) -> (RecordingHandler, Arc<Mutex<Option<MemoryReservation>>>) {
    let (budget, hog) = (Arc::clone(&side.budget), Arc::new(Mutex::new(None)));
    let all = Arc::clone(&hog);
    let handler = RecordingHandler::new().on_event(move |_, _, _| {
        all.lock().unwrap().get_or_insert_with(|| budget.reserve(budget.limit() - budget.used()).unwrap());
        then()
    });
    (handler, hog)
}

#[tokio::test(start_paused = true)]
async fn a_pause_at_the_ceiling_closes_nothing_and_kept_bytes_count() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(256 * 1024);
    let go = Arc::new(Semaphore::new(0));
    let gate = Arc::clone(&go);
    let (handler, hog) = greedy(&side, move || {
        let gate = Arc::clone(&gate);
        Handled::later(async move { gate.acquire().await.unwrap().forget() })
    });
    let running = side.start(near, handler.clone());
    let mut far = side.manual_peer(far);
    let event = side.event(Lane::Normal, 1, &[7; 100]);
    let count = 120 * 1024 / event.len();
    far.send(&event.repeat(count)).await;
    settle().await;
    assert_eq!(handler.count(|one| *one == Callback::Paused(true)), 1);
    assert!(running.connection.is_open());
    let (used, limit) = (side.budget.used(), side.budget.limit());
    assert!(used > limit + 100 * 1024 && used < limit + 128 * 1024, "{used} of {limit}");
    go.add_permits(count);
    handler.until_events(count).await;
    *hog.lock().unwrap() = None;
    settle().await;
    assert_eq!(side.budget.used(), 0);
    assert!(running.connection.is_open());
}

#[tokio::test(start_paused = true)]
async fn the_ceiling_does_not_hide_the_close_reason() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(256 * 1024);
    let (handler, _hog) = greedy(&side, || Handled::Done);
    let running = side.start(near, handler);
    let mut far = side.manual_peer(far);
    let mut bytes = side.event(Lane::Normal, 1, b"takes all").to_vec();
    // Not the header of any frame.
    bytes.resize(100 * 1024, 0xff);
    far.send(&bytes).await;
    assert!(matches!(far.rest().await[..], [Received::Control(Control::Goodbye(_))]));
    drop(far);
    assert!(matches!(running.end().await, CloseReason::Wire(_)));
}

#[tokio::test(start_paused = true)]
async fn large_messages_that_wait_for_a_handler_are_counted_and_others_wait_for_room() {
    const SIZE: usize = 6 << 20;
    // Room for one waiting message and one that is being reassembled, but not for two that wait.
    let side = TestSide::with(Native::default(), SideConfig { budget: 10 << 20, ..SideConfig::default() });
    let mut connections = Vec::new();
    for _ in 0..4 {
        let (near, far) = pipe(64 * 1024);
        let handler = RecordingHandler::new().on_event(|_, _, _| Handled::later(std::future::pending()));
        connections.push((side.start(near, handler), side.manual_peer(far)));
    }
    let large = side.event(Lane::Bulk, 1, &vec![1; SIZE]);
    let mut waiting = 0;
    for (running, far) in &mut connections {
        far.send(&side.event(Lane::Normal, 1, b"the handler is busy from now on")).await;
        // One for which there is no room is not read further, and is not closed.
        let sent = tokio::time::timeout(Duration::from_secs(1), far.stream.write_all(&large)).await;
        settle().await;
        waiting += usize::from(sent.is_ok_and(|sent| sent.is_ok()));
        assert!(running.connection.is_open());
        let used = side.budget.used();
        assert!((waiting * SIZE..(10 << 20) + 4 * 128 * 1024).contains(&used), "{used} for {waiting}");
    }
    assert_eq!((waiting, side.budget.waiting()), (1, 3));
    connections.iter().for_each(|(running, _)| running.task.abort());
    settle().await;
    assert_eq!(side.budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn memory_of_an_earlier_block_does_not_push_a_small_message_over_the_ceiling() {
    let side = TestSide::with(Native::default(), SideConfig { budget: 40 << 20, ..SideConfig::default() });
    let (near, far) = pipe(16 * 1024);
    let handler = RecordingHandler::new();
    let _running = side.start(near, handler.clone());
    let mut far = side.manual_peer(far);
    far.send(&side.event(Lane::Bulk, 1, &vec![1; 10_000_000])).await;
    handler.until_events(1).await;
    handler.forget();
    let _hog = side.budget.reserve(side.budget.limit() - side.budget.used() - (4 << 20)).unwrap();
    far.send(&side.event(Lane::Bulk, 2, &[2; 150_000])).await;
    handler.until_events(1).await;
    assert_eq!(handler.kinds(), [2]);
}

#[tokio::test(start_paused = true)]
async fn a_message_larger_than_the_ceiling_closes_only_its_connection() {
    let side = TestSide::with(Native::default(), SideConfig { budget: 200_000, ..SideConfig::default() });
    let (near, far) = pipe(64 * 1024);
    let (near_too, far_too) = pipe(64 * 1024);
    let (greedy, other) =
        (side.start(near, RecordingHandler::new()), side.start(near_too, RecordingHandler::new()));
    let (mut far, mut far_too) = (side.manual_peer(far), side.manual_peer(far_too));
    let _ = far.stream.write_all(&side.event(Lane::Bulk, 1, &vec![0; 2 << 20])).await;
    assert!(matches!(greedy.end().await, CloseReason::MemoryCeiling));
    far_too.send(&side.control(&Control::Ping { token: 5 })).await;
    assert_eq!(far_too.next().await, Some(Received::Control(Control::Pong { token: 5 })));
    assert_eq!(side.budget.used(), 0);
    drop(other);
}

/// A slow reader that makes progress delays producers instead of missing messages.
#[tokio::test(start_paused = true)]
async fn a_waiting_producer_keeps_a_slow_peer_from_lagging() {
    let config = SideConfig { ring: 1 << 20, lag: LagPolicy::Disconnect, ..SideConfig::default() };
    let side = TestSide::with(Native::default(), config);
    let (near, far) = pipe(16 * 1024);
    let running = side.start(near, RecordingHandler::new());
    let mut far = side.manual_peer(far);
    let reading = tokio::spawn(async move {
        let mut messages = 0;
        loop {
            // About 160 kB a second: the log always has more for this connection.
            tokio::time::sleep(Duration::from_millis(100)).await;
            let mut taken = 0;
            while taken < 16 {
                match far.message().await {
                    Some(_) => taken += 1,
                    None => return (messages, far),
                }
                messages += 1;
                if messages == 2_000 {
                    return (messages, far);
                }
            }
        }
    });
    let log = Arc::clone(side.log(Lane::Normal));
    let start = tokio::time::Instant::now();
    let now = || Tick::from_millis(start.elapsed().as_millis() as u64);
    for n in 0..2_000u16 {
        loop {
            let mut waiter = log.room_wait();
            let ready = std::future::poll_fn(|cx| waiter.poll(cx, now()));
            if tokio::time::timeout(Duration::from_millis(250), ready).await.is_ok() {
                break;
            }
            log.tick(now());
        }
        side.broadcast(Lane::Normal, n, &[0; 1000]);
    }
    let (got, _far) = tokio::time::timeout(TIMEOUT * 100, reading).await.unwrap().unwrap();
    assert_eq!(got, 2_000);
    assert_eq!(log.stats().skipped, 0);
    assert!(running.connection.is_open());
}

#[derive(Default)]
struct NotingWaker(AtomicBool);

impl Wake for NotingWaker {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Polls until the future waits for something else than its turn. Returns how many polls it took.
fn turns<F: Future<Output = CloseReason> + Unpin>(driver: &mut F) -> usize {
    let noting = Arc::new(NotingWaker::default());
    let waker = Waker::from(Arc::clone(&noting));
    for polls in 1.. {
        match Pin::new(&mut *driver).poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(reason) => panic!("closed: {reason}"),
            Poll::Pending if noting.0.swap(false, Ordering::Relaxed) => {}
            Poll::Pending => return polls,
        }
    }
    unreachable!("the peer sends a bounded number of frames")
}

#[tokio::test(start_paused = true)]
async fn one_turn_handles_a_bounded_number_of_frames_of_every_kind() {
    const FRAMES: usize = 40_000;
    const MAX_FRAMES_PER_TURN: usize = 512;
    let side = TestSide::new(Native::default());
    let response = MessageHeader::Response { id: 1, status: Status::Ok };
    let kinds = [
        ("events", side.event(Lane::Normal, 1, b"")),
        ("pings", side.control(&Control::Ping { token: 1 })),
        ("pongs", side.control(&Control::Pong { token: 1 })),
        ("cancels", side.encode(Lane::Normal, &MessageHeader::Cancel { id: 1 }, b"")),
        ("responses", side.encode(Lane::Normal, &response, b"")),
        ("address requests", side.control(&Control::GetPeers { max: 1 })),
        ("address lists", side.control(&Control::Peers(Vec::new()))),
    ];
    // The pipe's own budget would end a turn early.
    tokio::task::unconstrained(async {
        for (name, frame) in kinds {
            let (near, mut far) = pipe(2 << 20);
            let mut driver = side.build().start(near, RecordingHandler::new(), InitialIo::default());
            assert_eq!(turns(&mut driver), 1, "{name}: idle");
            far.write_all(&frame.repeat(FRAMES)).await.unwrap();
            let turns = turns(&mut driver);
            assert!(turns >= FRAMES / MAX_FRAMES_PER_TURN, "{name}: {FRAMES} frames in {turns} turns");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_pong_that_guesses_its_token_measures_nothing() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(1 << 20);
    let handler = RecordingHandler::new();
    let running = side.start(near, handler.clone());
    let mut far = side.manual_peer(far);
    let rtts = || handler.count(|one| matches!(one, Callback::Rtt(_)));
    let mut last = 0u64;
    for ping in 0..8 {
        // The ping is under way, and not received.
        running.connection.ping();
        settle().await;
        // Small numbers, what follows the last token in either half, and counts in the upper half.
        let following = (last..last.saturating_add(100)).chain((1..4).map(|step| last + (step << 32)));
        for token in (0..100).chain(following).chain((0..16).map(|count| count << 32)) {
            far.stream.write_all(&side.control(&Control::Pong { token })).await.unwrap();
        }
        settle().await;
        assert_eq!(rtts(), ping, "a guess was right");
        let Some(Received::Control(Control::Ping { token })) = far.message().await else { panic!("no ping") };
        far.stream.write_all(&side.control(&Control::Pong { token })).await.unwrap();
        settle().await;
        assert_eq!(rtts(), ping + 1);
        last = token;
    }
}

#[tokio::test]
async fn a_slow_handler_does_not_stretch_its_turn() {
    const EVENTS: usize = 256;
    /// Two looks at the clock, each behind 32 frames.
    const MAX_SLOW_FRAMES_PER_TURN: usize = 64;
    let side = TestSide::new(Native::default());
    let handler = RecordingHandler::new().on_event(|_, _, _| {
        std::thread::sleep(Duration::from_micros(50));
        Handled::Done
    });
    tokio::task::unconstrained(async {
        let (near, mut far) = pipe(1 << 20);
        let mut driver = side.build().start(near, handler, InitialIo::default());
        far.write_all(&side.event(Lane::Normal, 1, b"").repeat(EVENTS)).await.unwrap();
        let turns = turns(&mut driver);
        assert!(turns >= EVENTS / MAX_SLOW_FRAMES_PER_TURN, "{EVENTS} events in {turns} turns");
    })
    .await;
}
