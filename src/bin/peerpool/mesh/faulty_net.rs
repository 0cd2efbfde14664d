//! TCP whose connections can be cut, held up and partitioned: what a bad network does, on demand.
//!
//! Streams never lose bytes. A cut one fails both ways at once, without a goodbye; one that is held up neither gives nor takes
//! until it is released; a dial across a partition waits like one whose packets get lost.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use peerpool::sync::atomic::{AtomicU8, Ordering};
use peerpool::sync::{Mutex, TaskWaker};
use peerpool::transport::{BoxFuture, BoxListener, BoxStream, Listener, Stream, Tcp, Transport};

/// The network that all nodes of a mesh share.
#[derive(Debug, Default)]
pub(super) struct FaultyNet {
    state: Mutex<State>,
    healed: Notify,
}

#[derive(Debug, Default)]
struct State {
    wires: Vec<Weak<Wire>>,
    /// Which node listens at an address; stays known while the node is down.
    listeners: HashMap<SocketAddr, usize>,
    /// Which node dialled from an address, for as long as that connection lasts.
    diallers: HashMap<SocketAddr, usize>,
    /// Nodes that are cut off from the others; empty without a partition.
    apart: Vec<usize>,
    /// Nodes that are being killed: nothing of theirs connects.
    dead: Vec<usize>,
}

impl State {
    fn parted(&self, one: usize, other: usize) -> bool {
        self.apart.contains(&one) != self.apart.contains(&other)
    }

    /// Whether whoever is at an address cannot be reached.
    fn parted_from(&self, one: usize, addr: SocketAddr) -> bool {
        let other = self.listeners.get(&addr).or_else(|| self.diallers.get(&addr));
        other.is_some_and(|other| self.parted(one, *other))
    }

    fn wires(&mut self) -> Vec<Arc<Wire>> {
        self.wires.retain(|wire| wire.strong_count() > 0);
        self.wires.iter().filter_map(Weak::upgrade).collect()
    }
}

/// One end of a connection.
#[derive(Debug)]
struct Wire {
    owner: usize,
    local: Option<SocketAddr>,
    remote: SocketAddr,
    fault: AtomicU8,
    reader: TaskWaker,
    writer: TaskWaker,
}

impl Wire {
    fn add(&self, fault: u8) {
        // Release: pairs with the Acquire of `FaultyStream::fault`, which comes after the task has registered to be woken.
        self.fault.fetch_or(fault, Ordering::AcqRel);
        self.wake();
    }

    fn remove(&self, fault: u8) {
        self.fault.fetch_and(!fault, Ordering::AcqRel);
        self.wake();
    }

    fn wake(&self) {
        self.reader.wake();
        self.writer.wake();
    }

    /// Names the connection alike from both ends.
    fn name(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.local.map(|local| super::graph::wire(local, self.remote))
    }
}

impl FaultyNet {
    /// The network as this node sees it.
    pub(super) fn transport(self: &Arc<Self>, owner: usize) -> FaultyTransport {
        self.state.lock().dead.retain(|dead| *dead != owner);
        FaultyTransport { net: Arc::clone(self), owner, tcp: Tcp::default() }
    }

    /// Cuts one connection; which one depends on `pick`. `false` if there is none.
    pub(super) fn cut_one(&self, pick: u64) -> bool {
        self.one(pick, CUT)
    }

    /// Holds up one connection. [`FaultyNet::release`] lets it go on.
    pub(super) fn hold_one(&self, pick: u64) -> bool {
        self.one(pick, HELD)
    }

    fn one(&self, pick: u64, fault: u8) -> bool {
        let wires = self.state.lock().wires();
        let mut names: Vec<_> = wires.iter().filter_map(|wire| wire.name()).collect();
        names.sort_unstable();
        names.dedup();
        if names.is_empty() {
            return false;
        }
        let name = names[(pick % names.len() as u64) as usize];
        wires.iter().filter(|wire| wire.name() == Some(name)).for_each(|wire| wire.add(fault));
        true
    }

    /// Cuts all connections of a node.
    pub(super) fn cut_all(&self, owner: usize) {
        let wires = self.state.lock().wires();
        wires.iter().filter(|wire| wire.owner == owner).for_each(|wire| wire.add(CUT));
    }

    /// Cuts a node off for good: what it has breaks, and nothing new connects until it starts again.
    pub(super) fn kill(&self, owner: usize) {
        self.state.lock().dead.push(owner);
        self.cut_all(owner);
    }

    /// Lets everything go on that is held up singly.
    pub(super) fn release(&self) {
        let wires = self.state.lock().wires();
        wires.iter().for_each(|wire| wire.remove(HELD));
    }

    /// Parts these nodes from all others: no byte and no dial crosses.
    pub(super) fn part(&self, apart: &[usize]) {
        let mut state = self.state.lock();
        state.apart = apart.to_vec();
        for wire in state.wires() {
            if state.parted_from(wire.owner, wire.remote) {
                wire.add(PARTED);
            }
        }
    }

    /// Ends the partition.
    pub(super) fn heal(&self) {
        let wires = {
            let mut state = self.state.lock();
            state.apart.clear();
            state.wires()
        };
        wires.iter().for_each(|wire| wire.remove(PARTED));
        self.healed.notify_waiters();
    }

    /// Whether the two can reach each other.
    pub(super) fn parted(&self, one: usize, other: usize) -> bool {
        self.state.lock().parted(one, other)
    }

    fn is_dead(&self, owner: usize) -> bool {
        self.state.lock().dead.contains(&owner)
    }

    fn wrap(
        self: &Arc<Self>,
        inner: BoxStream,
        owner: usize,
        remote: SocketAddr,
        dialled: bool,
    ) -> BoxStream {
        let local = inner.local_addr();
        let mut state = self.state.lock();
        if let (true, Some(local)) = (dialled, local) {
            state.diallers.insert(local, owner);
        }
        let fault = if state.dead.contains(&owner) {
            CUT
        } else if state.parted_from(owner, remote) {
            PARTED
        } else {
            0
        };
        let wire = Arc::new(Wire {
            owner,
            local,
            remote,
            fault: AtomicU8::new(fault),
            reader: TaskWaker::new(),
            writer: TaskWaker::new(),
        });
        state.wires.push(Arc::downgrade(&wire));
        drop(state);
        Box::new(FaultyStream { inner, wire, net: Arc::clone(self), dialled })
    }
}

/// The transport of one node in a [`FaultyNet`].
#[derive(Clone, Debug)]
pub(super) struct FaultyTransport {
    net: Arc<FaultyNet>,
    owner: usize,
    tcp: Tcp,
}

impl Transport for FaultyTransport {
    fn dial(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async move {
            loop {
                let healed = self.net.healed.notified();
                tokio::pin!(healed);
                // Before looking, so that a healing in between is not missed.
                healed.as_mut().enable();
                if !self.net.state.lock().parted_from(self.owner, addr) {
                    break;
                }
                healed.await;
            }
            if self.net.is_dead(self.owner) {
                return Err(io::ErrorKind::NetworkDown.into());
            }
            let stream = self.tcp.dial(addr).await?;
            Ok(self.net.wrap(stream, self.owner, addr, true))
        })
    }

    fn listen(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<BoxListener>> {
        Box::pin(async move {
            let inner = self.tcp.listen(addr).await?;
            self.net.state.lock().listeners.insert(inner.local_addr(), self.owner);
            let listener = FaultyListener { inner, net: Arc::clone(&self.net), owner: self.owner };
            Ok(Box::new(listener) as BoxListener)
        })
    }
}

struct FaultyListener {
    inner: BoxListener,
    net: Arc<FaultyNet>,
    owner: usize,
}

impl Listener for FaultyListener {
    fn local_addr(&self) -> SocketAddr {
        self.inner.local_addr()
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(BoxStream, SocketAddr)>> {
        let accepted = std::task::ready!(self.inner.poll_accept(cx));
        Poll::Ready(accepted.map(|(stream, from)| (self.net.wrap(stream, self.owner, from, false), from)))
    }
}

/// A stream that the net can hurt.
struct FaultyStream {
    inner: BoxStream,
    wire: Arc<Wire>,
    net: Arc<FaultyNet>,
    dialled: bool,
}

impl FaultyStream {
    /// The verdict on a read or write that is about to happen; `waker` is registered first.
    fn fault(&self, waker: &TaskWaker, cx: &Context<'_>) -> Poll<io::Result<()>> {
        waker.register(cx.waker());
        match self.wire.fault.load(Ordering::Acquire) {
            0 => Poll::Ready(Ok(())),
            fault if fault & CUT != 0 => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            _ => Poll::Pending,
        }
    }
}

impl Drop for FaultyStream {
    fn drop(&mut self) {
        if let (true, Some(local)) = (self.dialled, self.wire.local) {
            self.net.state.lock().diallers.remove(&local);
        }
    }
}

impl Stream for FaultyStream {
    fn local_addr(&self) -> Option<SocketAddr> {
        self.wire.local
    }
}

impl AsyncRead for FaultyStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        std::task::ready!(this.fault(&this.wire.reader, cx))?;
        Pin::new(&mut this.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for FaultyStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        std::task::ready!(this.fault(&this.wire.writer, cx))?;
        Pin::new(&mut this.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        std::task::ready!(this.fault(&this.wire.writer, cx))?;
        Pin::new(&mut this.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        std::task::ready!(this.fault(&this.wire.writer, cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        std::task::ready!(this.fault(&this.wire.writer, cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

/// Fails reads and writes.
const CUT: u8 = 1;
/// Held up by itself.
const HELD: u8 = 2;
/// Held up by a partition.
const PARTED: u8 = 4;

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_millis(50);
    const LATE: Duration = Duration::from_secs(10);

    /// Node 0 listens, node 1 has dialled it.
    async fn pair(net: &Arc<FaultyNet>) -> (BoxStream, BoxStream, SocketAddr) {
        let (one, two) = (net.transport(0), net.transport(1));
        let mut listener = one.listen(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("loopback");
        let addr = listener.local_addr();
        let (dialled, accepted) = tokio::join!(two.dial(addr), listener.accept());
        (dialled.expect("dials"), accepted.expect("accepts").0, addr)
    }

    #[tokio::test]
    async fn a_cut_fails_both_ends_at_once() {
        let net = Arc::<FaultyNet>::default();
        let (mut dialled, mut accepted, _) = pair(&net).await;
        let reading = tokio::spawn(async move { accepted.read_u8().await });
        tokio::task::yield_now().await;
        assert!(net.cut_one(0));
        let read = timeout(LATE, reading).await.expect("a waiting reader is woken").unwrap();
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert!(dialled.write_u8(1).await.is_err());
    }

    #[tokio::test]
    async fn a_partition_holds_bytes_and_dials_and_loses_none() {
        let net = Arc::<FaultyNet>::default();
        let (mut dialled, mut accepted, addr) = pair(&net).await;
        net.part(&[1]);
        assert!(net.parted(0, 1) && !net.parted(0, 2));
        assert!(timeout(SOON, dialled.write_u8(7)).await.is_err(), "nothing goes in");
        assert!(timeout(SOON, accepted.read_u8()).await.is_err());
        let dialler = net.transport(1);
        let dialling = tokio::spawn(async move { dialler.dial(addr).await.map(drop) });
        tokio::time::sleep(SOON).await;
        assert!(!dialling.is_finished());
        net.heal();
        // Nobody accepts any more: the dial is decided, one way or the other.
        let _ = timeout(LATE, dialling).await.expect("the dial goes on").unwrap();
        dialled.write_u8(9).await.unwrap();
        assert_eq!(timeout(LATE, accepted.read_u8()).await.unwrap().unwrap(), 9);
    }

    #[tokio::test]
    async fn the_killed_connects_no_more_until_it_starts_again() {
        let net = Arc::<FaultyNet>::default();
        let (mut dialled, _accepted, addr) = pair(&net).await;
        let before = net.transport(1);
        net.kill(1);
        assert!(dialled.write_u8(1).await.is_err());
        assert!(before.dial(addr).await.is_err());
    }
}
