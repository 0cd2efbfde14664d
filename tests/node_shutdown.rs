//! The end of a node: the gate, the drain, what is left; and verbs that are legal inside a handler.
//! Time is paused.
#![cfg(all(feature = "node", not(peerpool_loom)))]

#[path = "common/node.rs"]
mod harness;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use harness::*;
use peerpool::pool::DisconnectReason;
use peerpool::transport::{MemoryNet, ReadRate};
use peerpool::wire::FirstFrame;
use peerpool::{
    BroadcastError, ConnectError, Handled, Node, NodeEvent, ShutdownReport, StartError, StateError,
    Subscription, SubscriptionItem,
};
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn nothing_goes_live_once_a_shutdown_has_begun() {
    let net = MemoryNet::new(1);
    net.set_latency(Duration::from_millis(5).into());
    let mut went_live = std::collections::BTreeSet::new();
    for millis in 0..40u64 {
        let rec = Rec::new();
        let a = start(&net, 1, quiet(), rec.clone()).await;
        let b = start(&net, 2, quiet(), Rec::new()).await;
        let (dialler, other) = (a.clone(), b.clone());
        let out = tokio::spawn(async move { dialler.connect(at(2)).await.map(|_| ()) });
        let into = tokio::spawn(async move { other.connect(at(1)).await.map(|_| ()) });
        let mut updates = a.subscribe();
        tokio::time::sleep(Duration::from_millis(millis)).await;
        let before = ups(&mut updates);
        let left = a.shutdown(Duration::from_secs(5)).await;
        assert!(left.is_clean(), "{left:?} after {millis} ms");
        assert!(a.is_stopping());
        out.await.unwrap().ok();
        into.await.unwrap().ok();
        assert_eq!(ups(&mut updates), 0, "after {millis} ms");
        rec.pairs();
        went_live.insert(before);
        assert!(matches!(a.connect(at(2)).await, Err(ConnectError::Shutdown)));
        end(b).await;
        until(|| net.connections().is_empty()).await;
    }
    assert!(went_live.len() > 1, "{went_live:?}: the shutdowns begin before and after a peer goes live");
}

/// How many peers went live since it was asked last.
fn ups(updates: &mut Subscription) -> usize {
    std::iter::from_fn(|| updates.try_next())
        .map(|update| match update {
            SubscriptionItem::Event(event) => usize::from(matches!(event, NodeEvent::Up { .. })),
            SubscriptionItem::Snapshot(peers) => peers.len(),
            SubscriptionItem::Lagged(missed) => panic!("missed {missed}"),
        })
        .sum()
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_sends_queued_messages_and_goodbyes() {
    let net = MemoryNet::new(1);
    let hears = Rec::new();
    let (a, b, peer) = pair(&net, Rec::new(), hears.clone()).await;
    let theirs = only(&b);
    for n in 0..100 {
        a.send(peer.key(), message(n, &[0; 10_000])).unwrap();
        a.broadcast(&message(200 + n, &[0; 1_000])).unwrap();
    }
    end(a).await;
    until(|| !theirs.is_live()).await;
    assert_eq!(hears.events().len(), 200);
    assert_eq!(hears.pairs(), 1);
    assert_eq!(theirs.disconnect_reason(), Some(DisconnectReason::PeerShutdown));
    end(b).await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_keeps_its_deadline_whatever_peers_do() {
    for millis in [100, 1_000, 4_000] {
        let net = MemoryNet::new(1);
        let (a, b, peer) = pair(&net, Rec::new(), Rec::new()).await;
        let _silent = ByHand::dial(&net, 3, at(1)).await;
        net.set_read_rate(ip(2), ReadRate::Stopped);
        a.send(peer.key(), message(1, &[0; 1_000_000])).unwrap();
        secs(1).await;
        let begun = Instant::now();
        let left = a.shutdown(Duration::from_millis(millis)).await;
        assert!(left.is_clean(), "{left:?}");
        assert!(begun.elapsed() <= Duration::from_millis(millis + 100), "{:?} of {millis}", begun.elapsed());
        drop(b);
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_that_is_dropped_goes_on_by_itself_and_a_second_call_is_harmless() {
    let net = MemoryNet::new(1);
    for polls in 0..4 {
        let (a, b, _) = pair(&net, Rec::new(), Rec::new()).await;
        let node = a.clone();
        let mut shutdown = Box::pin(async move { node.shutdown(WAIT).await });
        for _ in 0..polls {
            std::future::poll_fn(|cx| std::task::Poll::Ready(shutdown.as_mut().poll(cx).is_ready())).await;
        }
        drop(shutdown);
        if polls > 0 {
            until(|| a.shutdown_report().is_clean()).await;
        }
        end(a.clone()).await;
        end(a).await;
        end(b).await;
        until(|| net.connections().is_empty()).await;
    }
    let (a, b, _) = pair(&net, Rec::new(), Rec::new()).await;
    assert!(a.shutdown(Duration::MAX).await.is_clean(), "no deadline is too long");
    end(b).await;
}

#[tokio::test(start_paused = true)]
async fn shutdown_disconnect_and_the_drop_of_the_last_handle_are_legal_inside_a_handler() {
    for what in 0..3u16 {
        let net = MemoryNet::new(1);
        let own: Arc<Mutex<Option<Node>>> = Arc::default();
        let slot = Arc::clone(&own);
        let rec = Rec::new().on_event(move |cx, kind, _| match kind {
            0 => {
                let node = cx.node().clone();
                Handled::later(async move {
                    node.shutdown(Duration::from_secs(2)).await;
                })
            }
            1 => {
                assert!(cx.node().disconnect(cx.peer().key()));
                Handled::Done
            }
            _ => {
                drop(slot.lock().unwrap().take());
                Handled::Done
            }
        });
        let a = start(&net, 1, quiet(), rec.clone()).await;
        let weak = a.downgrade();
        let b = start(&net, 2, quiet(), Rec::new()).await;
        let peer = b.connect(at(1)).await.unwrap();
        until(|| peers(&a) == 1).await;
        *own.lock().unwrap() = Some(a);
        b.send(peer.key(), message(what, b"")).unwrap();
        until(|| !peer.is_live()).await;
        let left = || weak.upgrade().map_or_else(ShutdownReport::default, |node| node.shutdown_report());
        until(|| left().connections == 0).await;
        if what != 1 {
            until(|| left().is_clean()).await;
        }
        assert_eq!(rec.pairs(), 1);
        drop(own.lock().unwrap().take());
        until(|| left().is_clean()).await;
        until(|| weak.upgrade().is_none()).await;
        end(b).await;
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_frees_everything() {
    let net = MemoryNet::new(1);
    let (hears, hears_b) = (Rec::new(), Rec::new());
    let (a, b, _) = pair(&net, hears.clone(), hears_b.clone()).await;
    let mut events = a.subscribe();
    let (weak, clone) = (a.downgrade(), a.clone());
    drop(a);
    secs(1).await;
    assert_eq!(peers(&clone), 1, "one handle is left");
    drop(clone);
    until(|| peers(&b) == 0 && weak.upgrade().is_none()).await;
    assert_eq!((hears.pairs(), hears_b.pairs()), (1, 1));
    let mut downs = 0;
    while let Some(update) = events.try_next() {
        downs += usize::from(matches!(update, SubscriptionItem::Event(NodeEvent::Down { .. })));
    }
    assert_eq!(downs, 1);
    end(b).await;
    assert!(net.connections().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_handshake_during_shutdown_gets_a_goodbye_or_is_closed() {
    let net = MemoryNet::new(1);
    let a = start(&net, 1, quiet(), Rec::new()).await;
    let mut half = ByHand::dial(&net, 2, at(1)).await;
    until(|| a.shutdown_report().permits == 1).await;
    end(a).await;
    half.say(&hello(3)).await;
    assert!(!matches!(half.greeting().await, Some(FirstFrame::Hello(_))));
}

#[cfg(feature = "redb")]
#[tokio::test]
async fn the_book_is_written_even_if_nobody_awaits_the_shutdown() {
    use peerpool::address_book::{AddressBook, AddressBookConfig, ReportedBy, WallTime};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("book");
    let net = MemoryNet::new(1);
    let mut config = quiet();
    config.runtime.flush_interval = Duration::from_secs(3_600);
    let book = AddressBook::open(&path, AddressBookConfig::default()).unwrap();
    let node = Node::builder().config(config).transport(net.host(ip(1))).book(book).start().await.unwrap();
    node.book().add(at(9), ReportedBy::Operator, WallTime::now()).unwrap();
    let weak = node.downgrade();
    drop(node);
    until(|| weak.upgrade().is_none()).await;
    // The last reference may still be on its way out in the thread that wrote.
    let mut book = None;
    until(|| {
        book = AddressBook::open(&path, AddressBookConfig::default()).ok();
        book.is_some()
    })
    .await;
    let book = book.unwrap();
    assert!(book.get(&at(9)).is_some());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_broadcast_once_a_shutdown_has_begun() {
    let net = MemoryNet::new(1);
    let a = start(&net, 1, quiet(), Rec::new()).await;
    a.broadcast(&message(1, b"before")).unwrap();
    a.shutdown(Duration::from_secs(1)).await;
    let late = message(1, b"late");
    assert_eq!(a.broadcast(&late).unwrap_err(), BroadcastError::Shutdown);
    assert!(matches!(a.broadcast_with_receipt(&late), Err(BroadcastError::Shutdown)));
    assert_eq!(a.relay(&late, None).unwrap_err(), BroadcastError::Shutdown);
    assert!(!a.contains(1, b"late"), "not marked as seen");
    let refused = a.set_state(1, b"tip", "late");
    assert!(matches!(refused, Err(StateError::Shutdown(value)) if value == "late"));
}

#[test]
fn a_runtime_without_timers_is_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let started = runtime.block_on(Node::builder().start());
    assert!(matches!(started, Err(StartError::NoTimers)), "{started:?}");
    let started = runtime.block_on(async { Node::builder().start_without_listening() });
    assert!(matches!(started, Err(StartError::NoTimers)), "{started:?}");
}
