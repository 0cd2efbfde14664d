//! Received messages: events in order, requests beside them, and a reader that only a full inbox
//! pauses.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use peerpool::Lane;
use peerpool::connection::{CloseReason, Connection, ConnectionConfig, Handled, Message, RequestError};
use peerpool::wire::{Control, MessageHeader, Native, Protocol, Status};

use crate::harness::*;
use crate::toy::Toy;

async fn check_events_run_one_at_a_time_in_order<D: Protocol>(protocol: D) {
    let side = TestSide::new(protocol);
    let (near, far) = pipe(64 * 1024);
    let busy = Arc::new(AtomicUsize::new(0));
    let done = Arc::new(Mutex::new(Vec::new()));
    let (at_work, finished) = (Arc::clone(&busy), Arc::clone(&done));
    let handler = RecordingHandler::new().on_event(move |kind, _, _| {
        assert_eq!(at_work.fetch_add(1, Ordering::SeqCst), 0, "two at a time");
        let (at_work, finished) = (Arc::clone(&at_work), Arc::clone(&finished));
        let rest = async move {
            tokio::time::sleep(Duration::from_millis(u64::from(50 - kind))).await;
            finished.lock().unwrap().push(kind);
            at_work.fetch_sub(1, Ordering::SeqCst);
        };
        Handled::later(rest)
    });
    let _running = side.start(near, handler.clone());
    let mut far = side.manual_peer(far);
    for n in 0..50u16 {
        far.send(&side.event(Lane::Normal, n, b"x")).await;
    }
    handler.until_events(50).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(*done.lock().unwrap(), (0..50).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn events_run_one_at_a_time_in_order_native() {
    check_events_run_one_at_a_time_in_order(Native::default()).await;
}

#[tokio::test(start_paused = true)]
async fn events_run_one_at_a_time_in_order_toy() {
    check_events_run_one_at_a_time_in_order(Toy::new()).await;
}

/// Only a full inbox pauses reading. At half it resumes, and nothing is lost.
async fn check_full_inbox_pauses_and_resumes_reading<D: Protocol>(protocol: D) {
    let connection = ConnectionConfig { inbox_messages: 8, ..ConnectionConfig::default() };
    let side = TestSide::with(protocol, SideConfig { connection, ..SideConfig::default() });
    let (near, far) = pipe(256);
    let go = Arc::new(tokio::sync::Semaphore::new(0));
    let gate = Arc::clone(&go);
    let handler = RecordingHandler::new().on_event(move |_, _, _| {
        let gate = Arc::clone(&gate);
        Handled::later(async move { gate.acquire().await.unwrap().forget() })
    });
    let _running = side.start(near, handler.clone());
    let mut far = side.manual_peer(far);
    let event = side.event(Lane::Normal, 1, &[7; 100]);
    let sending = tokio::spawn(async move {
        for _ in 0..100 {
            far.send(&event).await;
        }
        far
    });
    settle().await;
    assert_eq!(handler.count(|one| matches!(one, Callback::Event(..))), 1);
    assert_eq!(handler.count(|one| *one == Callback::Paused(true)), 1);
    assert!(!sending.is_finished(), "the stream is full: nobody reads");
    let seen = handler.last_seen();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(handler.last_seen(), seen);
    go.add_permits(100);
    handler.until_events(100).await;
    settle().await;
    let pauses: Vec<_> =
        handler.callbacks().into_iter().filter(|one| matches!(one, Callback::Paused(_))).collect();
    assert!(
        pauses.chunks(2).all(|pair| pair == [Callback::Paused(true), Callback::Paused(false)]),
        "{pauses:?}"
    );
    drop(sending.await.unwrap());
    assert_eq!(side.budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_full_inbox_pauses_reading_and_resumes_native() {
    check_full_inbox_pauses_and_resumes_reading(Native::default()).await;
}

#[tokio::test(start_paused = true)]
async fn a_full_inbox_pauses_reading_and_resumes_toy() {
    check_full_inbox_pauses_and_resumes_reading(Toy::new()).await;
}

#[tokio::test(start_paused = true)]
async fn a_full_inbox_in_bytes_pauses_reading_too() {
    let connection = ConnectionConfig { inbox_bytes: 10_000, ..ConnectionConfig::default() };
    let side = TestSide::with(Native::default(), SideConfig { connection, ..SideConfig::default() });
    let (near, far) = pipe(64 * 1024);
    let handler = RecordingHandler::new()
        .on_event(|_, _, _| Handled::later(tokio::time::sleep(Duration::from_secs(1))));
    let _running = side.start(near, handler.clone());
    let mut far = side.manual_peer(far);
    for _ in 0..5 {
        far.send(&side.event(Lane::Normal, 1, &[7; 4_000])).await;
    }
    settle().await;
    assert_eq!(handler.count(|one| *one == Callback::Paused(true)), 1);
    assert!(side.budget.used() >= 12_000);
    handler.until_events(5).await;
}

#[tokio::test(start_paused = true)]
async fn control_and_responses_are_handled_while_a_handler_sleeps() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(64 * 1024);
    let handler = RecordingHandler::new().on_event(|_, _, _| Handled::later(std::future::pending()));
    let running = side.start(near, handler.clone());
    let mut far = side.manual_peer(far);
    far.send(&side.event(Lane::Normal, 1, b"sleep")).await;
    far.send(&side.event(Lane::Normal, 2, b"waits")).await;
    handler.until_events(1).await;
    let connection = Arc::clone(&running.connection);
    let asking = tokio::spawn(async move { connection.request(Message::new(3, "?"), TIMEOUT).await });
    let Some(Received::Message(_, MessageHeader::Request { id, .. }, _)) = far.message().await else {
        panic!()
    };
    far.send(&side.encode(Lane::Normal, &MessageHeader::Response { id, status: Status::Ok }, b"!")).await;
    assert_eq!(asking.await.unwrap().unwrap(), "!");
    for minute in 0..100 {
        // Far past any timeout: every frame still refreshes last seen.
        tokio::time::sleep(Duration::from_secs(60)).await;
        far.send(&side.control(&Control::Ping { token: minute })).await;
        assert_eq!(far.message().await, Some(Received::Control(Control::Pong { token: minute })));
        assert!(handler.last_seen() >= minute * 60_000);
    }
    assert_eq!(handler.count(|one| matches!(one, Callback::Paused(_))), 0);
}

#[tokio::test(start_paused = true)]
async fn requests_run_beside_events_at_most_sixteen_at_a_time() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(64 * 1024);
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (at_work, peak) = (Arc::clone(&now), Arc::clone(&most));
    let handler = RecordingHandler::new()
        .on_event(|_, _, _| Handled::later(std::future::pending()))
        .on_request(move |_, payload, responder| {
            let (at_work, peak) = (Arc::clone(&at_work), Arc::clone(&peak));
            peak.fetch_max(at_work.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            Handled::later(async move {
                tokio::time::sleep(Duration::from_millis(10)).await;
                at_work.fetch_sub(1, Ordering::SeqCst);
                responder.respond(payload).unwrap();
            })
        });
    let running = side.start(near, handler.clone());
    let mut far = side.manual_peer(far);
    far.send(&side.event(Lane::Normal, 1, b"blocks the events")).await;
    for id in 0..50 {
        far.send_request(id, 1, &id.to_le_bytes()).await;
    }
    settle().await;
    assert_eq!(running.connection.pending_counts().inbound_requests, 16);
    let mut answered = std::collections::BTreeSet::new();
    for _ in 0..50 {
        let Some(Received::Message(_, MessageHeader::Response { id, status: Status::Ok }, body)) =
            far.message().await
        else {
            panic!()
        };
        assert_eq!(&body[..], &id.to_le_bytes());
        answered.insert(id);
    }
    assert!(answered.into_iter().eq(0..50));
    assert_eq!(most.load(Ordering::SeqCst), 16);
    assert_eq!(running.connection.pending_counts().inbound_requests, 0);
}

/// A cell for a connection that its own handler needs.
type Known = Arc<OnceLock<Arc<Connection>>>;

/// Responds to kind 0; on an event sends a request back and records the response.
fn requests_back(known: &Known, got: &Arc<Mutex<Vec<String>>>) -> RecordingHandler {
    let (known, got) = (Arc::clone(known), Arc::clone(got));
    RecordingHandler::new().on_event(move |_, _, _| {
        let (connection, got) = (Arc::clone(known.get().unwrap()), Arc::clone(&got));
        Handled::later(async move {
            let answer = connection.request(Message::new(0, "from a handler"), TIMEOUT).await;
            got.lock().unwrap().push(format!("{answer:?}"));
        })
    })
}

#[tokio::test(start_paused = true)]
async fn handlers_that_request_from_each_other_do_not_deadlock() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(1024);
    let (one, other) = (Known::default(), Known::default());
    let got = Arc::new(Mutex::new(Vec::new()));
    let left = side.start(near, requests_back(&one, &got));
    let right = side.start(far, requests_back(&other, &got));
    one.set(Arc::clone(&left.connection)).unwrap();
    other.set(Arc::clone(&right.connection)).unwrap();
    for _ in 0..20 {
        left.connection.send(Message::new(1, "go")).unwrap();
        right.connection.send(Message::new(1, "go")).unwrap();
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let got = got.lock().unwrap();
    assert_eq!(got.len(), 40);
    assert!(got.iter().all(|answer| answer.contains("from a handler")), "{got:?}");
}

async fn check_panic_costs_one_event<D: Protocol>(protocol: D, when: &'static str) {
    let side = TestSide::new(protocol);
    let (near, far) = pipe(1024);
    let handler = RecordingHandler::new().on_event(move |kind, _, _| match (kind, when) {
        (1, "at once") => panic!("a bug"),
        (1, "in the future") => Handled::later(async {
            tokio::task::yield_now().await;
            panic!("a bug")
        }),
        _ => Handled::Done,
    });
    let running = side.start(near, handler.clone());
    let mut far = side.manual_peer(far);
    for kind in [1, 2, 1, 2] {
        far.send(&side.event(Lane::Normal, kind, b"x")).await;
    }
    handler.until_events(4).await;
    settle().await;
    assert!(running.connection.is_open());
    assert_eq!(handler.count(|one| *one == Callback::Panic), 2);
}

#[tokio::test(start_paused = true)]
async fn a_panic_costs_the_event_that_it_handles() {
    for when in ["at once", "in the future"] {
        check_panic_costs_one_event(Native::default(), when).await;
        check_panic_costs_one_event(Toy::new(), when).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_fails_its_request_and_no_other() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(64 * 1024);
    let handler = RecordingHandler::new().on_request(|kind, payload, responder| match kind {
        1 => panic!("a bug"),
        2 => Handled::later(async move {
            let _responder = responder;
            tokio::task::yield_now().await;
            panic!("a bug")
        }),
        _ => Handled::later(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let _ = responder.respond(payload);
        }),
    });
    let asked = side.start(far, handler.clone());
    let asker = side.start(near, RecordingHandler::new()).connection;
    let request = |kind| asker.request(Message::new(kind, "x"), Duration::from_secs(10));
    let (slow, at_once, later) = tokio::join!(request(3), request(1), request(2));
    for failed in [at_once, later] {
        assert!(matches!(failed, Err(RequestError::Declined { status: Status::Failed, .. })), "{failed:?}");
    }
    assert_eq!(slow.unwrap(), "x");
    assert_eq!(handler.count(|one| *one == Callback::Panic), 2);
    assert!(asked.connection.is_open());
}

#[tokio::test(start_paused = true)]
async fn a_handler_may_send_on_and_close_its_own_connection() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(1024);
    let known = Known::default();
    let own = Arc::clone(&known);
    let handler = RecordingHandler::new().on_event(move |_, _, _| {
        let connection = own.get().unwrap();
        connection.send(Message::new(2, "last words").urgent()).unwrap();
        connection.drain(peerpool::pool::DisconnectReason::Requested, None, Duration::from_secs(1));
        Handled::Done
    });
    let running = side.start(near, handler);
    known.set(Arc::clone(&running.connection)).unwrap();
    let mut far = side.manual_peer(far);
    far.send(&side.event(Lane::Normal, 1, b"x")).await;
    let said = far.rest().await;
    assert!(
        matches!(&said[..], [Received::Message(Lane::Urgent, MessageHeader::Event { kind: 2 }, _)]),
        "{said:?}"
    );
    drop(far);
    assert!(matches!(running.end().await, CloseReason::Closed(peerpool::pool::DisconnectReason::Requested)));
}

/// A connection whose handlers never end, with bounds of four messages and one request at a time.
fn stuck() -> (TestSide<Native>, RecordingHandler) {
    let connection =
        ConnectionConfig { inbox_messages: 4, max_inbound_requests: 1, ..ConnectionConfig::default() };
    let side = TestSide::with(Native::default(), SideConfig { connection, ..SideConfig::default() });
    let handler = RecordingHandler::new()
        .on_event(|_, _, _| Handled::later(std::future::pending()))
        .on_request(|_, _, responder| {
            Handled::later(async move {
                let _responder = responder;
                std::future::pending::<()>().await;
            })
        });
    (side, handler)
}

#[tokio::test(start_paused = true)]
async fn reading_pauses_when_exactly_as_many_messages_wait_as_may() {
    let (side, handler) = stuck();
    let (near, far) = pipe(64 * 1024);
    let _running = side.start(near, handler.clone());
    let mut far = side.manual_peer(far);
    // One is handled, three wait.
    for kind in 0..4 {
        far.send(&side.event(Lane::Normal, kind, b"x")).await;
    }
    settle().await;
    let paused = || handler.count(|one| *one == Callback::Paused(true));
    assert_eq!(paused(), 0);
    far.send(&side.event(Lane::Normal, 4, b"x")).await;
    settle().await;
    assert_eq!(paused(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_request_that_waited_gives_its_room_back() {
    let (side, handler) = stuck();
    let (near, far) = pipe(64 * 1024);
    let _running = side.start(near, handler.clone());
    let mut far = side.manual_peer(far);
    for id in 0..4 {
        let header = MessageHeader::Request { id, kind: 1 };
        far.send(&side.encode(Lane::Normal, &header, &[7; 10_000])).await;
    }
    settle().await;
    assert!(side.budget.used() >= 30_000, "{}", side.budget.used());
    for id in 1..4 {
        far.send(&side.encode(Lane::Normal, &MessageHeader::Cancel { id }, b"")).await;
    }
    settle().await;
    assert_eq!(side.budget.used(), 0, "the one that is handled was small");
    // And as many can wait again.
    for id in 4..7 {
        let header = MessageHeader::Request { id, kind: 1 };
        far.send(&side.encode(Lane::Normal, &header, b"")).await;
    }
    settle().await;
    assert_eq!(handler.count(|one| *one == Callback::Paused(true)), 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_queued_into_a_closed_connection() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(64 * 1024);
    let kept: Arc<Mutex<Option<peerpool::connection::Responder>>> = Arc::default();
    let keep = Arc::clone(&kept);
    let handler = RecordingHandler::new().on_request(move |_, _, responder| {
        *keep.lock().unwrap() = Some(responder);
        Handled::Done
    });
    let running = side.start(near, handler);
    let mut far = side.manual_peer(far);
    far.send(&side.encode(Lane::Normal, &MessageHeader::Request { id: 1, kind: 1 }, b"?")).await;
    settle().await;
    let responder = kept.lock().unwrap().take().expect("a request came");
    running.connection.close(peerpool::pool::DisconnectReason::Closed, None);
    assert!(responder.respond("too late").is_err());
    let refused = running.connection.send(Message::new(1, "too late"));
    assert!(matches!(refused, Err(peerpool::connection::SendError::Closed(_))), "{refused:?}");
    assert_eq!(running.connection.pending_counts(), Default::default());
}

/// A frame counts once it is complete, and not before: whatever the place where a read ended.
async fn check_frames_cut_anywhere<D: Protocol>(protocol: D) {
    let side = TestSide::new(protocol);
    let (near, far) = pipe(64 * 1024);
    let handler = RecordingHandler::new();
    let _running = side.start(near, handler.clone());
    let mut far = side.manual_peer(far);
    let frame = side.event(Lane::Normal, 7, b"payload");
    far.send(&frame).await;
    handler.until_events(1).await;
    for (count, cut) in (1..frame.len()).enumerate() {
        let seen = handler.last_seen();
        far.send(&frame[..cut]).await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert_eq!(handler.last_seen(), seen, "{cut} bytes are no frame");
        far.send(&frame[cut..]).await;
        handler.until_events(count + 2).await;
        assert!(handler.last_seen() > seen, "cut at {cut}");
    }
    let whole = Callback::Event(Lane::Normal, 7, "payload".into());
    assert_eq!(handler.count(|one| *one == whole), frame.len(), "each came as it was sent");
}

#[tokio::test(start_paused = true)]
async fn a_frame_cut_anywhere_comes_whole_and_refreshes_last_seen_at_its_end_native() {
    check_frames_cut_anywhere(Native::default()).await;
}

#[tokio::test(start_paused = true)]
async fn a_frame_cut_anywhere_comes_whole_and_refreshes_last_seen_at_its_end_toy() {
    check_frames_cut_anywhere(Toy::new()).await;
}
