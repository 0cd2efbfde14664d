//! A simulated network in memory, for tests: hosts by IP address, seeded latency, partitions,
//! resets, slow readers.
//!
//! Streams behave like TCP: bytes arrive in order and are never lost, a full buffer stalls the
//! writer, and one direction can end before the other. Connections are refused, hang, stall and are
//! reset as a test asks. Time is tokio's, so a test of hours runs in milliseconds under a paused
//! clock. There is no task and no polling: every wait has a timer or a waker.
//!
//! ```text
//!   MemoryNet: what a test controls          MemoryHost: the Transport of one simulated host
//!        |                                       |
//!        v                                       v
//!   SimNet: listeners, ports, conditions --> SimConnection: two Pipes <-- MemoryStream: one end
//! ```
//!
//! Two runs with the same seed and the same schedule (a current-thread runtime, paused time) see
//! the same latencies and ports. Tokio rounds latencies up to its millisecond.
//!
//! # Invariants
//! Invariant: `dead_socket_is_found`
//! - Statement: a host behind a blocked direction sends nothing, not even the end of a stream, so
//!   only the timeouts of the code under test find it.
//! - Enforced by: a blocked direction holds back bytes, ends, and the news that a reader has
//!   closed.
//! - Breaks if: dropping a stream reaches the remote end across a partition.
//!
//! Invariants: `no_lock_across_await_or_callback`, `no_user_destructor_under_a_lock`
//! - Statement: no waker and no destructor runs under a lock.
//! - Enforced by: wakers, streams and connections are moved out of the critical section first.
//! - Breaks if: a connection is dropped while the network is locked; its `Drop` takes the same
//!   lock.

mod conditions;
mod host;
mod pipe;
mod sim_net;
mod stream;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;

pub use conditions::{Latency, ReadRate};
pub use host::MemoryHost;

use self::sim_net::SimNet;
use self::stream::MemoryStream;
use super::BoxStream;
use crate::base::{canonical, canonical_ip};

/// A network of hosts. Clones are handles to the same network; connections outlive them.
#[derive(Clone, Debug)]
pub struct MemoryNet {
    net: Arc<SimNet>,
}

impl MemoryNet {
    /// A network without hosts: no latency, nothing blocked, 64 KiB in flight per direction.
    pub fn new(seed: u64) -> Self {
        Self { net: Arc::new(SimNet::new(seed)) }
    }

    /// The host with this address, which dials from it and listens on it. Every call returns the
    /// same host.
    pub fn host(&self, ip: IpAddr) -> MemoryHost {
        MemoryHost::new(Arc::clone(&self.net), canonical_ip(ip))
    }

    /// A connection between two hosts without a listener. Returns the dialling end and the
    /// accepting end.
    ///
    /// # Panics
    /// If one of the hosts has no free ephemeral port (16,384 in use).
    pub fn pair(&self, from: IpAddr, to: IpAddr) -> (BoxStream, BoxStream) {
        let mut state = self.net.lock();
        let ports = state.free_ephemeral_port(canonical_ip(from)).and_then(|dialler| {
            // Reserved before the second search: within one host both ends would get the same port.
            state.ports_in_use.insert(dialler);
            Some((dialler, state.free_ephemeral_port(canonical_ip(to))?))
        });
        let (dialler, acceptor) = ports.expect("a free ephemeral port on both hosts");
        state.ports_in_use.insert(acceptor);
        let connection = self.net.connect(&mut state, dialler, acceptor);
        let dialler = MemoryStream::dialler(Arc::clone(&connection));
        (Box::new(dialler), Box::new(MemoryStream::acceptor(connection)))
    }

    /// Sets the latency of every direction without one of its own. Applies to later writes, on
    /// existing connections too.
    pub fn set_latency(&self, latency: Latency) {
        self.net.change(|state| state.latency = latency);
    }

    /// Sets the latency of one direction. Applies to later writes, on existing connections too.
    pub fn set_latency_between(&self, from: IpAddr, to: IpAddr, latency: Latency) {
        let direction = (canonical_ip(from), canonical_ip(to));
        self.net.change(|state| {
            state.latency_between.insert(direction, latency);
        });
    }

    /// Sets how many bytes may be in flight per direction, for connections made from now on.
    pub fn set_buffer(&self, bytes: NonZeroUsize) {
        self.net.change(|state| state.buffer = bytes.get());
    }

    /// Separates every host of one group from every host of the other. Bytes in flight are held,
    /// connections stall without an end, and dials hang, until [`heal`](Self::heal). Hosts in
    /// neither group reach all others.
    pub fn partition(&self, one: &[IpAddr], other: &[IpAddr]) {
        self.net.change(|state| state.blocked.extend(directions(one, other)));
    }

    /// Blocks one direction between two hosts. Dials hang in both directions, as a handshake needs
    /// both.
    pub fn block(&self, from: IpAddr, to: IpAddr) {
        self.net.change(|state| state.blocked.extend([(canonical_ip(from), canonical_ip(to))]));
    }

    /// Opens every blocked direction. Held bytes whose latency has passed arrive at once.
    pub fn heal(&self) {
        self.net.change(|state| state.blocked.clear());
    }

    /// Opens both directions between every host of one group and every host of the other.
    pub fn heal_between(&self, one: &[IpAddr], other: &[IpAddr]) {
        let opened: Vec<_> = directions(one, other).collect();
        self.net.change(|state| state.blocked.retain(|direction| !opened.contains(direction)));
    }

    /// Sets how fast a host reads, on every connection.
    pub fn set_read_rate(&self, ip: IpAddr, rate: ReadRate) {
        self.net.change(|state| state.read_rates.extend([(canonical_ip(ip), rate)]));
    }

    /// Sets whether dials to this host are refused although it listens.
    pub fn set_refusing(&self, ip: IpAddr, refusing: bool) {
        self.net.change(|state| set_member(&mut state.refusing, canonical_ip(ip), refusing));
    }

    /// Sets whether dials to this host hang, as behind a firewall that drops packets. Existing
    /// connections go on.
    pub fn set_black_hole(&self, ip: IpAddr, black_hole: bool) {
        self.net.change(|state| set_member(&mut state.black_holes, canonical_ip(ip), black_hole));
    }

    /// Resets one connection, given by its two ends in either order: both ends get
    /// `ConnectionReset`. Returns whether it existed.
    pub fn cut(&self, one: SocketAddr, other: SocketAddr) -> bool {
        let (one, other) = (canonical(one), canonical(other));
        self.net.cut(|a, b| (a, b) == (one, other) || (a, b) == (other, one)) > 0
    }

    /// Resets every connection between two hosts. Returns their number.
    pub fn cut_between(&self, one: IpAddr, other: IpAddr) -> usize {
        let (one, other) = (canonical_ip(one), canonical_ip(other));
        self.net.cut(|a, b| {
            let ends = (a.ip(), b.ip());
            ends == (one, other) || ends == (other, one)
        })
    }

    /// Resets every connection of a host, as a power failure does. Returns their number.
    pub fn cut_host(&self, ip: IpAddr) -> usize {
        let ip = canonical_ip(ip);
        self.net.cut(|a, b| a.ip() == ip || b.ip() == ip)
    }

    /// Resets every connection. Returns their number.
    pub fn cut_all(&self) -> usize {
        self.net.cut(|_, _| true)
    }

    /// The dialler and the acceptor of every connection with at least one end not dropped, oldest
    /// first.
    ///
    /// Reset connections stay listed until both ends are dropped, so an empty result means that
    /// nothing leaked.
    pub fn connections(&self) -> Vec<(SocketAddr, SocketAddr)> {
        self.net.connections()
    }
}

/// Both directions between every host of one group and every host of the other.
fn directions(one: &[IpAddr], other: &[IpAddr]) -> impl Iterator<Item = (IpAddr, IpAddr)> {
    one.iter().flat_map(move |a| {
        other.iter().flat_map(move |b| {
            let (a, b) = (canonical_ip(*a), canonical_ip(*b));
            [(a, b), (b, a)]
        })
    })
}

fn set_member(set: &mut BTreeSet<IpAddr>, ip: IpAddr, member: bool) {
    if member {
        set.insert(ip);
    } else {
        set.remove(&ip);
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests;
