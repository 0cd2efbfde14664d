//! Relay: a message of 200 bytes comes from 8 of 64 peers, and goes once to everybody but whoever brought it first.
//!
//! ```text
//! cargo bench --bench relay                        criterion: time a received frame
//! cargo bench --bench relay -- --ratios            frames a second; also --rounds 9 --slice-ms 500
//! ```
//!
//! The 64 peers live in a second process that the bench starts itself; it writes the same messages to 8 sockets and takes
//! (counts, does not copy) what comes on all 64. A round is over when every frame was handled and every delivery that was not missed arrived; what
//! is counted is received frames, duplicates included, over the whole round, deliveries of the 64 on the same cores. The
//! bringers write as fast as they can, in every other round no faster than all 64 take what is relayed.
#![allow(clippy::print_stdout)]

mod receivers;

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use peerpool::node::{Context, Event, Handled, Handler, Message, Node, NodeConfig, RelayConfig};
use peerpool::pool::PoolConfig;
use receivers::Receivers;
use tokio::runtime::Runtime;

pub(crate) const PEERS: u64 = 64;
/// Peers that bring each message.
pub(crate) const SENDERS: u64 = 8;
pub(crate) const BODY: usize = 200;

struct Relaying;

impl Handler for Relaying {
    fn event(&self, cx: Context<'_>, event: Event<'_>) -> Handled {
        let message = Message::new(event.kind, event.payload.into_bytes());
        let _ = cx.node().relay(&message, Some(cx.peer().id()));
        Handled::Done
    }
}

struct Scene {
    _runtime: Runtime,
    node: Node,
    receivers: Receivers,
}

/// What one round came to.
struct Round {
    frames: u64,
    took: Duration,
    /// Deliveries that arrived.
    deliveries: u64,
    cpu: Duration,
}

impl Scene {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let mut config = NodeConfig::local();
        config.listen.push(([127, 0, 0, 1], 0).into());
        config.runtime.limits = PoolConfig::test().limits;
        config.runtime.target_peers = 0;
        config.runtime.ping_interval = Duration::from_secs(3600);
        config.runtime.liveness.stale_after = Duration::from_secs(3 * 3600);
        // Exact for a second at this rate; the default is made for a thousandth of it.
        config.relay =
            RelayConfig { retention: Duration::from_secs(1), capacity: 1 << 21, peer_share_percent: 100 };
        let node = runtime.block_on(Node::builder().config(config).handler(Relaying).start());
        let node = node.expect("a node");
        let receivers = Receivers::start(node.local_addrs()[0]);
        while (node.roster().iter().count() as u64) < PEERS {
            std::thread::sleep(Duration::from_millis(1));
        }
        Self { _runtime: runtime, node, receivers }
    }

    fn round(&mut self, goal: &str) -> Round {
        let before = self.node.stats();
        let (cpu, begun) = (receivers::cpu(), Instant::now());
        let unique = self.receivers.ask(goal)[0];
        let frames = unique * SENDERS;
        let mut now = self.node.stats();
        while now.events - before.events < frames {
            assert!(begun.elapsed() < Duration::from_secs(30), "not all frames were handled");
            std::thread::sleep(Duration::from_micros(200));
            now = self.node.stats();
        }
        // Who missed something finds out when it next writes, and counts its own messages among what it missed: where anything
        // was missed, the round is over when nothing more comes.
        let all = unique * (PEERS - 1);
        let [deliveries, idle] = self.receivers.ask(&format!("wait {all}"))[..] else {
            panic!("two numbers")
        };
        let took = begun.elapsed().saturating_sub(Duration::from_micros(idle));
        now = self.node.stats();
        let missed = now.missed_broadcasts - before.missed_broadcasts;
        assert_eq!(now.relayed - before.relayed, unique, "each message is relayed once");
        assert_eq!(now.duplicates - before.duplicates, unique * (SENDERS - 1));
        assert!(
            deliveries <= all && (missed > 0 || deliveries == all),
            "every delivery arrives, and none twice"
        );
        Round { frames, took, deliveries, cpu: receivers::cpu() - cpu }
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == receivers::FLAG) {
        return receivers::main(&args[1]);
    }
    if args.iter().any(|arg| arg == "--ratios") {
        return ratios(&args);
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

fn ratios(args: &[String]) {
    let number = |flag: &str, otherwise: u64| {
        let at = args.iter().position(|arg| arg == flag);
        at.and_then(|at| args.get(at + 1)?.parse().ok()).unwrap_or(otherwise)
    };
    let (rounds, slice) = (number("--rounds", 9).max(1), number("--slice-ms", 500));
    let mut scene = Scene::new();
    let ways = ["send-for", "keep-up-for"];
    ways.iter().for_each(|way| _ = scene.round(&format!("{way} {slice}")));
    let mut done = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (way, done) in ways.iter().zip(&mut done) {
            done.push(scene.round(&format!("{way} {slice}")));
        }
    }
    println!("{rounds} rounds of {slice} ms; {BODY} bytes, {PEERS} peers, each message from {SENDERS}\n");
    println!("| | as fast as they can | worst | no faster than all take it | worst |\n|---|--:|--:|--:|--:|");
    let row = |name: &str, more_is_better: bool, of: &dyn Fn(&Round) -> f64| {
        let cells = done.iter().map(|rounds| {
            let mut all: Vec<f64> = rounds.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            let worst = if more_is_better { all[0] } else { all[all.len() - 1] };
            format!("{:.0} | {worst:.0}", all[all.len() / 2])
        });
        println!("| {name} | {} |", cells.collect::<Vec<_>>().join(" | "));
    };
    row("frames received a second", true, &|round| round.frames as f64 / round.took.as_secs_f64());
    row("deliveries that arrived, a second", true, &|round| {
        round.deliveries as f64 / round.took.as_secs_f64()
    });
    row("deliveries missed, of a million", false, &|round| {
        let all = round.frames / SENDERS * (PEERS - 1);
        (all - round.deliveries) as f64 * 1e6 / all as f64
    });
    row("CPU of the node, ns a frame with its deliveries", false, &|round| {
        round.cpu.as_secs_f64() * 1e9 / round.frames as f64
    });
}
