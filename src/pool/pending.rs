//! What a permit holds while its connection is set up, and who gives it back.
//!
//! **Statement** (10, 12): a slot is released exactly once on every exit, by the token's drop or by the sweep at the
//! deadline; a revoked one cannot go live. **Enforced by**: one state byte that both exchange; whoever moves it out of
//! *held* owns the release. **Breaks if** anything is released without that exchange.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::base::{ConnId, Direction, Tick};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU8, Ordering};

use super::SlotClass;
use super::claim_watch::ClaimCell;
use super::peer::Origin;

pub(super) struct PendingHandshake<K> {
    pub(super) origin: Origin,
    pub(super) deadline: Tick,
    /// Authority for who releases.
    state: AtomicU8,
    /// The claims of this connection: none, one, or two in the moment of a re-key.
    claims: Mutex<Vec<Arc<ClaimCell<K>>>>,
}

impl<K> PendingHandshake<K> {
    pub(super) fn new(
        id: ConnId,
        addr: SocketAddr,
        direction: Direction,
        slot: SlotClass,
        deadline: Tick,
    ) -> Self {
        Self {
            origin: Origin { id, addr, direction, slot },
            deadline,
            state: AtomicU8::new(HELD),
            claims: Mutex::new(Vec::new()),
        }
    }

    pub(super) fn is_held(&self) -> bool {
        // Acquire: pairs with the exchange in `exchange`. Asked under a shard lock, it decides a claim against a
        // revocation: see `Pool::claim_key`.
        self.state.load(Ordering::Acquire) == HELD
    }

    /// Claims the right to go live. Fails if the ticket was revoked.
    pub(super) fn begin_commit(&self) -> bool {
        self.exchange(HELD, COMMITTED)
    }

    /// Gives that right back: going live failed.
    pub(super) fn abort_commit(&self) {
        let aborted = self.exchange(COMMITTED, HELD);
        debug_assert!(aborted, "only the committer leaves this state");
    }

    /// Claims the duty to release. True for exactly one caller, and never after a commit.
    pub(super) fn finish(&self) -> bool {
        self.exchange(HELD, RELEASED)
    }

    pub(super) fn add_claim(&self, cell: Arc<ClaimCell<K>>) {
        self.claims.lock().push(cell);
    }

    /// Takes this claim from the list; it leaves the lock before it is dropped.
    pub(super) fn remove_claim(&self, cell: &Arc<ClaimCell<K>>) -> Option<Arc<ClaimCell<K>>> {
        let mut claims = self.claims.lock();
        let at = claims.iter().position(|other| Arc::ptr_eq(other, cell))?;
        Some(claims.swap_remove(at))
    }

    pub(super) fn take_claims(&self) -> Vec<Arc<ClaimCell<K>>> {
        std::mem::take(&mut *self.claims.lock())
    }

    fn exchange(&self, from: u8, to: u8) -> bool {
        // AcqRel: the winner sees what the others did while they held it (claims added), and the losers see that it
        // is over.
        self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

const HELD: u8 = 0;
const COMMITTED: u8 = 1;
const RELEASED: u8 = 2;
