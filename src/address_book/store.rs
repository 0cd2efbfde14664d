//! The file: a redb database of three tables. Every call blocks.
//!
//! A new file is made beside its path and renamed when it is complete. A write is one transaction
//! that is synced to the disk before it returns. After a failed write the database is closed, since
//! redb refuses further work on it, and the next flush opens it again.

mod fault;
mod records;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition, TableHandle,
    WriteTransaction,
};

use self::fault::{Fault, guarded};
use self::records::{StoredAddr, StoredAddress, StoredTarget, decode, encode};
use super::dirty::Batch;
use super::{Address, AddressBookError, Ban};

/// A table of postcard keys and values.
type Records = TableDefinition<'static, &'static [u8], &'static [u8]>;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("peerpool.book");
/// From a [`StoredAddr`] to a [`StoredAddress`].
const ADDRESSES: Records = TableDefinition::new("addresses");
/// From a [`StoredTarget`] to a pair of start and end.
const BANS: Records = TableDefinition::new("bans");

const SCHEMA_KEY: &str = "schema";
/// Raised by every change of the tables' contents.
const SCHEMA: u64 = 1;

/// Bytes of redb's cache. The book is read only once.
const CACHE_BYTES: usize = 1 << 20;

/// The open file.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    /// `None` after an error, until the next [`Store::reopen`].
    db: Option<Database>,
    /// The next write fails as on a full disk.
    #[cfg(all(test, not(peerpool_loom)))]
    pub(super) fails_next: bool,
}

/// The records of the file.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) addresses: Vec<Address>,
    pub(super) bans: Vec<Ban>,
}

/// The state of the file after [`Store::reopen`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reopened {
    /// The file has the records that were written before.
    Unchanged,
    /// The file is new: the old one was moved or deleted.
    Empty,
}

impl Store {
    /// Opens or creates the file and reads it.
    pub(super) fn open(path: &Path) -> Result<(Self, Contents), AddressBookError> {
        let (db, _) = open(path)?;
        let contents = guarded(|| load(&db)).map_err(|fault| fault.on_open(path))?;
        let store = Self {
            path: path.to_owned(),
            db: Some(db),
            #[cfg(all(test, not(peerpool_loom)))]
            fails_next: false,
        };
        Ok((store, contents))
    }

    /// Opens the file again if an error has closed it.
    pub(super) fn reopen(&mut self) -> Result<Reopened, AddressBookError> {
        if self.db.is_some() {
            return Ok(Reopened::Unchanged);
        }
        let (db, state) = open(&self.path)?;
        self.db = Some(db);
        Ok(state)
    }

    /// Closes the file as an error does.
    #[cfg(all(test, not(peerpool_loom)))]
    pub(super) fn close(&mut self) {
        self.db = None;
    }

    /// Writes a batch in one transaction, which is on disk when this returns.
    pub(super) fn write(&mut self, batch: &Batch) -> Result<(), AddressBookError> {
        let Some(db) = self.db.take() else {
            let cause = Box::new(io::Error::other("closed after an earlier error"));
            return Err(AddressBookError::Write { path: self.path.clone(), cause });
        };
        #[cfg(all(test, not(peerpool_loom)))]
        if std::mem::take(&mut self.fails_next) {
            let cause = Box::new(io::Error::from(io::ErrorKind::StorageFull));
            return Err(AddressBookError::Write { path: self.path.clone(), cause });
        }
        match guarded(|| write(&db, batch)) {
            Ok(()) => {
                self.db = Some(db);
                Ok(())
            }
            Err(fault) => {
                // Closing a database after an error may panic too.
                let _ = catch_unwind(AssertUnwindSafe(|| drop(db)));
                Err(AddressBookError::Write { path: self.path.clone(), cause: fault.into_cause() })
            }
        }
    }
}

/// Opens or creates the file and checks that it is an address book.
fn open(path: &Path) -> Result<(Database, Reopened), AddressBookError> {
    let is_new = !path.exists() && create(path).map_err(|fault| fault.on_open(path))?;
    let db = guarded(|| {
        // The check turns a damaged page into an error here. Without it, redb may trust the page
        // and panic later.
        let mut builder = Database::builder();
        builder.set_check_integrity_on_open(true).set_cache_size(CACHE_BYTES);
        builder.create(path).map_err(Fault::from)
    })
    .map_err(|fault| fault.on_open(path))?;
    let state = guarded(|| prepare(&db)).map_err(|fault| fault.on_open(path))?;
    Ok((db, if is_new { Reopened::Empty } else { state }))
}

/// Creates a book beside `path` and gives it its name when it is complete, so that a process killed
/// in between leaves no partial file. Returns `false`, and changes nothing, if another file appears
/// at `path` meanwhile.
fn create(path: &Path) -> Result<bool, Fault> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let temporary = PathBuf::from(name);
    let io = |error| Fault::from(DatabaseError::Storage(StorageError::Io(error)));
    // A process with this id may have been killed here. In a container, process ids repeat at every
    // start.
    let _ = std::fs::remove_file(&temporary);
    let made = guarded(|| {
        let db = Database::builder().create(&temporary).map_err(Fault::from)?;
        prepare(&db).map(drop)
    });
    // A hard link, unlike a rename, never replaces a file. File systems without links get a rename.
    let named = made.and_then(|()| match std::fs::hard_link(&temporary, path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(_) => std::fs::rename(&temporary, path).map(|()| true).map_err(io),
    });
    // After a rename the file is gone already.
    let _ = std::fs::remove_file(&temporary);
    if let Ok(true) = named
        && let Err(error) = sync_directory(path)
    {
        // The file is complete; only its name may be lost if the power fails in the next seconds.
        tracing::warn!(path = %path.display(), %error, "cannot sync the directory of the new address book");
    }
    named
}

/// Syncs the directory of a new file, which stores its name.
#[cfg(unix)]
fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(directory)?.sync_all()
}

/// Other systems cannot open a directory for a sync.
#[cfg(not(unix))]
fn sync_directory(_path: &Path) -> io::Result<()> {
    Ok(())
}

/// Checks the schema, or writes it into a new file.
fn prepare(db: &Database) -> Result<Reopened, Fault> {
    let read = db.begin_read().map_err(Fault::reading)?;
    let tables: Vec<String> =
        read.list_tables().map_err(Fault::reading)?.map(|table| table.name().to_owned()).collect();
    if tables.iter().any(|name| name == META.name()) {
        let meta = read.open_table(META).map_err(Fault::reading)?;
        let found = meta.get(SCHEMA_KEY).map_err(Fault::reading)?.map_or(0, |value| value.value());
        return if found == SCHEMA { Ok(Reopened::Unchanged) } else { Err(Fault::Schema(found)) };
    }
    if !tables.is_empty() {
        return Err(Fault::Foreign("a database of another program".into()));
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
        contents.addresses.push(stored.into_address(decode::<StoredAddr>(key.value())?.into()));
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
    if batch.replace_all {
        write.delete_table(ADDRESSES).map_err(Fault::system)?;
        write.delete_table(BANS).map_err(Fault::system)?;
    }
    let addresses = batch.addresses.iter().map(|(addr, entry)| {
        let value = entry.as_ref().map(|entry| encode(&StoredAddress::from(entry))).transpose()?;
        Ok((encode(&StoredAddr::from(*addr))?, value))
    });
    write_records(&write, ADDRESSES, addresses)?;
    let bans = batch.bans.iter().map(|(target, ban)| {
        let value = ban.map(|ban| encode(&(ban.since, ban.until))).transpose()?;
        Ok((encode(&StoredTarget::from(*target))?, value))
    });
    write_records(&write, BANS, bans)?;
    // With redb's default durability the data is synced before the commit returns.
    write.commit().map_err(Fault::system)
}

/// Writes encoded records, and removes those without a value.
fn write_records(
    write: &WriteTransaction,
    table: Records,
    records: impl Iterator<Item = Result<(Vec<u8>, Option<Vec<u8>>), Fault>>,
) -> Result<(), Fault> {
    let mut table = write.open_table(table).map_err(Fault::system)?;
    for record in records {
        let (key, value) = record?;
        match value {
            Some(value) => drop(table.insert(key.as_slice(), value.as_slice()).map_err(Fault::system)?),
            None => drop(table.remove(key.as_slice()).map_err(Fault::system)?),
        }
    }
    Ok(())
}
