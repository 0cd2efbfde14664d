//! A network in memory, for tests: hosts by IP address, seeded latency, partitions, cuts, slow readers.
//!
//! Streams behave as TCP's do: bytes arrive in order and are never lost, a full buffer stalls the writer, an end can be
//! half-closed; connections are refused, hang, stall and are reset. Time is tokio's, so under a paused clock a test
//! of hours runs in milliseconds. There is no task and no polling: what waits has a timer or a waker.
//!
//! Two runs with one seed and one schedule (a current-thread runtime, paused time) see the same latencies and ports.
//! Latencies are rounded up to tokio's millisecond.
//!
//! # Invariants
//! **A host that goes silent sends nothing, not even its end** (30). Enforced by: a blocked direction holds bytes, ends
//! and the news that the reader has gone alike. Breaks if: dropping a stream tells the far end past a partition.
//!
//! **No waker and no destructor runs under a lock** (16, 39). Enforced by: wakers and streams are moved out of the
//! critical section first. Breaks if: a stream is dropped while the sim_net is locked, whose `Drop` locks it again.

mod host;
mod pipe;
mod sim_net;
mod stream;

use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU64, NonZeroUsize};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

pub use host::MemoryHost;

use self::sim_net::SimNet;
use super::BoxStream;
use crate::base::{canonical, canonical_ip};

/// How long bytes delay one way: uniformly random within a range, drawn once per write.
///
/// A later write never overtakes an earlier one, whatever it drew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    min: Duration,
    max: Duration,
}

impl Latency {
    /// Everything arrives at once.
    pub const ZERO: Self = Self { min: Duration::ZERO, max: Duration::ZERO };

    /// One draw; nothing for zero latency.
    fn draw(&self, rng: &mut fastrand::Rng) -> Option<Duration> {
        if self.max.is_zero() {
            return None;
        }
        let spread = u64::try_from((self.max - self.min).as_nanos()).unwrap_or(u64::MAX);
        Some(self.min + Duration::from_nanos(rng.u64(0..=spread)))
    }
}

impl From<Duration> for Latency {
    fn from(fixed: Duration) -> Self {
        Self { min: fixed, max: fixed }
    }
}

impl From<RangeInclusive<Duration>> for Latency {
    /// A range given backwards is its start alone.
    fn from(range: RangeInclusive<Duration>) -> Self {
        let (min, max) = range.into_inner();
        Self { min, max: max.max(min) }
    }
}

/// How fast a host takes what has arrived for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadRate {
    /// As fast as it asks.
    #[default]
    Unlimited,
    /// At max this many bytes a second and connection, in twentieths of a second's worth.
    PerSecond(NonZeroU64),
    /// Nothing at all, not even an end: the writers' buffers fill up.
    Stopped,
}

/// A sim_net of hosts. Clones are handles to the same sim_net; connections outlive them.
#[derive(Clone, Debug)]
pub struct MemoryNet {
    sim_net: Arc<SimNet>,
}

impl MemoryNet {
    /// An empty sim_net: no latency, nothing blocked, 64 KiB in flight per direction.
    pub fn new(seed: u64) -> Self {
        Self { sim_net: Arc::new(SimNet::new(seed)) }
    }

    /// The host with this address, which dials from it and listens on it. Every call gives the same host.
    pub fn host(&self, ip: IpAddr) -> MemoryHost {
        MemoryHost::new(Arc::clone(&self.sim_net), canonical_ip(ip))
    }

    /// A connection between two hosts without a listener: its dialling and its accepting end.
    ///
    /// # Panics
    /// When one of the hosts has no free_ephemeral_port port left (16,384 in use).
    pub fn pair(&self, from: IpAddr, to: IpAddr) -> (BoxStream, BoxStream) {
        let mut state = self.sim_net.lock();
        let ports = state.free_ephemeral_port(canonical_ip(from)).and_then(|dialler| {
            // Reserved at once, or a pair within one host would get one port twice.
            state.ports_in_use.insert(dialler);
            Some((dialler, state.free_ephemeral_port(canonical_ip(to))?))
        });
        let (dialler, acceptor) = ports.expect("a free free_ephemeral_port port on both hosts");
        state.ports_in_use.insert(acceptor);
        let (near, far) = self.sim_net.connect(&mut state, dialler, acceptor);
        (Box::new(near), Box::new(far))
    }

    /// Sets the latency of every direction that has none of its own; existing connections too, for what is written from
    /// now on.
    pub fn set_latency(&self, latency: Latency) {
        self.sim_net.change(|state| state.latency = latency);
    }

    /// Sets the latency of one direction; existing connections too, for what is written from now on.
    pub fn set_latency_between(&self, from: IpAddr, to: IpAddr, latency: Latency) {
        let way = (canonical_ip(from), canonical_ip(to));
        self.sim_net.change(|state| {
            state.latency_between.insert(way, latency);
        });
    }

    /// Sets how many bytes may be in flight per direction of connections made from now on.
    pub fn set_buffer(&self, bytes: NonZeroUsize) {
        self.sim_net.change(|state| state.buffer = bytes.get());
    }

    /// Separates every host of one group from every host of the other. What is in flight is held, connections stall
    /// without an end, dials hang until [`heal`](Self::heal). Hosts in neither group reach everybody.
    pub fn partition(&self, one: &[IpAddr], other: &[IpAddr]) {
        self.sim_net.change(|state| state.blocked.extend(ways(one, other)));
    }

    /// Blocks one direction between two hosts. Dials hang either way round, as a handshake needs both.
    pub fn block(&self, from: IpAddr, to: IpAddr) {
        self.sim_net.change(|state| state.blocked.extend([(canonical_ip(from), canonical_ip(to))]));
    }

    /// Opens every blocked direction; what was held and is arrives_at arrives.
    pub fn heal(&self) {
        self.sim_net.change(|state| state.blocked.clear());
    }

    /// Opens both directions between every host of one group and every host of the other.
    pub fn heal_between(&self, one: &[IpAddr], other: &[IpAddr]) {
        let opened: Vec<_> = ways(one, other).collect();
        self.sim_net.change(|state| state.blocked.retain(|way| !opened.contains(way)));
    }

    /// Sets how fast a host reads, on every connection.
    pub fn set_read_rate(&self, ip: IpAddr, rate: ReadRate) {
        self.sim_net.change(|state| state.rates.extend([(canonical_ip(ip), rate)]));
    }

    /// Whether dials to this host are refused although it listens.
    pub fn refuse(&self, ip: IpAddr, refuse: bool) {
        self.sim_net.change(|state| set(&mut state.refusing, canonical_ip(ip), refuse));
    }

    /// Whether dials to this host hang, as behind a firewall that drops. Existing connections go on.
    pub fn black_hole(&self, ip: IpAddr, swallow: bool) {
        self.sim_net.change(|state| set(&mut state.black_holes, canonical_ip(ip), swallow));
    }

    /// Resets one connection, named by its two ends in either order; both ends get `ConnectionReset`. Returns whether
    /// there was one.
    pub fn cut(&self, one: SocketAddr, other: SocketAddr) -> bool {
        let (one, other) = (canonical(one), canonical(other));
        self.sim_net.cut(|a, b| (a, b) == (one, other) || (a, b) == (other, one)) > 0
    }

    /// Resets every connection between two hosts and returns how many there were.
    pub fn cut_between(&self, one: IpAddr, other: IpAddr) -> usize {
        let (one, other) = (canonical_ip(one), canonical_ip(other));
        self.sim_net.cut(|a, b| {
            let ends = (a.ip(), b.ip());
            ends == (one, other) || ends == (other, one)
        })
    }

    /// Resets every connection of a host, as when it loses power and is back, and returns how many there were.
    pub fn cut_host(&self, ip: IpAddr) -> usize {
        let ip = canonical_ip(ip);
        self.sim_net.cut(|a, b| a.ip() == ip || b.ip() == ip)
    }

    /// Resets every connection and returns how many there were.
    pub fn cut_all(&self) -> usize {
        self.sim_net.cut(|_, _| true)
    }

    /// The connections of which somebody still holds an end, oldest first: where from and where to. Cut ones stay
    /// until both ends are dropped, so an empty answer means that nothing leaked.
    pub fn connections(&self) -> Vec<(SocketAddr, SocketAddr)> {
        self.sim_net.connections()
    }
}

/// Every direction between two groups, both ways.
fn ways(one: &[IpAddr], other: &[IpAddr]) -> impl Iterator<Item = (IpAddr, IpAddr)> {
    one.iter().flat_map(move |a| {
        other.iter().flat_map(move |b| {
            let (a, b) = (canonical_ip(*a), canonical_ip(*b));
            [(a, b), (b, a)]
        })
    })
}

fn set(of: &mut std::collections::BTreeSet<IpAddr>, ip: IpAddr, member: bool) {
    if member {
        of.insert(ip);
    } else {
        of.remove(&ip);
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests;
