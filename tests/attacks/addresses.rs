//! Addresses that a peer tells.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use peerpool::wire::Control;

use crate::raw_peer::{RawPeer, source};
use crate::victim::{PATIENCE, Setup, Victim};

#[test]
fn a_list_of_ports_does_not_make_the_node_scan_a_host() {
    let mut victim = Victim::start(&Setup::default());
    let target = Ipv4Addr::new(127, 77, 0, 1);
    let mut teller = RawPeer::join(source(1), victim.addr).expect("room for strangers");
    let since = Instant::now();
    // The victim asks for addresses at its own pace.
    let mut lists = 0;
    while lists < 5 && since.elapsed() < PATIENCE {
        if let Ok(Some(Control::GetPeers { .. })) = teller.next_control() {
            let ports = 20_000 + lists * 255;
            let list = (ports..ports + 255).map(|port| SocketAddr::from((target, port))).collect();
            teller.send_control(&Control::Peers(list)).expect("the victim lives");
            lists += 1;
        }
    }
    assert_eq!(lists, 5, "the victim asks for addresses");
    victim.wait_for("/addrs_refused", 5 * 255 - 4);
    assert_eq!(victim.figure("/book"), 4);
    // Each is dialled in its turn, the host once in five seconds.
    let most = 1 + since.elapsed().as_secs() / 5;
    let dials = victim.figure("/dials");
    assert!((1..=most).contains(&dials), "{dials} dials of one host");
}

#[test]
fn a_public_peer_cannot_make_the_node_learn_private_addresses() {
    let mut victim = Victim::start(&Setup::default());
    let mut teller = RawPeer::join(source(1), victim.addr).expect("room for strangers");
    let list = ["10.0.0.1:1", "192.168.1.1:1", "169.254.1.1:1", "[::1]:1", "[fd00::1]:1", "[fe80::1]:1"];
    let special = [
        "[64:ff9b::7f00:1]:1",
        "[2002:7f00:1::]:1",
        "[::7f00:1]:1",
        "192.0.2.1:1",
        "198.18.0.1:1",
        "[2001:db8::1]:1",
    ];
    let list: Vec<SocketAddr> =
        list.iter().chain(&special).map(|addr| addr.parse().expect("an address")).collect();
    let since = Instant::now();
    while since.elapsed() < PATIENCE {
        if let Ok(Some(Control::GetPeers { .. })) = teller.next_control() {
            break;
        }
    }
    teller.send_control(&Control::Peers(list.clone())).expect("the victim lives");
    victim.wait_for("/addrs_refused", list.len() as u64);
    assert_eq!((victim.figure("/book"), victim.figure("/dials")), (0, 0));
}
