//! Many connections to one process, nearly all of them idle: what each costs in memory, how fast they are taken in, and
//! what they cost while they say nothing.
//!
//! ```text
//! cargo bench --bench idle -- --ratios                     19,000 connections, the tables
//! cargo bench --bench idle -- --ratios --peers 4000 --rounds 5
//! cargo bench --bench idle                                 criterion: the time to take in 1,000 connections
//! ```
//!
//! The bench starts a server process for each contender, one after the other, and a client process that dials it from
//! addresses 127.0.0.x and answers pings. A server counts every byte that its allocator hands out; its resident memory and
//! its CPU time are the system's word. What the kernel holds for a socket is in neither.
#![allow(clippy::print_stdout)]

mod clients;
mod servers;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion};
use servers::KINDS;

/// Who counts what the servers allocate.
#[global_allocator]
static ALLOCATOR: &stats_alloc::StatsAlloc<std::alloc::System> = &stats_alloc::INSTRUMENTED_SYSTEM;

/// A process that is told lines and answers each with one of numbers.
struct Helper {
    child: Child,
    tell: Option<ChildStdin>,
    hear: BufReader<ChildStdout>,
}

impl Helper {
    fn start(args: &[&str]) -> Self {
        let exe = std::env::current_exe().expect("this very program");
        let mut child = Command::new(exe)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("another process");
        let tell = child.stdin.take();
        let hear = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, tell, hear }
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.hear.read_line(&mut line).expect("the process lives");
        line.trim().to_owned()
    }

    fn ask(&mut self, line: &str) -> Vec<f64> {
        let tell = self.tell.as_mut().expect("a pipe");
        writeln!(tell, "{line}").and_then(|()| tell.flush()).expect("the process lives");
        self.hear().split_whitespace().map(|word| word.parse().expect("a number")).collect()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It ends with its standard input.
        self.tell = None;
        let _ = self.child.wait();
    }
}

/// What a server process says of itself.
#[derive(Clone, Copy, Debug)]
struct Stats {
    live: f64,
    allocated: f64,
    resident: f64,
    cpu: f64,
}

struct Scene {
    // The clients go first, so that their ends close before the server's.
    clients: Helper,
    server: Helper,
    before: Stats,
    took: f64,
    took_in: usize,
}

impl Scene {
    fn stats(server: &mut Helper) -> Stats {
        let [live, allocated, resident, cpu] = server.ask("stats")[..] else { panic!("four numbers") };
        Stats { live, allocated, resident, cpu }
    }

    /// A server with so many connections.
    fn new(kind: &str, pings: bool, peers: usize) -> Self {
        let mut server = Helper::start(&[servers::FLAG, kind, if pings { "pings" } else { "quiet" }]);
        let addr = server.hear();
        let mut clients = Helper::start(&[clients::FLAG, &addr]);
        let before = Self::stats(&mut server);
        let took = clients.ask(&format!("dial {peers}"))[0];
        while Self::stats(&mut server).live < peers as f64 {
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { clients, server, before, took, took_in: peers }
    }

    /// Every connection has brought a message, and of peerpool's each was sent one and a ping and has answered.
    fn say(&mut self) -> Stats {
        let all = self.took_in;
        self.server.ask("say");
        self.clients.ask(&format!("talk {all} 0.001"));
        std::thread::sleep(Duration::from_millis(500));
        Self::stats(&mut self.server)
    }

    /// CPU milliseconds a second while some of the connections send 100 messages a second each.
    fn talk(&mut self, active: usize, seconds: f64) -> f64 {
        let before = Self::stats(&mut self.server);
        self.clients.ask(&format!("talk {active} {seconds}"));
        let after = Self::stats(&mut self.server);
        (after.cpu - before.cpu) * 1e3 / seconds
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let files = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(0);
    match args.first().map(String::as_str) {
        Some(servers::FLAG) => return servers::main(&args[1], args[2] == "pings"),
        Some(clients::FLAG) => return clients::main(&args[1]),
        _ => {}
    }
    if args.iter().any(|arg| arg == "--ratios") {
        return ratios(&args, files);
    }
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("idle/take in 1,000 connections");
    group.sample_size(10).warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_secs(2));
    for kind in KINDS {
        group.bench_function(BenchmarkId::from_parameter(kind), |bencher| {
            bencher.iter_custom(|times| {
                (0..times).map(|_| Duration::from_secs_f64(Scene::new(kind, false, 1_000).took)).sum()
            });
        });
    }
    group.finish();
    criterion.final_summary();
}

fn ratios(args: &[String], files: u64) {
    let number = |flag: &str| {
        let at = args.iter().position(|arg| arg == flag)?;
        args.get(at + 1).and_then(|value| value.parse::<usize>().ok())
    };
    let peers = number("--peers").unwrap_or(19_000);
    let rounds = number("--rounds").unwrap_or(3).max(1);
    assert!(
        files == 0 || files > peers as u64 + 100,
        "{files} files may be open, {peers} are needed and some"
    );
    let only = args.iter().position(|arg| arg == "--only").and_then(|at| args.get(at + 1));
    let kinds: Vec<&str> =
        KINDS.into_iter().filter(|kind| only.is_none_or(|only| only.contains(kind))).collect();
    println!(
        "{peers} connections, median of {rounds} interleaved rounds; bytes a connection, kernel apart\n"
    );
    println!(
        "| | accepted/s | of tokio's | server CPU us each | allocated | resident | allocated, once all have talked |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|");
    let mut rates = vec![Vec::new(); kinds.len()];
    let mut costs = vec![Vec::new(); kinds.len()];
    for round in 0..rounds {
        for turn in 0..kinds.len() {
            let at = (turn + round) % kinds.len();
            let mut scene = Scene::new(kinds[at], false, peers);
            // What is freed and not given back counts as resident; what is still on its way does not.
            std::thread::sleep(Duration::from_millis(300));
            let (before, after) = (scene.before, Scene::stats(&mut scene.server));
            let said = scene.say();
            let each = |part: f64| part / peers as f64;
            rates[at].push(peers as f64 / scene.took);
            costs[at].push([
                each((after.cpu - before.cpu) * 1e6),
                each(after.allocated - before.allocated),
                each(after.resident - before.resident),
                each(said.allocated - before.allocated),
            ]);
        }
    }
    for (at, kind) in kinds.iter().enumerate() {
        let ratio = median(rates[at].iter().zip(&rates[0]).map(|(one, first)| one / first));
        let [cpu, allocated, resident, said] =
            [0, 1, 2, 3].map(|part| median(costs[at].iter().map(|cost: &[f64; 4]| cost[part])));
        let rate = median(rates[at].iter().copied());
        println!(
            "| {kind} | {rate:.0} | {ratio:.2} | {cpu:.1} | {allocated:.0} | {resident:.0} | {said:.0} |"
        );
    }
    let seconds = number("--seconds").unwrap_or(4) as f64;
    println!(
        "\nCPU of the server, milliseconds a second, 100 connections sending 100 messages a second each\n"
    );
    println!("| peerpool | only those 100 | beside {} idle ones | nobody sends |", peers - 100);
    println!("|---|--:|--:|--:|");
    for (name, pings) in [("without pings", false), ("pings every 15 s", true)] {
        let (mut few, mut many) = (Scene::new("peerpool", pings, 100), Scene::new("peerpool", pings, peers));
        let (mut alone, mut beside, mut silent) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..3 {
            alone.push(few.talk(100, seconds));
            beside.push(many.talk(100, seconds));
            silent.push(many.talk(0, seconds));
        }
        let [alone, beside, silent] = [alone, beside, silent].map(|all| median(all.into_iter()));
        println!("| {name} | {alone:.0} | {beside:.0} | {silent:.0} |");
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
