//! What the door hands out under `--cfg peerpool_loom`: the faces of `real`, made of loom's parts.

use std::sync::Arc;
use std::task::Waker;

/// Atomic integers and fences, as loom explores them.
pub mod atomic {
    pub use loom::sync::atomic::{
        AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
    };
}

pub use loom::sync::MutexGuard;
use loom::sync::{RwLockReadGuard, RwLockWriteGuard};
/// Not a twin: an initialiser must be pure, so there is nothing for loom to explore inside it.
pub use std::sync::OnceLock;

/// A short-held lock.
#[derive(Debug)]
pub struct Mutex<T>(loom::sync::Mutex<T>);

impl<T> Mutex<T> {
    /// A lock around `value`.
    pub fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    /// Waits for the lock.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

/// A short-held lock that any number may read under at once.
#[derive(Debug)]
pub struct RwLock<T>(loom::sync::RwLock<T>);

impl<T> RwLock<T> {
    /// A lock around `value`.
    pub fn new(value: T) -> Self {
        Self(loom::sync::RwLock::new(value))
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

/// A cell that readers read while writers replace what is in it.
#[derive(Debug)]
pub struct SwapCell<T>(Mutex<Arc<T>>);

impl<T> SwapCell<T> {
    /// A cell that holds `value`.
    pub fn new(value: Arc<T>) -> Self {
        Self(Mutex::new(value))
    }

    /// What the cell holds.
    pub fn load(&self) -> Arc<T> {
        Arc::clone(&self.0.lock())
    }

    /// Looks at what the cell holds.
    pub fn read<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.load())
    }

    /// Replaces what the cell holds and returns what it held.
    pub fn swap(&self, value: Arc<T>) -> Arc<T> {
        std::mem::replace(&mut *self.0.lock(), value)
    }

    /// Replaces what the cell holds by what `change` makes of it, again and again until nobody replaced it meanwhile.
    pub fn update(&self, mut change: impl FnMut(&T) -> T) {
        loop {
            let before = self.load();
            let after = Arc::new(change(&before));
            let mut held = self.0.lock();
            if Arc::ptr_eq(&held, &before) {
                let old = std::mem::replace(&mut *held, after);
                drop(held);
                drop(old);
                return;
            }
        }
    }

    /// Takes out what the cell holds.
    pub fn into_inner(self) -> Arc<T> {
        self.load()
    }
}

/// A place for one task's waker.
#[derive(Debug)]
pub struct TaskWaker(loom::future::AtomicWaker);

impl TaskWaker {
    /// An empty place.
    pub fn new() -> Self {
        Self(loom::future::AtomicWaker::new())
    }

    /// Registers the task to wake; the last one registered wins.
    pub fn register(&self, waker: &Waker) {
        self.0.register_by_ref(waker);
    }

    /// Wakes the registered task, if there is one, and forgets it.
    pub fn wake(&self) {
        self.0.wake();
    }
}

impl Default for TaskWaker {
    fn default() -> Self {
        Self::new()
    }
}
