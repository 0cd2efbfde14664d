//! The pool without the engine: a program with its own transport (threads and blocking sockets, no
//! async runtime).
//!
//! A small server reads each client's name, echoes its lines, and marks it as seen with every line.
//! The main thread sweeps silent clients. `cargo run --example pool_alone --no-default-features`
#![expect(clippy::print_stdout, reason = "an example prints its results")]

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use peerpool::pool::{
    ConnectionHandle, DisconnectReason, LivenessPolicy, Misbehavior, Pool, PoolConfig, SeenOutcome, SlotClass,
};
use peerpool::{Clock, Direction};

/// The connection handle: a socket that can be shut down from any thread.
struct Socket(TcpStream);

impl ConnectionHandle for Socket {
    type Info = Client;

    fn close(&self, reason: DisconnectReason) {
        if let Ok(addr) = self.0.peer_addr() {
            println!("server: {addr} disconnected: {reason}");
        }
        // Wakes the thread that blocks in a read. An error means that the socket is closed already.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// Facts about a client.
struct Client {
    name: String,
    lines: u64,
}

type Clients = Pool<SocketAddr, Socket>;

/// Serves one connection: admit by address, read the name, go live under the key, then read until
/// it ends.
fn serve(clients: &Arc<Clients>, clock: Clock, stream: TcpStream, addr: SocketAddr) -> io::Result<()> {
    let deadline = clock.now().after(Duration::from_secs(1));
    let permit =
        clients.admit(addr, Direction::Inbound, SlotClass::Ordinary, deadline).map_err(io::Error::other)?;
    let claim = permit.claim(addr).map_err(|error| io::Error::other(error.cause.to_string()))?;

    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut name = String::new();
    reader.read_line(&mut name)?;
    let info = Client { name: name.trim().to_owned(), lines: 0 };
    let peer =
        claim.go_live(Socket(stream), info, clock.now()).map_err(|error| io::Error::other(error.cause))?;

    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        // The hot path: no map, no lock.
        if peer.seen(clock.now()) == SeenOutcome::Disconnected {
            return Ok(());
        }
        peer.add_bytes_in(line.len() as u64);
        if line.trim().is_empty() {
            let _ = peer.penalize(Misbehavior::Useless, clock.now());
        }
        peer.update_info(|client| Client { name: client.name.clone(), lines: client.lines + 1 });
        (&peer.connection().0).write_all(line.as_bytes())?;
        peer.add_bytes_out(line.len() as u64);
        line.clear();
    }
    clients.remove(peer.key(), peer.id(), DisconnectReason::Closed);
    Ok(())
}

fn accept(clients: &Arc<Clients>, clock: Clock, listener: &TcpListener) {
    for stream in listener.incoming() {
        let (Ok(stream), clients) = (stream, Arc::clone(clients)) else { continue };
        let Ok(addr) = stream.peer_addr() else { continue };
        if clients.is_closed() {
            return;
        }
        thread::spawn(move || {
            if let Err(error) = serve(&clients, clock, stream, addr) {
                println!("server: {addr}: {error}");
            }
        });
    }
}

fn client(server: SocketAddr, name: &str, lines: u32) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_nodelay(true)?;
    writeln!(stream, "{name}")?;
    let mut echo = BufReader::new(stream.try_clone()?);
    for n in 0..lines {
        writeln!(stream, "line {n} of {name}")?;
        let mut line = String::new();
        echo.read_line(&mut line)?;
    }
    Ok(stream)
}

fn main() -> io::Result<()> {
    let clock = Clock::new();
    let config = PoolConfig {
        liveness: LivenessPolicy { stale_after: Duration::from_millis(300) },
        ..PoolConfig::local()
    };
    let clients: Arc<Clients> = Pool::new(config);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let server = listener.local_addr()?;
    let acceptor = thread::spawn({
        let clients = Arc::clone(&clients);
        move || accept(&clients, clock, &listener)
    });

    let clients_running: Vec<_> =
        (0..4).map(|n| thread::spawn(move || client(server, &format!("client {n}"), 25))).collect();
    let mut streams = Vec::new();
    for running in clients_running {
        streams.push(running.join().map_err(|_| io::Error::other("a client panicked"))??);
    }
    for peer in clients.roster().iter() {
        let (info, bytes) = (peer.info(), peer.bytes());
        println!("{} at {}: {} lines, {} bytes in", info.name, peer.addr(), info.lines, bytes.received);
    }
    println!("{} of 127.0.0.1, stats {:#?}", clients.by_ip(server.ip()).len(), clients.stats(clock.now()));

    // One client hangs up. The others fall silent, and the sweep removes them.
    drop(streams.pop());
    while !clients.is_empty() {
        clients.sweep(clock.now());
        thread::sleep(Duration::from_millis(50));
    }
    let disconnects = clients.stats(clock.now()).disconnects;
    println!(
        "closed {}, stale {}",
        disconnects.of(DisconnectReason::Closed),
        disconnects.of(DisconnectReason::Stale)
    );

    clients.close();
    // Wakes the acceptor, which finds the pool closed.
    drop(TcpStream::connect(server)?);
    acceptor.join().map_err(|_| io::Error::other("the acceptor panicked"))
}
