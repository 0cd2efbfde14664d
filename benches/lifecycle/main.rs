//! Start and stop: a node with 1,000 live peers shuts down, a mesh of 200 nodes comes up.
//!
//! ```text
//! cargo bench --bench lifecycle                        criterion
//! cargo bench --bench lifecycle -- --ratios            both, as tables; also --peers 1000 --nodes 200 --rounds 5
//! ```
//!
//! The 1,000 peers live in a second process; each closes when it reads the end. The mesh is one
//! process: every node listens on loopback TCP, is given one address and learns the rest. It is up
//! when every node has as many peers as it wants and all nodes are connected by paths.
#![allow(clippy::print_stdout)]

#[allow(dead_code, reason = "each bench uses a part of it")]
#[path = "../common/mod.rs"]
mod common;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::args::Args;
use common::child_process::ChildProcess;
use common::event_loop::{EventLoops, ReadTurn, Readable};
use common::native::{NATIVE, connect};
use common::node::{quiet_listener, runtime, start, wait_for_peers};
use common::recorder::Recorder;
use common::results::case;
use common::stats::median;
use common::{system, table};
use criterion::Criterion;
use peerpool::pool::PoolConfig;
use peerpool::{Node, NodeConfig};
use tokio::runtime::Runtime;

/// The argument that starts the second process. The address of the node and the number of peers
/// follow.
const FLAG: &str = "--peers-at";
/// Peers that a node of the mesh wants.
const MESH_PEERS: usize = 6;

fn main() {
    let args = Args::parse();
    system::allow_open_files(0);
    if let Some(args) = args.after_child_flag(FLAG) {
        return peers(args[0].parse().expect("an address"), args[1].parse().expect("a number"));
    }
    let runtime = runtime(2);
    if args.wants_tables() {
        args.check(&["--peers", "--nodes", "--rounds"], &[]);
        return tables(&args, &runtime);
    }
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("lifecycle");
    group.sample_size(10).warm_up_time(Duration::from_millis(10)).measurement_time(Duration::from_secs(3));
    group.bench_function("shutdown, 1000 peers", |bencher| {
        bencher.iter_custom(|times| (0..times).map(|_| shutdown(&runtime, 1_000)).sum());
    });
    group.bench_function("start, 200 nodes", |bencher| {
        bencher.iter_custom(|times| (0..times).map(|_| mesh(&runtime, 200)).sum());
    });
    group.finish();
    criterion.final_summary();
}

fn tables(args: &Args, runtime: &Runtime) {
    let (peers, nodes) = (args.number("--peers", 1_000), args.number("--nodes", 200));
    let rounds = args.number("--rounds", 5).max(1);
    let mut recorder = Recorder::new("lifecycle", rounds);
    table::header(&["", "median, ms", "longest, ms"]);
    let mut measure = |title: String, metric: &str, case, run: &dyn Fn() -> Duration| {
        let times: Vec<f64> = (0..rounds).map(|_| run().as_secs_f64() * 1e3).collect();
        recorder.add(&case, "peerpool", metric, &times);
        let longest = times.iter().copied().fold(0.0, f64::max);
        table::numbers(&title, &[median(times), longest], 0);
    };
    let title = format!("a node with {peers} live peers shuts down");
    measure(title, "shutdown_ms", case(&[("peers", &peers)]), &|| shutdown(runtime, peers));
    let title = format!("a mesh of {nodes} nodes starts, {MESH_PEERS} peers each");
    measure(title, "mesh_start_ms", case(&[("nodes", &nodes)]), &|| mesh(runtime, nodes));
    recorder.finish(args);
}

/// How long a graceful shutdown takes, every peer informed and gone.
fn shutdown(runtime: &Runtime, count: usize) -> Duration {
    let node = start(runtime, Node::builder().config(quiet_listener()));
    let addr = node.local_addrs()[0].to_string();
    let mut peers = ChildProcess::start(&[FLAG, &addr, &count.to_string()]);
    assert_eq!(peers.read_line(), "ready");
    wait_for_peers(&node, count);
    let begun = Instant::now();
    let report = runtime.block_on(node.shutdown(Duration::from_secs(5)));
    let took = begun.elapsed();
    assert!(report.is_clean(), "{report:?}");
    peers.wait();
    took
}

/// One connection of the second process.
struct Peer {
    stream: mio::net::TcpStream,
    /// Dropped with the connection.
    _open: mpsc::Sender<()>,
}

impl Readable for Peer {
    fn stream(&mut self) -> &mut mio::net::TcpStream {
        &mut self.stream
    }

    fn read(&mut self, buffer: &mut [u8]) -> ReadTurn {
        use std::io::Read;
        loop {
            if let Err(turn) = ReadTurn::after(self.stream.read(buffer)) {
                return turn;
            }
        }
    }
}

/// The second process: dials, then reads each connection to its end and closes it.
fn peers(addr: SocketAddr, count: usize) {
    let (open, all_closed) = mpsc::channel();
    let mut reader = EventLoops::start(1);
    for number in 0..count {
        let stream = connect(addr, &NATIVE, number as u64);
        stream.set_nonblocking(true).expect("a socket option");
        reader.add(Peer { stream: mio::net::TcpStream::from_std(stream), _open: open.clone() });
    }
    println!("ready");
    drop(open);
    // Fails once every connection is dropped.
    let _ = all_closed.recv();
}

/// How long it takes until all nodes are up and connected.
fn mesh(runtime: &Runtime, count: usize) -> Duration {
    let mut rng = fastrand::Rng::with_seed(7);
    let begun = Instant::now();
    let nodes: Vec<Node> = runtime.block_on(async {
        let mut nodes: Vec<Node> = Vec::with_capacity(count);
        for at in 0..count {
            let mut config = NodeConfig::local();
            config.listen.push(([127, 0, 0, 1], 0).into());
            config.runtime.limits = PoolConfig::test().limits;
            config.runtime.target_outbound = MESH_PEERS;
            config.seeds =
                (at > 0).then(|| nodes[rng.usize(..at)].local_addrs()[0].into()).into_iter().collect();
            nodes.push(Node::builder().config(config).start().await.expect("a node"));
        }
        nodes
    });
    while !is_connected(&nodes) {
        assert!(begun.elapsed() < Duration::from_secs(60), "the mesh does not come up");
        std::thread::sleep(Duration::from_millis(10));
    }
    let took = begun.elapsed();
    runtime.block_on(async {
        let shutdown = |node: Node| tokio::spawn(async move { node.shutdown(Duration::from_secs(5)).await });
        let shutdowns: Vec<_> = nodes.into_iter().map(shutdown).collect();
        for shutdown in shutdowns {
            assert!(shutdown.await.expect("a shutdown").is_clean());
        }
    });
    took
}

/// Whether every node has enough peers, and a path leads from the first node to every other one.
fn is_connected(nodes: &[Node]) -> bool {
    let by_addr: HashMap<SocketAddr, usize> =
        nodes.iter().enumerate().map(|(at, node)| (node.local_addrs()[0], at)).collect();
    let mut neighbours = vec![Vec::new(); nodes.len()];
    for (at, node) in nodes.iter().enumerate() {
        let roster = node.roster();
        if roster.iter().filter(|peer| peer.is_live()).count() < MESH_PEERS.min(nodes.len() - 1) {
            return false;
        }
        for peer in roster.iter() {
            let other = peer.info().listen.and_then(|listen| by_addr.get(&listen).copied());
            if let Some(other) = other {
                neighbours[at].push(other);
                neighbours[other].push(at);
            }
        }
    }
    let mut reached = vec![false; nodes.len()];
    let mut next = vec![0];
    while let Some(at) = next.pop() {
        if !std::mem::replace(&mut reached[at], true) {
            next.extend(&neighbours[at]);
        }
    }
    reached.iter().all(|reached| *reached)
}
