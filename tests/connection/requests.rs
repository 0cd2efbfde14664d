//! Requests: each gets a response or fails with a reason, and no entry outlives its future.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use peerpool::Lane;
use peerpool::connection::{
    CloseReason, ConnectionConfig, Handled, Message, RequestError, RespondError, Responder,
};
use peerpool::pool::DisconnectReason;
use peerpool::wire::{Control, MessageHeader, Native, Status};

use crate::harness::*;

fn request_of(item: Option<Received>) -> u32 {
    match item {
        Some(Received::Message(_, MessageHeader::Request { id, .. }, _)) => id,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_sent_request_is_cancelled_and_its_late_response_is_dropped() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(64 * 1024);
    let running = side.start(near, RecordingHandler::new());
    let mut far = side.manual_peer(far);
    let asking = tokio::spawn({
        let connection = Arc::clone(&running.connection);
        async move { connection.request(Message::new(1, "?"), TIMEOUT).await }
    });
    let id = request_of(far.message().await);
    asking.abort();
    assert!(
        matches!(far.message().await, Some(Received::Message(_, MessageHeader::Cancel { id: gone }, _)) if gone == id)
    );
    assert_eq!(running.connection.pending_counts().outbound_requests, 0);
    far.send(&side.encode(Lane::Normal, &MessageHeader::Response { id, status: Status::Ok }, b"late")).await;
    let again = tokio::spawn({
        let connection = Arc::clone(&running.connection);
        async move { connection.request(Message::new(1, "again"), TIMEOUT).await }
    });
    let second = request_of(far.message().await);
    assert_ne!(id, second);
    far.send(&side.encode(Lane::Normal, &MessageHeader::Response { id, status: Status::Ok }, b"later")).await;
    far.send(&side.encode(
        Lane::Normal,
        &MessageHeader::Response { id: 77_777, status: Status::Ok },
        b"foreign",
    ))
    .await;
    far.send(&side.encode(
        Lane::Normal,
        &MessageHeader::Response { id: second, status: Status::Ok },
        b"right",
    ))
    .await;
    assert_eq!(again.await.unwrap().unwrap(), "right");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_unsent_request_is_taken_back() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(16);
    let running = side.start(near, RecordingHandler::new());
    running.connection.send(Message::new(1, vec![0; 1_000])).unwrap();
    settle().await;
    let connection = Arc::clone(&running.connection);
    let asking =
        tokio::spawn(async move { connection.request(Message::new(2, vec![0; 5_000]), TIMEOUT).await });
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
    running.connection.send(Message::new(3, "next")).unwrap();
    let mut far = side.manual_peer(far);
    assert!(matches!(far.message().await, Some(Received::Message(_, MessageHeader::Event { kind: 1 }, _))));
    assert!(matches!(far.message().await, Some(Received::Message(_, MessageHeader::Event { kind: 3 }, _))));
}

#[tokio::test(start_paused = true)]
async fn a_timeout_removes_only_its_own_request() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(64 * 1024);
    let running = side.start(near, RecordingHandler::new());
    let mut far = side.manual_peer(far);
    let connection = Arc::clone(&running.connection);
    let patient = tokio::spawn(async move { connection.request(Message::new(1, "a"), TIMEOUT).await });
    let patient_id = request_of(far.message().await);
    let hasty = running.connection.request(Message::new(1, "b"), Duration::from_secs(1)).await;
    assert!(matches!(hasty, Err(RequestError::Timeout)));
    assert_eq!(running.connection.pending_counts().outbound_requests, 1);
    far.send(&side.encode(
        Lane::Bulk,
        &MessageHeader::Response { id: patient_id, status: Status::Ok },
        b"ok",
    ))
    .await;
    assert_eq!(patient.await.unwrap().unwrap(), "ok");
    let forever = running.connection.request(Message::new(1, "c"), Duration::MAX);
    assert!(
        tokio::time::timeout(Duration::from_secs(9), forever).await.is_err(),
        "no panic at the far end of time"
    );
}

#[tokio::test(start_paused = true)]
async fn a_dropped_responder_sends_no_reply_and_a_decline_carries_its_detail() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(1024);
    let handler = RecordingHandler::new().on_request(|kind, _, responder| {
        match kind {
            0 => drop(responder),
            1 => responder.decline(Status::Other(200), "not you").unwrap(),
            2 => {
                let too_large = responder.on(Lane::Urgent).respond(vec![0; 300 * 1024]);
                assert!(matches!(too_large, Err(RespondError::TooLarge(back)) if back.len() == 300 * 1024));
            }
            _ => return Handled::later(async move { drop(responder) }),
        }
        Handled::Done
    });
    let answering = side.start(far, handler);
    let asking = side.start(near, RecordingHandler::new());
    let ask = async |kind| match asking.connection.request(Message::new(kind, ""), TIMEOUT).await {
        Err(RequestError::Declined { status, detail }) => (status, detail),
        other => panic!("{other:?}"),
    };
    assert_eq!(ask(0).await, (Status::NoReply, "".into()));
    assert_eq!(ask(1).await, (Status::Other(200), "not you".into()));
    assert_eq!(ask(2).await, (Status::TooLarge, "".into()));
    assert_eq!(ask(3).await, (Status::NoReply, "".into()));
    assert_eq!(answering.connection.pending_counts().inbound_requests, 0);
}

type Open = Arc<Mutex<Vec<(Bytes, Responder)>>>;

/// A handler that puts each responder into the list and is done.
fn responders_handed_out() -> (RecordingHandler, Open) {
    let open = Arc::new(Mutex::new(Vec::new()));
    let handler = RecordingHandler::new().on_request({
        let open = Arc::clone(&open);
        move |_, body, responder| {
            open.lock().unwrap().push((body, responder));
            Handled::Done
        }
    });
    (handler, open)
}

#[tokio::test(start_paused = true)]
async fn cancels_do_not_make_room_beyond_the_bound() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(64 * 1024);
    let (handler, open) = responders_handed_out();
    let running = side.start(near, handler);
    let mut far = side.manual_peer(far);
    for id in 0..100 {
        far.send_request(id, 1, b"").await;
        far.send(&side.encode(Lane::Normal, &MessageHeader::Cancel { id }, b"")).await;
    }
    settle().await;
    let most = ConnectionConfig::default().max_inbound_requests;
    assert_eq!(
        (open.lock().unwrap().len(), running.connection.pending_counts().inbound_requests),
        (most, most)
    );
    assert!(open.lock().unwrap().iter().all(|(_, responder)| !responder.is_wanted()));
    // The waiting request is started as soon as the responders are gone.
    far.send_request(200, 1, b"wanted").await;
    settle().await;
    open.lock().unwrap().clear();
    settle().await;
    let (body, responder) = open.lock().unwrap().pop().unwrap();
    assert_eq!(body, "wanted");
    responder.respond("yes").unwrap();
    assert!(matches!(
        far.message().await,
        Some(Received::Message(_, MessageHeader::Response { id: 200, .. }, _))
    ));
    assert_eq!(running.connection.pending_counts().inbound_requests, 0);
}

#[tokio::test(start_paused = true)]
async fn a_response_to_a_cancelled_request_does_not_reach_a_later_one_with_its_id() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(64 * 1024);
    let (handler, open) = responders_handed_out();
    let _running = side.start(near, handler);
    let mut far = side.manual_peer(far);
    far.send_request(2, 1, b"first").await;
    far.send(&side.encode(Lane::Normal, &MessageHeader::Cancel { id: 2 }, b"")).await;
    far.send_request(2, 1, b"second").await;
    settle().await;
    let (second, first) = {
        let mut open = open.lock().unwrap();
        (open.pop().unwrap(), open.pop().unwrap())
    };
    assert_eq!((&first.0[..], &second.0[..]), (&b"first"[..], &b"second"[..]));
    assert!(!first.1.is_wanted() && second.1.is_wanted());
    assert!(matches!(first.1.respond("to the first"), Err(RespondError::Unwanted(_))));
    second.1.respond("to the second").unwrap();
    let Some(Received::Message(_, MessageHeader::Response { id: 2, .. }, body)) = far.message().await else {
        panic!("no answer")
    };
    assert_eq!(body, "to the second");
}

/// Notes of handlers, in order.
type Notes = Arc<Mutex<Vec<&'static str>>>;

/// A handler that responds to kind 1 at once and goes on for a second, and waits for ever on other
/// kinds.
fn goes_on_after_responding() -> (RecordingHandler, Notes) {
    struct Told(Notes, &'static str);
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.lock().unwrap().push(self.1);
        }
    }
    let told = Notes::default();
    let notes = Arc::clone(&told);
    let handler = RecordingHandler::new().on_request(move |kind, _, responder| {
        let notes = Arc::clone(&notes);
        Handled::later(async move {
            let _stopped = Told(Arc::clone(&notes), "stopped");
            if kind == 1 {
                responder.respond("soon").unwrap();
            } else {
                assert!(responder.is_wanted());
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            notes.lock().unwrap().push("finished");
        })
    });
    (handler, told)
}

#[tokio::test(start_paused = true)]
async fn a_cancel_stops_a_handler_unless_it_has_responded() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(64 * 1024);
    let (handler, told) = goes_on_after_responding();
    let running = side.start(near, handler);
    let mut far = side.manual_peer(far);
    far.send_request(1, 1, b"").await;
    far.send_request(2, 2, b"").await;
    assert!(matches!(
        far.message().await,
        Some(Received::Message(_, MessageHeader::Response { id: 1, .. }, _))
    ));
    // The first cancel crosses the response.
    far.send(&side.encode(Lane::Normal, &MessageHeader::Cancel { id: 1 }, b"")).await;
    far.send(&side.encode(Lane::Normal, &MessageHeader::Cancel { id: 2 }, b"")).await;
    far.send(&side.encode(Lane::Normal, &MessageHeader::Cancel { id: 3 }, b"")).await;
    settle().await;
    assert_eq!(*told.lock().unwrap(), ["stopped"], "the cancelled one only");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(*told.lock().unwrap(), ["stopped", "finished", "stopped"]);
    assert_eq!(running.connection.pending_counts().inbound_requests, 0);
    far.send_request(2, 1, b"the id is free again").await;
    assert!(matches!(
        far.message().await,
        Some(Received::Message(_, MessageHeader::Response { id: 2, .. }, _))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_pong_between_two_requests_does_not_mix_up_their_cancels() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(64 * 1024);
    let (handler, told) = goes_on_after_responding();
    let running = side.start(near, handler);
    let mut far = side.manual_peer(far);
    far.send_request(1, 1, b"").await;
    assert!(matches!(
        far.message().await,
        Some(Received::Message(_, MessageHeader::Response { id: 1, .. }, _))
    ));
    running.connection.ping();
    let Some(Received::Control(Control::Ping { token })) = far.message().await else { panic!("no ping") };
    far.send(&side.control(&Control::Pong { token })).await;
    settle().await;
    assert!(!running.connection.has_unanswered_ping());
    far.send_request(2, 2, b"").await;
    settle().await;
    far.send(&side.encode(Lane::Normal, &MessageHeader::Cancel { id: 2 }, b"")).await;
    settle().await;
    assert_eq!(*told.lock().unwrap(), ["stopped"], "the cancelled one only");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(*told.lock().unwrap(), ["stopped", "finished", "stopped"]);
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_request_id_breaks_the_protocol() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(1024);
    let handler = RecordingHandler::new().on_request(|_, _, responder| {
        Handled::later(async move {
            std::future::pending::<()>().await;
            drop(responder);
        })
    });
    let running = side.start(near, handler);
    let mut far = side.manual_peer(far);
    far.send_request(9, 1, b"").await;
    far.send_request(9, 1, b"").await;
    far.rest().await;
    drop(far);
    assert!(matches!(running.end().await, CloseReason::DuplicateRequestId(9)));
}

#[tokio::test(start_paused = true)]
async fn closing_fails_all_requests_at_once() {
    let side = TestSide::new(Native::default());
    for drain in [false, true] {
        let (near, _far) = pipe(64);
        let running = side.start(near, RecordingHandler::new());
        let asking: Vec<_> = (0..20)
            .map(|_| {
                let connection = Arc::clone(&running.connection);
                tokio::spawn(async move { connection.request(Message::new(1, vec![0; 100]), TIMEOUT).await })
            })
            .collect();
        settle().await;
        let begun = tokio::time::Instant::now();
        if drain {
            running.connection.drain(DisconnectReason::Requested, None, Duration::from_secs(5));
        } else {
            running.connection.close(DisconnectReason::Requested, None);
        }
        for one in asking {
            assert!(matches!(one.await.unwrap(), Err(RequestError::Closed | RequestError::NotSent(_))));
        }
        assert_eq!(begun.elapsed(), Duration::ZERO, "not one waited for the connection's own end");
        let late = running.connection.request(Message::new(1, ""), TIMEOUT).await;
        assert!(matches!(late, Err(RequestError::NotSent(_))));
        running.end().await;
    }
    assert_eq!(side.budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_bound_of_zero_requests_means_one() {
    let connection = ConnectionConfig { max_inbound_requests: 0, ..ConnectionConfig::default() };
    let side = TestSide::with(Native::default(), SideConfig { connection, ..SideConfig::default() });
    let (near, far) = pipe(64 * 1024);
    let answers = |_, _, responder: Responder| {
        responder.respond("yes").unwrap();
        Handled::Done
    };
    let _answering = side.start(near, RecordingHandler::new().on_request(answers));
    let asking = side.start(far, RecordingHandler::new());
    for _ in 0..100 {
        assert_eq!(asking.connection.request(Message::new(1, ""), TIMEOUT).await.unwrap(), "yes");
    }
}

#[tokio::test(start_paused = true)]
async fn too_many_requests_return_the_message_when_their_time_is_over() {
    let connection = ConnectionConfig { max_outbound_requests: 4, ..ConnectionConfig::default() };
    let side = TestSide::with(Native::default(), SideConfig { connection, ..SideConfig::default() });
    let (near, _far) = pipe(64 * 1024);
    let running = side.start(near, RecordingHandler::new());
    let asking: Vec<_> = (0..4)
        .map(|_| {
            let connection = Arc::clone(&running.connection);
            tokio::spawn(async move { connection.request(Message::new(1, ""), TIMEOUT).await })
        })
        .collect();
    settle().await;
    let (begun, within) = (tokio::time::Instant::now(), TIMEOUT / 2);
    let refused = running.connection.request(Message::new(5, "mine"), within).await;
    assert!(matches!(refused, Err(RequestError::TooMany(back)) if back == Message::new(5, "mine")));
    assert!((within..TIMEOUT).contains(&begun.elapsed()), "it had its time to wait for room");
    asking.iter().for_each(tokio::task::JoinHandle::abort);
    settle().await;
    assert_eq!(running.connection.pending_counts().outbound_requests, 0);
}

/// The future is dropped after every possible number of polls, and nothing is left behind.
#[tokio::test(start_paused = true)]
async fn a_request_dropped_after_any_number_of_polls_leaves_nothing_behind() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(256);
    let held: Arc<Mutex<Vec<Responder>>> = Arc::default();
    let keep = Arc::clone(&held);
    let handler = RecordingHandler::new().on_request(move |kind, _, responder| {
        if kind == 1 {
            keep.lock().unwrap().push(responder);
        }
        Handled::Done
    });
    let asking = side.start(near, RecordingHandler::new());
    let answering = side.start(far, handler);
    for polls in 0..40u32 {
        let message = Message::new((polls % 2) as u16, vec![0; 37 * polls as usize]);
        let mut request = Box::pin(asking.connection.request(message, TIMEOUT));
        for _ in 0..polls {
            let polled =
                std::future::poll_fn(|cx| std::task::Poll::Ready(request.as_mut().poll(cx).is_ready())).await;
            if polled {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(request);
        assert_eq!(asking.connection.pending_counts().outbound_requests, 0);
        if polls % 5 == 0 {
            settle().await;
            held.lock().unwrap().clear();
        }
    }
    settle().await;
    held.lock().unwrap().clear();
    settle().await;
    assert_eq!(asking.connection.pending_counts(), peerpool::connection::PendingCounts::default());
    assert_eq!(answering.connection.pending_counts(), peerpool::connection::PendingCounts::default());
    assert_eq!(side.budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_pipeline_returns_responses_as_they_arrive_with_their_numbers() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(64 * 1024);
    let running = side.start(near, RecordingHandler::new());
    let mut far = side.manual_peer(far);
    let mut pipeline = running.connection.pipeline(TIMEOUT);
    assert!(pipeline.next().await.is_none(), "nothing was asked");
    let numbers = [0, 1, 2].map(|kind| pipeline.send(Message::new(kind, "")).unwrap());
    assert_eq!((numbers, pipeline.in_flight()), ([0, 1, 2], 3));
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(request_of(far.message().await));
    }
    let answer = |at: usize, status, words: &[u8]| {
        side.encode(Lane::Normal, &MessageHeader::Response { id: ids[at], status }, words)
    };
    far.send(&answer(2, Status::Ok, b"two")).await;
    far.send(&answer(0, Status::Refused, b"none")).await;
    assert!(matches!(pipeline.next().await, Some((2, Ok(words))) if words == "two"));
    assert!(matches!(
        pipeline.next().await,
        Some((0, Err(RequestError::Declined { status: Status::Refused, detail }))) if detail == "none"
    ));
    // A slot is used again, a number is not.
    assert_eq!((pipeline.send(Message::new(3, "")).unwrap(), pipeline.in_flight()), (3, 2));
    far.send(&answer(1, Status::Ok, b"one")).await;
    assert!(matches!(pipeline.next().await, Some((1, Ok(words))) if words == "one"));
    assert_eq!((pipeline.in_flight(), running.connection.pending_counts().outbound_requests), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_late_response_fails_only_its_own_pipelined_request() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(64 * 1024);
    let running = side.start(near, RecordingHandler::new());
    let mut far = side.manual_peer(far);
    let within = Duration::from_secs(32);
    let mut pipeline = running.connection.pipeline(within);
    pipeline.send(Message::new(1, "")).unwrap();
    let begun = tokio::time::Instant::now();
    let half = tokio::time::timeout(within / 2, pipeline.next()).await;
    assert!(half.is_err(), "nobody answers");
    pipeline.send(Message::new(2, "")).unwrap();
    let (first, second) = (request_of(far.message().await), request_of(far.message().await));
    assert!(matches!(pipeline.next().await, Some((0, Err(RequestError::Timeout)))));
    let took = begun.elapsed();
    assert!(took >= within && took <= within + Duration::from_millis(1_100), "{took:?}");
    // The peer gets a cancel, and a late response is dropped.
    assert!(
        matches!(far.message().await, Some(Received::Message(_, MessageHeader::Cancel { id: gone }, _)) if gone == first)
    );
    for (id, words) in [(first, b"late"), (second, b"good")] {
        far.send(&side.encode(Lane::Normal, &MessageHeader::Response { id, status: Status::Ok }, words))
            .await;
    }
    assert!(matches!(pipeline.next().await, Some((1, Ok(words))) if words == "good"));
    assert!(pipeline.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_pipeline_times_out_requests_while_other_responses_arrive() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(64 * 1024);
    let running = side.start(near, RecordingHandler::new());
    let mut far = side.manual_peer(far);
    let within = Duration::from_secs(1);
    let mut pipeline = running.connection.pipeline(within);
    pipeline.send(Message::new(0, "never answered")).unwrap();
    let silent = request_of(far.message().await);
    let begun = tokio::time::Instant::now();
    let mut answered = 0;
    let took = loop {
        pipeline.send(Message::new(1, "")).unwrap();
        let id = request_of(far.message().await);
        far.send(&side.encode(Lane::Normal, &MessageHeader::Response { id, status: Status::Ok }, b"")).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        match pipeline.next().await {
            Some((0, Err(RequestError::Timeout))) => break begun.elapsed(),
            Some((_, Ok(_))) => answered += 1,
            other => panic!("{other:?}"),
        }
        assert!(begun.elapsed() < 3 * within, "it waits for ever");
    };
    assert!(took >= within && took <= within + Duration::from_millis(300), "{took:?}");
    // Responses that arrived in time are returned all the same.
    while pipeline.in_flight() > 0 {
        assert!(matches!(pipeline.next().await, Some((_, Ok(_)))));
        answered += 1;
    }
    assert!(answered >= 9, "{answered}");
    let told = far.message().await;
    assert!(
        matches!(told, Some(Received::Message(_, MessageHeader::Cancel { id }, _)) if id == silent),
        "{told:?}"
    );
    assert_eq!(running.connection.pending_counts().outbound_requests, 0);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_pipeline_takes_back_unsent_requests_and_cancels_sent_ones() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(1024);
    let running = side.start(near, RecordingHandler::new());
    let mut far = side.manual_peer(far);
    let mut pipeline = running.connection.pipeline(TIMEOUT);
    pipeline.send(Message::new(1, "")).unwrap();
    let sent = request_of(far.message().await);
    running.connection.send(Message::new(9, vec![0; 10_000])).unwrap();
    settle().await;
    pipeline.send(Message::new(2, "")).unwrap();
    settle().await;
    drop(pipeline);
    assert_eq!(running.connection.pending_counts().outbound_requests, 0);
    assert!(matches!(far.message().await, Some(Received::Message(_, MessageHeader::Event { kind: 9 }, _))));
    assert!(
        matches!(far.message().await, Some(Received::Message(_, MessageHeader::Cancel { id: gone }, _)) if gone == sent),
        "the second was never sent"
    );
}

#[tokio::test(start_paused = true)]
async fn closing_fails_a_pipeline_and_a_full_one_returns_the_message() {
    let connection = ConnectionConfig { max_outbound_requests: 2, ..ConnectionConfig::default() };
    let side = TestSide::with(Native::default(), SideConfig { connection, ..SideConfig::default() });
    let (near, _far) = pipe(64 * 1024);
    let running = side.start(near, RecordingHandler::new());
    let mut pipeline = running.connection.pipeline(TIMEOUT);
    pipeline.send(Message::new(1, "")).unwrap();
    pipeline.send(Message::new(2, "")).unwrap();
    let full = pipeline.send(Message::new(3, "third"));
    assert!(matches!(full, Err(RequestError::TooMany(back)) if back.payload == "third"));
    running.connection.close(DisconnectReason::Closed, None);
    let mut failed = Vec::new();
    while let Some((number, answer)) = pipeline.next().await {
        assert!(matches!(answer, Err(RequestError::Closed)));
        failed.push(number);
    }
    failed.sort_unstable();
    assert_eq!(failed, [0, 1]);
    let closed = pipeline.send(Message::new(4, "fourth"));
    assert!(
        matches!(closed, Err(RequestError::NotSent(peerpool::connection::SendError::Closed(back))) if back.payload == "fourth")
    );
}

#[tokio::test(start_paused = true)]
async fn requests_beyond_the_bound_wait_for_room_within_their_time() {
    let connection = ConnectionConfig { max_outbound_requests: 4, ..ConnectionConfig::default() };
    let side = TestSide::with(Native::default(), SideConfig { connection, ..SideConfig::default() });
    let (near, far) = pipe(64 * 1024);
    let answers = |_, payload: Bytes, responder: Responder| {
        Handled::later(async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let _ = responder.respond(payload);
        })
    };
    let _answering = side.start(near, RecordingHandler::new().on_request(answers));
    let asking = side.start(far, RecordingHandler::new());
    let requests: Vec<_> = (0..200u8)
        .map(|n| {
            let connection = Arc::clone(&asking.connection);
            tokio::spawn(async move { connection.request(Message::new(1, vec![n]), TIMEOUT).await })
        })
        .collect();
    // One that gives up while it waits does not take the room of another.
    requests[100].abort();
    for (n, request) in requests.into_iter().enumerate().filter(|(n, _)| *n != 100) {
        assert_eq!(request.await.unwrap().unwrap(), vec![n as u8]);
    }
    assert_eq!(asking.connection.pending_counts().outbound_requests, 0);
}

#[tokio::test(start_paused = true)]
async fn requests_that_wait_for_room_fail_as_soon_as_the_connection_closes() {
    let connection = ConnectionConfig { max_outbound_requests: 1, ..ConnectionConfig::default() };
    let side = TestSide::with(Native::default(), SideConfig { connection, ..SideConfig::default() });
    let (near, _far) = pipe(64 * 1024);
    let running = side.start(near, RecordingHandler::new());
    let ask = || {
        let connection = Arc::clone(&running.connection);
        tokio::spawn(async move { connection.request(Message::new(1, "?"), TIMEOUT).await })
    };
    let (asked, waits) = (ask(), ask());
    settle().await;
    let begun = tokio::time::Instant::now();
    running.connection.close(DisconnectReason::Closed, None);
    assert!(matches!(asked.await.unwrap(), Err(RequestError::Closed)));
    assert!(matches!(waits.await.unwrap(), Err(RequestError::NotSent(_))));
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_declined_request_shows_what_the_peer_said() {
    let declined = |detail: &'static [u8]| {
        let detail = Bytes::from_static(detail);
        RequestError::Declined { status: Status::Refused, detail }.to_string()
    };
    assert_eq!(declined(b"no block\n 7"), "the peer declined the request: Refused: no block  7");
    assert_eq!(declined(b""), "the peer declined the request: Refused");
    assert_eq!(declined(&[0xff, 0]), "the peer declined the request: Refused (2 bytes of detail)");
}
