//! Other concurrent maps: papaya, scc, and a plain one behind parking_lot's lock.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use peerpool::PeerId;

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
        for (key, now, churned) in plan.steps() {
            // A guard for each mark: a node marks a peer when a frame arrives, not in a loop.
            let map = self.0.pin();
            if let Some(entry) = map.get(key) {
                entry.0.store(now.as_millis(), Ordering::Relaxed);
            }
            if let Some(churned) = churned {
                black_box(map.remove(churned).map(|entry| drop(entry.1.read())));
                map.insert(*churned, (AtomicU64::new(now.as_millis()), Unified::new(churned)));
            }
        }
    }
}

/// scc's index for reading: entries are read without a lock.
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
        for (key, now, churned) in plan.steps() {
            self.0.peek_with(key, |_, entry| entry.0.store(now.as_millis(), Ordering::Relaxed));
            if let Some(churned) = churned {
                self.0.remove_sync(churned);
                let entry = Arc::new((AtomicU64::new(now.as_millis()), Unified::new(churned)));
                let _ = self.0.insert_sync(*churned, entry);
            }
        }
    }
}

/// One map of unified entries behind parking_lot's lock. A mark takes the write lock, as with the
/// tokio maps.
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
        for (key, now, churned) in plan.steps() {
            if let Some(entry) = self.0.write().get_mut(key) {
                entry.mark(now);
            }
            if let Some(churned) = churned {
                let left = self.0.write().remove(churned);
                black_box(left.map(|entry| drop(entry.read())));
                self.0.write().insert(*churned, Unified::new(churned));
            }
        }
    }
}
