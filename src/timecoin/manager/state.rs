//! State shared by the manager, its handler and its tasks. Holds no node, so it keeps none alive.

use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

use crate::address_book::{AddressBook, ReportedBy, WallTime};
use crate::base::{ConnId, Source, Tick};
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

/// Maximum number of addresses learnt from one list.
const MAX_LEARNT_ADDRS: usize = 1_000;

/// State shared by the manager, its handler and its tasks.
///
/// Invariant: `no_reference_cycles`
///
/// - Statement: dropping the last manager frees everything without a call.
/// - Enforced by: this holds no node; the handler holds this; a task that outlives a call holds a
///   weak node and ends with [`Tasks::stopped`].
/// - Breaks if: a node is stored here.
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
    /// Legacy nodes that dialled us and read nothing before that time. Derived from the pool,
    /// tagged with the connection.
    pub(super) read_paused_until: Mutex<HashMap<ConnId, Tick>>,
    /// Addresses that wait to be dialled again.
    pub(super) redials: Mutex<std::collections::HashSet<IpAddr>>,
    /// Opens one-shot connections; `one_shots` limits their number.
    pub(super) connector: Connector,
    pub(super) one_shots: Semaphore,
    /// The addresses being asked over one-shot connections.
    pub(super) one_shot_locks: Arc<OneShotLocks>,
    /// Limits the one-shot connections that notify wallets, so that they leave room for others.
    pub(super) notices: Semaphore,
    /// The settings of the discovery task; changed by the `spawn_` methods.
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

    /// Whether others reach us at this address.
    pub(super) fn is_own_addr(&self, addr: SocketAddr) -> bool {
        if self.config.shared_host { addr == self.public } else { addr.ip() == self.public.ip() }
    }

    /// Adds addresses that a peer sent, and returns how many were new.
    pub(super) fn learn_peers(&self, peers: &[PeerAddress], from: IpAddr) -> usize {
        let now = WallTime::now();
        let discovery = &self.config.node.runtime.discovery;
        let max = discovery.max_addrs_per_source;
        let mut new = 0;
        for listed in peers.iter().take(MAX_LEARNT_ADDRS) {
            let Ok(ip) = listed.ip.parse::<IpAddr>() else { continue };
            let addr = self.network.stable_addr(SocketAddr::new(ip, listed.port));
            let is_usable = discovery.may_tell(from, ip) && self.book.count_at(Source::of(ip), max) < max;
            if self.is_own_addr(addr) || !is_usable {
                continue;
            }
            // An address that the book refuses is not recorded here either.
            match self.book.add(addr, ReportedBy::Peer(from), now) {
                Ok(crate::address_book::Added::New) => new += 1,
                Ok(crate::address_book::Added::Known) => {}
                Err(_) => continue,
            }
            self.exchange.lock().add_peer(addr, truncated_version(&listed.version), now);
        }
        new
    }

    /// Remembers a peer that is connected or was found by the application.
    pub(super) fn remember_peer(&self, addr: SocketAddr, version: String, reported_by: ReportedBy) {
        let now = WallTime::now();
        let addr = self.network.stable_addr(addr);
        self.exchange.lock().add_peer(addr, version, now);
        // An address that the book refuses is skipped.
        let _ = self.book.add(addr, reported_by, now);
    }

    /// Enters the address of a peer that dialled us into the book, now that it is gone: legacy nodes
    /// dial back, too. Where it listens is its claim, at the address it came from.
    pub(super) fn remember_lost_inbound(&self, peer: &Peer) {
        let addr = dial_addr(peer, self.network);
        let max = self.config.node.runtime.discovery.max_addrs_per_source;
        if self.is_own_addr(addr) || self.book.count_at(Source::of(addr.ip()), max) >= max {
            return;
        }
        // An address that the book refuses is not dialled.
        let _ = self.book.add(addr, ReportedBy::Peer(peer.ip()), WallTime::now());
    }

    /// How long a legacy node that dialled us still reads nothing.
    pub(super) fn read_pause_left(&self, peer: &Peer, now: Tick) -> Option<Duration> {
        let until = self.read_paused_until.lock().get(&peer.id()).copied()?;
        let left = until.since(now);
        (!left.is_zero()).then_some(left)
    }
}

/// Changes the node's runtime configuration; retried if another change came between.
pub(super) fn reconfigure(node: &NodeRef, change: impl Fn(&mut RuntimeConfig)) {
    loop {
        let before = node.runtime_config();
        let mut runtime = RuntimeConfig::clone(&before);
        change(&mut runtime);
        // A peer can only be judged stale after two unanswered pings.
        runtime.liveness.stale_after =
            runtime.liveness.stale_after.max(runtime.ping_interval.saturating_mul(2));
        match node.reconfigure_from(&before, runtime) {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => return tracing::warn!(%error, "runtime configuration not changed"),
        }
    }
}

/// The manager's own tasks. All end with its shutdown or its last clone.
pub(super) struct Tasks {
    stop: watch::Sender<bool>,
    running: watch::Sender<usize>,
}

impl Tasks {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { stop: watch::Sender::new(false), running: watch::Sender::new(0) })
    }

    /// Runs a task until it completes or the manager ends.
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

    /// Waits until no task runs. Returns how many still run after `within`.
    pub(super) async fn idle(&self, time_limit: Duration) -> usize {
        let mut running = self.running.subscribe();
        let idle = running.wait_for(|running| *running == 0);
        // The count tells whether it timed out.
        let _ = tokio::time::timeout(time_limit, idle).await;
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
