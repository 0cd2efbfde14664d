//! The same under criterion: the median latency of a delivery, and the time of a message to the
//! peers that keep up.

use std::cell::{OnceCell, RefCell};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion};

use crate::Sockets;
use crate::common::stats::percentile;
use crate::paced::{Caller, Pair};
use crate::slow::{Peers, Trial};
use crate::votes::{Bulk, RemoteEnd, Scene};

pub(crate) fn run() {
    let mut criterion = Criterion::default().configure_from_args();
    paced(&mut criterion);
    votes(&mut criterion);
    slow_readers(&mut criterion);
    criterion.final_summary();
}

/// The median of the samples, `count` times.
fn median_times(samples: &mut [u64], count: u64) -> Duration {
    Duration::from_nanos((percentile(samples, 0.5) * count as f64) as u64)
}

fn paced(criterion: &mut Criterion) {
    for peers in [64usize, 256, 1024] {
        let pair: OnceCell<RefCell<Pair>> = OnceCell::new();
        let mut group = criterion.benchmark_group(format!("latency/paced/{peers} peers"));
        group.sample_size(10).warm_up_time(Duration::from_millis(100));
        group.measurement_time(Duration::from_millis(700));
        for caller in Caller::ALL {
            group.bench_function(caller.name(), |bencher| {
                let pair = pair.get_or_init(|| RefCell::new(Pair::new(peers, 2)));
                bencher.iter_custom(|count| {
                    // Criterion asks for as many as fit its time; a hundred give the median.
                    let mut slice = pair.borrow_mut().slice(caller, count.min(100) as usize);
                    median_times(&mut slice.latencies, count)
                });
            });
        }
        group.finish();
    }
}

fn votes(criterion: &mut Criterion) {
    let scene: OnceCell<RefCell<Scene>> = OnceCell::new();
    let mut group = criterion.benchmark_group("latency/votes");
    group.sample_size(10).warm_up_time(Duration::from_millis(100));
    for bulk in Bulk::ALL {
        group.bench_function(BenchmarkId::from_parameter(bulk.name()), |bencher| {
            let scene = scene
                .get_or_init(|| RefCell::new(Scene::new(2, Sockets::default(), RemoteEnd::Reader, false)));
            bencher.iter_custom(|count| {
                let mut slice = scene.borrow_mut().slice(bulk, Duration::from_millis(count.min(200)));
                median_times(&mut slice.latencies, count)
            });
        });
    }
    group.finish();
}

fn slow_readers(criterion: &mut Criterion) {
    let trial: OnceCell<RefCell<Trial>> = OnceCell::new();
    let mut group = criterion.benchmark_group("latency/slow readers");
    group.sample_size(10).warm_up_time(Duration::from_secs(4));
    for peers in Peers::ALL {
        group.bench_function(peers.name(), |bencher| {
            let trial = trial.get_or_init(|| RefCell::new(Trial::new(2)));
            bencher.iter_custom(|count| {
                let slice = trial.borrow_mut().slice(peers as usize, Duration::from_millis(250));
                Duration::from_secs_f64(count as f64 / slice.rate)
            });
        });
    }
    group.finish();
}
