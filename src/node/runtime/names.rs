//! Names of seeds and trusted peers: looked up at the start, and again and again.
//!
//! Invariant: `names_stay_names`.
//! - Statement: a seed or a trusted peer may be a name. One that does not resolve stops nothing, and
//!   all are looked up again.
//! - Enforced by: names are kept as they are given. Each look-up runs in a task of its own under a
//!   deadline; its result replaces that of the last one.
//! - Breaks if: a name is replaced by the addresses that it had once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::address_book::{ReportedBy, WallTime};
use crate::base::{Endpoint, Tick, canonical};
use crate::node::config::NodeConfig;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, SwapCell};

use super::shared::Shared;

/// How long a look-up may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// When a name that has addresses is looked up again.
const AGAIN_AFTER: Duration = Duration::from_secs(600);
/// When one that has none is.
const RETRY_AFTER: Duration = Duration::from_secs(30);
/// Addresses that one name can have.
const MAX_ADDRS: usize = 32;

/// The names, and the trusted addresses as far as they are known.
#[derive(Debug)]
pub(crate) struct Names {
    all: Vec<Arc<WatchedName>>,
    /// What the operator trusts: addresses, and those of names. At most [`MAX_ADDRS`] a name.
    trusted: SwapCell<Vec<SocketAddr>>,
}

#[derive(Debug)]
struct WatchedName {
    host: String,
    port: u16,
    is_trusted: bool,
    /// In milliseconds of the node's clock.
    next: AtomicU64,
    /// What the last look-up found.
    addrs: Mutex<Vec<SocketAddr>>,
}

impl Names {
    pub(crate) fn new(config: &NodeConfig) -> Self {
        let seeds = config.seeds.iter().map(|endpoint| (endpoint, false));
        let trusted = config.trusted.iter().map(|endpoint| (endpoint, true));
        let watched = |(endpoint, is_trusted): (&Endpoint, bool)| match endpoint {
            Endpoint::Addr(_) => None,
            Endpoint::Name { host, port } => Some(Arc::new(WatchedName {
                host: host.clone(),
                port: *port,
                is_trusted,
                next: AtomicU64::new(0),
                addrs: Mutex::default(),
            })),
        };
        let all = seeds.chain(trusted).filter_map(watched).collect();
        let names = Self { all, trusted: SwapCell::new(Arc::default()) };
        names.collect_trusted(config);
        names
    }

    /// The addresses that the operator trusts, canonical.
    pub(crate) fn trusted(&self) -> Arc<Vec<SocketAddr>> {
        self.trusted.load()
    }

    fn collect_trusted(&self, config: &NodeConfig) {
        let given = config.trusted.iter().filter_map(|endpoint| match endpoint {
            Endpoint::Addr(addr) => Some(canonical(*addr)),
            Endpoint::Name { .. } => None,
        });
        let mut all: Vec<_> = given.collect();
        for name in self.all.iter().filter(|name| name.is_trusted) {
            all.extend_from_slice(&name.addrs.lock());
        }
        drop(self.trusted.swap(Arc::new(all)));
    }

    /// Starts the look-ups that are due.
    pub(super) fn look_up_due(&self, shared: &Arc<Shared>, now: Tick) {
        for name in &self.all {
            if now.as_millis() < name.next.load(Ordering::Relaxed) {
                continue;
            }
            name.next.store(now.after(RETRY_AFTER).as_millis(), Ordering::Relaxed);
            let (name, shared_by_task) = (Arc::clone(name), Arc::clone(shared));
            shared.tasks.spawn(async move { look_up(&shared_by_task, &name).await });
        }
    }
}

async fn look_up(shared: &Shared, name: &WatchedName) {
    let WatchedName { host, port, .. } = name;
    let found = tokio::select! {
        () = shared.stopped() => return,
        found = timeout(TIMEOUT, shared.transport.resolve(host, *port)) => found,
    };
    let found = match found {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return tracing::warn!(%host, %error, "a name does not resolve; it is tried again"),
        Err(_) => return tracing::warn!(%host, "a name did not resolve in time; it is tried again"),
    };
    let mut addrs: Vec<_> = found.into_iter().map(canonical).take(MAX_ADDRS).collect();
    addrs.sort_unstable();
    addrs.dedup();
    if addrs.is_empty() {
        return tracing::warn!(%host, "a name has no address; it is tried again");
    }
    name.next.store(shared.now().after(AGAIN_AFTER).as_millis(), Ordering::Relaxed);
    let before = std::mem::replace(&mut *name.addrs.lock(), addrs.clone());
    if before == addrs {
        return;
    }
    tracing::debug!(%host, ?addrs, "a name has new addresses");
    let now = WallTime::now();
    if name.is_trusted {
        shared.names.collect_trusted(&shared.config);
        let trusted = shared.names.trusted();
        for gone in before.iter().filter(|addr| !trusted.contains(addr)) {
            let _ = shared.book.set_trusted(*gone, false, now);
        }
    }
    for addr in addrs {
        // An address that the book refuses is dialled all the same if it is trusted.
        if name.is_trusted {
            let _ = shared.book.set_trusted(addr, true, now);
        } else {
            let _ = shared.book.add(addr, ReportedBy::Seed, now);
        }
    }
    shared.wake_maintenance();
}
