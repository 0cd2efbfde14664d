//! A few of the claims over real sockets, on the wall's clock.
#![cfg(all(feature = "node", not(peerpool_loom)))]

#[path = "common/node.rs"]
mod harness;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use harness::{ByHand, Rec, hello, message, peers, quiet, until};
use peerpool::wire::{FirstFrame, GoodbyeReason};
use peerpool::{Handled, Node, NodeConfig};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

async fn start(mut config: NodeConfig, rec: Rec) -> (Node, SocketAddr) {
    config.listen.push("127.0.0.1:0".parse().unwrap());
    let node = Node::builder().config(config).handler(rec).start().await.unwrap();
    let addr = node.local_addrs()[0];
    (node, addr)
}

async fn end(node: Node) {
    let left = node.shutdown(Duration::from_secs(10)).await;
    assert!(left.is_clean(), "{left:?}");
    assert_eq!(node.stats().memory.connections, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_simultaneous_open_over_tcp_leaves_one_connection() {
    for _ in 0..20 {
        let (rec_a, rec_b) = (Rec::new(), Rec::new());
        let (a, at_a) = start(quiet(), rec_a.clone()).await;
        let (b, at_b) = start(quiet(), rec_b.clone()).await;
        let (one, other) = tokio::join!(a.connect(at_b), b.connect(at_a));
        for outcome in [one, other] {
            assert!(outcome.is_ok() || outcome.is_err_and(|error| error.is_collision()));
        }
        // Settled once both have one, and it stays so.
        until(|| {
            peers(&a) == 1 && peers(&b) == 1 && a.stats().connections == 1 && b.stats().connections == 1
        })
        .await;
        a.broadcast(&message(1, b"once")).unwrap();
        until(|| !rec_b.events().is_empty()).await;
        assert_eq!(rec_b.events(), [(1, b"once".to_vec())]);
        end(a).await;
        end(b).await;
        rec_a.pairs();
        rec_b.pairs();
    }
}

#[tokio::test]
async fn garbage_before_and_after_the_greeting_costs_that_connection_only() {
    let (a, at_a) = start(quiet(), Rec::new()).await;
    let (b, _) = start(quiet(), Rec::new()).await;
    b.connect(at_a).await.unwrap();
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 5000], &[0; 5000], b"\x9dPPL\xff\xff\xff\xff"] {
        let mut stream = ByHand::new(Box::new(TcpStream::connect(at_a).await.unwrap()));
        let _ = stream.stream.write_all(garbage).await;
        let told = stream.greeting().await;
        assert!(
            matches!(told, None | Some(FirstFrame::Refusal(_))),
            "{told:?} to {:?}",
            String::from_utf8_lossy(&garbage[..8])
        );
    }
    let mut stream = ByHand::new(Box::new(TcpStream::connect(at_a).await.unwrap()));
    stream.say(&hello(1)).await;
    assert!(matches!(stream.greeting().await, Some(FirstFrame::Hello(_))));
    stream.stream.write_all(&[0xff; 3]).await.unwrap();
    stream.stream.write_all(&[0xff; 100]).await.unwrap();
    assert_eq!(stream.goodbye().await.map(|bye| bye.reason), Some(GoodbyeReason::Protocol));
    drop(stream);
    until(|| peers(&a) == 1).await;
    assert_eq!((peers(&b), a.stats().panics), (1, 0));
    end(a).await;
    end(b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_never_reads_costs_the_others_nothing() {
    let mut config = quiet();
    config.runtime.write_stall_timeout = Duration::from_millis(500);
    config.runtime.maintenance_interval = Duration::from_millis(20);
    let heard = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&heard);
    let hears = Rec::new().on_event(move |_, _, _| {
        count.fetch_add(1, Ordering::Relaxed);
        Handled::Done
    });
    let heard = || heard.load(Ordering::Relaxed);
    let (a, at_a) = start(config, Rec::new()).await;
    let (b, _) = start(quiet(), hears).await;
    b.connect(at_a).await.unwrap();
    let mut stuck = ByHand::new(Box::new(TcpStream::connect(at_a).await.unwrap()));
    stuck.say(&hello(1)).await;
    assert!(matches!(stuck.greeting().await, Some(FirstFrame::Hello(_))));
    until(|| peers(&a) == 2).await;
    let mut told = 0;
    // More than any socket buffer takes. Who reads misses nothing only while it keeps up, however
    // busy the machine is.
    until(|| {
        while told < heard() + 10 {
            a.broadcast(&message(1, &[0; 100_000])).unwrap();
            told += 1;
        }
        peers(&a) == 1
    })
    .await;
    until(|| heard() == told).await;
    assert_eq!(peers(&b), 1);
    end(a).await;
    end(b).await;
}

/// Several threads connect, disconnect, send and ask at once; at the end everything is given back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_churn_of_connects_cuts_and_requests_gives_everything_back() {
    let (hub_rec, mut tasks) = (Rec::new(), Vec::new());
    let (hub, at_hub) = start(quiet(), hub_rec.clone()).await;
    for seed in 0..6u64 {
        let node = start(quiet(), Rec::new()).await.0;
        tasks.push(tokio::spawn(async move {
            let mut rng = fastrand::Rng::with_seed(seed);
            for _ in 0..30 {
                let patience = Duration::from_micros(rng.u64(0..3_000));
                let _ = tokio::time::timeout(patience, node.connect(at_hub)).await;
                let Some(peer) = node.roster().iter().next().cloned() else { continue };
                node.send(peer.key(), message(1, &vec![0; rng.usize(0..50_000)])).ok();
                let asking = node.request(peer.key(), message(2, &[0; 300]), Duration::from_secs(5));
                let _ = tokio::time::timeout(patience, asking).await;
                if rng.bool() {
                    node.disconnect(peer.key());
                }
            }
            end(node).await;
        }));
    }
    for task in tasks {
        tokio::time::timeout(Duration::from_secs(60), task).await.unwrap().unwrap();
    }
    until(|| {
        peers(&hub) == 0 && hub.shutdown_report().permits == 0 && hub.shutdown_report().connections == 0
    })
    .await;
    assert_eq!((hub.shutdown_report().peers, hub.stats().panics), (0, 0));
    end(hub).await;
    assert!(hub_rec.pairs() > 10);
}
