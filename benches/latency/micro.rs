//! The same under criterion: the median latency of a delivery, and the time of a message to those that keep up.

use std::cell::{OnceCell, RefCell};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion};

use crate::numbers::percentile;
use crate::votes::Bulk;
use crate::{Sockets, paced, slow, votes};

pub(crate) fn run() {
    let mut criterion = Criterion::default().configure_from_args();
    let times = |samples: &mut [u64], count: u64| {
        Duration::from_nanos((percentile(samples, 0.5) * count as f64) as u64)
    };
    for peers in [64usize, 256, 1024] {
        let pair: OnceCell<RefCell<paced::Pair>> = OnceCell::new();
        let mut group = criterion.benchmark_group(format!("latency/paced/{peers} peers"));
        group.sample_size(10).warm_up_time(Duration::from_millis(100));
        group.measurement_time(Duration::from_millis(700));
        for plain in [true, false] {
            group.bench_function(if plain { "plain loop" } else { "peerpool" }, |bencher| {
                let pair = pair.get_or_init(|| RefCell::new(paced::Pair::new(peers, 2)));
                bencher.iter_custom(|count| {
                    // Criterion asks for as many as fit its time; a hundred tell the median.
                    let some = count.min(100) as usize;
                    let mut pair = pair.borrow_mut();
                    let mut slice = if plain { pair.writes(some) } else { pair.broadcasts(some) };
                    times(&mut slice.samples, count)
                });
            });
        }
        group.finish();
    }
    let link: OnceCell<RefCell<votes::Connection>> = OnceCell::new();
    let mut group = criterion.benchmark_group("latency/votes");
    group.sample_size(10).warm_up_time(Duration::from_millis(100));
    for (name, bulk) in [("idle", Bulk::None), ("broadcast", Bulk::Broadcast), ("send", Bulk::Send)] {
        group.bench_function(BenchmarkId::new("blocks", name), |bencher| {
            let link = link.get_or_init(|| {
                RefCell::new(votes::Connection::new(2, Sockets::default(), votes::CloseReason::Raw, false))
            });
            bencher.iter_custom(|count| {
                let mut slice = link.borrow_mut().slice(bulk, Duration::from_millis(count.min(200)));
                times(&mut slice.samples, count)
            });
        });
    }
    group.finish();
    let contenders: OnceCell<RefCell<slow::Contenders>> = OnceCell::new();
    let mut group = criterion.benchmark_group("latency/slow readers");
    group.sample_size(10).warm_up_time(Duration::from_secs(4));
    for (at, name) in
        ["63 alone", "63 and 1 not reading", "48 alone", "48 and 16 at 1 %"].into_iter().enumerate()
    {
        group.bench_function(name, |bencher| {
            let contenders = contenders.get_or_init(|| RefCell::new(slow::Contenders::new(2)));
            bencher.iter_custom(|count| {
                let slice = contenders.borrow_mut().slice(at, Duration::from_millis(250));
                Duration::from_secs_f64(count as f64 / slice.rate)
            });
        });
    }
    group.finish();
    criterion.final_summary();
}
