//! Closing: a reason at both ends, in bounded time, and nothing left behind.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use peerpool::Lane;
use peerpool::connection::{CloseReason, Handled, Message, SendError};
use peerpool::pool::DisconnectReason;
use peerpool::wire::{Control, Goodbye, GoodbyeReason, MessageHeader, Native, Protocol};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::harness::*;
use crate::toy::Toy;

async fn check_goodbye<D: Protocol>(protocol: D, drain: bool) {
    let side = TestSide::new(protocol);
    let (near, far) = pipe(1024);
    let handler = RecordingHandler::new();
    let (closing, told) = (side.start(near, RecordingHandler::new()), side.start(far, handler.clone()));
    for n in 0..100 {
        closing.connection.send(Message::new(n, vec![0; 300])).unwrap();
        side.broadcast(Lane::Normal, 200 + n, b"x");
    }
    let goodbye = Goodbye::new(GoodbyeReason::Shutdown).retry_after(Duration::from_secs(7));
    if drain {
        closing.connection.drain(DisconnectReason::Shutdown, Some(goodbye), Duration::from_secs(10));
    } else {
        closing.connection.close(DisconnectReason::Shutdown, Some(goodbye));
    }
    assert!(matches!(closing.connection.send(Message::new(1, "late")), Err(SendError::Closed(_))));
    assert!(matches!(told.end().await, CloseReason::Goodbye(got) if got == goodbye));
    assert!(matches!(closing.end().await, CloseReason::Closed(DisconnectReason::Shutdown)));
    assert_eq!(handler.count(|one| *one == Callback::Goodbye(goodbye)), 1);
    let got = handler.kinds();
    if drain {
        assert_eq!(got.iter().filter(|kind| **kind < 200).count(), 100, "everything queued went first");
        assert_eq!(got.len(), 200);
    }
    assert_eq!(side.budget.used(), 0);
    assert_eq!(side.logs.logs().each_ref().map(|log| log.stats().cursors), [0; 3]);
}

#[tokio::test(start_paused = true)]
async fn close_and_drain_send_a_goodbye() {
    for drain in [false, true] {
        check_goodbye(Native::default(), drain).await;
        check_goodbye(Toy::new(), drain).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_overdue_drain_still_sends_a_goodbye() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(1024);
    let running = side.start(near, RecordingHandler::new());
    let goodbye = Goodbye::new(GoodbyeReason::Shutdown);
    running.connection.send(Message::new(1, vec![0; 100_000])).unwrap();
    running.connection.drain(DisconnectReason::Shutdown, Some(goodbye), Duration::from_secs(1));
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let mut far = side.manual_peer(far);
    let said = far.rest().await;
    assert_eq!(said.last(), Some(&Received::Control(Control::Goodbye(goodbye))), "{}", said.len());
    drop(far);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_reads_does_not_delay_close_or_drain() {
    let side = TestSide::new(Native::default());
    for drain in [false, true] {
        let (near, _far) = pipe(64);
        let running = side.start(near, RecordingHandler::new());
        running.connection.send(Message::new(1, vec![0; 10_000])).unwrap();
        settle().await;
        let begun = Instant::now();
        let goodbye = Some(Goodbye::new(GoodbyeReason::Closed));
        if drain {
            running.connection.drain(DisconnectReason::Requested, goodbye, Duration::from_secs(3));
        } else {
            running.connection.close(DisconnectReason::Requested, goodbye);
        }
        assert!(matches!(running.end().await, CloseReason::Closed(DisconnectReason::Requested)));
        let took = begun.elapsed();
        assert!(took <= Duration::from_millis(if drain { 3_600 } else { 600 }), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_may_have_any_timeout() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(64);
    let running = side.start(near, RecordingHandler::new());
    running.connection.send(Message::new(1, vec![0; 10_000])).unwrap();
    running.connection.drain(DisconnectReason::Requested, None, Duration::MAX);
    let mut far = side.manual_peer(far);
    assert_eq!(far.rest().await.len(), 1);
    drop(far);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn two_draining_ends_do_not_block_each_other() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(256);
    let handlers = [RecordingHandler::new(), RecordingHandler::new()];
    let connections = [side.start(near, handlers[0].clone()), side.start(far, handlers[1].clone())];
    for running in &connections {
        for n in 0..50 {
            running.connection.send(Message::new(n, vec![0; 1_000])).unwrap();
        }
        running.connection.drain(
            DisconnectReason::Shutdown,
            Some(Goodbye::new(GoodbyeReason::Shutdown)),
            Duration::from_secs(60),
        );
    }
    let begun = Instant::now();
    for running in connections {
        running.end().await;
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    // The end that is done first stops reading: the last few messages of the other may be lost.
    let got = handlers.map(|handler| handler.kinds().len());
    assert!(got.contains(&50) && got.iter().all(|got| *got > 40), "{got:?}");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_arrives_during_a_drain_gets_its_first_poll() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(1024);
    let handler = RecordingHandler::new().on_request(|_, _, responder| {
        Handled::later(async move {
            tokio::task::yield_now().await;
            responder.respond("still here").unwrap();
        })
    });
    let running = side.start(near, handler);
    running.connection.send(Message::new(1, vec![0; 100_000])).unwrap();
    running.connection.drain(DisconnectReason::Shutdown, None, Duration::from_secs(60));
    settle().await;
    let mut far = side.manual_peer(far);
    far.send_request(1, 1, b"?").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let said = far.rest().await;
    let answered = |item: &Received| matches!(item, Received::Message(_, MessageHeader::Response { id: 1, .. }, body) if body == "still here");
    assert!(said.iter().any(answered), "{}", said.len());
    drop(far);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn garbage_closes_with_a_typed_reason_and_a_goodbye() {
    let native = TestSide::new(Native::default());
    let toy = TestSide::new(Toy::new());
    let garbage: [&[u8]; 5] =
        [&[0xff; 64], &[0, 0, 0, 0xe0], &[0xff, 0xff, 0xff, 0], &[1, 0, 0, 0x80], &[0x7f; 9]];
    for bytes in garbage {
        let (near, far) = pipe(1024);
        let running = native.start(near, RecordingHandler::new());
        let mut far = native.manual_peer(far);
        far.send(bytes).await;
        let said = far.rest().await;
        let told = |item: &Received| matches!(item, Received::Control(Control::Goodbye(bye)) if bye.reason == GoodbyeReason::Protocol);
        assert!(matches!(&said[..], [item] if told(item)), "{bytes:?}: {said:?}");
        drop(far);
        let end = running.end().await;
        assert!(matches!(end, CloseReason::Wire(_)), "{end:?}");
        assert_eq!(end.disconnect_reason(), DisconnectReason::Protocol);
    }
    let (near, far) = pipe(1024);
    let running = toy.start(near, RecordingHandler::new());
    let mut far = toy.manual_peer(far);
    far.send(b"\x00\x05what?").await;
    far.rest().await;
    drop(far);
    assert!(matches!(running.end().await, CloseReason::Wire(_)));
}

#[tokio::test(start_paused = true)]
async fn eof_reset_and_reaper_give_different_reasons() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(1024);
    let running = side.start(near, RecordingHandler::new());
    drop(far);
    assert!(matches!(running.end().await, CloseReason::Eof));

    let net = peerpool::transport::MemoryNet::new(1);
    let ips = ["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()];
    let (near, _far) = net.pair(ips[0], ips[1]);
    let running = side.start(near, RecordingHandler::new());
    settle().await;
    net.cut_all();
    let end = running.end().await;
    assert!(matches!(end, CloseReason::Io(_)));
    assert_eq!(end.disconnect_reason(), DisconnectReason::Lost);

    let (near, far) = pipe(1024);
    let handler = RecordingHandler::new();
    let running = side.start(near, handler.clone());
    handler.reaped.store(true, Ordering::Relaxed);
    let mut far = side.manual_peer(far);
    far.send(&side.control(&Control::Pong { token: 1 })).await;
    let said = far.rest().await;
    assert!(
        matches!(&said[..], [Received::Control(Control::Goodbye(bye))] if bye.reason == GoodbyeReason::Stale)
    );
    drop(far);
    assert!(matches!(running.end().await, CloseReason::Reaped));
}

/// A peer gets the reason of the close, also if one of its frames arrives at the same moment.
#[tokio::test(start_paused = true)]
async fn the_reason_of_a_close_wins_over_a_frame_of_a_removed_peer() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(1024);
    let known: Arc<std::sync::OnceLock<Arc<peerpool::connection::Connection>>> = Arc::default();
    let (own, reaped) = (Arc::clone(&known), Arc::new(std::sync::Mutex::new(None::<RecordingHandler>)));
    let host = Arc::clone(&reaped);
    let handler = RecordingHandler::new().on_event(move |_, _, _| {
        // In the order of the pool: the peer is removed, then its connection is closed.
        host.lock().unwrap().as_ref().unwrap().reaped.store(true, Ordering::Relaxed);
        let goodbye = Some(Goodbye::new(GoodbyeReason::Duplicate));
        own.get().unwrap().close(DisconnectReason::Collision, goodbye);
        Handled::Done
    });
    *reaped.lock().unwrap() = Some(handler.clone());
    let running = side.start(near, handler);
    known.set(Arc::clone(&running.connection)).unwrap();
    let mut far = side.manual_peer(far);
    far.send(&side.event(Lane::Normal, 1, b"x")).await;
    let said = far.rest().await;
    assert!(
        matches!(&said[..], [Received::Control(Control::Goodbye(bye))] if bye.reason == GoodbyeReason::Duplicate),
        "{said:?}"
    );
    drop(far);
    assert!(matches!(running.end().await, CloseReason::Closed(DisconnectReason::Collision)));
    *reaped.lock().unwrap() = None;
}

#[tokio::test(start_paused = true)]
async fn on_close_is_called_before_lingering() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(1024);
    let handler = RecordingHandler::new();
    let running = side.start(near, handler.clone());
    let mut far = side.manual_peer(far);
    far.send(&[0xff; 64]).await;
    settle().await;
    assert!(!running.task.is_finished(), "it lingers so that the goodbye is read");
    assert_eq!(handler.count(|one| *one == Callback::Close(DisconnectReason::Protocol)), 1);
    drop(far);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_probe_ends_with_its_connection_and_measures_the_rtt() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(1024);
    let handler = RecordingHandler::new();
    let running = side.start(near, handler.clone());
    let mut far = side.manual_peer(far);
    let connection = Arc::clone(&running.connection);
    let probe = tokio::spawn(async move { connection.probe().await });
    let Some(Received::Control(Control::Ping { token })) = far.message().await else { panic!() };
    tokio::time::sleep(Duration::from_millis(30)).await;
    far.send(&side.control(&Control::Pong { token: token + 99 })).await;
    far.send(&side.control(&Control::Pong { token })).await;
    let rtt = probe.await.unwrap().unwrap();
    assert!((30..35).contains(&rtt.as_millis()), "{rtt:?}");
    handler.until(|callbacks| callbacks.contains(&Callback::Rtt(rtt))).await;
    let connection = Arc::clone(&running.connection);
    let probe = tokio::spawn(async move { connection.probe().await });
    settle().await;
    running.connection.close(DisconnectReason::Requested, None);
    drop(far);
    assert_eq!(probe.await.unwrap(), None);
    assert_eq!(running.connection.probe().await, None);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pong_answers_all_earlier_pings() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(1024);
    let running = side.start(near, RecordingHandler::new());
    let mut far = side.manual_peer(far);
    let mut sent = Vec::new();
    for _ in 0..8 {
        let connection = Arc::clone(&running.connection);
        let probe = tokio::spawn(async move { connection.probe().await });
        let Some(Received::Control(Control::Ping { token })) = far.message().await else { panic!() };
        sent.push((token, probe));
    }
    // Answers the last but one ping, and none of the earlier ones.
    let (last, last_probe) = sent.pop().unwrap();
    let answered = sent.last().unwrap().0;
    far.send(&side.control(&Control::Pong { token: last + 1 })).await;
    settle().await;
    assert!(!sent[0].1.is_finished(), "that one was never sent");
    far.send(&side.control(&Control::Pong { token: answered })).await;
    for (_, probe) in sent {
        let rtt = tokio::time::timeout(Duration::from_secs(5), probe).await;
        assert!(rtt.expect("an answer").unwrap().is_some());
    }
    assert!(!last_probe.is_finished() && running.connection.has_unanswered_ping());
    far.send(&side.control(&Control::Pong { token: last })).await;
    assert!(last_probe.await.unwrap().is_some());
    assert!(!running.connection.has_unanswered_ping());
    running.connection.close(DisconnectReason::Requested, None);
    drop(far);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn addresses_are_sent_once_a_second_and_only_on_request() {
    let side = TestSide::new(Native::default());
    let (near, far) = pipe(64 * 1024);
    let mut handler = RecordingHandler::new();
    handler.peers = (1..=9).map(|n| format!("10.0.0.{n}:1").parse().unwrap()).collect();
    let running = side.start(near, handler.clone());
    let mut far = side.manual_peer(far);
    for round in 0..3 {
        for _ in 0..5 {
            far.send(&side.control(&Control::GetPeers { max: 4 })).await;
        }
        far.send(&side.control(&Control::Ping { token: round })).await;
        let Some(Received::Control(Control::Peers(told))) = far.message().await else {
            panic!("round {round}")
        };
        assert_eq!(told, handler.peers[..4]);
        assert_eq!(far.message().await, Some(Received::Control(Control::Pong { token: round })));
        tokio::time::sleep(Duration::from_millis(1_001)).await;
    }
    let list = side.control(&Control::Peers(handler.peers.clone()));
    far.send(&list).await;
    running.connection.request_peers();
    assert!(matches!(far.message().await, Some(Received::Control(Control::GetPeers { .. }))));
    far.send(&list).await;
    far.send(&list).await;
    settle().await;
    assert_eq!(
        handler.count(|one| *one == Callback::Peers(handler.peers.clone())),
        1,
        "the one that was asked for"
    );
}

#[tokio::test(start_paused = true)]
async fn a_dropped_driver_fails_its_requests_and_releases_everything() {
    let side = TestSide::new(Native::default());
    let (near, mut far) = pipe(64);
    let running = side.start(near, RecordingHandler::new());
    let connection = Arc::clone(&running.connection);
    let asking =
        tokio::spawn(async move { connection.request(Message::new(1, vec![0; 5_000]), TIMEOUT).await });
    running.connection.send(Message::new(1, vec![0; 50_000]).bulk()).unwrap();
    settle().await;
    running.task.abort();
    assert!(asking.await.unwrap().is_err());
    assert!(!running.connection.is_open());
    assert_eq!(side.budget.used(), 0);
    assert!(far.write_all(b"x").await.is_err());
}
