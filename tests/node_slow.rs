//! What slow peers cost the others: next to nothing. Time is paused.
#![cfg(all(feature = "node", not(peerpool_loom)))]

#[path = "common/node.rs"]
mod harness;

use std::num::NonZeroU64;
use std::time::Duration;

use harness::*;
use peerpool::transport::{MemoryNet, ReadRate};
use peerpool::{Lane, Node};

const PEERS: u8 = 16;
const SIZE: usize = 1_000;

/// One node in the middle, sixteen connected to it.
async fn star(net: &MemoryNet) -> (Node, Vec<(Node, Rec)>) {
    let mut config = quiet();
    config.log_ring_bytes = 256 * 1024;
    let middle = start(net, 1, config, Rec::new()).await;
    let mut others = Vec::new();
    for last in 2..2 + PEERS {
        let rec = Rec::new();
        let node = start(net, last, quiet(), rec.clone()).await;
        middle.connect(at(last)).await.unwrap();
        others.push((node, rec));
    }
    (middle, others)
}

/// Broadcasts so many messages as quickly as `ready` allows; how long that took.
async fn produce(middle: &Node, count: u16) -> Duration {
    let since = tokio::time::Instant::now();
    for n in 0..count {
        tokio::time::timeout(WAIT, middle.ready(Lane::Normal)).await.unwrap();
        middle.broadcast(&message(n, &[0; SIZE])).unwrap();
    }
    since.elapsed()
}

async fn end_all(net: &MemoryNet, middle: Node, others: Vec<(Node, Rec)>) {
    (2..2 + PEERS).for_each(|last| net.set_read_rate(ip(last), ReadRate::Unlimited));
    end(middle).await;
    for (node, _) in others {
        end(node).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_delays_the_others_by_a_tenth_of_a_second() {
    let net = MemoryNet::new(1);
    let (middle, others) = star(&net).await;
    net.set_read_rate(ip(2), ReadRate::Stopped);
    let took = produce(&middle, 5_000).await;
    assert!(took >= Duration::from_millis(80) && took <= Duration::from_millis(150), "{took:?}");
    until(|| others[1..].iter().all(|(_, rec)| rec.events().len() == 5_000)).await;
    end_all(&net, middle, others).await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_quarter_delays_the_others_by_a_tenth_of_a_second() {
    let net = MemoryNet::new(1);
    let (middle, others) = star(&net).await;
    let crawl = ReadRate::PerSecond(NonZeroU64::new(20_000).unwrap());
    (2..6).for_each(|last| net.set_read_rate(ip(last), crawl));
    let took = produce(&middle, 5_000).await;
    assert!(took >= Duration::from_millis(80) && took <= Duration::from_millis(250), "{took:?}");
    until(|| others[4..].iter().all(|(_, rec)| rec.events().len() == 5_000)).await;
    end_all(&net, middle, others).await;
}

#[tokio::test(start_paused = true)]
async fn when_most_peers_are_slow_the_producer_keeps_their_pace_and_no_peer_lags() {
    let net = MemoryNet::new(1);
    let (middle, others) = star(&net).await;
    let slow = ReadRate::PerSecond(NonZeroU64::new(100_000).unwrap());
    (2..12).for_each(|last| net.set_read_rate(ip(last), slow));
    let took = produce(&middle, 1_000).await;
    assert!(took >= Duration::from_secs(8), "a megabyte at a tenth of one a second: {took:?}");
    until(|| others.iter().all(|(_, rec)| rec.events().len() == 1_000)).await;
    assert_eq!(middle.stats().missed_broadcasts, 0);
    end_all(&net, middle, others).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_with_short_pauses_misses_nothing() {
    let net = MemoryNet::new(1);
    let (middle, others) = star(&net).await;
    for _ in 0..10 {
        net.set_read_rate(ip(2), ReadRate::Stopped);
        let resume = async {
            tokio::time::sleep(Duration::from_millis(70)).await;
            net.set_read_rate(ip(2), ReadRate::Unlimited);
        };
        let (took, ()) = tokio::join!(produce(&middle, 1_000), resume);
        assert!(took >= Duration::from_millis(70), "it was waited for: {took:?}");
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    until(|| others.iter().all(|(_, rec)| rec.events().len() == 10_000)).await;
    assert_eq!(middle.stats().missed_broadcasts, 0);
    end_all(&net, middle, others).await;
}
