//! Errors of the book's file.

use std::error::Error;
use std::path::PathBuf;

use thiserror::Error;

/// An error of the file system or the database.
type Cause = Box<dyn Error + Send + Sync>;

/// Why the book's file cannot be used. Each message names the file and a remedy.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AddressBookError {
    /// The file cannot be opened or created.
    #[error("cannot open the address book {}: {cause}; check that its directory exists and is writable, or choose another path", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        cause: Cause,
    },
    /// Another process, or another book of this process, uses the file.
    #[error("the address book {} is in use; stop the other node, or give each node a path of its own", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file is not an address book. It stays unchanged.
    #[error("{} is not an address book ({cause}); choose another path, or move the file away", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What was found.
        #[source]
        cause: Cause,
    },
    /// The file is a damaged address book. It stays unchanged, for inspection.
    #[error("the address book {} is damaged ({cause}); move it away to start with an empty one, bans included", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found.
        #[source]
        cause: Cause,
    },
    /// The file was written by another version of peerpool.
    #[error("the address book {} has schema {found}, this version reads {supported}; run a version that reads it, or move it away", path.display())]
    Schema {
        /// The file.
        path: PathBuf,
        /// The schema of the file.
        found: u64,
        /// The schema of this version.
        supported: u64,
    },
    /// A flush failed and has written nothing. The book keeps the changes for the next flush.
    #[error("cannot write the address book {}: {cause}; check the disk, the next flush tries again", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        cause: Cause,
    },
}
