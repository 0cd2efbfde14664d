//! Many connections to one process, nearly all of them idle: the memory of each, how fast they are
//! accepted, and the CPU time that they cost while they are silent.
//!
//! ```text
//! cargo bench --bench idle -- --ratios                     19,000 connections, the tables
//! cargo bench --bench idle -- --ratios --peers 4000 --rounds 5
//! cargo bench --bench idle                                 criterion: the time to accept 1,000 connections
//! ```
//!
//! The bench starts a server process for each contender, one after the other, and a client process
//! that dials it from addresses 127.0.0.x and answers pings. A server counts every byte that its
//! allocator hands out. Its resident memory and its CPU time are as the system reports them. What
//! the kernel holds for a socket is in neither.
#![allow(clippy::print_stdout)]

mod clients;
#[allow(dead_code, reason = "each bench uses a part of it")]
#[path = "../common/mod.rs"]
mod common;
mod servers;

use std::thread;
use std::time::Duration;

use common::args::Args;
use common::child_process::ChildProcess;
use common::recorder::Recorder;
use common::results::case;
use common::rounds::interleave;
use common::stats::{each, median, ratio};
use common::{system, table};
use criterion::{BenchmarkId, Criterion};
use servers::KINDS;

/// Counts what the servers allocate.
#[global_allocator]
static ALLOCATOR: &stats_alloc::StatsAlloc<std::alloc::System> = &stats_alloc::INSTRUMENTED_SYSTEM;

/// Connections that send while the others are idle.
const ACTIVE: usize = 100;
/// Measurements of CPU time in each situation.
const CPU_ROUNDS: usize = 3;

/// What a server process reports of itself.
#[derive(Clone, Copy, Debug)]
struct ServerStats {
    live: f64,
    allocated: f64,
    resident: f64,
    cpu: f64,
}

/// A server with connections.
struct Scene {
    // The clients go first, so that their ends close before the server's.
    clients: ChildProcess,
    server: ChildProcess,
    before: ServerStats,
    /// Seconds until all connections were accepted.
    accepted_in: f64,
    peers: usize,
}

fn stats(server: &mut ChildProcess) -> ServerStats {
    let [live, allocated, resident, cpu] = server.ask("stats")[..] else { panic!("four numbers") };
    ServerStats { live, allocated, resident, cpu }
}

impl Scene {
    fn new(kind: &str, pings: bool, peers: usize) -> Self {
        let mut server = ChildProcess::start(&[servers::FLAG, kind, if pings { "pings" } else { "quiet" }]);
        let addr = server.read_line();
        let mut clients = ChildProcess::start(&[clients::FLAG, &addr]);
        let before = stats(&mut server);
        let accepted_in = clients.ask(&format!("dial {peers}"))[0];
        while stats(&mut server).live < peers as f64 {
            thread::sleep(Duration::from_millis(5));
        }
        Self { clients, server, before, accepted_in, peers }
    }

    fn stats(&mut self) -> ServerStats {
        stats(&mut self.server)
    }

    /// Uses every connection once: it brings a message; peerpool sends it a message and a ping,
    /// which it answers.
    fn use_all(&mut self) -> ServerStats {
        self.server.ask::<f64>("broadcast");
        self.clients.ask::<f64>(&format!("talk {} 0.001", self.peers));
        thread::sleep(Duration::from_millis(500));
        self.stats()
    }

    /// CPU milliseconds a second while some of the connections send 100 messages a second each.
    fn cpu_while_talking(&mut self, active: usize, seconds: f64) -> f64 {
        let before = self.stats();
        self.clients.ask::<f64>(&format!("talk {active} {seconds}"));
        (self.stats().cpu - before.cpu) * 1e3 / seconds
    }
}

fn main() {
    let args = Args::parse();
    system::allow_open_files(0);
    if let Some(args) = args.after_child_flag(servers::FLAG) {
        return servers::main(&args[0], args[1] == "pings");
    }
    if let Some(args) = args.after_child_flag(clients::FLAG) {
        return clients::main(&args[0]);
    }
    if args.wants_tables() {
        args.check(&["--peers", "--rounds", "--only", "--seconds"], &[]);
        return tables(&args);
    }
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("idle/accept 1,000 connections");
    group.sample_size(10).warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_secs(2));
    for kind in KINDS {
        group.bench_function(BenchmarkId::from_parameter(kind), |bencher| {
            bencher.iter_custom(|times| {
                (0..times).map(|_| Duration::from_secs_f64(Scene::new(kind, false, 1_000).accepted_in)).sum()
            });
        });
    }
    group.finish();
    criterion.final_summary();
}

fn tables(args: &Args) {
    let peers = args.number("--peers", 19_000);
    system::allow_open_files(peers as u64 + 100);
    let rounds = args.number("--rounds", 3).max(1);
    let mut recorder = Recorder::new("idle", rounds);
    connections(args, &mut recorder, peers, rounds);
    cpu_time(&mut recorder, peers, args.number("--seconds", 4) as f64);
    recorder.finish(args);
}

/// The figures of a scene and their names: accepted a second, then CPU time and bytes a connection.
const METRICS: [&str; 5] = [
    "accepted_per_second",
    "server_cpu_us_per_connection",
    "allocated_bytes_per_connection",
    "resident_bytes_per_connection",
    "allocated_bytes_once_used",
];

fn measure(kind: &str, peers: usize) -> [f64; 5] {
    let mut scene = Scene::new(kind, false, peers);
    // Memory that is freed and not given back counts as resident; what is still on its way does
    // not.
    thread::sleep(Duration::from_millis(300));
    let (before, after) = (scene.before, scene.stats());
    let used = scene.use_all();
    let each = |part: f64| part / peers as f64;
    [
        peers as f64 / scene.accepted_in,
        each((after.cpu - before.cpu) * 1e6),
        each(after.allocated - before.allocated),
        each(after.resident - before.resident),
        each(used.allocated - before.allocated),
    ]
}

fn connections(args: &Args, recorder: &mut Recorder, peers: usize, rounds: usize) {
    let kinds: Vec<&str> = KINDS.into_iter().filter(|kind| args.selects(kind)).collect();
    println!(
        "{peers} connections, medians of {rounds} interleaved rounds; bytes a connection, without the kernel's\n"
    );
    table::header(&[
        "",
        "accepted/s",
        "of tokio's",
        "server CPU us each",
        "allocated",
        "resident",
        "allocated, once all were used",
    ]);
    let figures = interleave(kinds.len(), rounds, |at, _| measure(kinds[at], peers));
    let case = case(&[("connections", &peers)]);
    for (kind, rounds) in kinds.iter().zip(&figures) {
        let values: Vec<Vec<f64>> = (0..METRICS.len()).map(|at| each(rounds, |round| round[at])).collect();
        for (metric, values) in METRICS.iter().zip(&values) {
            recorder.add(&case, kind, metric, values);
        }
        let base = each(&figures[0], |round| round[0]);
        if *kind != kinds[0] {
            recorder.add_ratio(&case, (kind, &values[0]), (kinds[0], &base), METRICS[0]);
        }
        let medians: Vec<f64> = values.iter().map(|values| median(values.iter().copied())).collect();
        let mut row = vec![
            (*kind).to_owned(),
            format!("{:.0}", medians[0]),
            format!("{:.2}", ratio(&values[0], &base)),
        ];
        row.extend(medians[1..].iter().map(|median| format!("{median:.0}")));
        table::row(row);
    }
}

fn cpu_time(recorder: &mut Recorder, peers: usize, seconds: f64) {
    println!(
        "\nCPU of the server, milliseconds a second, {ACTIVE} connections sending 100 messages a second each\n"
    );
    let idle = peers - ACTIVE;
    table::header(&["peerpool", "only those", &format!("beside {idle} idle ones"), "nobody sends"]);
    for (name, pings) in [("without pings", false), ("pings every 15 s", true)] {
        let (mut few, mut many) =
            (Scene::new("peerpool", pings, ACTIVE), Scene::new("peerpool", pings, peers));
        let mut figures: [Vec<f64>; 3] = Default::default();
        for _ in 0..CPU_ROUNDS {
            figures[0].push(few.cpu_while_talking(ACTIVE, seconds));
            figures[1].push(many.cpu_while_talking(ACTIVE, seconds));
            figures[2].push(many.cpu_while_talking(0, seconds));
        }
        let situations = [(ACTIVE, 0), (ACTIVE, idle), (0, peers)];
        for ((active, idle), values) in situations.iter().zip(&figures) {
            let case = case(&[("active", active), ("idle", idle), ("pings", &name)]);
            recorder.add(&case, "peerpool", "cpu_ms_per_second", values);
        }
        table::numbers(name, &figures.map(median), 0);
    }
}
