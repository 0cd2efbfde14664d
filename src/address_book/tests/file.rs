use std::path::Path;

use super::model::{Model, Op, op};
use super::*;

fn open(path: &Path) -> AddressBook {
    AddressBook::open(path, config()).unwrap()
}

fn assert_equal(one: &AddressBook, other: &AddressBook) {
    assert_eq!(one.addresses(), other.addresses());
    assert_eq!(one.bans(), other.bans());
}

#[test]
fn everything_known_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("book.redb");
    let book = open(&path);
    let scoped = "[fe80::1%3]:70".parse().unwrap();
    for n in 0..10 {
        book.add(addr(n), reported_by(1), T0).unwrap();
    }
    book.add(scoped, ReportedBy::Operator, T0).unwrap();
    book.record(&addr(0), DialOutcome::Attempt, T0);
    book.record(&addr(0), DialOutcome::Connected, T0);
    book.record(&addr(1), DialOutcome::Failed(FailureCause::WrongNetwork), T0);
    book.set_trusted(addr(2), true, T0).unwrap();
    book.set_alias(addr(3), scoped);
    book.mark_self(addr(4), T0);
    book.ban(addr(5).ip().into(), T0.after(DAY), T0);
    book.ban(PeerId::Key([9; 32]).into(), WallTime::MAX, T0);
    book.ban(PeerId::from_addr(scoped).into(), WallTime::MAX, T0);
    assert_eq!((book.flush().unwrap(), book.flush().unwrap(), book.stats().unflushed), (14, 0, 0));
    book.remove(&addr(6));
    book.unban(&PeerId::from_addr(scoped).into());
    assert_eq!(book.flush().unwrap(), 2);
    let before = (book.addresses(), book.bans());
    drop(book);
    let again = open(&path);
    assert_eq!((again.addresses(), again.bans()), before);
    assert_eq!(again.stats().unflushed, 0);
    again.table.lock().check();
}

#[test]
fn a_crash_loses_only_unflushed_changes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("book.redb");
    let book = open(&path);
    book.add(addr(0), ReportedBy::Seed, T0).unwrap();
    book.flush().unwrap();
    book.add(addr(1), ReportedBy::Seed, T0).unwrap();
    drop(book);
    assert_eq!(open(&path).addresses().iter().map(|entry| entry.addr).collect::<Vec<_>>(), [addr(0)]);
}

#[test]
fn a_smaller_configuration_shrinks_the_book_that_it_opens() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("book.redb");
    let book = open(&path);
    for n in 0..20 {
        book.add(addr(n), reported_by(n as u8), T0).unwrap();
        book.ban(IpAddr::from([40, 0, 0, n as u8]).into(), WallTime::MAX, T0);
    }
    book.flush().unwrap();
    drop(book);
    let book = AddressBook::open(&path, small(5, 5, 3)).unwrap();
    assert_eq!((book.len(), book.bans().len()), (5, 3));
    book.flush().unwrap();
    let left = (book.addresses(), book.bans());
    drop(book);
    let book = open(&path);
    assert_eq!((book.addresses(), book.bans()), left);
}

#[test]
fn a_book_in_use_is_not_opened_twice() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("book.redb");
    let _book = open(&path);
    let error = AddressBook::open(&path, config()).unwrap_err();
    assert!(matches!(error, AddressBookError::InUse { .. }), "{error}");
    assert!(error.to_string().contains("book.redb"), "{error}");
}

#[test]
fn a_path_that_cannot_be_written_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = AddressBook::open(dir.path().join("no/such/dir/book.redb"), config()).unwrap_err();
    assert!(
        matches!(error, AddressBookError::Open { .. }) && error.to_string().contains("no/such/dir"),
        "{error}"
    );
    let error = AddressBook::open(dir.path(), config()).unwrap_err();
    assert!(matches!(error, AddressBookError::Open { .. }), "{error}");
}

#[test]
fn a_foreign_file_is_refused_and_stays_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("book.redb");
    for contents in [b"hello".to_vec(), vec![0; 100_000], b"[config]\n".repeat(5_000)] {
        std::fs::write(&path, &contents).unwrap();
        let error = AddressBook::open(&path, config()).unwrap_err();
        assert!(matches!(error, AddressBookError::Foreign { .. }), "{error:?}");
        assert_eq!(std::fs::read(&path).unwrap(), contents);
    }
    std::fs::remove_file(&path).unwrap();
    let other: redb::TableDefinition<'_, u64, u64> = redb::TableDefinition::new("other");
    let db = redb::Database::create(&path).unwrap();
    let write = db.begin_write().unwrap();
    write.open_table(other).unwrap().insert(1, 2).unwrap();
    write.commit().unwrap();
    drop(db);
    let error = AddressBook::open(&path, config()).unwrap_err();
    assert!(matches!(error, AddressBookError::Foreign { .. }), "{error:?}");
}

#[test]
fn another_schema_is_refused_with_its_number() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("book.redb");
    drop(open(&path));
    let meta: redb::TableDefinition<'_, &str, u64> = redb::TableDefinition::new("peerpool.book");
    let db = redb::Database::create(&path).unwrap();
    let write = db.begin_write().unwrap();
    write.open_table(meta).unwrap().insert("schema", 77).unwrap();
    write.commit().unwrap();
    drop(db);
    let error = AddressBook::open(&path, config()).unwrap_err();
    assert!(matches!(error, AddressBookError::Schema { found: 77, supported: 1, .. }), "{error:?}");
}

#[test]
fn a_damaged_file_gives_an_error_or_the_book_and_never_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("book.redb");
    let book = open(&path);
    for n in 0..200 {
        book.add(addr(n), reported_by((n % 50) as u8), T0).unwrap();
    }
    book.flush().unwrap();
    let known = book.addresses();
    drop(book);
    let good = std::fs::read(&path).unwrap();
    let mut rng = fastrand::Rng::with_seed(5);
    let (mut refused, mut read) = (0, 0);
    for round in 0..60 {
        let mut bad = good.clone();
        match round % 3 {
            0 => bad.truncate(rng.usize(1..good.len())),
            1 => {
                // In the header and the first pages, where most bytes matter.
                let at = rng.usize(..bad.len().min(16 * 4096));
                bad[at] ^= 1 << rng.u8(..8);
            }
            _ => {
                let at = rng.usize(..bad.len() - 4096);
                bad[at..at + 4096].fill(rng.u8(..));
            }
        }
        std::fs::write(&path, bad).unwrap();
        match AddressBook::open(&path, config()) {
            // An unused byte.
            Ok(book) => {
                assert_eq!(book.addresses(), known, "round {round}");
                read += 1;
            }
            Err(error) => {
                assert!(error.to_string().contains("book.redb"), "{error}");
                assert!(!matches!(error, AddressBookError::InUse { .. }), "round {round}: {error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 10, "{refused} refused, {read} read");
}

#[test]
fn a_failed_flush_keeps_its_changes_for_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("book.redb");
    let book = open(&path);
    book.add(addr(0), ReportedBy::Seed, T0).unwrap();
    book.flush().unwrap();
    book.add(addr(1), ReportedBy::Seed, T0).unwrap();
    book.ban(addr(9).ip().into(), WallTime::MAX, T0);
    // Simulates a disk error that closes the file, and another file in its place.
    book.store.as_ref().unwrap().lock().close();
    let aside = dir.path().join("aside");
    std::fs::rename(&path, &aside).unwrap();
    std::fs::write(&path, "not a book").unwrap();
    assert!(matches!(book.flush(), Err(AddressBookError::Foreign { .. })));
    assert_eq!(book.stats().unflushed, 2);
    std::fs::rename(&aside, &path).unwrap();
    assert_eq!(book.flush().unwrap(), 2);
    // The file is deleted: a new one gets all records.
    book.store.as_ref().unwrap().lock().close();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(book.flush().unwrap(), 3);
    let before = (book.addresses(), book.bans());
    drop(book);
    let again = open(&path);
    assert_eq!((again.addresses(), again.bans()), before);
}

#[test]
fn a_batch_that_could_not_be_written_is_written_by_the_next_flush() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("book.redb");
    let book = open(&path);
    book.add(addr(0), ReportedBy::Seed, T0).unwrap();
    book.ban(addr(9).ip().into(), WallTime::MAX, T0);
    book.store.as_ref().unwrap().lock().fails_next = true;
    assert!(matches!(book.flush(), Err(AddressBookError::Write { .. })));
    assert_eq!(book.stats().unflushed, 2);
    assert_eq!(book.flush().unwrap(), 2);
    drop(book);
    let again = open(&path);
    assert_eq!((again.len(), again.bans().len()), (1, 1));
}

#[test]
fn a_file_that_is_never_written_does_not_make_the_marks_grow() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("book.redb");
    let book = AddressBook::open(&path, small(10, 10, 10)).unwrap();
    book.add(addr(0), ReportedBy::Operator, T0).unwrap();
    book.flush().unwrap();
    for n in 0..5_000 {
        book.add(addr(n), reported_by((n % 200) as u8), T0.after(SECOND * u32::from(n))).unwrap();
        assert!(book.stats().unflushed <= 20);
    }
    book.ban(addr(9).ip().into(), WallTime::MAX, T0);
    let before = (book.addresses(), book.bans());
    book.flush().unwrap();
    drop(book);
    let again = open(&path);
    assert_eq!((again.addresses(), again.bans()), before, "nothing old is left in the file");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_flushed_book_equals_the_same_book_reopened(ops in prop::collection::vec(op(), 1..60), every in 1..20usize) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("book.redb");
        let book = AddressBook::open(&path, small(12, 4, 6)).unwrap();
        let (mut model, mut now) = (Model::default(), T0);
        for (n, op) in ops.iter().enumerate() {
            if let Op::Advance(by) = op {
                now = now.after(Duration::from_millis(u64::from(*by)));
            }
            model.apply(&book, op, now);
            if n % every == 0 {
                book.flush().unwrap();
            }
        }
        book.flush().unwrap();
        let copy = AddressBook::in_memory(small(12, 4, 6));
        copy.table.lock().restore(book.addresses(), book.bans());
        drop(book);
        assert_equal(&AddressBook::open(&path, small(12, 4, 6)).unwrap(), &copy);
    }
}
