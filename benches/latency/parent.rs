//! The second process as this one sees it, and the nodes that it is connected to.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use peerpool::node::{Node, NodeBuilder, NodeConfig};
use peerpool::pool::PoolConfig;
use socket2::{Domain, Socket, Type};
use tokio::runtime::Runtime;

use crate::child;

/// The second process.
pub(crate) struct ChildProcess {
    child: Child,
    tell: Option<ChildStdin>,
    hear: BufReader<ChildStdout>,
}

impl ChildProcess {
    pub(crate) fn start() -> Self {
        Self::start_on(None)
    }

    /// Starts it on one processor.
    pub(crate) fn start_on(cpu: Option<usize>) -> Self {
        let exe = std::env::current_exe().expect("this very program");
        let mut child = Command::new(exe)
            .args([child::FLAG, &cpu.map_or("-".to_owned(), |cpu| cpu.to_string())])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a second process");
        let tell = child.stdin.take();
        let hear = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, tell, hear }
    }

    /// Says a line and returns the numbers of the answer.
    pub(crate) fn ask(&mut self, line: &str) -> Vec<u64> {
        let tell = self.tell.as_mut().expect("a pipe");
        writeln!(tell, "{line}").and_then(|()| tell.flush()).expect("the far process lives");
        let mut answer = String::new();
        self.hear.read_line(&mut answer).expect("the far process lives");
        answer.split_whitespace().map(|word| word.parse().expect("a number")).collect()
    }

    /// Has receivers dial `addr`; the number of the group. `how` is one of the words of [`far`].
    pub(crate) fn dial(&mut self, addr: SocketAddr, peers: usize, native: bool, how: &str) -> u64 {
        let greets = if native { "native" } else { "nothing" };
        self.ask(&format!("dial {addr} {peers} {greets} {how}"))[0]
    }

    /// Has receivers dial a node and waits until all of them are live.
    pub(crate) fn join(&mut self, node: &Node, peers: usize, how: &str) -> u64 {
        let before = node.roster().iter().count();
        let group = self.dial(node.local_addrs()[0], peers, true, how);
        let since = Instant::now();
        while node.roster().iter().count() < before + peers {
            assert!(since.elapsed() < Duration::from_secs(10), "not all peers are live");
            thread::sleep(Duration::from_millis(1));
        }
        group
    }

    /// Has receivers dial a listener of our own; the accepted sockets.
    pub(crate) fn sockets(&mut self, peers: usize, how: &str) -> (Vec<TcpStream>, u64) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let addr: SocketAddr = ([127, 0, 0, 1], 0).into();
        socket.bind(&addr.into()).and_then(|()| socket.listen(4096)).expect("a port");
        let listener: TcpListener = socket.into();
        let addr = listener.local_addr().expect("an address");
        let accepting = thread::spawn(move || {
            let accept = |_| {
                let (stream, _) = listener.accept().expect("a receiver");
                stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true)).expect("a socket");
                stream
            };
            (0..peers).map(accept).collect()
        });
        let group = self.dial(addr, peers, false, how);
        (accepting.join().expect("all accepted"), group)
    }

    /// Bytes that a group has got so far.
    pub(crate) fn received(&mut self, group: u64) -> u64 {
        self.ask(&format!("received {group}"))[0]
    }

    /// Waits until a group has got so many bytes.
    ///
    /// # Panics
    /// If they do not come.
    pub(crate) fn wait(&mut self, group: u64, bytes: u64) {
        let since = Instant::now();
        loop {
            let got = self.received(group);
            assert!(got <= bytes, "{got} bytes came of {bytes} that were sent");
            if got == bytes {
                return;
            }
            assert!(since.elapsed() < Duration::from_secs(10), "{got} bytes came of {bytes}");
            thread::sleep(Duration::from_micros(200));
        }
    }

    /// The latencies, in nanoseconds, that a group has seen since it was asked last.
    pub(crate) fn samples(&mut self, group: u64) -> Vec<u64> {
        self.ask(&format!("samples {group}"))
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        // The far process ends with its standard input.
        self.tell = None;
        let _ = self.child.wait();
    }
}

pub(crate) fn runtime(workers: usize) -> Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build();
    runtime.expect("a runtime")
}

/// As shipped, but that nobody is asked for anything: the raw receivers answer nothing.
pub(crate) fn quiet() -> NodeConfig {
    let mut config = NodeConfig::local();
    config.listen.push(([127, 0, 0, 1], 0).into());
    config.runtime.limits = PoolConfig::test().limits;
    config.runtime.target_peers = 0;
    let hour = Duration::from_secs(3600);
    (config.runtime.ping_interval, config.runtime.discovery_interval, config.runtime.write_stall_timeout) =
        (hour, hour, hour);
    config.runtime.liveness.stale_after = 3 * hour;
    config
}

pub(crate) fn start(runtime: &Runtime, builder: NodeBuilder) -> Node {
    runtime.block_on(builder.start()).expect("a node")
}
