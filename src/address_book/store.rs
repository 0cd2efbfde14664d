//! The file: a redb database of three tables. Everything here blocks.
//!
//! The stored forms are types of their own, so that a change of [`Address`] does not change the file unnoticed. Whoever
//! changes one raises [`SCHEMA`].

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition, TableHandle,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::dirty::Batch;
use super::{Address, AddressBookError, Ban, BanTarget, FailureCause, Source, WallTime};
use crate::base::PeerId;

/// The open file, or, after a failed write, the wish to open it again.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    /// `None` after an error: redb refuses further work on a database that met one.
    db: Option<Database>,
}

/// What the file held.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) addresses: Vec<Address>,
    pub(super) bans: Vec<Ban>,
}

/// What a reopening found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reopened {
    /// The file as it was, or no need to look.
    AsBefore,
    /// A new file: somebody has taken the old one away.
    Empty,
}

impl Store {
    pub(super) fn open(path: &Path) -> Result<(Self, Contents), AddressBookError> {
        let (db, _) = open(path)?;
        let contents = guarded(|| load(&db)).map_err(|fault| fault.on_open(path))?;
        Ok((Self { path: path.to_owned(), db: Some(db) }, contents))
    }

    /// Opens the file again if an error has closed it.
    pub(super) fn reopen(&mut self) -> Result<Reopened, AddressBookError> {
        if self.db.is_some() {
            return Ok(Reopened::AsBefore);
        }
        let (db, state) = open(&self.path)?;
        self.db = Some(db);
        Ok(state)
    }

    /// As after an error.
    #[cfg(all(test, not(peerpool_loom)))]
    pub(super) fn close(&mut self) {
        self.db = None;
    }

    /// Writes a batch in one transaction that is on disk when this returns.
    pub(super) fn write(&mut self, batch: &Batch) -> Result<(), AddressBookError> {
        let Some(db) = self.db.take() else {
            let cause = Box::new(io::Error::other("closed after an earlier error"));
            return Err(AddressBookError::Write { path: self.path.clone(), cause });
        };
        match guarded(|| write(&db, batch)) {
            Ok(()) => {
                self.db = Some(db);
                Ok(())
            }
            Err(fault) => {
                // Closing a database that met an error may panic in its turn.
                let _ = catch_unwind(AssertUnwindSafe(|| drop(db)));
                Err(AddressBookError::Write { path: self.path.clone(), cause: fault.into_cause() })
            }
        }
    }
}

/// Opens or creates the file and makes sure that it is a book of ours.
fn open(path: &Path) -> Result<(Database, Reopened), AddressBookError> {
    let is_new = !path.exists() && create(path).map_err(|fault| fault.on_open(path))?;
    let db = guarded(|| {
        // The check makes a damaged page an error here; unchecked, redb may trust it and panic later.
        let mut builder = Database::builder();
        builder.set_check_integrity_on_open(true).set_cache_size(CACHE);
        builder.create(path).map_err(Fault::from)
    })
    .map_err(|fault| fault.on_open(path))?;
    let state = guarded(|| prepare(&db)).map_err(|fault| fault.on_open(path))?;
    Ok((db, if is_new { Reopened::Empty } else { state }))
}

/// Makes a new book beside `path` and gives it its name only when it is whole: a process killed in between leaves no half-made
/// file that could not be opened again. Somebody else's file that appears meanwhile is left alone: then `false`.
fn create(path: &Path) -> Result<bool, Fault> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let beside = PathBuf::from(name);
    let io = |error| Fault::from(DatabaseError::Storage(StorageError::Io(error)));
    // Left by a process of this number that was killed while it made one: in a container they begin anew each time.
    let _ = std::fs::remove_file(&beside);
    let made = guarded(|| {
        let db = Database::builder().create(&beside).map_err(Fault::from)?;
        prepare(&db).map(drop)
    });
    // A link, unlike a rename, never replaces what is there; where the file system has none, the rename must do.
    let named = made.and_then(|()| match std::fs::hard_link(&beside, path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(_) => std::fs::rename(&beside, path).map(|()| true).map_err(io),
    });
    // Gone already after a rename.
    let _ = std::fs::remove_file(&beside);
    if let Ok(true) = named
        && let Err(error) = sync_name(path)
    {
        // The file is there and good; a loss of power in the next seconds may take its name.
        tracing::warn!(path = %path.display(), %error, "the name of the new book is not on disk yet");
    }
    named
}

/// Puts the name of a new file on disk, which lies in its directory.
#[cfg(unix)]
fn sync_name(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(directory)?.sync_all()
}

/// Elsewhere a directory cannot be opened for that.
#[cfg(not(unix))]
fn sync_name(_path: &Path) -> io::Result<()> {
    Ok(())
}

/// Checks the schema, and writes it into a new file.
fn prepare(db: &Database) -> Result<Reopened, Fault> {
    let read = db.begin_read().map_err(Fault::reading)?;
    let tables: Vec<String> =
        read.list_tables().map_err(Fault::reading)?.map(|table| table.name().to_owned()).collect();
    if tables.iter().any(|name| name == META.name()) {
        let meta = read.open_table(META).map_err(Fault::reading)?;
        let found = meta.get(SCHEMA_KEY).map_err(Fault::reading)?.map_or(0, |value| value.value());
        return if found == SCHEMA { Ok(Reopened::AsBefore) } else { Err(Fault::Schema(found)) };
    }
    if !tables.is_empty() {
        return Err(Fault::Foreign("a database of something else".into()));
    }
    drop(read);
    let write = db.begin_write().map_err(Fault::system)?;
    {
        write.open_table(META).map_err(Fault::system)?.insert(SCHEMA_KEY, SCHEMA).map_err(Fault::system)?;
        write.open_table(ADDRESSES).map_err(Fault::system)?;
        write.open_table(BANS).map_err(Fault::system)?;
    }
    write.commit().map_err(Fault::system)?;
    Ok(Reopened::Empty)
}

fn load(db: &Database) -> Result<Contents, Fault> {
    let read = db.begin_read().map_err(Fault::reading)?;
    let mut contents = Contents::default();
    for row in read.open_table(ADDRESSES).map_err(Fault::reading)?.iter().map_err(Fault::reading)? {
        let (key, value) = row.map_err(Fault::reading)?;
        let stored: StoredAddress = decode(value.value())?;
        contents.addresses.push(stored.restore(decode::<StoredAddr>(key.value())?.into()));
    }
    for row in read.open_table(BANS).map_err(Fault::reading)?.iter().map_err(Fault::reading)? {
        let (key, value) = row.map_err(Fault::reading)?;
        let (since, until) = decode(value.value())?;
        contents.bans.push(Ban { target: decode::<StoredTarget>(key.value())?.into(), since, until });
    }
    Ok(contents)
}

fn write(db: &Database, batch: &Batch) -> Result<(), Fault> {
    let write = db.begin_write().map_err(Fault::system)?;
    if batch.anew {
        write.delete_table(ADDRESSES).map_err(Fault::system)?;
        write.delete_table(BANS).map_err(Fault::system)?;
    }
    {
        let mut table = write.open_table(ADDRESSES).map_err(Fault::system)?;
        for (addr, entry) in &batch.addresses {
            let key = encode(&StoredAddr::from(*addr))?;
            match entry {
                Some(entry) => {
                    let value = encode(&StoredAddress::of(entry))?;
                    table.insert(key.as_slice(), value.as_slice()).map_err(Fault::system)?;
                }
                None => drop(table.remove(key.as_slice()).map_err(Fault::system)?),
            }
        }
        let mut table = write.open_table(BANS).map_err(Fault::system)?;
        for (target, ban) in &batch.bans {
            let key = encode(&StoredTarget::from(*target))?;
            match ban {
                Some(ban) => {
                    let value = encode(&(ban.since, ban.until))?;
                    table.insert(key.as_slice(), value.as_slice()).map_err(Fault::system)?;
                }
                None => drop(table.remove(key.as_slice()).map_err(Fault::system)?),
            }
        }
    }
    // redb's default durability: the data is synced before the commit returns.
    write.commit().map_err(Fault::system)
}

/// A socket address with its scope, which serde's own form loses.
#[derive(Serialize, Deserialize)]
struct StoredAddr(IpAddr, u16, u32);

impl From<SocketAddr> for StoredAddr {
    fn from(addr: SocketAddr) -> Self {
        let scope = match addr {
            SocketAddr::V4(_) => 0,
            SocketAddr::V6(v6) => v6.scope_id(),
        };
        Self(addr.ip(), addr.port(), scope)
    }
}

impl From<StoredAddr> for SocketAddr {
    fn from(StoredAddr(ip, port, scope): StoredAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::new(ip, port),
            IpAddr::V6(v6) => Self::V6(SocketAddrV6::new(v6, port, 0, scope)),
        }
    }
}

/// A [`BanTarget`] as the file has it.
#[derive(Serialize, Deserialize)]
enum StoredTarget {
    Ip(IpAddr),
    Key([u8; 32]),
    Addr(StoredAddr),
}

impl From<BanTarget> for StoredTarget {
    fn from(target: BanTarget) -> Self {
        match target {
            BanTarget::Ip(ip) => Self::Ip(ip),
            BanTarget::Peer(PeerId::Key(key)) => Self::Key(key),
            BanTarget::Peer(PeerId::Addr(addr)) => Self::Addr(addr.into()),
        }
    }
}

impl From<StoredTarget> for BanTarget {
    fn from(target: StoredTarget) -> Self {
        match target {
            StoredTarget::Ip(ip) => Self::Ip(ip),
            StoredTarget::Key(key) => Self::Peer(PeerId::Key(key)),
            StoredTarget::Addr(addr) => Self::Peer(PeerId::Addr(addr.into())),
        }
    }
}

/// An [`Address`] as the file has it, without the address itself, which is the key.
#[derive(Serialize, Deserialize)]
struct StoredAddress {
    source: Source,
    first_seen: WallTime,
    last_attempt: Option<WallTime>,
    last_success: Option<WallTime>,
    failures: u32,
    next_attempt: WallTime,
    trusted: bool,
    alias_of: Option<StoredAddr>,
    self_since: Option<WallTime>,
    last_cause: Option<FailureCause>,
}

impl StoredAddress {
    fn of(entry: &Address) -> Self {
        Self {
            source: entry.source,
            first_seen: entry.first_seen,
            last_attempt: entry.last_attempt,
            last_success: entry.last_success,
            failures: entry.failures,
            next_attempt: entry.next_attempt,
            trusted: entry.trusted,
            alias_of: entry.alias_of.map(StoredAddr::from),
            self_since: entry.self_since,
            last_cause: entry.last_cause,
        }
    }

    fn restore(self, addr: SocketAddr) -> Address {
        Address {
            addr,
            source: self.source,
            first_seen: self.first_seen,
            last_attempt: self.last_attempt,
            last_success: self.last_success,
            failures: self.failures,
            next_attempt: self.next_attempt,
            trusted: self.trusted,
            alias_of: self.alias_of.map(SocketAddr::from),
            self_since: self.self_since,
            last_cause: self.last_cause,
        }
    }
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Fault> {
    postcard::to_allocvec(value).map_err(Fault::system)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Fault> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(Fault::Damaged("a record with a tail".into())),
        Err(error) => Err(Fault::damaged(error)),
    }
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// What went wrong, before it is known on which file and in which operation.
#[derive(Debug)]
enum Fault {
    System(Cause),
    Damaged(Cause),
    Foreign(Cause),
    InUse,
    Schema(u64),
}

impl Fault {
    fn system(cause: impl Into<Cause>) -> Self {
        Self::System(cause.into())
    }

    fn damaged(cause: impl Into<Cause>) -> Self {
        Self::Damaged(cause.into())
    }

    /// The kind of an error of a read: the disk's, or the contents'.
    fn reading(error: impl Into<redb::Error>) -> Self {
        match error.into() {
            redb::Error::Io(io) => Self::system(io),
            error => Self::damaged(error),
        }
    }

    fn on_open(self, path: &Path) -> AddressBookError {
        let path = path.to_owned();
        match self {
            Self::System(cause) => AddressBookError::Open { path, cause },
            Self::Damaged(cause) => AddressBookError::Corrupt { path, cause },
            Self::Foreign(cause) => AddressBookError::Foreign { path, cause },
            Self::InUse => AddressBookError::InUse { path },
            Self::Schema(found) => AddressBookError::Schema { path, found, supported: SCHEMA },
        }
    }

    fn into_cause(self) -> Cause {
        match self {
            Self::System(cause) | Self::Damaged(cause) | Self::Foreign(cause) => cause,
            Self::InUse => "in use".into(),
            Self::Schema(found) => format!("schema {found}").into(),
        }
    }
}

impl From<DatabaseError> for Fault {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => Self::InUse,
            DatabaseError::Storage(StorageError::Io(io)) => match io.kind() {
                io::ErrorKind::InvalidData => Self::Foreign(io.into()),
                // A file that ends before its header says it does.
                io::ErrorKind::UnexpectedEof => Self::Damaged(io.into()),
                _ => Self::System(io.into()),
            },
            DatabaseError::UpgradeRequired(_) => Self::Foreign(error.into()),
            error => Self::Damaged(error.into()),
        }
    }
}

/// Runs `work` and turns a panic into an error: redb asserts on bytes that no redb would have written.
fn guarded<T>(work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(Fault::Damaged(format!("the database panicked: {text}").into()))
    })
}

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("peerpool.book");
/// From a postcard [`StoredAddr`] to a postcard [`StoredAddress`].
const ADDRESSES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("addresses");
/// From a postcard [`StoredTarget`] to a postcard pair of beginning and end.
const BANS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("bans");

const SCHEMA_KEY: &str = "schema";
/// Raised by every change of what the tables hold.
const SCHEMA: u64 = 1;

/// Bytes that redb may cache; the book itself is read once.
const CACHE: usize = 1 << 20;
