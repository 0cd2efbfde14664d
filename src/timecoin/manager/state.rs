//! What the manager, its handler and its tasks share. Holds no node, so that nothing here keeps one alive.

use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

use crate::address_book::{AddressBook, Source, WallTime};
use crate::base::{ConnId, Tick};
use crate::node::{NodeRef, Peer, RuntimeConfig};
use crate::sync::Mutex;
use crate::timecoin::address_policy::AddressPolicy;
use crate::timecoin::chain::{ChainSource, Sender};
use crate::timecoin::connection::Connector;
use crate::timecoin::exchange::truncated_version;
use crate::timecoin::one_shot_lock::OneShotLocks;
use crate::timecoin::peer_lookup::{dial_addr, peer_by_addr, peer_by_ip};
use crate::timecoin::wire::PeerAddress;
use crate::timecoin::{
    Announcements, NetworkType, PeerExchange, PeerQuarantine, RateLimiter, WalletSubscriptions,
};

use super::config::ManagerConfig;

/// Addresses taken of one list.
const MAX_LEARNT_ADDRS: usize = 1_000;

/// What the manager, its handler and its tasks share.
///
/// Invariant 35. Statement: dropping the last manager frees everything without a call. Enforced by: this holds no node; the
/// handler holds this; a task that outlives a call holds a weak node and ends with [`Tasks::stopped`]. Breaks if: a node is
/// kept here.
pub(super) struct State {
    pub(super) network: NetworkType,
    pub(super) public: SocketAddr,
    pub(super) config: ManagerConfig,
    pub(super) policy: AddressPolicy,
    pub(super) chain: Arc<dyn ChainSource>,
    pub(super) book: Arc<AddressBook>,
    pub(super) quarantine: Arc<PeerQuarantine>,
    pub(super) limiter: Arc<RateLimiter>,
    pub(super) exchange: Mutex<PeerExchange>,
    pub(super) announced: Mutex<Announcements>,
    pub(super) wallets: Mutex<WalletSubscriptions>,
    /// Old nodes that dialled us and read nothing until then. Derived from the pool, tagged with the connection.
    pub(super) read_paused_until: Mutex<HashMap<ConnId, Tick>>,
    /// Addresses that are dialled again in a while.
    pub(super) redials: Mutex<std::collections::HashSet<IpAddr>>,
    /// Makes connections for single messages, so many at a time.
    pub(super) connector: Connector,
    pub(super) one_shots: Semaphore,
    /// Who is being asked over one.
    pub(super) one_shot_locks: Arc<OneShotLocks>,
    /// Wallets are told of transactions over so many of them: they cannot keep everything else waiting.
    pub(super) notices: Semaphore,
    /// How the background task looks for peers; changed by the `spawn_` methods.
    pub(super) reconnect: watch::Sender<super::ReconnectConfig>,
    pub(super) tasks: Arc<Tasks>,
}

impl State {
    pub(super) fn sender(&self, peer: &Arc<Peer>) -> Sender {
        Sender::new(Arc::clone(peer), dial_addr(peer, self.network))
    }

    pub(super) fn peer_by_addr(&self, node: &NodeRef, addr: SocketAddr) -> Option<Arc<Peer>> {
        peer_by_addr(node, &self.policy, addr)
    }

    pub(super) fn peer_by_ip(&self, node: &NodeRef, ip: IpAddr) -> Option<Arc<Peer>> {
        peer_by_ip(node, ip)
    }

    /// Whether this is where others reach us.
    pub(super) fn is_own_addr(&self, addr: SocketAddr) -> bool {
        if self.config.shared_host { addr == self.public } else { addr.ip() == self.public.ip() }
    }

    /// Takes addresses that a peer told. How many were new.
    pub(super) fn learn_peers(&self, peers: &[PeerAddress], from: IpAddr) -> usize {
        let now = WallTime::now();
        let mut new = 0;
        for told in peers.iter().take(MAX_LEARNT_ADDRS) {
            let Ok(ip) = told.ip.parse::<IpAddr>() else { continue };
            let addr = self.network.stable_addr(SocketAddr::new(ip, told.port));
            if self.is_own_addr(addr) {
                continue;
            }
            // What the book does not take is not remembered here either.
            match self.book.add(addr, Source::Peer(from), now) {
                Ok(crate::address_book::Added::New) => new += 1,
                Ok(crate::address_book::Added::Known) => {}
                Err(_) => continue,
            }
            self.exchange.lock().add_peer(addr, truncated_version(&told.version), now);
        }
        new
    }

    /// A peer that is connected, or was found by the application.
    pub(super) fn remember_peer(&self, addr: SocketAddr, version: String, source: Source) {
        let now = WallTime::now();
        let addr = self.network.stable_addr(addr);
        self.exchange.lock().add_peer(addr, version, now);
        // A full or picky book is no reason to do anything else.
        let _ = self.book.add(addr, source, now);
    }

    /// How long an old node that has dialled us goes on reading nothing.
    pub(super) fn read_pause_left(&self, peer: &Peer, now: Tick) -> Option<Duration> {
        let until = self.read_paused_until.lock().get(&peer.id()).copied()?;
        let left = until.since(now);
        (!left.is_zero()).then_some(left)
    }
}

/// Changes what of the node's configuration may change; again, where another change came between.
pub(super) fn reconfigure(node: &NodeRef, change: impl Fn(&mut RuntimeConfig)) {
    loop {
        let before = node.runtime_config();
        let mut runtime = RuntimeConfig::clone(&before);
        change(&mut runtime);
        // Stale peers are told by their silence over two pings.
        runtime.liveness.stale_after =
            runtime.liveness.stale_after.max(runtime.ping_interval.saturating_mul(2));
        match node.reconfigure_from(&before, runtime) {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => return tracing::warn!(%error, "not reconfigured"),
        }
    }
}

/// The manager's own tasks, all ended by its shutdown or with its last clone.
pub(super) struct Tasks {
    stop: watch::Sender<bool>,
    running: watch::Sender<usize>,
}

impl Tasks {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { stop: watch::Sender::new(false), running: watch::Sender::new(0) })
    }

    /// Runs a task until it is done or the manager ends.
    pub(super) fn spawn(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let running = TaskGuard::begin(self);
        let mut stop = self.stop.subscribe();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                // An error: the manager is gone.
                _ = stop.wait_for(|stop| *stop) => {}
                () = work => {}
            }
            drop(running);
        });
    }

    /// Resolves when the manager ends.
    pub(super) async fn stopped(&self) {
        let mut stop = self.stop.subscribe();
        // Cannot fail while `self` lives.
        let _ = stop.wait_for(|stop| *stop).await;
    }

    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits until no task runs; how many still do at the end.
    pub(super) async fn idle(&self, within: Duration) -> usize {
        let mut running = self.running.subscribe();
        let idle = running.wait_for(|running| *running == 0);
        // Whether it timed out is what the count says.
        let _ = tokio::time::timeout(within, idle).await;
        *self.running.borrow()
    }
}

struct TaskGuard {
    tasks: Arc<Tasks>,
}

impl TaskGuard {
    fn begin(tasks: &Arc<Tasks>) -> Self {
        tasks.running.send_modify(|running| *running += 1);
        Self { tasks: Arc::clone(tasks) }
    }
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        self.tasks.running.send_modify(|running| *running -= 1);
    }
}
