//! A host of the sim_net: its dials and its listeners.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::sim_net::{AcceptQueue, SimNet, SimState};
use super::stream::MemoryStream;
use crate::base::canonical;
use crate::transport::{BoxFuture, BoxListener, BoxStream, Listener, Transport};

/// A host of a [`MemoryNet`](super::MemoryNet). Clones are the same host.
///
/// It binds its own IP address or the unspecified one, which means its own. Dials come from free_ephemeral_port ports, so that
/// whoever accepts observes `ip:port`.
#[derive(Clone)]
pub struct MemoryHost {
    sim_net: Arc<SimNet>,
    ip: IpAddr,
}

impl MemoryHost {
    pub(super) const fn new(sim_net: Arc<SimNet>, ip: IpAddr) -> Self {
        Self { sim_net, ip }
    }

    /// The address of the host.
    pub const fn ip(&self) -> IpAddr {
        self.ip
    }

    async fn connect(&self, addr: SocketAddr) -> io::Result<BoxStream> {
        let to = canonical(addr);
        if to.port() == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut dial = Dial::new(&self.sim_net);
        dial.delay(self.ip, to.ip(), true).await;
        let answer = dial.connect(self.ip, to).await;
        dial.delay(to.ip(), self.ip, false).await;
        Ok(Box::new(answer?))
    }

    fn bind(&self, addr: SocketAddr) -> io::Result<BoxListener> {
        let ip = canonical(addr).ip();
        if ip != self.ip && !ip.is_unspecified() {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        let mut state = self.sim_net.lock();
        let local = match addr.port() {
            0 => state.free_ephemeral_port(self.ip).ok_or(io::ErrorKind::AddrNotAvailable)?,
            port => SocketAddr::new(self.ip, port),
        };
        if state.ports_in_use.contains(&local) || state.listeners.contains_key(&local) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        state.listeners.insert(local, AcceptQueue::default());
        Ok(Box::new(MemoryListener { sim_net: Arc::clone(&self.sim_net), local }))
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

/// A dial under way. Dropping it takes its waker out of the sim_net.
struct Dial<'w> {
    sim_net: &'w Arc<SimNet>,
    number: u64,
    rng: fastrand::Rng,
}

impl<'w> Dial<'w> {
    fn new(sim_net: &'w Arc<SimNet>) -> Self {
        let mut state = sim_net.lock();
        let number = state.number();
        let rng = state.rng(number);
        Self { sim_net, number, rng }
    }

    /// Waits until `look` finds an answer in the sim_net; it is asked again after every change.
    async fn until<T>(&self, mut look: impl FnMut(&mut SimState) -> Option<T>) -> T {
        poll_fn(|cx| {
            let mut state = self.sim_net.lock();
            match look(&mut state) {
                Some(answer) => Poll::Ready(answer),
                None => {
                    let old = state.diallers.insert(self.number, cx.waker().clone());
                    drop(state);
                    drop(old);
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Lets one packet of the handshake delay, as soon as something passes, and again if the way closed meanwhile.
    async fn delay(&mut self, from: IpAddr, to: IpAddr, opening: bool) {
        let open = |state: &SimState| {
            let swallowed = opening && state.black_holes.contains(&to);
            !swallowed && !state.is_blocked(from, to)
        };
        loop {
            let latency =
                self.until(|state| if open(state) { Some(state.latency(from, to)) } else { None }).await;
            let Some(time) = latency.draw(&mut self.rng) else { return };
            tokio::time::sleep(time).await;
            if open(&self.sim_net.lock()) {
                return;
            }
        }
    }

    /// Arrives at the listener, or waits for room in its backlog.
    async fn connect(&self, ip: IpAddr, to: SocketAddr) -> io::Result<MemoryStream> {
        let (stream, acceptor) = self
            .until(|state| {
                if state.refusing.contains(&to.ip()) {
                    return Some(Err(io::ErrorKind::ConnectionRefused));
                }
                match state.listeners.get(&to) {
                    None => return Some(Err(io::ErrorKind::ConnectionRefused)),
                    Some(backlog) if backlog.waiting.len() >= MAX_UNACCEPTED => return None,
                    Some(_) => {}
                }
                Some(self.establish(state, ip, to).ok_or(io::ErrorKind::AddrNotAvailable))
            })
            .await?;
        if let Some(waker) = acceptor {
            waker.wake();
        }
        Ok(stream)
    }

    /// Connects and queues the far end; also returns who waits for it.
    fn establish(
        &self,
        state: &mut SimState,
        ip: IpAddr,
        to: SocketAddr,
    ) -> Option<(MemoryStream, Option<Waker>)> {
        let from = state.free_ephemeral_port(ip)?;
        state.ports_in_use.insert(from);
        let (near, far) = self.sim_net.connect(state, from, to);
        let backlog = state.listeners.entry(to).or_default();
        backlog.waiting.push_back((far, from));
        Some((near, backlog.acceptor.take()))
    }
}

impl Drop for Dial<'_> {
    fn drop(&mut self) {
        let waker = self.sim_net.lock().diallers.remove(&self.number);
        drop(waker);
    }
}

/// A listener of a host. Dropping it resets what nobody has accepted.
struct MemoryListener {
    sim_net: Arc<SimNet>,
    local: SocketAddr,
}

impl Listener for MemoryListener {
    fn local_addr(&self) -> SocketAddr {
        self.local
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(BoxStream, SocketAddr)>> {
        let mut state = self.sim_net.lock();
        let backlog = state.listeners.entry(self.local).or_default();
        let Some((stream, from)) = backlog.waiting.pop_front() else {
            let old = backlog.acceptor.replace(cx.waker().clone());
            drop(state);
            drop(old);
            return Poll::Pending;
        };
        // Whoever waits for room looks again; the others find nothing changed and wait on.
        let full = backlog.waiting.len() + 1 >= MAX_UNACCEPTED;
        let diallers = if full { std::mem::take(&mut state.diallers) } else { Default::default() };
        drop(state);
        diallers.into_values().for_each(Waker::wake);
        Poll::Ready(Ok((Box::new(stream), from)))
    }
}

impl Drop for MemoryListener {
    fn drop(&mut self) {
        let mut state = self.sim_net.lock();
        let backlog = state.listeners.remove(&self.local);
        // Whoever waits for room in this backlog is refused now.
        let diallers = std::mem::take(&mut state.diallers);
        drop(state);
        diallers.into_values().for_each(Waker::wake);
        for (stream, _) in backlog.into_iter().flat_map(|backlog| backlog.waiting) {
            stream.conn().reset().for_each(Waker::wake);
        }
    }
}

/// Connections that may wait to be accepted, per listener; further dials wait outside.
const MAX_UNACCEPTED: usize = 1024;
