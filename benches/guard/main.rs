//! A regression guard without noise: instructions counted by callgrind, compared with the bounds in
//! `bounds.txt`.
//!
//! ```text
//! cargo bench --bench guard                     counts and compares; without valgrind it says so and passes
//! cargo bench --bench guard -- broadcast        only what is so named
//! cargo bench --bench guard -- --json benches/results
//! ```
//!
//! Each count is the difference of two runs, one with twice the work of the other, so that start
//! and end cancel out. The streams are scripted: they make no system call, and their share of a
//! count is a few instructions. Bounds are about a tenth above the counts; the output names a bound
//! that has become too loose. Raise a bound only for a stated reason.
#![allow(clippy::print_stdout)]

#[allow(dead_code, reason = "each bench uses a part of it")]
#[path = "../common/mod.rs"]
mod common;
mod scripted;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::SocketAddr;
use std::process::{Command, ExitCode, Stdio};

use bytes::BytesMut;
use common::args::Args;
use common::native::{KIND, append_frame};
use common::node::{NEVER, quiet_config};
use common::recorder::Recorder;
use common::results::case;
use peerpool::pool::{Pool, PoolConfig};
use peerpool::{Context, Direction, Event, Handled, Handler, Message, Node, PeerId, Tick};
use scripted::Script;

/// The argument that has a process do some work. The name of the work and the number of units
/// follow.
const FLAG: &str = "--work";
const PEERS: u64 = 64;
/// Runs at most, of which the least counts: hashers are seeded at random, and with some seeds a few
/// keys collide.
const MAX_RUNS: usize = 3;
/// A bound is too loose when the count is below this share of it.
const LOOSE_BELOW: f64 = 0.85;

/// Work that is counted: its name, the units of the smaller run, and the deliveries of one unit.
const COUNTED: [(&str, u64, u64); 7] = [
    ("broadcast one, a delivery", 200, PEERS),
    ("broadcast many, a delivery", 2_000, PEERS),
    ("receive many, a frame", 20_000, 1),
    ("relay a duplicate, a frame", 20_000, 1),
    ("mark seen, by handle", 100_000, 1),
    ("mark seen, by key", 100_000, 1),
    ("join and leave the pool", 10_000, 1),
];

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(work_args) = args.after_child_flag(FLAG) {
        work(&work_args[0], work_args[1].parse().expect("a number"));
        return ExitCode::SUCCESS;
    }
    // As a test each work runs once: there is nothing to count then.
    if !args.is_bench() {
        COUNTED.iter().for_each(|(name, _, _)| work(name, 10));
        return ExitCode::SUCCESS;
    }
    let found =
        Command::new("valgrind").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !found.is_ok_and(|status| status.success()) {
        println!("SKIPPED: instructions are counted by valgrind, which is not installed");
        return ExitCode::SUCCESS;
    }
    let (bounds, mut recorder, mut over) = (bounds(), Recorder::new("guard", MAX_RUNS), 0);
    for (name, units, each) in COUNTED {
        if args.words().any(|word| !name.contains(word)) {
            continue;
        }
        let bound = bounds.get(name).copied().unwrap_or(0.0);
        let mut count = f64::INFINITY;
        for _ in 0..MAX_RUNS {
            let once = (instructions(name, 2 * units) - instructions(name, units)) / (units * each) as f64;
            count = count.min(once);
            if count <= bound {
                break;
            }
        }
        let verdict = match count / bound {
            share if share > 1.0 => "OVER ITS BOUND",
            share if share < LOOSE_BELOW => "ok; its bound is too loose by now",
            _ => "ok",
        };
        over += u32::from(count > bound);
        println!("{name:<28} {count:>8.0} instructions, at most {bound:>6.0}: {verdict}");
        let case = case(&[("what", &name), ("bound", &bound)]);
        recorder.add(&case, "peerpool", "instructions", &[count.round()]);
    }
    recorder.finish(&args);
    if over == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn bounds() -> BTreeMap<&'static str, f64> {
    let line = |line: &'static str| {
        let (name, bound) = line.rsplit_once(' ').expect("a name and a number");
        (name.trim(), bound.parse().expect("a number"))
    };
    include_str!("bounds.txt").lines().filter(|text| !text.starts_with('#')).map(line).collect()
}

/// Instructions of a process that does this work.
fn instructions(name: &str, units: u64) -> f64 {
    let exe = std::env::current_exe().expect("this very program");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(exe)
        .args([FLAG, name, &units.to_string()])
        .output()
        .expect("valgrind");
    let report = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{report}");
    let count = report.lines().find_map(|line| line.split("Collected :").nth(1)?.trim().parse().ok());
    count.unwrap_or_else(|| panic!("no count in {report}"))
}

fn work(name: &str, units: u64) {
    match name {
        "broadcast one, a delivery" => broadcasts(units, 1),
        "broadcast many, a delivery" => broadcasts(units, 100),
        "receive many, a frame" => receives(units, false),
        "relay a duplicate, a frame" => receives(units, true),
        "mark seen, by handle" => marks(units, false),
        "mark seen, by key" => marks(units, true),
        "join and leave the pool" => visits(units),
        other => panic!("{other}?"),
    }
}

/// Reads every event and, if asked to, relays it.
struct ReadingHandler {
    relays: bool,
}

impl Handler for ReadingHandler {
    fn event(&self, cx: Context<'_>, event: Event<'_>) -> Handled {
        if self.relays {
            let message = Message::new(event.kind, event.payload.into_bytes());
            let _ = black_box(cx.node().relay(&message, Some(cx.peer())));
        } else {
            black_box(&*event.payload);
        }
        Handled::Done
    }
}

/// A node whose maintenance sleeps, in a runtime of one thread.
fn in_node<F: Future<Output = ()>>(relays: bool, run: impl FnOnce(Node) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut config = quiet_config();
        config.runtime.maintenance_interval = NEVER;
        run(Node::builder().config(config).handler(ReadingHandler { relays }).start().await.expect("a node"))
            .await;
    });
}

async fn join(node: &Node, number: u8) -> Script {
    let (mut script, stream) = Script::new(number);
    let addr = SocketAddr::from(([10, 0, 0, number], 7_000));
    node.adopt(stream, Direction::Inbound, addr, None).await.expect("a peer");
    while script.written() == 0 {
        tokio::task::yield_now().await;
    }
    script.hello_bytes = script.written();
    script
}

fn broadcasts(messages: u64, burst: u64) {
    in_node(false, |node| async move {
        let mut scripts = Vec::new();
        for number in 0..PEERS as u8 {
            scripts.push(join(&node, number).await);
        }
        let message = Message::new(KIND, vec![b'x'; 100]);
        let mut wanted = 0;
        // One round more than counted, to warm up.
        for _ in 0..=messages / burst {
            for _ in 0..burst {
                node.broadcast(&message).expect("a legal message");
            }
            wanted += burst * 106;
            let behind = |script: &Script| script.written() < wanted + script.hello_bytes;
            while scripts.iter().any(behind) {
                tokio::task::yield_now().await;
            }
        }
    });
}

fn receives(frames: u64, relays: bool) {
    in_node(relays, |node| async move {
        let script = join(&node, 1).await;
        let mut bytes = BytesMut::new();
        for _ in 0..100 {
            append_frame(&[b'x'; 200], &mut bytes);
        }
        for _ in 0..=frames / 100 {
            script.send(&bytes);
            while !script.is_read() {
                tokio::task::yield_now().await;
            }
        }
    });
}

fn pool(peers: u8) -> (std::sync::Arc<Pool<PeerId, ()>>, Vec<SocketAddr>) {
    let pool: std::sync::Arc<Pool<PeerId, ()>> = Pool::new(PoolConfig::test());
    let addrs: Vec<_> = (0..peers).map(|n| SocketAddr::from(([10, 0, 0, n], 7_000))).collect();
    (pool, addrs)
}

fn marks(marks: u64, by_key: bool) {
    let (pool, addrs) = pool(200);
    let insert = |addr: &SocketAddr| {
        pool.insert(PeerId::from_addr(*addr), *addr, Direction::Inbound, (), (), Tick::ZERO).expect("room")
    };
    let peers: Vec<_> = addrs.iter().map(insert).collect();
    for mark in 0..marks {
        let (peer, now) = (&peers[mark as usize % peers.len()], Tick::from_millis(mark));
        if by_key {
            black_box(pool.seen(peer.key(), now));
        } else {
            let _ = black_box(peer.seen(now));
        }
    }
}

fn visits(visits: u64) {
    let (pool, addrs) = pool(200);
    for visit in 0..visits {
        let addr = addrs[visit as usize % addrs.len()];
        let key = PeerId::from_addr(addr);
        pool.insert(key, addr, Direction::Inbound, (), (), Tick::ZERO).expect("room");
        black_box(pool.remove_current(&key, peerpool::pool::DisconnectReason::Closed));
    }
}
