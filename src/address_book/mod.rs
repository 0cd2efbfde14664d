#![cfg_attr(not(feature = "redb"), allow(rustdoc::broken_intra_doc_links))]
//! The address book: known addresses, the outcomes of dialling them, and bans. It survives `kill
//! -9`.
//!
//! Every call is served from memory under one short lock. The file ([`AddressBook::open`], feature
//! `redb`) follows: a change marks its record, and [`AddressBook::flush`] writes the marked records
//! in one durable transaction, on a thread that may block. A crash loses the changes since the last
//! flush and nothing else.
//!
//! ```text
//!   node --> AddressBook (book) --> AddrTable (table): entries, bans
//!                |                      |-- eviction, quota: indexes that keep the book bounded
//!                |                      |-- select: what to dial, what to share
//!                |                      '-- dirty: what the file does not have yet
//!                '-- flush --> Store (store): the redb file
//! ```
//!
//! # Invariants
//! Invariant: `backoff_resets_after_a_stable_session`
//! - Statement: the backoff resets only after a stable session. Trusted addresses back off too.
//! - Enforced by: only [`DialOutcome::Stable`] sets the failures to zero, and no wait depends on
//!   trust.
//! - Breaks if: a handshake counts as success, and a peer that accepts and hangs up is redialled in
//!   a loop.
//!
//! Invariant: `collision_is_not_a_failure`
//! - Statement: a connection that loses a tie-break is no failure.
//! - Enforced by: [`DialOutcome::Collision`] changes nothing.
//! - Breaks if: it is recorded as a failure, and two nodes that dial each other push each other
//!   away.
//!
//! Invariants: `everything_is_bounded`, `shares_belong_to_a_source`
//! - Statement: one source cannot fill the book, and the book has a maximal size.
//! - Enforced by: every insertion and every change keeps the quotas. An address counts against its
//!   own host, and against the source that reported it until it connects. A full book evicts of
//!   what the same subnet reported.
//! - Breaks if: an insertion bypasses `AddrTable::make_room`, or a change bypasses
//!   `AddrTable::edit`.
//!
//! Invariant: `no_lock_across_await_or_callback`
//! - Statement: neither I/O nor code of the caller runs under the lock.
//! - Enforced by: a flush clones the marked records before it writes, and
//!   [`AddressBook::candidates`] calls `skip` after the lock is released.
//! - Breaks if: either happens under the lock.

mod address;
mod bans;
mod book;
mod config;
mod dirty;
mod error;
mod eviction;
mod quota;
mod select;
#[cfg(feature = "redb")]
mod store;
mod table;
mod wall_time;

pub(crate) use address::MAX_OUTAGE_WAIT;
pub use address::{AddRefused, Added, Address, DialOutcome, FailureCause, ReportedBy};
pub use bans::{Ban, BanTarget};
pub use book::{AddressBook, AddressBookStats};
pub use config::AddressBookConfig;
pub use error::AddressBookError;
pub use wall_time::WallTime;

#[cfg(all(test, not(peerpool_loom)))]
mod tests;
