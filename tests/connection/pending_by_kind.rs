//! Requests in a protocol without ids, the TIME Coin wire: one request at a time in each reply
//! slot.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use peerpool::Lane;
use peerpool::connection::{ConnectionConfig, Handled, Message, RequestError, Responder, SendError};
use peerpool::timecoin::wire::{Kind, NetworkMessage, Software, TimeCoin, UNKNOWN};
use peerpool::wire::{Control, EncodeError, MessageHeader, Status};

use crate::harness::*;

fn side() -> TestSide<TimeCoin> {
    TestSide::new(TimeCoin::testnet(Software::default()))
}

fn text(said: &NetworkMessage) -> Bytes {
    said.to_bytes().unwrap()
}

fn message(said: &NetworkMessage) -> Message {
    Message::new(said.kind().code(), text(said))
}

fn block_request(height: u64) -> NetworkMessage {
    NetworkMessage::StateSnapshotRequest { height }
}

fn block(height: u64) -> NetworkMessage {
    NetworkMessage::StateSnapshotResponse {
        height,
        utxo_merkle_root: "ab".into(),
        state_data: vec![1, 2, 3],
        compressed: false,
        snapshot_size_bytes: 3,
    }
}

fn frame(said: &NetworkMessage) -> Vec<u8> {
    let text = text(said);
    [&(text.len() as u32).to_be_bytes()[..], &text].concat()
}

/// The payloads that reached the handler as events, in order.
fn events(handler: &RecordingHandler) -> Vec<Bytes> {
    let callbacks = handler.callbacks().into_iter();
    callbacks
        .filter_map(|one| if let Callback::Event(_, _, body) = one { Some(body) } else { None })
        .collect()
}

async fn asked<S: peerpool::transport::Stream>(far: &mut ManualPeer<TimeCoin, S>) -> Bytes {
    match far.message().await {
        Some(Received::Message(_, MessageHeader::Request { .. }, body)) => body,
        other => panic!("{other:?}"),
    }
}

fn ask(running: &RunningConnection, said: &NetworkMessage, within: Duration) -> Asking {
    let (connection, message) = (Arc::clone(&running.connection), message(said));
    tokio::spawn(async move { connection.request(message, within).await })
}

type Asking = tokio::task::JoinHandle<Result<Bytes, RequestError>>;

#[tokio::test(start_paused = true)]
async fn a_reply_matches_its_request_by_kind_and_field_and_others_reach_the_handler() {
    let side = side();
    let (near, far) = pipe(64 * 1024);
    let handler = RecordingHandler::new();
    let running = side.start(near, handler.clone());
    let mut far = side.manual_peer(far);
    let asking = ask(&running, &block_request(7), TIMEOUT);
    assert_eq!(asked(&mut far).await, text(&block_request(7)));
    // Another height than the requested one, and a reply to no request.
    far.send(&frame(&block(8))).await;
    far.send(&frame(&NetworkMessage::PeerList(Vec::new()))).await;
    handler.until_events(2).await;
    assert!(!asking.is_finished());
    far.send(&frame(&block(7))).await;
    assert_eq!(asking.await.unwrap().unwrap(), text(&block(7)));
    // No request waits any more.
    far.send(&frame(&block(7))).await;
    handler.until_events(3).await;
    let callbacks = events(&handler);
    assert_eq!(callbacks, [text(&block(8)), text(&NetworkMessage::PeerList(Vec::new())), text(&block(7))]);
    assert_eq!(running.connection.pending_counts().outbound_requests, 0);
}

#[tokio::test(start_paused = true)]
async fn one_request_per_slot_is_sent_and_the_next_waits_for_its_turn() {
    let side = side();
    let (near, far) = pipe(64 * 1024);
    let running = side.start(near, RecordingHandler::new());
    let mut far = side.manual_peer(far);
    let first = ask(&running, &block_request(1), TIMEOUT);
    assert_eq!(asked(&mut far).await, text(&block_request(1)));
    let second = ask(&running, &block_request(2), TIMEOUT);
    settle().await;
    // Another slot is free meanwhile.
    let height = ask(&running, &NetworkMessage::GetBlockchainHeight, TIMEOUT);
    assert_eq!(asked(&mut far).await, text(&NetworkMessage::GetBlockchainHeight));
    far.send(&frame(&NetworkMessage::BlockchainHeight(42))).await;
    assert_eq!(height.await.unwrap().unwrap(), text(&NetworkMessage::BlockchainHeight(42)));
    far.send(&frame(&block(1))).await;
    assert_eq!(first.await.unwrap().unwrap(), text(&block(1)));
    assert_eq!(asked(&mut far).await, text(&block_request(2)));
    far.send(&frame(&block(2))).await;
    assert_eq!(second.await.unwrap().unwrap(), text(&block(2)));
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_does_not_come_in_time_returns_the_message() {
    let side = side();
    let (near, far) = pipe(64 * 1024);
    let running = side.start(near, RecordingHandler::new());
    let mut far = side.manual_peer(far);
    let first = ask(&running, &block_request(1), TIMEOUT);
    asked(&mut far).await;
    let second = ask(&running, &block_request(2), Duration::from_secs(5));
    let Err(RequestError::TooMany(back)) = second.await.unwrap() else { panic!("it was sent") };
    assert_eq!(back.payload, text(&block_request(2)));
    far.send(&frame(&block(1))).await;
    first.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn after_a_timeout_the_slot_stays_closed_until_the_late_reply() {
    let side = side();
    let (near, far) = pipe(64 * 1024);
    let handler = RecordingHandler::new();
    let running = side.start(near, handler.clone());
    let mut far = side.manual_peer(far);
    let hasty = ask(&running, &block_request(1), Duration::from_secs(1));
    // Waits for its turn behind a request that times out.
    let behind = ask(&running, &block_request(2), TIMEOUT);
    asked(&mut far).await;
    assert!(matches!(hasty.await.unwrap(), Err(RequestError::Timeout)));
    for refused in [behind, ask(&running, &block_request(3), TIMEOUT)] {
        assert!(matches!(refused.await.unwrap(), Err(RequestError::ReplyOutstanding(_))));
    }
    // The late reply matches no request: it goes to the handler, and frees the slot.
    far.send(&frame(&block(1))).await;
    handler.until_events(1).await;
    assert_eq!(events(&handler), [text(&block(1))]);
    let again = ask(&running, &block_request(4), TIMEOUT);
    assert_eq!(asked(&mut far).await, text(&block_request(4)));
    far.send(&frame(&block(4))).await;
    assert_eq!(again.await.unwrap().unwrap(), text(&block(4)));
}

#[tokio::test(start_paused = true)]
async fn a_request_abandoned_before_it_was_sent_frees_its_slot() {
    let side = side();
    let (near, far) = pipe(16);
    let running = side.start(near, RecordingHandler::new());
    running.connection.send(Message::new(Kind::GenesisBlock.code(), vec![b' '; 8_000])).unwrap();
    settle().await;
    let asking = ask(&running, &block_request(1), TIMEOUT);
    settle().await;
    assert_eq!(
        (
            running.connection.pending_counts().outbound_requests,
            running.connection.pending_counts().queued_messages
        ),
        (1, 1)
    );
    asking.abort();
    let _ = asking.await;
    assert_eq!(running.connection.pending_counts(), peerpool::connection::PendingCounts::default());
    let mut far = side.manual_peer(far);
    assert!(matches!(far.message().await, Some(Received::Message(_, MessageHeader::Event { .. }, _))));
    let again = ask(&running, &block_request(2), TIMEOUT);
    assert_eq!(asked(&mut far).await, text(&block_request(2)));
    far.send(&frame(&block(2))).await;
    again.await.unwrap().unwrap();
}

#[test]
fn two_requests_abandoned_unsent_do_not_close_the_slot() {
    let side = side();
    // Nothing is ever sent: no driver runs.
    let builder = side.build();
    let gives_up = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            for height in 0..20_000 {
                let mut asking =
                    Box::pin(builder.connection().request(message(&block_request(height)), TIMEOUT));
                let refused = poll_once(&mut asking).await;
                assert!(refused.is_none(), "{refused:?}");
            }
        });
    };
    std::thread::scope(|scope| {
        scope.spawn(gives_up);
        scope.spawn(gives_up);
    });
    assert_eq!(builder.connection().pending_counts(), peerpool::connection::PendingCounts::default());
}

#[tokio::test(start_paused = true)]
async fn closing_fails_requests_that_wait_for_a_reply_or_a_turn() {
    let side = side();
    let (near, far) = pipe(64 * 1024);
    let running = side.start(near, RecordingHandler::new());
    let mut far = side.manual_peer(far);
    let waits = ask(&running, &block_request(1), TIMEOUT);
    asked(&mut far).await;
    let queued = ask(&running, &block_request(2), TIMEOUT);
    settle().await;
    drop(far);
    assert!(matches!(waits.await.unwrap(), Err(RequestError::Closed)));
    assert!(matches!(queued.await.unwrap(), Err(RequestError::NotSent(SendError::Closed(_)))));
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_the_protocol_cannot_carry_is_returned() {
    let side = side();
    let (near, far) = pipe(1024);
    let running = side.start(near, RecordingHandler::new());
    let mut far = side.manual_peer(far);
    for message in [Message::new(UNKNOWN, ""), Message::new(Kind::ALL.len() as u16, vec![b' '; 8_000])] {
        let refused = running.connection.send(message.clone()).unwrap_err();
        let cause = EncodeError::Unsupported { what: "message of this kind" };
        assert!(matches!(&refused, SendError::Refused { cause: why, .. } if *why == cause), "{refused:?}");
        assert_eq!(refused.into_message(), message);
    }
    running.connection.send(Message::new(Kind::ALL.len() as u16 - 1, text(&block(1)))).unwrap();
    assert!(
        matches!(far.message().await, Some(Received::Message(_, MessageHeader::Event { .. }, body)) if body == text(&block(1)))
    );
}

#[tokio::test(start_paused = true)]
async fn a_kind_without_a_reply_is_no_request() {
    let side = side();
    let (near, _far) = pipe(1024);
    let running = side.start(near, RecordingHandler::new());
    let tip = NetworkMessage::UpdateTip { height: 1, hash: "ab".into() };
    let refused = ask(&running, &tip, TIMEOUT).await.unwrap();
    assert!(matches!(refused, Err(RequestError::NotSent(SendError::Refused { .. }))), "{refused:?}");
    assert_eq!(running.connection.pending_counts().outbound_requests, 0);
}

#[tokio::test(start_paused = true)]
async fn requests_of_one_slot_are_answered_in_order_and_of_others_beside() {
    let side = side();
    let (near, far) = pipe(64 * 1024);
    let open = Arc::new(Mutex::new(Vec::<(Bytes, Responder)>::new()));
    let handler = RecordingHandler::new().on_request({
        let open = Arc::clone(&open);
        move |_, body, responder| {
            open.lock().unwrap().push((body, responder));
            Handled::Done
        }
    });
    let _running = side.start(near, handler.clone());
    let mut far = side.manual_peer(far);
    for said in [block_request(1), block_request(2), NetworkMessage::GetBlockchainHeight, block_request(3)] {
        far.send(&frame(&said)).await;
    }
    handler.until(|callbacks| callbacks.len() == 2).await;
    settle().await;
    let mut waiting: Vec<_> = open.lock().unwrap().drain(..).collect();
    assert_eq!(waiting.len(), 2, "one of each place");
    let (height, responder) = waiting.pop().unwrap();
    assert_eq!(height, text(&NetworkMessage::GetBlockchainHeight));
    responder.respond(text(&NetworkMessage::BlockchainHeight(9))).unwrap();
    // The first is declined, which only our own nodes understand; the next one's turn comes all the
    // same.
    waiting.pop().unwrap().1.decline(Status::Busy, "").unwrap();
    for height in [2, 3] {
        handler.until(|callbacks| callbacks.len() as u64 == height + 1).await;
        let (body, responder) = open.lock().unwrap().pop().unwrap();
        assert_eq!(body, text(&block_request(height)));
        responder.on(Lane::Bulk).respond(text(&block(height))).unwrap();
    }
    let mut got = Vec::new();
    for _ in 0..4 {
        let Some(Received::Message(_, _, body)) = far.message().await else { panic!("an answer is missing") };
        got.push(body);
    }
    let declined = Bytes::new();
    assert_eq!(got, [text(&NetworkMessage::BlockchainHeight(9)), declined, text(&block(2)), text(&block(3))]);
}

fn declined(answer: Kind, status: Status) -> Bytes {
    format!(r#"{{"Declined":{{"answer":"{}","status":{}}}}}"#, answer.name(), status.code()).into()
}

#[tokio::test(start_paused = true)]
async fn a_decline_fails_the_request_and_frees_the_slot_of_an_abandoned_one() {
    let side = side();
    let (near, far) = pipe(64 * 1024);
    let running = side.start(near, RecordingHandler::new());
    let mut far = side.manual_peer(far);
    let no = declined(Kind::StateSnapshotResponse, Status::Busy);
    let no = [&(no.len() as u32).to_be_bytes()[..], &no].concat();
    // A decline that no request waits for is ignored.
    far.send(&no).await;
    let refused = ask(&running, &block_request(1), TIMEOUT);
    assert_eq!(asked(&mut far).await, text(&block_request(1)));
    let next = ask(&running, &block_request(2), TIMEOUT);
    settle().await;
    far.send(&no).await;
    let refused = refused.await.unwrap();
    assert!(matches!(refused, Err(RequestError::Declined { status: Status::Busy, .. })), "{refused:?}");
    assert_eq!(asked(&mut far).await, text(&block_request(2)));
    next.abort();
    settle().await;
    let open = ask(&running, &block_request(3), TIMEOUT).await.unwrap();
    assert!(matches!(open, Err(RequestError::ReplyOutstanding(_))), "{open:?}");
    far.send(&no).await;
    settle().await;
    assert_eq!(running.connection.pending_counts().outbound_requests, 0);
    let last = ask(&running, &block_request(4), TIMEOUT);
    assert_eq!(asked(&mut far).await, text(&block_request(4)));
    far.send(&frame(&block(4))).await;
    assert_eq!(last.await.unwrap().unwrap(), text(&block(4)));
}

#[tokio::test(start_paused = true)]
async fn leaving_the_queue_passes_on_only_ones_own_turn() {
    let side = side();
    let (near, far) = pipe(64 * 1024);
    let running = side.start(near, RecordingHandler::new());
    let mut far = side.manual_peer(far);
    let manual_peer = |height| {
        let (connection, message) = (Arc::clone(&running.connection), message(&block_request(height)));
        Box::pin(async move { connection.request(message, TIMEOUT).await })
    };
    let first = ask(&running, &block_request(0), TIMEOUT);
    assert_eq!(asked(&mut far).await, text(&block_request(0)));
    // Polled by hand, so that it has its turn and has not used it yet.
    let mut told = manual_peer(1);
    let mut behind = manual_peer(2);
    let mut called_and_gone = manual_peer(3);
    for waiting in [&mut told, &mut behind, &mut called_and_gone] {
        assert!(poll_once(waiting).await.is_none());
    }
    far.send(&frame(&block(0))).await;
    first.await.unwrap().unwrap();
    drop(behind);
    let newcomer = ask(&running, &block_request(4), TIMEOUT);
    settle().await;
    assert!(poll_once(&mut told).await.is_none());
    assert_eq!(asked(&mut far).await, text(&block_request(1)), "its turn was its own");
    far.send(&frame(&block(1))).await;
    assert_eq!(told.await.unwrap(), text(&block(1)));
    // The next request has its turn, and is dropped before it uses it.
    drop(called_and_gone);
    assert_eq!(asked(&mut far).await, text(&block_request(4)));
    far.send(&frame(&block(4))).await;
    newcomer.await.unwrap().unwrap();
    assert_eq!(running.connection.pending_counts().outbound_requests, 0);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_requests_of_one_slot_pauses_reading_and_loses_none() {
    let config = SideConfig {
        connection: ConnectionConfig { inbox_messages: 4, ..ConnectionConfig::default() },
        ..SideConfig::default()
    };
    let side = TestSide::with(TimeCoin::testnet(Software::default()), config);
    let (near, far) = pipe(256);
    let handler = RecordingHandler::new().on_request(|_, body, responder| {
        Handled::later(async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let Ok(NetworkMessage::StateSnapshotRequest { height }) = NetworkMessage::decode(&body) else {
                panic!("not what was asked")
            };
            responder.respond(text(&block(height))).unwrap();
        })
    });
    let _running = side.start(near, handler.clone());
    let mut far = side.manual_peer(far);
    let sending = tokio::spawn(async move {
        for height in 0..50 {
            far.send(&frame(&block_request(height))).await;
        }
        far
    });
    settle().await;
    assert_eq!(handler.count(|one| *one == Callback::Paused(true)), 1);
    assert!(!sending.is_finished(), "the stream is full: nobody reads");
    let mut far = sending.await.unwrap();
    for height in 0..50 {
        let Some(Received::Message(_, _, body)) = far.message().await else { panic!("an answer is missing") };
        assert_eq!(body, text(&block(height)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_found_no_room_leaves_its_slot_free() {
    let config = SideConfig {
        connection: ConnectionConfig { outbox_messages: 1, ..ConnectionConfig::default() },
        ..SideConfig::default()
    };
    let side = TestSide::with(TimeCoin::testnet(Software::default()), config);
    let (near, far) = pipe(16);
    let running = side.start(near, RecordingHandler::new());
    // The first is being written, the second fills the queue.
    for _ in 0..2 {
        running.connection.send(Message::new(Kind::GenesisBlock.code(), vec![b' '; 8_000])).unwrap();
        settle().await;
    }
    let refused = ask(&running, &block_request(1), TIMEOUT).await.unwrap();
    assert!(matches!(refused, Err(RequestError::NotSent(SendError::Full(_)))), "{refused:?}");
    assert_eq!(running.connection.pending_counts().outbound_requests, 0);
    let mut far = side.manual_peer(far);
    for _ in 0..2 {
        far.message().await;
    }
    let again = ask(&running, &block_request(2), TIMEOUT);
    assert_eq!(asked(&mut far).await, text(&block_request(2)));
    far.send(&frame(&block(2))).await;
    again.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn turns_come_in_order_and_leaving_the_queue_blocks_nobody() {
    let side = side();
    let (near, far) = pipe(64 * 1024);
    let running = side.start(near, RecordingHandler::new());
    let mut far = side.manual_peer(far);
    let mut asking = Vec::new();
    for height in 0..6 {
        asking.push(ask(&running, &block_request(height), TIMEOUT));
        settle().await;
    }
    asking[1].abort();
    asking[4].abort();
    for height in [0, 2, 3, 5] {
        assert_eq!(asked(&mut far).await, text(&block_request(height)));
        far.send(&frame(&block(height))).await;
    }
    for height in [0, 2, 3, 5] {
        assert_eq!((&mut asking[height as usize]).await.unwrap().unwrap(), text(&block(height)));
    }
    assert_eq!(running.connection.pending_counts().outbound_requests, 0);
}

/// Polls a future once.
async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    std::future::poll_fn(|cx| match std::pin::Pin::new(&mut *future).poll(cx) {
        std::task::Poll::Ready(output) => std::task::Poll::Ready(Some(output)),
        std::task::Poll::Pending => std::task::Poll::Ready(None),
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn a_lost_pong_is_not_replaced_by_later_ones() {
    let side = side();
    let (near, far) = pipe(1024);
    let handler = RecordingHandler::new();
    let running = side.start(near, handler.clone());
    let mut far = side.manual_peer(far);
    let ping = Some(Received::Control(Control::Ping { token: 0 }));
    running.connection.ping();
    assert_eq!(far.message().await, ping);
    tokio::time::sleep(Duration::from_secs(60)).await;
    running.connection.ping();
    assert_eq!(far.message().await, ping);
    tokio::time::sleep(Duration::from_millis(20)).await;
    far.send(&frame(&NetworkMessage::Pong)).await;
    handler
        .until(|callbacks| matches!(callbacks, [Callback::Rtt(rtt)] if *rtt < Duration::from_secs(1)))
        .await;
    assert!(!running.connection.has_unanswered_ping());
}
