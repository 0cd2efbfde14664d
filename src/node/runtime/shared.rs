//! The common state of a node.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use crate::address_book::{AddressBook, WallTime};
use crate::base::{Nonce, PeerId, Source, Tick};
use crate::connection::{MemoryBudget, MemoryOrigin};
use crate::node::api::events::EventHub;
use crate::node::api::handler::Handler;
use crate::node::config::{ConfigError, NodeConfig, RuntimeConfig};
use crate::node::connect::state::ConnectState;
use crate::node::error::{BroadcastError, ConnectError};
use crate::node::protocol::ProtocolId;
use crate::node::protocol::config::ProtocolFactory;
use crate::node::protocol::protocol_set::ProtocolSet;
use crate::node::session::peer::Pool;
use crate::pool::{PoolConfig, SlotClass};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, SwapCell};
use crate::transport::Transport;

use super::addr_sample::AddrSample;
use super::log_budget::{LogBudget, LogKind, LogSummary};
use super::names::Names;
use super::seen_set::SeenSet;
use super::tasks::Tasks;

/// The common state of a node. It runs nothing: what acts on it ([`Dialer`], [`Acceptor`],
/// [`Maintenance`] and so on) are types of their own.
///
/// Invariant: `no_reference_cycles`.
/// - Statement: dropping the last handle frees everything without a call.
/// - Enforced by: tasks hold this state, and it holds no task and no handle that keeps the node
///   alive. A connection holds its queues, and neither peer nor node.
/// - Breaks if: a handler keeps a `NodeRef` rather than a `WeakNode`.
///
/// [`Dialer`]: crate::node::connect::dial::Dialer
/// [`Acceptor`]: crate::node::connect::accept::Acceptor
/// [`Maintenance`]: super::maintenance::Maintenance
pub(crate) struct Shared {
    pub(crate) config: NodeConfig,
    runtime_config: SwapCell<RuntimeConfig>,
    /// Serialises changes of `runtime_config`.
    reconfiguring: Mutex<()>,
    pub(crate) nonce: Nonce,
    pub(crate) pool: Arc<Pool>,
    pub(crate) protocols: ProtocolSet,
    pub(crate) budget: Arc<MemoryBudget>,
    pub(crate) book: Arc<AddressBook>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) handler: Box<dyn Handler>,
    pub(crate) events: Arc<EventHub>,
    pub(crate) names: Names,
    pub(crate) seen: SeenSet,
    pub(crate) addr_sample: AddrSample,
    log_budget: LogBudget,
    /// When a dial got an answer last, in milliseconds.
    reached_at: AtomicU64,
    pub(crate) connecting: ConnectState,
    pub(crate) counters: Counters,
    pub(crate) tasks: Arc<Tasks>,
    /// Wakes the maintenance before its next tick.
    maintenance: Notify,
    start: Instant,
    stop: watch::Sender<bool>,
}

/// What a node is made of, beside its configuration.
pub(crate) struct Parts {
    pub(crate) nonce: Nonce,
    pub(crate) digest_key: (u64, u64),
    pub(crate) book: Arc<AddressBook>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) handler: Box<dyn Handler>,
    /// At least one.
    pub(crate) protocols: Vec<Box<dyn ProtocolFactory>>,
}

/// What a node counts, for [`NodeStats`](crate::node::NodeStats).
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) accepted: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) dials: AtomicU64,
    pub(crate) dial_failures: AtomicU64,
    pub(crate) collisions: AtomicU64,
    pub(crate) evicted_handshakes: AtomicU64,
    pub(crate) addrs_refused: AtomicU64,
    pub(crate) stalls: AtomicU64,
    pub(crate) self_dials: AtomicU64,
    pub(crate) events: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) broadcasts: AtomicU64,
    pub(crate) relayed: AtomicU64,
    pub(crate) duplicates: AtomicU64,
    pub(crate) missed_broadcasts: AtomicU64,
    pub(crate) missed_from_peers: AtomicU64,
    pub(crate) reaped: AtomicU64,
    pub(crate) panics: AtomicU64,
}

/// Adds one. Relaxed: counters decide nothing.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Shared {
    pub(crate) fn new(config: NodeConfig, parts: Parts, executor: Handle) -> Self {
        let Parts { nonce, digest_key, book, transport, handler, protocols } = parts;
        let names = Names::new(&config);
        let fixed = config.fixed_memory(protocols.len());
        let budget = MemoryBudget::new(config.runtime.memory_limit.saturating_sub(fixed));
        let protocols = protocols.into_iter().map(|new| new.start(&config, Arc::clone(&budget))).collect();
        let pool = crate::pool::Pool::new(PoolConfig {
            expected_peers: config.expected_peers,
            limits: config.runtime.limits_in_force(!config.trusted.is_empty()),
            liveness: config.runtime.liveness,
            health: config.runtime.health,
        });
        Self {
            runtime_config: SwapCell::new(Arc::new(config.runtime.clone())),
            reconfiguring: Mutex::new(()),
            protocols: ProtocolSet::new(protocols, nonce),
            budget,
            events: Arc::new(EventHub::new(config.event_backlog)),
            config,
            nonce,
            pool,
            book,
            transport,
            handler,
            names,
            seen: SeenSet::new(digest_key),
            addr_sample: AddrSample::default(),
            log_budget: LogBudget::default(),
            reached_at: AtomicU64::new(0),
            connecting: ConnectState::new(),
            counters: Counters::default(),
            tasks: Tasks::new(executor),
            maintenance: Notify::new(),
            start: Instant::now(),
            stop: watch::Sender::new(false),
        }
    }

    /// The present tick of the one clock that all timing decisions of this node use.
    pub(crate) fn now(&self) -> Tick {
        Tick::from_millis(self.start.elapsed().as_millis() as u64)
    }

    pub(crate) fn runtime_config(&self) -> Arc<RuntimeConfig> {
        self.runtime_config.load()
    }

    /// Replaces the settings that may change, and applies them to pool, protocols and memory limit.
    /// `false`, and nothing is changed, if `expected` is given and no longer the present one.
    pub(crate) fn reconfigure(
        &self,
        expected: Option<&Arc<RuntimeConfig>>,
        new: RuntimeConfig,
    ) -> Result<bool, ConfigError> {
        new.check()?;
        let _one_at_a_time = self.reconfiguring.lock();
        if expected.is_some_and(|expected| !Arc::ptr_eq(expected, &self.runtime_config())) {
            return Ok(false);
        }
        let protocols = self.protocols.count();
        self.config.check_memory(&new, self.protocols.iter().map(|protocol| protocol.max_message()))?;
        self.pool.set_limits(new.limits_in_force(!self.config.trusted.is_empty()));
        self.pool.set_liveness_policy(new.liveness);
        self.pool.set_health_policy(new.health);
        self.protocols.iter().for_each(|protocol| protocol.reconfigure(&new));
        self.budget.set_limit(new.memory_limit.saturating_sub(self.config.fixed_memory(protocols)));
        drop(self.runtime_config.swap(Arc::new(new)));
        self.wake_maintenance();
        Ok(true)
    }

    /// The listen address that hellos of this protocol carry, if peers can reach one.
    pub(crate) fn advertised_addr(&self, id: ProtocolId) -> Option<SocketAddr> {
        let of_protocol = self.protocols.get(id).advertised_addr();
        let of_node = self.config.advertise.filter(|_| id == ProtocolId::FIRST);
        of_protocol.or(of_node).or_else(|| {
            let listeners = self.connecting.listeners.lock();
            listeners.iter().find(|(protocol, _)| *protocol == id).map(|(_, addr)| *addr)
        })
    }

    /// Whether a peer with this key at this address is banned.
    pub(crate) fn is_banned(&self, key: PeerId, addr: SocketAddr) -> bool {
        self.book.is_banned(&key.into(), WallTime::now()) || self.is_addr_banned(addr)
    }

    pub(crate) fn is_addr_banned(&self, addr: SocketAddr) -> bool {
        self.book.is_banned_addr(addr, WallTime::now())
    }

    /// The class of slot of a stranger at this address.
    pub(crate) fn stranger_class(&self, ip: IpAddr) -> SlotClass {
        let exempt = &self.runtime_config().exempt_networks;
        if exempt.iter().any(|network| network.contains(ip)) { SlotClass::Exempt } else { SlotClass::Ordinary }
    }

    /// Whose share of the memory a connection uses.
    pub(crate) fn memory_origin(&self, class: SlotClass, ip: IpAddr) -> MemoryOrigin {
        match class {
            SlotClass::Ordinary => MemoryOrigin::of(Source::of(ip)),
            SlotClass::Exempt | SlotClass::Reserved => MemoryOrigin::EXEMPT,
        }
    }

    /// Whether a line about a peer at this address may be logged now.
    pub(crate) fn may_log(&self, kind: LogKind, ip: IpAddr) -> bool {
        self.log_budget.allows(kind, ip, self.now())
    }

    /// Summaries of lines that were left out.
    pub(crate) fn take_log_summaries(&self) -> Vec<LogSummary> {
        self.log_budget.take_summaries(self.now())
    }

    /// Notes that a dial got an answer.
    pub(crate) fn note_reached(&self) {
        self.reached_at.store(self.now().as_millis(), Ordering::Relaxed);
    }

    /// Whether no dial has got an answer for this long.
    pub(crate) fn reaches_nobody_for(&self, limit: Duration) -> bool {
        let reached_at = Tick::from_millis(self.reached_at.load(Ordering::Relaxed));
        self.now().since(reached_at) >= limit
    }

    /// Live peers that this node dialled.
    pub(crate) fn live_outbound(&self) -> usize {
        self.pool.admission().live_outbound as usize
    }

    /// Makes the maintenance look for peers at once.
    pub(crate) fn wake_maintenance(&self) {
        self.maintenance.notify_one();
    }

    /// Resolves after a call of [`Shared::wake_maintenance`].
    pub(crate) async fn maintenance_woken(&self) {
        self.maintenance.notified().await;
    }

    /// Writes the address book in a task of its own. The book orders flushes itself: this one comes
    /// after any under way.
    pub(crate) fn spawn_last_flush(self: &Arc<Self>) {
        let shared = Arc::clone(self);
        self.tasks.spawn_blocking(move || {
            if let Err(error) = shared.book.flush() {
                tracing::error!(%error, "the address book could not be written at shutdown");
            }
        });
    }

    /// Runs `work` until it is done, `limit` has passed ([`ConnectError::Timeout`]) or the node
    /// stops ([`ConnectError::Shutdown`]).
    ///
    /// Invariant: `waits_are_inside_the_timeout`: the whole of `work` runs under one deadline.
    pub(crate) async fn until_stopped_or<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, ConnectError>>,
    ) -> Result<T, ConnectError> {
        tokio::select! {
            biased;
            () = self.stopped() => Err(ConnectError::Shutdown),
            outcome = timeout(limit, work) => outcome.unwrap_or(Err(ConnectError::Timeout)),
        }
    }

    /// Resolves when the node stops.
    pub(crate) async fn stopped(&self) {
        let mut stop = self.stop.subscribe();
        // Fails only if the sender is gone, and `self` holds it.
        let _ = stop.wait_for(|stop| *stop).await;
    }

    /// Fails once the node shuts down.
    ///
    /// # Cost
    /// One load.
    #[inline]
    pub(crate) fn check_open(&self) -> Result<(), BroadcastError> {
        if self.pool.is_closed() { Err(BroadcastError::Shutdown) } else { Ok(()) }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Stops the node.
    ///
    /// Invariant: `nothing_enters_after_shutdown`.
    /// - Statement: after this call nothing goes live, nothing is accepted and nothing is dialled.
    /// - Enforced by: the pool closes first, in the word that admission uses; then every loop and
    ///   handshake gets the signal.
    /// - Breaks if: the signal is sent before the pool is closed.
    pub(crate) fn stop(&self) {
        self.pool.close();
        self.stop.send_replace(true);
    }
}
