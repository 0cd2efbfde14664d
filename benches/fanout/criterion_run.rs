//! The same under criterion: time of a message to all peers.

use std::cell::{OnceCell, RefCell};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};

use crate::Setup;
use crate::common::contest::{Contest, Goal};
use crate::common::receivers::ReadMode;
use crate::contenders::contest;

const PEERS: [usize; 4] = [8, 64, 256, 1024];
const SIZES: [usize; 3] = [100, 1024, 64 * 1024];
/// A name, the contender in the order of the contest, and which of its variants.
const WAYS: [(&str, usize, usize); 7] = [
    ("raw writes, 1 thread", 0, 2),
    ("raw writes, 2 threads", 0, 6),
    ("peerpool", 1, 0),
    ("pea2pea", 2, 0),
    ("channel, batched", 3, 0),
    ("channel, plain", 4, 0),
    ("spawn + lock + JSON", 5, 0),
];

pub(crate) fn run() {
    let mut criterion = Criterion::default().configure_from_args();
    let setup = Setup { receivers: ReadMode::Discard, workers: 2, lowat: None };
    for peers in PEERS {
        // Only connected if a filter lets one of its benches run.
        let contest_cell: OnceCell<RefCell<Contest>> = OnceCell::new();
        let mut group = criterion.benchmark_group(format!("fanout/{peers} peers"));
        group.sample_size(10).warm_up_time(Duration::from_millis(100));
        group.measurement_time(Duration::from_millis(700)).throughput(Throughput::Elements(peers as u64));
        for size in SIZES {
            for (name, at, variant) in WAYS {
                group.bench_function(BenchmarkId::new(name, format!("{size} B")), |bencher| {
                    let contest = contest_cell.get_or_init(|| RefCell::new(contest(peers, setup, |_| true)));
                    bencher.iter_custom(|messages| {
                        contest.borrow_mut().slice(at, variant, size, Goal::Messages(messages)).took
                    });
                });
            }
        }
        group.finish();
    }
    criterion.final_summary();
}
