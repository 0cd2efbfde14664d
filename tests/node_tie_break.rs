//! Two connections, one peer: every branch of the rule, at both ends, in both orders. Time is
//! paused, the world is seeded.
#![cfg(all(feature = "node", not(peerpool_loom)))]

#[path = "common/node.rs"]
mod harness;

use std::sync::Arc;
use std::time::Duration;

use harness::*;
use peerpool::pool::DisconnectReason;
use peerpool::transport::{Latency, MemoryNet};
use peerpool::wire::{FirstFrame, GoodbyeReason};
use peerpool::{ConnId, ConnectError, Direction, Node, NodeConfig, Peer, PeerId};

/// Both ends are on one connection, and it is the same one: what one end dialled the other
/// accepted.
fn assert_one_and_the_same(a: &Node, b: &Node) -> (Arc<Peer>, Arc<Peer>) {
    let (of_a, of_b) = (only(a), only(b));
    assert_ne!(of_a.direction(), of_b.direction(), "each kept a connection of its own");
    let ends = |peer: &Peer| (peer.read_info(|info| info.local).unwrap(), peer.addr());
    let (near, far) = ends(&of_b);
    assert_eq!(ends(&of_a), (far, near));
    (of_a, of_b)
}

async fn simultaneous_open(seed: u64, hint: bool) {
    let net = MemoryNet::new(seed);
    net.set_latency(Latency::from(Duration::from_millis(1)..=Duration::from_millis(1 + 20 * (seed % 4))));
    let (hears_a, hears_b) = (Rec::new(), Rec::new());
    let a = start(&net, 1, quiet(), hears_a.clone()).await;
    let b = start(&net, 2, quiet(), hears_b.clone()).await;
    if !hint {
        // The address is told, but another one than is dialled: the port differs, so nothing can be
        // held.
        drop((a, b));
        let listen = |last| {
            let (net, mut config) = (net.clone(), quiet());
            let rec = if last == 1 { hears_a.clone() } else { hears_b.clone() };
            config.listen.push(at(last));
            config.advertise = Some("10.9.9.9:1".parse().unwrap());
            async move {
                until(|| net.connections().is_empty()).await;
                let builder = Node::builder().config(config).transport(net.host(ip(last))).handler(rec);
                builder.start().await
            }
        };
        secs(1).await;
        let (a, b) = (listen(1).await.unwrap(), listen(2).await.unwrap());
        return open_both(net, a, b, hears_a, hears_b, seed).await;
    }
    open_both(net, a, b, hears_a, hears_b, seed).await;
}

async fn open_both(net: MemoryNet, a: Node, b: Node, hears_a: Rec, hears_b: Rec, seed: u64) {
    let later = Duration::from_millis(seed % 7 * 5);
    let one = a.connect(at(2));
    let other = async {
        tokio::time::sleep(later).await;
        b.connect(at(1)).await
    };
    let (one, other) = tokio::join!(one, other);
    for outcome in [&one, &other] {
        assert!(
            outcome.as_ref().is_ok() || outcome.as_ref().is_err_and(ConnectError::is_collision),
            "{outcome:?}"
        );
    }
    secs(2).await;
    let (of_a, of_b) = assert_one_and_the_same(&a, &b);
    secs(30).await;
    let (still_a, still_b) = assert_one_and_the_same(&a, &b);
    assert_eq!((of_a.id(), of_b.id()), (still_a.id(), still_b.id()), "they settled once");
    // No penalty, no backoff.
    for (node, other) in [(&a, at(2)), (&b, at(1))] {
        let known = node.book().get(&other);
        assert!(known.is_none_or(|known| known.failures == 0), "a collision counted as a failure");
        assert_eq!(only(node).health(node.now()), 100);
        assert_eq!(node.stats().dial_failures, 0);
    }
    // What is said arrives once each way.
    a.broadcast(&message(1, b"from a")).unwrap();
    b.broadcast(&message(2, b"from b")).unwrap();
    until(|| hears_b.events() == [(1, b"from a".to_vec())] && hears_a.events() == [(2, b"from b".to_vec())])
        .await;
    end(a).await;
    end(b).await;
    assert!(hears_a.pairs() >= 1 && hears_b.pairs() >= 1);
    until(|| net.connections().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_simultaneous_open_leaves_one_connection_and_the_same_one_with_the_listen_hint() {
    for seed in 0..24 {
        simultaneous_open(seed, true).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_simultaneous_open_leaves_one_connection_and_the_same_one_without_the_listen_hint() {
    for seed in 0..24 {
        simultaneous_open(seed, false).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_inbound_that_loses_to_a_pending_dial_is_held_and_accepted_when_the_dial_fails() {
    let net = MemoryNet::new(1);
    let a = start(&net, 1, quiet(), Rec::new()).await;
    // Our dial to 10.0.0.2 hangs; meanwhile somebody with a larger nonce comes from there.
    net.set_black_hole(ip(2), true);
    let dialler = a.clone();
    let dial = tokio::spawn(async move { dialler.connect(at(2)).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut held = ByHand::dial(&net, 2, at(1)).await;
    let mut greeting = hello(0xff);
    greeting.listen = Some(at(2));
    held.say(&greeting).await;
    assert!(tokio::time::timeout(Duration::from_secs(5), held.greeting()).await.is_err(), "it is held");
    dial.abort();
    assert!(matches!(held.greeting().await, Some(FirstFrame::Hello(_))));
    until(|| peers(&a) == 1).await;
    end(a).await;
}

#[tokio::test(start_paused = true)]
async fn a_self_dial_ends_quietly_and_is_remembered() {
    let net = MemoryNet::new(1);
    let rec = Rec::new();
    let a = start(&net, 1, quiet(), rec.clone()).await;
    let mut events = a.subscribe();
    assert!(matches!(a.connect(at(1)).await, Err(ConnectError::SelfDial)));
    secs(3).await;
    assert!(a.book().is_self(&at(1), peerpool::address_book::WallTime::now()));
    let stats = a.stats();
    assert_eq!((stats.self_dials, stats.dial_failures, stats.pool.total_connections), (1, 0, 0));
    assert!(
        matches!(events.try_next(), Some(peerpool::SubscriptionItem::Snapshot(peers)) if peers.is_empty())
    );
    end(a).await;
    assert!(rec.all().is_empty(), "no hook ran");
    assert!(net.connections().is_empty());
}

/// The node at .2 also listens on another port: dialled there too, it is the same peer.
#[tokio::test(start_paused = true)]
async fn another_address_of_a_peer_becomes_an_alias_and_is_not_dialled_again() {
    let net = MemoryNet::new(1);
    let mut config = quiet();
    config.listen.push("10.0.0.2:7001".parse().unwrap());
    let b = start(&net, 2, config, Rec::new()).await;
    let mut config = NodeConfig::local();
    config.seeds = vec![at(2).into()];
    let a = start(&net, 1, config, Rec::new()).await;
    until(|| peers(&a) == 1).await;
    let other = "10.0.0.2:7001".parse().unwrap();
    a.book()
        .add(other, peerpool::address_book::ReportedBy::Operator, peerpool::address_book::WallTime::now())
        .unwrap();
    until(|| a.book().get(&other).is_some_and(|known| known.alias_of == Some(at(2)))).await;
    let before = a.stats();
    secs(60).await;
    let after = a.stats();
    assert!(after.dials - before.dials <= 1, "{} dials", after.dials - before.dials);
    assert!(after.collisions <= 2, "{}", after.collisions);
    assert_one_and_the_same(&a, &b);
    assert_eq!(a.book().get(&other).unwrap().failures, 0);
    end(a).await;
    end(b).await;
}

/// Does not find out by itself that a connection is dead.
fn patient() -> NodeConfig {
    let mut config = quiet();
    config.runtime.liveness.stale_after = Duration::from_secs(600);
    config.runtime.ping_interval = Duration::from_secs(200);
    config
}

#[tokio::test(start_paused = true)]
async fn a_half_dead_connection_is_replaced_once_it_misses_its_ping() {
    let net = MemoryNet::new(1);
    let a = start(&net, 1, patient(), Rec::new()).await;
    let mut first = ByHand::enter(&net, 2, at(1), 7).await;
    let old = only(&a);
    secs(60).await;
    // The same process again, while its first connection says nothing any more.
    let begun = tokio::time::Instant::now();
    let _second = ByHand::enter(&net, 2, at(1), 7).await;
    let took = begun.elapsed();
    assert!((5..7).contains(&took.as_secs()), "{took:?}");
    let new = only(&a);
    assert_ne!(new.id(), old.id());
    assert!(!old.is_live());
    let said = first.goodbye().await.unwrap();
    assert!(matches!(said.reason, GoodbyeReason::Duplicate | GoodbyeReason::Replaced));
    end(a).await;
}

#[tokio::test(start_paused = true)]
async fn an_authenticated_peer_with_a_dead_connection_is_back_within_one_handshake() {
    let net = MemoryNet::new(1);
    let a = start(&net, 1, patient(), Rec::new()).await;
    let adopt = || {
        let (near, far) = net.pair(ip(1), ip(2));
        let a = a.clone();
        let adopting =
            tokio::spawn(
                async move { a.adopt(near, peerpool::Direction::Inbound, at(2), Some([7; 32])).await },
            );
        (adopting, ByHand::new(far))
    };
    let (adopting, mut first) = adopt();
    first.say(&hello(7)).await;
    let old = adopting.await.unwrap().unwrap();
    secs(60).await;
    // The same process under the same key: one question to the old connection, not one by each
    // name.
    let begun = tokio::time::Instant::now();
    let (adopting, mut second) = adopt();
    second.say(&hello(7)).await;
    let new = adopting.await.unwrap().unwrap();
    assert!((5..7).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert!(!old.is_live() && new.is_live());
    end(a).await;
}

#[tokio::test(start_paused = true)]
async fn an_old_connection_that_answers_its_ping_stays() {
    let net = MemoryNet::new(1);
    let a = start(&net, 1, quiet(), Rec::new()).await;
    let mut first = ByHand::enter(&net, 2, at(1), 7).await;
    let old = only(&a);
    let answering = tokio::spawn(async move { first.goodbye().await });
    secs(60).await;
    let mut second = ByHand::dial(&net, 2, at(1)).await;
    second.say(&hello(7)).await;
    let Some(FirstFrame::Refusal(refused)) = second.greeting().await else { panic!("the first one lives") };
    assert_eq!(refused.reason, GoodbyeReason::Duplicate);
    assert_eq!(only(&a).id(), old.id());
    assert_eq!(only(&a).health(a.now()), 100);
    answering.abort();
    end(a).await;
}

/// Another one that claims our peer's nonce right after it came gains nothing: of two young inbound
/// the first stays.
#[tokio::test(start_paused = true)]
async fn of_two_young_inbound_connections_of_one_process_the_first_stays() {
    let net = MemoryNet::new(1);
    let a = start(&net, 1, quiet(), Rec::new()).await;
    let _first = ByHand::enter(&net, 2, at(1), 7).await;
    let old = only(&a);
    let mut second = ByHand::dial(&net, 2, at(1)).await;
    second.say(&hello(7)).await;
    assert!(
        matches!(second.greeting().await, Some(FirstFrame::Refusal(bye)) if bye.reason == GoodbyeReason::Duplicate)
    );
    assert_eq!(only(&a).id(), old.id());
    assert_eq!(a.stats().collisions, 1);
    assert_eq!(a.stats().refused, 0);
    end(a).await;
}

const KEYS: [[u8; 32]; 2] = [[1; 32], [2; 32]];

#[tokio::test(start_paused = true)]
async fn a_clone_of_a_proven_peer_is_a_duplicate_until_the_peer_is_silent() {
    let net = MemoryNet::new(1);
    let (hears, last) = (Rec::new(), 1);
    let a = start(&net, last, quiet(), hears.clone()).await;
    let old = start(&net, 2, quiet(), Rec::new()).await;
    let join =
        async |node: &Node, last| adopt_both(&net, (node, last, Some(KEYS[1])), (&a, 1, Some(KEYS[0]))).await;
    join(&old, 2).await.1.unwrap();
    let first = only(&a);
    assert_eq!(*first.key(), PeerId::Key(KEYS[1]));
    // A clone of the key that dials all the time costs the original nothing while it answers.
    let clone = start(&net, 3, quiet(), Rec::new()).await;
    for _ in 0..600 {
        let (theirs, ours) = join(&clone, 3).await;
        assert!(matches!(ours, Err(ConnectError::AlreadyConnected(_))), "{ours:?}");
        assert!(matches!(theirs, Err(ConnectError::Refused(bye)) if bye.reason == GoodbyeReason::Duplicate));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!((only(&a).id(), first.health(a.now())), (first.id(), 100));
    // A peer that restarted, and whose old connection is silent, takes its place.
    net.partition(&[ip(1)], &[ip(2)]);
    let new = start(&net, 4, quiet(), Rec::new()).await;
    join(&new, 4).await.1.unwrap();
    let second = only(&a);
    assert_ne!(second.id(), first.id());
    assert_eq!(first.disconnect_reason(), Some(DisconnectReason::Replaced));
    until(|| peers(&old) == 0).await;
    assert_eq!((a.stats().pool.total_connections, a.shutdown_report().peers), (1, 1));
    end(old).await;
    end(clone).await;
    end(new).await;
    end(a).await;
    assert_eq!(hears.pairs(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_proven_newer_inbound_replaces_a_silent_dial_and_the_key_is_never_empty() {
    let net = MemoryNet::new(1);
    let a = start(&net, 1, quiet(), Rec::new()).await;
    let b = start(&net, 2, quiet(), Rec::new()).await;
    let forth = adopt_both(&net, (&a, 1, Some(KEYS[0])), (&b, 2, Some(KEYS[1]))).await;
    let dialled = forth.0.unwrap().id();
    secs(30).await;
    let mut updates = a.subscribe();
    // While the old connection answers, another one is a duplicate.
    let back = adopt_both(&net, (&b, 2, Some(KEYS[1])), (&a, 1, Some(KEYS[0]))).await;
    assert!(matches!(back.1, Err(ConnectError::AlreadyConnected(_))), "{back:?}");
    assert_eq!(only(&a).id(), dialled);
    net.partition(&[ip(1)], &[ip(2)]);
    let moved = start(&net, 3, quiet(), Rec::new()).await;
    adopt_both(&net, (&moved, 3, Some(KEYS[1])), (&a, 1, Some(KEYS[0]))).await.1.unwrap();
    let new = only(&a);
    assert_eq!((new.direction(), *new.key()), (Direction::Inbound, PeerId::Key(KEYS[1])));
    // Down of the old before Up of the new, and nothing else.
    use peerpool::{NodeEvent, SubscriptionItem};
    let ids: Vec<(bool, ConnId)> = std::iter::from_fn(|| updates.try_next())
        .filter_map(|update| match update {
            SubscriptionItem::Event(NodeEvent::Up { peer, .. }) => Some((true, peer.id())),
            SubscriptionItem::Event(NodeEvent::Down { conn, .. }) => Some((false, conn)),
            _ => None,
        })
        .collect();
    assert_eq!(ids, [(false, dialled), (true, new.id())]);
    end(a).await;
    end(b).await;
    end(moved).await;
}

/// Somebody who listens and greets with this nonce; answers pings.
fn acceptor(net: &MemoryNet, host: u8, nonce: u8) -> tokio::task::JoinHandle<()> {
    use peerpool::transport::Transport;
    let net = net.clone();
    tokio::spawn(async move {
        let mut listener = net.host(ip(host)).listen(at(host)).await.unwrap();
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut one = ByHand::new(stream);
                if matches!(one.greeting().await, Some(FirstFrame::Hello(_))) {
                    one.say(&hello(nonce)).await;
                    one.goodbye().await;
                }
            });
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_dialled_host_that_copies_a_nonce_ends_no_peer() {
    let net = MemoryNet::new(1);
    let a = start(&net, 1, quiet(), Rec::new()).await;
    let mut first = ByHand::enter(&net, 2, at(1), 7).await;
    let old = only(&a);
    let answering = tokio::spawn(async move { first.goodbye().await });
    secs(11).await;
    let copying = acceptor(&net, 3, 7);
    tokio::task::yield_now().await;
    let copy = a.connect(at(3)).await.unwrap();
    assert!(old.is_live() && copy.is_live(), "to this node they are two processes");
    answering.abort();
    copying.abort();
    end(a).await;
}

#[tokio::test(start_paused = true)]
async fn a_host_that_brings_a_nonce_first_keeps_its_owner_neither_out_nor_from_being_dialled() {
    // While the connection to the copier is young, and when it is not.
    for age in [0, 11] {
        let net = MemoryNet::new(1);
        let a = start(&net, 1, quiet(), Rec::new()).await;
        let (copying, honest) = (acceptor(&net, 3, 7), acceptor(&net, 2, 7));
        tokio::task::yield_now().await;
        let copy = a.connect(at(3)).await.unwrap();
        let mut inbound_copy = ByHand::enter(&net, 4, at(1), 7).await;
        let answering = tokio::spawn(async move { inbound_copy.goodbye().await });
        secs(age).await;
        let owner = a.connect(at(2)).await.unwrap();
        assert_eq!((owner.is_live(), copy.is_live(), peers(&a)), (true, true, 3), "after {age} s");
        assert_eq!(a.book().get(&at(2)).unwrap().alias_of, None, "after {age} s");
        a.disconnect(owner.key());
        secs(11).await;
        // And when it dials.
        let _inbound = ByHand::enter(&net, 2, at(1), 7).await;
        copying.abort();
        honest.abort();
        answering.abort();
        end(a).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_crowd_that_repeats_a_peers_nonce_does_not_end_that_peer_while_it_answers() {
    let net = MemoryNet::new(1);
    let a = start(&net, 1, patient(), Rec::new()).await;
    let mut first = ByHand::enter(&net, 2, at(1), 7).await;
    let old = only(&a);
    let answering = tokio::spawn(async move { first.goodbye().await });
    secs(60).await;
    // Each of them has the old one asked whether it lives; ten questions are under way at a time.
    net.set_latency(Latency::from(Duration::from_millis(100)..=Duration::from_millis(100)));
    let mut crowd = tokio::task::JoinSet::new();
    for _ in 0..350 {
        let net = net.clone();
        crowd.spawn(async move {
            let mut one = ByHand::dial(&net, 2, at(1)).await;
            one.say(&hello(7)).await;
            std::future::pending::<()>().await;
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(only(&a).id(), old.id());
    let rtt = old.rtt().expect("timed all the while");
    assert!((200..250).contains(&rtt.as_millis()), "{rtt:?}");
    crowd.shutdown().await;
    answering.abort();
    end(a).await;
}

#[tokio::test(start_paused = true)]
async fn a_dialling_host_that_copies_a_young_peers_nonce_ends_no_peer() {
    let net = MemoryNet::new(1);
    let a = start(&net, 1, quiet(), Rec::new()).await;
    // Smaller than any: its dial would survive a simultaneous open.
    let listening = acceptor(&net, 2, 0);
    tokio::task::yield_now().await;
    let dialled = a.connect(at(2)).await.unwrap();
    let _other = ByHand::enter(&net, 3, at(1), 0).await;
    until(|| peers(&a) == 2).await;
    assert!(dialled.is_live());
    listening.abort();
    end(a).await;
}

#[tokio::test(start_paused = true)]
async fn a_nonce_counts_for_nothing_beside_two_proven_keys() {
    let net = MemoryNet::new(1);
    let a = start(&net, 1, patient(), Rec::new()).await;
    let adopt = async |direction, host: u8, key| {
        let (near, far) = net.pair(ip(1), ip(host));
        let mut far = ByHand::new(far);
        let greeting = async {
            far.say(&hello(7)).await;
            assert!(matches!(far.greeting().await, Some(FirstFrame::Hello(_))));
        };
        let (peer, ()) = tokio::join!(a.adopt(near, direction, at(host), Some(key)), greeting);
        (peer.unwrap(), far)
    };
    let (first, _far) = adopt(Direction::Outbound, 2, KEYS[0]).await;
    secs(11).await;
    let (second, _far_too) = adopt(Direction::Inbound, 3, KEYS[1]).await;
    assert!(first.is_live() && second.is_live());
    assert_eq!(peers(&a), 2);
    end(a).await;
}

/// A stream from 10.0.0.2:7000, adopted while the far end greets with this nonce.
async fn adopt_from_7000(net: &MemoryNet, a: &Node, nonce: u8) -> (Result<Arc<Peer>, ConnectError>, ByHand) {
    let (near, far) = net.pair(ip(1), ip(2));
    let mut far = ByHand::new(far);
    far.say(&hello(nonce)).await;
    (a.adopt(near, Direction::Inbound, at(2), None).await, far)
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_wins_by_nonce_and_by_key_replaces_both() {
    let net = MemoryNet::new(1);
    let a = start(&net, 1, patient(), Rec::new()).await;
    let _first = ByHand::enter(&net, 2, at(1), 7).await;
    let (second, _far) = adopt_from_7000(&net, &a, 8).await;
    assert_eq!((second.unwrap().is_live(), peers(&a)), (true, 2));
    secs(60).await;
    let (new, _far_too) = adopt_from_7000(&net, &a, 7).await;
    assert_eq!(only(&a).id(), new.unwrap().id());
    end(a).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_wins_by_nonce_and_is_refused_gives_the_process_back() {
    let net = MemoryNet::new(1);
    let a = start(&net, 1, patient(), Rec::new()).await;
    let mut first = ByHand::enter(&net, 2, at(1), 7).await;
    let old = only(&a);
    secs(60).await;
    let (second, mut holder) = adopt_from_7000(&net, &a, 8).await;
    assert!(second.unwrap().is_live());
    // The holder of the key answers pings, and so it stays.
    let holds = tokio::spawn(async move {
        holder.greeting().await.unwrap();
        holder.goodbye().await
    });
    let (refused, _far_too) = adopt_from_7000(&net, &a, 7).await;
    assert!(matches!(refused, Err(ConnectError::AlreadyConnected(_))), "{refused:?}");
    assert!(old.is_live());
    // It answers again, and is found by its nonce.
    let answering = tokio::spawn(async move { first.goodbye().await });
    let mut other = ByHand::dial(&net, 2, at(1)).await;
    other.say(&hello(7)).await;
    let said = other.greeting().await;
    assert!(
        matches!(said, Some(FirstFrame::Refusal(ref bye)) if bye.reason == GoodbyeReason::Duplicate),
        "{said:?}"
    );
    assert_eq!(peers(&a), 2);
    holds.abort();
    answering.abort();
    end(a).await;
}

#[tokio::test(start_paused = true)]
async fn a_ban_during_a_dial_prevents_the_connection() {
    let net = MemoryNet::new(1);
    let rec = Rec::new();
    let a = start(&net, 1, patient(), rec.clone()).await;
    // Says nothing any more: whether it lives is asked for seconds, in which the ban comes. All
    // loopback addresses are one host.
    let loopback = |last: u8| std::net::SocketAddr::from(([127, 0, 0, last], 7000));
    let (near, far) = net.pair(ip(1), ip(2));
    let mut silent = ByHand::new(far);
    silent.say(&hello(7)).await;
    let old = a.adopt(near, Direction::Inbound, loopback(2), None).await.unwrap();
    secs(11).await;
    let (near, far) = net.pair(ip(1), ip(3));
    let mut other = ByHand::new(far);
    other.say(&hello(7)).await;
    let dialler = a.clone();
    let dialling =
        tokio::spawn(async move { dialler.adopt(near, Direction::Outbound, loopback(3), None).await });
    secs(1).await;
    assert_eq!(a.ban_ip(loopback(3).ip(), Duration::from_secs(3600)).closed, 0);
    let dialled = dialling.await.unwrap();
    assert!(matches!(dialled, Err(ConnectError::Banned)), "{dialled:?}");
    secs(1).await;
    assert_eq!(
        (only(&a).id(), a.shutdown_report().connections),
        (old.id(), 1),
        "nobody leaves for a banned one"
    );
    end(a).await;
    assert_eq!(rec.pairs(), 1, "hooks ran for the first one only");
}

/// Ways in which a dial that was begun is over without a peer.
#[derive(Clone, Copy, Debug)]
enum Vain {
    Fails,
    Dropped,
}

/// The address does not answer our dials, while its process can dial us.
#[tokio::test(start_paused = true)]
async fn a_failed_dial_never_clears_a_session_that_arrived_meanwhile() {
    for (vain, same_key) in [(Vain::Fails, true), (Vain::Dropped, true), (Vain::Fails, false)] {
        let (net, rec) = (MemoryNet::new(1), Rec::new());
        net.set_black_hole(ip(2), true);
        let a = start(&net, 1, patient(), rec.clone()).await;
        let mut dial = Box::pin(a.connect(at(2)));
        let begun = std::future::poll_fn(|cx| std::task::Poll::Ready(dial.as_mut().poll(cx).is_pending()));
        assert!(begun.await);
        if same_key {
            // Nobody goes on with it, so it is still there when the sweep has revoked its claim.
            secs(12).await;
        }
        let from = if same_key { at(2) } else { std::net::SocketAddr::new(ip(2), 50_000) };
        let (near, far) = net.pair(ip(1), ip(2));
        let mut far = ByHand::new(far);
        // The smallest there is: it is not held back for our dial.
        far.say(&hello(0)).await;
        let session = a.adopt(near, Direction::Inbound, from, None).await.unwrap();
        assert_eq!(*session.key(), PeerId::from_addr(from));
        match vain {
            Vain::Fails => assert!(matches!(dial.await, Err(ConnectError::Timeout))),
            Vain::Dropped => drop(dial),
        }
        secs(1).await;
        assert!(session.is_live(), "{vain:?}, the same key: {same_key}");
        assert_eq!(only(&a).id(), session.id());
        assert_eq!(a.peer(session.key()).map(|peer| peer.id()), Some(session.id()));
        assert_eq!((a.stats().pool.total_connections, a.shutdown_report().permits), (1, 0));
        a.send(session.key(), message(1, b"to whoever came")).unwrap();
        assert!(far.heard().await.ends_with(b"to whoever came"));
        end(a).await;
        assert_eq!(rec.pairs(), 1);
    }
}
