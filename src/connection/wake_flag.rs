//! How others call a connection's task, and how it rests without missing a call.

use std::fmt;
use std::sync::Arc;
use std::task::Waker;

use crate::broadcast::ParkedWaker;
use crate::sync::atomic::{AtomicU8, Ordering};

/// WakeFlag to one task. A call while the task is at work costs no wake-up: it looks again before it rests.
///
/// Invariant 40. Statement: what was done before a call is seen by a look of the task after it. Enforced by: one word. A
/// call marks it and wakes a task that rests; the task takes the marks before it looks, and rests by an exchange that
/// fails if a mark came meanwhile. Breaks if: the task looks before it takes the marks, or rests without asking the word.
pub(super) struct WakeFlag {
    word: AtomicU8,
    /// Knows the task; it sleeps there as well.
    seat: Arc<ParkedWaker>,
}

impl WakeFlag {
    /// For a task whose stream has not been read yet.
    pub(super) fn new(seat: Arc<ParkedWaker>) -> Self {
        Self { word: AtomicU8::new(STREAM), seat }
    }

    /// There is something for the task. Cost: one atomic, and a wake-up if the task rests and nobody has called yet.
    pub(super) fn call(&self) {
        self.mark(NEWS);
    }

    /// The stream may have something to read, or room to write.
    pub(super) fn stream(&self) {
        self.mark(NEWS | STREAM);
    }

    fn mark(&self, marks: u8) {
        // Release: what was done before is seen by the task. Pairs with the Acquire in `attend`. Acquire: a task that is
        // seen to rest has left its waker. Pairs with the Release in `rest`.
        if self.word.fetch_or(marks, Ordering::AcqRel) & (BUSY | NEWS) == 0 {
            self.seat.task().wake();
        }
    }

    /// Whom to wake from now on.
    pub(super) fn register(&self, task: &Waker) {
        self.seat.task().register(task);
    }

    /// The task is about to look: calls that come from here on make it look again. Whether the stream called.
    pub(super) fn attend(&self) -> bool {
        self.word.swap(BUSY, Ordering::AcqRel) & STREAM != 0
    }

    /// The task is about to rest; `false` if it must look again, because somebody called. One that does not rest need not
    /// ask, as long as it will be polled again.
    pub(super) fn rest(&self) -> bool {
        self.word.compare_exchange(BUSY, 0, Ordering::Release, Ordering::Relaxed).is_ok()
    }

    /// The task takes calls no longer as a sign to look again, but as wake-ups.
    pub(super) fn doze(&self) {
        self.word.swap(0, Ordering::AcqRel);
    }
}

impl fmt::Debug for WakeFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WakeFlag").field("word", &self.word.load(Ordering::Relaxed)).finish_non_exhaustive()
    }
}

/// The task is at work, or is about to be polled.
const BUSY: u8 = 1;
/// Somebody called since the task last took the marks.
const NEWS: u8 = 2;
/// The stream called since.
const STREAM: u8 = 4;

#[cfg(all(test, peerpool_loom))]
mod models {
    use std::future::poll_fn;
    use std::task::Poll;

    use loom::future::block_on;
    use loom::thread;

    use super::*;
    use crate::sync::atomic::AtomicUsize;

    #[test]
    fn a_task_that_rests_has_seen_what_was_done_before_every_call() {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(|| {
            let shared =
                Arc::new((WakeFlag::new(ParkedWaker::new()), AtomicUsize::new(0), AtomicUsize::new(0)));
            let callers: [_; 2] = std::array::from_fn(|number| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    let (calls, queued, read) = &*shared;
                    if number == 0 {
                        queued.fetch_add(1, Ordering::Relaxed);
                        calls.call();
                    } else {
                        read.fetch_add(1, Ordering::Relaxed);
                        calls.stream();
                    }
                })
            });
            let (calls, queued, read) = &*shared;
            let (mut taken, mut heard) = (0, 0);
            // A lost call is a deadlock, which loom reports.
            block_on(poll_fn(|cx| {
                calls.register(cx.waker());
                loop {
                    if calls.attend() {
                        heard = read.load(Ordering::Relaxed);
                    }
                    taken = queued.load(Ordering::Relaxed);
                    if (taken, heard) == (1, 1) {
                        return Poll::Ready(());
                    }
                    if calls.rest() {
                        return Poll::Pending;
                    }
                }
            }));
            for caller in callers {
                caller.join().expect("no panic");
            }
        });
    }
}
