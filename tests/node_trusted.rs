//! Trusted peers: they take the reserved slots first, and do not depend on the address book.
#![cfg(all(feature = "node", not(peerpool_loom)))]

#[path = "common/node.rs"]
mod harness;

use std::num::NonZeroUsize;

use harness::*;
use peerpool::address_book::{AddressBook, AddressBookConfig, ReportedBy, WallTime};
use peerpool::transport::MemoryNet;
use peerpool::wire::{FirstFrame, GoodbyeReason};
use peerpool::{Node, NodeConfig};

/// A node with ten slots, two of them kept for the trusted host 2.
async fn hub(net: &MemoryNet) -> Node {
    let mut config = quiet();
    config.trusted = vec![at(2).into()];
    config.runtime.limits.max_inbound = 10;
    config.runtime.limits.reserved_inbound = 2;
    start(net, 1, config, Rec::new()).await
}

/// Whether one more connection from this host is accepted. It stays open.
async fn is_accepted(net: &MemoryNet, last: u8, nonce: u8, held: &mut Vec<ByHand>) -> bool {
    let mut one = ByHand::dial(net, last, at(1)).await;
    one.say(&hello(nonce)).await;
    let accepted = match one.greeting().await {
        Some(FirstFrame::Hello(_)) => true,
        Some(FirstFrame::Refusal(refusal)) => {
            assert_eq!(refusal.reason, GoodbyeReason::Full);
            false
        }
        None => panic!("closed without an answer"),
    };
    held.push(one);
    accepted
}

#[tokio::test(start_paused = true)]
async fn a_trusted_peer_takes_a_reserved_slot_while_one_is_free() {
    let net = MemoryNet::new(1);
    let hub = hub(&net).await;
    let mut held = Vec::new();
    assert!(is_accepted(&net, 2, 2, &mut held).await);
    for last in 11..19 {
        assert!(is_accepted(&net, last, last, &mut held).await, "the eight ordinary slots are free");
    }
    assert!(!is_accepted(&net, 30, 30, &mut held).await, "one slot is still kept");
    end(hub).await;
}

#[tokio::test(start_paused = true)]
async fn of_the_host_of_a_trusted_peer_one_connection_gets_a_reserved_slot() {
    let net = MemoryNet::new(1);
    let hub = hub(&net).await;
    let mut held = Vec::new();
    for last in 11..19 {
        assert!(is_accepted(&net, last, last, &mut held).await);
    }
    assert!(is_accepted(&net, 2, 2, &mut held).await);
    assert!(!is_accepted(&net, 2, 3, &mut held).await, "a neighbour behind the same address");
    // Not even while the first is still in its handshake.
    held.pop();
    held.pop();
    until(|| peers(&hub) == 8).await;
    let _silent = ByHand::dial(&net, 2, at(1)).await;
    until(|| hub.stats().pool.pending_inbound == 1).await;
    assert!(!is_accepted(&net, 2, 3, &mut held).await);
    end(hub).await;
}

#[tokio::test(start_paused = true)]
async fn a_trusted_address_is_dialled_whatever_its_scope_and_however_full_the_book() {
    let net = MemoryNet::new(1);
    let trusted: Vec<_> = (2..5).map(|last| at(last).into()).collect();
    let mut others = Vec::new();
    for last in 2..5 {
        others.push(start(&net, last, quiet(), Rec::new()).await);
    }
    let mut config = NodeConfig::recommended();
    config.trusted = trusted;
    let book = AddressBookConfig { max_addresses: NonZeroUsize::MIN, ..AddressBookConfig::default() };
    let book = AddressBook::in_memory(book);
    let a = Node::builder().config(config).transport(net.host(ip(1))).book(book).start().await.unwrap();
    until(|| peers(&a) == 3).await;
    assert!(a.roster().iter().all(|peer| peer.slot_class() == peerpool::pool::SlotClass::Reserved));
    end(a).await;
    for other in others {
        end(other).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_address_in_the_book_is_dialled_by_its_scope_unless_the_operator_gave_it() {
    let net = MemoryNet::new(1);
    let a = start(&net, 1, NodeConfig::recommended(), Rec::new()).await;
    a.book().add(at(2), ReportedBy::Peer([9, 9, 9, 9].into()), WallTime::now()).unwrap();
    secs(30).await;
    assert_eq!(a.stats().dials, 0);
    a.book().add(at(3), ReportedBy::Operator, WallTime::now()).unwrap();
    until(|| a.stats().dials > 0).await;
    assert!(a.book().get(&at(2)).unwrap().last_attempt.is_none());
    end(a).await;
}
