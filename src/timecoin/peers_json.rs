//! One-time import of a legacy node's `peers.json` into the address book.

use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::address_book::{Added, AddressBook, DialOutcome, ReportedBy, WallTime};

use super::NetworkType;
use super::exchange::PersistentPeerInfo;

/// Largest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;
/// Maximum number of records taken, latest first.
const MAX_RECORDS: usize = 4_096;

/// Result of an import.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// The records that were read, the latest first, with ephemeral ports replaced.
    pub records: Vec<PersistentPeerInfo>,
    /// Number of addresses new to the book.
    pub added: usize,
    /// Number of addresses that the book already had.
    pub known: usize,
    /// Number of addresses that the book refused.
    pub refused: usize,
    /// Number of entries that are not records, or that exceed the limit.
    pub skipped: usize,
}

/// Why a `peers.json` was not imported. Except for [`ImportError::Marker`], nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file cannot be read.
    #[error("cannot read {}: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The I/O error.
        cause: io::Error,
    },
    /// The file exceeds the size limit.
    #[error("{} has more than {cap} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit, in bytes.
        cap: u64,
    },
    /// The file is not a JSON object.
    #[error("{} is not a peer list: {cause}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The parse error.
        cause: serde_json::Error,
    },
    /// The peers were imported, but the marker file could not be written, so the next start imports
    /// them again.
    #[error("imported, but cannot write the marker {}: {cause}", path.display())]
    Marker {
        /// The marker file.
        path: PathBuf,
        /// The I/O error.
        cause: io::Error,
    },
}

/// Reads a legacy `peers.json`: an object with one record for each IP address.
///
/// # Errors
/// See [`ImportError`]. A single invalid entry is skipped and counted.
///
/// # Cost
/// Blocks on file I/O; reads at most 16 MiB.
pub fn read_peers_json(path: &Path, network: NetworkType) -> Result<Imported, ImportError> {
    let read = |cause| ImportError::Read { path: path.into(), cause };
    let mut text = Vec::new();
    let file = File::open(path).map_err(read)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text).map_err(read)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(ImportError::TooLarge { path: path.into(), cap: MAX_FILE_BYTES });
    }
    // Editors of some systems begin a file with a byte-order mark, which JSON does not allow.
    let json = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
    let entries: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(json).map_err(|cause| ImportError::Parse { path: path.into(), cause })?;
    let mut imported = Imported::default();
    for (key, entry) in entries {
        // The key repeats the address. If the two differ, the file was edited by hand and the
        // record wins.
        let record = serde_json::from_value::<PersistentPeerInfo>(entry);
        match (record, key.parse::<IpAddr>()) {
            (Ok(mut record), Ok(_)) => {
                record.port = network.stable_port(record.port);
                imported.records.push(record);
            }
            _ => imported.skipped += 1,
        }
    }
    imported.records.sort_by_key(|record| std::cmp::Reverse(record.last_seen));
    imported.skipped += imported.records.len().saturating_sub(MAX_RECORDS);
    imported.records.truncate(MAX_RECORDS);
    Ok(imported)
}

/// Imports a legacy `peers.json` into the address book, once.
///
/// A marker file `<path>.imported` records that it was done. Returns `None` if the marker exists,
/// or if there is no such file. A book in memory starts empty each time, so the marker is neither
/// read nor written for it. The `peers.json` itself is not changed.
///
/// # Errors
/// See [`ImportError`].
///
/// # Cost
/// Blocks on file I/O; see [`read_peers_json`].
pub fn import_peers_json(
    path: &Path,
    network: NetworkType,
    book: &AddressBook,
    now: WallTime,
) -> Result<Option<Imported>, ImportError> {
    let marker = marker_path(path);
    if !path.exists() || (book.has_file() && marker.exists()) {
        return Ok(None);
    }
    let mut imported = read_peers_json(path, network)?;
    for record in &imported.records {
        // The list is the operator's, so no per-source quota applies.
        match book.add(record.addr(), ReportedBy::Operator, now) {
            Ok(Added::New) => {
                imported.added += 1;
                if record.successful_connections > 0 {
                    let last = WallTime::from_millis(
                        u64::try_from(record.last_seen).unwrap_or(0).saturating_mul(1000),
                    );
                    book.record(&record.addr(), DialOutcome::Stable, last.min(now));
                }
            }
            Ok(Added::Known) => imported.known += 1,
            Err(_) => imported.refused += 1,
        }
    }
    if book.has_file() {
        // Written after the flush: a crash in between imports again.
        let flushed = book.flush().map_err(std::io::Error::other);
        flushed.map_err(|cause| ImportError::Marker { path: marker.clone(), cause })?;
        File::create(&marker).map_err(|cause| ImportError::Marker { path: marker, cause })?;
    }
    Ok(Some(imported))
}

/// The path of the marker file.
fn marker_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".imported");
    name.into()
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;
    use crate::address_book::AddressBookConfig;

    const FILE: &str = r#"{
  "127.0.0.2": {"address": "127.0.0.2", "port": 24100, "last_seen": 1795349079, "latency_ms": 12, "version": "0.6.4-ec2a412", "successful_connections": 1, "failed_connections": 0},
  "127.0.0.3": {"address": "127.0.0.3", "port": 55555, "last_seen": 1795349080, "latency_ms": null, "version": "0.6.4", "successful_connections": 0, "failed_connections": 4},
  "0.0.0.0": {"address": "0.0.0.0", "port": 24100, "last_seen": 1, "latency_ms": null, "version": "", "successful_connections": 0, "failed_connections": 0},
  "garbage": 7
}"#;

    fn saved(text: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peers.json");
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    #[test]
    fn a_byte_order_mark_is_accepted() {
        let (_folder, path) = saved(&[b"\xef\xbb\xbf", FILE.as_bytes()].concat());
        assert_eq!(read_peers_json(&path, NetworkType::Testnet).unwrap().records.len(), 3);
    }

    #[test]
    fn a_legacy_file_fills_the_book() {
        let (_folder, path) = saved(FILE.as_bytes());
        let book = AddressBook::in_memory(AddressBookConfig::default());
        let now = WallTime::from_millis(1_795_349_100_000);
        let imported = import_peers_json(&path, NetworkType::Testnet, &book, now).unwrap().unwrap();
        assert_eq!((imported.added, imported.known, imported.refused, imported.skipped), (2, 0, 1, 1));
        // The ephemeral port became the standard one. Only the peer that once connected may be told
        // to others.
        assert!(book.get(&"127.0.0.3:24100".parse().unwrap()).unwrap().last_success.is_none());
        let proven = book.get(&"127.0.0.2:24100".parse().unwrap()).unwrap();
        assert_eq!(proven.last_success.map(WallTime::as_millis), Some(1_795_349_079_000));
        let again = import_peers_json(&path, NetworkType::Testnet, &book, now).unwrap().unwrap();
        assert_eq!((again.added, again.known), (0, 2));
    }

    #[cfg(feature = "redb")]
    #[test]
    fn a_persistent_book_imports_once_and_the_legacy_file_stays() {
        let (folder, path) = saved(FILE.as_bytes());
        let book = AddressBook::open(folder.path().join("book"), AddressBookConfig::default()).unwrap();
        let now = WallTime::from_millis(1_795_349_100_000);
        let imported = import_peers_json(&path, NetworkType::Testnet, &book, now).unwrap();
        assert_eq!(imported.unwrap().added, 2);
        book.remove(&"127.0.0.2:24100".parse().unwrap());
        assert_eq!(import_peers_json(&path, NetworkType::Testnet, &book, now).unwrap(), None);
        assert!(book.get(&"127.0.0.2:24100".parse().unwrap()).is_none());
        assert_eq!(std::fs::read(&path).unwrap(), FILE.as_bytes());
    }

    #[test]
    fn an_unreadable_file_is_an_error_and_a_missing_one_is_not() {
        let book = AddressBook::in_memory(AddressBookConfig::default());
        let now = WallTime::EPOCH;
        let (folder, path) = saved(b"{\"127.0.0.2\": ");
        let import = |path: &Path| import_peers_json(path, NetworkType::Testnet, &book, now);
        assert!(matches!(import(&path), Err(ImportError::Parse { .. })));
        std::fs::write(&path, b"[]").unwrap();
        assert!(matches!(import(&path), Err(ImportError::Parse { .. })));
        assert!(matches!(import(folder.path()), Err(ImportError::Read { .. })));
        assert!(import(&folder.path().join("none.json")).unwrap().is_none());
        assert!(book.is_empty());
    }

    #[test]
    fn a_file_over_the_bound_is_refused_before_it_is_parsed() {
        let (_folder, path) = saved(b"");
        let file = File::options().write(true).open(&path).unwrap();
        // A sparse file: it takes no room on the disk.
        file.set_len(MAX_FILE_BYTES + 1).unwrap();
        assert!(matches!(
            read_peers_json(&path, NetworkType::Testnet),
            Err(ImportError::TooLarge { cap: MAX_FILE_BYTES, .. })
        ));
    }
}
