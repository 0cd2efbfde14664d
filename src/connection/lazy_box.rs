//! A lazily allocated, mutex-guarded box.

use std::ops::{Deref, DerefMut};

use crate::sync::{Mutex, MutexGuard};

/// A value behind a lock that is allocated on first use and stays until it is taken out.
#[derive(Debug)]
pub(super) struct LazyBox<T>(Mutex<Option<Box<T>>>);

/// The lock of a [`LazyBox`] whose value is allocated.
pub(super) struct LazyGuard<'a, T>(MutexGuard<'a, Option<Box<T>>>);

impl<T> LazyBox<T> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Locks, and allocates the value if it is not there.
    pub(super) fn lock_or(&self, make: impl FnOnce() -> T) -> LazyGuard<'_, T> {
        let mut guard = self.0.lock();
        if guard.is_none() {
            *guard = Some(Box::new(make()));
        }
        LazyGuard(guard)
    }

    /// Locks and runs `f` on the value, if it is allocated.
    pub(super) fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.0.lock().as_deref_mut().map(f)
    }

    /// Takes the value out if `condition` holds.
    pub(super) fn take_if(&self, condition: impl FnOnce(&mut T) -> bool) -> Option<Box<T>> {
        self.0.lock().take_if(|value| condition(value))
    }

    /// Takes the value out.
    pub(super) fn take(&self) -> Option<Box<T>> {
        self.0.lock().take()
    }
}

impl<T: Default> LazyBox<T> {
    pub(super) fn lock(&self) -> LazyGuard<'_, T> {
        self.lock_or(T::default)
    }
}

impl<T> Deref for LazyGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self.0.as_deref() {
            Some(value) => value,
            None => unreachable!("the guard allocated it"),
        }
    }
}

impl<T> DerefMut for LazyGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        match self.0.as_deref_mut() {
            Some(value) => value,
            None => unreachable!("the guard allocated it"),
        }
    }
}
