//! What misbehaviour costs, and what is no fault of a peer.
#![cfg(all(feature = "node", not(peerpool_loom)))]

#[path = "common/node.rs"]
mod harness;

use std::time::Duration;

use harness::*;
use peerpool::pool::{DisconnectReason, Misbehavior};
use peerpool::transport::MemoryNet;
use peerpool::{Handled, PeerRequestError, RequestError};
use tokio::io::AsyncWriteExt as _;

#[tokio::test(start_paused = true)]
async fn a_peer_whose_health_is_zero_departs_and_is_told() {
    let net = MemoryNet::new(1);
    let (hears, told) = (Rec::new(), Rec::new());
    let (a, b, peer) = pair(&net, hears.clone(), told.clone()).await;
    for severity in 0..4 {
        peer.penalize(Misbehavior::App(severity), a.now());
    }
    peer.penalize(Misbehavior::BadData, a.now());
    assert_eq!(peer.health(a.now()), 0);
    until(|| peer.disconnect_reason() == Some(DisconnectReason::Misbehaved)).await;
    until(|| told.all().contains(&Happened::Disconnected(1, DisconnectReason::Rejected))).await;
    end(a).await;
    end(b).await;
}

#[tokio::test(start_paused = true)]
async fn a_violation_of_the_protocol_costs_health() {
    let net = MemoryNet::new(1);
    let a = start(&net, 1, quiet(), Rec::new()).await;
    let mut hostile = ByHand::enter(&net, 2, at(1), 7).await;
    until(|| peers(&a) == 1).await;
    let peer = only(&a);
    hostile.stream.write_all(&[0xff; 64]).await.unwrap();
    until(|| peer.disconnect_reason() == Some(DisconnectReason::Protocol)).await;
    assert!(peer.health(a.now()) < 100);
    end(a).await;
}

#[tokio::test(start_paused = true)]
async fn a_timeout_shorter_than_a_few_round_trips_is_no_fault_of_the_peer() {
    let net = MemoryNet::new(1);
    net.set_latency(Duration::from_millis(800).into());
    let silent = Rec::new().on_request(|_, _, _, responder| {
        std::mem::forget(responder);
        Handled::Done
    });
    let (a, b, peer) = pair(&net, Rec::new(), silent).await;
    until(|| peer.rtt().is_some()).await;
    for (millis, is_fault) in [(1, false), (900, false), (3_000, false), (8_000, true)] {
        let asked = a.request(peer.key(), message(1, b"?"), Duration::from_millis(millis)).await;
        assert!(matches!(asked, Err(PeerRequestError::Request(RequestError::Timeout))), "{asked:?}");
        assert_eq!(peer.health(a.now()) < 100, is_fault, "{millis} ms, a round trip of {:?}", peer.rtt());
    }
    end(a).await;
    end(b).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_we_do_not_read_from_is_not_penalised_for_unanswered_pings() {
    let net = MemoryNet::new(1);
    let slow = Rec::new().on_event(|_, _, _| Handled::later(std::future::pending()));
    let a = start(&net, 1, quiet(), slow).await;
    let mut busy = ByHand::enter(&net, 2, at(1), 7).await;
    until(|| peers(&a) == 1).await;
    let peer = only(&a);
    let mut events = bytes::BytesMut::new();
    for kind in 0..200 {
        let header = peerpool::wire::MessageHeader::Event { kind };
        peerpool::wire::Protocol::encode(
            &peerpool::wire::Native::default(),
            peerpool::Lane::Normal,
            &header,
            b"x",
            &mut events,
        )
        .unwrap();
    }
    busy.stream.write_all(&events).await.unwrap();
    until(|| peer.is_paused()).await;
    // It answers its pings behind what we do not read.
    secs(120).await;
    assert!(peer.is_live());
    assert_eq!(peer.health(a.now()), 100);
    end(a).await;
}
