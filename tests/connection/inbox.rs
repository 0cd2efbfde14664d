//! What comes in: events in order, requests beside them, and a reader that stops for nobody but a full inbox.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use peerpool::base::Lane;
use peerpool::connection::{CloseReason, Connection, ConnectionConfig, Handled, Message};
use peerpool::wire::{Control, MessageHeader, Native, Protocol, Status};

use crate::harness::*;
use crate::toy::Toy;

async fn events_run_one_at_a_time_in_order<D: Protocol>(protocol: D) {
    let side = Side::new(protocol);
    let (near, far) = pipe(64 * 1024);
    let busy = Arc::new(AtomicUsize::new(0));
    let done = Arc::new(Mutex::new(Vec::new()));
    let (at_work, finished) = (Arc::clone(&busy), Arc::clone(&done));
    let ear = Ear::new().on_event(move |kind, _, _| {
        assert_eq!(at_work.fetch_add(1, Ordering::SeqCst), 0, "two at a time");
        let (at_work, finished) = (Arc::clone(&at_work), Arc::clone(&finished));
        let rest = async move {
            tokio::time::sleep(Duration::from_millis(u64::from(50 - kind))).await;
            finished.lock().unwrap().push(kind);
            at_work.fetch_sub(1, Ordering::SeqCst);
        };
        Handled::later(rest)
    });
    let _running = side.start(near, ear.clone());
    let mut far = side.by_hand(far);
    for n in 0..50u16 {
        far.send(&side.event(Lane::Normal, n, b"x")).await;
    }
    ear.until_events(50).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(*done.lock().unwrap(), (0..50).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn events_run_one_at_a_time_in_order_native() {
    events_run_one_at_a_time_in_order(Native::default()).await;
}

#[tokio::test(start_paused = true)]
async fn events_run_one_at_a_time_in_order_toy() {
    events_run_one_at_a_time_in_order(Toy::new()).await;
}

/// A full inbox pauses reading, and only that; when half is done it goes on, and nothing is lost.
async fn a_full_inbox_pauses_reading_and_resumes<D: Protocol>(protocol: D) {
    let connection = ConnectionConfig { inbox_messages: 8, ..ConnectionConfig::default() };
    let side = Side::with(protocol, Plan { connection, ..Plan::default() });
    let (near, far) = pipe(256);
    let go = Arc::new(tokio::sync::Semaphore::new(0));
    let gate = Arc::clone(&go);
    let ear = Ear::new().on_event(move |_, _, _| {
        let gate = Arc::clone(&gate);
        Handled::later(async move { gate.acquire().await.unwrap().forget() })
    });
    let _running = side.start(near, ear.clone());
    let mut far = side.by_hand(far);
    let event = side.event(Lane::Normal, 1, &[7; 100]);
    let sending = tokio::spawn(async move {
        for _ in 0..100 {
            far.send(&event).await;
        }
        far
    });
    settle().await;
    assert_eq!(ear.count(|one| matches!(one, Heard::Event(..))), 1);
    assert_eq!(ear.count(|one| *one == Heard::Paused(true)), 1);
    assert!(!sending.is_finished(), "the stream is full: nobody reads");
    let seen = ear.last_seen();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(ear.last_seen(), seen);
    go.add_permits(100);
    ear.until_events(100).await;
    settle().await;
    let pauses: Vec<_> = ear.heard().into_iter().filter(|one| matches!(one, Heard::Paused(_))).collect();
    assert!(pauses.chunks(2).all(|pair| pair == [Heard::Paused(true), Heard::Paused(false)]), "{pauses:?}");
    drop(sending.await.unwrap());
    assert_eq!(side.budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_full_inbox_pauses_reading_and_resumes_native() {
    a_full_inbox_pauses_reading_and_resumes(Native::default()).await;
}

#[tokio::test(start_paused = true)]
async fn a_full_inbox_pauses_reading_and_resumes_toy() {
    a_full_inbox_pauses_reading_and_resumes(Toy::new()).await;
}

#[tokio::test(start_paused = true)]
async fn an_inbox_full_of_bytes_pauses_too() {
    let connection = ConnectionConfig { inbox_bytes: 10_000, ..ConnectionConfig::default() };
    let side = Side::with(Native::default(), Plan { connection, ..Plan::default() });
    let (near, far) = pipe(64 * 1024);
    let ear = Ear::new().on_event(|_, _, _| Handled::later(tokio::time::sleep(Duration::from_secs(1))));
    let _running = side.start(near, ear.clone());
    let mut far = side.by_hand(far);
    for _ in 0..5 {
        far.send(&side.event(Lane::Normal, 1, &[7; 4_000])).await;
    }
    settle().await;
    assert_eq!(ear.count(|one| *one == Heard::Paused(true)), 1);
    assert!(side.budget.used() >= 12_000);
    ear.until_events(5).await;
}

#[tokio::test(start_paused = true)]
async fn while_a_handler_sleeps_control_and_responses_are_parsed() {
    let side = Side::new(Native::default());
    let (near, far) = pipe(64 * 1024);
    let ear = Ear::new().on_event(|_, _, _| Handled::later(std::future::pending()));
    let running = side.start(near, ear.clone());
    let mut far = side.by_hand(far);
    far.send(&side.event(Lane::Normal, 1, b"sleep")).await;
    far.send(&side.event(Lane::Normal, 2, b"waits")).await;
    ear.until_events(1).await;
    let connection = Arc::clone(&running.connection);
    let asking = tokio::spawn(async move { connection.request(Message::new(3, "?"), WAIT).await });
    let Some(Item::Message(_, MessageHeader::Request { id, .. }, _)) = far.message().await else { panic!() };
    far.send(&side.encode(Lane::Normal, &MessageHeader::Response { id, status: Status::Ok }, b"!")).await;
    assert_eq!(asking.await.unwrap().unwrap(), "!");
    for minute in 0..100 {
        // Far past any stale time: every frame still counts as a sign of life.
        tokio::time::sleep(Duration::from_secs(60)).await;
        far.send(&side.control(&Control::Ping { token: minute })).await;
        assert_eq!(far.message().await, Some(Item::Control(Control::Pong { token: minute })));
        assert!(ear.last_seen() >= minute * 60_000);
    }
    assert_eq!(ear.count(|one| matches!(one, Heard::Paused(_))), 0);
}

#[tokio::test(start_paused = true)]
async fn requests_run_beside_events_and_at_most_sixteen_at_a_time() {
    let side = Side::new(Native::default());
    let (near, far) = pipe(64 * 1024);
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (at_work, peak) = (Arc::clone(&now), Arc::clone(&most));
    let ear = Ear::new().on_event(|_, _, _| Handled::later(std::future::pending())).on_request(
        move |_, payload, responder| {
            let (at_work, peak) = (Arc::clone(&at_work), Arc::clone(&peak));
            peak.fetch_max(at_work.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            Handled::later(async move {
                tokio::time::sleep(Duration::from_millis(10)).await;
                at_work.fetch_sub(1, Ordering::SeqCst);
                responder.respond(payload).unwrap();
            })
        },
    );
    let running = side.start(near, ear.clone());
    let mut far = side.by_hand(far);
    far.send(&side.event(Lane::Normal, 1, b"blocks the events")).await;
    for id in 0..50 {
        far.ask(id, 1, &id.to_le_bytes()).await;
    }
    settle().await;
    assert_eq!(running.connection.pending_counts().inbound_requests, 16);
    let mut answered = std::collections::BTreeSet::new();
    for _ in 0..50 {
        let Some(Item::Message(_, MessageHeader::Response { id, status: Status::Ok }, body)) =
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

/// A cell for a connection that its own host needs to know.
type Known = Arc<OnceLock<Arc<Connection>>>;

/// Answers `kind` 0; for an event asks back and reports what came.
fn asks_back(known: &Known, got: &Arc<Mutex<Vec<String>>>) -> Ear {
    let (known, got) = (Arc::clone(known), Arc::clone(got));
    Ear::new().on_event(move |_, _, _| {
        let (connection, got) = (Arc::clone(known.get().unwrap()), Arc::clone(&got));
        Handled::later(async move {
            let answer = connection.request(Message::new(0, "from a handler"), WAIT).await;
            got.lock().unwrap().push(format!("{answer:?}"));
        })
    })
}

#[tokio::test(start_paused = true)]
async fn handlers_that_ask_each_other_from_both_ends_do_not_deadlock() {
    let side = Side::new(Native::default());
    let (near, far) = pipe(1024);
    let (one, other) = (Known::default(), Known::default());
    let got = Arc::new(Mutex::new(Vec::new()));
    let left = side.start(near, asks_back(&one, &got));
    let right = side.start(far, asks_back(&other, &got));
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

async fn a_panic_costs_that_one_link<D: Protocol>(protocol: D, when: &'static str) {
    let side = Side::new(protocol);
    let (near, far) = pipe(1024);
    let (near_too, far_too) = pipe(1024);
    let ear = Ear::new().on_event(move |kind, _, _| match (kind, when) {
        (1, "at once") => panic!("a bug"),
        (1, "in the future") => Handled::later(async {
            tokio::task::yield_now().await;
            panic!("a bug")
        }),
        _ => Handled::Done,
    });
    let (running, other) = (side.start(near, ear.clone()), side.start(near_too, ear.clone()));
    let (mut far, mut far_too) = (side.by_hand(far), side.by_hand(far_too));
    far.send(&side.event(Lane::Normal, 1, b"x")).await;
    let said = far.rest().await;
    assert!(matches!(said[..], [Item::Control(Control::Goodbye(_))]), "{said:?}");
    drop(far);
    assert!(matches!(running.end().await, CloseReason::HandlerPanic));
    far_too.send(&side.event(Lane::Normal, 2, b"x")).await;
    ear.until_events(2).await;
    assert!(other.connection.is_open());
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_handler_costs_that_one_link() {
    for when in ["at once", "in the future"] {
        a_panic_costs_that_one_link(Native::default(), when).await;
        a_panic_costs_that_one_link(Toy::new(), when).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_sends_and_closes_its_own_link_is_legal() {
    let side = Side::new(Native::default());
    let (near, far) = pipe(1024);
    let known = Known::default();
    let own = Arc::clone(&known);
    let ear = Ear::new().on_event(move |_, _, _| {
        let connection = own.get().unwrap();
        connection.send(Message::new(2, "last words").urgent()).unwrap();
        connection.drain(peerpool::pool::DisconnectReason::Requested, None, Duration::from_secs(1));
        Handled::Done
    });
    let running = side.start(near, ear);
    known.set(Arc::clone(&running.connection)).unwrap();
    let mut far = side.by_hand(far);
    far.send(&side.event(Lane::Normal, 1, b"x")).await;
    let said = far.rest().await;
    assert!(
        matches!(&said[..], [Item::Message(Lane::Urgent, MessageHeader::Event { kind: 2 }, _)]),
        "{said:?}"
    );
    drop(far);
    assert!(matches!(running.end().await, CloseReason::Closed(peerpool::pool::DisconnectReason::Requested)));
}
