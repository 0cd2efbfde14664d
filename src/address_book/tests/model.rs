//! Random operations against a model.

use super::*;

#[derive(Clone, Debug)]
pub(super) enum Op {
    Add(u16, u8),
    Record(u16, u8),
    Ban(u16, u32),
    Unban(u16),
    Trust(u16, bool),
    MarkSelf(u16),
    Alias(u16, u16),
    Remove(u16),
    Advance(u32),
    JumpBack(u32),
    Expire,
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    let n = 0..24u16;
    prop_oneof![
        6 => (n.clone(), 0..4u8).prop_map(|(n, source)| Op::Add(n, source)),
        6 => (n.clone(), 0..6u8).prop_map(|(n, outcome)| Op::Record(n, outcome)),
        1 => (n.clone(), 1..200_000u32).prop_map(|(n, length)| Op::Ban(n, length)),
        1 => n.clone().prop_map(Op::Unban),
        1 => (n.clone(), any::<bool>()).prop_map(|(n, trusted)| Op::Trust(n, trusted)),
        1 => n.clone().prop_map(Op::MarkSelf),
        1 => (n.clone(), n.clone()).prop_map(|(n, of)| Op::Alias(n, of)),
        1 => n.prop_map(Op::Remove),
        3 => (0..100_000u32).prop_map(Op::Advance),
        1 => (0..400_000u32).prop_map(Op::JumpBack),
        1 => Just(Op::Expire),
    ]
}

/// A simple model of the answers that a book may give.
#[derive(Default)]
pub(super) struct Model {
    failures: BTreeMap<SocketAddr, u32>,
    connected: BTreeSet<SocketAddr>,
    trusted: BTreeSet<SocketAddr>,
    banned: BTreeMap<IpAddr, WallTime>,
}

impl Model {
    pub(super) fn apply(&mut self, book: &AddressBook, op: &Op, now: WallTime) {
        match *op {
            Op::Add(n, source) => {
                let full = book.len() == 12;
                let known = book.get(&addr(n)).is_some();
                match book.add(
                    addr(n),
                    if source == 0 { ReportedBy::Operator } else { reported_by(source) },
                    now,
                ) {
                    Ok(Added::Known) => assert!(known),
                    Ok(Added::New) => assert!(!known),
                    Err(AddRefused::Full) => assert!(full),
                    Err(AddRefused::Banned) => assert!(book.is_banned_addr(addr(n), now)),
                    Err(AddRefused::SourceQuota) => assert_ne!(source, 0),
                    Err(other) => panic!("{other}"),
                }
            }
            Op::Record(n, outcome) => {
                let outcome = [
                    DialOutcome::Attempt,
                    DialOutcome::Connected,
                    DialOutcome::Stable,
                    DialOutcome::Failed(FailureCause::Timeout),
                    DialOutcome::Busy { retry_after: Some(DAY) },
                    DialOutcome::Collision,
                ][usize::from(outcome)];
                if book.record(&addr(n), outcome, now) {
                    let failures = self.failures.entry(addr(n)).or_default();
                    match outcome {
                        DialOutcome::Stable => *failures = 0,
                        DialOutcome::Failed(_) => *failures += 1,
                        _ => {}
                    }
                    if matches!(outcome, DialOutcome::Connected | DialOutcome::Stable) {
                        self.connected.insert(addr(n));
                    }
                }
            }
            Op::Ban(n, length) => {
                let until = now.after(Duration::from_millis(length.into()));
                if book.ban(addr(n).ip().into(), until, now) {
                    self.banned.insert(addr(n).ip(), until);
                }
            }
            Op::Unban(n) => {
                book.unban(&addr(n).ip().into());
                self.banned.remove(&addr(n).ip());
            }
            Op::Trust(n, trusted) => {
                if book.set_trusted(addr(n), trusted, now).is_ok() && book.get(&addr(n)).is_some() {
                    if trusted {
                        self.trusted.insert(addr(n))
                    } else {
                        self.trusted.remove(&addr(n))
                    };
                }
            }
            Op::MarkSelf(n) => book.mark_self(addr(n), now),
            Op::Alias(n, of) => drop(book.set_alias(addr(n), addr(of))),
            Op::Remove(n) => {
                book.remove(&addr(n));
                self.trusted.remove(&addr(n));
            }
            Op::Expire => drop(book.expire(now)),
            Op::Advance(_) | Op::JumpBack(_) => {}
        }
        // An address that was removed starts anew when it returns.
        self.failures.retain(|addr, _| book.get(addr).is_some());
        self.connected.retain(|addr| book.get(addr).is_some());
    }

    pub(super) fn check(&self, book: &AddressBook, now: WallTime) {
        for (addr, failures) in &self.failures {
            assert_eq!(book.get(addr).unwrap().failures, *failures);
        }
        assert!(self.trusted.iter().all(|addr| book.get(addr).is_some_and(|entry| entry.trusted)));
        for addr in book.candidates(now, usize::MAX, &|_| false) {
            assert!(!book.is_banned_addr(addr, now) && !book.is_self(&addr, now));
            let left = book.get(&addr).unwrap().next_attempt.since(now);
            assert!(left.is_zero() || left > Backoff::default().cap);
        }
        assert!(book.sample(now, 99).iter().all(|addr| self.connected.contains(addr)));
        let due = book.next_due(now);
        assert_eq!(due == Some(now), !all(book, now).is_empty());
        if let Some(due) = due {
            assert!(!all(book, due).is_empty());
        }
        book.table.lock().check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_operations_keep_the_bounds_and_agree_with_a_model(ops in prop::collection::vec(op(), 1..120)) {
        // 24 addresses contend for 12 slots. Trusted ones cannot be evicted.
        let (book, mut model, mut now) = (AddressBook::in_memory(small(12, 4, 6)), Model::default(), T0);
        for op in &ops {
            match op {
                Op::Advance(by) => now = now.after(Duration::from_millis(u64::from(*by))),
                Op::JumpBack(by) => now = WallTime::from_millis(now.as_millis() - u64::from(*by)),
                _ => {}
            }
            model.apply(&book, op, now);
            model.check(&book, now);
        }
    }
}
