//! The facade's types under `--cfg peerpool_loom`: the interfaces of `std_impl`, built from loom's
//! parts.

use std::sync::Arc;
use std::task::Waker;

pub use loom::sync::MutexGuard;
/// The standard type: an initialiser must be pure, so loom has nothing to explore in it.
pub use std::sync::OnceLock;

/// Atomic integers and fences, as loom explores them.
pub mod atomic {
    pub use loom::sync::atomic::{
        AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
    };
}

/// A mutex for short critical sections.
#[derive(Debug)]
pub struct Mutex<T>(loom::sync::Mutex<T>);

impl<T> Mutex<T> {
    /// A mutex around `value`.
    pub fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    /// Blocks until the lock is acquired.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

/// A shared value that readers load while writers replace it.
#[derive(Debug)]
pub struct SwapCell<T>(Mutex<Arc<T>>);

impl<T> SwapCell<T> {
    /// A cell that holds `value`.
    pub fn new(value: Arc<T>) -> Self {
        Self(Mutex::new(value))
    }

    /// The current value.
    pub fn load(&self) -> Arc<T> {
        Arc::clone(&self.0.lock())
    }

    /// Passes the current value to `inspect`.
    pub fn read<R>(&self, inspect: impl FnOnce(&T) -> R) -> R {
        inspect(&self.load())
    }

    /// Replaces the value and returns the previous one.
    pub fn swap(&self, value: Arc<T>) -> Arc<T> {
        std::mem::replace(&mut *self.0.lock(), value)
    }

    /// Replaces the value by `change` of it. Calls `change` again if another thread replaced the
    /// value meanwhile.
    pub fn update(&self, mut change: impl FnMut(&T) -> T) {
        loop {
            let before = self.load();
            let after = Arc::new(change(&before));
            let mut current = self.0.lock();
            if Arc::ptr_eq(&current, &before) {
                let replaced = std::mem::replace(&mut *current, after);
                drop(current);
                drop(replaced);
                return;
            }
        }
    }

    /// Takes the value out of the cell.
    pub fn into_inner(self) -> Arc<T> {
        self.load()
    }
}

/// Storage for one task's waker.
#[derive(Debug)]
pub struct TaskWaker(loom::future::AtomicWaker);

impl TaskWaker {
    /// Storage without a waker.
    pub fn new() -> Self {
        Self(loom::future::AtomicWaker::new())
    }

    /// Stores the task's waker in place of the previous one.
    pub fn register(&self, waker: &Waker) {
        self.0.register_by_ref(waker);
    }

    /// Removes the stored waker, if any, and wakes its task.
    pub fn wake(&self) {
        self.0.wake();
    }
}

impl Default for TaskWaker {
    fn default() -> Self {
        Self::new()
    }
}
