//! The maintenance loop: it skips what it missed, survives its steps, and is woken by losses only.
//! Time is paused.
#![cfg(all(feature = "node", not(peerpool_loom)))]

#[path = "common/node.rs"]
mod harness;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use harness::*;
use peerpool::address_book::{ReportedBy, WallTime};
use peerpool::transport::{MemoryNet, Transport as _};
use peerpool::wire::{Control, Goodbye, GoodbyeReason, Native, Protocol as _, Refusal};
use peerpool::{Node, NodeConfig, PeerPolicy, ProtocolConfig};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Notify;

/// PeerPolicy that the maintenance asks once a tick, about the one address in its book.
struct Asked {
    times: Arc<AtomicUsize>,
    panics: bool,
}

impl PeerPolicy for Asked {
    fn may_dial(&self, _: SocketAddr) -> bool {
        self.times.fetch_add(1, Ordering::Relaxed);
        assert!(!self.panics, "as the test wants it");
        false
    }
}

/// A node that would like to dial, and how often it asked whether it may.
async fn asking(net: &MemoryNet, tick: Duration, panics: bool) -> (Node, Arc<AtomicUsize>) {
    let times = Arc::<AtomicUsize>::default();
    let mut config = NodeConfig::local();
    config.seeds = vec![at(9).into()];
    config.runtime.maintenance_interval = tick;
    let protocol = ProtocolConfig::new(Native::default())
        .policy(Asked { times: Arc::clone(&times), panics })
        .listen(at(1));
    let builder = Node::builder().config(config).transport(net.host(ip(1))).book(hasty_book());
    (builder.first_protocol(protocol).start().await.unwrap(), times)
}

#[tokio::test(start_paused = true)]
async fn ticks_that_were_missed_are_skipped() {
    let net = MemoryNet::new(1);
    let (a, times) = asking(&net, Duration::from_millis(250), false).await;
    secs(10).await;
    let before = times.load(Ordering::Relaxed);
    assert!((38..=42).contains(&before), "once a tick: {before}");
    // As if nothing had run for an hour.
    tokio::time::advance(Duration::from_secs(3600)).await;
    secs(1).await;
    let more = times.load(Ordering::Relaxed) - before;
    assert!((4..=6).contains(&more), "{more} ticks in the second after an hour without any");
    end(a).await;
}

#[tokio::test(start_paused = true)]
async fn a_panicking_step_does_not_end_the_maintenance() {
    let net = MemoryNet::new(1);
    let (a, times) = asking(&net, Duration::from_secs(1), true).await;
    until(|| times.load(Ordering::Relaxed) > 0).await;
    // Who comes then and is silent is found all the same, and so is the next one.
    for nonce in 1..=2 {
        let _silent = ByHand::enter(&net, 2, at(1), nonce).await;
        until(|| a.stats().reaped == u64::from(nonce)).await;
    }
    assert_eq!(a.stats().panics as usize, times.load(Ordering::Relaxed));
    end(a).await;
}

/// When it is that the other end has enough.
#[derive(Clone, Copy, Debug)]
enum Point {
    /// In place of a greeting.
    Refused,
    /// Once both ends are connected.
    Ended,
}

/// Whether an address that the book learned meanwhile is dialled as soon as the other end has given
/// this reason, though the maintenance looks by itself only once an hour.
async fn wakes(point: Point, reason: GoodbyeReason) -> bool {
    let net = MemoryNet::new(1);
    let count = |came: &Arc<AtomicUsize>| came.load(Ordering::Relaxed);
    let [came, came_to_other] = [(); 2].map(|()| Arc::<AtomicUsize>::default());
    let enough = Arc::<Notify>::default();
    let (host, counter, told) = (net.host(ip(2)), Arc::clone(&came), Arc::clone(&enough));
    tokio::spawn(async move {
        let mut listener = host.listen(at(2)).await.unwrap();
        while let Ok((stream, _)) = listener.accept().await {
            let mut one = ByHand::new(stream);
            one.greeting().await;
            let (native, mut out) = (Native::default(), BytesMut::new());
            match point {
                Point::Refused => {
                    _ = native
                        .encode_refusal(&Refusal::new(Goodbye::new(reason), Native::VERSION, 0), &mut out)
                        .unwrap()
                }
                Point::Ended => {
                    one.say(&hello(7)).await;
                    native.encode_control(&Control::Goodbye(Goodbye::new(reason)), &mut out).unwrap();
                }
            }
            counter.fetch_add(1, Ordering::Relaxed);
            told.notified().await;
            // Those after the first one do not wait.
            told.notify_one();
            let _ = one.stream.write_all(&out).await;
            one.goodbye().await;
        }
    });
    let (host, counter) = (net.host(ip(3)), Arc::clone(&came_to_other));
    tokio::spawn(async move {
        let mut listener = host.listen(at(3)).await.unwrap();
        while let Ok((_stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    let mut config = NodeConfig::local();
    config.seeds = vec![at(2).into()];
    config.runtime.maintenance_interval = Duration::from_secs(3600);
    let a = start(&net, 1, config, Rec::new()).await;
    until(|| count(&came) == 1).await;
    if matches!(point, Point::Ended) {
        until(|| peers(&a) == 1).await;
    }
    // A success wakes it as well.
    secs(1).await;
    a.book().add(at(3), ReportedBy::Operator, WallTime::now()).unwrap();
    secs(1).await;
    assert_eq!(count(&came_to_other), 0, "nobody has told it of that address");
    enough.notify_one();
    secs(60).await;
    assert_eq!(peers(&a), 0);
    end(a).await;
    count(&came_to_other) > 0
}

#[tokio::test(start_paused = true)]
async fn a_collision_wakes_no_redial_and_a_loss_does() {
    use GoodbyeReason::{Duplicate, Rejected, Replaced, Shutdown};
    for point in [Point::Refused, Point::Ended] {
        for (reason, expected) in [(Duplicate, false), (Replaced, false), (Rejected, true), (Shutdown, true)]
        {
            assert_eq!(wakes(point, reason).await, expected, "{point:?} {reason:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stall_of_the_process_reaps_no_peer() {
    let net = MemoryNet::new(5);
    let mut config = quiet();
    config.runtime.maintenance_interval = Duration::from_millis(100);
    config.runtime.ping_interval = Duration::from_millis(400);
    config.runtime.liveness.stale_after = Duration::from_secs(1);
    let a = start(&net, 1, config.clone(), Rec::new()).await;
    let b = start(&net, 2, config, Rec::new()).await;
    let peer = a.connect(at(2)).await.unwrap();
    secs(3).await;
    for _ in 0..3 {
        // The clock goes on and nothing runs.
        tokio::time::advance(Duration::from_millis(2_500)).await;
        secs(2).await;
        assert!(peer.is_live() && peers(&b) == 1);
    }
    assert_eq!((a.stats().stalls, a.stats().pool.disconnects.total()), (3, 0));
    // A peer that is silent on its own account is found as before.
    net.partition(&[ip(1)], &[ip(2)]);
    secs(3).await;
    assert!(!peer.is_live());
    end(a).await;
    end(b).await;
}
