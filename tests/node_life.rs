//! Peers come and go: reaping, limits, bans, hooks, events.
#![cfg(all(feature = "node", not(peerpool_loom)))]

#[path = "common/node.rs"]
mod harness;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use harness::*;
use peerpool::pool::DisconnectReason;
use peerpool::transport::{MemoryNet, ReadRate};
use peerpool::wire::{FirstFrame, GoodbyeReason, Hello, MessageHeader, Native, Protocol as _};
use peerpool::{
    ConnectError, Direction, Handled, LagPolicy, Lane, Node, NodeEvent, PeerCapabilities, PeerId, PeerPolicy,
    ProtocolConfig, SubscriptionItem, WeakNode,
};

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_reaped_in_bounded_time_and_its_slot_is_free_again() {
    let net = MemoryNet::new(1);
    let (hears, hears_b) = (Rec::new(), Rec::new());
    let (a, b, peer) = pair(&net, hears.clone(), hears_b).await;
    secs(60).await;
    assert!(peer.is_live(), "pings keep an idle peer alive");
    assert!(peer.rtt().is_some());
    net.partition(&[ip(1)], &[ip(2)]);
    let begun = tokio::time::Instant::now();
    until(|| !peer.is_live()).await;
    let took = begun.elapsed();
    // Eight seconds without a frame, seen by a sweep that comes round once a second.
    assert!((Duration::from_secs(6)..Duration::from_secs(10)).contains(&took), "{took:?}");
    assert_eq!(peer.disconnect_reason(), Some(DisconnectReason::Stale));
    until(|| a.stats().pool.total_connections == 0 && b.stats().pool.total_connections == 0).await;
    until(|| a.shutdown_report().connections == 0).await;
    assert_eq!((a.stats().reaped, a.shutdown_report().peers), (1, 0));
    assert_eq!(hears.pairs(), 1);
    net.heal();
    a.connect(at(2)).await.unwrap();
    end(a).await;
    end(b).await;
}

#[tokio::test(start_paused = true)]
async fn a_shorter_maintenance_interval_takes_effect_at_once() {
    for from_the_start in [true, false] {
        let net = MemoryNet::new(1);
        let mut never = quiet();
        never.runtime.maintenance_interval = Duration::MAX;
        let often = |node: &Node| {
            let mut runtime = (*node.runtime_config()).clone();
            runtime.maintenance_interval = Duration::from_millis(10);
            node.reconfigure(runtime).unwrap();
        };
        let config = if from_the_start { never.clone() } else { quiet() };
        let a = start(&net, 1, config, Rec::new()).await;
        secs(1).await;
        a.reconfigure(never.runtime.clone()).unwrap();
        secs(1).await;
        let _silent = ByHand::enter(&net, 2, at(1), 7).await;
        secs(60).await;
        assert_eq!(peers(&a), 1, "nobody looks");
        often(&a);
        until(|| peers(&a) == 0).await;
        end(a).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_we_do_not_read_from_is_not_judged_by_its_silence() {
    let net = MemoryNet::new(1);
    let slow = Rec::new().on_event(|_, _, _| Handled::later(tokio::time::sleep(Duration::from_secs(100))));
    let (a, b, _) = pair(&net, Rec::new(), slow.clone()).await;
    for n in 0..200 {
        a.broadcast(&message(n, b"x")).unwrap();
    }
    until(|| only(&b).is_paused()).await;
    secs(90).await;
    assert_eq!((b.stats().reaped, peers(&b)), (0, 1));
    drop(a);
    end(b).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_no_data_is_closed_after_the_write_stall() {
    let net = MemoryNet::new(1);
    let mut config = quiet();
    config.runtime.write_stall_timeout = Duration::from_secs(3);
    // Nothing else makes the maintenance look at it.
    config.runtime.ping_interval = Duration::from_secs(3600);
    config.runtime.stable_after = Duration::from_secs(3600);
    config.runtime.liveness.stale_after = Duration::from_secs(3 * 3600);
    let a = start(&net, 1, config, Rec::new()).await;
    let b = start(&net, 2, quiet(), Rec::new()).await;
    let peer = a.connect(at(2)).await.unwrap();
    net.set_read_rate(ip(2), ReadRate::Stopped);
    a.send(peer.key(), message(1, &[0; 200_000]).bulk()).unwrap();
    until(|| !peer.is_live()).await;
    assert_eq!(peer.disconnect_reason(), Some(DisconnectReason::Overloaded));
    end(a).await;
    drop(b);
}

#[tokio::test(start_paused = true)]
async fn half_open_handshakes_lose_their_slots_at_the_deadline() {
    let net = MemoryNet::new(1);
    let mut config = quiet();
    config.runtime.handshake_timeout = Duration::from_secs(3);
    config.runtime.limits.max_pending_inbound = 4;
    let a = start(&net, 1, config, Rec::new()).await;
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(ByHand::dial(&net, 2, at(1)).await);
    }
    until(|| a.shutdown_report().permits == 4).await;
    let begun = tokio::time::Instant::now();
    until(|| a.shutdown_report().permits == 0).await;
    assert!(begun.elapsed() < Duration::from_secs(4));
    end(a).await;
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_gets_the_slot_of_the_oldest_handshake_of_the_source_that_holds_most() {
    let net = MemoryNet::new(1);
    let mut config = quiet();
    config.runtime.limits.max_pending_inbound = 4;
    let a = start(&net, 1, config, Rec::new()).await;
    let mut honest = ByHand::dial(&net, 2, at(1)).await;
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(ByHand::dial(&net, 9, at(1)).await);
    }
    until(|| a.shutdown_report().permits == 4).await;
    let begun = tokio::time::Instant::now();
    let _newcomer = ByHand::enter(&net, 3, at(1), 9).await;
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_eq!(a.stats().evicted_handshakes, 1);
    assert!(silent[0].greeting().await.is_none(), "the oldest one gave way");
    honest.say(&hello(7)).await;
    assert!(matches!(honest.greeting().await, Some(FirstFrame::Hello(_))), "a source that holds one stays");
    end(a).await;
}

#[tokio::test(start_paused = true)]
async fn a_ban_reaches_connections_in_their_handshake() {
    for by_key in [false, true] {
        let net = MemoryNet::new(1);
        let a = start(&net, 1, quiet(), Rec::new()).await;
        assert!(a.runtime_config().limits.floor > 0, "nobody who is no peer yet is kept by it");
        let mut slow = ByHand::dial(&net, 2, at(1)).await;
        until(|| a.shutdown_report().permits == 1).await;
        let hour = Duration::from_secs(3600);
        if by_key {
            use peerpool::transport::Stream as _;
            let from = slow.stream.local_addr().unwrap();
            assert_eq!(a.ban_peer(PeerId::from_addr(from), hour).closed, 0);
        } else {
            assert_eq!(a.ban_ip(ip(2), hour).closed, 0);
        }
        slow.say(&hello(7)).await;
        let reason = match slow.greeting().await {
            Some(FirstFrame::Hello(_)) => {
                let said = tokio::time::timeout(Duration::from_secs(20), slow.goodbye()).await;
                said.expect("a goodbye").map(|goodbye| goodbye.reason)
            }
            Some(FirstFrame::Refusal(goodbye)) => Some(goodbye.reason),
            _ => None,
        };
        assert_eq!(reason, Some(GoodbyeReason::Banned), "by key: {by_key}");
        until(|| peers(&a) == 0).await;
        end(a).await;
    }
}

/// The native protocol's policy, with a ban between the check of a hello and the key going live.
struct BansLate(Arc<OnceLock<WeakNode>>);

impl PeerPolicy for BansLate {
    fn capabilities(&self, _: &Hello, _: Direction) -> PeerCapabilities {
        if let Some(node) = self.0.get().and_then(WeakNode::upgrade) {
            assert_eq!(node.ban_ip(ip(2), Duration::from_secs(3600)).closed, 0, "nobody is live");
        }
        PeerCapabilities::default()
    }
}

#[tokio::test(start_paused = true)]
async fn the_floor_keeps_no_peer_banned_during_its_handshake() {
    let net = MemoryNet::new(1);
    let weak = Arc::<OnceLock<WeakNode>>::default();
    let protocol = ProtocolConfig::new(Native::default()).listen(at(1)).policy(BansLate(Arc::clone(&weak)));
    let builder = Node::builder().config(quiet()).transport(net.host(ip(1))).book(hasty_book());
    let a = builder.first_protocol(protocol).start().await.unwrap();
    assert!(a.runtime_config().limits.floor > 0);
    weak.set(a.downgrade()).unwrap();
    let mut late = ByHand::dial(&net, 2, at(1)).await;
    late.say(&hello(7)).await;
    let said = late.greeting().await;
    assert!(
        matches!(said, Some(FirstFrame::Refusal(ref bye)) if bye.reason == GoodbyeReason::Banned),
        "{said:?}"
    );
    assert_eq!(peers(&a), 0);
    end(a).await;
}

#[tokio::test(start_paused = true)]
async fn limits_refuse_with_full_and_the_dialler_backs_off() {
    let net = MemoryNet::new(1);
    let mut config = quiet();
    config.runtime.limits.max_per_source = 2;
    config.runtime.limits.max_inbound = 3;
    config.runtime.limits.reserved_inbound = 0;
    let a = start(&net, 1, config, Rec::new()).await;
    let mut one = Vec::new();
    for nonce in 1..=2 {
        one.push(ByHand::enter(&net, 2, at(1), nonce).await);
    }
    // Above its share a source is closed without a byte.
    let mut third = ByHand::dial(&net, 2, at(1)).await;
    assert!(third.greeting().await.is_none());
    let _other = ByHand::enter(&net, 3, at(1), 3).await;
    let b = start(&net, 4, quiet(), Rec::new()).await;
    let full = b.connect(at(1)).await;
    assert!(matches!(full, Err(ConnectError::Refused(bye)) if bye.reason == GoodbyeReason::Full), "{full:?}");
    let known = b.book().get(&at(1)).unwrap();
    assert!(
        known.failures == 0 && known.next_attempt > peerpool::address_book::WallTime::now(),
        "busy is not failed"
    );
    assert_eq!(peers(&a), 3);
    drop(one);
    until(|| peers(&a) == 1).await;
    b.connect(at(1)).await.unwrap();
    end(a).await;
    end(b).await;
}

#[tokio::test(start_paused = true)]
async fn lowered_limits_let_live_peers_go_but_never_below_the_floor() {
    let net = MemoryNet::new(1);
    let mut config = quiet();
    config.runtime.limits.floor = 3;
    config.runtime.limits.reserved_inbound = 0;
    let a = start(&net, 1, config, Rec::new()).await;
    let mut others = Vec::new();
    for last in 2..12 {
        let other = start(&net, last, quiet(), Rec::new()).await;
        other.connect(at(1)).await.unwrap();
        others.push(other);
    }
    until(|| peers(&a) == 10).await;
    let mut runtime = (*a.runtime_config()).clone();
    runtime.limits.max_inbound = 6;
    a.reconfigure(runtime.clone()).unwrap();
    until(|| peers(&a) == 6).await;
    runtime.limits.max_inbound = 1;
    a.reconfigure(runtime.clone()).unwrap();
    until(|| peers(&a) == 3).await;
    secs(10).await;
    assert_eq!(peers(&a), 3, "the floor");
    runtime.liveness.stale_after = Duration::from_millis(1);
    assert!(a.reconfigure(runtime).is_err(), "what makes no sense is refused and changes nothing");
    assert_eq!(a.runtime_config().limits.max_inbound, 1);
    for other in others {
        end(other).await;
    }
    end(a).await;
}

#[tokio::test(start_paused = true)]
async fn intervals_and_lag_policies_act_on_live_connections() {
    let net = MemoryNet::new(1);
    let (a, b, peer) = pair(&net, Rec::new(), Rec::new()).await;
    let mut runtime = (*a.runtime_config()).clone();
    runtime.maintenance_interval = Duration::from_secs(3_600);
    a.reconfigure(runtime.clone()).unwrap();
    secs(1).await;
    runtime.maintenance_interval = Duration::from_millis(50);
    runtime.ping_interval = Duration::from_millis(200);
    runtime.normal_lag = LagPolicy::Disconnect;
    a.reconfigure(runtime).unwrap();
    let before = peer.bytes().sent;
    // A sweep comes round once a second.
    secs(8).await;
    assert!(peer.bytes().sent - before >= 11 * 13, "a shorter tick and ping interval act at once");
    net.set_read_rate(ip(2), ReadRate::PerSecond(std::num::NonZeroU64::new(100_000).unwrap()));
    for _ in 0..100 {
        a.broadcast(&message(1, &[0; 200_000])).unwrap();
        tokio::task::yield_now().await;
    }
    until(|| !peer.is_live()).await;
    assert_eq!(peer.disconnect_reason(), Some(DisconnectReason::Overloaded));
    end(a).await;
    drop(b);
}

#[tokio::test]
async fn a_ban_closes_and_keeps_out_until_it_is_over() {
    let net = MemoryNet::new(1);
    let mut config = quiet();
    config.runtime.limits.floor = 1;
    let a = start(&net, 1, config, Rec::new()).await;
    let (b, c) = (start(&net, 2, quiet(), Rec::new()).await, start(&net, 3, quiet(), Rec::new()).await);
    b.connect(at(1)).await.unwrap();
    c.connect(at(1)).await.unwrap();
    // On the wall's clock: long enough for what must be seen before it is over.
    assert_eq!(a.ban_ip(ip(2), Duration::from_secs(3)).closed, 1);
    until(|| peers(&b) == 0).await;
    let refused = b.connect(at(1)).await;
    assert!(
        matches!(refused, Err(ConnectError::Refused(bye)) if bye.reason == GoodbyeReason::Banned),
        "{refused:?}"
    );
    assert!(matches!(a.connect(at(2)).await, Err(ConnectError::Banned)));
    assert_eq!(peers(&a), 1);
    tokio::time::timeout(WAIT, async {
        while b.connect(at(1)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("the ban ends");
    until(|| peers(&a) == 2).await;
    let key = PeerId::from_addr(a.roster().iter().find(|peer| peer.ip() == ip(2)).unwrap().addr());
    assert_eq!(a.ban_peer(key, Duration::from_secs(60)).closed, 1);
    assert!(a.unban(ip(2)) && !a.unban(ip(2)), "an address without a proven key stands for its source");
    end(a).await;
    end(b).await;
    end(c).await;
}

#[tokio::test]
async fn an_operators_ban_holds_though_the_floor_is_reached() {
    let net = MemoryNet::new(1);
    let mut config = quiet();
    config.runtime.limits.floor = 8;
    let a = start(&net, 1, config, Rec::new()).await;
    let b = start(&net, 2, quiet(), Rec::new()).await;
    b.connect(at(1)).await.unwrap();
    // The peer is known by the port that it dialled from; it would come back from another one.
    let report = a.ban_peer(*only(&a).key(), Duration::from_secs(60));
    assert_eq!((report.closed, report.target), (1, ip(2).into()));
    assert_eq!(peers(&a), 0);
    until(|| peers(&b) == 0).await;
    let refused = b.connect(at(1)).await;
    assert!(
        matches!(refused, Err(ConnectError::Refused(bye)) if bye.reason == GoodbyeReason::Banned),
        "{refused:?}"
    );
    end(a).await;
    end(b).await;
}

#[tokio::test(start_paused = true)]
async fn hooks_pair_exactly_whatever_ends_a_connection() {
    let net = MemoryNet::new(1);
    let hears = Rec::new()
        .on_connected(|cx| {
            if cx.peer().ip() == ip(3) {
                panic!("a bug in connected");
            }
        })
        .on_event(|cx, kind, _| {
            match kind {
                1 => panic!("a bug in event"),
                2 => assert!(cx.node().disconnect(cx.peer().key())),
                3 => return Handled::later(async { panic!("a bug in the future") }),
                _ => {}
            }
            Handled::Done
        });
    let a = start(&net, 1, quiet(), hears.clone()).await;
    let mut ends = 0;
    for (last, kinds) in [(2, vec![1, 3, 2]), (2, vec![2]), (3, vec![])] {
        let other = start(&net, last, quiet(), Rec::new()).await;
        let peer = other.connect(at(1)).await.unwrap();
        for kind in &kinds {
            // A panic costs its call: the connection goes on to the next one.
            other.send(peer.key(), message(*kind, b"")).unwrap();
        }
        until(|| peers(&other) == 0 && peers(&a) == 0).await;
        end(other).await;
        ends += 1;
        until(|| net.connections().is_empty()).await;
    }
    let other = start(&net, 2, quiet(), Rec::new()).await;
    other.connect(at(1)).await.unwrap();
    until(|| peers(&a) == 1).await;
    net.cut_all();
    until(|| peers(&a) == 0).await;
    other.connect(at(1)).await.unwrap();
    end(a.clone()).await;
    until(|| a.shutdown_report().is_clean()).await;
    assert_eq!(hears.pairs(), ends + 2);
    assert_eq!(a.stats().panics, 3, "one in connected, two in event and its future");
    assert_eq!(
        a.stats().pool.disconnects.of(DisconnectReason::HandlerPanic),
        1,
        "a panic in connected ends it"
    );
    end(other).await;
}

#[tokio::test(start_paused = true)]
async fn events_are_ordered_per_key_and_a_slow_subscriber_starts_again_from_a_snapshot() {
    let net = MemoryNet::new(1);
    let mut config = quiet();
    config.event_backlog = 4;
    let a = start(&net, 1, config, Rec::new()).await;
    let b = start(&net, 2, quiet(), Rec::new()).await;
    let mut slow = a.subscribe();
    let mut quick = a.subscribe();
    let watching = tokio::spawn(async move {
        let mut up = None;
        let mut seen = 0;
        while seen < 20 {
            match quick.next().await {
                SubscriptionItem::Snapshot(peers) => assert!(peers.is_empty()),
                SubscriptionItem::Event(NodeEvent::Up { peer, .. }) => {
                    assert!(up.replace(peer.id()).is_none(), "Up, Up");
                    seen += 1;
                }
                SubscriptionItem::Event(NodeEvent::Down { conn, .. }) => {
                    assert_eq!(up.take(), Some(conn));
                    seen += 1;
                }
                other => panic!("{other:?}"),
            }
        }
    });
    for _ in 0..10 {
        let peer = a.connect(at(2)).await.unwrap();
        tokio::task::yield_now().await;
        a.disconnect(peer.key());
        until(|| peers(&b) == 0 && a.shutdown_report().connections == 0).await;
    }
    tokio::time::timeout(WAIT, watching).await.unwrap().unwrap();
    let peer = a.connect(at(2)).await.unwrap();
    assert!(matches!(slow.try_next(), Some(SubscriptionItem::Snapshot(peers)) if peers.is_empty()));
    assert!(
        matches!(slow.try_next(), Some(SubscriptionItem::Lagged(missed)) if missed >= 21),
        "all that it did not see"
    );
    assert!(
        matches!(slow.try_next(), Some(SubscriptionItem::Snapshot(peers)) if peers.len() == 1 && Arc::ptr_eq(&peers[0], &peer))
    );
    assert!(slow.try_next().is_none());
    end(a).await;
    end(b).await;
}

#[tokio::test(start_paused = true)]
async fn waiting_for_the_end_of_a_node_resolves() {
    let net = MemoryNet::new(1);
    let a = start(&net, 1, quiet(), Rec::new()).await;
    let watching = a.clone();
    let mut ended = tokio::spawn(async move { watching.stopped().await });
    assert!(tokio::time::timeout(Duration::from_secs(5), &mut ended).await.is_err());
    end(a).await;
    tokio::time::timeout(WAIT, ended).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_protocol_violation_frees_the_slot_at_once_and_its_source_once_the_socket_is_closed() {
    let net = MemoryNet::new(1);
    let mut config = quiet();
    config.runtime.limits.max_per_source = 1;
    let a = start(&net, 1, config, Rec::new()).await;
    let mut bad = ByHand::enter(&net, 2, at(1), 5).await;
    let peer = only(&a);
    use tokio::io::AsyncWriteExt;
    bad.stream.write_all(&[0xff; 32]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!((peers(&a), peer.disconnect_reason()), (0, Some(DisconnectReason::Protocol)));
    assert_eq!(bad.goodbye().await.map(|bye| bye.reason), Some(GoodbyeReason::Protocol));
    // Its socket and its task are still there.
    let mut early = ByHand::dial(&net, 2, at(1)).await;
    early.say(&hello(6)).await;
    assert!(early.greeting().await.is_none());
    drop(bad);
    tokio::time::sleep(Duration::from_millis(5)).await;
    let _next = ByHand::enter(&net, 2, at(1), 6).await;
    end(a).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_sends_but_answers_no_ping_loses_health_and_departs_at_zero() {
    let net = MemoryNet::new(1);
    let a = start(&net, 1, quiet(), Rec::new()).await;
    let mut one = ByHand::enter(&net, 2, at(1), 5).await;
    let peer = only(&a);
    use tokio::io::AsyncWriteExt;
    let mut event = bytes::BytesMut::new();
    let head = MessageHeader::Event { kind: 1 };
    Native::default().encode(Lane::Normal, &head, b"x", &mut event).unwrap();
    let mut healths = Vec::new();
    while one.stream.write_all(&event).await.is_ok() {
        assert!(healths.len() < 1_000, "{healths:?}");
        healths.push(peer.health(a.now()));
        secs(1).await;
    }
    assert_eq!(peer.disconnect_reason(), Some(DisconnectReason::Misbehaved));
    assert!(healths.iter().any(|health| (1..100).contains(health)), "step by step: {healths:?}");
    end(a).await;
}

/// On one thread, where tasks end one after another: a task spawned for a clean-up would show.
#[tokio::test(start_paused = true)]
async fn cleaning_up_after_peers_spawns_no_task_and_waits_for_nobody() {
    const PEERS: usize = 20;
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let (net, hears) = (MemoryNet::new(1), Rec::new());
    // Somebody who subscribed and never looks, and an application that is still busy with a
    // message, wait for nobody either.
    let busy = hears.clone().on_event(|_, _, _| Handled::later(std::future::pending()));
    let a = start(&net, 1, quiet(), busy).await;
    let _events = a.subscribe();
    let mut far = Vec::new();
    for nonce in 0..PEERS as u8 {
        let mut one = ByHand::enter(&net, 2, at(1), nonce).await;
        let mut out = bytes::BytesMut::new();
        Native::default()
            .encode(Lane::Normal, &MessageHeader::Event { kind: 1 }, b"keeps busy", &mut out)
            .unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut one.stream, &out).await.unwrap();
        far.push(one);
    }
    until(|| peers(&a) == PEERS && hears.events().len() == PEERS).await;
    let (tasks, begun) = (alive(), tokio::time::Instant::now());
    assert_eq!(net.cut_all(), PEERS);
    let mut turns = 0;
    while a.shutdown_report().connections > 0 {
        tokio::task::yield_now().await;
        turns += 1;
        assert!(turns < 1_000, "{:?}", a.shutdown_report());
        assert!(alive() <= tasks - (PEERS - a.shutdown_report().connections as usize), "a task was spawned");
    }
    assert_eq!(alive(), tasks - PEERS);
    assert_eq!((begun.elapsed(), peers(&a), a.shutdown_report().peers), (Duration::ZERO, 0, 0));
    assert_eq!(hears.pairs(), PEERS);
    end(a).await;
}
