//! What goes wrong with the file.

use std::error::Error;
use std::path::PathBuf;

use thiserror::Error;

/// Whatever the file system or the database said.
type Cause = Box<dyn Error + Send + Sync>;

/// Why the book's file cannot be used. Each names the file and what to do about it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AddressBookError {
    /// The file cannot be opened or created.
    #[error("cannot open the address book {}: {cause}; check that its directory exists and is writable, or choose another path", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: Cause,
    },
    /// Another process, or another book of this one, has the file.
    #[error("the address book {} is in use; stop the other node, or give each node a path of its own", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file is no address book. It is left as it is.
    #[error("{} is not an address book ({cause}); choose another path, or move the file away", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What was found.
        cause: Cause,
    },
    /// The file was an address book and is damaged. It is left for inspection.
    #[error("the address book {} is damaged ({cause}); move it away to start with an empty one, bans included", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found.
        cause: Cause,
    },
    /// The file was written by another version of peerpool.
    #[error("the address book {} has schema {found}, this version reads {supported}; run a version that reads it, or move it away", path.display())]
    Schema {
        /// The file.
        path: PathBuf,
        /// What it has.
        found: u64,
        /// What this version reads.
        supported: u64,
    },
    /// A flush failed. Nothing of it is in the file; the book keeps the changes for the next flush.
    #[error("cannot write the address book {}: {cause}; check the disk, the next flush tries again", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: Cause,
    },
}
