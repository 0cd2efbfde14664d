//! Where connections sleep: one wake set for everything that may have something for them to write.
//!
//! A connection parks once for all logs and the state table that share its wake set. Whatever adds
//! something, a *source*, calls [`WakeSet::notify`] after it has published. The producer wakes the
//! first few connections itself and hands the rest to the waker task, so that an append costs the
//! same for any number of connections.
//!
//! The list of sleeping connections is behind one short lock: see the module `wake_list`. A
//! producer reads its length first, and takes no lock if no connection sleeps.
//!
//! Invariant: `no_lost_wakeup`
//! - Statement: the last append before silence reaches every connection.
//! - Enforced by: both sides write their own word, pass a sequentially consistent fence and read
//!   the other's word. The producer writes its end and reads the length of the list; the connection
//!   enters the list and reads every end.
//! - Breaks if: a source calls `notify` before its end is visible, or the `idle` of a connection
//!   leaves a source out.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crossbeam_utils::CachePadded;

use super::wake_list::{MAX_TAKEN, WakeList};
use crate::sync::TaskWaker;
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering, fence};

/// Connections that a producer wakes itself before it hands the rest to the waker task. None in
/// models, which have few connections.
const MAX_DIRECT_WAKES: usize = if cfg!(peerpool_loom) { 0 } else { MAX_TAKEN };
/// Connections that the waker task wakes before it lets other tasks run.
const MAX_WAKES_PER_POLL: usize = 64;
/// Entries of ended connections on the list before they are taken off.
const MAX_DEAD_ENTRIES: usize = 256;

/// State of a parked waker: its entry is on the list.
const LISTED: u8 = 1;
/// State of a parked waker: its task sleeps.
const ASLEEP: u8 = 2;

/// Where the connections of a node sleep. Logs and state tables that were made with the same wake
/// set wake the same connections.
#[derive(Debug)]
pub struct WakeSet {
    list: WakeList<Arc<ParkedWaker>>,
    /// Entries on the list whose connection has ended. Approximate.
    dead_entries: AtomicUsize,
    /// The rest is handed to the waker task, which has not begun yet: every connection on the list
    /// will be woken.
    handed_over: CachePadded<AtomicBool>,
    has_waker_task: AtomicBool,
    task: TaskWaker,
}

/// The waker of one task, and whether the task sleeps.
#[derive(Debug)]
pub(crate) struct ParkedWaker {
    state: AtomicU8,
    task: TaskWaker,
}

/// The outcome of an attempt to sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Parked {
    /// The task will be woken.
    Yes,
    /// Something came meanwhile: check all sources again.
    No,
}

/// A connection's means to sleep in a wake set.
#[derive(Debug)]
pub struct Parker {
    wake_set: Arc<WakeSet>,
    parked: Arc<ParkedWaker>,
}

/// The waker task: a future that never ends and wakes the connections that producers handed over.
/// Once it is dropped, producers wake all connections themselves.
#[derive(Debug)]
pub struct WakerTask {
    wake_set: Arc<WakeSet>,
    /// Entries of the present round still to wake.
    left: usize,
}

impl ParkedWaker {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { state: AtomicU8::new(0), task: TaskWaker::new() })
    }

    /// The task that sleeps here, or runs.
    pub(crate) const fn task(&self) -> &TaskWaker {
        &self.task
    }

    fn wake(&self) {
        if self.state.swap(0, Ordering::AcqRel) & ASLEEP != 0 {
            self.task.wake();
        }
    }
}

impl WakeSet {
    /// A wake set in which no connection sleeps.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            list: WakeList::new(),
            dead_entries: AtomicUsize::new(0),
            handed_over: CachePadded::new(AtomicBool::new(false)),
            has_waker_task: AtomicBool::new(false),
            task: TaskWaker::new(),
        })
    }

    /// The means for one connection to sleep here.
    ///
    /// # Cost
    /// One short lock and an allocation.
    pub fn parker(self: &Arc<Self>) -> Parker {
        self.list.reserve();
        Parker { wake_set: Arc::clone(self), parked: ParkedWaker::new() }
    }

    /// The future of the waker task, to be spawned once; `None` while there is one.
    pub fn waker_task(self: &Arc<Self>) -> Option<WakerTask> {
        let before = self.has_waker_task.swap(true, Ordering::AcqRel);
        (!before).then(|| WakerTask { wake_set: Arc::clone(self), left: 0 })
    }

    /// Wakes connections because a source has something new. The source must have published before,
    /// and the caller must hold no lock.
    ///
    /// # Cost
    /// A fence and a load if no connection sleeps. Otherwise at most 32 wakes, or all without a
    /// waker task, and a short lock for each 16. No allocation.
    pub(crate) fn notify(&self) {
        // Pairs with the fence in `park`: this side sees the parked cursor, or that one sees the
        // source's word.
        fence(Ordering::SeqCst);
        if self.list.len() > 0 {
            self.wake_some();
        }
    }

    #[cfg(all(test, not(peerpool_loom)))]
    pub(super) fn listed(&self) -> usize {
        self.list.len()
    }

    #[cold]
    fn wake_some(&self) {
        // Pairs with the swap and the fence in `WakerTask::poll`: its round begins after this word
        // was written.
        if self.handed_over.load(Ordering::Relaxed) {
            return;
        }
        let listed = self.list.len();
        if listed <= 2 * MAX_DIRECT_WAKES || !self.has_waker_task.load(Ordering::Relaxed) {
            self.wake_up_to(listed);
            return;
        }
        self.wake_up_to(MAX_DIRECT_WAKES);
        if !self.handed_over.swap(true, Ordering::AcqRel) {
            self.task.wake();
        }
        // Pairs with the fence in `WakerTask::drop`: the drop sees what was handed over, or this
        // side sees the drop.
        fence(Ordering::SeqCst);
        if !self.has_waker_task.load(Ordering::Relaxed) && self.handed_over.swap(false, Ordering::AcqRel) {
            self.wake_up_to(self.list.len());
        }
    }

    /// Wakes at most `max` connections. The caller passes the length at its start, so that a
    /// connection that sleeps again meanwhile is not woken in a loop. Returns the number of entries
    /// taken.
    fn wake_up_to(&self, max: usize) -> usize {
        let mut woken = 0;
        while woken < max {
            let taken = self.list.take(max - woken);
            if taken.is_empty() {
                break;
            }
            woken += taken.len();
            taken.into_iter().for_each(|parked| parked.wake());
        }
        woken
    }
}

impl Parker {
    /// The waker that a sleeping task is woken through.
    pub(crate) const fn parked_waker(&self) -> &Arc<ParkedWaker> {
        &self.parked
    }

    /// Puts the task to sleep unless there is something to do. `idle` tells whether no source has
    /// news. It must check every source of this wake set that the connection serves, after the
    /// connection took everything before.
    ///
    /// # Cost
    /// At most one push to the list, under a short lock and into reserved memory; a fence, and what
    /// `idle` costs.
    pub fn park(&self, waker: &Waker, idle: impl FnOnce() -> bool) -> Parked {
        self.parked.task.register(waker);
        self.park_registered(idle)
    }

    /// As [`Parker::park`], for a task that has registered its waker since it was last polled. If
    /// that waker was taken since, the task is woken and will be polled again.
    pub(crate) fn park_registered(&self, idle: impl FnOnce() -> bool) -> Parked {
        // An entry that is still on the list is found there: no second push.
        if self.parked.state.fetch_or(LISTED | ASLEEP, Ordering::AcqRel) & LISTED == 0 {
            self.wake_set.list.push(Arc::clone(&self.parked));
        }
        // Pairs with the fence in `WakeSet::notify`.
        fence(Ordering::SeqCst);
        if idle() {
            return Parked::Yes;
        }
        self.parked.state.fetch_and(!ASLEEP, Ordering::AcqRel);
        Parked::No
    }
}

impl Drop for Parker {
    fn drop(&mut self) {
        let wake_set = &self.wake_set;
        wake_set.list.unreserve();
        if self.parked.state.fetch_and(!ASLEEP, Ordering::AcqRel) & LISTED == 0 {
            return;
        }
        // Without appends for days, connections that come and go would fill the list.
        let dead = wake_set.dead_entries.fetch_add(1, Ordering::Relaxed) + 1;
        let listed = wake_set.list.len();
        if dead >= MAX_DEAD_ENTRIES && dead >= listed / 2 {
            wake_set.dead_entries.store(0, Ordering::Relaxed);
            wake_set.wake_up_to(listed);
        }
    }
}

impl Future for WakerTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let wake_set = Arc::clone(&self.wake_set);
        wake_set.task.register(cx.waker());
        if self.left == 0 {
            if !wake_set.handed_over.swap(false, Ordering::AcqRel) {
                return Poll::Pending;
            }
            // Pairs with the fence in `notify`: a producer that relied on this round has its word
            // visible to all connections that the round wakes.
            fence(Ordering::SeqCst);
            self.left = wake_set.list.len();
        }
        let round = self.left.min(MAX_WAKES_PER_POLL);
        let taken = wake_set.wake_up_to(round);
        self.left = if taken < round { 0 } else { self.left - taken };
        if self.left > 0 || wake_set.handed_over.load(Ordering::Relaxed) {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Drop for WakerTask {
    fn drop(&mut self) {
        let wake_set = &self.wake_set;
        wake_set.has_waker_task.store(false, Ordering::Relaxed);
        // Pairs with the fence in `wake_some`.
        fence(Ordering::SeqCst);
        if wake_set.handed_over.swap(false, Ordering::AcqRel) || self.left > 0 {
            wake_set.wake_up_to(wake_set.list.len());
        }
    }
}
