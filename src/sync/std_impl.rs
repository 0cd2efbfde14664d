//! The facade's types in a normal build.

use std::sync::Arc;
use std::task::Waker;

pub use std::sync::{MutexGuard, OnceLock};

/// Atomic integers and fences.
pub mod atomic {
    pub use std::sync::atomic::{
        AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
    };
}

/// A mutex for short critical sections.
///
/// A panic under the lock does not poison it: every critical section of this crate leaves its data
/// consistent at each step.
#[derive(Debug, Default)]
pub struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    /// A mutex around `value`.
    pub const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    /// Blocks until the lock is acquired.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A shared value that readers load without waiting while writers replace it.
#[derive(Debug)]
pub struct SwapCell<T>(arc_swap::ArcSwap<T>);

impl<T> SwapCell<T> {
    /// A cell that holds `value`.
    pub fn new(value: Arc<T>) -> Self {
        Self(arc_swap::ArcSwap::new(value))
    }

    /// The current value. Cost: one reference count.
    pub fn load(&self) -> Arc<T> {
        self.0.load_full()
    }

    /// Passes the current value to `inspect`, without a reference count.
    pub fn read<R>(&self, inspect: impl FnOnce(&T) -> R) -> R {
        inspect(&self.0.load())
    }

    /// Replaces the value and returns the previous one.
    pub fn swap(&self, value: Arc<T>) -> Arc<T> {
        self.0.swap(value)
    }

    /// Replaces the value by `change` of it. Calls `change` again if another thread replaced the
    /// value meanwhile.
    pub fn update(&self, mut change: impl FnMut(&T) -> T) {
        self.0.rcu(|value| change(value));
    }

    /// Takes the value out of the cell.
    pub fn into_inner(self) -> Arc<T> {
        self.0.into_inner()
    }
}

/// Storage for one task's waker.
#[derive(Debug, Default)]
pub struct TaskWaker(atomic_waker::AtomicWaker);

impl TaskWaker {
    /// Storage without a waker.
    pub const fn new() -> Self {
        Self(atomic_waker::AtomicWaker::new())
    }

    /// Stores the task's waker in place of the previous one.
    pub fn register(&self, waker: &Waker) {
        self.0.register(waker);
    }

    /// Removes the stored waker, if any, and wakes its task.
    pub fn wake(&self) {
        self.0.wake();
    }
}
