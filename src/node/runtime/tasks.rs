//! Spawning and counting the tasks of a node.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::node::session::task::PeerTask;
use crate::sync::atomic::{AtomicUsize, Ordering};

/// Spawns the tasks of a node and counts them until they end.
#[derive(Debug)]
pub(crate) struct Tasks {
    executor: Handle,
    running: AtomicUsize,
    /// Those of `running` that drive a live peer's connection.
    connections: AtomicUsize,
    idle: Notify,
}

impl Tasks {
    pub(crate) fn new(executor: Handle) -> Arc<Self> {
        Arc::new(Self {
            executor,
            running: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            idle: Notify::new(),
        })
    }

    pub(crate) fn spawn(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let guard = self.guard();
        self.executor.spawn(async move {
            work.await;
            drop(guard);
        });
    }

    /// Runs blocking work on a thread that may block.
    pub(crate) fn spawn_blocking(self: &Arc<Self>, work: impl FnOnce() + Send + 'static) {
        let guard = self.guard();
        self.executor.spawn_blocking(move || {
            work();
            drop(guard);
        });
    }

    /// Spawns the task of a connection. It counts itself: with a guard during its handshake, and
    /// from [`Tasks::connection_begins`] on as a connection.
    pub(crate) fn spawn_peer(&self, task: PeerTask) {
        self.executor.spawn(task);
    }

    /// Counts as a task until dropped.
    pub(crate) fn guard(self: &Arc<Self>) -> TaskGuard {
        self.begin();
        TaskGuard { tasks: Arc::clone(self) }
    }

    /// A connection counts as a task until [`Tasks::connection_ends`].
    pub(crate) fn connection_begins(&self) {
        self.connections.fetch_add(1, Ordering::AcqRel);
        self.begin();
    }

    pub(crate) fn connection_ends(&self) {
        self.connections.fetch_sub(1, Ordering::AcqRel);
        self.end();
    }

    /// Tasks that run now, connections included.
    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::Acquire)
    }

    /// Connections whose task runs now.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Acquire)
    }

    /// Waits until no task runs, for `limit` at the longest. Read [`Tasks::running`] afterwards.
    pub(crate) async fn wait_idle(&self, limit: Duration) {
        let idle = async {
            loop {
                let notified = self.idle.notified();
                if self.running() == 0 {
                    return;
                }
                notified.await;
            }
        };
        let _ = tokio::time::timeout(limit, idle).await;
    }

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
    tasks: Arc<Tasks>,
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        self.tasks.end();
    }
}
