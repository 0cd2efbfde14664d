//! Memory: everything a peer can make us hold is bounded and given back.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use peerpool::base::{Lane, Tick};
use peerpool::broadcast::LagPolicy;
use peerpool::connection::{
    CloseReason, ConnectionConfig, ConnectionHandler, Handled, MemoryReservation, Message, SendError,
};
use peerpool::wire::{Control, MessageHeader, Native};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

use crate::harness::*;
use crate::toy::Toy;

#[tokio::test(start_paused = true)]
async fn a_full_lane_gives_the_message_back() {
    let connection = ConnectionConfig { outbox_messages: 3, ..ConnectionConfig::default() };
    let side = Side::with(Native::default(), Plan { connection, ..Plan::default() });
    let prepared = side.prepare();
    for n in 0..3 {
        prepared.connection().send(Message::new(n, "x")).unwrap();
    }
    let SendError::Full(back) = prepared.connection().send(Message::new(9, "mine")).unwrap_err() else {
        panic!("full")
    };
    assert_eq!(back, Message::new(9, "mine"));
    prepared.connection().send(Message::new(1, "other lane").urgent()).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_message_that_no_dialect_can_say_comes_back() {
    let native = Side::new(Native::default());
    let connection = native.prepare();
    let too_large = Message::new(1, vec![0; 256 * 1024 + 1]).urgent();
    assert!(matches!(connection.connection().send(too_large), Err(SendError::Refused { .. })));
    let toy = Side::new(Toy::new());
    let connection = toy.prepare();
    assert!(matches!(
        connection.connection().send(Message::new(1, vec![0; 32 * 1024 + 1])),
        Err(SendError::Refused { .. })
    ));
    let refused = connection.connection().request(Message::new(1, "no ids"), WAIT).await;
    assert!(refused.is_err());
    assert_eq!(connection.connection().pending_counts().outbound_requests, 0);
}

#[tokio::test(start_paused = true)]
async fn the_ceiling_holds_with_every_link_stuck_and_all_comes_back() {
    let ceiling = 1 << 20;
    let side = Side::with(Native::default(), Plan { budget: ceiling, ..Plan::default() });
    let mut far = Vec::new();
    let mut connections = Vec::new();
    for _ in 0..8 {
        let (near, other) = pipe(4096);
        far.push(other);
        connections.push(side.start(near, Ear::new()));
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
    // Eleven of 100 kB at the most: what a writer has taken out of a queue counts as well.
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
    let side = Side::with(Native::default(), Plan { budget: 10 << 20, ..Plan::default() });
    let (near, far) = pipe(4096);
    let running = side.start(near, Ear::new());
    running.connection.send(Message::new(1, vec![1; 6 << 20]).bulk()).unwrap();
    settle().await;
    assert_eq!(running.connection.pending_counts().queued_messages, 0, "the writer has it");
    assert!(side.budget.used() >= 6 << 20, "held: {}", side.budget.used());
    assert!(matches!(
        running.connection.send(Message::new(1, vec![1; 6 << 20]).bulk()),
        Err(SendError::Full(_))
    ));
    let mut far = side.by_hand(far);
    assert!(matches!(far.message().await, Some(Item::Message(Lane::Bulk, _, body)) if body.len() == 6 << 20));
    settle().await;
    assert_eq!(side.budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_asks_and_never_reads_the_answers_floods() {
    let side = Side::new(Native::default());
    let (near, far) = pipe(64 * 1024);
    let ear = Ear::new().on_request(|_, _, responder| {
        drop(responder);
        Handled::Done
    });
    let running = side.start(near, ear);
    let connection = Arc::clone(&running.connection);
    let mut far = side.by_hand(far);
    let asking = tokio::spawn(async move {
        let (mut out, speaker) = (bytes::BytesMut::new(), Side::new(Native::default()));
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
async fn a_flood_of_pings_ends_the_link() {
    let side = Side::new(Native::default());
    let (near, far) = pipe(1024);
    let running = side.start(near, Ear::new());
    let mut far = side.by_hand(far);
    let ping = side.control(&Control::Ping { token: 1 });
    let flood: Vec<u8> = std::iter::repeat_n(&ping[..], 10_000).flatten().copied().collect();
    // The connection ends before it has taken all.
    let _ = far.stream.write_all(&flood).await;
    assert!(matches!(running.end().await, CloseReason::Flood));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_never_reads_is_told_by_its_stall() {
    let side = Side::new(Native::default());
    let (near, mut far) = pipe(4096);
    let ear = Ear::new();
    let running = side.start(near, ear.clone());
    settle().await;
    assert_eq!(running.connection.stalled_for(ear.now()), Duration::ZERO);
    running.connection.send(Message::new(1, vec![0; 10_000])).unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    let stalled = running.connection.stalled_for(ear.now());
    assert!(stalled >= Duration::from_secs(19), "{stalled:?}");
    let mut buffer = [0; 20_000];
    let mut got = 0;
    while got < 10_000 {
        got += far.read(&mut buffer).await.unwrap();
    }
    settle().await;
    assert_eq!(running.connection.stalled_for(ear.now()), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn an_inbox_that_the_ceiling_does_not_cover_stays_paused() {
    let side = Side::with(Native::default(), Plan { budget: 70_000, ..Plan::default() });
    let (near, far) = pipe(1 << 20);
    let ear = Ear::new().on_event(|_, _, _| Handled::later(tokio::time::sleep(Duration::from_secs(1))));
    let running = side.start(near, ear.clone());
    let hog = side.budget.reserve(69_000).unwrap();
    let mut far = side.by_hand(far);
    for n in 0..20 {
        far.send(&side.event(Lane::Normal, n, &[1; 2000])).await;
    }
    settle().await;
    for _ in 0..5 {
        running.connection.ping();
        settle().await;
    }
    assert_eq!(
        ear.heard().iter().filter(|one| **one == Heard::Paused(true)).count(),
        1,
        "{:?}",
        ear.heard().len()
    );
    drop(hog);
    ear.until_events(20).await;
    assert_eq!(ear.kinds(), (0..20).collect::<Vec<_>>());
}

/// An ear whose handler takes all memory that is left, and holds it as long as the returned cell does.
fn greedy(
    side: &Side<Native>,
    then: impl Fn() -> Handled + Send + Sync + 'static,
) -> (Ear, Arc<Mutex<Option<MemoryReservation>>>) {
    let (budget, hog) = (Arc::clone(&side.budget), Arc::new(Mutex::new(None)));
    let all = Arc::clone(&hog);
    let ear = Ear::new().on_event(move |_, _, _| {
        all.lock().unwrap().get_or_insert_with(|| budget.reserve(budget.free()).unwrap());
        then()
    });
    (ear, hog)
}

#[tokio::test(start_paused = true)]
async fn a_pause_at_the_ceiling_ends_no_link_and_what_it_keeps_counts() {
    let side = Side::new(Native::default());
    let (near, far) = pipe(256 * 1024);
    let go = Arc::new(Semaphore::new(0));
    let gate = Arc::clone(&go);
    let (ear, hog) = greedy(&side, move || {
        let gate = Arc::clone(&gate);
        Handled::later(async move { gate.acquire().await.unwrap().forget() })
    });
    let running = side.start(near, ear.clone());
    let mut far = side.by_hand(far);
    let event = side.event(Lane::Normal, 1, &[7; 100]);
    let count = 120 * 1024 / event.len();
    far.send(&event.repeat(count)).await;
    settle().await;
    assert_eq!(ear.count(|one| *one == Heard::Paused(true)), 1);
    assert!(running.connection.is_open());
    let (used, limit) = (side.budget.used(), side.budget.limit());
    assert!(used > limit + 100 * 1024 && used < limit + 128 * 1024, "{used} of {limit}");
    go.add_permits(count);
    ear.until_events(count).await;
    *hog.lock().unwrap() = None;
    settle().await;
    assert_eq!(side.budget.used(), 0);
    assert!(running.connection.is_open());
}

#[tokio::test(start_paused = true)]
async fn the_ceiling_does_not_hide_why_a_link_ends() {
    let side = Side::new(Native::default());
    let (near, far) = pipe(256 * 1024);
    let (ear, _hog) = greedy(&side, || Handled::Done);
    let running = side.start(near, ear);
    let mut far = side.by_hand(far);
    let mut bytes = side.event(Lane::Normal, 1, b"takes all").to_vec();
    // A header of no frame that there is.
    bytes.resize(100 * 1024, 0xff);
    far.send(&bytes).await;
    assert!(matches!(far.rest().await[..], [Item::Control(Control::Goodbye(_))]));
    drop(far);
    assert!(matches!(running.end().await, CloseReason::Wire(_)));
}

#[tokio::test(start_paused = true)]
async fn large_messages_that_wait_for_their_handlers_are_counted_or_not_kept() {
    const SIZE: usize = 6 << 20;
    // Room for one of them and for what another one takes while it comes in, but not for two that wait.
    let side = Side::with(Native::default(), Plan { budget: 10 << 20, ..Plan::default() });
    let mut connections = Vec::new();
    for _ in 0..4 {
        let (near, far) = pipe(64 * 1024);
        let ear = Ear::new().on_event(|_, _, _| Handled::later(std::future::pending()));
        connections.push((side.start(near, ear), side.by_hand(far)));
    }
    let large = side.event(Lane::Bulk, 1, &vec![1; SIZE]);
    let mut waiting = 0;
    for (running, far) in &mut connections {
        far.send(&side.event(Lane::Normal, 1, b"the handler is busy from now on")).await;
        let sent = far.stream.write_all(&large).await;
        settle().await;
        waiting += usize::from(sent.is_ok() && running.connection.is_open());
        assert!(side.budget.used() >= waiting * SIZE, "{} for {waiting}", side.budget.used());
    }
    assert_eq!(waiting, 1);
    connections.iter().for_each(|(running, _)| running.task.abort());
    settle().await;
    assert_eq!(side.budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_memory_that_a_block_left_makes_no_small_message_pass_the_ceiling() {
    let side = Side::with(Native::default(), Plan { budget: 40 << 20, ..Plan::default() });
    let (near, far) = pipe(16 * 1024);
    let ear = Ear::new();
    let _running = side.start(near, ear.clone());
    let mut far = side.by_hand(far);
    far.send(&side.event(Lane::Bulk, 1, &vec![1; 10_000_000])).await;
    ear.until_events(1).await;
    ear.forget();
    let _hog = side.budget.reserve(side.budget.free() - (4 << 20)).unwrap();
    far.send(&side.event(Lane::Bulk, 2, &[2; 150_000])).await;
    ear.until_events(1).await;
    assert_eq!(ear.kinds(), [2]);
}

#[tokio::test(start_paused = true)]
async fn a_message_larger_than_the_ceiling_ends_its_link_and_no_other() {
    let side = Side::with(Native::default(), Plan { budget: 200_000, ..Plan::default() });
    let (near, far) = pipe(64 * 1024);
    let (near_too, far_too) = pipe(64 * 1024);
    let (greedy, other) = (side.start(near, Ear::new()), side.start(near_too, Ear::new()));
    let (mut far, mut far_too) = (side.by_hand(far), side.by_hand(far_too));
    let _ = far.stream.write_all(&side.event(Lane::Bulk, 1, &vec![0; 2 << 20])).await;
    assert!(matches!(greedy.end().await, CloseReason::MemoryCeiling));
    far_too.send(&side.control(&Control::Ping { token: 5 })).await;
    assert_eq!(far_too.next().await, Some(Item::Control(Control::Pong { token: 5 })));
    assert_eq!(side.budget.used(), 0);
    drop(other);
}

/// A slow reader that makes progress all the time holds producers back, instead of missing what they say.
#[tokio::test(start_paused = true)]
async fn a_producer_that_waits_makes_no_slow_peer_lag() {
    let plan = Plan { ring: 1 << 20, lag: LagPolicy::Disconnect, ..Plan::default() };
    let side = Side::with(Native::default(), plan);
    let (near, far) = pipe(16 * 1024);
    let running = side.start(near, Ear::new());
    let mut far = side.by_hand(far);
    let reading = tokio::spawn(async move {
        let mut messages = 0;
        loop {
            // Some 160 kB a second: the queue at the connection is never empty.
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
    let (got, _far) = tokio::time::timeout(WAIT * 100, reading).await.unwrap().unwrap();
    assert_eq!(got, 2_000);
    assert_eq!(log.stats().skipped, 0);
    assert!(running.connection.is_open());
}
