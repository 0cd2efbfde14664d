//! Errors of the store before their file and operation are known.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use redb::{DatabaseError, StorageError};

use super::SCHEMA;
use crate::address_book::AddressBookError;

pub(super) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// What went wrong. [`Fault::on_open`] and [`Fault::into_cause`] turn it into an
/// [`AddressBookError`].
#[derive(Debug)]
pub(super) enum Fault {
    /// The file system or the database failed.
    System(Cause),
    /// The contents are damaged.
    Damaged(Cause),
    /// The file is not an address book.
    Foreign(Cause),
    /// Another process or another book uses the file.
    InUse,
    /// The file has this schema.
    Schema(u64),
}

impl Fault {
    pub(super) fn system(cause: impl Into<Cause>) -> Self {
        Self::System(cause.into())
    }

    pub(super) fn damaged(cause: impl Into<Cause>) -> Self {
        Self::Damaged(cause.into())
    }

    /// The fault of a failed read: of the disk, or of the contents.
    pub(super) fn reading(error: impl Into<redb::Error>) -> Self {
        match error.into() {
            redb::Error::Io(io) => Self::system(io),
            error => Self::damaged(error),
        }
    }

    pub(super) fn on_open(self, path: &Path) -> AddressBookError {
        let path = path.to_owned();
        match self {
            Self::System(cause) => AddressBookError::Open { path, cause },
            Self::Damaged(cause) => AddressBookError::Corrupt { path, cause },
            Self::Foreign(cause) => AddressBookError::Foreign { path, cause },
            Self::InUse => AddressBookError::InUse { path },
            Self::Schema(found) => AddressBookError::Schema { path, found, supported: SCHEMA },
        }
    }

    pub(super) fn into_cause(self) -> Cause {
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
                // The file is shorter than its header says.
                io::ErrorKind::UnexpectedEof => Self::Damaged(io.into()),
                _ => Self::System(io.into()),
            },
            DatabaseError::UpgradeRequired(_) => Self::Foreign(error.into()),
            error => Self::Damaged(error.into()),
        }
    }
}

/// Runs `work` and turns a panic into an error: redb asserts on bytes that redb would not have
/// written.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(Fault::damaged(format!("the database panicked: {text}")))
    })
}
