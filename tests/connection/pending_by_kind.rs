//! Requests without ids, on the old network's wire: an answer is known by what it is, one question at a time a place.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use peerpool::base::Lane;
use peerpool::connection::{ConnectionConfig, Handled, Message, RequestError, Responder, SendError};
use peerpool::timecoin::wire::{Kind, NetworkMessage, Software, TimeCoin, UNKNOWN};
use peerpool::wire::{Control, EncodeError, MessageHeader, Status};

use crate::harness::*;

fn side() -> Side<TimeCoin> {
    Side::new(TimeCoin::testnet(Software::default()))
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

/// What of these the host heard as events, in order.
fn events(ear: &Ear) -> Vec<Bytes> {
    let heard = ear.heard().into_iter();
    heard.filter_map(|one| if let Heard::Event(_, _, body) = one { Some(body) } else { None }).collect()
}

async fn asked<S: peerpool::transport::Stream>(far: &mut ByHand<TimeCoin, S>) -> Bytes {
    match far.message().await {
        Some(Item::Message(_, MessageHeader::Request { .. }, body)) => body,
        other => panic!("{other:?}"),
    }
}

fn ask(running: &Running, said: &NetworkMessage, within: Duration) -> Asking {
    let (connection, message) = (Arc::clone(&running.connection), message(said));
    tokio::spawn(async move { connection.request(message, within).await })
}

type Asking = tokio::task::JoinHandle<Result<Bytes, RequestError>>;

#[tokio::test(start_paused = true)]
async fn an_answer_finds_its_question_by_kind_and_field_and_others_reach_the_handler() {
    let side = side();
    let (near, far) = pipe(64 * 1024);
    let ear = Ear::new();
    let running = side.start(near, ear.clone());
    let mut far = side.by_hand(far);
    let asking = ask(&running, &block_request(7), WAIT);
    assert_eq!(asked(&mut far).await, text(&block_request(7)));
    // Not the height that was asked for, and an answer to nothing at all.
    far.send(&frame(&block(8))).await;
    far.send(&frame(&NetworkMessage::PeerList(Vec::new()))).await;
    ear.until_events(2).await;
    assert!(!asking.is_finished());
    far.send(&frame(&block(7))).await;
    assert_eq!(asking.await.unwrap().unwrap(), text(&block(7)));
    // Nobody asks any more.
    far.send(&frame(&block(7))).await;
    ear.until_events(3).await;
    let heard = events(&ear);
    assert_eq!(heard, [text(&block(8)), text(&NetworkMessage::PeerList(Vec::new())), text(&block(7))]);
    assert_eq!(running.connection.pending_counts().outbound_requests, 0);
}

#[tokio::test(start_paused = true)]
async fn one_question_a_place_is_on_the_line_and_the_next_waits_for_its_turn() {
    let side = side();
    let (near, far) = pipe(64 * 1024);
    let running = side.start(near, Ear::new());
    let mut far = side.by_hand(far);
    let first = ask(&running, &block_request(1), WAIT);
    assert_eq!(asked(&mut far).await, text(&block_request(1)));
    let second = ask(&running, &block_request(2), WAIT);
    settle().await;
    // Another place is free meanwhile.
    let height = ask(&running, &NetworkMessage::GetBlockchainHeight, WAIT);
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
async fn a_turn_that_does_not_come_in_time_gives_the_message_back() {
    let side = side();
    let (near, far) = pipe(64 * 1024);
    let running = side.start(near, Ear::new());
    let mut far = side.by_hand(far);
    let first = ask(&running, &block_request(1), WAIT);
    asked(&mut far).await;
    let second = ask(&running, &block_request(2), Duration::from_secs(5));
    let Err(RequestError::TooMany(back)) = second.await.unwrap() else { panic!("it was sent") };
    assert_eq!(back.payload, text(&block_request(2)));
    far.send(&frame(&block(1))).await;
    first.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn after_a_timeout_the_place_stays_closed_until_the_late_answer_came() {
    let side = side();
    let (near, far) = pipe(64 * 1024);
    let ear = Ear::new();
    let running = side.start(near, ear.clone());
    let mut far = side.by_hand(far);
    let hasty = ask(&running, &block_request(1), Duration::from_secs(1));
    // Waits for its turn behind one that times out.
    let behind = ask(&running, &block_request(2), WAIT);
    asked(&mut far).await;
    assert!(matches!(hasty.await.unwrap(), Err(RequestError::Timeout)));
    for refused in [behind, ask(&running, &block_request(3), WAIT)] {
        assert!(matches!(refused.await.unwrap(), Err(RequestError::ReplyOutstanding(_))));
    }
    // The late answer answers nothing any more: it goes to the handler, and opens the place.
    far.send(&frame(&block(1))).await;
    ear.until_events(1).await;
    assert_eq!(events(&ear), [text(&block(1))]);
    let again = ask(&running, &block_request(4), WAIT);
    assert_eq!(asked(&mut far).await, text(&block_request(4)));
    far.send(&frame(&block(4))).await;
    assert_eq!(again.await.unwrap().unwrap(), text(&block(4)));
}

#[tokio::test(start_paused = true)]
async fn a_question_given_up_before_it_was_sent_leaves_its_place_open() {
    let side = side();
    let (near, far) = pipe(16);
    let running = side.start(near, Ear::new());
    running.connection.send(Message::new(Kind::GenesisBlock.code(), vec![b' '; 8_000])).unwrap();
    settle().await;
    let asking = ask(&running, &block_request(1), WAIT);
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
    let mut far = side.by_hand(far);
    assert!(matches!(far.message().await, Some(Item::Message(_, MessageHeader::Event { .. }, _))));
    let again = ask(&running, &block_request(2), WAIT);
    assert_eq!(asked(&mut far).await, text(&block_request(2)));
    far.send(&frame(&block(2))).await;
    again.await.unwrap().unwrap();
}

#[test]
fn two_who_give_their_questions_up_unsent_close_the_place_to_neither() {
    let side = side();
    // Nothing is ever sent: no task is at work.
    let prepared = side.prepare();
    let gives_up = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            for height in 0..20_000 {
                let mut asking =
                    Box::pin(prepared.connection().request(message(&block_request(height)), WAIT));
                let refused = futures_poll_once(&mut asking).await;
                assert!(refused.is_none(), "{refused:?}");
            }
        });
    };
    std::thread::scope(|scope| {
        scope.spawn(gives_up);
        scope.spawn(gives_up);
    });
    assert_eq!(prepared.connection().pending_counts(), peerpool::connection::PendingCounts::default());
}

#[tokio::test(start_paused = true)]
async fn closing_fails_whoever_waits_for_an_answer_or_a_turn() {
    let side = side();
    let (near, far) = pipe(64 * 1024);
    let running = side.start(near, Ear::new());
    let mut far = side.by_hand(far);
    let waits = ask(&running, &block_request(1), WAIT);
    asked(&mut far).await;
    let queued = ask(&running, &block_request(2), WAIT);
    settle().await;
    drop(far);
    assert!(matches!(waits.await.unwrap(), Err(RequestError::Closed)));
    assert!(matches!(queued.await.unwrap(), Err(RequestError::NotSent(SendError::Closed(_)))));
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_the_dialect_has_no_word_for_comes_back_and_is_not_dropped_unsaid() {
    let side = side();
    let (near, far) = pipe(1024);
    let running = side.start(near, Ear::new());
    let mut far = side.by_hand(far);
    for message in [Message::new(UNKNOWN, ""), Message::new(Kind::ALL.len() as u16, vec![b' '; 8_000])] {
        let refused = running.connection.send(message.clone()).unwrap_err();
        let cause = EncodeError::Unsupported { what: "message of this kind" };
        assert!(matches!(&refused, SendError::Refused { cause: why, .. } if *why == cause), "{refused:?}");
        assert_eq!(refused.into_message(), message);
    }
    running.connection.send(Message::new(Kind::ALL.len() as u16 - 1, text(&block(1)))).unwrap();
    assert!(
        matches!(far.message().await, Some(Item::Message(_, MessageHeader::Event { .. }, body)) if body == text(&block(1)))
    );
}

#[tokio::test(start_paused = true)]
async fn what_asks_nothing_is_no_request() {
    let side = side();
    let (near, _far) = pipe(1024);
    let running = side.start(near, Ear::new());
    let tip = NetworkMessage::UpdateTip { height: 1, hash: "ab".into() };
    let refused = ask(&running, &tip, WAIT).await.unwrap();
    assert!(matches!(refused, Err(RequestError::NotSent(SendError::Refused { .. }))), "{refused:?}");
    assert_eq!(running.connection.pending_counts().outbound_requests, 0);
}

#[tokio::test(start_paused = true)]
async fn questions_of_one_place_are_answered_in_their_order_and_of_others_beside() {
    let side = side();
    let (near, far) = pipe(64 * 1024);
    let open = Arc::new(Mutex::new(Vec::<(Bytes, Responder)>::new()));
    let ear = Ear::new().on_request({
        let open = Arc::clone(&open);
        move |_, body, responder| {
            open.lock().unwrap().push((body, responder));
            Handled::Done
        }
    });
    let _running = side.start(near, ear.clone());
    let mut far = side.by_hand(far);
    for said in [block_request(1), block_request(2), NetworkMessage::GetBlockchainHeight, block_request(3)] {
        far.send(&frame(&said)).await;
    }
    ear.until(|heard| heard.len() == 2).await;
    settle().await;
    let mut waiting: Vec<_> = open.lock().unwrap().drain(..).collect();
    assert_eq!(waiting.len(), 2, "one of each place");
    let (height, responder) = waiting.pop().unwrap();
    assert_eq!(height, text(&NetworkMessage::GetBlockchainHeight));
    responder.respond(text(&NetworkMessage::BlockchainHeight(9))).unwrap();
    // The first is refused, of which only a node of ours is told; the next one's turn comes all the same.
    waiting.pop().unwrap().1.decline(Status::Busy, "").unwrap();
    for height in [2, 3] {
        ear.until(|heard| heard.len() as u64 == height + 1).await;
        let (body, responder) = open.lock().unwrap().pop().unwrap();
        assert_eq!(body, text(&block_request(height)));
        responder.on(Lane::Bulk).respond(text(&block(height))).unwrap();
    }
    let mut got = Vec::new();
    for _ in 0..4 {
        let Some(Item::Message(_, _, body)) = far.message().await else { panic!("an answer is missing") };
        got.push(body);
    }
    let declined = Bytes::new();
    assert_eq!(got, [text(&NetworkMessage::BlockchainHeight(9)), declined, text(&block(2)), text(&block(3))]);
}

fn declined(answer: Kind, status: Status) -> Bytes {
    format!(r#"{{"Declined":{{"answer":"{}","status":{}}}}}"#, answer.name(), status.code()).into()
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_to_whoever_asked_and_frees_the_place_of_a_question_given_up() {
    let side = side();
    let (near, far) = pipe(64 * 1024);
    let running = side.start(near, Ear::new());
    let mut far = side.by_hand(far);
    let no = declined(Kind::StateSnapshotResponse, Status::Busy);
    let no = [&(no.len() as u32).to_be_bytes()[..], &no].concat();
    // One that nobody waits for says nothing.
    far.send(&no).await;
    let refused = ask(&running, &block_request(1), WAIT);
    assert_eq!(asked(&mut far).await, text(&block_request(1)));
    let next = ask(&running, &block_request(2), WAIT);
    settle().await;
    far.send(&no).await;
    let refused = refused.await.unwrap();
    assert!(matches!(refused, Err(RequestError::Declined { status: Status::Busy, .. })), "{refused:?}");
    assert_eq!(asked(&mut far).await, text(&block_request(2)));
    next.abort();
    settle().await;
    let open = ask(&running, &block_request(3), WAIT).await.unwrap();
    assert!(matches!(open, Err(RequestError::ReplyOutstanding(_))), "{open:?}");
    far.send(&no).await;
    settle().await;
    assert_eq!(running.connection.pending_counts().outbound_requests, 0);
    let last = ask(&running, &block_request(4), WAIT);
    assert_eq!(asked(&mut far).await, text(&block_request(4)));
    far.send(&frame(&block(4))).await;
    assert_eq!(last.await.unwrap().unwrap(), text(&block(4)));
}

#[tokio::test(start_paused = true)]
async fn whoever_leaves_the_queue_gives_away_no_turn_but_its_own() {
    let side = side();
    let (near, far) = pipe(64 * 1024);
    let running = side.start(near, Ear::new());
    let mut far = side.by_hand(far);
    let by_hand = |height| {
        let (connection, message) = (Arc::clone(&running.connection), message(&block_request(height)));
        Box::pin(async move { connection.request(message, WAIT).await })
    };
    let first = ask(&running, &block_request(0), WAIT);
    assert_eq!(asked(&mut far).await, text(&block_request(0)));
    // Polled by hand, so that it has been told its turn and has not taken it yet.
    let mut told = by_hand(1);
    let mut behind = by_hand(2);
    let mut called_and_gone = by_hand(3);
    for waiting in [&mut told, &mut behind, &mut called_and_gone] {
        assert!(futures_poll_once(waiting).await.is_none());
    }
    far.send(&frame(&block(0))).await;
    first.await.unwrap().unwrap();
    drop(behind);
    let newcomer = ask(&running, &block_request(4), WAIT);
    settle().await;
    assert!(futures_poll_once(&mut told).await.is_none());
    assert_eq!(asked(&mut far).await, text(&block_request(1)), "its turn was its own");
    far.send(&frame(&block(1))).await;
    assert_eq!(told.await.unwrap(), text(&block(1)));
    // The next one's turn has come, and it goes before it takes it.
    drop(called_and_gone);
    assert_eq!(asked(&mut far).await, text(&block_request(4)));
    far.send(&frame(&block(4))).await;
    newcomer.await.unwrap().unwrap();
    assert_eq!(running.connection.pending_counts().outbound_requests, 0);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_questions_of_one_place_pauses_reading_and_loses_none() {
    let plan = Plan {
        connection: ConnectionConfig { inbox_messages: 4, ..ConnectionConfig::default() },
        ..Plan::default()
    };
    let side = Side::with(TimeCoin::testnet(Software::default()), plan);
    let (near, far) = pipe(256);
    let ear = Ear::new().on_request(|_, body, responder| {
        Handled::later(async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let Ok(NetworkMessage::StateSnapshotRequest { height }) = NetworkMessage::decode(&body) else {
                panic!("not what was asked")
            };
            responder.respond(text(&block(height))).unwrap();
        })
    });
    let _running = side.start(near, ear.clone());
    let mut far = side.by_hand(far);
    let sending = tokio::spawn(async move {
        for height in 0..50 {
            far.send(&frame(&block_request(height))).await;
        }
        far
    });
    settle().await;
    assert_eq!(ear.count(|one| *one == Heard::Paused(true)), 1);
    assert!(!sending.is_finished(), "the stream is full: nobody reads");
    let mut far = sending.await.unwrap();
    for height in 0..50 {
        let Some(Item::Message(_, _, body)) = far.message().await else { panic!("an answer is missing") };
        assert_eq!(body, text(&block(height)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_question_that_found_no_room_leaves_its_place_open() {
    let plan = Plan {
        connection: ConnectionConfig { outbox_messages: 1, ..ConnectionConfig::default() },
        ..Plan::default()
    };
    let side = Side::with(TimeCoin::testnet(Software::default()), plan);
    let (near, far) = pipe(16);
    let running = side.start(near, Ear::new());
    // The first is being written, the second fills the queue.
    for _ in 0..2 {
        running.connection.send(Message::new(Kind::GenesisBlock.code(), vec![b' '; 8_000])).unwrap();
        settle().await;
    }
    let refused = ask(&running, &block_request(1), WAIT).await.unwrap();
    assert!(matches!(refused, Err(RequestError::NotSent(SendError::Full(_)))), "{refused:?}");
    assert_eq!(running.connection.pending_counts().outbound_requests, 0);
    let mut far = side.by_hand(far);
    for _ in 0..2 {
        far.message().await;
    }
    let again = ask(&running, &block_request(2), WAIT);
    assert_eq!(asked(&mut far).await, text(&block_request(2)));
    far.send(&frame(&block(2))).await;
    again.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn turns_come_in_order_and_whoever_leaves_the_queue_holds_up_nobody() {
    let side = side();
    let (near, far) = pipe(64 * 1024);
    let running = side.start(near, Ear::new());
    let mut far = side.by_hand(far);
    let mut asking = Vec::new();
    for height in 0..6 {
        asking.push(ask(&running, &block_request(height), WAIT));
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

/// One poll of a future: its output, if it has one by now.
async fn futures_poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    std::future::poll_fn(|cx| match std::pin::Pin::new(&mut *future).poll(cx) {
        std::task::Poll::Ready(output) => std::task::Poll::Ready(Some(output)),
        std::task::Poll::Pending => std::task::Poll::Ready(None),
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn a_pong_that_never_came_is_not_replaced_by_later_ones() {
    let side = side();
    let (near, far) = pipe(1024);
    let ear = Ear::new();
    let running = side.start(near, ear.clone());
    let mut far = side.by_hand(far);
    let ping = Some(Item::Control(Control::Ping { token: 0 }));
    running.connection.ping();
    assert_eq!(far.message().await, ping);
    tokio::time::sleep(Duration::from_secs(60)).await;
    running.connection.ping();
    assert_eq!(far.message().await, ping);
    tokio::time::sleep(Duration::from_millis(20)).await;
    far.send(&frame(&NetworkMessage::Pong)).await;
    ear.until(|heard| matches!(heard, [Heard::Rtt(rtt)] if *rtt < Duration::from_secs(1))).await;
    assert!(!running.connection.has_unanswered_ping());
}
