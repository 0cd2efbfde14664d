//! The servers: peerpool, a loop by hand, pea2pea. Each takes connections that begin with a hello and answers with one.

use std::io::{self, BufRead};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pea2pea::protocols::{Handshake, Reading, Writing};
use pea2pea::{Config, Connection, ConnectionSide, Pea2Pea};
use peerpool::base::Nonce;
use peerpool::node::{Message, Node, NodeConfig};
use peerpool::pool::PoolConfig;
use peerpool::wire::{Hello, Native, Protocol};
use rustix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::codec::BytesCodec;

use crate::ALLOCATOR;

/// The argument that makes the bench a server.
pub(crate) const FLAG: &str = "--server";
pub(crate) const KINDS: [&str; 3] = ["tokio, a task each", "peerpool", "pea2pea"];

pub(crate) fn main(kind: &str, pings: bool) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let Served { addr, live, say } = runtime.block_on(async {
        match kind {
            "peerpool" => node(pings).await,
            "pea2pea" => pea2pea_node().await,
            _ => tokio_loop().await,
        }
    });
    println!("{addr}");
    for line in io::stdin().lock().lines() {
        if line.expect("the bench speaks") == "say" {
            say();
        }
        let counted = ALLOCATOR.stats();
        let allocated = counted.bytes_allocated - counted.bytes_deallocated;
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let cpu = Duration::new(cpu.tv_sec as u64, cpu.tv_nsec as u32).as_secs_f64();
        println!("{} {allocated} {} {cpu}", live(), resident());
    }
    // Thousands of goodbyes are no part of this.
    std::process::exit(0);
}

/// Bytes of memory that this process occupies.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().split(' ').next()?.parse().ok());
    kib.map_or(0, |kib: usize| kib * 1024)
}

struct Served {
    addr: SocketAddr,
    live: Box<dyn Fn() -> usize>,
    /// Sends every peer a message and a ping, if it can.
    say: Box<dyn Fn()>,
}

async fn node(pings: bool) -> Served {
    let mut config = NodeConfig::recommended();
    config.listen.push(([127, 0, 0, 1], 0).into());
    config.runtime.limits = PoolConfig::test().limits;
    config.runtime.limits.max_inbound = 100_000;
    config.runtime.target_peers = 0;
    if !pings {
        config.runtime.ping_interval = Duration::from_secs(3600);
        config.runtime.liveness.stale_after = Duration::from_secs(3 * 3600);
    }
    let node = Node::builder().config(config).start().await.expect("a node");
    let (addr, talking) = (node.local_addrs()[0], peerpool::node::NodeRef::clone(&node));
    let say = move || {
        talking.broadcast(&Message::new(1, vec![7; 100])).expect("a legal message");
        talking.roster().iter().for_each(|peer| peer.connection().handle().ping());
    };
    Served { addr, live: Box::new(move || node.shutdown_report().peers as usize), say: Box::new(say) }
}

/// Our side's hello, as the node's.
fn hello() -> Bytes {
    let mut out = BytesMut::new();
    let mut hello = Hello::new(Native::VERSION, 0, Nonce([9; 16]));
    hello.agent = concat!("peerpool/", env!("CARGO_PKG_VERSION")).into();
    Native::default().encode_hello(&hello, &mut out).expect("a legal hello");
    out.freeze()
}

/// Reads the dialler's hello and answers.
async fn greet(stream: &mut TcpStream, hello: &[u8]) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(256);
    while Native::default().decode_first_frame(&buffer).map_err(io::Error::other)?.is_none() {
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    stream.write_all(hello).await
}

async fn tokio_loop() -> Served {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("a port");
    // Inherited by what it accepts, which saves a call each.
    socket.set_nodelay(true).expect("a socket option");
    let listener: TcpListener = socket.listen(1024).expect("a port");
    let addr = listener.local_addr().expect("an address");
    let live = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&live);
    tokio::spawn(async move {
        let hello = hello();
        while let Ok((mut stream, _)) = listener.accept().await {
            let (hello, live) = (hello.clone(), Arc::clone(&live));
            tokio::spawn(async move {
                greet(&mut stream, &hello).await?;
                live.fetch_add(1, Ordering::Relaxed);
                // Idle it holds no buffer either.
                loop {
                    stream.readable().await?;
                    match stream.try_read(&mut [0; 4096]) {
                        Ok(0) => return io::Result::Ok(()),
                        Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                        _ => {}
                    }
                }
            });
        }
    });
    Served { addr, live: Box::new(move || counted.load(Ordering::Relaxed)), say: Box::new(|| {}) }
}

#[derive(Clone)]
struct Pea2PeaNode {
    node: pea2pea::Node,
    hello: Bytes,
}

impl Pea2Pea for Pea2PeaNode {
    fn node(&self) -> &pea2pea::Node {
        &self.node
    }
}

impl Handshake for Pea2PeaNode {
    async fn perform_handshake(&self, mut conn: Connection) -> io::Result<Connection> {
        let stream = self.borrow_stream(&mut conn);
        stream.set_nodelay(true)?;
        greet(stream, &self.hello).await?;
        Ok(conn)
    }
}

impl Reading for Pea2PeaNode {
    // Its default is 64 KiB.
    const INITIAL_BUFFER_SIZE: usize = 1024;
    const IDLE_TIMEOUT_MS: u64 = 0;
    type Message = BytesMut;
    type Codec = BytesCodec;

    fn codec(&self, _: SocketAddr, _: ConnectionSide) -> BytesCodec {
        BytesCodec::new()
    }

    async fn process_message(&self, _: SocketAddr, _: BytesMut) {}
}

impl Writing for Pea2PeaNode {
    const INITIAL_BUFFER_SIZE: usize = 1024;
    type Message = Bytes;
    type Codec = BytesCodec;

    fn codec(&self, _: SocketAddr, _: ConnectionSide) -> BytesCodec {
        BytesCodec::new()
    }
}

async fn pea2pea_node() -> Served {
    let config = Config {
        listener_addr: Some(([127, 0, 0, 1], 0).into()),
        listener_backlog: 1024,
        max_connections: u16::MAX,
        max_connections_per_ip: u16::MAX,
        max_connecting: 4096,
        ..Config::default()
    };
    let node = Pea2PeaNode { node: pea2pea::Node::new(config), hello: hello() };
    node.enable_handshake().await;
    node.enable_reading().await;
    node.enable_writing().await;
    let addr = node.node().toggle_listener().await.expect("a port").expect("an address");
    Served { addr, live: Box::new(move || node.node().num_connected()), say: Box::new(|| {}) }
}
