//! The state that all simulated hosts share: listeners, connections, ports, and the conditions
//! between hosts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::task::Waker;

use super::conditions::{Latency, LinkConditions, ReadRate};
use super::pipe::Pipe;
use crate::sync::{Mutex, MutexGuard};

/// The first ephemeral port of IANA's range, which ends at 65,535.
const FIRST_EPHEMERAL_PORT: u16 = 49152;

/// Bytes in flight per direction, unless a test sets another number.
const DEFAULT_BUFFER_BYTES: usize = 64 * 1024;

/// The simulated network.
///
/// Lock order: this state, then a pipe. Neither a stream nor a [`SimConnection`] is dropped under
/// either lock.
#[derive(Debug)]
pub(super) struct SimNet {
    state: Mutex<SimState>,
}

/// The locked state. All maps are ordered, so that every run walks them in the same order.
#[derive(Debug)]
pub(super) struct SimState {
    seed: u64,
    pub(super) latency: Latency,
    /// By direction; overrides `latency`.
    pub(super) latency_between: BTreeMap<(IpAddr, IpAddr), Latency>,
    /// Bytes in flight per direction, for connections made from now on.
    pub(super) buffer: usize,
    /// Directions in which nothing passes.
    pub(super) blocked: BTreeSet<(IpAddr, IpAddr)>,
    pub(super) read_rates: BTreeMap<IpAddr, ReadRate>,
    /// Hosts that refuse every dial.
    pub(super) refusing: BTreeSet<IpAddr>,
    /// Hosts that never answer a dial.
    pub(super) black_holes: BTreeSet<IpAddr>,
    pub(super) listeners: BTreeMap<SocketAddr, AcceptQueue>,
    /// Ports of connection ends, as opposed to listeners.
    pub(super) ports_in_use: BTreeSet<SocketAddr>,
    next_port: BTreeMap<IpAddr, u16>,
    connections: BTreeMap<u64, Weak<SimConnection>>,
    last_number: u64,
    /// Dials that wait for the conditions to change or for room in an accept queue.
    pub(super) waiting_dials: BTreeMap<u64, Waker>,
}

/// The connections that a listener has not accepted yet.
#[derive(Debug, Default)]
pub(super) struct AcceptQueue {
    pub(super) pending: VecDeque<Arc<SimConnection>>,
    pub(super) acceptor: Option<Waker>,
}

/// A connection: two pipes and their addresses. It leaves the network when both ends are dropped.
#[derive(Debug)]
pub(super) struct SimConnection {
    number: u64,
    pub(super) dialler: SocketAddr,
    pub(super) acceptor: SocketAddr,
    /// From the dialler to the acceptor, and back.
    pub(super) pipes: [Pipe; 2],
    net: Weak<SimNet>,
}

impl SimConnection {
    /// Resets both directions and returns the wakers to call.
    pub(super) fn reset(&self) -> impl Iterator<Item = Waker> {
        let [forward, backward] = [self.pipes[0].reset(), self.pipes[1].reset()];
        forward.into_iter().chain(backward).flatten()
    }
}

impl Drop for SimConnection {
    fn drop(&mut self) {
        if let Some(net) = self.net.upgrade() {
            net.forget(self.number, [self.dialler, self.acceptor]);
        }
    }
}

impl SimNet {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            state: Mutex::new(SimState {
                seed,
                latency: Latency::ZERO,
                latency_between: BTreeMap::new(),
                buffer: DEFAULT_BUFFER_BYTES,
                blocked: BTreeSet::new(),
                read_rates: BTreeMap::new(),
                refusing: BTreeSet::new(),
                black_holes: BTreeSet::new(),
                listeners: BTreeMap::new(),
                ports_in_use: BTreeSet::new(),
                next_port: BTreeMap::new(),
                connections: BTreeMap::new(),
                last_number: 0,
                waiting_dials: BTreeMap::new(),
            }),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, SimState> {
        self.state.lock()
    }

    /// Changes the state, then updates every connection and wakes every waiting dial.
    pub(super) fn change(&self, change: impl FnOnce(&mut SimState)) {
        let mut state = self.lock();
        change(&mut state);
        let connections = state.live_connections();
        let mut wakers: Vec<Waker> = std::mem::take(&mut state.waiting_dials).into_values().collect();
        for connection in &connections {
            let conditions = state.conditions_between(connection.dialler, connection.acceptor);
            for (pipe, conditions) in connection.pipes.iter().zip(conditions) {
                wakers.extend(pipe.set_conditions(conditions).into_iter().flatten());
            }
        }
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Makes a connection. The caller has reserved the dialler's port. Drops nothing, so the lock
    /// may be held.
    pub(super) fn connect(
        self: &Arc<Self>,
        state: &mut SimState,
        dialler: SocketAddr,
        acceptor: SocketAddr,
    ) -> Arc<SimConnection> {
        let number = state.next_number();
        let [forward, backward] = state.conditions_between(dialler, acceptor);
        let mut rng = state.rng(number);
        let pipe = |conditions, rng| Pipe::new(state.buffer, conditions, rng);
        let pipes = [pipe(forward, rng.fork()), pipe(backward, rng.fork())];
        let connection =
            Arc::new(SimConnection { number, dialler, acceptor, pipes, net: Arc::downgrade(self) });
        state.connections.insert(number, Arc::downgrade(&connection));
        connection
    }

    /// Resets the connections that `filter` selects by their dialler and acceptor. Returns their
    /// number.
    pub(super) fn cut(&self, filter: impl Fn(SocketAddr, SocketAddr) -> bool) -> usize {
        let mut connections = self.lock().live_connections();
        connections.retain(|connection| filter(connection.dialler, connection.acceptor));
        connections.iter().flat_map(|connection| connection.reset()).for_each(Waker::wake);
        connections.len()
    }

    /// The dialler and the acceptor of every live connection.
    pub(super) fn connections(&self) -> Vec<(SocketAddr, SocketAddr)> {
        // The connections are upgraded under the lock and dropped after it.
        let connections = self.lock().live_connections();
        connections.iter().map(|connection| (connection.dialler, connection.acceptor)).collect()
    }

    /// Removes a connection that has lost both ends, and frees its ports.
    fn forget(&self, number: u64, ends: [SocketAddr; 2]) {
        let mut state = self.lock();
        state.connections.remove(&number);
        for end in ends {
            state.ports_in_use.remove(&end);
        }
    }
}

impl SimState {
    /// The next number of a connection or a dial.
    pub(super) fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// The random generator of a connection or a dial.
    pub(super) fn rng(&self, number: u64) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    pub(super) fn latency(&self, from: IpAddr, to: IpAddr) -> Latency {
        self.latency_between.get(&(from, to)).copied().unwrap_or(self.latency)
    }

    pub(super) fn is_blocked(&self, from: IpAddr, to: IpAddr) -> bool {
        self.blocked.contains(&(from, to))
    }

    /// A free ephemeral port of a host; `None` when all 16,384 are in use.
    pub(super) fn free_ephemeral_port(&mut self, ip: IpAddr) -> Option<SocketAddr> {
        let next = *self.next_port.entry(ip).or_insert(FIRST_EPHEMERAL_PORT);
        let free = (next..=u16::MAX)
            .chain(FIRST_EPHEMERAL_PORT..next)
            .map(|port| SocketAddr::new(ip, port))
            .find(|addr| !self.ports_in_use.contains(addr) && !self.listeners.contains_key(addr))?;
        let after = free.port().checked_add(1).unwrap_or(FIRST_EPHEMERAL_PORT);
        self.next_port.insert(ip, after);
        Some(free)
    }

    /// The conditions from the dialler to the acceptor, and back.
    fn conditions_between(&self, dialler: SocketAddr, acceptor: SocketAddr) -> [LinkConditions; 2] {
        let one_way = |from, to| LinkConditions {
            latency: self.latency(from, to),
            read_rate: self.read_rates.get(&to).copied().unwrap_or_default(),
            blocked: self.is_blocked(from, to),
            reverse_blocked: self.is_blocked(to, from),
        };
        [one_way(dialler.ip(), acceptor.ip()), one_way(acceptor.ip(), dialler.ip())]
    }

    /// The connections with at least one open end, oldest first. Drop them after the lock is
    /// released.
    fn live_connections(&self) -> Vec<Arc<SimConnection>> {
        self.connections.values().filter_map(Weak::upgrade).collect()
    }
}
