//! What the door hands out in a normal build.

use std::sync::Arc;
use std::task::Waker;

/// Atomic integers and fences.
pub mod atomic {
    pub use std::sync::atomic::{
        AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
    };
}

pub use std::sync::{MutexGuard, OnceLock};
use std::sync::{RwLockReadGuard, RwLockWriteGuard};

/// A short-held lock. A panic while it is held does not poison it: every critical section of this crate leaves its data
/// whole at each step.
#[derive(Debug, Default)]
pub struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    /// A lock around `value`.
    pub const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    /// Waits for the lock.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A short-held lock that any number may read under at once. As [`Mutex`], it is never poisoned.
#[derive(Debug, Default)]
pub struct RwLock<T>(std::sync::RwLock<T>);

impl<T> RwLock<T> {
    /// A lock around `value`.
    pub const fn new(value: T) -> Self {
        Self(std::sync::RwLock::new(value))
    }

    /// Waits for a share in the lock.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Waits for the whole lock.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A cell that readers read without waiting while writers replace what is in it.
#[derive(Debug)]
pub struct SwapCell<T>(arc_swap::ArcSwap<T>);

impl<T> SwapCell<T> {
    /// A cell that holds `value`.
    pub fn new(value: Arc<T>) -> Self {
        Self(arc_swap::ArcSwap::new(value))
    }

    /// What the cell holds. Cost: one reference count.
    pub fn load(&self) -> Arc<T> {
        self.0.load_full()
    }

    /// Looks at what the cell holds, without a reference count.
    pub fn read<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.0.load())
    }

    /// Replaces what the cell holds and returns what it held.
    pub fn swap(&self, value: Arc<T>) -> Arc<T> {
        self.0.swap(value)
    }

    /// Replaces what the cell holds by what `change` makes of it, again and again until nobody replaced it meanwhile.
    pub fn update(&self, mut change: impl FnMut(&T) -> T) {
        self.0.rcu(|value| change(value));
    }

    /// Takes out what the cell holds.
    pub fn into_inner(self) -> Arc<T> {
        self.0.into_inner()
    }
}

/// A place for one task's waker.
#[derive(Debug, Default)]
pub struct TaskWaker(atomic_waker::AtomicWaker);

impl TaskWaker {
    /// An empty place.
    pub const fn new() -> Self {
        Self(atomic_waker::AtomicWaker::new())
    }

    /// Registers the task to wake; the last one registered wins.
    pub fn register(&self, waker: &Waker) {
        self.0.register(waker);
    }

    /// Wakes the registered task, if there is one, and forgets it.
    pub fn wake(&self) {
        self.0.wake();
    }
}
