//! Other concurrent maps: papaya, scc, and a plain one behind parking_lot's lock.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use peerpool::base::PeerId;

use crate::competitors::{Competitor, Fast, Plan, Unified};

/// A map whose readers take no lock.
#[derive(Default)]
pub(crate) struct Papaya(papaya::HashMap<PeerId, (AtomicU64, Unified), Fast>);

impl Competitor for Papaya {
    fn name(&self) -> &'static str {
        "papaya, entry inline"
    }

    fn fill(&self, keys: &[PeerId]) {
        for key in keys {
            self.0.pin().insert(*key, (AtomicU64::new(0), Unified::new(key)));
        }
    }

    fn mark(&self, plan: Plan<'_>) {
        for (key, now, guest) in plan.steps() {
            // A guard for each mark: whoever marks a peer comes from a socket, not from a loop.
            let map = self.0.pin();
            if let Some(entry) = map.get(key) {
                entry.0.store(now.as_millis(), Ordering::Relaxed);
            }
            if let Some(guest) = guest {
                black_box(map.remove(guest).map(|entry| drop(entry.1.look())));
                map.insert(*guest, (AtomicU64::new(now.as_millis()), Unified::new(guest)));
            }
        }
    }
}

/// scc's index for reading: entries that can be peeked at without a lock.
#[derive(Default)]
pub(crate) struct SccIndex(scc::HashIndex<PeerId, Arc<(AtomicU64, Unified)>, Fast>);

impl Competitor for SccIndex {
    fn name(&self) -> &'static str {
        "scc HashIndex<K, Arc<entry>>"
    }

    fn fill(&self, keys: &[PeerId]) {
        for key in keys {
            let entry = Arc::new((AtomicU64::new(0), Unified::new(key)));
            assert!(self.0.insert_sync(*key, entry).is_ok());
        }
    }

    fn mark(&self, plan: Plan<'_>) {
        for (key, now, guest) in plan.steps() {
            self.0.peek_with(key, |_, entry| entry.0.store(now.as_millis(), Ordering::Relaxed));
            if let Some(guest) = guest {
                self.0.remove_sync(guest);
                let entry = Arc::new((AtomicU64::new(now.as_millis()), Unified::new(guest)));
                let _ = self.0.insert_sync(*guest, entry);
            }
        }
    }
}

/// One map of unified entries behind parking_lot's lock: written to mark, as the tokio ones.
#[derive(Default)]
pub(crate) struct ParkingLot(parking_lot::RwLock<HashMap<PeerId, Unified, Fast>>);

impl Competitor for ParkingLot {
    fn name(&self) -> &'static str {
        "parking_lot RwLock<HashMap>"
    }

    fn fill(&self, keys: &[PeerId]) {
        let mut map = self.0.write();
        for key in keys {
            map.insert(*key, Unified::new(key));
        }
    }

    fn mark(&self, plan: Plan<'_>) {
        for (key, now, guest) in plan.steps() {
            if let Some(entry) = self.0.write().get_mut(key) {
                entry.mark(now);
            }
            if let Some(guest) = guest {
                let left = self.0.write().remove(guest);
                black_box(left.map(|entry| drop(entry.look())));
                self.0.write().insert(*guest, Unified::new(guest));
            }
        }
    }
}
