//! A harness for connections, generic over the protocol: what connections share, a host that records, and a far end by hand.
#![allow(dead_code)]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use peerpool::base::{ConnId, Lane, Tick};
use peerpool::broadcast::state::{StateConfig, StateTable};
use peerpool::broadcast::{LagPolicy, Log, LogConfig, LogSet, WakeSet};
use peerpool::connection::{
    CloseReason, Connection, ConnectionBuilder, ConnectionConfig, ConnectionHandler, ConnectionSetup,
    ConnectionShared, Event, Handled, InitialIo, MemoryBudget, Request, Responder,
};
use peerpool::transport::Stream;
use peerpool::wire::{Control, DecodeStep, Decoder, Goodbye, MessageHeader, Protocol, WireError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// Bounds every wait; under paused time it costs nothing.
pub(crate) const WAIT: Duration = Duration::from_secs(120);

/// What all connections of one side share.
pub(crate) struct Side<D> {
    pub(crate) protocol: Arc<D>,
    pub(crate) hub: Arc<WakeSet>,
    pub(crate) logs: LogSet,
    pub(crate) state: Arc<StateTable>,
    pub(crate) budget: Arc<MemoryBudget>,
    pub(crate) common: Arc<ConnectionShared>,
    next: AtomicU64,
}

/// How a side is set up.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) connection: ConnectionConfig,
    pub(crate) ring: usize,
    pub(crate) lag: LagPolicy,
    pub(crate) budget: usize,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            connection: ConnectionConfig::default(),
            ring: 4 << 20,
            lag: LagPolicy::Skip,
            budget: 64 << 20,
        }
    }
}

impl<D: Protocol> Side<D> {
    pub(crate) fn new(protocol: D) -> Self {
        Self::with(protocol, Plan::default())
    }

    pub(crate) fn with(protocol: D, plan: Plan) -> Self {
        let hub = WakeSet::new();
        let config = LogConfig { ring_bytes: plan.ring, lag: plan.lag, ..LogConfig::recommended() };
        let budget = MemoryBudget::new(plan.budget);
        Self {
            logs: LogSet::new([config; 3], &hub),
            state: StateTable::new(StateConfig::default(), Arc::clone(&hub)),
            hub,
            common: Arc::new(ConnectionShared {
                config: plan.connection,
                budget: Arc::clone(&budget),
                limits: protocol.limits().clone(),
                features: protocol.features(),
                reply_matcher: protocol.reply_matcher(),
                protocol: protocol.name(),
            }),
            budget,
            protocol: Arc::new(protocol),
            next: AtomicU64::new(1),
        }
    }

    pub(crate) fn prepare(&self) -> ConnectionBuilder<D> {
        let id = ConnId::new(self.next.fetch_add(1, Ordering::Relaxed)).unwrap();
        ConnectionBuilder::new(ConnectionSetup {
            id,
            protocol: Arc::clone(&self.protocol),
            shared: Arc::clone(&self.common),
            positions: self.logs.join(id, None),
            state: self.state.cursor(),
            parker: self.hub.parker(),
        })
    }

    /// A connection at work on a stream.
    pub(crate) fn start(&self, stream: impl Stream, host: impl ConnectionHandler) -> Running {
        let prepared = self.prepare();
        let connection = Arc::clone(prepared.connection());
        let task = tokio::spawn(prepared.start(stream, host, InitialIo::default()));
        Running { connection, task }
    }

    pub(crate) fn log(&self, lane: Lane) -> &Arc<Log> {
        &self.logs.logs()[lane.index() - 1]
    }

    /// Appends an event to its lane's log, as a node does.
    pub(crate) fn broadcast(&self, lane: Lane, kind: u16, payload: &[u8]) {
        use peerpool::broadcast::LogChunk;
        let head = MessageHeader::Event { kind };
        if payload.len() >= 16 * 1024 {
            let chunks = self.protocol.chunks(lane, head, Bytes::copy_from_slice(payload)).unwrap();
            let chunks = chunks.map(|chunk| LogChunk::new(&chunk.header, chunk.payload));
            self.log(lane).append_chunks(chunks, None).unwrap();
        } else {
            self.log(lane).append(&self.event(lane, kind, payload), None).unwrap();
        }
    }

    pub(crate) fn event(&self, lane: Lane, kind: u16, payload: &[u8]) -> BytesMut {
        self.encode(lane, &MessageHeader::Event { kind }, payload)
    }

    pub(crate) fn encode(&self, lane: Lane, head: &MessageHeader, payload: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        self.protocol.encode(lane, head, payload, &mut out).unwrap();
        out
    }

    pub(crate) fn control(&self, control: &Control) -> BytesMut {
        let mut out = BytesMut::new();
        assert!(self.protocol.encode_control(control, &mut out).unwrap());
        out
    }

    /// The far end of a stream, driven by hand.
    pub(crate) fn by_hand<S: Stream>(&self, stream: S) -> ByHand<D, S> {
        ByHand {
            protocol: Arc::clone(&self.protocol),
            decoder: self.protocol.decoder(),
            stream,
            got: Vec::new(),
            answers_marks: true,
        }
    }
}

/// A connection and its task.
pub(crate) struct Running {
    pub(crate) connection: Arc<Connection>,
    pub(crate) task: JoinHandle<CloseReason>,
}

impl Running {
    pub(crate) async fn end(self) -> CloseReason {
        timeout(WAIT, self.task).await.expect("the connection ends").expect("without a panic")
    }
}

type OnEvent = dyn Fn(u16, Lane, Bytes) -> Handled + Send + Sync;
type OnRequest = dyn Fn(u16, Bytes, Responder) -> Handled + Send + Sync;

/// What a host heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Event(Lane, u16, Bytes),
    Request(u16, Bytes),
    Paused(bool),
    Rtt(Duration),
    Told(Vec<SocketAddr>),
    Goodbye(Goodbye),
    Gap(Lane, u64),
    Leaving(peerpool::pool::DisconnectReason),
}

/// A host that records, and does what it is told with messages. Clones are the same host.
#[derive(Clone)]
pub(crate) struct Ear {
    start: Instant,
    heard: Arc<Mutex<Vec<Heard>>>,
    news: Arc<Notify>,
    on_event: Arc<OnEvent>,
    on_request: Arc<OnRequest>,
    /// What `peers_asked` answers.
    pub(crate) peers: Vec<SocketAddr>,
    pub(crate) reaped: Arc<std::sync::atomic::AtomicBool>,
    seen: Arc<AtomicU64>,
}

impl Ear {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            heard: Arc::default(),
            news: Arc::default(),
            on_event: Arc::new(|_, _, _| Handled::Done),
            on_request: Arc::new(|_, payload, responder| {
                let _ = responder.respond(payload);
                Handled::Done
            }),
            peers: Vec::new(),
            reaped: Arc::default(),
            seen: Arc::default(),
        }
    }

    pub(crate) fn on_event(
        mut self,
        run: impl Fn(u16, Lane, Bytes) -> Handled + Send + Sync + 'static,
    ) -> Self {
        self.on_event = Arc::new(run);
        self
    }

    pub(crate) fn on_request(
        mut self,
        run: impl Fn(u16, Bytes, Responder) -> Handled + Send + Sync + 'static,
    ) -> Self {
        self.on_request = Arc::new(run);
        self
    }

    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// When the last frame was counted, in ticks.
    pub(crate) fn last_seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }

    /// Kinds of the events heard so far, in order.
    pub(crate) fn kinds(&self) -> Vec<u16> {
        let heard = self.heard.lock().unwrap();
        heard
            .iter()
            .filter_map(|one| if let Heard::Event(_, kind, _) = one { Some(*kind) } else { None })
            .collect()
    }

    pub(crate) fn count(&self, which: impl Fn(&Heard) -> bool) -> usize {
        self.heard.lock().unwrap().iter().filter(|one| which(one)).count()
    }

    /// Drops what was heard so far.
    pub(crate) fn forget(&self) {
        self.heard.lock().unwrap().clear();
    }

    /// Waits until what was heard is so.
    pub(crate) async fn until(&self, holds: impl Fn(&[Heard]) -> bool) {
        timeout(WAIT, async {
            loop {
                let news = self.news.notified();
                if holds(&self.heard.lock().unwrap()) {
                    return;
                }
                news.await;
            }
        })
        .await
        .expect("heard in time");
    }

    pub(crate) async fn until_events(&self, count: usize) {
        self.until(|heard| heard.iter().filter(|one| matches!(one, Heard::Event(..))).count() >= count).await;
    }

    fn hear(&self, what: Heard) {
        self.heard.lock().unwrap().push(what);
        self.news.notify_waiters();
    }
}

impl ConnectionHandler for Ear {
    fn now(&self) -> Tick {
        Tick::from_millis(self.start.elapsed().as_millis() as u64)
    }

    fn on_frame(&self, now: Tick) -> bool {
        self.seen.store(now.as_millis(), Ordering::Relaxed);
        !self.reaped.load(Ordering::Relaxed)
    }

    fn on_event(&self, event: Event<'_>) -> Handled {
        let (lane, kind, payload) = (event.lane, event.kind, event.payload.into_bytes());
        self.hear(Heard::Event(lane, kind, payload.clone()));
        (self.on_event)(kind, lane, payload)
    }

    fn on_request(&self, request: Request<'_>, responder: Responder) -> Handled {
        let (kind, payload) = (request.kind, request.payload.into_bytes());
        self.hear(Heard::Request(kind, payload.clone()));
        (self.on_request)(kind, payload, responder)
    }

    fn on_read_paused(&self, paused: bool) {
        self.hear(Heard::Paused(paused));
    }

    fn on_rtt(&self, rtt: Duration) {
        self.hear(Heard::Rtt(rtt));
    }

    fn on_get_peers(&self, max: usize) -> Vec<SocketAddr> {
        self.peers.iter().copied().take(max).collect()
    }

    fn on_peers(&self, peers: Vec<SocketAddr>) {
        self.hear(Heard::Told(peers));
    }

    fn on_goodbye(&self, goodbye: Goodbye) {
        self.hear(Heard::Goodbye(goodbye));
    }

    fn on_lagged(&self, lane: Lane, skipped: u64) {
        self.hear(Heard::Gap(lane, skipped));
    }

    fn on_traffic(&self, _: usize, _: usize) {}

    fn on_close(&self, end: &CloseReason) {
        self.hear(Heard::Leaving(end.disconnect_reason()));
    }
}

/// One frame or message as it comes over the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Chunk,
    Message(Lane, MessageHeader, Bytes),
    Control(Control),
}

/// The far end of a connection, driven by hand.
pub(crate) struct ByHand<D: Protocol, S> {
    protocol: Arc<D>,
    decoder: D::Decoder,
    pub(crate) stream: S,
    got: Vec<u8>,
    /// Answers the pings that follow bulk, as every connection does, and says nothing of them.
    pub(crate) answers_marks: bool,
}

impl<D: Protocol, S: Stream> ByHand<D, S> {
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        timeout(WAIT, self.stream.write_all(bytes)).await.expect("taken in time").expect("taken");
    }

    pub(crate) async fn ask(&mut self, id: u32, kind: u16, payload: &[u8]) {
        let mut out = BytesMut::new();
        self.protocol.encode(Lane::Normal, &MessageHeader::Request { id, kind }, payload, &mut out).unwrap();
        self.send(&out).await;
    }

    /// The next frame, `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Item> {
        loop {
            let item =
                timeout(WAIT, self.step()).await.expect("something comes in time").expect("well formed");
            match item {
                Some(Item::Control(Control::Ping { token })) if token >> 63 == 1 => self.answer(token).await,
                item => return item,
            }
        }
    }

    async fn answer(&mut self, token: u64) {
        if self.answers_marks {
            let mut out = BytesMut::new();
            self.protocol.encode_control(&Control::Pong { token }, &mut out).unwrap();
            self.send(&out).await;
        }
    }

    /// The next whole message or control, `None` at the end.
    pub(crate) async fn message(&mut self) -> Option<Item> {
        loop {
            match self.next().await {
                Some(Item::Chunk) => {}
                other => return other,
            }
        }
    }

    /// Reads until the end and returns all whole messages.
    pub(crate) async fn rest(&mut self) -> Vec<Item> {
        let mut all = Vec::new();
        while let Some(item) = self.message().await {
            all.push(item);
        }
        all
    }

    async fn step(&mut self) -> Result<Option<Item>, WireError> {
        loop {
            let step = self.decoder.step(&self.got)?;
            let used = step.used();
            let item = match step {
                DecodeStep::NeedMore | DecodeStep::PartialFrame { .. } => None,
                DecodeStep::Chunk { .. } => Some(Item::Chunk),
                DecodeStep::Message { lane, header, payload, .. } => {
                    Some(Item::Message(lane, header, payload.into_bytes()))
                }
                DecodeStep::Control { control, .. } => Some(Item::Control(control)),
            };
            self.got.drain(..used);
            if item.is_some() {
                return Ok(item);
            }
            if used == 0 {
                let mut buffer = vec![0; 64 * 1024];
                match self.stream.read(&mut buffer).await {
                    Ok(count) if count > 0 => self.got.extend_from_slice(&buffer[..count]),
                    _ => return Ok(None),
                }
            }
        }
    }
}

/// A pair of byte pipes with so much room.
pub(crate) fn pipe(room: usize) -> (tokio::io::DuplexStream, tokio::io::DuplexStream) {
    tokio::io::duplex(room)
}

/// Lets every task that can go on do so. Under paused time only.
pub(crate) async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}
