//! A harness for nodes: a world in memory, nodes in it, and a handler that records.
#![allow(dead_code)]

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use peerpool::address_book::{AddressBook, AddressBookConfig};
use peerpool::pool::DisconnectReason;
use peerpool::transport::{BoxStream, MemoryNet, Transport};
use peerpool::wire::{Control, DecodeStep, Decoder, FirstFrame, Goodbye, Hello, Native, Protocol};
use peerpool::{
    Backoff, Context, Direction, Event, Handled, Handler, Lane, Message, Node, NodeConfig, NodeRef, Nonce,
    Peer, Request, Responder,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// Bounds every wait; under paused time it costs nothing.
pub(crate) const WAIT: Duration = Duration::from_secs(300);
/// Everybody listens here.
pub(crate) const PORT: u16 = 7000;

/// What happened at a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Happened {
    Connected(u64),
    Disconnected(u64, DisconnectReason),
    Event(Lane, u16, Vec<u8>),
    Gap(Lane, u64),
    Missed(Lane, u64),
}

type OnEvent = dyn Fn(Context<'_>, u16, &[u8]) -> Handled + Send + Sync;
type OnRequest = dyn Fn(Context<'_>, u16, Vec<u8>, Responder) -> Handled + Send + Sync;
type OnHook = dyn Fn(Context<'_>) + Send + Sync;

/// A handler that records and then does what it is told. Clones are the same handler.
#[derive(Clone)]
pub(crate) struct Rec {
    happened: Arc<Mutex<Vec<Happened>>>,
    on_event: Arc<OnEvent>,
    on_request: Arc<OnRequest>,
    on_connected: Arc<OnHook>,
    pub(crate) requests: Arc<AtomicUsize>,
}

impl Rec {
    pub(crate) fn new() -> Self {
        Self {
            happened: Arc::default(),
            on_event: Arc::new(|_, _, _| Handled::Done),
            on_request: Arc::new(|_, _, payload, responder| {
                let _ = responder.respond(payload);
                Handled::Done
            }),
            on_connected: Arc::new(|_| {}),
            requests: Arc::default(),
        }
    }

    pub(crate) fn on_event(
        mut self,
        run: impl Fn(Context<'_>, u16, &[u8]) -> Handled + Send + Sync + 'static,
    ) -> Self {
        self.on_event = Arc::new(run);
        self
    }

    pub(crate) fn on_request(
        mut self,
        run: impl Fn(Context<'_>, u16, Vec<u8>, Responder) -> Handled + Send + Sync + 'static,
    ) -> Self {
        self.on_request = Arc::new(run);
        self
    }

    pub(crate) fn on_connected(mut self, run: impl Fn(Context<'_>) + Send + Sync + 'static) -> Self {
        self.on_connected = Arc::new(run);
        self
    }

    pub(crate) fn all(&self) -> Vec<Happened> {
        self.happened.lock().unwrap().clone()
    }

    pub(crate) fn events(&self) -> Vec<(u16, Vec<u8>)> {
        let all = self.all().into_iter();
        all.filter_map(|one| if let Happened::Event(_, kind, body) = one { Some((kind, body)) } else { None })
            .collect()
    }

    /// Each connected is paired with exactly one disconnected, in this order; returns how many
    /// pairs.
    pub(crate) fn pairs(&self) -> usize {
        let mut open = std::collections::BTreeSet::new();
        let mut pairs = 0;
        for one in self.all() {
            match one {
                Happened::Connected(id) => assert!(open.insert(id), "connected twice"),
                Happened::Disconnected(id, _) => {
                    assert!(open.remove(&id), "disconnected without connected");
                    pairs += 1;
                }
                _ => {}
            }
        }
        assert!(open.is_empty(), "never disconnected: {open:?}");
        pairs
    }

    fn note(&self, what: Happened) {
        self.happened.lock().unwrap().push(what);
    }
}

impl Handler for Rec {
    fn event(&self, cx: Context<'_>, event: Event<'_>) -> Handled {
        self.note(Happened::Event(event.lane, event.kind, event.payload.to_vec()));
        (self.on_event)(cx, event.kind, &event.payload)
    }

    fn request(&self, cx: Context<'_>, request: Request<'_>, responder: Responder) -> Handled {
        self.requests.fetch_add(1, Ordering::SeqCst);
        (self.on_request)(cx, request.kind, request.payload.to_vec(), responder)
    }

    fn connected(&self, cx: Context<'_>) {
        self.note(Happened::Connected(cx.peer().id().get()));
        (self.on_connected)(cx);
    }

    fn disconnected(&self, cx: Context<'_>, reason: DisconnectReason) {
        self.note(Happened::Disconnected(cx.peer().id().get(), reason));
    }

    fn peer_lagged(&self, _: Context<'_>, lane: Lane, missed: u64) {
        self.note(Happened::Gap(lane, missed));
    }

    fn broadcasts_missed(&self, _: Context<'_>, lane: Lane, missed: u64) {
        self.note(Happened::Missed(lane, missed));
    }
}

pub(crate) fn ip(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

pub(crate) fn at(last: u8) -> SocketAddr {
    SocketAddr::new(ip(last), PORT)
}

/// A configuration that dials nobody by itself.
pub(crate) fn quiet() -> NodeConfig {
    let mut config = NodeConfig::local();
    config.runtime.target_outbound = 0;
    config
}

/// A book whose waits are over before a test looks again: its clock is the wall's, not the test's.
pub(crate) fn hasty_book() -> AddressBook {
    let backoff = Backoff { base: Duration::from_millis(2), cap: Duration::from_millis(20) };
    AddressBook::in_memory(AddressBookConfig { backoff, ..AddressBookConfig::default() })
}

pub(crate) async fn start(net: &MemoryNet, last: u8, mut config: NodeConfig, handler: Rec) -> Node {
    config.listen.push(at(last));
    Node::builder()
        .config(config)
        .transport(net.host(ip(last)))
        .handler(handler)
        .book(hasty_book())
        .start()
        .await
        .unwrap()
}

/// Two quiet nodes at 10.0.0.1 and 10.0.0.2, the first connected to the second.
pub(crate) async fn pair(net: &MemoryNet, one: Rec, two: Rec) -> (Node, Node, Arc<Peer>) {
    let a = start(net, 1, quiet(), one).await;
    let b = start(net, 2, quiet(), two).await;
    let peer = a.connect(at(2)).await.unwrap();
    until(|| peers(&b) == 1).await;
    (a, b, peer)
}

pub(crate) fn peers(node: &NodeRef) -> usize {
    node.roster().iter().filter(|peer| peer.is_live()).count()
}

pub(crate) fn only(node: &NodeRef) -> Arc<Peer> {
    let all: Vec<_> = node.roster().iter().filter(|peer| peer.is_live()).cloned().collect();
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].clone()
}

/// Waits until something is so, looking every ten milliseconds of the test's time.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    timeout(WAIT, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("in time");
}

pub(crate) async fn secs(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

/// Shuts down and asserts that nothing is left.
pub(crate) async fn end(node: Node) {
    let left = node.shutdown(Duration::from_secs(5)).await;
    assert!(left.is_clean(), "{left:?}");
    assert_eq!(node.stats().memory.connections, 0);
}

/// A stream whose far end speaks the native protocol by hand, with a nonce of its own choice.
pub(crate) struct ByHand {
    pub(crate) stream: BoxStream,
    decoder: <Native as Protocol>::Decoder,
    got: Vec<u8>,
}

pub(crate) fn hello(nonce: u8) -> Hello {
    Hello::new(Native::VERSION, 0, Nonce([nonce; 16]))
}

impl ByHand {
    pub(crate) fn new(stream: BoxStream) -> Self {
        Self { stream, decoder: Native::default().decoder(), got: Vec::new() }
    }

    pub(crate) async fn dial(net: &MemoryNet, from: u8, to: SocketAddr) -> Self {
        Self::new(net.host(ip(from)).dial(to).await.unwrap())
    }

    pub(crate) async fn say(&mut self, hello: &Hello) {
        let mut out = BytesMut::new();
        Native::default().encode_hello(hello, &mut out).unwrap();
        // A far end that refuses without reading may be gone already.
        let _ = self.stream.write_all(&out).await;
    }

    /// The far end's greeting; `None` if it closes without one.
    pub(crate) async fn greeting(&mut self) -> Option<FirstFrame> {
        timeout(WAIT, async {
            loop {
                if let Some((greeting, used)) = Native::default().decode_first_frame(&self.got).unwrap() {
                    self.got.drain(..used);
                    return Some(greeting);
                }
                let mut buffer = [0; 4096];
                match self.stream.read(&mut buffer).await {
                    Ok(count) if count > 0 => self.got.extend_from_slice(&buffer[..count]),
                    _ => return None,
                }
            }
        })
        .await
        .expect("a greeting in time")
    }

    /// Greets and is welcome.
    pub(crate) async fn enter(net: &MemoryNet, from: u8, to: SocketAddr, nonce: u8) -> Self {
        let mut one = Self::dial(net, from, to).await;
        one.say(&hello(nonce)).await;
        assert!(matches!(one.greeting().await, Some(FirstFrame::Hello(_))));
        one
    }

    /// Waits for somebody who dials this host, and welcomes him.
    pub(crate) async fn welcome(net: &MemoryNet, host: u8, nonce: u8) -> Self {
        let mut listener = net.host(ip(host)).listen(at(host)).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let mut one = Self::new(stream);
        assert!(matches!(one.greeting().await, Some(FirstFrame::Hello(_))));
        one.say(&hello(nonce)).await;
        one
    }

    /// All that came since the greeting, or since it was asked last, once nothing has come for a
    /// second.
    pub(crate) async fn heard(&mut self) -> Vec<u8> {
        let mut buffer = [0; 4096];
        while let Ok(Ok(count @ 1..)) = timeout(Duration::from_secs(1), self.stream.read(&mut buffer)).await {
            self.got.extend_from_slice(&buffer[..count]);
        }
        std::mem::take(&mut self.got)
    }

    /// Answers pings until something else is said; `None` at the end.
    pub(crate) async fn goodbye(&mut self) -> Option<Goodbye> {
        loop {
            let step = self.decoder.step(&self.got).unwrap();
            let used = step.used();
            let mut answer = BytesMut::new();
            let said = match step {
                DecodeStep::Control { control: Control::Goodbye(goodbye), .. } => Some(goodbye),
                DecodeStep::Control { control: Control::Ping { token }, .. } => {
                    Native::default().encode_control(&Control::Pong { token }, &mut answer).unwrap();
                    None
                }
                _ => None,
            };
            self.got.drain(..used);
            if said.is_some() {
                return said;
            }
            let _ = self.stream.write_all(&answer).await;
            if used == 0 {
                let mut buffer = [0; 4096];
                match self.stream.read(&mut buffer).await {
                    Ok(count) if count > 0 => self.got.extend_from_slice(&buffer[..count]),
                    _ => return None,
                }
            }
        }
    }
}

/// Both ends of a stream adopted by two nodes.
pub(crate) async fn adopt_both(
    net: &MemoryNet,
    (from, from_last, its_key): (&Node, u8, Option<[u8; 32]>),
    (to, to_last, far_key): (&Node, u8, Option<[u8; 32]>),
) -> (Result<Arc<Peer>, peerpool::ConnectError>, Result<Arc<Peer>, peerpool::ConnectError>) {
    let (near, far) = net.pair(ip(from_last), ip(to_last));
    let (from_addr, to_addr) = (far_addr(&near, from_last), far_addr(&far, to_last));
    let dialling = from.adopt(near, Direction::Outbound, to_addr, far_key);
    let accepting = to.adopt(far, Direction::Inbound, from_addr, its_key);
    tokio::join!(dialling, accepting)
}

fn far_addr(stream: &BoxStream, last: u8) -> SocketAddr {
    use peerpool::transport::Stream as _;
    stream.local_addr().unwrap_or_else(|| at(last))
}

pub(crate) fn message(kind: u16, body: &[u8]) -> Message {
    Message::new(kind, body.to_vec())
}
