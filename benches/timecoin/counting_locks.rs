//! Locks and keys that count their use in runs that ask for it, and cost nothing in the others.

use std::cell::Cell;
use std::fmt::Debug;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::net::IpAddr;

use tokio::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

thread_local! {
    static COUNTS: Cell<Counts> = const { Cell::new(Counts { map_locks: 0, connection_locks: 0, look_ups: 0 }) };
}

/// What one thread has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Locks of maps that were taken, for reading or writing.
    pub(crate) map_locks: u64,
    /// Mutexes of connections that were taken.
    pub(crate) connection_locks: u64,
    /// Keys that were hashed: one for each access to any map.
    pub(crate) look_ups: u64,
}

fn count(change: impl FnOnce(&mut Counts)) {
    COUNTS.with(|counts| {
        let mut now = counts.get();
        change(&mut now);
        counts.set(now);
    });
}

/// Takes the counts of this thread.
pub(crate) fn take() -> Counts {
    COUNTS.with(Cell::take)
}

/// A key by IP address.
pub(crate) trait Key: Copy + Eq + Hash + Debug + Send + Sync + 'static {
    /// Whether a run with this key counts.
    const COUNTED: bool;

    fn of(ip: IpAddr) -> Self;
}

impl Key for IpAddr {
    const COUNTED: bool = false;

    fn of(ip: IpAddr) -> Self {
        ip
    }
}

/// The key of runs that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CountedKey(IpAddr);

impl Hash for CountedKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        count(|counts| counts.look_ups += 1);
        self.0.hash(state);
    }
}

impl Key for CountedKey {
    const COUNTED: bool = true;

    fn of(ip: IpAddr) -> Self {
        Self(ip)
    }
}

/// A map's lock.
#[derive(Debug)]
pub(crate) struct MapLock<T, K>(RwLock<T>, PhantomData<K>);

impl<T: Default, K> Default for MapLock<T, K> {
    fn default() -> Self {
        Self(RwLock::default(), PhantomData)
    }
}

impl<T, K: Key> MapLock<T, K> {
    pub(crate) async fn read(&self) -> RwLockReadGuard<'_, T> {
        if K::COUNTED {
            count(|counts| counts.map_locks += 1);
        }
        self.0.read().await
    }

    pub(crate) async fn write(&self) -> RwLockWriteGuard<'_, T> {
        if K::COUNTED {
            count(|counts| counts.map_locks += 1);
        }
        self.0.write().await
    }
}

/// A connection's lock.
#[derive(Debug)]
pub(crate) struct ConnectionLock<C, K>(Mutex<C>, PhantomData<K>);

impl<C, K: Key> ConnectionLock<C, K> {
    pub(crate) fn new(connection: C) -> Self {
        Self(Mutex::new(connection), PhantomData)
    }

    pub(crate) async fn lock(&self) -> MutexGuard<'_, C> {
        if K::COUNTED {
            count(|counts| counts.connection_locks += 1);
        }
        self.0.lock().await
    }
}
