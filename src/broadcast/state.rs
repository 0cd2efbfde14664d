//! The state table: the newest value of each key, for every connection.
//!
//! A chain tip or the own status is worth sending only in its newest version. Each change gives its
//! key the next version of one counter. A connection keeps the last version that it took, and asks
//! for the next higher one. It never meets a value that was superseded meanwhile. A connection that
//! joins begins at version zero, so it is sent every key.
//!
//! Invariant: `joiner_sees_newest_state`
//! - Statement: a connection that joins sees the newest value of each state key, unless its peer
//!   takes no unrequested messages at first ([`StateTable::cursor_at_end`]).
//! - Enforced by: a cursor begins before the first version, and a key is always found under its
//!   newest version.
//! - Breaks if: a connection parks without checking [`StateCursor::has_unread`].

use std::collections::hash_map::Entry as MapEntry;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use crossbeam_utils::CachePadded;

use super::WakeSet;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Most bytes of a [`StateKey::id`].
pub const MAX_STATE_ID_LEN: usize = 32;
/// Bytes that an entry costs beside its value.
const ENTRY_OVERHEAD: usize = 256;

/// What a state value is about: the application's kind, and up to 32 bytes that tell keys of that
/// kind apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateKey {
    kind: u16,
    len: u8,
    id: [u8; MAX_STATE_ID_LEN],
}

impl StateKey {
    /// The key; `None` if `id` is longer than [`MAX_STATE_ID_LEN`].
    pub fn new(kind: u16, id: &[u8]) -> Option<Self> {
        let mut bytes = [0; MAX_STATE_ID_LEN];
        bytes.get_mut(..id.len())?.copy_from_slice(id);
        Some(Self { kind, len: id.len() as u8, id: bytes })
    }

    /// The key with an empty id.
    pub const fn of_kind(kind: u16) -> Self {
        Self { kind, len: 0, id: [0; MAX_STATE_ID_LEN] }
    }

    /// The application's kind.
    pub const fn kind(&self) -> u16 {
        self.kind
    }

    /// What tells it from other keys of its kind.
    pub fn id(&self) -> &[u8] {
        &self.id[..usize::from(self.len)]
    }
}

impl fmt::Debug for StateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StateKey({}, {:02x?})", self.kind, self.id())
    }
}

/// Bounds of a state table. Both are hard: a value that does not fit is handed back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateConfig {
    /// Most keys. Default 1,024. A new connection is sent all of them.
    pub max_keys: usize,
    /// Most bytes of values, with 256 bytes a key for bookkeeping. Default 4 MiB.
    pub max_bytes: usize,
}

impl Default for StateConfig {
    fn default() -> Self {
        Self { max_keys: 1024, max_bytes: 4 << 20 }
    }
}

/// The bound that a value did not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StateLimit {
    /// [`StateConfig::max_keys`]: remove a key first.
    Keys,
    /// [`StateConfig::max_bytes`]: remove a key, or set a smaller value.
    Bytes,
}

/// A value was not taken. The table is unchanged; here is the value again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the state table is full: {limit:?}")]
pub struct StateTableFull {
    /// Its key.
    pub key: StateKey,
    /// The value.
    pub encoded: Bytes,
    /// The bound.
    pub limit: StateLimit,
}

/// A value on its way to one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateEntry {
    /// Its version. A connection meets versions in rising order.
    pub version: u64,
    /// Its key.
    pub key: StateKey,
    /// The encoded message, or messages, whole.
    pub encoded: Bytes,
}

#[derive(Debug, Default)]
struct Table {
    values: HashMap<StateKey, (u64, Bytes), foldhash::fast::RandomState>,
    by_version: BTreeMap<u64, StateKey>,
    bytes: usize,
}

impl Table {
    /// The bytes held once this key has a value of `size` bytes.
    fn bytes_with(&self, key: &StateKey, size: usize, config: &StateConfig) -> Result<usize, StateLimit> {
        let old = self.values.get(key).map(|(_, old)| old.len() + ENTRY_OVERHEAD);
        let bytes = self.bytes - old.unwrap_or(0) + size + ENTRY_OVERHEAD;
        match old {
            None if self.values.len() >= config.max_keys => Err(StateLimit::Keys),
            _ if bytes > config.max_bytes => Err(StateLimit::Bytes),
            _ => Ok(bytes),
        }
    }
}

/// The newest value of each key, shared by all connections.
#[derive(Debug)]
pub struct StateTable {
    wake_set: Arc<WakeSet>,
    config: StateConfig,
    table: Mutex<Table>,
    /// The newest version. Written under the lock; sleeping connections read it.
    version: CachePadded<AtomicU64>,
    bytes: AtomicUsize,
}

impl StateTable {
    /// An empty table that wakes the connections of `wake_set`.
    pub fn new(config: StateConfig, wake_set: Arc<WakeSet>) -> Arc<Self> {
        Arc::new(Self {
            wake_set,
            config,
            table: Mutex::new(Table::default()),
            version: CachePadded::new(AtomicU64::new(0)),
            bytes: AtomicUsize::new(0),
        })
    }

    /// Gives a key its newest value. Every connection is sent it, unless a newer one comes first.
    /// Returns its version.
    ///
    /// # Errors
    /// [`StateTableFull`] with the value if it does not fit. An older value stays.
    ///
    /// # Cost
    /// One short lock, O(log keys); wakes sleeping connections like an append.
    pub fn set(&self, key: StateKey, encoded: Bytes) -> Result<u64, StateTableFull> {
        let mut table = self.table.lock();
        let bytes = match table.bytes_with(&key, encoded.len(), &self.config) {
            Ok(bytes) => bytes,
            Err(limit) => return Err(StateTableFull { key, encoded, limit }),
        };
        let version = self.version.load(Ordering::Relaxed) + 1;
        let old = table.values.insert(key, (version, encoded));
        if let Some((old_version, _)) = &old {
            table.by_version.remove(old_version);
        }
        table.by_version.insert(version, key);
        table.bytes = bytes;
        self.bytes.store(bytes, Ordering::Relaxed);
        // Release pairs with the acquire in `has_unread`.
        self.version.store(version, Ordering::Release);
        drop(table);
        // The owner of the old value may run code of its own: not under the lock.
        drop(old);
        self.wake_set.notify();
        Ok(version)
    }

    /// Whether a value of `size` bytes would be taken now.
    ///
    /// # Errors
    /// The bound that it would not fit.
    pub fn check(&self, key: &StateKey, size: usize) -> Result<(), StateLimit> {
        self.table.lock().bytes_with(key, size, &self.config).map(drop)
    }

    /// Removes a key and returns its value. Connections that were not sent the value yet are not
    /// sent it any more. No connection is told of the removal.
    pub fn remove(&self, key: &StateKey) -> Option<Bytes> {
        let mut table = self.table.lock();
        let MapEntry::Occupied(entry) = table.values.entry(*key) else { return None };
        let (version, encoded) = entry.remove();
        table.by_version.remove(&version);
        table.bytes -= encoded.len() + ENTRY_OVERHEAD;
        self.bytes.store(table.bytes, Ordering::Relaxed);
        Some(encoded)
    }

    /// The newest value of a key.
    pub fn get(&self, key: &StateKey) -> Option<Bytes> {
        self.table.lock().values.get(key).map(|(_, encoded)| encoded.clone())
    }

    /// Keys in the table.
    pub fn len(&self) -> usize {
        self.table.lock().values.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory held, bookkeeping included.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The cursor of a connection. It begins before the first version, so all keys are sent.
    pub fn cursor(self: &Arc<Self>) -> StateCursor {
        StateCursor { table: Arc::clone(self), taken: 0 }
    }

    /// The cursor of a connection whose peer takes no unrequested messages at first. It begins
    /// behind the newest version, so only later values are sent.
    pub fn cursor_at_end(self: &Arc<Self>) -> StateCursor {
        StateCursor { taken: self.version.load(Ordering::Acquire), ..self.cursor() }
    }
}

/// One connection's position in the table: every value up to a version was taken or is superseded.
#[derive(Debug)]
pub struct StateCursor {
    table: Arc<StateTable>,
    taken: u64,
}

impl StateCursor {
    /// Whether there may be something to take.
    ///
    /// # Cost
    /// One atomic load.
    pub fn has_unread(&self) -> bool {
        self.table.version.load(Ordering::Acquire) != self.taken
    }

    /// Takes the oldest value that this connection has not been sent. It counts as sent from then
    /// on.
    ///
    /// # Cost
    /// One load if there is nothing; otherwise the table's short lock, O(log keys).
    pub fn take_next(&mut self) -> Option<StateEntry> {
        if !self.has_unread() {
            return None;
        }
        let table = self.table.table.lock();
        let Some((&version, &key)) = table.by_version.range(self.taken + 1..).next() else {
            // What was set is removed again.
            self.taken = self.table.version.load(Ordering::Relaxed);
            return None;
        };
        let encoded = table.values.get(&key).map(|(_, encoded)| encoded.clone());
        drop(table);
        self.taken = version;
        encoded.map(|encoded| StateEntry { version, key, encoded })
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    fn table() -> Arc<StateTable> {
        StateTable::new(StateConfig { max_keys: 3, max_bytes: 3 * ENTRY_OVERHEAD + 30 }, WakeSet::new())
    }

    fn drain(cursor: &mut StateCursor) -> Vec<(u16, Bytes)> {
        std::iter::from_fn(|| cursor.take_next()).map(|entry| (entry.key.kind(), entry.encoded)).collect()
    }

    #[test]
    fn a_joining_connection_sees_the_newest_value_of_every_key_once() {
        let table = table();
        for (kind, value) in [(1, "a"), (2, "b"), (1, "c"), (3, "d"), (1, "e")] {
            table.set(StateKey::of_kind(kind), Bytes::from_static(value.as_bytes())).unwrap();
        }
        let mut cursor = table.cursor();
        assert!(cursor.has_unread());
        assert_eq!(drain(&mut cursor), [(2, "b".into()), (3, "d".into()), (1, "e".into())]);
        assert!(!cursor.has_unread());
    }

    #[test]
    fn superseded_values_are_not_sent_and_versions_rise() {
        let table = table();
        let key = StateKey::new(7, b"tip").unwrap();
        let mut cursor = table.cursor();
        table.set(key, Bytes::from_static(b"1")).unwrap();
        let first = cursor.take_next().unwrap();
        table.set(key, Bytes::from_static(b"2")).unwrap();
        table.set(key, Bytes::from_static(b"3")).unwrap();
        let second = cursor.take_next().unwrap();
        assert!(second.version > first.version);
        assert_eq!(&second.encoded[..], b"3");
        assert_eq!(cursor.take_next(), None);
    }

    #[test]
    fn a_value_that_does_not_fit_is_returned_and_changes_nothing() {
        let table = table();
        for kind in 0..3 {
            table.set(StateKey::of_kind(kind), Bytes::from_static(b"0123456789")).unwrap();
        }
        let refused = table.set(StateKey::of_kind(3), Bytes::from_static(b"x")).unwrap_err();
        assert_eq!((refused.limit, &refused.encoded[..]), (StateLimit::Keys, &b"x"[..]));
        let refused = table.set(StateKey::of_kind(0), Bytes::from_static(b"0123456789x")).unwrap_err();
        assert_eq!(refused.limit, StateLimit::Bytes);
        assert_eq!(table.get(&StateKey::of_kind(0)).unwrap(), "0123456789");
        assert_eq!(table.remove(&StateKey::of_kind(2)).unwrap(), "0123456789");
        assert_eq!(table.bytes(), 2 * (ENTRY_OVERHEAD + 10));
        table.set(StateKey::of_kind(0), Bytes::from_static(b"0123456789x")).unwrap();
    }

    #[test]
    fn a_removed_key_leaves_nothing_unread() {
        let table = table();
        let mut cursor = table.cursor();
        table.set(StateKey::of_kind(1), Bytes::from_static(b"x")).unwrap();
        table.remove(&StateKey::of_kind(1));
        assert!(cursor.has_unread());
        assert_eq!(cursor.take_next(), None);
        assert!(!cursor.has_unread(), "a connection would never park");
    }

    #[test]
    fn a_key_longer_than_the_limit_is_refused() {
        assert!(StateKey::new(1, &[0; MAX_STATE_ID_LEN]).is_some());
        assert!(StateKey::new(1, &[0; MAX_STATE_ID_LEN + 1]).is_none());
        assert_ne!(StateKey::new(1, &[0]), StateKey::new(1, &[]));
    }
}
