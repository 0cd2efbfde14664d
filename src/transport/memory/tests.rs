#![allow(clippy::unwrap_used)] // helpers of tests; clippy excuses the tests alone

use std::io::{ErrorKind, IoSlice};
use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::mpsc;
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::transport::{BoxListener, Transport};

const MS: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_secs(3_600);

fn ip(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

async fn listen(net: &MemoryNet, host: IpAddr) -> (BoxListener, SocketAddr) {
    let listener = net.host(host).listen(SocketAddr::new(host, 0)).await.unwrap();
    let addr = listener.local_addr();
    (listener, addr)
}

/// Writes until the buffer is full. Returns the bytes written.
async fn fill(stream: &mut BoxStream) -> usize {
    let mut sent = 0;
    while let Ok(count) = timeout(LONG, stream.write(&[7; 1000])).await {
        sent += count.unwrap();
    }
    sent
}

#[tokio::test(start_paused = true)]
async fn bytes_are_read_in_order_in_both_directions() {
    let net = MemoryNet::new(1);
    let (mut listener, addr) = listen(&net, ip(2)).await;
    let mut near = net.host(ip(1)).dial(addr).await.unwrap();
    let (mut far, from) = listener.accept().await.unwrap();
    assert_eq!(from.ip(), ip(1));
    assert_eq!(net.connections(), [(from, addr)]);
    let (mut buf, bufs) = ([0; 10], [IoSlice::new(b"hel"), IoSlice::new(b""), IoSlice::new(b"lo")]);
    assert!(near.is_write_vectored());
    assert_eq!(near.write_vectored(&bufs).await.unwrap(), 5);
    far.write_all(b"back").await.unwrap();
    assert_eq!(far.read(&mut buf).await.unwrap(), 5);
    assert_eq!(&buf[..5], b"hello");
    near.read_exact(&mut buf[..4]).await.unwrap();
    assert_eq!(&buf[..4], b"back");
}

#[tokio::test(start_paused = true)]
async fn each_dial_has_its_own_port() {
    let net = MemoryNet::new(1);
    let (mut listener, addr) = listen(&net, ip(2)).await;
    let dialler = net.host(ip(1));
    let _one = dialler.dial(addr).await.unwrap();
    let _two = dialler.dial(addr).await.unwrap();
    let (_, first) = listener.accept().await.unwrap();
    let (_, second) = listener.accept().await.unwrap();
    assert_ne!(first, second);
    assert!(first.port() >= 49152 && second.port() >= 49152);
}

#[tokio::test(start_paused = true)]
async fn a_mapped_address_reaches_the_ipv4_host() {
    let net = MemoryNet::new(1);
    let (_listener, addr) = listen(&net, ip(2)).await;
    let mapped = SocketAddr::new("::ffff:10.0.0.2".parse().unwrap(), addr.port());
    net.host("::ffff:10.0.0.1".parse().unwrap()).dial(mapped).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn latency_is_drawn_per_direction_and_never_reorders() {
    let net = MemoryNet::new(3);
    net.set_latency(Latency::from(10 * MS..=90 * MS));
    net.set_latency_between(ip(2), ip(1), Latency::ZERO);
    let (mut near, mut far) = net.pair(ip(1), ip(2));
    let start = Instant::now();
    for n in 0..50 {
        near.write_all(&[n]).await.unwrap();
    }
    let (mut got, mut moments) = (Vec::new(), std::collections::BTreeSet::new());
    while got.len() < 50 {
        got.push(far.read_u8().await.unwrap());
        moments.insert(start.elapsed());
    }
    assert!(got.is_sorted() && moments.len() > 2, "{moments:?}");
    assert!(moments.iter().all(|at| (10 * MS..=91 * MS).contains(at)), "{moments:?}");
    let before = Instant::now();
    far.write_all(b"!").await.unwrap();
    near.read_u8().await.unwrap();
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_dial_takes_one_round_trip() {
    let net = MemoryNet::new(3);
    let (_listener, addr) = listen(&net, ip(2)).await;
    net.set_latency(Latency::from(20 * MS));
    let start = Instant::now();
    net.host(ip(1)).dial(addr).await.unwrap();
    assert_eq!(start.elapsed(), 40 * MS);
    let nobody = SocketAddr::new(ip(2), 1);
    let error = net.host(ip(1)).dial(nobody).await.err().unwrap();
    assert_eq!((error.kind(), start.elapsed()), (ErrorKind::ConnectionRefused, 80 * MS));
}

/// Runs many concurrent streams. Returns when each byte arrived, and from where.
async fn run(seed: u64) -> Vec<(u8, SocketAddr, Duration)> {
    let net = MemoryNet::new(seed);
    net.set_latency(Latency::from(MS..=200 * MS));
    let (mut listener, addr) = listen(&net, ip(99)).await;
    let start = Instant::now();
    let dials: Vec<_> = (0..8)
        .map(|n| {
            let host = net.host(ip(n % 3));
            tokio::spawn(async move {
                let mut stream = host.dial(addr).await.unwrap();
                for _ in 0..5 {
                    stream.write_all(&[n]).await.unwrap();
                    tokio::time::sleep(30 * MS).await;
                }
            })
        })
        .collect();
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (mut stream, from) = listener.accept().await.unwrap();
        readers.spawn(async move {
            let mut seen = Vec::new();
            while let Ok(byte) = stream.read_u8().await {
                seen.push((byte, from, start.elapsed()));
            }
            seen
        });
    }
    for dial in dials {
        dial.await.unwrap();
    }
    let mut all = Vec::new();
    while let Some(seen) = readers.join_next().await {
        all.extend(seen.unwrap());
    }
    assert_eq!(all.len(), 40);
    all
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().start_paused(true).build().unwrap().block_on(run(seed))
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_never_reads_stalls_the_writer() {
    let net = MemoryNet::new(1);
    net.set_buffer(NonZeroUsize::new(5_500).unwrap());
    let (mut near, mut far) = net.pair(ip(1), ip(2));
    assert_eq!(fill(&mut near).await, 5_500);
    let blocked = tokio::spawn(async move {
        near.write_all(&[8; 300]).await.unwrap();
        near
    });
    far.read_exact(&mut [0; 5_500]).await.unwrap();
    let _near = blocked.await.unwrap();
    far.read_exact(&mut [0; 300]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_cut_resets_both_ends_and_wakes_waiting_tasks() {
    let net = MemoryNet::new(1);
    let (mut listener, addr) = listen(&net, ip(2)).await;
    let mut near = net.host(ip(1)).dial(addr).await.unwrap();
    let (mut far, from) = listener.accept().await.unwrap();
    near.write_all(b"in flight").await.unwrap();
    let waiting = tokio::spawn(async move { near.read_u8().await.unwrap_err().kind() });
    tokio::task::yield_now().await;
    assert!(!net.cut(addr, addr));
    assert!(net.cut(addr, from));
    assert_eq!(waiting.await.unwrap(), ErrorKind::ConnectionReset);
    assert_eq!(far.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(far.write(b"x").await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test(start_paused = true)]
async fn cuts_reach_only_the_given_hosts() {
    let net = MemoryNet::new(1);
    let _pairs = [(1, 2), (2, 1), (1, 3), (3, 4)].map(|(a, b)| net.pair(ip(a), ip(b)));
    assert_eq!(net.cut_between(ip(1), ip(2)), 2);
    assert_eq!(net.cut_host(ip(4)), 1);
    assert_eq!(net.cut_all(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_partition_holds_bytes_until_it_heals() {
    let net = MemoryNet::new(1);
    net.set_latency(Latency::from(10 * MS));
    let (mut near, mut far) = net.pair(ip(1), ip(2));
    let (mut other, mut third) = net.pair(ip(1), ip(3));
    near.write_all(b"ab").await.unwrap();
    net.partition(&[ip(1)], &[ip(2)]);
    near.write_all(b"cd").await.unwrap();
    assert!(timeout(LONG, far.read_u8()).await.is_err());
    // Hosts in neither group are not affected.
    other.write_all(b"x").await.unwrap();
    assert_eq!(third.read_u8().await.unwrap(), b'x');
    net.heal_between(&[ip(2)], &[ip(1)]);
    let mut buf = [0; 4];
    far.read_exact(&mut buf).await.unwrap();
    assert_eq!(&buf, b"abcd");
}

#[tokio::test(start_paused = true)]
async fn a_stream_dropped_behind_a_partition_sends_no_end() {
    let net = MemoryNet::new(1);
    let (near, mut far) = net.pair(ip(1), ip(2));
    net.partition(&[ip(1)], &[ip(2)]);
    drop(near);
    assert!(timeout(LONG, far.read_u8()).await.is_err());
    far.write_all(b"into the void").await.unwrap();
    net.heal();
    assert_eq!(far.read_u8().await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
    assert_eq!(far.write(b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[tokio::test(start_paused = true)]
async fn one_direction_can_be_blocked_alone() {
    let net = MemoryNet::new(1);
    let (mut near, mut far) = net.pair(ip(1), ip(2));
    net.block(ip(1), ip(2));
    near.write_all(b"lost?").await.unwrap();
    far.write_all(b"through").await.unwrap();
    near.read_exact(&mut [0; 7]).await.unwrap();
    assert!(timeout(LONG, far.read_u8()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn dials_hang_during_a_partition_and_succeed_after_it() {
    let net = MemoryNet::new(1);
    let (_listener, addr) = listen(&net, ip(2)).await;
    let host = net.host(ip(1));
    net.partition(&[ip(1)], &[ip(2)]);
    assert!(timeout(LONG, host.dial(addr)).await.is_err());
    let dial = tokio::spawn(async move { host.dial(addr).await.map(drop) });
    tokio::time::sleep(MS).await;
    net.heal();
    dial.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_partition_during_the_handshake_stops_it() {
    let net = MemoryNet::new(1);
    let (_listener, addr) = listen(&net, ip(2)).await;
    net.set_latency(Latency::from(100 * MS));
    let host = net.host(ip(1));
    let dial = tokio::spawn(async move { timeout(LONG, host.dial(addr)).await.is_err() });
    tokio::time::sleep(50 * MS).await;
    net.partition(&[ip(1)], &[ip(2)]);
    assert!(dial.await.unwrap());
    assert_eq!(net.connections(), []);
}

#[tokio::test(start_paused = true)]
async fn hosts_refuse_or_drop_dials_on_request() {
    let net = MemoryNet::new(1);
    let (_listener, addr) = listen(&net, ip(2)).await;
    let host = net.host(ip(1));
    net.set_refusing(ip(2), true);
    assert_eq!(host.dial(addr).await.err().unwrap().kind(), ErrorKind::ConnectionRefused);
    net.set_refusing(ip(2), false);
    net.set_black_hole(ip(2), true);
    assert!(timeout(LONG, host.dial(addr)).await.is_err());
    net.set_black_hole(ip(2), false);
    host.dial(addr).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_slow_host_reads_at_its_rate() {
    let net = MemoryNet::new(1);
    net.set_read_rate(ip(2), ReadRate::PerSecond(NonZeroU64::new(10_000).unwrap()));
    let (mut near, mut far) = net.pair(ip(1), ip(2));
    near.write_all(&[1; 20_000]).await.unwrap();
    let start = Instant::now();
    far.read_exact(&mut [0; 20_000]).await.unwrap();
    let took = start.elapsed();
    assert!((1_900 * MS..=2_100 * MS).contains(&took), "{took:?}");
    net.set_read_rate(ip(2), ReadRate::Stopped);
    near.write_all(b"x").await.unwrap();
    assert!(timeout(LONG, far.read_u8()).await.is_err());
    net.set_read_rate(ip(2), ReadRate::Unlimited);
    assert_eq!(far.read_u8().await.unwrap(), b'x');
}

#[tokio::test(start_paused = true)]
async fn the_other_direction_of_a_half_closed_stream_goes_on() {
    let net = MemoryNet::new(1);
    net.set_latency(Latency::from(5 * MS));
    let (mut near, mut far) = net.pair(ip(1), ip(2));
    near.write_all(b"last words").await.unwrap();
    near.shutdown().await.unwrap();
    assert_eq!(near.write(b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    let mut heard = Vec::new();
    far.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"last words");
    far.write_all(b"noted").await.unwrap();
    near.read_exact(&mut [0; 5]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_writer_learns_after_one_latency_that_the_reader_has_closed() {
    let net = MemoryNet::new(1);
    net.set_buffer(NonZeroUsize::new(1_000).unwrap());
    net.set_latency(Latency::from(10 * MS));
    let (mut near, far) = net.pair(ip(1), ip(2));
    assert_eq!(fill(&mut near).await, 1_000);
    let start = Instant::now();
    drop(far);
    assert_eq!(near.write(b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    assert_eq!(start.elapsed(), 10 * MS);
}

#[tokio::test(start_paused = true)]
async fn a_drop_after_a_shutdown_arrives_after_its_own_latency() {
    let net = MemoryNet::new(1);
    net.set_latency(Latency::from(10 * MS));
    let (mut near, mut far) = net.pair(ip(1), ip(2));
    far.shutdown().await.unwrap();
    sleep(50 * MS).await;
    near.write_all(b"x").await.unwrap();
    let start = Instant::now();
    drop(far);
    while near.write(b"x").await.is_ok() {
        sleep(MS).await;
    }
    assert_eq!(start.elapsed(), 10 * MS);
}

#[tokio::test(start_paused = true)]
async fn a_latency_beyond_the_clock_range_never_arrives() {
    let net = MemoryNet::new(1);
    net.set_latency(Latency::from(Duration::MAX));
    let (mut near, mut far) = net.pair(ip(1), ip(2));
    near.write_all(b"x").await.unwrap();
    assert!(timeout(LONG, far.read_u8()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn dropping_everything_leaves_nothing_in_the_network() {
    let net = MemoryNet::new(1);
    let (mut listener, addr) = listen(&net, ip(2)).await;
    let near = net.host(ip(1)).dial(addr).await.unwrap();
    let (far, from) = listener.accept().await.unwrap();
    assert!(net.net.lock().ports_in_use.contains(&from));
    drop(near);
    assert_eq!(net.connections().len(), 1, "the far end is still held");
    drop(far);
    // A dial that is cancelled.
    net.partition(&[ip(1)], &[ip(2)]);
    assert!(timeout(LONG, net.host(ip(1)).dial(addr)).await.is_err());
    let state = net.net.lock();
    assert!(state.ports_in_use.is_empty() && state.waiting_dials.is_empty());
    drop(state);
    assert_eq!(net.connections(), []);
}

#[tokio::test(start_paused = true)]
async fn dropping_a_listener_resets_unaccepted_connections() {
    let net = MemoryNet::new(1);
    let (listener, addr) = listen(&net, ip(2)).await;
    let mut near = net.host(ip(1)).dial(addr).await.unwrap();
    drop(listener);
    assert_eq!(near.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(net.host(ip(1)).dial(addr).await.err().unwrap().kind(), ErrorKind::ConnectionRefused);
    let again = net.host(ip(2)).listen(addr).await.unwrap();
    assert_eq!(again.local_addr(), addr);
}

#[tokio::test(start_paused = true)]
async fn dials_wait_for_room_in_a_full_backlog() {
    let net = MemoryNet::new(1);
    let (mut listener, addr) = listen(&net, ip(2)).await;
    let host = net.host(ip(1));
    let mut held = Vec::new();
    while let Ok(stream) = timeout(LONG, host.dial(addr)).await {
        held.push(stream.unwrap());
    }
    let dial = tokio::spawn(async move { host.dial(addr).await.map(drop) });
    tokio::time::sleep(MS).await;
    assert!(held.len() == 1024 && !dial.is_finished());
    listener.accept().await.unwrap();
    dial.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_host_binds_its_own_address_once() {
    let net = MemoryNet::new(1);
    let host = net.host(ip(1));
    let bound = host.listen("0.0.0.0:77".parse().unwrap()).await.unwrap();
    assert_eq!(bound.local_addr(), SocketAddr::new(ip(1), 77));
    let taken = host.listen(SocketAddr::new(ip(1), 77)).await.err().unwrap();
    assert_eq!(taken.kind(), ErrorKind::AddrInUse);
    let foreign = host.listen(SocketAddr::new(ip(2), 77)).await.err().unwrap();
    assert_eq!(foreign.kind(), ErrorKind::AddrNotAvailable);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_stream_does_not_spin() {
    let net = MemoryNet::new(1);
    net.set_latency(Latency::from(Duration::from_secs(1)));
    let (mut near, mut far) = net.pair(ip(1), ip(2));
    near.write_all(b"x").await.unwrap();
    let mut polls = 0;
    let mut read = std::pin::pin!(far.read_u8());
    std::future::poll_fn(|cx| {
        polls += 1;
        read.as_mut().poll(cx)
    })
    .await
    .unwrap();
    assert_eq!(polls, 2);
}

/// A waker that holds the other end, like the waker of a task that owns both ends.
struct Owner {
    _owns: std::sync::Mutex<Option<BoxStream>>,
}

impl Wake for Owner {
    fn wake(self: Arc<Self>) {}
}

/// Polls a read that stays pending. Its waker owns `owns`.
fn poll_pending_read(near: &mut BoxStream, owns: Option<BoxStream>) {
    let waker = Waker::from(Arc::new(Owner { _owns: owns.into() }));
    let mut byte = [0];
    let mut into = ReadBuf::new(&mut byte);
    assert!(Pin::new(near).poll_read(&mut Context::from_waker(&waker), &mut into).is_pending());
}

/// Runs `run` and fails if it deadlocks on a lock that it holds itself.
fn does_not_deadlock(run: impl FnOnce() + Send + 'static) {
    let (done, is_done) = mpsc::channel();
    let run = std::thread::spawn(move || {
        run();
        done.send(()).expect("awaited");
    });
    assert!(is_done.recv_timeout(Duration::from_secs(60)).is_ok(), "deadlock");
    run.join().expect("no panic");
}

#[test]
fn a_displaced_waker_is_dropped_under_no_lock() {
    does_not_deadlock(|| {
        let (mut near, far) = MemoryNet::new(1).pair(ip(1), ip(2));
        poll_pending_read(&mut near, Some(far));
        poll_pending_read(&mut near, None);
    });
}

#[test]
fn the_waker_of_a_closed_reader_is_dropped_under_no_lock() {
    does_not_deadlock(|| {
        let (mut near, far) = MemoryNet::new(1).pair(ip(1), ip(2));
        poll_pending_read(&mut near, Some(far));
        drop(near);
    });
}
