//! Sending: what goes out, and in which order.

use std::time::Duration;

use peerpool::Lane;
use peerpool::broadcast::LagPolicy;
use peerpool::broadcast::state::StateKey;
use peerpool::connection::{ConnectionConfig, Message};
use peerpool::wire::{Control, MessageHeader, Native, Protocol, WireLimits};

use crate::harness::*;
use crate::toy::Toy;

pub(crate) fn kind_of(item: &Received) -> Option<u16> {
    match item {
        Received::Message(_, MessageHeader::Event { kind }, _) => Some(*kind),
        _ => None,
    }
}

async fn check_messages_arrive_whole_and_in_order<D: Protocol>(protocol: D, largest: usize) {
    let connection = ConnectionConfig { outbox_bytes: 64 << 20, ..ConnectionConfig::default() };
    let side = TestSide::with(protocol, SideConfig { connection, ring: 64 << 20, ..SideConfig::default() });
    let (near, far) = pipe(8 * 1024);
    let handler = RecordingHandler::new();
    let running = side.start(near, RecordingHandler::new());
    let listening = side.start(far, handler.clone());
    let body = |n: u16| vec![n as u8; (usize::from(n) * 997) % largest];
    for n in 0..200u16 {
        assert!(running.connection.send(Message::new(n, body(n))).is_ok());
        side.broadcast(Lane::Normal, 1_000 + n, &body(n));
    }
    // The broadcasts go to both ends, so that both directions are busy.
    handler.until_events(400).await;
    let (mut sent, mut told) = (0, 0);
    for callbacks in handler.callbacks() {
        let Callback::Event(_, kind, payload) = callbacks else { continue };
        let next = if kind < 1_000 { &mut sent } else { &mut told };
        assert_eq!(kind % 1_000, *next);
        assert!(payload == body(*next), "kind {kind} was glued or cut");
        *next += 1;
    }
    assert_eq!((sent, told), (200, 200));
    drop((running, listening));
}

#[tokio::test(start_paused = true)]
async fn messages_of_every_size_arrive_whole_and_in_order_native() {
    check_messages_arrive_whole_and_in_order(Native::default(), 100_000).await;
}

#[tokio::test(start_paused = true)]
async fn messages_of_every_size_arrive_whole_and_in_order_native_in_small_chunks() {
    let limits = WireLimits { chunk: 64, ..WireLimits::default() };
    check_messages_arrive_whole_and_in_order(Native::new(limits), 40_000).await;
}

#[tokio::test(start_paused = true)]
async fn messages_of_every_size_arrive_whole_and_in_order_toy() {
    check_messages_arrive_whole_and_in_order(Toy::new(), 32_000).await;
}

/// The rest of a frame that is too long to copy is still sent before anything else.
async fn check_long_frames_are_not_interrupted<D: Protocol>(protocol: D) {
    let side = TestSide::new(protocol);
    for room in [1_000, 3_000, 11_000] {
        let (near, far) = pipe(room);
        let running = side.start(near, RecordingHandler::new());
        for n in 0..10u16 {
            side.broadcast(Lane::Normal, n, &vec![n as u8; 30_000]);
        }
        settle().await;
        let mut far = side.manual_peer(far);
        for n in 0..10u16 {
            // Each of these arrives while the frame is half written.
            running.connection.ping();
            running.connection.send(Message::new(500 + n, "beside")).unwrap();
            running.connection.send(Message::new(600 + n, "urgent").urgent()).unwrap();
            side.state.set(StateKey::of_kind(777), side.event(Lane::Urgent, 777, b"state").freeze()).unwrap();
            settle().await;
            loop {
                match far.message().await.expect("not the end") {
                    Received::Message(_, MessageHeader::Event { kind }, body) if kind == n => {
                        assert!(body == vec![n as u8; 30_000], "glued");
                        break;
                    }
                    Received::Message(_, MessageHeader::Event { kind }, body) => {
                        assert!(kind >= 500, "{kind}");
                        assert!(body.len() < 10);
                    }
                    Received::Control(Control::Ping { .. }) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_comes_between_the_parts_of_a_long_frame_toy() {
    check_long_frames_are_not_interrupted(Toy::new()).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_comes_between_the_parts_of_a_long_frame_native() {
    check_long_frames_are_not_interrupted(Native::default()).await;
}

#[tokio::test(start_paused = true)]
async fn a_vote_overtakes_a_waiting_transfer_of_ten_megabytes() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(16 * 1024);
    let running = side.start(near, RecordingHandler::new());
    let mut far = side.manual_peer(far);
    running.connection.send(Message::new(1, vec![0; 10 << 20]).bulk()).unwrap();
    for _ in 0..8 {
        assert_eq!(far.next().await, Some(Received::Chunk));
    }
    running.connection.send(Message::new(2, "vote").urgent()).unwrap();
    let mut before = 0;
    loop {
        match far.next().await.unwrap() {
            Received::Chunk => before += 1,
            item => {
                assert_eq!(kind_of(&item), Some(2));
                break;
            }
        }
    }
    // What was in a round and in the pipe already: a few of 640 chunks.
    assert!(before <= 8, "{before} chunks before the vote");
    assert_eq!(kind_of(&far.message().await.unwrap()), Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_waiting_lower_lane_gets_one_chunk_in_sixteen() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(16 * 1024);
    let running = side.start(near, RecordingHandler::new());
    let mut far = side.manual_peer(far);
    running.connection.send(Message::new(1, vec![0; 160 * 1024]).bulk()).unwrap();
    let mut bytes = 0usize;
    // Urgent messages wait all the time.
    let done = loop {
        while running.connection.pending_counts().queued_bytes < 2 << 20 {
            running.connection.send(Message::new(2, vec![0; 16_000]).urgent()).unwrap();
        }
        match far.next().await.unwrap() {
            Received::Message(Lane::Urgent, _, body) => bytes += body.len(),
            Received::Message(Lane::Bulk, _, _) => break bytes,
            Received::Chunk => {}
            other => panic!("{other:?}"),
        }
        assert!(bytes < 10 << 20, "the bulk lane starves");
    };
    assert!(done > 160 * 1024 * 8, "the urgent lane got only {done} bytes meanwhile");
}

/// Log and queue of one lane take turns by message, however large and many the messages are.
async fn check_log_and_queue_take_turns(lane: Lane) {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(4 * 1024);
    let running = side.start(near, RecordingHandler::new());
    let mut far = side.manual_peer(far);
    let body = vec![0; 100_000];
    for _ in 0..10 {
        running.connection.send(Message { lane, kind: 1, payload: body.clone().into() }).unwrap();
        side.broadcast(lane, 2, &body);
    }
    let mut kinds = Vec::new();
    for _ in 0..20 {
        kinds.push(kind_of(&far.message().await.unwrap()).unwrap());
    }
    // Never many of one source while the other waits.
    let longest = kinds.chunk_by(|a, b| a == b).take(6).map(<[u16]>::len).max();
    assert!(longest <= Some(3), "{lane:?} {kinds:?}");
    let first_half = kinds[..10].iter().filter(|kind| **kind == 1).count();
    assert!((3..=7).contains(&first_half), "{kinds:?}");
}

/// What comes next that is not a notice of missed broadcasts.
async fn message_behind_notices<D: Protocol>(
    far: &mut ManualPeer<D, tokio::io::DuplexStream>,
) -> Option<Received> {
    loop {
        match far.message().await {
            Some(Received::Control(Control::Missed { .. })) => {}
            other => return other,
        }
    }
}

/// The next message; `None` if none is sent although the connection runs.
async fn next_within_a_second<D: Protocol>(far: &mut ManualPeer<D, tokio::io::DuplexStream>) -> Option<u16> {
    let patience = async {
        for _ in 0..20_000 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        item = message_behind_notices(far) => item.as_ref().and_then(kind_of),
        () = patience => None,
    }
}

/// One round ends a large message of the queue and begins the next. The log is next after that one.
#[tokio::test(start_paused = true)]
async fn a_begun_message_continues_when_the_log_gets_data() {
    for lane in [Lane::Urgent, Lane::Normal, Lane::Bulk] {
        let side = TestSide::new(Native::default());
        let (near, far) = pipe(4 * 1024);
        let running = side.start(near, RecordingHandler::new());
        let mut far = side.manual_peer(far);
        for _ in 0..4 {
            running.connection.send(Message { lane, kind: 1, payload: vec![0; 100_000].into() }).unwrap();
        }
        settle().await;
        side.broadcast(lane, 2, b"small");
        let mut kinds = Vec::new();
        for _ in 0..5 {
            kinds.push(next_within_a_second(&mut far).await);
        }
        kinds.sort_unstable();
        assert_eq!(kinds, [Some(1), Some(1), Some(1), Some(1), Some(2)], "{lane:?}");
        running.connection.send(Message { lane, kind: 3, payload: "after".into() }).unwrap();
        assert_eq!(next_within_a_second(&mut far).await, Some(3), "{lane:?}");
    }
}

/// It is the log's turn, but its messages came from the peer itself, or were skipped.
#[tokio::test(start_paused = true)]
async fn a_message_does_not_wait_for_a_log_with_nothing_for_the_peer() {
    for skipped in [false, true] {
        let config = SideConfig { ring: 64 * 1024, lag: LagPolicy::Skip, ..SideConfig::default() };
        let side = TestSide::with(Native::default(), config);
        let (near, far) = pipe(1024);
        let running = side.start(near, RecordingHandler::new());
        let mut far = side.manual_peer(far);
        let lane = Lane::Normal;
        running.connection.send(Message { lane, kind: 1, payload: vec![0; 5_000].into() }).unwrap();
        settle().await;
        if skipped {
            for _ in 0..100 {
                side.broadcast(lane, 2, &[0; 10_000]);
            }
        } else {
            let own = side.event(lane, 2, b"from the peer itself");
            side.log(lane).append(&own, Some(running.connection.id())).unwrap();
        }
        running.connection.send(Message { lane, kind: 3, payload: "after".into() }).unwrap();
        let mut kinds = Vec::new();
        while kinds.last() != Some(&Some(3)) {
            kinds.push(next_within_a_second(&mut far).await);
            assert!(kinds.last() != Some(&None), "skipped: {skipped}; {kinds:?}");
        }
    }
}

/// Holds where one write takes half a mebibyte too.
#[tokio::test(start_paused = true)]
async fn a_waiting_lower_lane_gets_its_sixteenth_of_whole_rounds() {
    let side = TestSide::with(Native::default(), SideConfig { ring: 32 << 20, ..SideConfig::default() });
    let (near, far) = pipe(16 << 20);
    let _running = side.start(near, RecordingHandler::new());
    let mut far = side.manual_peer(far);
    for _ in 0..800 {
        side.broadcast(Lane::Urgent, 2, &[0; 16_000]);
    }
    for _ in 0..200 {
        side.broadcast(Lane::Normal, 1, &[0; 10_000]);
    }
    let (mut urgent, mut normal) = (0, 0);
    while urgent < 8 << 20 {
        match far.next().await.unwrap() {
            Received::Message(Lane::Urgent, _, body) => urgent += body.len(),
            Received::Message(Lane::Normal, _, body) => normal += body.len(),
            other => panic!("{other:?}"),
        }
    }
    assert!((urgent / 20..=urgent / 10).contains(&normal), "{normal} bytes beside {urgent}");
}

/// The same for a log that the writer releases whenever the stream is full.
#[tokio::test(start_paused = true)]
async fn a_lower_lane_broadcast_does_not_starve_on_a_slow_stream() {
    for (urgent_from_log, room) in [(true, 4 * 1024), (false, 4 * 1024), (true, 100_000), (false, 100_000)] {
        let side = TestSide::with(Native::default(), SideConfig { ring: 32 << 20, ..SideConfig::default() });
        let (near, far) = pipe(room);
        let running = side.start(near, RecordingHandler::new());
        let mut far = side.manual_peer(far);
        side.broadcast(Lane::Bulk, 1, &[0; 160 * 1024]);
        side.broadcast(Lane::Normal, 1, &[0; 10_000]);
        let (mut bytes, mut missing) = (0usize, 2);
        while missing > 0 {
            if urgent_from_log {
                for _ in 0..2 {
                    side.broadcast(Lane::Urgent, 2, &[0; 16_000]);
                }
            } else {
                while running.connection.pending_counts().queued_bytes < 2 << 20 {
                    running.connection.send(Message::new(2, vec![0; 16_000]).urgent()).unwrap();
                }
            }
            match far.next().await.unwrap() {
                Received::Message(Lane::Urgent, _, body) => bytes += body.len(),
                Received::Message(..) => missing -= 1,
                Received::Chunk => {}
                other => panic!("{other:?}"),
            }
            assert!(bytes < 10 << 20, "starves: urgent from the log: {urgent_from_log}, pipe of {room}");
        }
        assert!(bytes > 160 * 1024 * 8, "the urgent lane got only {bytes} bytes meanwhile");
    }
}

#[tokio::test(start_paused = true)]
async fn log_and_queue_of_one_lane_take_turns_by_message() {
    for lane in [Lane::Urgent, Lane::Normal, Lane::Bulk] {
        check_log_and_queue_take_turns(lane).await;
    }
}

#[tokio::test(start_paused = true)]
async fn state_is_sent_beside_large_urgent_messages() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(4 * 1024);
    let running = side.start(near, RecordingHandler::new());
    let mut far = side.manual_peer(far);
    for _ in 0..20 {
        running.connection.send(Message::new(1, vec![0; 100_000]).urgent()).unwrap();
    }
    settle().await;
    side.state.set(StateKey::of_kind(9), side.event(Lane::Urgent, 9, b"tip").freeze()).unwrap();
    let mut before = 0;
    while kind_of(&far.message().await.unwrap()) != Some(9) {
        before += 1;
    }
    assert!(before <= 3, "{before} messages of 100 kB before the tip");
}

#[tokio::test(start_paused = true)]
async fn a_lagging_connection_skips_and_counts_whole_messages_and_aborts_a_partial_one() {
    let side = TestSide::with(Native::default(), SideConfig { ring: 256 << 10, ..SideConfig::default() });
    let (near, far) = pipe(4 * 1024);
    let handler = RecordingHandler::new();
    let _running = side.start(near, handler.clone());
    settle().await;
    let mut sent = 1;
    side.broadcast(Lane::Normal, 0, &[0; 100_000]);
    settle().await;
    for n in 1..40u16 {
        side.broadcast(Lane::Normal, n, &vec![n as u8; 30_000]);
        sent += 1;
    }
    let mut far = side.manual_peer(far);
    let (mut got, mut aborts, mut told) = (Vec::new(), 0, 0);
    let last = loop {
        match tokio::time::timeout(Duration::from_secs(1), far.message()).await {
            Err(_) => {
                // Everything has arrived; one more message shows that the lane works on.
                side.broadcast(Lane::Normal, 999, b"after");
            }
            Ok(Some(Received::Message(_, MessageHeader::Event { kind: 999 }, body))) => break body,
            Ok(Some(Received::Message(_, MessageHeader::Event { kind }, body))) => {
                assert!(body == vec![kind as u8; if kind == 0 { 100_000 } else { 30_000 }], "glued: {kind}");
                got.push(kind);
            }
            Ok(Some(Received::Control(Control::Abort { lane: Lane::Normal }))) => aborts += 1,
            Ok(Some(Received::Control(Control::Missed { lane: Lane::Normal, count }))) => told += count,
            Ok(other) => panic!("{other:?}"),
        }
    };
    assert_eq!((&last[..], aborts), (&b"after"[..], 1));
    assert!(got.is_sorted());
    let missed: u64 = handler
        .callbacks()
        .iter()
        .map(|one| if let Callback::Lagged(Lane::Normal, n) = one { *n } else { 0 })
        .sum();
    assert_eq!(missed as usize + got.len(), sent, "every message is delivered or counted");
    assert_eq!(told, missed, "at both ends");
}

#[tokio::test(start_paused = true)]
async fn a_lagging_connection_closes_under_the_disconnect_policy() {
    let config = SideConfig { ring: 64 << 10, lag: LagPolicy::Disconnect, ..SideConfig::default() };
    let side = TestSide::with(Native::default(), config);
    let (near, far) = pipe(1024);
    let running = side.start(near, RecordingHandler::new());
    settle().await;
    for _ in 0..100 {
        side.broadcast(Lane::Urgent, 1, &[0; 5_000]);
        settle().await;
    }
    let mut far = side.manual_peer(far);
    far.rest().await;
    assert!(matches!(running.end().await, peerpool::connection::CloseReason::TooSlow(Lane::Urgent)));
}

#[tokio::test(start_paused = true)]
async fn a_new_connection_sends_the_newest_state_first_and_versions_never_decrease() {
    let side = TestSide::new(Toy::new());
    for (key, value) in [(1, "a"), (2, "b"), (1, "c")] {
        let encoded = side.event(Lane::Urgent, key, value.as_bytes()).freeze();
        side.state.set(StateKey::of_kind(key), encoded).unwrap();
    }
    let (near, far) = pipe(1024);
    let _running = side.start(near, RecordingHandler::new());
    let mut far = side.manual_peer(far);
    let two = [far.message().await.unwrap(), far.message().await.unwrap()];
    assert_eq!(two.each_ref().map(kind_of), [Some(2), Some(1)]);
    let stuck = vec![0; 4000];
    for n in 0..50u32 {
        side.broadcast(Lane::Normal, 9, &stuck);
        let encoded = side.event(Lane::Urgent, 1, n.to_string().as_bytes()).freeze();
        side.state.set(StateKey::of_kind(1), encoded).unwrap();
        if n % 10 == 0 {
            settle().await;
        }
    }
    let mut newest = None;
    while newest != Some(49) {
        if let Received::Message(_, MessageHeader::Event { kind: 1 }, body) = far.message().await.unwrap() {
            let version = std::str::from_utf8(&body).unwrap().parse::<u32>().unwrap();
            assert!(newest < Some(version));
            newest = Some(version);
        }
    }
}

/// Values of `size` bytes are set again whenever the far end has read a round of them.
async fn check_frequent_state_leaves_urgent_messages_their_turn(size: usize, keys: u16) {
    const ROUND: usize = 256 * 1024;
    let side = TestSide::new(Native::default());
    let set_all = || {
        for key in 0..keys {
            let value = side.event(Lane::Urgent, 100 + key, &vec![0; size]).freeze();
            side.state.set(StateKey::of_kind(key), value).unwrap();
        }
    };
    let (near, far) = pipe(16 * 1024);
    set_all();
    let running = side.start(near, RecordingHandler::new());
    settle().await;
    running.connection.send(Message::new(1, "vote").urgent()).unwrap();
    let mut far = side.manual_peer(far);
    let (mut before, mut since) = (0, 0);
    loop {
        match far.message().await.unwrap() {
            Received::Message(_, MessageHeader::Event { kind: 1 }, _) => break,
            Received::Message(_, _, body) => since += body.len(),
            other => panic!("{other:?}"),
        }
        if since >= ROUND {
            before += std::mem::take(&mut since);
            set_all();
            settle().await;
        }
        assert!(before <= 3 * ROUND.max(size), "{before} bytes of state before it");
    }
}

#[tokio::test(start_paused = true)]
async fn state_that_is_set_all_the_time_leaves_an_urgent_message_its_turn_small() {
    check_frequent_state_leaves_urgent_messages_their_turn(16 * 1024, 40).await;
}

#[tokio::test(start_paused = true)]
async fn state_that_is_set_all_the_time_leaves_an_urgent_message_its_turn_large() {
    check_frequent_state_leaves_urgent_messages_their_turn(256 * 1024, 4).await;
}

#[tokio::test(start_paused = true)]
async fn the_last_append_reaches_every_parked_connection() {
    let side = TestSide::new(Native::default());
    let waking = tokio::spawn(side.wake_set.waker_task().unwrap());
    let mut far = Vec::new();
    let mut handlers = Vec::new();
    for _ in 0..100 {
        let (near, other) = pipe(1024);
        let handler = RecordingHandler::new();
        far.push((side.start(near, RecordingHandler::new()), side.start(other, handler.clone())));
        handlers.push(handler);
    }
    for n in 0..20u16 {
        settle().await;
        side.broadcast(Lane::Normal, n, b"x");
        for handler in &handlers {
            handler.until_events(usize::from(n) + 1).await;
        }
    }
    waking.abort();
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_holds_nothing_and_is_not_woken() {
    let side = TestSide::with(
        Native::default(),
        SideConfig { connection: ConnectionConfig::default(), ..SideConfig::default() },
    );
    let (near, far) = pipe(1024);
    let handler = RecordingHandler::new();
    let running = side.start(near, handler.clone());
    let mut far = side.manual_peer(far);
    far.send(&side.event(Lane::Normal, 1, b"x")).await;
    handler.until_events(1).await;
    running.connection.send(Message::new(2, vec![0; 5_000])).unwrap();
    far.message().await.unwrap();
    settle().await;
    assert_eq!(side.budget.used(), 0);
    assert_eq!(running.connection.pending_counts(), peerpool::connection::PendingCounts::default());
}
