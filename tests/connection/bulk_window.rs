//! The window of bulk in flight.

use std::time::Duration;

use peerpool::Lane;
use peerpool::connection::{ConnectionConfig, Handled, Message};
use peerpool::pool::DisconnectReason;
use peerpool::wire::Native;

use crate::harness::{
    Callback, ManualPeer, Received, RecordingHandler, RunningConnection, SideConfig, TestSide, pipe, settle,
};
use crate::lanes::kind_of;
use crate::toy::Toy;

/// Bulk in flight before anything is known of the path, and one round more.
const MAX_INITIAL_BYTES: usize = 256 * 1024 + 64 * 1024;

fn block() -> Message {
    Message::new(1, vec![0; 8 << 20]).bulk()
}

/// Bytes of bulk that arrive before the next message of kind 2.
async fn bulk_before_the_vote(far: &mut ManualPeer<Native, tokio::io::DuplexStream>) -> usize {
    let mut chunks = 0;
    loop {
        match far.next().await.expect("open") {
            Received::Chunk => chunks += 1,
            item => {
                assert_eq!(kind_of(&item), Some(2));
                return chunks * 16 * 1024;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_vote_never_waits_behind_megabytes_in_the_peers_kernel() {
    let side = TestSide::with(Native::default(), SideConfig { ring: 32 << 20, ..SideConfig::default() });
    for broadcast in [false, true] {
        let (near, far) = pipe(64 << 20);
        let running = side.start(near, RecordingHandler::new());
        let mut far = side.manual_peer(far);
        if broadcast {
            side.broadcast(Lane::Bulk, 1, &[0; 8 << 20]);
        } else {
            running.connection.send(block()).unwrap();
        }
        settle().await;
        running.connection.send(Message::new(2, "vote").urgent()).unwrap();
        settle().await;
        let bytes = bulk_before_the_vote(&mut far).await;
        assert!((64 * 1024..=MAX_INITIAL_BYTES).contains(&bytes), "{bytes} bytes before the vote");
        assert_eq!(kind_of(&far.message().await.unwrap()), Some(1), "and the block comes whole");
    }
}

#[tokio::test(start_paused = true)]
async fn held_back_bulk_does_not_delay_other_lanes() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(64 << 20);
    let running = side.start(near, RecordingHandler::new());
    let mut far = side.manual_peer(far);
    far.acks_marks = false;
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

/// Bytes that the kernel takes do not count: the process behind it takes no bulk.
#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_bulk_and_never_acknowledges_is_stalled() {
    for beside in [false, true] {
        let side = TestSide::new(Native::default());
        let handler = RecordingHandler::new();
        let (near, far) = pipe(64 << 20);
        let RunningConnection { connection, task } = side.start(near, handler.clone());
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
        let now = peerpool::connection::ConnectionHandler::now(&handler);
        assert!(
            connection.stalled_for(now) >= Duration::from_secs(25),
            "{:?}, beside: {beside}",
            connection.stalled_for(now)
        );
        // Any acknowledgement is progress.
        let mut far = side.manual_peer(far);
        while connection.stalled_for(now) > Duration::ZERO {
            far.next().await.expect("open");
        }
        task.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_draining_connection_sends_held_back_bulk() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(64 << 20);
    let running = side.start(near, RecordingHandler::new());
    running.connection.send(block()).unwrap();
    settle().await;
    running.connection.drain(DisconnectReason::Shutdown, None, Duration::from_secs(10));
    settle().await;
    let mut far = side.manual_peer(far);
    let all = far.rest().await;
    assert_eq!(all.first().and_then(kind_of), Some(1), "{} items", all.len());
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn unsolicited_acknowledgements_are_ignored() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(64 << 20);
    let running = side.start(near, RecordingHandler::new());
    let mut far = side.manual_peer(far);
    far.acks_marks = false;
    running.connection.send(block()).unwrap();
    settle().await;
    for token in [u64::MAX, 1 << 63, (1 << 63) + 1_000_000] {
        far.send(&side.control(&peerpool::wire::Control::Pong { token })).await;
    }
    settle().await;
    running.connection.send(Message::new(2, "vote").urgent()).unwrap();
    assert!(bulk_before_the_vote(&mut far).await <= MAX_INITIAL_BYTES);
}

#[tokio::test(start_paused = true)]
async fn bulk_is_not_limited_in_a_protocol_without_ping_tokens() {
    let side = TestSide::new(Toy::new());
    let (near, far) = pipe(64 << 20);
    let running = side.start(near, RecordingHandler::new());
    let body = vec![0; 30_000];
    for _ in 0..40 {
        running.connection.send(Message::new(1, body.clone()).bulk()).unwrap();
    }
    settle().await;
    assert_eq!(running.connection.pending_counts().queued_messages, 0);
    let mut far = side.manual_peer(far);
    far.acks_marks = false;
    for _ in 0..40 {
        assert_eq!(kind_of(&far.message().await.unwrap()), Some(1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_with_a_full_inbox_can_wait_for_bulk_to_be_sent() {
    let config = ConnectionConfig { inbox_messages: 8, ..ConnectionConfig::default() };
    let side = TestSide::with(Native::default(), SideConfig { connection: config, ..SideConfig::default() });
    let (near, far) = pipe(64 << 20);
    let handler = RecordingHandler::new().on_event(|_, _, _| Handled::later(std::future::pending()));
    let running = side.start(near, handler.clone());
    let mut far = side.manual_peer(far);
    running.connection.send(block()).unwrap();
    settle().await;
    for _ in 0..100 {
        far.send(&side.event(Lane::Normal, 1, b"more than it takes")).await;
    }
    settle().await;
    assert_eq!(handler.count(|one| *one == Callback::Paused(true)), 1);
    running.connection.send(block()).unwrap();
    // Acknowledgements of its marks are not read.
    for _ in 0..2 {
        assert_eq!(kind_of(&far.message().await.unwrap()), Some(1));
    }
    assert_eq!(
        running.connection.stalled_for(peerpool::connection::ConnectionHandler::now(&handler)),
        Duration::ZERO
    );
}
