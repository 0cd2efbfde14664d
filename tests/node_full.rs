//! A node without a free slot still helps: its refusals carry addresses, and say what does not
//! match.
#![cfg(all(feature = "node", not(peerpool_loom)))]

#[path = "common/node.rs"]
mod harness;

use std::time::Duration;

use bytes::BytesMut;
use harness::*;
use peerpool::address_book::{DialOutcome, ReportedBy, WallTime};
use peerpool::transport::{BoxStream, MemoryNet, Transport as _};
use peerpool::wire::{FirstFrame, Goodbye, GoodbyeReason, Native, Protocol as _, Refusal};
use peerpool::{ConnectError, Node, NodeConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A configuration with room for this many peers that dial.
fn with_slots(max_inbound: u32) -> NodeConfig {
    let mut config = quiet();
    config.runtime.limits.max_inbound = max_inbound;
    config
}

fn refusal_of(first_frame: Option<FirstFrame>) -> Refusal {
    match first_frame {
        Some(FirstFrame::Refusal(refusal)) => refusal,
        other => panic!("no refusal: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_whose_only_seed_is_full_joins_through_what_it_is_told() {
    let net = MemoryNet::new(1);
    let seed = start(&net, 1, with_slots(3), Rec::new()).await;
    let mut members = Vec::new();
    for last in 2..5 {
        let member = start(&net, last, quiet(), Rec::new()).await;
        member.connect(at(1)).await.unwrap();
        members.push(member);
    }
    // Once their listen addresses are verified, they may be told.
    until(|| seed.book().sample(WallTime::now(), 10).len() == 3).await;
    let mut config = NodeConfig::local();
    config.seeds = vec![at(1).into()];
    let newcomer = start(&net, 9, config, Rec::new()).await;
    until(|| peers(&newcomer) == 3).await;
    assert!(members.iter().all(|member| peers(member) == 2));
    assert_eq!(newcomer.book().get(&at(1)).unwrap().failures, 0, "a full seed has not failed");
    for node in members.into_iter().chain([newcomer, seed]) {
        end(node).await;
    }
}

/// A full node whose book has ten addresses that it may tell.
async fn full_node(net: &MemoryNet, interval: Duration) -> Node {
    let mut config = with_slots(1);
    config.runtime.discovery.refusal_addrs_interval = interval;
    let node = start(net, 1, config, Rec::new()).await;
    for last in 11..21 {
        node.book().add(at(last), ReportedBy::Operator, WallTime::now()).unwrap();
        node.book().record(&at(last), DialOutcome::Connected, WallTime::now());
    }
    node
}

#[tokio::test(start_paused = true)]
async fn a_refusal_carries_eight_addresses_and_one_a_minute_does_for_each_source() {
    let net = MemoryNet::new(1);
    let node = full_node(&net, Duration::from_secs(60)).await;
    let guest = start(&net, 2, quiet(), Rec::new()).await;
    guest.connect(at(1)).await.unwrap();
    let told = |last: u8| {
        let net = net.clone();
        async move {
            let mut stranger = ByHand::dial(&net, last, at(1)).await;
            let refusal = refusal_of(stranger.greeting().await);
            assert_eq!(refusal.reason, GoodbyeReason::Full);
            refusal.addrs
        }
    };
    assert_eq!(told(3).await.len(), 8);
    assert_eq!(told(3).await, []);
    assert_eq!(told(4).await.len(), 8, "another source");
    secs(61).await;
    assert_eq!(told(3).await.len(), 8);
    end(guest).await;
    end(node).await;
}

/// Writes a refusal, and waits until the other end has closed.
async fn write_and_wait(mut stream: BoxStream, refusal: &Refusal) {
    let mut out = BytesMut::new();
    Native::default().encode_refusal(refusal, &mut out).unwrap();
    let _ = stream.write_all(&out).await;
    let mut scrap = [0; 512];
    while matches!(stream.read(&mut scrap).await, Ok(count) if count > 0) {}
}

/// Refuses everybody for lack of slots, with these addresses.
fn full_refuser(net: &MemoryNet, last: u8, addrs: Vec<std::net::SocketAddr>) {
    let host = net.host(ip(last));
    tokio::spawn(async move {
        let mut listener = host.listen(at(last)).await.unwrap();
        while let Ok((stream, _)) = listener.accept().await {
            let goodbye = Goodbye::new(GoodbyeReason::Full).retry_after(Duration::from_secs(600));
            let refusal = Refusal { addrs: addrs.clone(), ..Refusal::new(goodbye, Native::VERSION, 0) };
            write_and_wait(stream, &refusal).await;
        }
    });
}

#[tokio::test(start_paused = true)]
async fn told_addresses_are_checked_for_scope_and_dialled_two_at_a_time() {
    let net = MemoryNet::new(1);
    let usable: Vec<_> = (11..17).map(at).collect();
    let of_another_network = ["192.168.0.1:7000", "127.0.0.1:7000"].map(|addr| addr.parse().unwrap());
    full_refuser(&net, 2, [&usable[..], &of_another_network].concat());
    for addr in &usable {
        net.set_black_hole(addr.ip(), true);
    }
    let mut config = NodeConfig::local();
    config.seeds = vec![at(2).into()];
    let discovery = &mut config.runtime.discovery;
    discovery.allow_private = false;
    discovery.private_networks = vec!["10.0.0.0/8".parse().unwrap()];
    discovery.max_outbound_per_source = 1;
    let a = start(&net, 1, config, Rec::new()).await;
    until(|| a.stats().dials >= 3).await;
    secs(5).await;
    assert_eq!(a.stats().dials, 3, "the seed, and two of what it told");
    assert!(usable.iter().all(|addr| a.book().get(addr).is_some()));
    assert!(of_another_network.iter().all(|addr| a.book().get(addr).is_none()));
    // The others have their turn as those end.
    until(|| a.stats().dials >= 7).await;
    end(a).await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_dialler_sees_both_networks_and_both_versions() {
    let net = MemoryNet::new(1);
    let a = start(&net, 1, quiet(), Rec::new()).await;
    let mut config = quiet();
    config.network = 5;
    let b = start(&net, 2, config, Rec::new()).await;
    let refused = b.connect(at(1)).await;
    let ours = quiet().network;
    assert!(
        matches!(refused, Err(ConnectError::WrongNetwork { ours: 5, theirs }) if theirs == ours),
        "{refused:?}"
    );
    let mut old = ByHand::dial(&net, 3, at(1)).await;
    old.say(&peerpool::wire::Hello { version: 1, ..hello(7) }).await;
    let refusal = refusal_of(old.greeting().await);
    assert_eq!((refusal.reason, refusal.version), (GoodbyeReason::WrongVersion, Native::VERSION));
    // And at the dialling end, with an acceptor of another version.
    let host = net.host(ip(4));
    let mut listener = host.listen(at(4)).await.unwrap();
    let later = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let refusal = Refusal::new(Goodbye::new(GoodbyeReason::WrongVersion), 9, ours);
        write_and_wait(stream, &refusal).await;
    });
    let refused = a.connect(at(4)).await;
    assert!(
        matches!(refused, Err(ConnectError::WrongVersion { ours: Native::VERSION, theirs: 9 })),
        "{refused:?}"
    );
    end(a).await;
    end(b).await;
    later.await.unwrap();
}
