//! The shared state of a permit: what a connection holds while it is set up.
//!
//! Invariant: `inbound_is_reserved_before_the_handshake`, `every_slot_is_released`
//! - Statement: a slot is released exactly once on every exit, by the token's drop or by the sweep
//!   at the deadline. A revoked slot cannot go live.
//! - Enforced by: one state byte, changed by compare-exchange. The caller that moves it out of
//!   *held* owns the release.
//! - Breaks if: anything is released without that exchange.

use std::sync::Arc;

use crate::base::Tick;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU8, Ordering};

use super::claim_watch::ClaimRecord;
use super::peer::Origin;

const HELD: u8 = 0;
const COMMITTED: u8 = 1;
const RELEASED: u8 = 2;

/// A connection that has a slot and is not live.
pub(super) struct PendingHandshake<K> {
    pub(super) origin: Origin,
    pub(super) deadline: Tick,
    /// Decides who releases the slot.
    state: AtomicU8,
    /// The claims of this connection: none, one, or two for the moment of a re-key.
    claims: Mutex<Vec<Arc<ClaimRecord<K>>>>,
}

impl<K> PendingHandshake<K> {
    pub(super) fn new(origin: Origin, deadline: Tick) -> Self {
        Self { origin, deadline, state: AtomicU8::new(HELD), claims: Mutex::new(Vec::new()) }
    }

    /// Whether the slot is neither committed nor released.
    pub(super) fn is_held(&self) -> bool {
        // Acquire: pairs with the exchange in `exchange`. Read under a shard's lock, it orders a
        // claim against a revocation: see `Pool::claim_key`.
        self.state.load(Ordering::Acquire) == HELD
    }

    /// Acquires the right to go live. False if the slot was revoked.
    pub(super) fn begin_commit(&self) -> bool {
        self.exchange(HELD, COMMITTED)
    }

    /// Returns that right after a failed commit.
    pub(super) fn abort_commit(&self) {
        let aborted = self.exchange(COMMITTED, HELD);
        debug_assert!(aborted, "only the committer leaves this state");
    }

    /// Acquires the duty to release. True for exactly one caller, and never after a commit.
    pub(super) fn begin_release(&self) -> bool {
        self.exchange(HELD, RELEASED)
    }

    pub(super) fn add_claim(&self, claim: Arc<ClaimRecord<K>>) {
        self.claims.lock().push(claim);
    }

    /// Removes this claim from the list. The caller drops it after the lock.
    pub(super) fn remove_claim(&self, claim: &Arc<ClaimRecord<K>>) -> Option<Arc<ClaimRecord<K>>> {
        let mut claims = self.claims.lock();
        let at = claims.iter().position(|other| Arc::ptr_eq(other, claim))?;
        Some(claims.swap_remove(at))
    }

    pub(super) fn take_claims(&self) -> Vec<Arc<ClaimRecord<K>>> {
        std::mem::take(&mut *self.claims.lock())
    }

    fn exchange(&self, from: u8, to: u8) -> bool {
        // AcqRel: the winner sees what other threads did before it (claims added), and the losers
        // see that the state changed.
        self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}
