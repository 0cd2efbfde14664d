//! What all hosts share: who listens, who is connected, and the conditions between them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::task::Waker;

use super::pipe::{LinkConditions, Pipe};
use super::stream::{MemoryStream, SimConnection};
use super::{Latency, ReadRate};
use crate::sync::{Mutex, MutexGuard};

/// The sim_net. Lock order: the sim_net, then a pipe; a stream is never dropped under either.
#[derive(Debug)]
pub(super) struct SimNet {
    state: Mutex<SimState>,
}

/// Ordered maps throughout, so that walking them is the same in every run.
#[derive(Debug)]
pub(super) struct SimState {
    seed: u64,
    pub(super) latency: Latency,
    /// By direction; goes before `latency`.
    pub(super) latency_between: BTreeMap<(IpAddr, IpAddr), Latency>,
    /// Bytes in flight per direction of the next connection.
    pub(super) buffer: usize,
    /// Directions that nothing passes.
    pub(super) blocked: BTreeSet<(IpAddr, IpAddr)>,
    pub(super) rates: BTreeMap<IpAddr, ReadRate>,
    pub(super) refusing: BTreeSet<IpAddr>,
    pub(super) black_holes: BTreeSet<IpAddr>,
    pub(super) listeners: BTreeMap<SocketAddr, AcceptQueue>,
    /// Ports that are no listener's: of diallers and of pairs.
    pub(super) ports_in_use: BTreeSet<SocketAddr>,
    next_port: BTreeMap<IpAddr, u16>,
    conns: BTreeMap<u64, Weak<SimConnection>>,
    next_number: u64,
    /// Dials that wait for the conditions or for room in a backlog.
    pub(super) diallers: BTreeMap<u64, Waker>,
}

/// What waits at a listener.
#[derive(Debug, Default)]
pub(super) struct AcceptQueue {
    pub(super) waiting: VecDeque<(MemoryStream, SocketAddr)>,
    pub(super) acceptor: Option<Waker>,
}

impl SimNet {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            state: Mutex::new(SimState {
                seed,
                latency: Latency::ZERO,
                latency_between: BTreeMap::new(),
                buffer: 64 * 1024,
                blocked: BTreeSet::new(),
                rates: BTreeMap::new(),
                refusing: BTreeSet::new(),
                black_holes: BTreeSet::new(),
                listeners: BTreeMap::new(),
                ports_in_use: BTreeSet::new(),
                next_port: BTreeMap::new(),
                conns: BTreeMap::new(),
                next_number: 0,
                diallers: BTreeMap::new(),
            }),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, SimState> {
        self.state.lock()
    }

    /// Changes the sim_net and lets every connection and every waiting dial see it.
    pub(super) fn change(&self, how: impl FnOnce(&mut SimState)) {
        let mut state = self.lock();
        how(&mut state);
        let conns = state.live();
        let mut wakers: Vec<Waker> = std::mem::take(&mut state.diallers).into_values().collect();
        for conn in &conns {
            for (pipe, conditions) in
                conn.pipes.iter().zip(state.conditions_between(conn.dialler, conn.acceptor))
            {
                wakers.extend(pipe.set_conditions(conditions).into_iter().flatten());
            }
        }
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Makes a connection; the caller has reserved the dialler's port. Nothing is dropped here, so the lock may be held.
    pub(super) fn connect(
        self: &Arc<Self>,
        state: &mut SimState,
        dialler: SocketAddr,
        acceptor: SocketAddr,
    ) -> (MemoryStream, MemoryStream) {
        let number = state.number();
        let [there, back] = state.conditions_between(dialler, acceptor);
        let mut rng = state.rng(number);
        let pipe = |conditions, rng| Pipe::new(state.buffer, conditions, rng);
        let pipes = [pipe(there, rng.fork()), pipe(back, rng.fork())];
        let conn =
            Arc::new(SimConnection { number, dialler, acceptor, pipes, sim_net: Arc::downgrade(self) });
        state.conns.insert(number, Arc::downgrade(&conn));
        MemoryStream::both_ends(conn)
    }

    /// Resets the connections that `which` picks by their ends.
    pub(super) fn cut(&self, which: impl Fn(SocketAddr, SocketAddr) -> bool) -> usize {
        let mut conns = self.lock().live();
        conns.retain(|conn| which(conn.dialler, conn.acceptor));
        conns.iter().flat_map(|conn| conn.reset()).for_each(Waker::wake);
        conns.len()
    }

    pub(super) fn connections(&self) -> Vec<(SocketAddr, SocketAddr)> {
        // The connections are upgraded under the lock but dropped after it.
        let conns = self.lock().live();
        conns.iter().map(|conn| (conn.dialler, conn.acceptor)).collect()
    }

    /// A connection has lost both ends.
    pub(super) fn forget(&self, number: u64, ends: [SocketAddr; 2]) {
        let mut state = self.lock();
        state.conns.remove(&number);
        for end in ends {
            state.ports_in_use.remove(&end);
        }
    }
}

impl SimState {
    /// A number for a connection or a dial.
    pub(super) fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// The randomness of a connection or a dial.
    pub(super) fn rng(&self, number: u64) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    pub(super) fn latency(&self, from: IpAddr, to: IpAddr) -> Latency {
        self.latency_between.get(&(from, to)).copied().unwrap_or(self.latency)
    }

    pub(super) fn is_blocked(&self, from: IpAddr, to: IpAddr) -> bool {
        self.blocked.contains(&(from, to))
    }

    /// A free free_ephemeral_port port of a host; `None` when all 16,384 are in use.
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
        let way = |from, to| LinkConditions {
            latency: self.latency(from, to),
            rate: self.rates.get(&to).copied().unwrap_or_default(),
            blocked: self.is_blocked(from, to),
            back_blocked: self.is_blocked(to, from),
        };
        [way(dialler.ip(), acceptor.ip()), way(acceptor.ip(), dialler.ip())]
    }

    /// The connections that somebody holds, oldest first. To be dropped after the lock is released.
    fn live(&self) -> Vec<Arc<SimConnection>> {
        self.conns.values().filter_map(Weak::upgrade).collect()
    }
}

/// The first free_ephemeral_port port, as the internet's numbering authority has it.
const FIRST_EPHEMERAL_PORT: u16 = 49152;
