//! How others wake a connection's task, and how the task goes idle without missing a wake-up.

use std::fmt;
use std::sync::Arc;
use std::task::Waker;

use crate::broadcast::ParkedWaker;
use crate::sync::atomic::{AtomicU8, Ordering};

/// The task runs, or is about to be polled.
const RUNNING: u8 = 1;
/// Somebody notified since the task last began.
const NOTIFIED: u8 = 2;
/// The stream notified since.
const IO: u8 = 4;

/// Notifies one task. While the task runs a notification costs no wake-up: the task looks again
/// before it goes idle.
///
/// Invariant: `no_lost_wakeup`
/// Statement: what was done before a notification is seen by a pass of the task after it.
/// Enforced by: one word. A notification marks it, and wakes a task that is idle. The task takes
/// the marks before it looks, and goes idle by a compare-exchange that fails if a mark was set
/// meanwhile.
/// Breaks if: the task looks before it takes the marks, or goes idle without asking the word.
pub(super) struct WakeFlag {
    word: AtomicU8,
    /// Holds the task's waker; the task parks there as well.
    task: Arc<ParkedWaker>,
}

impl WakeFlag {
    /// For a task whose stream has not been read yet.
    pub(super) fn new(task: Arc<ParkedWaker>) -> Self {
        Self { word: AtomicU8::new(IO), task }
    }

    /// There is something for the task. Cost: one atomic, and a wake-up if the task is idle and
    /// this is the first notification.
    pub(super) fn notify(&self) {
        self.mark(NOTIFIED);
    }

    /// The stream may have something to read, or room to write.
    pub(super) fn notify_io(&self) {
        self.mark(NOTIFIED | IO);
    }

    fn mark(&self, marks: u8) {
        // Release: the task sees what was done before. Pairs with the Acquire in `begin`. Acquire:
        // a task that is seen to be idle has left its waker. Pairs with the Release in `try_idle`.
        if self.word.fetch_or(marks, Ordering::AcqRel) & (RUNNING | NOTIFIED) == 0 {
            self.task.task().wake();
        }
    }

    /// Sets the waker for later notifications.
    pub(super) fn register(&self, task: &Waker) {
        self.task.task().register(task);
    }

    /// The task begins a pass: later notifications make it look again. Returns whether the stream
    /// notified.
    pub(super) fn begin(&self) -> bool {
        self.word.swap(RUNNING, Ordering::AcqRel) & IO != 0
    }

    /// The task wants to go idle; `false` if it was notified and must look again. A task that will
    /// be polled again anyway need not ask.
    pub(super) fn try_idle(&self) -> bool {
        self.word.compare_exchange(RUNNING, 0, Ordering::Release, Ordering::Relaxed).is_ok()
    }

    /// From now on every notification is a wake-up, also while the task runs.
    pub(super) fn detach(&self) {
        self.word.swap(0, Ordering::AcqRel);
    }
}

impl fmt::Debug for WakeFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WakeFlag").field("word", &self.word.load(Ordering::Relaxed)).finish_non_exhaustive()
    }
}

#[cfg(all(test, peerpool_loom))]
mod models {
    use std::future::poll_fn;
    use std::task::Poll;

    use loom::future::block_on;
    use loom::thread;

    use super::*;
    use crate::sync::atomic::AtomicUsize;

    #[test]
    fn an_idle_task_has_seen_what_was_done_before_every_notification() {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(|| {
            let shared =
                Arc::new((WakeFlag::new(ParkedWaker::new()), AtomicUsize::new(0), AtomicUsize::new(0)));
            let notifiers: [_; 2] = std::array::from_fn(|number| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    let (wake, queued, read) = &*shared;
                    if number == 0 {
                        queued.fetch_add(1, Ordering::Relaxed);
                        wake.notify();
                    } else {
                        read.fetch_add(1, Ordering::Relaxed);
                        wake.notify_io();
                    }
                })
            });
            let (wake, queued, read) = &*shared;
            let (mut seen_queued, mut seen_read) = (0, 0);
            // A lost wake-up is a deadlock, which loom reports.
            block_on(poll_fn(|cx| {
                wake.register(cx.waker());
                loop {
                    if wake.begin() {
                        seen_read = read.load(Ordering::Relaxed);
                    }
                    seen_queued = queued.load(Ordering::Relaxed);
                    if (seen_queued, seen_read) == (1, 1) {
                        return Poll::Ready(());
                    }
                    if wake.try_idle() {
                        return Poll::Pending;
                    }
                }
            }));
            for notifier in notifiers {
                notifier.join().expect("no panic");
            }
        });
    }
}
