//! Nothing that a peer leaves unfinished lives for ever, and what it makes us hold is counted until
//! it is released.

use std::sync::Arc;
use std::time::Duration;

use peerpool::Lane;
use peerpool::connection::{CloseReason, ConnectionHandler as _, Handled, Message, Responder};
use peerpool::wire::{Control, MessageHeader, Native, Status};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use crate::harness::*;

/// Default window of progress.
const WINDOW: Duration = Duration::from_secs(20);

/// The first chunks of a large message, without its end.
fn beginning(side: &TestSide<Native>, bytes: usize) -> Vec<u8> {
    side.event(Lane::Bulk, 1, &vec![7; 1 << 20])[..bytes].to_vec()
}

#[tokio::test(start_paused = true)]
async fn an_unfinished_message_that_does_not_grow_ends_its_connection_though_pings_are_answered() {
    // In the middle of a message, of a frame, and of a frame's header.
    for bytes in [16_388 * 3, 16_388 * 3 + 50, 100, 2] {
        let side = TestSide::new(Native::default());
        let (near, far) = pipe(1 << 20);
        let running = side.start(near, RecordingHandler::new());
        let mut far = side.manual_peer(far);
        let begun = Instant::now();
        far.send(&beginning(&side, bytes)).await;
        // In the middle of a message a ping can come; in the middle of a frame nothing can.
        if bytes == 16_388 * 3 {
            for token in 0..3 {
                sleep(Duration::from_secs(5)).await;
                far.send(&side.control(&Control::Ping { token })).await;
            }
        }
        let ended = timeout(WINDOW * 3, running.end()).await.expect("it ends");
        assert!(matches!(ended, CloseReason::NoProgress), "{bytes}: {ended}");
        assert!((WINDOW..WINDOW * 2 + Duration::from_secs(1)).contains(&begun.elapsed()), "{bytes}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unfinished_message_that_grows_at_the_least_rate_comes_through() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(1 << 20);
    let handler = RecordingHandler::new();
    let running = side.start(near, handler.clone());
    let mut far = side.manual_peer(far);
    let message = side.event(Lane::Bulk, 1, &vec![7; 100_000]);
    // Somewhat more than 1 KiB a second.
    for piece in message.chunks(11_000) {
        far.send(piece).await;
        sleep(Duration::from_secs(10)).await;
    }
    assert!(running.connection.is_open());
    assert_eq!(handler.kinds(), [1]);
    // Quiet afterwards, and a frame now and then.
    for kind in 2..10 {
        sleep(Duration::from_secs(17)).await;
        far.send(&side.event(Lane::Normal, kind, b"small")).await;
    }
    settle().await;
    assert!(running.connection.is_open());
}

#[tokio::test(start_paused = true)]
async fn the_clock_stands_while_we_do_not_read() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(1 << 20);
    let go = Arc::new(Semaphore::new(0));
    let gate = Arc::clone(&go);
    let handler = RecordingHandler::new().on_event(move |_, _, _| {
        let gate = Arc::clone(&gate);
        Handled::later(async move { gate.acquire().await.unwrap().forget() })
    });
    let running = side.start(near, handler.clone());
    let mut far = side.manual_peer(far);
    for kind in 0..200 {
        far.send(&side.event(Lane::Normal, kind, &[1; 2_000])).await;
    }
    far.send(&beginning(&side, 16_388)).await;
    sleep(WINDOW * 5).await;
    assert!(running.connection.is_open(), "the handler is slow, not the peer");
    go.add_permits(200);
    handler.until_events(200).await;
    let ended = timeout(WINDOW * 3, running.end()).await.expect("it ends");
    assert!(matches!(ended, CloseReason::NoProgress), "{ended}");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_a_byte_now_and_then_counts_as_stalled() {
    for (bytes, pause, is_stalled) in [(1, 5_000, true), (2_000, 500, false)] {
        let side = TestSide::new(Native::default());
        let (near, mut far) = pipe(1024);
        let handler = RecordingHandler::new();
        let running = side.start(near, handler.clone());
        running.connection.send(Message::new(1, vec![0; 400_000])).unwrap();
        settle().await;
        let (begun, mut buffer) = (Instant::now(), vec![0; bytes]);
        let mut longest = Duration::ZERO;
        while begun.elapsed() < WINDOW * 2 {
            sleep(Duration::from_millis(pause)).await;
            far.read_exact(&mut buffer).await.unwrap();
            settle().await;
            longest = longest.max(running.connection.stalled_for(handler.now()));
        }
        assert_eq!(longest >= WINDOW, is_stalled, "{bytes} bytes in {pause} ms: {longest:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_payload_counts_until_the_handlers_future_ends() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(1 << 20);
    let go = Arc::new(Semaphore::new(0));
    let gate = Arc::clone(&go);
    let answers = move |_, payload, responder: Responder| {
        let gate = Arc::clone(&gate);
        Handled::later(async move {
            gate.acquire().await.unwrap().forget();
            drop(payload);
            let _ = responder.respond("done");
        })
    };
    let _running = side.start(near, RecordingHandler::new().on_request(answers));
    let mut far = side.manual_peer(far);
    // Sixteen are handled at once, and one waits.
    for id in 0..17 {
        let request = side.encode(Lane::Bulk, &MessageHeader::Request { id, kind: 1 }, &[7; 1_000_000]);
        far.send(&request).await;
    }
    settle().await;
    let held = side.budget.used();
    assert!((17_000_000..18_000_000).contains(&held), "{held}");
    go.add_permits(17);
    for _ in 0..17 {
        assert!(far.message().await.is_some());
    }
    settle().await;
    assert_eq!(side.budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_response_counts_until_the_asker_takes_it() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(1 << 20);
    let running = side.start(near, RecordingHandler::new());
    let mut far = side.manual_peer(far);
    let mut pipeline = running.connection.pipeline(TIMEOUT);
    for kind in 0..3 {
        pipeline.send(Message::new(kind, "?")).unwrap();
        let Some(Received::Message(_, MessageHeader::Request { id, .. }, _)) = far.message().await else {
            panic!("a request")
        };
        let response = MessageHeader::Response { id, status: Status::Ok };
        far.send(&side.encode(Lane::Bulk, &response, &[7; 1_000_000])).await;
    }
    settle().await;
    assert!(side.budget.used() >= 3_000_000, "{}", side.budget.used());
    for _ in 0..3 {
        pipeline.next().await.unwrap().1.unwrap();
    }
    settle().await;
    assert_eq!(side.budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_small_message_comes_through_at_the_ceiling() {
    let side = TestSide::with(Native::default(), SideConfig { budget: 64 << 20, ..SideConfig::default() });
    // All that strangers may hold.
    let _hog = side.budget.reserve(side.budget.limit() / 4 * 3).unwrap();
    let (near, far) = pipe(1 << 20);
    let handler = RecordingHandler::new();
    let running = side.start(near, handler.clone());
    let mut far = side.manual_peer(far);
    far.stream.write_all(&side.event(Lane::Normal, 1, &[7; 64 * 1024])).await.unwrap();
    handler.until_events(1).await;
    assert!(running.connection.is_open());
}
