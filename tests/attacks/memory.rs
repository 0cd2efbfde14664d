//! Strangers that make the node hold memory.

use std::io::Write;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use peerpool::Lane;
use peerpool::wire::{MessageHeader, Native, Protocol};

use crate::raw_peer::{RawPeer, source};
use crate::victim::{Setup, Victim};

const MIB: usize = 1 << 20;

fn request(id: u32, bytes: usize) -> Vec<u8> {
    let mut out = BytesMut::new();
    let header = MessageHeader::Request { id, kind: 1 };
    Native::default().encode(Lane::Bulk, &header, &vec![7; bytes], &mut out).expect("a legal message");
    out.to_vec()
}

/// Sends what the victim takes within a moment, and keeps the rest.
fn send_some(peer: &mut RawPeer, bytes: &[u8]) {
    peer.stream.set_write_timeout(Some(Duration::from_millis(300))).expect("a timeout");
    let mut sent = 0;
    while sent < bytes.len() {
        match peer.stream.write(&bytes[sent..]) {
            Ok(count) if count > 0 => sent += count,
            _ => break,
        }
    }
}

#[test]
fn unfinished_messages_of_many_sources_leave_room_for_honest_ones() {
    let mut victim = Victim::start(&Setup { memory_limit: Some(160 * MIB), ..Setup::default() });
    let large = request(1, 30 * MIB);
    // Thirteen connections: each leaves 16 MiB unfinished, and answers pings if asked.
    let mut attackers: Vec<_> =
        (0..13).map(|number| RawPeer::join(source(number), victim.addr).expect("room")).collect();
    for attacker in &mut attackers {
        send_some(attacker, &large[..16 * MIB]);
    }
    victim.wait_for("/memory/refused", 1);
    let mut honest = RawPeer::join(Ipv4Addr::new(127, 200, 0, 1), victim.addr).expect("room");
    honest.stream.set_write_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    for bytes in [64 * 1024, 10 * MIB] {
        let requests = victim.figure("/requests");
        let since = Instant::now();
        honest.stream.write_all(&request(7, bytes)).expect("the victim reads on");
        victim.wait_for("/requests", requests + 1);
        println!("{bytes} bytes: {:?}", since.elapsed());
    }
    honest.ping().expect("it stays");
    drop(attackers);
}

#[test]
fn of_those_above_their_share_one_departs_while_others_wait() {
    let mut victim = Victim::start(&Setup { memory_limit: Some(173 * MIB), ..Setup::default() });
    let large = request(1, 30 * MIB);
    // Three subnets, each below what a source may hold, and together most of what strangers may.
    let sources = [10, 20, 30].map(|subnet| Ipv4Addr::new(127, subnet, 1, 1));
    let mut attackers = sources.map(|source| RawPeer::join(source, victim.addr).expect("room"));
    for attacker in &mut attackers {
        attacker.stream.write_all(&large[..26 * MIB]).expect("the victim reads");
    }
    let mut honest = RawPeer::join(Ipv4Addr::new(127, 200, 0, 1), victim.addr).expect("room");
    let requests = victim.figure("/requests");
    let since = Instant::now();
    honest.stream.set_write_timeout(Some(Duration::from_secs(12))).expect("a timeout");
    honest.stream.write_all(&request(7, 30 * MIB)).expect("it does not wait for long");
    victim.wait_for("/requests", requests + 1);
    // Who makes no progress departs after 20 seconds in any case.
    assert!(since.elapsed() < Duration::from_secs(12), "after {:?}", since.elapsed());
    honest.ping().expect("it stays");
    drop(attackers);
}

#[test]
fn closing_connections_count_against_their_source() {
    let mut victim = Victim::start(&Setup::default());
    let mut held = Vec::new();
    let mut joined = 0;
    for _ in 0..100 {
        // Misbehaves, and does not close.
        if let Ok(mut peer) = RawPeer::join(source(1), victim.addr) {
            joined += 1;
            peer.stream.write_all(&[0xff; 64]).expect("the victim reads");
            held.push(peer);
        }
    }
    victim.wait_for("/refused", 1);
    assert!(joined <= 40, "{joined} of 100 within a moment");
    let mut honest = RawPeer::join(Ipv4Addr::new(127, 200, 0, 1), victim.addr).expect("room");
    honest.ping().expect("it stays");
    drop(held);
}
