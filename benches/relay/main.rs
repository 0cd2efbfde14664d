//! Relay: a message of 200 bytes comes from 8 of 64 peers. It goes once to every peer except the
//! one that sent it first.
//!
//! ```text
//! cargo bench --bench relay                        criterion: time of a received frame
//! cargo bench --bench relay -- --ratios            frames a second; also --rounds 9 --slice-ms 500
//! ```
//!
//! The 64 peers live in a second process. It writes the same messages to 8 sockets and counts,
//! without copying, what comes on all 64. A round is over when every frame was handled and every
//! delivery that was not missed arrived. The figures are received frames, duplicates included, over
//! the whole round; both processes share the cores. The senders write as fast as they can, in every
//! second round no faster than all 64 peers read what is relayed.
#![allow(clippy::print_stdout)]

mod child;
#[allow(dead_code, reason = "each bench uses a part of it")]
#[path = "../common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use common::args::Args;
use common::child_process::ChildProcess;
use common::node::{quiet_listener, runtime, start, wait_for_peers};
use common::recorder::Recorder;
use common::results::case;
use common::rounds::interleave;
use common::stats::{each, median};
use common::{system, table};
use criterion::{Criterion, Throughput};
use peerpool::{Context, Event, Handled, Handler, Message, Node, RelayConfig};
use tokio::runtime::Runtime;

pub(crate) const PEERS: u64 = 64;
/// Peers that send each message.
pub(crate) const SENDERS: u64 = 8;
pub(crate) const PAYLOAD_BYTES: usize = 200;
/// How the senders write: a name, and the command of the second process.
const WAYS: [(&str, &str); 2] = [("full speed", "send-for"), ("all keep up", "keep-up-for")];

struct RelayHandler;

impl Handler for RelayHandler {
    fn event(&self, cx: Context<'_>, event: Event<'_>) -> Handled {
        let message = Message::new(event.kind, event.payload.into_bytes());
        let _ = cx.node().relay(&message, Some(cx.peer()));
        Handled::Done
    }
}

struct Scene {
    _runtime: Runtime,
    node: Node,
    peers: ChildProcess,
}

/// What one round came to.
struct Round {
    frames: u64,
    took: Duration,
    /// Deliveries that arrived.
    deliveries: u64,
    cpu: Duration,
}

impl Round {
    fn frames_per_second(&self) -> f64 {
        self.frames as f64 / self.took.as_secs_f64()
    }

    fn deliveries_per_second(&self) -> f64 {
        self.deliveries as f64 / self.took.as_secs_f64()
    }

    fn missed_share(&self) -> f64 {
        let all = self.frames / SENDERS * (PEERS - 1);
        (all - self.deliveries) as f64 / all as f64
    }

    /// CPU time of the node for a frame and its deliveries.
    fn cpu_ns_per_frame(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e9 / self.frames as f64
    }
}

impl Scene {
    fn new() -> Self {
        let runtime = runtime(2);
        let mut config = quiet_listener();
        // Exact for a second at this rate. The default is made for a thousandth of it.
        config.relay = RelayConfig {
            retention: Duration::from_secs(1),
            capacity: 1 << 21,
            source_share_percent: 100,
            subnet_share_percent: 100,
            own_share_percent: 0,
        };
        config.runtime.memory_limit += config.relay.max_bytes();
        let node = start(&runtime, Node::builder().config(config).handler(RelayHandler));
        let peers = ChildProcess::start(&[child::FLAG, &node.local_addrs()[0].to_string()]);
        wait_for_peers(&node, PEERS as usize);
        Self { _runtime: runtime, node, peers }
    }

    fn round(&mut self, command: &str) -> Round {
        let before = self.node.stats();
        let (cpu, begun) = (system::cpu(), Instant::now());
        let unique = self.peers.ask::<u64>(command)[0];
        let frames = unique * SENDERS;
        let mut now = self.node.stats();
        while now.events - before.events < frames {
            assert!(begun.elapsed() < Duration::from_secs(30), "not all frames were handled");
            std::thread::sleep(Duration::from_micros(200));
            now = self.node.stats();
        }
        // A peer that missed something learns of it when it next writes, and counts its own
        // messages among the missed ones. Where anything was missed, the round is over when nothing
        // more comes.
        let all = unique * (PEERS - 1);
        let [deliveries, idle] = self.peers.ask(&format!("wait {all}"))[..] else { panic!("two numbers") };
        let took = begun.elapsed().saturating_sub(Duration::from_micros(idle));
        now = self.node.stats();
        let missed = now.missed_broadcasts - before.missed_broadcasts;
        assert_eq!(now.relayed - before.relayed, unique, "each message is relayed once");
        assert_eq!(now.duplicates - before.duplicates, unique * (SENDERS - 1));
        let as_expected = deliveries <= all && (missed > 0 || deliveries == all);
        assert!(as_expected, "every delivery arrives, and none twice");
        Round { frames, took, deliveries, cpu: system::cpu() - cpu }
    }
}

fn main() {
    let args = Args::parse();
    if let Some(args) = args.after_child_flag(child::FLAG) {
        return child::main(&args[0]);
    }
    if args.wants_tables() {
        args.check(&["--rounds", "--slice-ms"], &[]);
        return tables(&args);
    }
    let mut criterion = Criterion::default().configure_from_args();
    let mut scene = Scene::new();
    let mut group = criterion.benchmark_group("relay/64 peers, each message from 8");
    group.sample_size(10).throughput(Throughput::Elements(1));
    group.bench_function("a received frame", |bencher| {
        bencher.iter_custom(|frames| {
            let round = scene.round(&format!("send {}", frames.div_ceil(SENDERS).max(1_000)));
            round.took.mul_f64(frames as f64 / round.frames as f64)
        });
    });
    group.finish();
    criterion.final_summary();
}

fn tables(args: &Args) {
    let (rounds, slice) = (args.number("--rounds", 9).max(1), args.number("--slice-ms", 500u64));
    let mut recorder = Recorder::new("relay", rounds);
    let mut scene = Scene::new();
    WAYS.iter().for_each(|(_, command)| _ = scene.round(&format!("{command} {slice}")));
    let done = interleave(WAYS.len(), rounds, |at, _| scene.round(&format!("{} {slice}", WAYS[at].1)));
    println!(
        "{rounds} rounds of {slice} ms; {PAYLOAD_BYTES} bytes, {PEERS} peers, each message from {SENDERS}\n"
    );
    table::header(&["", "full speed: median", "least", "most", "all keep up: median", "least", "most"]);
    let mut row = |metric: &str, decimals: usize, figure: fn(&Round) -> f64| {
        let mut cells = Vec::new();
        for ((name, _), rounds) in WAYS.iter().zip(&done) {
            let values = each(rounds, figure);
            recorder.add(&case(&[("senders", name)]), "peerpool", metric, &values);
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            cells.extend([median(values), least, most]);
        }
        table::numbers(metric, &cells, decimals);
    };
    row("frames_per_second", 0, Round::frames_per_second);
    row("deliveries_per_second", 0, Round::deliveries_per_second);
    row("missed_share", 4, Round::missed_share);
    row("cpu_ns_per_frame", 0, Round::cpu_ns_per_frame);
    recorder.finish(args);
}
