//! Flushed records survive SIGKILL: a child process writes and flushes, and is killed at random
//! times.
#![cfg(all(feature = "redb", unix))]
#![allow(clippy::unwrap_used)] // helpers of tests; clippy excuses the tests alone

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use peerpool::PeerId;
use peerpool::address_book::{
    AddressBook, AddressBookConfig, DialOutcome, FailureCause, ReportedBy, WallTime,
};

const CHILD: &str = "child_writes_until_it_is_killed";
const FILE: &str = "PEERPOOL_KILL9_FILE";
const START: &str = "PEERPOOL_KILL9_START";
const ROUNDS: u32 = 14;
/// Record `n` is removed by the flush of record `n + KEPT`.
const KEPT: u32 = 20;

fn now(n: u32) -> WallTime {
    WallTime::from_millis(1_700_000_000_000 + u64::from(n))
}

fn ip(n: u32) -> IpAddr {
    let [_, a, b, c] = n.to_be_bytes();
    IpAddr::from([20, a, b, c])
}

fn addr(n: u32) -> SocketAddr {
    SocketAddr::new(ip(n), 7000)
}

/// An address that gets one more failure with every flush.
fn counter() -> SocketAddr {
    SocketAddr::from(([30, 0, 0, 1], 7000))
}

fn key(n: u32) -> PeerId {
    let mut key = [0; 32];
    key[..4].copy_from_slice(&n.to_be_bytes());
    PeerId::Key(key)
}

fn open(path: &Path) -> AddressBook {
    let many = NonZeroUsize::new(1_000_000).unwrap();
    let config = AddressBookConfig {
        max_addresses: many,
        max_per_source: many,
        max_bans: many,
        ..AddressBookConfig::default()
    };
    AddressBook::open(path, config).unwrap_or_else(|error| panic!("{error}"))
}

/// The process that is killed, not a test. Does nothing unless its variable is set.
#[test]
fn child_writes_until_it_is_killed() {
    let Some(path) = std::env::var_os(FILE) else { return };
    let start: u32 = std::env::var(START).unwrap().parse().unwrap();
    let book = open(Path::new(&path));
    book.add(counter(), ReportedBy::Operator, now(0)).unwrap();
    // Ends by itself if the parent does not kill it.
    let end = Instant::now() + Duration::from_secs(20);
    let mut n = start;
    while Instant::now() < end {
        book.add(addr(n), ReportedBy::Seed, now(n)).unwrap();
        for _ in 0..n % 5 + 1 {
            book.record(&addr(n), DialOutcome::Failed(FailureCause::Timeout), now(n));
        }
        book.record(&counter(), DialOutcome::Failed(FailureCause::Refused), now(n));
        book.ban(ip(n).into(), WallTime::MAX, now(n));
        book.ban(key(n).into(), now(n).after(Duration::from_secs(60)), now(n));
        if let Some(old) = n.checked_sub(KEPT) {
            book.remove(&addr(old));
        }
        book.flush().unwrap();
        let counted = book.get(&counter()).unwrap().failures;
        let next = book.get(&addr(n)).unwrap().next_attempt.as_millis();
        eprintln!("flushed {n} {counted} {next}");
        n += 1;
    }
}

/// A flush that the child has reported.
#[derive(Clone, Copy)]
struct Flushed {
    n: u32,
    counted: u32,
    next_attempt: WallTime,
}

impl Flushed {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("flushed ")?.split(' ');
        let n = words.next()?.parse().ok()?;
        let counted = words.next()?.parse().ok()?;
        // The kill may have truncated the last line.
        let next_attempt = WallTime::from_millis(words.next()?.parse().ok()?);
        (next_attempt > now(0)).then_some(Self { n, counted, next_attempt })
    }
}

/// Kills the child if the parent panics.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(path: &Path, start: u32) -> Running {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", CHILD, "--nocapture", "--test-threads=1"])
        .env(FILE, path)
        .env(START, start.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    Running(child)
}

/// Lets a child write from `start` on, and kills it `pause` after `lines` flushes. Returns the
/// reported flushes.
fn run_and_kill(path: &Path, start: u32, lines: usize, pause: Duration) -> Vec<Flushed> {
    let mut child = spawn(path, start);
    let mut stderr = BufReader::new(child.0.stderr.take().unwrap());
    let mut reported = Vec::new();
    let mut line = String::new();
    while reported.len() < lines {
        line.clear();
        assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "the child ended by itself");
        let flushed = Flushed::parse(line.trim_end());
        reported.push(flushed.unwrap_or_else(|| panic!("the child failed: {line}")));
    }
    std::thread::sleep(pause);
    child.0.kill().unwrap();
    assert_eq!(child.0.wait().unwrap().signal(), Some(9), "killed by SIGKILL, not ended");
    // Lines that the child wrote before it died.
    while stderr
        .read_line({
            line.clear();
            &mut line
        })
        .unwrap_or(0)
        > 0
    {
        if line.ends_with('\n') {
            reported
                .push(Flushed::parse(line.trim_end()).unwrap_or_else(|| panic!("the child failed: {line}")));
        }
    }
    reported
}

/// Whether record `n` is in the book. It must be there completely or not at all.
fn holds(book: &AddressBook, n: u32) -> bool {
    let banned = book.is_banned(&ip(n).into(), now(n));
    assert_eq!(banned, book.is_banned(&key(n).into(), now(n)), "both bans of one flush, or none: {n}");
    let entry = book.get(&addr(n));
    if let Some(entry) = &entry {
        assert!(banned, "{n} without its bans");
        assert_eq!((entry.failures, entry.last_cause), (n % 5 + 1, Some(FailureCause::Timeout)));
    }
    banned
}

#[test]
fn flushed_records_survive_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("book.redb");
    let mut rng = fastrand::Rng::new();
    let (mut all, mut next, mut unreported) = (Vec::<Flushed>::new(), 0, 0);
    for round in 0..ROUNDS {
        // Some children die while they start; the first one while it creates the file.
        let lines = if round % 4 == 0 { 0 } else { rng.usize(1..25) };
        let pause = Duration::from_micros(rng.u64(..40_000));
        let reported = run_and_kill(&path, next, lines, pause);
        all.extend(&reported);
        let book = open(&path);
        // The newest flush known to be complete. Unreported flushes of earlier rounds are complete
        // too.
        let newest = reported.last().map(|flushed| flushed.n).or(next.checked_sub(1));
        for flushed in &all {
            assert!(holds(&book, flushed.n), "round {round}: {} was flushed and is lost", flushed.n);
            let known = book.get(&addr(flushed.n));
            assert!(
                !(known.is_some() && newest.is_some_and(|newest| newest >= flushed.n + KEPT)),
                "it was removed"
            );
            if let Some(known) = known {
                assert_eq!(known.next_attempt, flushed.next_attempt, "the backoff is as it was");
            } else {
                assert!(newest.is_some_and(|newest| newest + 1 >= flushed.n + KEPT), "{} is lost", flushed.n);
            }
        }
        // At most one flush may be complete and unreported.
        let first_unreported = reported.last().map_or(next, |flushed| flushed.n + 1);
        let done = u32::from(holds(&book, first_unreported));
        assert!(!holds(&book, first_unreported + 1), "a record that was never flushed");
        let counted = book.get(&counter()).map_or(0, |entry| entry.failures);
        if let Some(flushed) = reported.last() {
            assert_eq!(counted, flushed.counted + done, "the counter and the record of one flush");
        }
        unreported += done;
        next = first_unreported + done;
    }
    assert!(all.len() > 10, "only {} flushes in {ROUNDS} rounds", all.len());
    println!("{} flushes, {unreported} complete but not reported", all.len());
}
