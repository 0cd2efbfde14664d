//! A TCP transport with injected faults: connections can be cut, stalled and partitioned.
//!
//! All nodes of a mesh share one [`FaultyNet`]; each has a [`FaultyTransport`] of its own. Streams
//! never lose bytes:
//!
//! - a cut stream fails in both directions at once, without a goodbye;
//! - a stalled stream transfers no bytes until it is resumed;
//! - a dial across a partition waits until the partition ends, like one whose packets get lost.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, ready};

use atomic_waker::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use peerpool::transport::{BoxFuture, BoxListener, BoxStream, Listener, Stream, Tcp, Transport};

use super::graph::{AddrPair, addr_pair};
use super::lock;

/// Fault bit: reads and writes fail.
const CUT: u8 = 1;
/// Fault bit: reads and writes wait, because this connection is stalled.
const STALLED: u8 = 2;
/// Fault bit: reads and writes wait, because of a partition.
const PARTITIONED: u8 = 4;

/// The network that all nodes of a mesh share. Nodes are named by their index.
#[derive(Debug, Default)]
pub(super) struct FaultyNet {
    state: Mutex<NetState>,
    /// Notified when a partition ends.
    healed: Notify,
}

#[derive(Debug, Default)]
struct NetState {
    ends: Vec<Weak<StreamEnd>>,
    /// The node that listens at an address. Entries remain while the node is down.
    listeners: HashMap<SocketAddr, usize>,
    /// The node that dialled from an address. Entries last as long as the connection.
    dialers: HashMap<SocketAddr, usize>,
    /// The nodes on one side of the partition; empty without a partition.
    isolated: Vec<usize>,
    /// Killed nodes: their connections are cut and their dials fail.
    killed: Vec<usize>,
}

impl NetState {
    fn is_partitioned(&self, one: usize, other: usize) -> bool {
        self.isolated.contains(&one) != self.isolated.contains(&other)
    }

    /// Returns whether a partition separates a node from the node at an address.
    fn is_partitioned_from(&self, node: usize, addr: SocketAddr) -> bool {
        let other = self.listeners.get(&addr).or_else(|| self.dialers.get(&addr));
        other.is_some_and(|other| self.is_partitioned(node, *other))
    }

    /// The stream ends that are open. Closed ones are forgotten.
    fn open_ends(&mut self) -> Vec<Arc<StreamEnd>> {
        self.ends.retain(|end| end.strong_count() > 0);
        self.ends.iter().filter_map(Weak::upgrade).collect()
    }
}

/// The shared state of one end of a connection.
#[derive(Debug)]
struct StreamEnd {
    node: usize,
    local: Option<SocketAddr>,
    remote: SocketAddr,
    /// [`CUT`], [`STALLED`], [`PARTITIONED`]. Zero while the stream works.
    faults: AtomicU8,
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl StreamEnd {
    fn set(&self, fault: u8) {
        // Release: pairs with the Acquire in `FaultyStream::check`, which loads the bits after it
        // has registered the waker.
        self.faults.fetch_or(fault, Ordering::AcqRel);
        self.wake();
    }

    fn unset(&self, fault: u8) {
        self.faults.fetch_and(!fault, Ordering::AcqRel);
        self.wake();
    }

    fn wake(&self) {
        self.reader.wake();
        self.writer.wake();
    }

    /// The name of the connection, the same at both ends.
    fn addrs(&self) -> Option<AddrPair> {
        self.local.map(|local| addr_pair(local, self.remote))
    }
}

impl FaultyNet {
    /// Creates the transport of a node. A killed node can connect again from here on.
    pub(super) fn transport(self: &Arc<Self>, node: usize) -> FaultyTransport {
        lock(&self.state).killed.retain(|killed| *killed != node);
        FaultyTransport { net: Arc::clone(self), node, tcp: Tcp::default() }
    }

    /// Cuts the connection that `pick` selects. Returns `false` if there is no connection.
    pub(super) fn cut_connection(&self, pick: u64) -> bool {
        self.set_on_one(pick, CUT)
    }

    /// Stalls the connection that `pick` selects until [`FaultyNet::resume_stalled`].
    pub(super) fn stall_connection(&self, pick: u64) -> bool {
        self.set_on_one(pick, STALLED)
    }

    fn set_on_one(&self, pick: u64, fault: u8) -> bool {
        let ends = lock(&self.state).open_ends();
        let mut connections: Vec<_> = ends.iter().filter_map(|end| end.addrs()).collect();
        connections.sort_unstable();
        connections.dedup();
        if connections.is_empty() {
            return false;
        }
        let picked = connections[(pick % connections.len() as u64) as usize];
        ends.iter().filter(|end| end.addrs() == Some(picked)).for_each(|end| end.set(fault));
        true
    }

    /// Cuts all connections of a node.
    pub(super) fn cut_node(&self, node: usize) {
        let ends = lock(&self.state).open_ends();
        ends.iter().filter(|end| end.node == node).for_each(|end| end.set(CUT));
    }

    /// Cuts all connections of a node, and all later ones until its next [`FaultyNet::transport`].
    pub(super) fn kill(&self, node: usize) {
        lock(&self.state).killed.push(node);
        self.cut_node(node);
    }

    /// Resumes all stalled connections.
    pub(super) fn resume_stalled(&self) {
        let ends = lock(&self.state).open_ends();
        ends.iter().for_each(|end| end.unset(STALLED));
    }

    /// Separates these nodes from all others: no byte and no dial crosses the partition.
    pub(super) fn partition(&self, isolated: &[usize]) {
        let mut state = lock(&self.state);
        state.isolated = isolated.to_vec();
        for end in state.open_ends() {
            if state.is_partitioned_from(end.node, end.remote) {
                end.set(PARTITIONED);
            }
        }
    }

    /// Ends the partition.
    pub(super) fn heal(&self) {
        let ends = {
            let mut state = lock(&self.state);
            state.isolated.clear();
            state.open_ends()
        };
        ends.iter().for_each(|end| end.unset(PARTITIONED));
        self.healed.notify_waiters();
    }

    /// Returns whether a partition separates the two nodes.
    pub(super) fn is_partitioned(&self, one: usize, other: usize) -> bool {
        lock(&self.state).is_partitioned(one, other)
    }

    /// Waits until no partition separates a node from the node at an address.
    async fn wait_until_reachable(&self, node: usize, addr: SocketAddr) {
        loop {
            let healed = self.healed.notified();
            tokio::pin!(healed);
            // Registered before the check, so that a heal in between is not missed.
            healed.as_mut().enable();
            if !lock(&self.state).is_partitioned_from(node, addr) {
                return;
            }
            healed.await;
        }
    }

    /// Adds a stream to the net. It starts with the faults that hold for its two nodes.
    fn wrap(self: &Arc<Self>, inner: BoxStream, node: usize, remote: SocketAddr, role: Role) -> BoxStream {
        let local = inner.local_addr();
        let mut state = lock(&self.state);
        let dialed_from = local.filter(|_| role == Role::Dialer);
        if let Some(addr) = dialed_from {
            state.dialers.insert(addr, node);
        }
        let faults = if state.killed.contains(&node) {
            CUT
        } else if state.is_partitioned_from(node, remote) {
            PARTITIONED
        } else {
            0
        };
        let end = Arc::new(StreamEnd {
            node,
            local,
            remote,
            faults: AtomicU8::new(faults),
            reader: AtomicWaker::new(),
            writer: AtomicWaker::new(),
        });
        state.ends.push(Arc::downgrade(&end));
        drop(state);
        Box::new(FaultyStream { inner, end, net: Arc::clone(self), dialed_from })
    }
}

/// Which end of a connection a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Dialer,
    Acceptor,
}

/// The transport of one node in a [`FaultyNet`].
#[derive(Clone, Debug)]
pub(super) struct FaultyTransport {
    net: Arc<FaultyNet>,
    node: usize,
    tcp: Tcp,
}

impl Transport for FaultyTransport {
    fn dial(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async move {
            self.net.wait_until_reachable(self.node, addr).await;
            if lock(&self.net.state).killed.contains(&self.node) {
                return Err(io::ErrorKind::NetworkDown.into());
            }
            let stream = self.tcp.dial(addr).await?;
            Ok(self.net.wrap(stream, self.node, addr, Role::Dialer))
        })
    }

    fn listen(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<BoxListener>> {
        Box::pin(async move {
            let inner = self.tcp.listen(addr).await?;
            lock(&self.net.state).listeners.insert(inner.local_addr(), self.node);
            let listener = FaultyListener { inner, net: Arc::clone(&self.net), node: self.node };
            Ok(Box::new(listener) as BoxListener)
        })
    }
}

struct FaultyListener {
    inner: BoxListener,
    net: Arc<FaultyNet>,
    node: usize,
}

impl Listener for FaultyListener {
    fn local_addr(&self) -> SocketAddr {
        self.inner.local_addr()
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(BoxStream, SocketAddr)>> {
        let (stream, from) = ready!(self.inner.poll_accept(cx))?;
        Poll::Ready(Ok((self.net.wrap(stream, self.node, from, Role::Acceptor), from)))
    }
}

/// A stream that the net can fail or delay.
struct FaultyStream {
    inner: BoxStream,
    end: Arc<StreamEnd>,
    net: Arc<FaultyNet>,
    /// The local address, at the dialling end.
    dialed_from: Option<SocketAddr>,
}

impl FaultyStream {
    /// Checks for faults before a read or write. Registers the waker first, so that no change is
    /// missed.
    fn check(&self, waker: &AtomicWaker, cx: &Context<'_>) -> Poll<io::Result<()>> {
        waker.register(cx.waker());
        match self.end.faults.load(Ordering::Acquire) {
            0 => Poll::Ready(Ok(())),
            faults if faults & CUT != 0 => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            _ => Poll::Pending,
        }
    }
}

impl Drop for FaultyStream {
    fn drop(&mut self) {
        if let Some(addr) = self.dialed_from {
            lock(&self.net.state).dialers.remove(&addr);
        }
    }
}

impl Stream for FaultyStream {
    fn local_addr(&self) -> Option<SocketAddr> {
        self.end.local
    }
}

impl AsyncRead for FaultyStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.check(&this.end.reader, cx))?;
        Pin::new(&mut this.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for FaultyStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.check(&this.end.writer, cx))?;
        Pin::new(&mut this.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.check(&this.end.writer, cx))?;
        Pin::new(&mut this.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.check(&this.end.writer, cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.check(&this.end.writer, cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_millis(50);
    const LATE: Duration = Duration::from_secs(10);

    /// Node 0 listens and node 1 dials it: the two streams and the address of node 0.
    async fn pair(net: &Arc<FaultyNet>) -> (BoxStream, BoxStream, SocketAddr) {
        let (one, two) = (net.transport(0), net.transport(1));
        let mut listener = one.listen(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("loopback");
        let addr = listener.local_addr();
        let (dialed, accepted) = tokio::join!(two.dial(addr), listener.accept());
        (dialed.expect("dials"), accepted.expect("accepts").0, addr)
    }

    #[tokio::test]
    async fn a_cut_fails_both_ends_at_once() {
        let net = Arc::<FaultyNet>::default();
        let (mut dialed, mut accepted, _) = pair(&net).await;
        let reading = tokio::spawn(async move { accepted.read_u8().await });
        tokio::task::yield_now().await;
        assert!(net.cut_connection(0));
        let read = timeout(LATE, reading).await.expect("a waiting reader is woken").unwrap();
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert!(dialed.write_u8(1).await.is_err());
    }

    #[tokio::test]
    async fn a_stalled_connection_transfers_nothing_until_it_is_resumed() {
        let net = Arc::<FaultyNet>::default();
        let (mut dialed, mut accepted, _) = pair(&net).await;
        dialed.write_u8(5).await.unwrap();
        assert!(net.stall_connection(0));
        assert!(timeout(SOON, accepted.read_u8()).await.is_err());
        net.resume_stalled();
        assert_eq!(timeout(LATE, accepted.read_u8()).await.unwrap().unwrap(), 5);
    }

    #[tokio::test]
    async fn a_partition_delays_bytes_and_dials_and_loses_none() {
        let net = Arc::<FaultyNet>::default();
        let (mut dialed, mut accepted, addr) = pair(&net).await;
        net.partition(&[1]);
        assert!(net.is_partitioned(0, 1) && !net.is_partitioned(0, 2));
        assert!(timeout(SOON, dialed.write_u8(7)).await.is_err(), "nothing can be written");
        assert!(timeout(SOON, accepted.read_u8()).await.is_err());
        let dialer = net.transport(1);
        let dialing = tokio::spawn(async move { dialer.dial(addr).await.map(drop) });
        tokio::time::sleep(SOON).await;
        assert!(!dialing.is_finished());
        net.heal();
        // The listener is gone, so the dial may succeed or fail; it must end.
        let _ = timeout(LATE, dialing).await.expect("the dial goes on").unwrap();
        dialed.write_u8(9).await.unwrap();
        assert_eq!(timeout(LATE, accepted.read_u8()).await.unwrap().unwrap(), 9);
    }

    #[tokio::test]
    async fn a_killed_node_cannot_connect_until_it_starts_again() {
        let net = Arc::<FaultyNet>::default();
        let (mut dialed, _accepted, addr) = pair(&net).await;
        let before = net.transport(1);
        net.kill(1);
        assert!(dialed.write_u8(1).await.is_err());
        assert!(before.dial(addr).await.is_err());
    }
}
