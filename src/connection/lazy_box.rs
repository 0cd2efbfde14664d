//! What most connections never need.

use std::ops::{Deref, DerefMut};

use crate::sync::{Mutex, MutexGuard};

/// Something under a lock that is made when it is first needed, and then stays until it is taken out.
#[derive(Debug)]
pub(super) struct LazyBox<T>(Mutex<Option<Box<T>>>);

/// The lock of a [`LazyBox`] that is there.
pub(super) struct LazyGuard<'a, T>(MutexGuard<'a, Option<Box<T>>>);

impl<T> LazyBox<T> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Waits for the lock, and makes it if it is not there.
    pub(super) fn lock_or(&self, make: impl FnOnce() -> T) -> LazyGuard<'_, T> {
        let mut guard = self.0.lock();
        if guard.is_none() {
            *guard = Some(Box::new(make()));
        }
        LazyGuard(guard)
    }

    /// Waits for the lock and looks at it, if it is there.
    pub(super) fn look<R>(&self, look: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.0.lock().as_deref_mut().map(look)
    }

    /// Takes it out if it holds nothing any more.
    pub(super) fn take_if(&self, is_idle: impl FnOnce(&mut T) -> bool) -> Option<Box<T>> {
        self.0.lock().take_if(|value| is_idle(value))
    }

    /// Takes it out.
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
            None => unreachable!("it was made with the guard"),
        }
    }
}

impl<T> DerefMut for LazyGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        match self.0.as_deref_mut() {
            Some(value) => value,
            None => unreachable!("it was made with the guard"),
        }
    }
}
