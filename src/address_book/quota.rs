//! How many addresses each source has in the book.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::address::{Address, ReportedBy};

/// The addresses that count against each source's quota. Derived from the entries.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SourceQuotas(BTreeMap<ReportedBy, BTreeSet<SocketAddr>>);

impl SourceQuotas {
    /// The sources whose quotas an address counts against; none for what the operator gave.
    ///
    /// - Every address counts against its own host, which can listen on any number of ports.
    /// - One that never connected counts against the source that reported it, too.
    pub(super) fn buckets_of(entry: &Address) -> impl Iterator<Item = ReportedBy> + use<> {
        let counted = !entry.trusted && entry.reported_by != ReportedBy::Operator;
        let own = ReportedBy::Peer(entry.addr.ip()).bucket();
        let reporter = entry.reported_by.bucket().filter(|_| entry.last_success.is_none());
        [own, reporter].into_iter().flatten().filter(move |_| counted)
    }

    pub(super) fn insert(&mut self, entry: &Address) {
        for bucket in Self::buckets_of(entry) {
            self.0.entry(bucket).or_default().insert(entry.addr);
        }
    }

    /// Removes an address, which must be unchanged since it was added.
    pub(super) fn remove(&mut self, entry: &Address) {
        for bucket in Self::buckets_of(entry) {
            if let Some(addresses) = self.0.get_mut(&bucket) {
                addresses.remove(&entry.addr);
                if addresses.is_empty() {
                    self.0.remove(&bucket);
                }
            }
        }
    }

    /// The addresses of a bucket, if there are at least `count`.
    pub(super) fn at_least(&self, bucket: ReportedBy, count: usize) -> Option<&BTreeSet<SocketAddr>> {
        self.0.get(&bucket).filter(|addresses| addresses.len() >= count)
    }

    /// All buckets with an address.
    #[cfg(feature = "redb")]
    pub(super) fn buckets(&self) -> Vec<ReportedBy> {
        self.0.keys().copied().collect()
    }

    /// The largest number of addresses in a bucket.
    #[cfg(all(test, not(peerpool_loom)))]
    pub(super) fn max_len(&self) -> usize {
        self.0.values().map(BTreeSet::len).max().unwrap_or(0)
    }
}
