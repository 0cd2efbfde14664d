//! Floods of frames and connections.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use peerpool::wire::{Control, Native, Protocol as _};

use crate::raw_peer::{RawPeer, connect_from, events, source};
use crate::victim::{Setup, Victim};

const HONEST: Ipv4Addr = Ipv4Addr::new(127, 200, 0, 1);
/// Bound of an honest peer's pings. Victim, attackers and honest peer share the machine's
/// processors, so it leaves room for the scheduler; without a bound on turns the pings take 300 ms
/// to 3 s. An unoptimised build takes several times as long.
const MAX_P99: Duration = Duration::from_millis(if cfg!(debug_assertions) { 100 } else { 30 });

/// Peers that write the same bytes over and over, and read nothing but what unblocks them.
struct Flood {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Flood {
    fn start(sources: u8, to: SocketAddr, bytes: &[u8]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let one = |number| {
            let peer = RawPeer::join(source(number), to).expect("room for strangers");
            let mut reading = peer.stream.try_clone().expect("a socket");
            // Answers are read, so that the flood does not end by itself.
            thread::spawn(move || std::io::copy(&mut reading, &mut std::io::sink()));
            let (stop, bytes, mut writing) = (Arc::clone(&stop), bytes.to_vec(), peer.stream);
            thread::spawn(move || while !stop.load(Ordering::Relaxed) && writing.write_all(&bytes).is_ok() {})
        };
        let threads = (0..sources).map(one).collect();
        Self { stop, threads }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().expect("no panic"));
    }
}

/// The 99th percentile of an honest peer's pings, during two seconds.
fn ping_p99(victim: &Victim) -> Duration {
    let mut honest = RawPeer::join(HONEST, victim.addr).expect("room for an honest peer");
    let (since, mut times) = (Instant::now(), Vec::new());
    while since.elapsed() < Duration::from_secs(2) {
        times.push(honest.ping().expect("the honest peer stays"));
        thread::sleep(Duration::from_millis(2));
    }
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

fn control_frames(count: usize, control: &Control) -> Vec<u8> {
    let mut out = BytesMut::new();
    for _ in 0..count {
        Native::default().encode_control(control, &mut out).expect("a legal message");
    }
    out.to_vec()
}

#[test]
fn four_floods_of_the_smallest_events_leave_honest_pings_fast() {
    let mut victim = Victim::start(&Setup::default());
    let flood = Flood::start(4, victim.addr, &events(10_000, |_| Vec::new()));
    victim.wait_for("/events", 50_000);
    let p99 = ping_p99(&victim);
    drop(flood);
    println!("events: p99 {p99:?}");
    assert!(p99 <= MAX_P99, "{p99:?}");
}

#[test]
fn four_floods_of_pings_leave_honest_pings_fast() {
    let victim = Victim::start(&Setup::default());
    let flood = Flood::start(4, victim.addr, &control_frames(10_000, &Control::Ping { token: 1 }));
    let p99 = ping_p99(&victim);
    drop(flood);
    println!("pings: p99 {p99:?}");
    assert!(p99 <= MAX_P99, "{p99:?}");
}

#[test]
fn four_floods_of_address_requests_leave_honest_pings_fast() {
    let victim = Victim::start(&Setup::default());
    let flood = Flood::start(4, victim.addr, &control_frames(10_000, &Control::GetPeers { max: 100 }));
    let p99 = ping_p99(&victim);
    drop(flood);
    println!("address requests: p99 {p99:?}");
    assert!(p99 <= MAX_P99, "{p99:?}");
}

#[test]
fn silent_connections_of_64_sources_leave_room_for_a_newcomer() {
    let mut victim = Victim::start(&Setup::default());
    // Four each: as many as there are pending slots.
    let silent: Vec<_> = (0..4)
        .flat_map(|_| (0..64).map(source))
        .map(|from| connect_from(from, victim.addr).expect("the backlog has room"))
        .collect();
    victim.wait_for("/pool/pending_inbound", 200);
    let since = Instant::now();
    let mut honest = RawPeer::join(HONEST, victim.addr).expect("room for a newcomer");
    assert!(victim.figure("/evicted_handshakes") >= 1, "handshakes took all slots");
    honest.ping().expect("it stays");
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    drop(silent);
}
