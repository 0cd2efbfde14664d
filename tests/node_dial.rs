//! Dials of the node's own accord: no loops, backoff, reconnection, discovery. Time is paused; the
//! book's waits, which are on the wall's clock, are made short.
#![cfg(all(feature = "node", not(peerpool_loom)))]

#[path = "common/node.rs"]
mod harness;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use harness::*;
use peerpool::address_book::{
    AddressBook, AddressBookConfig, DialOutcome, FailureCause, ReportedBy, WallTime,
};
use peerpool::transport::{BoxFuture, BoxListener, BoxStream, Latency, MemoryNet, Transport as _};
use peerpool::wire::{Control, FirstFrame, Goodbye, GoodbyeReason, Hello, Native, Protocol as _, Refusal};
use peerpool::{
    Backoff, ConnectError, Direction, Handler, Node, NodeConfig, NodeEvent, PeerDecision, SubscriptionItem,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn eager(seeds: &[u8]) -> NodeConfig {
    let mut config = NodeConfig::local();
    config.seeds = seeds.iter().map(|last| at(*last).into()).collect();
    config
}

#[tokio::test(start_paused = true)]
async fn an_address_under_way_is_not_dialled_in_a_loop() {
    let net = MemoryNet::new(1);
    net.set_black_hole(ip(2), true);
    let mut config = eager(&[2]);
    config.trusted = vec![at(3).into()];
    net.set_black_hole(ip(3), true);
    let a = start(&net, 1, config, Rec::new()).await;
    secs(8).await;
    let stats = a.stats();
    assert_eq!((stats.dials, stats.collisions), (2, 0), "each once, and still under way");
    let other = a.clone();
    let asked = tokio::spawn(async move { other.connect(at(2)).await });
    assert!(matches!(asked.await.unwrap(), Err(ConnectError::InProgress)));
    secs(1).await;
    assert_eq!(a.stats().collisions, 1);
    end(a).await;
}

#[tokio::test(start_paused = true)]
async fn a_lack_of_slots_causes_no_loop_and_no_failure_of_the_address() {
    let net = MemoryNet::new(1);
    let mut config = eager(&[2, 3, 4]);
    config.runtime.limits.max_outbound = 1;
    config.runtime.limits.reserved_outbound = 0;
    let a = start(&net, 1, config, Rec::new()).await;
    let mut others = Vec::new();
    for last in 2..5 {
        others.push(start(&net, last, quiet(), Rec::new()).await);
    }
    let mut updates = a.subscribe();
    until(|| peers(&a) == 1).await;
    secs(10).await;
    let mut failed = 0;
    while let Some(update) = updates.try_next() {
        failed += usize::from(matches!(update, SubscriptionItem::Event(NodeEvent::DialFailed { .. })));
    }
    // Looked at once a tick, a quarter of a second.
    assert!(failed <= 2 * 45, "{failed} attempts in ten seconds");
    for last in 2..5 {
        assert_eq!(a.book().get(&at(last)).unwrap().failures, 0);
    }
    end(a).await;
    for other in others {
        end(other).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_peer_is_dialled_again() {
    let net = MemoryNet::new(1);
    let b = start(&net, 2, quiet(), Rec::new()).await;
    let a = start(&net, 1, eager(&[2]), Rec::new()).await;
    for _ in 0..5 {
        until(|| peers(&a) == 1 && peers(&b) == 1).await;
        let before = only(&a).id();
        net.cut_all();
        until(|| peers(&a) == 1 && only(&a).id() != before).await;
    }
    end(a).await;
    end(b).await;
    assert!(net.connections().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_trusted_peer_that_dialled_us_is_not_dialled() {
    let net = MemoryNet::new(1);
    let mut config = quiet();
    config.trusted = vec![at(2).into()];
    let a = start(&net, 1, config, Rec::new()).await;
    // Nobody is there yet.
    until(|| a.stats().dial_failures >= 1).await;
    let b = start(&net, 2, quiet(), Rec::new()).await;
    b.connect(at(1)).await.unwrap();
    let listens = || only(&a).read_info(|info| info.listen == Some(at(2)));
    until(|| peers(&a) == 1 && listens()).await;
    let dials = a.stats().dials;
    secs(60).await;
    assert_eq!(a.stats().dials, dials);
    // And is, once it has gone.
    net.cut_all();
    until(|| peers(&a) == 1 && a.stats().dials > dials).await;
    end(a).await;
    end(b).await;
}

/// On the wall's clock: an address that accepts and hangs up is dialled less and less often,
/// trusted or not.
#[tokio::test]
async fn backoff_grows_until_a_session_is_stable_also_for_trusted_peers() {
    for trusted in [false, true] {
        let net = MemoryNet::new(1);
        let backoff = Backoff { base: Duration::from_millis(20), cap: Duration::from_secs(60) };
        let book = AddressBook::in_memory(AddressBookConfig { backoff, ..AddressBookConfig::default() });
        let mut config = NodeConfig::local();
        config.runtime.maintenance_interval = Duration::from_millis(2);
        config.runtime.stable_after = Duration::from_secs(1);
        if trusted {
            config.trusted = vec![at(2).into()];
        } else {
            config.seeds = vec![at(2).into()];
        }
        let slammer = Rec::new().on_connected(|cx| {
            cx.node().disconnect(cx.peer().key());
        });
        // Hangs up after accepting.
        let b = start(&net, 2, quiet(), slammer).await;
        let builder = Node::builder().config(config).transport(net.host(ip(1))).book(book);
        let a = builder.start().await.unwrap();
        tokio::time::sleep(Duration::from_millis(700)).await;
        let dials = a.stats().dials;
        // 10..20, 20..40, 40..80, ... ms: the sum of six waits is past 630 ms at the least.
        assert!((2..=8).contains(&dials), "{dials} dials, trusted: {trusted}");
        let failures = a.book().get(&at(2)).unwrap().failures;
        assert!(failures >= 2, "{failures}");
        end(b).await;
        until(|| net.connections().is_empty()).await;
        // A peer that stays: only once the session has lasted is the slate clean.
        let b = start(&net, 2, quiet(), Rec::new()).await;
        a.connect(at(2)).await.ok();
        until(|| peers(&a) == 1).await;
        assert!(a.book().get(&at(2)).unwrap().failures >= 2, "a handshake is no success yet");
        until(|| a.book().get(&at(2)).unwrap().failures == 0).await;
        end(a).await;
        end(b).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_dial_back_verifies_a_listen_address_before_it_is_shared() {
    let net = MemoryNet::new(1);
    let a = start(&net, 1, quiet(), Rec::new()).await;
    let honest = start(&net, 2, quiet(), Rec::new()).await;
    honest.connect(at(1)).await.unwrap();
    // A liar: says it listens where somebody else does, and where nobody does.
    let _other = start(&net, 4, quiet(), Rec::new()).await;
    let mut liars = Vec::new();
    for (nonce, port) in [(8, 7000), (9, 9999)] {
        let mut liar = ByHand::dial(&net, 4, at(1)).await;
        let mut hello = hello(nonce);
        hello.listen = Some(std::net::SocketAddr::new(ip(4), port));
        liar.say(&hello).await;
        liar.greeting().await.unwrap();
        liars.push(liar);
    }
    until(|| a.roster().iter().any(|peer| peer.read_info(|info| info.listen_verified))).await;
    secs(3).await;
    let verified: Vec<_> = a
        .roster()
        .iter()
        .filter_map(|peer| peer.read_info(|info| info.listen_verified.then_some(info.listen)))
        .collect();
    assert_eq!(verified, [Some(at(2))]);
    // Dialled there it is connected already, under the address it came from.
    let known =
        a.roster().iter().find(|peer| peer.read_info(|info| info.listen_verified)).map(|peer| *peer.key());
    let again = a.connect(at(2)).await;
    assert!(matches!(again, Err(ConnectError::AlreadyConnected(key)) if Some(key) == known), "{again:?}");
    assert_eq!(a.book().sample(WallTime::now(), 10), [at(2)]);
    assert_eq!(honest.stats().accepted, 1, "asked once");
    end(a).await;
    end(honest).await;
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_listen_address_is_probed_one_at_a_time_beside_the_dials() {
    let net = MemoryNet::new(1);
    let mut config = eager(&[]);
    config.runtime.max_concurrent_dials = 2;
    let a = start(&net, 1, config, Rec::new()).await;
    net.set_black_hole(ip(9), true);
    let mut silent = Vec::new();
    for nonce in 0..6 {
        let mut one = ByHand::dial(&net, 9, at(1)).await;
        let mut hello = hello(10 + nonce);
        hello.listen = Some(at(9));
        one.say(&hello).await;
        one.greeting().await.unwrap();
        silent.push(one);
    }
    until(|| peers(&a) == 6).await;
    secs(2).await;
    // Both places for probes hang; an address that comes now is dialled at once all the same.
    let b = start(&net, 2, quiet(), Rec::new()).await;
    a.book().add(at(2), ReportedBy::Operator, WallTime::now()).unwrap();
    let begun = tokio::time::Instant::now();
    until(|| peers(&b) == 1).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    end(a).await;
    end(b).await;
}

fn refusal(goodbye: Goodbye) -> Refusal {
    Refusal::new(goodbye, Native::VERSION, 0)
}

/// An address that tells every dialler the same; how many came.
fn refuser(net: &MemoryNet, last: u8, goodbye: Goodbye) -> Arc<AtomicUsize> {
    let host = net.host(ip(last));
    let came = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&came);
    tokio::spawn(async move {
        let mut listener = host.listen(at(last)).await.unwrap();
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            let mut out = BytesMut::new();
            Native::default().encode_refusal(&refusal(goodbye), &mut out).unwrap();
            let _ = stream.write_all(&out).await;
            // Not cut before it was read.
            let mut scrap = [0; 512];
            while matches!(stream.read(&mut scrap).await, Ok(count) if count > 0) {}
        }
    });
    came
}

/// Dials the second host again and again, as soon as the book lets it: after 50 ms at first.
async fn impatient(net: &MemoryNet) -> Node {
    let backoff = Backoff { base: Duration::from_millis(50), cap: Duration::from_secs(60) };
    let book = AddressBook::in_memory(AddressBookConfig { backoff, ..AddressBookConfig::default() });
    let mut config = eager(&[2]);
    config.runtime.maintenance_interval = Duration::from_millis(2);
    Node::builder().config(config).transport(net.host(ip(1))).book(book).start().await.unwrap()
}

/// On the wall's clock, which the book's waits are on.
#[tokio::test]
async fn an_address_that_claims_an_unknown_duplicate_backs_off() {
    for reason in [GoodbyeReason::Duplicate, GoodbyeReason::Replaced] {
        claims_a_collision(reason).await;
    }
}

async fn claims_a_collision(reason: GoodbyeReason) {
    let net = MemoryNet::new(1);
    let came = refuser(&net, 2, Goodbye::new(reason));
    let a = impatient(&net).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    let came = came.load(Ordering::Relaxed);
    // Each dial and the question behind it.
    assert!((2..=16).contains(&came), "{came} connections");
    assert!(a.book().get(&at(2)).unwrap().failures >= 1);
    end(a).await;
}

#[tokio::test(start_paused = true)]
async fn an_address_is_not_dialled_while_it_is_probed() {
    let net = MemoryNet::new(1);
    let (dials, questions) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let (dialled, asked) = (Arc::clone(&dials), Arc::clone(&questions));
    let mut listener = net.host(ip(2)).listen(at(2)).await.unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut one = ByHand::new(stream);
            let Some(FirstFrame::Hello(hello)) = one.greeting().await else { continue };
            if hello.features >> 63 == 1 {
                asked.fetch_add(1, Ordering::Relaxed);
            } else {
                dialled.fetch_add(1, Ordering::Relaxed);
                let mut out = BytesMut::new();
                let goodbye = Goodbye::new(GoodbyeReason::Duplicate);
                Native::default().encode_refusal(&refusal(goodbye), &mut out).unwrap();
                let _ = one.stream.write_all(&out).await;
            }
            // Says nothing more.
            tokio::spawn(async move { one.goodbye().await });
        }
    });
    let book = AddressBook::in_memory(AddressBookConfig::default());
    let builder = Node::builder().config(eager(&[2])).transport(net.host(ip(1))).book(book);
    let a = builder.start().await.unwrap();
    secs(9).await;
    let came = (dials.load(Ordering::Relaxed), questions.load(Ordering::Relaxed));
    assert_eq!(came, (1, 1), "dials, and the question behind them");
    until(|| a.book().get(&at(2)).unwrap().failures == 1).await;
    end(a).await;
}

/// On the wall's clock as well.
#[tokio::test]
async fn a_trusted_address_that_the_book_forgot_is_remembered_and_waits_as_any_other() {
    let net = MemoryNet::new(1);
    let came = refuser(&net, 2, Goodbye::new(GoodbyeReason::Rejected));
    let mut config = eager(&[]);
    config.trusted = vec![at(2).into()];
    config.runtime.maintenance_interval = Duration::from_millis(2);
    let book = AddressBook::in_memory(AddressBookConfig::default());
    let a = Node::builder().config(config).transport(net.host(ip(1))).book(book).start().await.unwrap();
    until(|| came.load(Ordering::Relaxed) >= 1).await;
    assert!(a.book().remove(&at(2)));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let came = came.load(Ordering::Relaxed);
    assert!((2..=4).contains(&came), "{came} connections");
    assert!(a.book().get(&at(2)).is_some_and(|known| known.trusted));
    // A banned one is not even tried.
    a.ban_ip(ip(2), Duration::from_secs(3600));
    let dials = a.stats().dial_failures;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(a.stats().dial_failures, dials);
    end(a).await;
}

/// A configuration with which a quiet connection alone never makes the maintenance look at it.
fn unhurried(mut config: NodeConfig) -> NodeConfig {
    let never = Duration::from_secs(24 * 3600);
    (config.runtime.ping_interval, config.runtime.stable_after, config.runtime.liveness.stale_after) =
        (never, never, never * 3);
    config
}

/// A peer from this host that claims to listen at an address.
async fn claim(net: &MemoryNet, from: u8, nonce: u8, listen: SocketAddr) -> ByHand {
    let mut peer = ByHand::dial(net, from, at(1)).await;
    let mut hello = hello(nonce);
    hello.listen = Some(listen);
    peer.say(&hello).await;
    assert!(matches!(peer.greeting().await, Some(FirstFrame::Hello(_))));
    peer
}

fn verified(node: &Node) -> bool {
    node.roster().iter().any(|peer| peer.read_info(|info| info.listen_verified))
}

#[tokio::test(start_paused = true)]
async fn a_claimed_address_is_probed_once_its_source_has_a_free_probe() {
    let net = MemoryNet::new(1);
    let a = start(&net, 1, unhurried(quiet()), Rec::new()).await;
    net.set_black_hole(ip(9), true);
    let mut liars = Vec::new();
    for nonce in 10..14 {
        liars.push(claim(&net, 9, nonce, SocketAddr::new(ip(9), u16::from(nonce))).await);
    }
    // All probes of this source wait for an answer.
    let honest = start(&net, 9, quiet(), Rec::new()).await;
    honest.connect(at(1)).await.unwrap();
    secs(3).await;
    assert!(!verified(&a));
    net.set_black_hole(ip(9), false);
    until(|| verified(&a)).await;
    end(a).await;
    end(honest).await;
}

#[tokio::test(start_paused = true)]
async fn slow_listeners_do_not_delay_the_verification_of_others() {
    let net = MemoryNet::new(1);
    let a = start(&net, 1, unhurried(quiet()), Rec::new()).await;
    let mut liars = Vec::new();
    for n in 0..28 {
        let from = 10 + n % 7;
        net.set_black_hole(ip(from), true);
        liars.push(claim(&net, from, 50 + n, SocketAddr::new(ip(from), u16::from(n) + 1)).await);
    }
    until(|| peers(&a) == 28).await;
    // In another subnet: theirs has used up its probes.
    let elsewhere = std::net::IpAddr::from([10, 0, 7, 2]);
    let config = NodeConfig { listen: vec![SocketAddr::new(elsewhere, PORT)], ..quiet() };
    let builder = Node::builder().config(config).transport(net.host(elsewhere)).book(hasty_book());
    let honest = builder.start().await.unwrap();
    honest.connect(at(1)).await.unwrap();
    let begun = tokio::time::Instant::now();
    until(|| verified(&a)).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    end(a).await;
    end(honest).await;
}

#[tokio::test(start_paused = true)]
async fn seeds_of_one_subnet_are_all_dialled() {
    let net = MemoryNet::new(1);
    let config =
        NodeConfig { seeds: (2..7).map(|last| at(last).into()).collect(), ..NodeConfig::recommended() };
    let a = start(&net, 1, config, Rec::new()).await;
    let mut others = Vec::new();
    for last in 2..7 {
        others.push(start(&net, last, quiet(), Rec::new()).await);
    }
    until(|| a.stats().pool.outbound == 5).await;
    end(a).await;
    for other in others {
        end(other).await;
    }
}

#[tokio::test(start_paused = true)]
async fn own_dials_are_spread_over_sources_and_subnets() {
    let net = MemoryNet::new(1);
    let mut config = NodeConfig::recommended();
    config.runtime.target_outbound = 8;
    config.runtime.discovery.private_networks = vec!["10.0.0.0/8".parse().unwrap()];
    let a = start(&net, 1, config, Rec::new()).await;
    let mut others = Vec::new();
    // Two hosts of one subnet with many ports, and five others of it.
    for last in 2..9 {
        others.push(start(&net, last, quiet(), Rec::new()).await);
        a.book().add(at(last), ReportedBy::Peer(ip(99)), WallTime::now()).unwrap();
    }
    until(|| a.stats().pool.outbound == 2).await;
    secs(60).await;
    let stats = a.stats();
    assert_eq!((stats.pool.outbound, stats.missing_outbound), (2, 6), "all are in one subnet");
    // What the application asks for is not bound by it.
    let asked = (2..9).map(at).find(|addr| a.peer(&peerpool::PeerId::from_addr(*addr)).is_none()).unwrap();
    a.connect(asked).await.unwrap();
    assert_eq!(a.stats().pool.outbound, 3);
    end(a).await;
    for other in others {
        end(other).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_becomes_stable_though_nothing_else_is_due() {
    let net = MemoryNet::new(1);
    let mut config = unhurried(quiet());
    config.runtime.stable_after = Duration::from_secs(5);
    let a = start(&net, 1, config, Rec::new()).await;
    assert!(a.connect(at(2)).await.is_err());
    let b = start(&net, 2, unhurried(quiet()), Rec::new()).await;
    a.connect(at(2)).await.unwrap();
    let failures = || a.book().get(&at(2)).unwrap().failures;
    secs(4).await;
    assert_eq!(failures(), 1);
    secs(3).await;
    assert_eq!(failures(), 0);
    end(a).await;
    end(b).await;
}

#[tokio::test(start_paused = true)]
async fn nodes_with_one_seed_each_reach_their_target() {
    let net = MemoryNet::new(7);
    net.set_latency(Latency::from(Duration::from_millis(1)..=Duration::from_millis(20)));
    let mut nodes = Vec::new();
    for last in 1..=10 {
        let mut config = eager(if last == 1 { &[] } else { &[1] });
        config.runtime.target_outbound = 4;
        nodes.push(start(&net, last, config, Rec::new()).await);
    }
    until(|| nodes.iter().all(|node| peers(node) >= 4)).await;
    secs(20).await;
    for node in &nodes {
        assert!(peers(node) >= 4);
        let stats = node.stats();
        assert_eq!(stats.panics, 0);
        // Its own address came back with the others'; that ended quietly.
        assert!(stats.self_dials <= 1, "{}", stats.self_dials);
    }
    // A graph, not ten copies of a star.
    let to_first: usize = nodes
        .iter()
        .skip(1)
        .map(|node| node.roster().iter().filter(|peer| peer.addr() == at(1)).count())
        .sum();
    let all: usize = nodes.iter().map(|node| peers(node)).sum();
    assert!(to_first * 2 < all, "{to_first} of {all}");
    for node in nodes {
        end(node).await;
    }
    until(|| net.connections().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_dial_without_an_answer_times_out_and_releases_its_slot() {
    let net = MemoryNet::new(1);
    net.set_black_hole(ip(2), true);
    let a = start(&net, 1, quiet(), Rec::new()).await;
    let begun = tokio::time::Instant::now();
    assert!(matches!(a.connect(at(2)).await, Err(ConnectError::Timeout)));
    assert!(begun.elapsed() <= Duration::from_secs(11));
    assert!(a.shutdown_report().permits == 0 && a.stats().dial_failures == 1);
    end(a).await;
}

/// The future is dropped after every number of polls up to success: nothing is left, whatever the
/// moment.
#[tokio::test(start_paused = true)]
async fn a_connect_dropped_after_any_number_of_polls_leaves_nothing() {
    let net = MemoryNet::new(3);
    net.set_latency(Duration::from_millis(2).into());
    let (hears_a, hears_b) = (Rec::new(), Rec::new());
    let a = start(&net, 1, quiet(), hears_a.clone()).await;
    let b = start(&net, 2, quiet(), hears_b.clone()).await;
    let mut successes = 0;
    for polls in 0..30 {
        let mut connect = Box::pin(a.connect(at(2)));
        let mut done = false;
        for _ in 0..polls {
            done =
                std::future::poll_fn(|cx| std::task::Poll::Ready(connect.as_mut().poll(cx).is_ready())).await;
            if done {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(connect);
        if done {
            successes += 1;
            a.disconnect(only(&a).key());
        }
        until(|| peers(&a) == 0 && peers(&b) == 0).await;
        until(|| {
            a.shutdown_report().permits == 0
                && b.shutdown_report().permits == 0
                && net.connections().is_empty()
        })
        .await;
        assert_eq!((a.shutdown_report().peers, b.shutdown_report().peers), (0, 0));
    }
    assert!(successes > 5 && successes < 30, "{successes}");
    end(a).await;
    end(b).await;
    assert_eq!(hears_a.pairs(), successes);
    hears_b.pairs();
}

/// Accepts, and says at once that the connection gives way to another one, which there is not.
#[tokio::test]
async fn an_address_that_accepts_and_claims_a_collision_backs_off() {
    let net = MemoryNet::new(1);
    let host = net.host(ip(2));
    let came = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&came);
    tokio::spawn(async move {
        let mut listener = host.listen(at(2)).await.unwrap();
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            let mut one = ByHand::new(stream);
            one.greeting().await;
            one.say(&hello(7)).await;
            let mut out = BytesMut::new();
            let goodbye = Control::Goodbye(Goodbye::new(GoodbyeReason::Duplicate));
            Native::default().encode_control(&goodbye, &mut out).unwrap();
            let _ = one.stream.write_all(&out).await;
            one.goodbye().await;
        }
    });
    let a = impatient(&net).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    let came = came.load(Ordering::Relaxed);
    assert!((2..=8).contains(&came), "{came} connections");
    assert!(a.book().get(&at(2)).unwrap().failures >= 2);
    end(a).await;
}

/// Gives every hello the same decision, and keeps the features it said.
struct Judge(PeerDecision, Mutex<Vec<u64>>);

impl Handler for Judge {
    fn accept_peer(&self, hello: &Hello, _: SocketAddr) -> PeerDecision {
        self.1.lock().unwrap().push(hello.features);
        self.0
    }
}

/// The highest bit of a hello's features says that a dialler merely asks: from anybody else it says
/// nothing.
#[tokio::test(start_paused = true)]
async fn the_application_decides_about_every_peer_whatever_its_feature_bits() {
    for decision in [PeerDecision::Accept, PeerDecision::Reject] {
        let net = MemoryNet::new(1);
        let judge = Arc::new(Judge(decision, Mutex::default()));
        let builder = Node::builder().config(quiet()).transport(net.host(ip(1))).book(hasty_book());
        let a = builder.handler(Arc::clone(&judge)).start().await.unwrap();
        let greeting = |nonce| Hello { features: 1 << 63 | 5, ..hello(nonce) };
        let mut listener = net.host(ip(2)).listen(at(2)).await.unwrap();
        let accepting = tokio::spawn(async move {
            let mut one = ByHand::new(listener.accept().await.unwrap().0);
            one.greeting().await;
            one.say(&greeting(2)).await;
            one.goodbye().await;
        });
        let dialled = a.connect(at(2)).await;
        let (near, _far) = net.pair(ip(1), ip(3));
        let said = (greeting(3), Vec::new());
        let adopted = a.adopt_handshaken("native", near, Direction::Inbound, at(3), said).await;
        for outcome in [dialled, adopted] {
            match decision {
                PeerDecision::Accept => assert_eq!(outcome.unwrap().read_info(|info| info.features), 5),
                PeerDecision::Reject => {
                    assert!(matches!(outcome, Err(ConnectError::Rejected)), "{outcome:?}")
                }
            }
        }
        assert_eq!(*judge.1.lock().unwrap(), [5, 5]);
        end(a).await;
        accepting.await.unwrap();
    }
}

/// A host that cannot dial: out of descriptors, or without a network.
struct Unable(i32, Arc<AtomicUsize>);

impl peerpool::transport::Transport for Unable {
    fn dial(&self, _: SocketAddr) -> BoxFuture<'_, std::io::Result<BoxStream>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { Err(std::io::Error::from_raw_os_error(self.0)) })
    }

    fn listen(&self, _: SocketAddr) -> BoxFuture<'_, std::io::Result<BoxListener>> {
        Box::pin(async { Err(std::io::ErrorKind::Unsupported.into()) })
    }
}

/// Linux' numbers: too many open files, and no way to that network.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_local_failure_to_dial_neither_harms_the_book_nor_causes_a_loop() {
    for code in [24, 101] {
        let dials = Arc::<AtomicUsize>::default();
        let book = Arc::new(AddressBook::in_memory(AddressBookConfig::default()));
        for n in 0..1_000u16 {
            let addr = SocketAddr::from(([10, 1, (n >> 8) as u8, n as u8], 7000));
            book.add(addr, ReportedBy::Operator, WallTime::now()).unwrap();
        }
        let mut config = eager(&[]);
        config.runtime.maintenance_interval = Duration::from_millis(50);
        config.runtime.target_outbound = 8;
        let node = Node::builder().config(config).transport(Unable(code, Arc::clone(&dials)));
        let a = node.book(Arc::clone(&book)).start().await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        end(a).await;
        let dials = dials.load(Ordering::Relaxed);
        // Those of a tick at most, tick by tick.
        assert!((8..=120).contains(&dials), "{dials} dials");
        assert!(book.addresses().iter().all(|known| known.failures == 0));
    }
}

/// Dials once; then it has no descriptors left (Linux' number).
#[cfg(target_os = "linux")]
struct Once(peerpool::transport::MemoryHost, Arc<AtomicUsize>);

#[cfg(target_os = "linux")]
impl peerpool::transport::Transport for Once {
    fn dial(&self, addr: SocketAddr) -> BoxFuture<'_, std::io::Result<BoxStream>> {
        if self.1.fetch_add(1, Ordering::Relaxed) == 0 {
            return self.0.dial(addr);
        }
        Box::pin(async { Err(std::io::Error::from_raw_os_error(24)) })
    }

    fn listen(&self, addr: SocketAddr) -> BoxFuture<'_, std::io::Result<BoxListener>> {
        self.0.listen(addr)
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(start_paused = true)]
async fn an_address_that_gave_way_and_cannot_be_probed_has_not_failed() {
    let net = MemoryNet::new(1);
    refuser(&net, 2, Goodbye::new(GoodbyeReason::Duplicate));
    tokio::task::yield_now().await;
    let dials = Arc::<AtomicUsize>::default();
    let transport = Once(net.host(ip(1)), Arc::clone(&dials));
    let book = AddressBook::in_memory(AddressBookConfig::default());
    let builder = Node::builder().config(eager(&[2])).transport(transport).book(book);
    let a = builder.start().await.unwrap();
    until(|| dials.load(Ordering::Relaxed) == 2).await;
    secs(1).await;
    assert_eq!(a.book().get(&at(2)).unwrap().failures, 0);
    assert_eq!((a.stats().dials, a.stats().collisions), (1, 1));
    end(a).await;
}

#[tokio::test(start_paused = true)]
async fn a_listener_without_room_for_a_probe_is_probed_again() {
    let net = MemoryNet::new(1);
    let a = start(&net, 1, quiet(), Rec::new()).await;
    let host = net.host(ip(2));
    tokio::spawn(async move {
        let mut listener = host.listen(at(2)).await.unwrap();
        for turn in 0.. {
            let Ok((stream, _)) = listener.accept().await else { return };
            let mut one = ByHand::new(stream);
            one.greeting().await;
            if turn == 0 {
                let mut out = BytesMut::new();
                let full = refusal(Goodbye::new(GoodbyeReason::Full));
                Native::default().encode_refusal(&full, &mut out).unwrap();
                let _ = one.stream.write_all(&out).await;
            } else {
                one.say(&hello(7)).await;
            }
            one.goodbye().await;
        }
    });
    let mut dialler = ByHand::dial(&net, 2, at(1)).await;
    let mut greeting = hello(7);
    greeting.listen = Some(at(2));
    dialler.say(&greeting).await;
    dialler.greeting().await.unwrap();
    let answering = tokio::spawn(async move { dialler.goodbye().await });
    until(|| a.roster().iter().any(|peer| peer.read_info(|info| info.listen_verified))).await;
    assert!(a.book().get(&at(2)).is_some());
    answering.abort();
    end(a).await;
}

#[tokio::test(start_paused = true)]
async fn the_content_of_the_book_does_not_keep_a_node_from_starting() {
    let net = MemoryNet::new(1);
    let (one, two) = (std::num::NonZeroUsize::MIN, std::num::NonZeroUsize::MIN.saturating_add(1));
    let config =
        AddressBookConfig { max_addresses: two, max_per_source: one, ..AddressBookConfig::default() };
    let book = AddressBook::in_memory(config);
    for last in [8, 9] {
        book.add(at(last), ReportedBy::Operator, WallTime::now()).unwrap();
        book.record(&at(last), peerpool::address_book::DialOutcome::Connected, WallTime::now());
    }
    let mut config = eager(&[2, 3, 4]);
    config.listen.clear();
    let a = Node::builder().config(config).transport(net.host(ip(1))).book(book).start().await.unwrap();
    assert!(a.book().get(&at(2)).is_none());
    end(a).await;
}

#[tokio::test(start_paused = true)]
async fn inbound_never_satisfies_outbound() {
    let net = MemoryNet::new(8);
    let seed = start(&net, 1, quiet(), Rec::new()).await;
    let mut config = eager(&[]);
    config.runtime.target_outbound = 1;
    let node = start(&net, 2, config, Rec::new()).await;
    // More connections than the node wants peers, before it knows an address.
    let mut attackers = Vec::new();
    for n in 0..8 {
        let mut attacker = ByHand::dial(&net, 9, at(2)).await;
        attacker.say(&hello(50 + n)).await;
        assert!(matches!(attacker.greeting().await, Some(FirstFrame::Hello(_))));
        attackers.push(attacker);
    }
    assert_eq!(node.stats().missing_outbound, 1);
    node.book().add(at(1), ReportedBy::Seed, WallTime::now()).unwrap();
    let begun = tokio::time::Instant::now();
    until(|| node.stats().pool.outbound == 1).await;
    // Long before the silent attackers are stale.
    assert!(begun.elapsed() < Duration::from_secs(2) && node.stats().pool.inbound == 8);
    assert_eq!(node.stats().missing_outbound, 0);
    end(node).await;
    end(seed).await;
}

#[tokio::test(start_paused = true)]
async fn a_network_of_two_shows_missing_peers_and_does_not_dial_in_a_loop() {
    let net = MemoryNet::new(8);
    let a = start(&net, 1, eager(&[2]), Rec::new()).await;
    let b = start(&net, 2, eager(&[1]), Rec::new()).await;
    until(|| peers(&a) == 1 && peers(&b) == 1).await;
    secs(5).await;
    let dials = |node: &Node| node.stats().dials;
    let before = (dials(&a), dials(&b));
    secs(60).await;
    assert_eq!((dials(&a), dials(&b)), before);
    assert!(a.stats().missing_outbound + b.stats().missing_outbound > 8);
    end(a).await;
    end(b).await;
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_that_swallows_packets_a_node_is_back_within_half_a_minute() {
    let net = MemoryNet::new(3);
    let mut config = quiet();
    config.runtime.handshake_timeout = Duration::from_millis(500);
    let book = AddressBook::in_memory(AddressBookConfig::default());
    let a = Node::builder().config(config).transport(net.host(ip(1))).book(book).start().await.unwrap();
    let b = start(&net, 2, quiet(), Rec::new()).await;
    a.connect(at(2)).await.unwrap();
    let known = || a.book().get(&at(2)).unwrap();
    // It was hard to reach before, and waits for long.
    for _ in 0..12 {
        a.book().record(&at(2), DialOutcome::Failed(FailureCause::Reset), WallTime::now());
    }
    let latest = || WallTime::now().after(Duration::from_secs(31));
    // Nothing comes back, and no error either.
    net.set_black_hole(ip(2), true);
    a.disconnect(only(&a).key());
    secs(11).await;
    a.ban_ip(ip(7), Duration::from_secs(3600));
    for _ in 0..5 {
        // What fails before anything is sent reaches nobody.
        assert!(matches!(a.connect(at(7)).await, Err(ConnectError::Banned)));
        assert!(matches!(a.connect(at(2)).await, Err(ConnectError::Timeout)));
        assert_eq!(known().failures, 12, "the outage ages no address");
    }
    for _ in 0..4 {
        a.book().record(&at(2), DialOutcome::Failed(FailureCause::Reset), WallTime::now());
    }
    assert!(known().next_attempt > latest());
    secs(61).await;
    assert!(known().next_attempt <= latest(), "a long wait is shortened");
    end(a).await;
    end(b).await;
}
