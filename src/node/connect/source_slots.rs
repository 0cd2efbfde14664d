//! Operations under way, counted by the source and the subnet that they are for.

use std::net::IpAddr;
use std::sync::Arc;

use crate::base::Source;
use crate::base::counts::SourceCounts;
use crate::sync::Mutex;

/// The most operations at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotLimits {
    pub(crate) total: usize,
    pub(crate) per_source: usize,
    pub(crate) per_subnet: usize,
}

impl SlotLimits {
    /// Counts only.
    pub(crate) const NONE: Self =
        Self { total: usize::MAX, per_source: usize::MAX, per_subnet: usize::MAX };
}

/// Counts operations, so that one source or subnet does not take the room of others.
#[derive(Clone, Debug, Default)]
pub(crate) struct SourceSlots(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    by_source: SourceCounts,
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
        if counts.total >= limits.total
            || counts.by_source.of_source(source) >= limits.per_source
            || counts.by_source.of_subnet(source) >= limits.per_subnet
        {
            return None;
        }
        counts.total += 1;
        counts.by_source.add(source);
        Some(SourceSlot { slots: self.clone(), source })
    }

    /// Operations under way.
    pub(crate) fn count(&self) -> usize {
        self.0.lock().total
    }

    /// Operations under way by source, and by subnet.
    pub(crate) fn of(&self, source: Source) -> (usize, usize) {
        let counts = self.0.lock();
        (counts.by_source.of_source(source), counts.by_source.of_subnet(source))
    }
}

impl Drop for SourceSlot {
    fn drop(&mut self) {
        let mut counts = self.slots.0.lock();
        counts.total -= 1;
        counts.by_source.subtract(self.source);
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
        assert!(counts.total == 0 && counts.by_source.is_empty());
    }
}
