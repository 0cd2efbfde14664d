//! The addresses that peers are told when they ask.
//!
//! Invariant: `told_addresses_fit_the_listener`.
//! - Statement: a peer is told addresses that it can use. However many connections ask, the book is
//!   read once in ten minutes, and all of them together learn a quarter of what it could tell. A
//!   book of few addresses is told in full, and read once a second at most.
//! - Enforced by: one sample for all. What a source gets is a slice of it that depends on the
//!   source and a secret of this node.
//! - Breaks if: an answer reads the book.

use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::address_book::{AddressBook, WallTime};
use crate::base::{Source, Tick};
use crate::node::discovery::DiscoveryConfig;
use crate::node::protocol::ProtocolId;
use crate::sync::Mutex;

/// How long a sample is kept.
const KEPT_FOR: Duration = Duration::from_secs(600);
/// How long a sample is kept that is all there is: a young node learns much in a second.
const WHOLE_KEPT_FOR: Duration = Duration::from_secs(1);
/// Up to this many addresses are told in full: a small network needs all of them.
const MAX_WHOLE: usize = 64;
/// The part of the addresses that could be told that a sample is.
const SAMPLE_DIVISOR: usize = 4;

/// The present sample.
#[derive(Debug, Default)]
pub(crate) struct AddrSample {
    /// Decides where the slice of a source begins.
    secret: RandomState,
    sample: Mutex<Sample>,
}

#[derive(Debug, Default)]
struct Sample {
    made_at: Option<Tick>,
    is_whole: bool,
    addrs: Arc<[(SocketAddr, ProtocolId)]>,
}

/// A peer that asks for addresses.
pub(crate) struct Asker {
    pub(crate) ip: IpAddr,
    pub(crate) protocol: ProtocolId,
}

impl AddrSample {
    /// Draws a new sample if the present one is too old.
    ///
    /// # Cost
    /// A short lock; for a new sample also a walk over the book, under its lock.
    pub(crate) fn renew(
        &self,
        book: &AddressBook,
        protocol_of: impl Fn(SocketAddr) -> ProtocolId,
        now: Tick,
    ) {
        let mut sample = self.sample.lock();
        let kept_for = if sample.is_whole { WHOLE_KEPT_FOR } else { KEPT_FOR };
        if sample.made_at.is_some_and(|made| now.since(made) < kept_for) {
            return;
        }
        let mut addrs = book.sample(WallTime::now(), book.len());
        sample.is_whole = addrs.len() <= MAX_WHOLE;
        if !sample.is_whole {
            let size = (addrs.len() / SAMPLE_DIVISOR).max(MAX_WHOLE);
            fastrand::shuffle(&mut addrs);
            addrs.truncate(size);
        }
        sample.addrs = addrs.into_iter().map(|addr| (addr, protocol_of(addr))).collect();
        sample.made_at = Some(now);
    }

    /// Up to `max` addresses for a peer: in its protocol, and in a scope that it can use.
    ///
    /// # Cost
    /// A short lock, and a walk over the sample.
    pub(crate) fn for_peer(&self, asker: &Asker, max: usize, config: &DiscoveryConfig) -> Vec<SocketAddr> {
        let sample = Arc::clone(&self.sample.lock().addrs);
        let usable = |(addr, protocol): &&(SocketAddr, ProtocolId)| {
            *protocol == asker.protocol && config.may_tell(asker.ip, addr.ip())
        };
        let begin = self.secret.hash_one(Source::of(asker.ip)) as usize % sample.len().max(1);
        let (before, behind) = sample.split_at(begin);
        behind.iter().chain(before).filter(usable).take(max).map(|(addr, _)| *addr).collect()
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;
    use crate::address_book::{AddressBookConfig, DialOutcome, ReportedBy};

    /// A sample of a book with this many addresses that could be told, and as many that could not.
    fn sample_of(addrs: u16) -> (AddrSample, AddressBook) {
        let book = AddressBook::in_memory(AddressBookConfig::default());
        for n in 0..addrs {
            let at = |net: u8| SocketAddr::from(([net, 1, (n >> 8) as u8, n as u8], 9));
            for addr in [at(20), at(21)] {
                book.add(addr, ReportedBy::Operator, WallTime::now()).expect("room");
            }
            book.record(&at(20), DialOutcome::Connected, WallTime::now());
        }
        (AddrSample::default(), book)
    }

    fn ask((sample, book): &(AddrSample, AddressBook), from: [u8; 4], seconds: u64) -> Vec<SocketAddr> {
        sample.renew(book, |_| ProtocolId::FIRST, Tick::from_millis(seconds * 1_000));
        let asker = Asker { ip: from.into(), protocol: ProtocolId::FIRST };
        sample.for_peer(&asker, 100, &DiscoveryConfig::recommended())
    }

    /// What many sources learn in this time.
    fn learnt(asked: &(AddrSample, AddressBook), seconds: u64) -> usize {
        let sources = 0..2_000u16;
        let ask = |n: u16| ask(asked, [30, 0, (n >> 8) as u8, n as u8], u64::from(n) % seconds);
        sources.flat_map(ask).collect::<std::collections::HashSet<_>>().len()
    }

    #[test]
    fn a_source_gets_the_same_slice_of_one_sample_for_ten_minutes() {
        let asked = sample_of(4_000);
        let first = ask(&asked, [9, 9, 9, 9], 0);
        assert_eq!(first.len(), 100);
        assert_eq!(ask(&asked, [9, 9, 9, 9], 599), first);
        assert_ne!(ask(&asked, [9, 9, 9, 9], 600), first);
    }

    #[test]
    fn all_sources_together_learn_a_quarter_of_a_book_that_is_not_small() {
        for (addrs, most) in [(4_000, 1_000), (256, 64), (65, 64)] {
            let learnt = learnt(&sample_of(addrs), 599);
            assert!((most / 2..=most).contains(&learnt), "{learnt} of {addrs}");
        }
        assert_eq!(learnt(&sample_of(64), 599), 64, "a small network needs all of them");
    }
}
