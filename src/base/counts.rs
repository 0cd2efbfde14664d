//! Counts by key, without zeros.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};

#[cfg(feature = "node")]
use super::{Source, Subnet};

/// Adds one to the count of a key, unless it is `max` already.
pub(crate) fn add_one<K: Eq + Hash, S: BuildHasher>(
    counts: &mut HashMap<K, u32, S>,
    key: K,
    max: u32,
) -> bool {
    if max == 0 {
        return false;
    }
    let count = counts.entry(key).or_insert(0);
    let below = *count < max;
    *count += u32::from(below);
    below
}

/// Subtracts one from the count of a key. At zero the key leaves the map.
pub(crate) fn subtract_one<K: Eq + Hash, S: BuildHasher>(counts: &mut HashMap<K, u32, S>, key: &K) {
    match counts.get_mut(key) {
        Some(count) if *count > 1 => *count -= 1,
        Some(_) => drop(counts.remove(key)),
        None => debug_assert!(false, "a key was released twice"),
    }
}

/// Counts by source and by its subnet.
#[cfg(feature = "node")]
#[derive(Debug, Default)]
pub(crate) struct SourceCounts {
    sources: HashMap<Source, u32, foldhash::fast::RandomState>,
    subnets: HashMap<Subnet, u32, foldhash::fast::RandomState>,
}

#[cfg(feature = "node")]
impl SourceCounts {
    pub(crate) fn add(&mut self, source: Source) {
        add_one(&mut self.sources, source, u32::MAX);
        add_one(&mut self.subnets, source.subnet(), u32::MAX);
    }

    pub(crate) fn subtract(&mut self, source: Source) {
        subtract_one(&mut self.sources, &source);
        subtract_one(&mut self.subnets, &source.subnet());
    }

    pub(crate) fn of_source(&self, source: Source) -> usize {
        self.sources.get(&source).map_or(0, |count| *count as usize)
    }

    pub(crate) fn of_subnet(&self, source: Source) -> usize {
        self.subnets.get(&source.subnet()).map_or(0, |count| *count as usize)
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.sources.is_empty() && self.subnets.is_empty()
    }
}

#[cfg(all(test, feature = "node", not(peerpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_source_counts_in_its_subnet_and_leaves_no_zero() {
        let source = |host: u8| Source::of([192, 0, 2, host].into());
        let mut counts = SourceCounts::default();
        for host in [1, 1, 2] {
            counts.add(source(host));
        }
        assert_eq!((counts.of_source(source(1)), counts.of_subnet(source(9))), (2, 3));
        for host in [1, 1, 2] {
            counts.subtract(source(host));
        }
        assert!(counts.is_empty());
    }
}
