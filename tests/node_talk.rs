//! What nodes say to each other: broadcasts and their receipts, state, relay, requests. Time is
//! paused.
#![cfg(all(feature = "node", feature = "unstable", not(peerpool_loom)))]

#[path = "common/node.rs"]
mod harness;

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use harness::*;
use peerpool::transport::{Latency, MemoryNet, ReadRate};
use peerpool::wire::{Control, DecodeStep, Decoder as _, MessageHeader, Native, Protocol as _, Status};
use peerpool::{
    Direction, Handled, LagPolicy, Lane, Message, Node, PeerRequestError, Receipt, RelayOutcome,
    RequestAnyOptions, RequestError,
};
use tokio::io::AsyncWriteExt as _;

/// One node in the middle, `others` connected to it.
async fn star(net: &MemoryNet, others: &[Rec]) -> (Node, Vec<Node>) {
    let mut config = quiet();
    config.log_ring_bytes = 256 * 1024;
    let middle = start(net, 1, config, Rec::new()).await;
    let mut nodes = Vec::new();
    for (at_place, rec) in others.iter().enumerate() {
        let node = start(net, 2 + at_place as u8, quiet(), rec.clone()).await;
        middle.connect(at(2 + at_place as u8)).await.unwrap();
        nodes.push(node);
    }
    (middle, nodes)
}

async fn end_all(middle: Node, nodes: Vec<Node>) {
    end(middle).await;
    for node in nodes {
        end(node).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_receipt_tells_written_behind_origin_left_and_not_joined() {
    let net = MemoryNet::new(1);
    let recs = [Rec::new(), Rec::new(), Rec::new()];
    let (a, nodes) = star(&net, &recs).await;
    let by_ip = |last| a.roster().iter().find(|peer| peer.ip() == ip(last)).unwrap().clone();
    let (origin, stuck, gone) = (by_ip(2), by_ip(3), by_ip(4));
    net.set_read_rate(ip(3), ReadRate::Stopped);
    let first = a.broadcast_with_receipt(&message(1, b"to all")).unwrap();
    secs(1).await;
    assert_eq!(first.written(), 3, "the pipe of the stuck one had room");
    a.broadcast(&message(2, &[0; 100_000])).unwrap();
    secs(1).await;
    let second = a.broadcast_with_receipt(&message(3, b"behind")).unwrap();
    a.broadcast_except(&message(4, b"not to its origin"), origin.id()).unwrap();
    secs(1).await;
    let of = |receipt: &peerpool::BroadcastReceipt, id| receipt.statuses().find(|one| one.1 == id).unwrap().2;
    assert_eq!(
        [origin.id(), stuck.id(), gone.id()].map(|id| of(&second, id)),
        [Receipt::Written, Receipt::Behind, Receipt::Written]
    );
    a.disconnect(gone.key());
    a.disconnect(stuck.key());
    secs(2).await;
    assert_eq!(of(&second, gone.id()), Receipt::LeftAfter);
    assert_eq!(of(&second, stuck.id()), Receipt::LeftBefore);
    assert!(!recs[0].events().iter().any(|one| one.0 == 4));
    assert!(recs[2].events().iter().any(|one| one.0 == 4));
    net.set_read_rate(ip(3), ReadRate::Unlimited);
    end_all(a, nodes).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_skips_counts_its_gaps_and_never_gets_two_messages_glued() {
    let net = MemoryNet::new(1);
    let recs = [Rec::new(), Rec::new()];
    let (a, nodes) = star(&net, &recs).await;
    net.set_read_rate(ip(2), ReadRate::PerSecond(std::num::NonZeroU64::new(200_000).unwrap()));
    let count = 400u16;
    for n in 0..count {
        a.broadcast(&message(n, &vec![n as u8; 1 + usize::from(n) * 97 % 40_000])).unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    secs(20).await;
    for (last, rec) in [(2, &recs[0]), (3, &recs[1])] {
        let events = rec.events();
        let mut at_most = 0;
        for (kind, body) in &events {
            assert!(*body == vec![*kind as u8; 1 + usize::from(*kind) * 97 % 40_000], "glued");
            assert!(*kind >= at_most, "out of order");
            at_most = kind + 1;
        }
        let peer = a.roster().iter().find(|peer| peer.ip() == ip(last)).unwrap().clone();
        let missed = peer.connection().handle().cursor_view(Lane::Normal).unwrap().skipped();
        assert_eq!(missed as usize + events.len(), usize::from(count), "delivered or counted");
        assert_eq!(missed > 0, last == 2, "the slow one costs the other nothing");
    }
    assert_eq!(a.stats().missed_broadcasts, 400 - recs[0].events().len() as u64);
    assert_eq!(nodes[0].stats().missed_from_peers, a.stats().missed_broadcasts);
    every_gap_is_told_where_it_is(&recs[0]);
    end_all(a, nodes).await;
}

/// The kinds of the messages are consecutive numbers.
fn every_gap_is_told_where_it_is(receiver: &Rec) {
    let (mut next, mut told) = (0, 0);
    for happened in receiver.all() {
        match happened {
            Happened::Missed(Lane::Normal, missed) => next += missed,
            Happened::Event(_, kind, _) => {
                assert_eq!(u64::from(kind), next, "the number before it is what was missed");
                (next, told) = (next + 1, told + 1);
            }
            _ => {}
        }
    }
    assert!(told > 0 && next > told, "something was missed");
}

#[tokio::test(start_paused = true)]
async fn a_producer_that_awaits_ready_loses_nothing_with_a_slow_peer_that_moves() {
    let net = MemoryNet::new(1);
    let recs = [Rec::new(), Rec::new()];
    let (a, nodes) = star(&net, &recs).await;
    net.set_read_rate(ip(2), ReadRate::PerSecond(std::num::NonZeroU64::new(100_000).unwrap()));
    for n in 0..2_000u16 {
        tokio::time::timeout(WAIT, a.ready(Lane::Normal)).await.unwrap();
        a.broadcast(&message(n, &[0; 1_000])).unwrap();
    }
    until(|| recs.iter().all(|rec| rec.events().len() == 2_000)).await;
    assert_eq!(a.stats().missed_broadcasts, 0);
    // One that stands still is not waited for.
    net.set_read_rate(ip(2), ReadRate::Stopped);
    let begun = tokio::time::Instant::now();
    for n in 0..1_000u16 {
        tokio::time::timeout(WAIT, a.ready(Lane::Normal)).await.unwrap();
        a.broadcast(&message(n, &[0; 1_000])).unwrap();
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    until(|| recs[1].events().len() == 3_000).await;
    net.set_read_rate(ip(2), ReadRate::Unlimited);
    end_all(a, nodes).await;
}

#[tokio::test(start_paused = true)]
async fn with_no_peers_ready_resolves_at_once_and_a_broadcast_goes_nowhere() {
    let net = MemoryNet::new(1);
    let a = start(&net, 1, quiet(), Rec::new()).await;
    for _ in 0..100 {
        a.ready(Lane::Normal).await;
        a.broadcast(&message(1, &[0; 100_000])).unwrap();
    }
    assert_eq!(a.broadcast_with_receipt(&message(1, b"")).unwrap().peers(), 0);
    end(a).await;
}

#[tokio::test(start_paused = true)]
async fn state_is_newest_wins_per_key_and_a_new_peer_gets_every_key() {
    let net = MemoryNet::new(1);
    let recs = [Rec::new(), Rec::new()];
    let (a, nodes) = star(&net, &recs[..1]).await;
    net.set_read_rate(ip(2), ReadRate::Stopped);
    a.send(only(&a).key(), message(0, &[0; 100_000])).unwrap();
    secs(1).await;
    for version in 0..100u8 {
        for key in 0..3 {
            a.set_state(10 + key, b"", vec![version]).unwrap();
        }
        secs(0).await;
    }
    assert!(a.clear_state(12, b"") && !a.clear_state(12, b""));
    net.set_read_rate(ip(2), ReadRate::Unlimited);
    until(|| recs[0].events().len() >= 3).await;
    secs(1).await;
    let got: Vec<_> = recs[0].events().into_iter().filter(|one| one.0 != 0).collect();
    assert_eq!(got, [(10, vec![99]), (11, vec![99])], "none of those between");
    let late = start(&net, 3, quiet(), recs[1].clone()).await;
    late.connect(at(1)).await.unwrap();
    until(|| recs[1].events() == [(10, vec![99]), (11, vec![99])]).await;
    assert!(a.set_state(1, &[0; 33], "x").is_err());
    end(late).await;
    end_all(a, nodes).await;
}

/// A ring of six with a chord: everybody hears each message once, and nobody hears his own.
#[tokio::test(start_paused = true)]
async fn a_relay_reaches_everybody_exactly_once() {
    let net = MemoryNet::new(5);
    net.set_latency(Latency::from(Duration::from_millis(1)..=Duration::from_millis(30)));
    let mut nodes = Vec::new();
    let mut recs = Vec::new();
    for last in 1..=6 {
        let rec = Rec::new();
        let firsts = Rec::new();
        let heard = firsts.clone();
        let handler = rec.on_event(move |cx, kind, body| {
            if cx.node().relay(&message(kind, body), Some(cx.peer())).unwrap() == RelayOutcome::New {
                heard.requests.fetch_add(1, Ordering::SeqCst);
            }
            Handled::Done
        });
        nodes.push(start(&net, last, quiet(), handler).await);
        recs.push(firsts);
    }
    for (from, to) in [(1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 1), (1, 4)] {
        nodes[from - 1].connect(at(to)).await.unwrap();
    }
    until(|| nodes.iter().map(|node| peers(node)).sum::<usize>() == 14).await;
    for n in 0..60u16 {
        let origin = &nodes[usize::from(n) % 6];
        assert_eq!(origin.relay(&message(n, &n.to_le_bytes()), None).unwrap(), RelayOutcome::New);
        assert_eq!(origin.relay(&message(n, &n.to_le_bytes()), None).unwrap(), RelayOutcome::Duplicate);
    }
    until(|| recs.iter().all(|rec| rec.requests.load(Ordering::SeqCst) == 50)).await;
    secs(5).await;
    assert!(recs.iter().all(|rec| rec.requests.load(Ordering::SeqCst) == 50), "ten of sixty are one's own");
    for node in nodes {
        end(node).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_relay_refuses_it_does_not_remember() {
    let net = MemoryNet::new(1);
    let mut config = quiet();
    config.log_ring_bytes = 64 * 1024;
    let a = start(&net, 1, config, Rec::new()).await;
    let too_large = message(1, &[7; 40_000]);
    assert!(a.relay(&too_large, None).is_err());
    assert!(!a.contains(1, &too_large.payload));
    let control = Message { lane: Lane::Control, kind: 1, payload: "".into() };
    assert!(a.relay(&control, None).is_err());
    assert!(!a.contains(1, b""));
    assert_eq!(a.relay(&message(1, &[7; 30_000]), None).unwrap(), RelayOutcome::New);
    end(a).await;
}

#[tokio::test(start_paused = true)]
async fn request_any_spreads_prefers_the_faster_peer_and_retries() {
    let net = MemoryNet::new(1);
    let recs: Vec<_> = (0..4).map(|_| Rec::new()).collect();
    let (a, nodes) = star(&net, &recs).await;
    let how = RequestAnyOptions::default();
    for _ in 0..200 {
        a.request_any(message(1, b"?"), &how).await.unwrap();
    }
    let spread: Vec<_> = recs.iter().map(|rec| rec.requests.swap(0, Ordering::SeqCst)).collect();
    assert!(spread.iter().all(|count| *count > 20), "{spread:?}");
    // One becomes slow; its smoothed time tells after some pings.
    net.set_latency_between(ip(2), ip(1), Duration::from_millis(200).into());
    secs(60).await;
    for _ in 0..200 {
        a.request_any(message(1, b"?"), &how).await.unwrap();
    }
    let spread: Vec<_> = recs.iter().map(|rec| rec.requests.swap(0, Ordering::SeqCst)).collect();
    assert!(spread[0] < 40 && spread[1..].iter().all(|count| *count > 30), "{spread:?}");
    end_all(a, nodes).await;
}

#[tokio::test(start_paused = true)]
async fn request_any_continues_after_a_rejection_and_hedges_past_a_slow_peer() {
    let net = MemoryNet::new(1);
    let refuses = Rec::new().on_request(|_, _, _, responder| {
        drop(responder);
        Handled::Done
    });
    let sleeps = Rec::new().on_request(|_, _, _, responder| {
        Handled::later(async move {
            tokio::time::sleep(Duration::from_secs(100)).await;
            let _ = responder.respond("late");
        })
    });
    let recs = [refuses, Rec::new()];
    let (a, nodes) = star(&net, &recs).await;
    for _ in 0..20 {
        let (from, _) = a.request_any(message(1, b"?"), &RequestAnyOptions::default()).await.unwrap();
        assert_eq!(from, at(3).into());
    }
    end_all(a, nodes).await;
    let net = MemoryNet::new(1);
    let recs = [sleeps, Rec::new()];
    let (a, nodes) = star(&net, &recs).await;
    let how =
        RequestAnyOptions { hedge_after: Some(Duration::from_millis(100)), ..RequestAnyOptions::default() };
    for _ in 0..20 {
        let begun = tokio::time::Instant::now();
        assert_eq!(a.request_any(message(1, b"?"), &how).await.unwrap().0, at(3).into());
        assert!(begun.elapsed() < Duration::from_millis(150));
    }
    assert!(a.roster().iter().all(|peer| peer.connection().handle().pending_counts().outbound_requests == 0));
    until(|| {
        nodes[0].roster().iter().all(|peer| peer.connection().handle().pending_counts().inbound_requests == 0)
    })
    .await;
    let forever = RequestAnyOptions { timeout: Duration::MAX, ..RequestAnyOptions::default() };
    assert!(a.request(&at(9).into(), message(1, b""), WAIT).await.is_err());
    let slow = a.request(&at(2).into(), message(1, b""), Duration::from_secs(1)).await;
    assert!(matches!(slow, Err(PeerRequestError::Request(RequestError::Timeout))));
    a.request_any(
        message(1, b"?"),
        &RequestAnyOptions { hedge_after: Some(Duration::from_millis(1)), ..forever },
    )
    .await
    .unwrap();
    let alone = start(&net, 8, quiet(), Rec::new()).await;
    assert!(matches!(alone.request_any(message(1, b""), &how).await, Err(PeerRequestError::NoPeers)));
    end(alone).await;
    end_all(a, nodes).await;
}

/// A handler that does not answer for a long time.
fn sleeps() -> Rec {
    Rec::new().on_request(|_, _, _, responder| {
        Handled::later(async move {
            tokio::time::sleep(Duration::from_secs(1_000)).await;
            let _ = responder.respond("late");
        })
    })
}

#[tokio::test(start_paused = true)]
async fn request_any_asks_as_many_as_it_may_past_silent_peers() {
    let net = MemoryNet::new(1);
    let recs = [sleeps(), sleeps(), Rec::new()];
    let (a, nodes) = star(&net, &recs).await;
    let hedged =
        RequestAnyOptions { hedge_after: Some(Duration::from_millis(100)), ..RequestAnyOptions::default() };
    let in_turn = RequestAnyOptions { timeout: Duration::from_secs(9), ..RequestAnyOptions::default() };
    for (how, longest) in [(hedged, Duration::from_millis(250)), (in_turn, Duration::from_millis(7_600))] {
        for _ in 0..20 {
            let begun = tokio::time::Instant::now();
            assert_eq!(a.request_any(message(1, b"?"), &how).await.unwrap().0, at(4).into());
            assert!(begun.elapsed() < longest, "{:?}", begun.elapsed());
        }
    }
    // Nobody is asked for longer than told, and only those who had time enough are to blame.
    let healths = || a.roster().iter().map(|peer| peer.health(a.now())).collect::<Vec<_>>();
    secs(600).await;
    let before = healths();
    let short = RequestAnyOptions {
        timeout: Duration::from_millis(30),
        max_attempts: 2,
        ..RequestAnyOptions::default()
    };
    for _ in 0..20 {
        let begun = tokio::time::Instant::now();
        let _ = a.request_any(message(1, b"?"), &short).await;
        assert!(begun.elapsed() <= Duration::from_millis(32), "{:?}", begun.elapsed());
    }
    assert!(healths().iter().zip(&before).all(|(now, before)| now >= before));
    assert!(a.roster().iter().all(|peer| peer.connection().handle().pending_counts().outbound_requests == 0));
    end_all(a, nodes).await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_peer_costs_nobody_else_anything() {
    let net = MemoryNet::new(1);
    let recs: Vec<_> = (0..4).map(|_| Rec::new()).collect();
    let (a, nodes) = star(&net, &recs).await;
    let mut runtime = (*a.runtime_config()).clone();
    runtime.urgent_lag = LagPolicy::Skip;
    a.reconfigure(runtime).unwrap();
    net.set_read_rate(ip(2), ReadRate::Stopped);
    let mut slowest = Duration::ZERO;
    for n in 0..300u16 {
        let begun = tokio::time::Instant::now();
        a.broadcast(&message(n, &[0; 5_000]).urgent()).unwrap();
        while recs[1..].iter().any(|rec| rec.events().len() <= usize::from(n)) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        slowest = slowest.max(begun.elapsed());
    }
    assert!(slowest <= Duration::from_millis(3), "{slowest:?}");
    net.set_read_rate(ip(2), ReadRate::Unlimited);
    end_all(a, nodes).await;
}

/// What a far end received and a node's application noticed, in both directions.
struct Session {
    heard: Vec<Vec<u8>>,
    answer: Vec<u8>,
    happened: Vec<Happened>,
    asked: usize,
}

async fn session(dialled: Direction) -> Session {
    let (net, rec) = (MemoryNet::new(1), Rec::new());
    let mut config = quiet();
    // Nothing is said but what is said here.
    config.runtime.ping_interval = Duration::from_secs(3600);
    config.runtime.liveness.stale_after = Duration::from_secs(2 * 3600);
    let a = start(&net, 1, config, rec.clone()).await;
    a.set_state(9, b"tip", &b"42"[..]).unwrap();
    let mut far = match dialled {
        Direction::Inbound => ByHand::enter(&net, 2, at(1), 7).await,
        Direction::Outbound => {
            let (far, peer) = tokio::join!(ByHand::welcome(&net, 2, 7), a.connect(at(2)));
            assert_eq!(peer.unwrap().direction(), Direction::Outbound);
            far
        }
    };
    until(|| peers(&a) == 1).await;
    let key = *only(&a).key();
    let native = Native::default();
    let mut heard = vec![far.heard().await];
    let mut say = BytesMut::new();
    native.encode(Lane::Urgent, &MessageHeader::Event { kind: 1 }, b"a vote", &mut say).unwrap();
    native.encode(Lane::Bulk, &MessageHeader::Event { kind: 2 }, &[7; 50_000], &mut say).unwrap();
    native.encode(Lane::Normal, &MessageHeader::Request { id: 5, kind: 3 }, b"a question", &mut say).unwrap();
    native.encode(Lane::Normal, &MessageHeader::Cancel { id: 6 }, b"", &mut say).unwrap();
    native.encode_control(&Control::Ping { token: 77 }, &mut say).unwrap();
    far.stream.write_all(&say).await.unwrap();
    heard.push(far.heard().await);
    a.broadcast(&message(4, b"to all")).unwrap();
    heard.push(far.heard().await);
    a.send(&key, message(5, &[8; 40_000]).bulk()).unwrap();
    heard.push(far.heard().await);
    let asker = a.clone();
    let asking = tokio::spawn(async move { asker.request(&key, message(6, b"?"), WAIT).await });
    let question = far.heard().await;
    let DecodeStep::Message { header: MessageHeader::Request { id, .. }, .. } =
        native.decoder().step(&question).unwrap()
    else {
        panic!("{question:?}")
    };
    heard.push(question.clone());
    let mut say = BytesMut::new();
    native.encode(Lane::Normal, &MessageHeader::Response { id, status: Status::Ok }, b"!", &mut say).unwrap();
    far.stream.write_all(&say).await.unwrap();
    let answer = asking.await.unwrap().unwrap().to_vec();
    // And ends in the same way: by a frame that is too large.
    far.stream.write_all(&[0xff, 0xff, 0xff, 0x01]).await.unwrap();
    heard.push(far.heard().await);
    until(|| peers(&a) == 0 && a.shutdown_report().connections == 0).await;
    end(a).await;
    rec.pairs();
    let happened = rec.all().into_iter().map(|one| match one {
        Happened::Connected(_) => Happened::Connected(0),
        Happened::Disconnected(_, why) => Happened::Disconnected(0, why),
        other => other,
    });
    Session { heard, answer, happened: happened.collect(), asked: rec.requests.load(Ordering::SeqCst) }
}

#[tokio::test(start_paused = true)]
async fn inbound_and_outbound_sessions_run_the_same_message_path() {
    let (inbound, outbound) = (session(Direction::Inbound).await, session(Direction::Outbound).await);
    for (step, (one, other)) in inbound.heard.iter().zip(&outbound.heard).enumerate() {
        assert!(!one.is_empty() && one == other, "step {step}: {} and {} bytes", one.len(), other.len());
    }
    assert!(inbound.happened == outbound.happened);
    assert_eq!((inbound.answer.as_slice(), inbound.asked, inbound.happened.len()), (&b"!"[..], 1, 4));
    assert_eq!((outbound.answer.as_slice(), outbound.asked), (&b"!"[..], 1));
}
