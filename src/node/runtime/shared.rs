//! What all tasks of a node share.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

use crate::address_book::AddressBook;
use crate::base::{Nonce, Tick};
use crate::connection::MemoryBudget;
use crate::pool::PoolConfig;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Mutex, SwapCell};
use crate::transport::Transport;

use crate::node::runtime::interner::Interner;
use crate::node::config::{NodeConfig, RuntimeConfig};
use crate::node::protocol::config::ProtocolFactory;
use crate::node::api::events::EventHub;
use crate::node::api::handler::Handler;
use crate::node::session::info::Pool;
use crate::node::connect::process_index::ProcessIndex;
use crate::node::session::task::PeerTask;
use crate::node::runtime::seen_set::SeenSet;
use crate::node::protocol::set::ProtocolSet;

/// What all tasks of a node share. Holds no task and no handle with a life token, so nothing here keeps the node alive.
///
/// Invariant 35. Statement: dropping the last handle frees everything without a call. Enforced by: tasks hold this, it
/// holds no task; a link holds its queues, and neither peer nor node. Breaks if: a handler keeps a `NodeRef` rather than a
/// `WeakNode`.
pub(crate) struct Shared {
    pub(crate) config: NodeConfig,
    pub(crate) runtime_config: SwapCell<RuntimeConfig>,
    /// Changes of it come one after another.
    pub(crate) reconfiguring: Mutex<()>,
    pub(crate) nonce: Nonce,
    pub(crate) pool: Arc<Pool>,
    pub(crate) tongues: ProtocolSet,
    pub(crate) budget: Arc<MemoryBudget>,
    pub(crate) book: Arc<AddressBook>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) handler: Box<dyn Handler>,
    pub(crate) events: Arc<EventHub>,
    pub(crate) seen: SeenSet,
    pub(crate) instances: ProcessIndex,
    pub(crate) agents: Interner,
    /// Where, and in which dialect.
    pub(crate) listening: Mutex<Vec<(usize, SocketAddr)>>,
    /// Wakes the maintenance before its next tick.
    pub(crate) kick: Notify,
    /// Refusals that are being told at the same time; more are closed without a word.
    pub(crate) refusals: Arc<Semaphore>,
    pub(crate) dials: Dials,
    /// Dials that only ask who listens; they take no place from those that connect.
    pub(crate) probes: Dials,
    pub(crate) counters: Counters,
    start: Instant,
    stop: watch::Sender<bool>,
    executor: Handle,
    tasks: Tasks,
}

/// What a node is made of, beside its configuration.
pub(crate) struct Parts {
    pub(crate) nonce: Nonce,
    pub(crate) relay_key: (u64, u64),
    pub(crate) book: Arc<AddressBook>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) handler: Box<dyn Handler>,
    /// At least one.
    pub(crate) dialects: Vec<Box<dyn ProtocolFactory>>,
}

/// Dials of the node's own accord that are under way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dials {
    under_way: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Tasks {
    running: AtomicUsize,
    links: AtomicUsize,
    idle: Notify,
}

/// What a node counts.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) accepted: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) dials: AtomicU64,
    pub(crate) dial_failures: AtomicU64,
    pub(crate) collisions: AtomicU64,
    pub(crate) self_dials: AtomicU64,
    pub(crate) events: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) broadcasts: AtomicU64,
    pub(crate) relayed: AtomicU64,
    pub(crate) duplicates: AtomicU64,
    pub(crate) missed_broadcasts: AtomicU64,
    pub(crate) reaped: AtomicU64,
    pub(crate) panics: AtomicU64,
}

/// Adds one. Relaxed: counters are read for sight only.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Shared {
    pub(crate) fn new(config: NodeConfig, parts: Parts, executor: Handle) -> Self {
        let Parts { nonce, relay_key, book, transport, handler, dialects } = parts;
        let fixed = config.fixed_memory(dialects.len());
        let budget = MemoryBudget::new(config.runtime.memory_limit.saturating_sub(fixed));
        let tongues = dialects.into_iter().map(|new| new.start(&config, Arc::clone(&budget))).collect();
        let pool = crate::pool::Pool::new(PoolConfig {
            expected_peers: config.expected_peers,
            limits: config.runtime.limits.clone(),
            liveness: config.runtime.liveness,
            health: config.runtime.health,
        });
        Self {
            runtime_config: SwapCell::new(Arc::new(config.runtime.clone())),
            reconfiguring: Mutex::new(()),
            tongues: ProtocolSet::new(tongues, nonce),
            budget,
            events: Arc::new(EventHub::new(config.event_backlog)),
            config,
            nonce,
            pool,
            book,
            transport,
            handler,
            seen: SeenSet::new(relay_key),
            instances: ProcessIndex::new(),
            agents: Interner::default(),
            listening: Mutex::new(Vec::new()),
            kick: Notify::new(),
            refusals: Arc::new(Semaphore::new(REFUSALS)),
            dials: Dials::default(),
            probes: Dials::default(),
            counters: Counters::default(),
            start: Instant::now(),
            stop: watch::Sender::new(false),
            executor,
            tasks: Tasks::default(),
        }
    }

    /// The present tick. Everything in this node that judges by time uses this clock.
    pub(crate) fn now(&self) -> Tick {
        Tick::from_millis(self.start.elapsed().as_millis() as u64)
    }

    pub(crate) fn runtime_config(&self) -> Arc<RuntimeConfig> {
        self.runtime_config.load()
    }

    /// The address that peers of this dialect are told, if they can reach one.
    pub(crate) fn advertised(&self, tongue: usize) -> Option<SocketAddr> {
        let set = self.tongues.get(tongue).advertise();
        set.or(self.config.advertise.filter(|_| tongue == 0)).or_else(|| {
            let listening = self.listening.lock();
            listening.iter().find(|(of, _)| *of == tongue).map(|(_, addr)| *addr)
        })
    }

    pub(crate) fn spawn(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let guard = TaskGuard::new(self);
        self.executor.spawn(async move {
            work.await;
            drop(guard);
        });
    }

    /// Spawns what may become, or is, the task of a link. Until a link counts itself (see [`Shared::link_begins`]), the part
    /// before it does.
    pub(crate) fn spawn_course(&self, course: PeerTask) {
        self.executor.spawn(course);
    }

    /// The task of a link counts, until [`Shared::link_ends`].
    pub(crate) fn link_begins(&self) {
        self.tasks.links.fetch_add(1, Ordering::AcqRel);
        self.tasks.begin();
    }

    pub(crate) fn link_ends(&self) {
        self.tasks.links.fetch_sub(1, Ordering::AcqRel);
        self.tasks.end();
    }

    /// Runs blocking work where it blocks nobody.
    pub(crate) fn spawn_blocking(self: &Arc<Self>, work: impl FnOnce() + Send + 'static) {
        let guard = TaskGuard::new(self);
        self.executor.spawn_blocking(move || {
            work();
            drop(guard);
        });
    }

    /// Writes the book for the last time.
    pub(crate) fn flush_at_end(self: &Arc<Self>) {
        let shared = Arc::clone(self);
        self.spawn_blocking(move || {
            if let Err(error) = shared.book.flush() {
                tracing::error!(%error, "the book could not be written at the end");
            }
        });
    }

    /// Resolves when the node stops.
    pub(crate) async fn stopped(&self) {
        let mut stop = self.stop.subscribe();
        // Cannot fail while `self` lives.
        let _ = stop.wait_for(|stop| *stop).await;
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// From now on nothing goes live, nothing is accepted or dialled.
    pub(crate) fn stop(&self) {
        self.pool.close();
        self.stop.send_replace(true);
    }

    /// Waits until no task of the node runs, `within` at the longest; how many still do.
    pub(crate) async fn wait_idle(&self, within: Duration) -> usize {
        let idle = async {
            loop {
                let notified = self.tasks.idle.notified();
                if self.tasks.running.load(Ordering::Acquire) == 0 {
                    return;
                }
                notified.await;
            }
        };
        // Whether it timed out is what the count says.
        let _ = tokio::time::timeout(within, idle).await;
        self.tasks.running.load(Ordering::Acquire)
    }

    pub(crate) fn tasks(&self) -> usize {
        self.tasks.running.load(Ordering::Acquire)
    }

    pub(crate) fn links(&self) -> usize {
        self.tasks.links.load(Ordering::Acquire)
    }
}

impl Tasks {
    fn begin(&self) {
        self.running.fetch_add(1, Ordering::AcqRel);
    }

    fn end(&self) {
        if self.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.idle.notify_waiters();
        }
    }
}

/// Counts as a task of the node until dropped.
pub(crate) struct TaskGuard {
    shared: Arc<Shared>,
}

impl TaskGuard {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        shared.tasks.begin();
        Self { shared: Arc::clone(shared) }
    }
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        self.shared.tasks.end();
    }
}

impl Dials {
    /// A place among the dials under way, if there is one.
    pub(crate) fn begin(&self, budget: usize) -> Option<Dialling> {
        let begun = self
            .under_way
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |now| (now < budget).then_some(now + 1));
        begun.ok().map(|_| Dialling { of: self.clone() })
    }

    pub(crate) fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }
}

/// A dial under way.
pub(crate) struct Dialling {
    of: Dials,
}

impl Drop for Dialling {
    fn drop(&mut self) {
        self.of.under_way.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Refusals that are being told at the same time: each holds a socket for up to two seconds.
const REFUSALS: usize = 64;
