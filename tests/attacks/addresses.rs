//! Addresses that a peer tells.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use peerpool::wire::Control;

use crate::raw_peer::{RawPeer, source};
use crate::victim::{Setup, Victim};

#[test]
fn a_list_of_ports_does_not_make_the_node_scan_a_host() {
    let mut victim = Victim::start(&Setup::default());
    let target = Ipv4Addr::new(127, 77, 0, 1);
    // One port tells how often it is dialled; the others refuse.
    let listener = TcpListener::bind((target, 0)).expect("a port");
    listener.set_nonblocking(true).expect("a socket");
    let mut teller = RawPeer::join(source(1), victim.addr).expect("room for strangers");
    let since = Instant::now();
    let mut asked = 0;
    // The victim asks for addresses at its own pace.
    while since.elapsed() < Duration::from_secs(8) {
        if let Ok(Some(Control::GetPeers { .. })) = teller.next_control() {
            asked += 1;
            let ports = 20_000 + asked * 256;
            let list = (ports..ports + 255).map(|port| SocketAddr::from((target, port))).collect();
            teller.send_control(&Control::Peers(list)).expect("the victim lives");
        }
        if asked > 0 && since.elapsed() > Duration::from_secs(6) {
            break;
        }
    }
    assert!(asked > 0, "the victim asked for no addresses");
    victim.wait_for("/book", 1);
    let dials = victim.figure("/dials");
    assert!(dials <= 16, "{dials} dials of one host");
}
