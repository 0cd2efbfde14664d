//! A simulated host: its dials and its listeners.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::sim_net::{AcceptQueue, SimConnection, SimNet, SimState};
use super::stream::MemoryStream;
use crate::base::canonical;
use crate::transport::{BoxFuture, BoxListener, BoxStream, Listener, Transport};

/// Connections per listener that may wait to be accepted. Further dials wait outside.
const MAX_UNACCEPTED: usize = 1024;

/// A host of a [`MemoryNet`](super::MemoryNet). Clones are handles to the same host.
///
/// It binds its own IP address; the unspecified address means the same. Each dial comes from an
/// ephemeral port, so the acceptor sees `ip:port`.
#[derive(Clone)]
pub struct MemoryHost {
    net: Arc<SimNet>,
    ip: IpAddr,
}

impl MemoryHost {
    pub(super) const fn new(net: Arc<SimNet>, ip: IpAddr) -> Self {
        Self { net, ip }
    }

    /// The IP address of the host.
    pub const fn ip(&self) -> IpAddr {
        self.ip
    }

    /// One round trip: the request travels to the listener, and its answer travels back.
    async fn connect(&self, addr: SocketAddr) -> io::Result<BoxStream> {
        let to = canonical(addr);
        if to.port() == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut dial = Dial::new(&self.net);
        dial.delay(self.ip, to.ip(), Packet::Request).await;
        let answer = dial.connect(self.ip, to).await;
        dial.delay(to.ip(), self.ip, Packet::Answer).await;
        Ok(Box::new(answer?))
    }

    fn bind(&self, addr: SocketAddr) -> io::Result<BoxListener> {
        let ip = canonical(addr).ip();
        if ip != self.ip && !ip.is_unspecified() {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        let mut state = self.net.lock();
        let local = match addr.port() {
            0 => state.free_ephemeral_port(self.ip).ok_or(io::ErrorKind::AddrNotAvailable)?,
            port => SocketAddr::new(self.ip, port),
        };
        if state.ports_in_use.contains(&local) || state.listeners.contains_key(&local) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        state.listeners.insert(local, AcceptQueue::default());
        Ok(Box::new(MemoryListener { net: Arc::clone(&self.net), local }))
    }
}

impl fmt::Debug for MemoryHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MemoryHost").field(&self.ip).finish()
    }
}

impl Transport for MemoryHost {
    fn dial(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(self.connect(addr))
    }

    fn listen(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<BoxListener>> {
        Box::pin(async move { self.bind(addr) })
    }
}

/// A packet of the simulated TCP handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packet {
    /// The first packet; black holes drop it.
    Request,
    Answer,
}

/// A dial in progress. Dropping it removes its waker from the network.
struct Dial<'net> {
    net: &'net Arc<SimNet>,
    number: u64,
    rng: fastrand::Rng,
}

impl<'net> Dial<'net> {
    fn new(net: &'net Arc<SimNet>) -> Self {
        let mut state = net.lock();
        let number = state.next_number();
        let rng = state.rng(number);
        Self { net, number, rng }
    }

    /// Waits until `check` returns a value. Every change of the network runs it again.
    async fn wait_until<T>(&self, mut check: impl FnMut(&mut SimState) -> Option<T>) -> T {
        poll_fn(|cx| {
            let mut state = self.net.lock();
            match check(&mut state) {
                Some(value) => Poll::Ready(value),
                None => {
                    let old = state.waiting_dials.insert(self.number, cx.waker().clone());
                    drop(state);
                    drop(old);
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Waits for the latency of one packet. Starts over if the direction was blocked in the
    /// meantime.
    async fn delay(&mut self, from: IpAddr, to: IpAddr, packet: Packet) {
        let is_open = |state: &SimState| {
            let dropped = packet == Packet::Request && state.black_holes.contains(&to);
            !dropped && !state.is_blocked(from, to)
        };
        loop {
            let latency = self.wait_until(|state| is_open(state).then(|| state.latency(from, to))).await;
            let Some(delay) = latency.draw(&mut self.rng) else { return };
            tokio::time::sleep(delay).await;
            if is_open(&self.net.lock()) {
                return;
            }
        }
    }

    /// Enters the listener's accept queue, or waits for room in it.
    async fn connect(&self, ip: IpAddr, to: SocketAddr) -> io::Result<MemoryStream> {
        let (connection, acceptor) = self
            .wait_until(|state| {
                if state.refusing.contains(&to.ip()) {
                    return Some(Err(io::ErrorKind::ConnectionRefused));
                }
                match state.listeners.get(&to) {
                    None => return Some(Err(io::ErrorKind::ConnectionRefused)),
                    Some(queue) if queue.pending.len() >= MAX_UNACCEPTED => return None,
                    Some(_) => {}
                }
                Some(self.enqueue(state, ip, to).ok_or(io::ErrorKind::AddrNotAvailable))
            })
            .await?;
        if let Some(waker) = acceptor {
            waker.wake();
        }
        Ok(MemoryStream::dialler(connection))
    }

    /// Makes the connection and queues it at the listener. Returns it with the waker of a waiting
    /// acceptor.
    fn enqueue(
        &self,
        state: &mut SimState,
        ip: IpAddr,
        to: SocketAddr,
    ) -> Option<(Arc<SimConnection>, Option<Waker>)> {
        let from = state.free_ephemeral_port(ip)?;
        state.ports_in_use.insert(from);
        let connection = self.net.connect(state, from, to);
        let queue = state.listeners.entry(to).or_default();
        queue.pending.push_back(Arc::clone(&connection));
        Some((connection, queue.acceptor.take()))
    }
}

impl Drop for Dial<'_> {
    fn drop(&mut self) {
        let waker = self.net.lock().waiting_dials.remove(&self.number);
        drop(waker);
    }
}

/// A listener of a host. Dropping it resets the connections that were not accepted.
struct MemoryListener {
    net: Arc<SimNet>,
    local: SocketAddr,
}

impl Listener for MemoryListener {
    fn local_addr(&self) -> SocketAddr {
        self.local
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(BoxStream, SocketAddr)>> {
        let mut state = self.net.lock();
        let queue = state.listeners.entry(self.local).or_default();
        let Some(connection) = queue.pending.pop_front() else {
            let old = queue.acceptor.replace(cx.waker().clone());
            drop(state);
            drop(old);
            return Poll::Pending;
        };
        // A full queue has room now. All waiting dials check again; those that wait for something
        // else go on waiting.
        let was_full = queue.pending.len() + 1 >= MAX_UNACCEPTED;
        let dials = if was_full { std::mem::take(&mut state.waiting_dials) } else { Default::default() };
        drop(state);
        dials.into_values().for_each(Waker::wake);
        let from = connection.dialler;
        Poll::Ready(Ok((Box::new(MemoryStream::acceptor(connection)), from)))
    }
}

impl Drop for MemoryListener {
    fn drop(&mut self) {
        let mut state = self.net.lock();
        let queue = state.listeners.remove(&self.local);
        // Dials that wait for room in this queue are refused now.
        let dials = std::mem::take(&mut state.waiting_dials);
        drop(state);
        dials.into_values().for_each(Waker::wake);
        for connection in queue.into_iter().flat_map(|queue| queue.pending) {
            connection.reset().for_each(Waker::wake);
        }
    }
}
