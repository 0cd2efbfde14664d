//! Where links sleep: one place for everything that may have something for them.
//!
//! # Invariants
//! 40. *Statement*: the last append before silence reaches every link. *Enforced by*: both sides write their own word, pass
//!     a sequentially consistent fence and read the other's: the producer its end and then the count of list, the
//!     link its seat on the list and then every end. *Breaks if*: a source tells the wake_set before its end is visible, or a
//!     link's `idle` leaves a source out.
//!
//! The list of list is behind one short lock; what that costs stands in the module `list`. A producer asks for its
//! length first, and takes no lock where nobody sleeps.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crossbeam_utils::CachePadded;

use super::wake_list::{MAX_TAKEN, WakeList};
use crate::sync::TaskWaker;
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering, fence};

/// How many links a producer wakes itself before it hands the rest on. None in models, which have few links.
const MAX_DIRECT_WAKES: usize = if cfg!(peerpool_loom) { 0 } else { MAX_TAKEN };
/// How many links the waker task wakes before it lets others run.
const MAX_WAKES_PER_POLL: usize = 64;
/// How many seats of links that are gone the list may hold before they are shaken out.
const MAX_DEAD_ENTRIES: usize = 256;

/// The seat is on the list.
const LISTED: u8 = 1;
/// Its link sleeps.
const ASLEEP: u8 = 2;

/// Where the links of a node sleep, whatever it is they wait for: a link parks once for all logs and the state table
/// that were made with this wake_set.
#[derive(Debug)]
pub struct WakeSet {
    list: WakeList<Arc<ParkedWaker>>,
    /// Seats on the list, about, whose link is gone.
    gone: AtomicUsize,
    /// A producer left the rest to the waker task, which has not begun yet: whoever is on the list will be woken.
    handed_over: CachePadded<AtomicBool>,
    /// There is a waker task.
    has_waker_task: AtomicBool,
    task: TaskWaker,
}

/// Where one task sleeps, and how it is woken.
#[derive(Debug)]
pub(crate) struct ParkedWaker {
    state: AtomicU8,
    task: TaskWaker,
}

/// What became of an attempt to sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Parked {
    /// The task will be woken.
    Yes,
    /// Something came meanwhile: go round again.
    No,
}

/// A link's place to sleep.
#[derive(Debug)]
pub struct Parker {
    wake_set: Arc<WakeSet>,
    seat: Arc<ParkedWaker>,
}

/// The waker task: a future that never ends and wakes those whom producers left to it. Dropping it leaves nobody asleep:
/// producers then wake everybody themselves.
#[derive(Debug)]
pub struct WakerTask {
    wake_set: Arc<WakeSet>,
    /// How many of the round are still to be woken.
    left: usize,
}

impl ParkedWaker {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { state: AtomicU8::new(0), task: TaskWaker::new() })
    }

    /// The task that sleeps here, or is at work.
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
    /// A wake_set where nobody sleeps.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            list: WakeList::new(),
            gone: AtomicUsize::new(0),
            handed_over: CachePadded::new(AtomicBool::new(false)),
            has_waker_task: AtomicBool::new(false),
            task: TaskWaker::new(),
        })
    }

    /// A place to sleep for one link.
    ///
    /// # Cost
    /// One short lock and an allocation.
    pub fn parker(self: &Arc<Self>) -> Parker {
        self.list.reserve();
        Parker { wake_set: Arc::clone(self), seat: ParkedWaker::new() }
    }

    /// The waker task's future, to be spawned once; `None` while there is one.
    pub fn waker_task(self: &Arc<Self>) -> Option<WakerTask> {
        let before = self.has_waker_task.swap(true, Ordering::AcqRel);
        (!before).then(|| WakerTask { wake_set: Arc::clone(self), left: 0 })
    }

    /// Wakes links, because a source has something new. Its word must have been written before, and no lock be held.
    ///
    /// # Cost
    /// A fence and a load if nobody sleeps; otherwise at most 32 wakes, or all where there is no waker task, and a short
    /// lock for each 16. No allocation.
    pub(crate) fn notify(&self) {
        // Pairs with the fence in `park`: either this sees the sleeper, or the sleeper sees the source's word.
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
        // Pairs with the exchange and the fence in `WakerTask::poll`: its round begins after this word was written.
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
        // Pairs with the fence in `WakerTask::drop`: either it sees what was handed_over to it, or this sees that it is gone.
        fence(Ordering::SeqCst);
        if !self.has_waker_task.load(Ordering::Relaxed) && self.handed_over.swap(false, Ordering::AcqRel) {
            self.wake_up_to(self.list.len());
        }
    }

    /// Wakes at most so many: the number at entry bounds a round, so that a link that sleeps again meanwhile is not
    /// woken in a loop. Returns how many seats it took.
    fn wake_up_to(&self, most: usize) -> usize {
        let mut woken = 0;
        while woken < most {
            let handful = self.list.take(most - woken);
            if handful.is_empty() {
                break;
            }
            woken += handful.len();
            handful.into_iter().for_each(|seat| seat.wake());
        }
        woken
    }
}

impl Parker {
    /// Where its task is found.
    pub(crate) const fn parked_waker(&self) -> &Arc<ParkedWaker> {
        &self.seat
    }

    /// Puts the task to sleep unless there is something to do. `idle` says whether no source has news; it must ask every
    /// source of this wake_set that the link serves, after everything that came before was taken.
    ///
    /// # Cost
    /// At most one push to the list, under a short lock and into memory that is there; a fence, and what `idle` costs.
    pub fn park(&self, waker: &Waker, idle: impl FnOnce() -> bool) -> Parked {
        self.seat.task.register(waker);
        self.park_registered(idle)
    }

    /// As [`Parker::park`], of a task that has registered with the seat since it was last polled: whoever has taken that
    /// waker since has woken the task, which will be polled again.
    pub(crate) fn park_registered(&self, idle: impl FnOnce() -> bool) -> Parked {
        // A seat still on the list is found there: no second push.
        if self.seat.state.fetch_or(LISTED | ASLEEP, Ordering::AcqRel) & LISTED == 0 {
            self.wake_set.list.push(Arc::clone(&self.seat));
        }
        // Pairs with the fence in `WakeSet::notify`.
        fence(Ordering::SeqCst);
        if idle() {
            return Parked::Yes;
        }
        self.seat.state.fetch_and(!ASLEEP, Ordering::AcqRel);
        Parked::No
    }
}

impl Drop for Parker {
    fn drop(&mut self) {
        let wake_set = &self.wake_set;
        wake_set.list.unreserve();
        if self.seat.state.fetch_and(!ASLEEP, Ordering::AcqRel) & LISTED == 0 {
            return;
        }
        // With nothing appended for days, links that come and go would fill the list.
        let gone = wake_set.gone.fetch_add(1, Ordering::Relaxed) + 1;
        let listed = wake_set.list.len();
        if gone >= MAX_DEAD_ENTRIES && gone >= listed / 2 {
            wake_set.gone.store(0, Ordering::Relaxed);
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
            // Pairs with the fence in `notify`: whoever was told that this round will come has its word visible to all
            // that the round wakes.
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
