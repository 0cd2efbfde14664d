//! One source that takes more than its share.

use std::io::Write;
use std::net::Ipv4Addr;
use std::time::Duration;

use peerpool::{Message, Node, NodeConfig};

use crate::raw_peer::{RawPeer, events, source};
use crate::victim::{Setup, Victim};

#[test]
fn three_connections_of_one_source_do_not_fill_the_relay_memory() {
    let mut victim = Victim::start(&Setup::default());
    let attackers: Vec<_> = (0..3)
        .map(|connection: usize| {
            let mut peer = RawPeer::join(source(1), victim.addr).expect("room for strangers");
            // Distinct messages: each takes an entry of the relay memory.
            let payload = |at: usize| [&connection.to_le_bytes()[..], &at.to_le_bytes()].concat();
            let bytes = events(150_000, payload);
            let mut reading = peer.stream.try_clone().expect("a socket");
            std::thread::spawn(move || std::io::copy(&mut reading, &mut std::io::sink()));
            std::thread::spawn(move || peer.stream.write_all(&bytes).map(|()| peer))
        })
        .collect();
    let attackers: Vec<_> = attackers.into_iter().map(|thread| thread.join().expect("no panic")).collect();
    victim.wait_for("/events", 3 * 150_000);
    let refused = victim.figure("/relay_refused");
    assert!(refused > 300_000, "the attack filled its share: {refused} refused");
    let mut honest = RawPeer::join(Ipv4Addr::new(127, 200, 0, 1), victim.addr).expect("room");
    let relayed = victim.figure("/relayed");
    honest
        .stream
        .write_all(&events(100, |at| format!("honest {at}").into_bytes()))
        .expect("the victim lives");
    honest.ping().expect("it stays");
    victim.wait_for("/relayed", relayed + 100);
    assert_eq!(victim.figure("/relay_refused"), refused, "honest messages were refused");
    drop(attackers);
}

#[test]
fn inbound_connections_of_one_source_do_not_keep_a_node_from_dialling() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut config = NodeConfig::recommended();
    config.listen.push(([127, 201, 0, 1], 0).into());
    let honest = runtime.block_on(Node::builder().config(config).start()).expect("a node");
    let seed = honest.local_addrs()[0];
    let mut victim = Victim::start(&Setup::default());
    let attackers: Vec<_> = (0..8).map_while(|_| RawPeer::join(source(1), victim.addr).ok()).collect();
    assert!(!attackers.is_empty(), "no connection of a stranger was accepted");
    assert_eq!(victim.ask(&format!("learn {seed}")), true);
    victim.wait_for("/pool/outbound", 1);
    honest.broadcast(&Message::new(1, "to the victim")).expect("a legal message");
    runtime.block_on(honest.shutdown(Duration::from_secs(1)));
}
