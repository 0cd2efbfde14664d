//! Bulk that is under way.

use std::time::Duration;

use peerpool::base::Lane;
use peerpool::connection::{ConnectionConfig, Handled, Message};
use peerpool::pool::DisconnectReason;
use peerpool::wire::Native;

use crate::harness::{ByHand, Ear, Heard, Item, Plan, Running, Side, pipe, settle};
use crate::lanes::kind_of;
use crate::toy::Toy;

/// What a connection lets under way before it knows the line, and a round more.
const FIRST: usize = 256 * 1024 + 64 * 1024;

fn block() -> Message {
    Message::new(1, vec![0; 8 << 20]).bulk()
}

/// Bytes of frames until the next of kind 2 has come.
async fn before_the_vote(far: &mut ByHand<Native, tokio::io::DuplexStream>) -> usize {
    let mut chunks = 0;
    loop {
        match far.next().await.expect("open") {
            Item::Chunk => chunks += 1,
            item => {
                assert_eq!(kind_of(&item), Some(2));
                return chunks * 16 * 1024;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_vote_never_waits_behind_megabytes_in_the_peers_kernel() {
    let side = Side::with(Native::default(), Plan { ring: 32 << 20, ..Plan::default() });
    for broadcast in [false, true] {
        let (near, far) = pipe(64 << 20);
        let running = side.start(near, Ear::new());
        let mut far = side.by_hand(far);
        if broadcast {
            side.broadcast(Lane::Bulk, 1, &[0; 8 << 20]);
        } else {
            running.connection.send(block()).unwrap();
        }
        settle().await;
        running.connection.send(Message::new(2, "vote").urgent()).unwrap();
        settle().await;
        let bytes = before_the_vote(&mut far).await;
        assert!((64 * 1024..=FIRST).contains(&bytes), "{bytes} bytes before the vote");
        assert_eq!(kind_of(&far.message().await.unwrap()), Some(1), "and the block comes whole");
    }
}

#[tokio::test(start_paused = true)]
async fn bulk_that_is_held_back_holds_up_no_other_lane() {
    let side = Side::new(Native::default());
    let (near, far) = pipe(64 << 20);
    let running = side.start(near, Ear::new());
    let mut far = side.by_hand(far);
    far.answers_marks = false;
    running.connection.send(block()).unwrap();
    settle().await;
    for kind in [Lane::Urgent, Lane::Normal] {
        running.connection.send(Message { lane: kind, kind: 2, payload: vec![0; 200_000].into() }).unwrap();
        side.broadcast(kind, 2, &[0; 100]);
    }
    let mut kinds = Vec::new();
    while kinds.len() < 4 {
        kinds.extend(far.message().await.map(|item| kind_of(&item).unwrap()));
    }
    assert_eq!(kinds, [2; 4]);
}

/// Whatever else its kernel takes: what counts is that nobody behind it takes the bulk.
#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_bulk_and_never_says_so_has_stalled() {
    for beside in [false, true] {
        let side = Side::new(Native::default());
        let ear = Ear::new();
        let (near, far) = pipe(64 << 20);
        let Running { connection, task } = side.start(near, ear.clone());
        connection.send(block()).unwrap();
        settle().await;
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_secs(5)).await;
            if beside {
                connection.ping();
                connection.send(Message::new(2, "vote").urgent()).unwrap();
                side.broadcast(Lane::Normal, 2, b"gossip");
                settle().await;
            }
        }
        let now = peerpool::connection::ConnectionHandler::now(&ear);
        assert!(
            connection.stalled_for(now) >= Duration::from_secs(25),
            "{:?}, beside: {beside}",
            connection.stalled_for(now)
        );
        // Any answer is progress.
        let mut far = side.by_hand(far);
        while connection.stalled_for(now) > Duration::ZERO {
            far.next().await.expect("open");
        }
        task.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_link_that_drains_sends_the_bulk_that_was_held_back() {
    let side = Side::new(Native::default());
    let (near, far) = pipe(64 << 20);
    let running = side.start(near, Ear::new());
    running.connection.send(block()).unwrap();
    settle().await;
    running.connection.drain(DisconnectReason::Shutdown, None, Duration::from_secs(10));
    settle().await;
    let mut far = side.by_hand(far);
    let all = far.rest().await;
    assert_eq!(all.first().and_then(kind_of), Some(1), "{} items", all.len());
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn answers_that_nobody_asked_for_say_nothing() {
    let side = Side::new(Native::default());
    let (near, far) = pipe(64 << 20);
    let running = side.start(near, Ear::new());
    let mut far = side.by_hand(far);
    far.answers_marks = false;
    running.connection.send(block()).unwrap();
    settle().await;
    for token in [u64::MAX, 1 << 63, (1 << 63) + 1_000_000] {
        far.send(&side.control(&peerpool::wire::Control::Pong { token })).await;
    }
    settle().await;
    running.connection.send(Message::new(2, "vote").urgent()).unwrap();
    assert!(before_the_vote(&mut far).await <= FIRST);
}

#[tokio::test(start_paused = true)]
async fn a_dialect_whose_pings_carry_no_token_is_not_bounded() {
    let side = Side::new(Toy::new());
    let (near, far) = pipe(64 << 20);
    let running = side.start(near, Ear::new());
    let body = vec![0; 30_000];
    for _ in 0..40 {
        running.connection.send(Message::new(1, body.clone()).bulk()).unwrap();
    }
    settle().await;
    assert_eq!(running.connection.pending_counts().queued_messages, 0);
    let mut far = side.by_hand(far);
    far.answers_marks = false;
    for _ in 0..40 {
        assert_eq!(kind_of(&far.message().await.unwrap()), Some(1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_fills_its_own_inbox_may_wait_for_bulk_to_be_sent() {
    let config = ConnectionConfig { inbox_messages: 8, ..ConnectionConfig::default() };
    let side = Side::with(Native::default(), Plan { connection: config, ..Plan::default() });
    let (near, far) = pipe(64 << 20);
    let ear = Ear::new().on_event(|_, _, _| Handled::later(std::future::pending()));
    let running = side.start(near, ear.clone());
    let mut far = side.by_hand(far);
    running.connection.send(block()).unwrap();
    settle().await;
    for _ in 0..100 {
        far.send(&side.event(Lane::Normal, 1, b"more than it takes")).await;
    }
    settle().await;
    assert_eq!(ear.count(|one| *one == Heard::Paused(true)), 1);
    running.connection.send(block()).unwrap();
    // The answers to its marks reach nobody.
    for _ in 0..2 {
        assert_eq!(kind_of(&far.message().await.unwrap()), Some(1));
    }
    assert_eq!(
        running.connection.stalled_for(peerpool::connection::ConnectionHandler::now(&ear)),
        Duration::ZERO
    );
}
