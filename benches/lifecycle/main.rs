//! Start and stop: a node with 1,000 live peers shuts down, a mesh of 200 nodes comes up.
//!
//! ```text
//! cargo bench --bench lifecycle                        criterion
//! cargo bench --bench lifecycle -- --ratios            both, as medians; also --peers 1000 --nodes 200 --rounds 5
//! ```
//!
//! The 1,000 peers live in a second process that the bench starts itself; each closes when it reads the end. The mesh is one
//! process: every node listens on loopback TCP and is told one address, the rest it learns; it is up when every node has
//! as many peers as it wants and a path joins all.
#![allow(clippy::print_stdout)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use criterion::Criterion;
use mio::{Events, Interest, Poll, Token};
use peerpool::base::Nonce;
use peerpool::node::{Node, NodeConfig};
use peerpool::pool::PoolConfig;
use peerpool::wire::{Hello, Native, Protocol};
use tokio::runtime::Runtime;

/// The argument that makes the bench the second process.
const FLAG: &str = "--peers-at";
/// Peers that a node of the mesh wants.
const DEGREE: usize = 6;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    if args.first().is_some_and(|arg| arg == FLAG) {
        return peers(args[1].parse().expect("an address"), args[2].parse().expect("a number"));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    if args.iter().any(|arg| arg == "--ratios") {
        let number = |flag: &str, otherwise: usize| {
            let at = args.iter().position(|arg| arg == flag);
            at.and_then(|at| args.get(at + 1)?.parse().ok()).unwrap_or(otherwise)
        };
        let (count, nodes) = (number("--peers", 1_000), number("--nodes", 200));
        let rounds = number("--rounds", 5).max(1);
        let show = |what: &str, mut times: Vec<Duration>| {
            times.sort();
            let ms = |at: usize| times[at].as_secs_f64() * 1e3;
            println!("| {what} | {:.0} ms | {:.0} ms |", ms(times.len() / 2), ms(times.len() - 1));
        };
        println!("| median and longest of {rounds} | | |\n|---|--:|--:|");
        show(
            &format!("a node with {count} live peers shuts down"),
            (0..rounds).map(|_| shutdown(&runtime, count)).collect(),
        );
        show(
            &format!("a mesh of {nodes} nodes starts, {DEGREE} peers each"),
            (0..rounds).map(|_| mesh(&runtime, nodes)).collect(),
        );
        return;
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

fn config() -> NodeConfig {
    let mut config = NodeConfig::local();
    config.listen.push(([127, 0, 0, 1], 0).into());
    config.runtime.limits = PoolConfig::test().limits;
    config
}

/// How long a graceful shutdown takes, every peer told and gone.
fn shutdown(runtime: &Runtime, count: usize) -> Duration {
    let mut config = config();
    config.runtime.target_peers = 0;
    config.runtime.ping_interval = Duration::from_secs(3600);
    config.runtime.liveness.stale_after = Duration::from_secs(3 * 3600);
    let node = runtime.block_on(Node::builder().config(config).start()).expect("a node");
    let mut far = second(node.local_addrs()[0], count);
    let begun = Instant::now();
    while node.roster().iter().count() < count {
        assert!(begun.elapsed() < Duration::from_secs(10), "not all peers are live");
        std::thread::sleep(Duration::from_millis(1));
    }
    let begun = Instant::now();
    let left = runtime.block_on(node.shutdown(Duration::from_secs(5)));
    let took = begun.elapsed();
    assert!(left.is_clean(), "{left:?}");
    assert!(far.wait().expect("the second process").success());
    took
}

/// The second process, once all its peers are in.
fn second(addr: SocketAddr, count: usize) -> Child {
    let exe = std::env::current_exe().expect("this very program");
    let mut child = Command::new(exe)
        .args([FLAG, &addr.to_string(), &count.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("a second process");
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("it is ready");
    child
}

/// Dials, then reads each connection to its end and closes it.
fn peers(addr: SocketAddr, count: usize) {
    let mut poll = Poll::new().expect("an epoll");
    let mut all = Vec::with_capacity(count);
    let mut scrap = [0; 4096];
    for number in 0..count {
        let mut nonce = [5; 16];
        nonce[..8].copy_from_slice(&(number as u64).to_le_bytes());
        let mut hello = BytesMut::new();
        let ours = Hello::new(Native::VERSION, 0, Nonce(nonce));
        Native::default().encode_hello(&ours, &mut hello).expect("a legal hello");
        let mut stream = TcpStream::connect(addr).expect("the bench listens");
        stream.write_all(&hello).expect("the bench lives");
        assert!(stream.read(&mut scrap).expect("an answer") > 0);
        stream.set_nonblocking(true).expect("a socket");
        let mut stream = mio::net::TcpStream::from_std(stream);
        poll.registry().register(&mut stream, Token(number), Interest::READABLE).expect("a socket");
        all.push(Some(stream));
    }
    println!("ready");
    let mut events = Events::with_capacity(1024);
    let mut open = count;
    while open > 0 {
        poll.poll(&mut events, None).expect("an epoll");
        for event in &events {
            let place = &mut all[event.token().0];
            while let Some(stream) = place {
                match stream.read(&mut scrap) {
                    Ok(count) if count > 0 => {}
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                    // Its end.
                    _ => (*place, open) = (None, open - 1),
                }
            }
        }
    }
}

/// How long it takes until all nodes are up and wired.
fn mesh(runtime: &Runtime, count: usize) -> Duration {
    let mut rng = fastrand::Rng::with_seed(7);
    let begun = Instant::now();
    let nodes: Vec<Node> = runtime.block_on(async {
        let mut nodes: Vec<Node> = Vec::with_capacity(count);
        for at in 0..count {
            let mut config = config();
            config.runtime.target_peers = DEGREE;
            config.seeds = (at > 0).then(|| nodes[rng.usize(..at)].local_addrs()[0]).into_iter().collect();
            nodes.push(Node::builder().config(config).start().await.expect("a node"));
        }
        nodes
    });
    while !is_wired(&nodes) {
        assert!(begun.elapsed() < Duration::from_secs(60), "the mesh does not come up");
        std::thread::sleep(Duration::from_millis(10));
    }
    let took = begun.elapsed();
    runtime.block_on(async {
        let ends: Vec<_> = nodes
            .into_iter()
            .map(|node| tokio::spawn(async move { node.shutdown(Duration::from_secs(5)).await }))
            .collect();
        for end in ends {
            assert!(end.await.expect("a shutdown").is_clean());
        }
    });
    took
}

fn is_wired(nodes: &[Node]) -> bool {
    let places: HashMap<SocketAddr, usize> =
        nodes.iter().enumerate().map(|(at, node)| (node.local_addrs()[0], at)).collect();
    let mut beside = vec![Vec::new(); nodes.len()];
    for (at, node) in nodes.iter().enumerate() {
        let roster = node.roster();
        if roster.iter().filter(|peer| peer.is_live()).count() < DEGREE.min(nodes.len() - 1) {
            return false;
        }
        for peer in roster.iter() {
            let other = peer.info().listen.and_then(|listen| places.get(&listen).copied());
            if let Some(other) = other {
                beside[at].push(other);
                beside[other].push(at);
            }
        }
    }
    let mut met = vec![false; nodes.len()];
    let mut next = vec![0];
    while let Some(at) = next.pop() {
        if !std::mem::replace(&mut met[at], true) {
            next.extend(&beside[at]);
        }
    }
    met.iter().all(|met| *met)
}
