//! Who is connected: one sharded, concurrent pool of unified peer connections.
//!
//! No I/O, no async, no timer, no clock of its own: everything that depends on time takes `now`. The pool is generic
//! over the key ([`PeerKey`]) and over what a connection is ([`ConnectionHandle`]), so a program with its own transport can
//! use it alone (`default-features = false`); `examples/pool_alone.rs` is one.
//!
//! ```text
//!   admit(addr) ──> Permit ──claim(key)──> Claim ──go_live(conn)──> Arc<Peer> ──remove(key, id)──> closed
//!     per IP,         │ dropped, or the        │  same                 │ seen, penalize, reward: atomics only
//!     subnet,         v deadline passed        v                       v
//!     then global    all given back, once     all given back, once    roster cells, by_ip, stats, sweep
//! ```
//!
//! # Invariants
//! **Statement** (1, 3, 4): the map of slots is the one authority; an entry is *claimed* or *live*; every change of it
//! is one entry operation conditional on the connection instance, so tearing down connection G never touches G + 1.
//! **Enforced by**: every removal compares the connection id (or the very claim) under the shard lock; a peer's phase
//! changes under that lock, so a live entry holds a live peer. **Breaks if** a look-up's answer is used to remove.
//!
//! **Statement** (5, 6): exactly one caller wins a departure; the peer leaves look-ups before anything else happens;
//! its connection is closed once. **Enforced by**: `Pool::take` exchanges the phase inside the removal.
//!
//! **Statement** (16, 39): no guard leaves, and no user destructor, `close` or callback runs under a lock; only the
//! key's `Hash` and `Eq` do. **Enforced by** values being returned out of every critical section; a test's connection
//! re-enters the pool from its `Drop`. Lock order needs no rule: no two locks are ever held together, except that a
//! rebuild of a roster cell takes that cell's short list lock.
//!
//! **Statement** (34): after [`Pool::close`] nothing enters the map. **Enforced by** the gate, one exchange of the
//! admission word, inside the critical step that goes live: whoever passed it before is found by every look-up that
//! begins after. **Breaks if** the gate is asked before the shard is locked.
//!
//! **Statement** (37): evicting never leaves fewer than the floor. **Enforced by** one exchange of the admission word.
//!
//! # Not promised
//! Insert and remove are short-locked a shard, not lock-free; what each peer does by itself is lock-free; no lock is
//! global. Stats are one walk: what joins or leaves meanwhile may be counted or not.

mod address_index;
mod admission;
mod claim_watch;
mod config;
mod error;
mod handle;
mod health;
mod insert;
mod liveness;
mod mass_failure;
#[cfg(all(test, peerpool_loom))]
mod models;
mod peer;
mod pending;
mod permit;
#[expect(clippy::module_inception, reason = "the file that holds `Pool`")]
mod pool;
mod remove;
mod roster;
mod stats;
mod sweep;
#[cfg(all(test, not(peerpool_loom)))]
mod tests;

pub use self::pool::Pool;
pub use admission::AdmissionCounts;
pub use claim_watch::{ClaimOutcome, ClaimWatch};
pub use config::{HealthPolicy, Limits, LivenessPolicy, Penalties, PoolConfig};
pub use error::{
    AdmitError, ClaimError, ClaimFailure, ClaimHolder, CommitError, CommitFailure, InsertError,
    InsertFailure, RekeyError, ReplaceError, ReplaceFailure,
};
pub use handle::{ConnectionHandle, DisconnectReason, PeerKey};
pub use health::{Misbehavior, PenaltyOutcome};
pub use liveness::{Phase, SeenOutcome};
pub use peer::{ByteCounts, Peer};
pub use permit::{Claim, Permit, Replaced, SlotClass};
pub use remove::EvictOutcome;
pub use roster::{Roster, RosterShardView};
pub use stats::{DisconnectCounts, PoolStats, RefusalCounts};
pub use sweep::SweepReport;
