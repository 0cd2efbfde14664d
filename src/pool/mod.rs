//! One sharded, concurrent pool of unified peer connections.
//!
//! The pool has no I/O, no async, no timer and no clock: every function that depends on time takes
//! `now`. It is generic over the key ([`PeerKey`]) and the connection ([`ConnectionHandle`]), so a
//! program with its own transport can use it alone (`default-features = false`);
//! `examples/pool_alone.rs` is one.
//!
//! ```text
//!   admit(addr)       limits of address, subnet, then global       -> Permit
//!   claim(key)        one step of the map                          -> Claim
//!   go_live(conn)     one step of the map                          -> Arc<Peer>
//!   remove(key, id)   one step of the map, then the connection's close
//!
//!   Permit, Claim     dropped, or deadline passed: everything is released, once
//!   Arc<Peer>         seen, penalize, reward: atomics only; listed in roster and address index
//! ```
//!
//! One map, `ShardMap<K, PoolEntry>` over `DashMap`, is the authority for which keys are claimed
//! and which peers are live. The holder of an `Arc<Peer>` needs no map.
//!
//! # Invariants
//! `one_authority_for_connected`, `claiming_a_key_is_one_step`,
//! `teardown_removes_only_its_own_entry`
//! - Statement: an entry of the map is *claimed* or *live*. Every change of it is one operation
//!   that is conditional on the connection, so tearing down one connection never affects the next
//!   one of the same peer.
//! - Enforced by: every removal compares the connection id (or the very claim) under the shard's
//!   lock. A peer's phase changes under that lock, so the peer of a live entry is live.
//! - Breaks if: the answer of a look-up decides a removal.
//!
//! `peer_leaves_lookups_before_teardown`, `disconnect_runs_exactly_once`
//! - Statement: exactly one caller wins a removal. The peer leaves look-ups first, and its
//!   connection is closed once.
//! - Enforced by: `Pool::remove_if` exchanges the phase inside the removal of the entry.
//! - Breaks if: `close` is called anywhere else than in `Pool::finish_removal`.
//!
//! `no_lock_across_await_or_callback`, `no_user_destructor_under_a_lock`
//! - Statement: no guard leaves the pool, and no user destructor, `close` or callback runs under a
//!   lock. The key's `Hash` and `Eq` are the only exceptions.
//! - Enforced by: every critical section returns the values that it displaces; a test's connection
//!   re-enters the pool from its `Drop`. No lock order is needed: no two locks are held together,
//!   except that the rebuild of a roster shard takes that shard's short list lock.
//! - Breaks if: a closure that runs under a lock drops an `Arc<Peer>`.
//!
//! `nothing_enters_after_shutdown`
//! - Statement: after [`Pool::close`] nothing enters the map.
//! - Enforced by: an exchange of the admission word inside the critical section that goes live.
//!   Every connection that passed it before is found by each look-up that begins later.
//! - Breaks if: the word is checked before the shard is locked.
//!
//! `never_below_the_floor`
//! - Statement: an eviction never leaves fewer live peers than the floor.
//! - Enforced by: one exchange of the admission word.
//! - Breaks if: the floor is compared with a separate reading.
//!
//! # Not guaranteed
//! Insert and remove take a shard's short lock; they are not lock-free. Operations on a peer are
//! lock-free. No lock is global. A shard's lock prefers readers: threads that look up keys of one
//! shard without a pause delay an insert into it. Statistics are one walk: a peer that connects or
//! disconnects meanwhile may be counted or not.

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
mod trim;

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
