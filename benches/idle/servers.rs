//! The servers: peerpool, a tokio loop, pea2pea. Each accepts connections that begin with a hello
//! and answers with one.
//!
//! A server prints its address. It answers `stats` and `broadcast` with its live connections, the
//! bytes that are allocated, its resident bytes, and its CPU seconds.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use pea2pea::protocols::{Handshake, Reading, Writing};
use pea2pea::{Config, Connection, ConnectionSide, Pea2Pea};
use peerpool::pool::PoolConfig;
use peerpool::wire::{Native, Protocol};
use peerpool::{Message, Node, NodeConfig, NodeRef};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::codec::BytesCodec;

use crate::ALLOCATOR;
use crate::common::child_process::answer_lines;
use crate::common::native::hello_of_agent;
use crate::common::node::{NEVER, runtime};
use crate::common::system::{cpu, resident};

/// The argument that starts a server. Its kind follows, and whether it pings.
pub(crate) const FLAG: &str = "--server";
pub(crate) const KINDS: [&str; 3] = ["tokio, a task each", "peerpool", "pea2pea"];

pub(crate) fn main(kind: &str, pings: bool) {
    let runtime = runtime(2);
    let Server { addr, live, broadcast } = runtime.block_on(async {
        match kind {
            "peerpool" => peerpool_node(pings).await,
            "pea2pea" => pea2pea_node().await,
            _ => tokio_loop().await,
        }
    });
    println!("{addr}");
    answer_lines(|words| {
        if words == ["broadcast"] {
            broadcast();
        }
        let counted = ALLOCATOR.stats();
        let allocated = counted.bytes_allocated - counted.bytes_deallocated;
        format!("{} {allocated} {} {}", live(), resident(), cpu().as_secs_f64())
    });
    // Thousands of goodbyes are not part of the bench.
    std::process::exit(0);
}

struct Server {
    addr: SocketAddr,
    live: Box<dyn Fn() -> usize>,
    /// Sends every peer a message and a ping, if the server can.
    broadcast: Box<dyn Fn()>,
}

async fn peerpool_node(pings: bool) -> Server {
    let mut config = NodeConfig::recommended();
    config.listen.push(([127, 0, 0, 1], 0).into());
    config.runtime.limits = PoolConfig::test().limits;
    config.runtime.limits.max_inbound = 100_000;
    config.runtime.target_outbound = 0;
    if !pings {
        config.runtime.ping_interval = NEVER;
        config.runtime.liveness.stale_after = 3 * NEVER;
    }
    let node = Node::builder().config(config).start().await.expect("a node");
    let (addr, handle) = (node.local_addrs()[0], NodeRef::clone(&node));
    let broadcast = move || {
        handle.broadcast(&Message::new(1, vec![7; 100])).expect("a legal message");
        handle.roster().iter().for_each(|peer| peer.connection().handle().ping());
    };
    let live = move || node.shutdown_report().peers as usize;
    Server { addr, live: Box::new(live), broadcast: Box::new(broadcast) }
}

/// The hello of the other servers, as long as the node's.
fn hello() -> Bytes {
    hello_of_agent(9, concat!("peerpool/", env!("CARGO_PKG_VERSION"))).into()
}

/// Reads the dialling end's hello and answers.
async fn exchange_hello(stream: &mut TcpStream, hello: &[u8]) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(256);
    while Native::default().decode_first_frame(&buffer).map_err(io::Error::other)?.is_none() {
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    stream.write_all(hello).await
}

async fn tokio_loop() -> Server {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("a port");
    // Accepted sockets inherit it, which saves a call each.
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
                exchange_hello(&mut stream, &hello).await?;
                live.fetch_add(1, Ordering::Relaxed);
                // While idle it holds no buffer, as the node.
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
    Server { addr, live: Box::new(move || counted.load(Ordering::Relaxed)), broadcast: Box::new(|| {}) }
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
        exchange_hello(stream, &self.hello).await?;
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

async fn pea2pea_node() -> Server {
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
    Server { addr, live: Box::new(move || node.node().num_connected()), broadcast: Box::new(|| {}) }
}
