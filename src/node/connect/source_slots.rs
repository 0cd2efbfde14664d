//! Operations under way, counted by the source and the subnet that they are for.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use crate::base::{Source, Subnet};
use crate::sync::Mutex;

/// The most operations at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotLimits {
    pub(crate) total: usize,
    pub(crate) per_source: usize,
    pub(crate) per_subnet: usize,
}

/// Counts operations, so that one source or subnet does not take the room of others.
#[derive(Clone, Debug, Default)]
pub(crate) struct SourceSlots(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    /// No zeros.
    sources: HashMap<Source, usize>,
    /// No zeros.
    subnets: HashMap<Subnet, usize>,
}

/// One operation. It is over when this is dropped.
#[must_use = "dropped, the operation counts as over"]
#[derive(Debug)]
pub(crate) struct SourceSlot {
    slots: SourceSlots,
    source: Source,
}

impl SourceSlots {
    /// Counts one more operation until the slot is dropped; `None` if there are too many.
    pub(crate) fn begin(&self, ip: IpAddr, limits: SlotLimits) -> Option<SourceSlot> {
        let source = Source::of(ip);
        let mut counts = self.0.lock();
        let of_source = counts.sources.get(&source).copied().unwrap_or(0);
        let of_subnet = counts.subnets.get(&source.subnet()).copied().unwrap_or(0);
        if counts.total >= limits.total || of_source >= limits.per_source || of_subnet >= limits.per_subnet {
            return None;
        }
        counts.total += 1;
        counts.sources.insert(source, of_source + 1);
        counts.subnets.insert(source.subnet(), of_subnet + 1);
        Some(SourceSlot { slots: self.clone(), source })
    }

    /// Operations under way.
    pub(crate) fn count(&self) -> usize {
        self.0.lock().total
    }

    /// Operations under way by source, and by subnet.
    pub(crate) fn of(&self, source: Source) -> (usize, usize) {
        let counts = self.0.lock();
        let of_subnet = counts.subnets.get(&source.subnet()).copied().unwrap_or(0);
        (counts.sources.get(&source).copied().unwrap_or(0), of_subnet)
    }
}

impl Drop for SourceSlot {
    fn drop(&mut self) {
        let mut counts = self.slots.0.lock();
        counts.total -= 1;
        subtract_one(&mut counts.sources, self.source);
        subtract_one(&mut counts.subnets, self.source.subnet());
    }
}

fn subtract_one<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: K) {
    if let Entry::Occupied(mut count) = counts.entry(key) {
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
        }
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    const LIMITS: SlotLimits = SlotLimits { total: 6, per_source: 2, per_subnet: 3 };

    fn begin(slots: &SourceSlots, ip: [u8; 4]) -> Option<SourceSlot> {
        slots.begin(ip.into(), LIMITS)
    }

    #[test]
    fn neither_a_source_nor_a_subnet_takes_the_slots_of_others() {
        let slots = SourceSlots::default();
        let mut held: Vec<_> = (0..9).map_while(|_| begin(&slots, [192, 0, 2, 1])).collect();
        assert_eq!(held.len(), 2);
        held.extend((2..9).map_while(|host| begin(&slots, [192, 0, 2, host])));
        assert_eq!(held.len(), 3);
        held.extend((1..9).map_while(|net| begin(&slots, [192, 0, 100 + net, 1])));
        assert_eq!((held.len(), slots.count()), (6, 6));
        drop(held);
        let counts = slots.0.lock();
        assert!(counts.total == 0 && counts.sources.is_empty() && counts.subnets.is_empty());
    }
}
