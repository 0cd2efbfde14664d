//! A harness for connections, generic over the protocol: the shared parts, a handler that records
//! its callbacks, and a far end that the test drives by hand.
#![allow(dead_code)]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use peerpool::broadcast::state::{StateConfig, StateTable};
use peerpool::broadcast::{LagPolicy, Log, LogConfig, LogSet, WakeSet};
use peerpool::connection::{
    CloseReason, Connection, ConnectionBuilder, ConnectionConfig, ConnectionHandler, ConnectionSetup,
    ConnectionShared, Event, Handled, InitialIo, MemoryBudget, MemoryOrigin, Request, Responder,
};
use peerpool::transport::Stream;
use peerpool::wire::{Control, DecodeStep, Decoder, Goodbye, MessageHeader, Protocol, WireError};
use peerpool::{ConnId, Lane, Tick};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// Bounds every wait; under paused time it costs nothing.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(120);

/// What all connections of one end share.
pub(crate) struct TestSide<D> {
    pub(crate) protocol: Arc<D>,
    pub(crate) wake_set: Arc<WakeSet>,
    pub(crate) logs: LogSet,
    pub(crate) state: Arc<StateTable>,
    pub(crate) budget: Arc<MemoryBudget>,
    pub(crate) shared: Arc<ConnectionShared>,
    next: AtomicU64,
}

/// The settings of a [`TestSide`].
#[derive(Clone)]
pub(crate) struct SideConfig {
    pub(crate) connection: ConnectionConfig,
    pub(crate) ring: usize,
    pub(crate) lag: LagPolicy,
    pub(crate) budget: usize,
}

impl Default for SideConfig {
    fn default() -> Self {
        Self {
            connection: ConnectionConfig::default(),
            ring: 4 << 20,
            lag: LagPolicy::Skip,
            budget: 64 << 20,
        }
    }
}

impl<D: Protocol> TestSide<D> {
    pub(crate) fn new(protocol: D) -> Self {
        Self::with(protocol, SideConfig::default())
    }

    pub(crate) fn with(protocol: D, config: SideConfig) -> Self {
        let wake_set = WakeSet::new();
        let log_config = LogConfig { ring_bytes: config.ring, lag: config.lag, ..LogConfig::recommended() };
        let budget = MemoryBudget::new(config.budget);
        Self {
            logs: LogSet::new([log_config; 3], &wake_set),
            state: StateTable::new(StateConfig::default(), Arc::clone(&wake_set)),
            wake_set,
            shared: Arc::new(ConnectionShared {
                config: config.connection,
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

    pub(crate) fn build(&self) -> ConnectionBuilder<D> {
        let id = ConnId::new(self.next.fetch_add(1, Ordering::Relaxed)).unwrap();
        ConnectionBuilder::new(ConnectionSetup {
            id,
            protocol: Arc::clone(&self.protocol),
            shared: Arc::clone(&self.shared),
            origin: MemoryOrigin::EXEMPT,
            positions: self.logs.join(id, None),
            state: self.state.cursor(),
            parker: self.wake_set.parker(),
        })
    }

    /// Starts a connection on a stream.
    pub(crate) fn start(&self, stream: impl Stream, handler: impl ConnectionHandler) -> RunningConnection {
        let builder = self.build();
        let connection = Arc::clone(builder.connection());
        let task = tokio::spawn(builder.start(stream, handler, InitialIo::default()));
        RunningConnection { connection, task }
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

    /// The far end of a stream, which the test drives by hand.
    pub(crate) fn manual_peer<S: Stream>(&self, stream: S) -> ManualPeer<D, S> {
        ManualPeer {
            protocol: Arc::clone(&self.protocol),
            decoder: self.protocol.decoder(),
            stream,
            got: Vec::new(),
            acks_marks: true,
        }
    }
}

/// A connection and the task that polls its driver.
pub(crate) struct RunningConnection {
    pub(crate) connection: Arc<Connection>,
    pub(crate) task: JoinHandle<CloseReason>,
}

impl RunningConnection {
    pub(crate) async fn end(self) -> CloseReason {
        timeout(TIMEOUT, self.task).await.expect("the connection ends").expect("without a panic")
    }
}

type OnEvent = dyn Fn(u16, Lane, Bytes) -> Handled + Send + Sync;
type OnRequest = dyn Fn(u16, Bytes, Responder) -> Handled + Send + Sync;

/// One callback that a [`RecordingHandler`] got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Callback {
    Event(Lane, u16, Bytes),
    Request(u16, Bytes),
    Paused(bool),
    Rtt(Duration),
    Peers(Vec<SocketAddr>),
    Goodbye(Goodbye),
    Missed(Lane, u64),
    Lagged(Lane, u64),
    Close(peerpool::pool::DisconnectReason),
    Panic,
}

/// Records its callbacks and runs the given closures on messages. Clones share their state.
#[derive(Clone)]
pub(crate) struct RecordingHandler {
    start: Instant,
    callbacks: Arc<Mutex<Vec<Callback>>>,
    changed: Arc<Notify>,
    on_event: Arc<OnEvent>,
    on_request: Arc<OnRequest>,
    /// What `on_get_peers` returns.
    pub(crate) peers: Vec<SocketAddr>,
    pub(crate) reaped: Arc<std::sync::atomic::AtomicBool>,
    seen: Arc<AtomicU64>,
}

impl RecordingHandler {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            callbacks: Arc::default(),
            changed: Arc::default(),
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

    pub(crate) fn callbacks(&self) -> Vec<Callback> {
        self.callbacks.lock().unwrap().clone()
    }

    /// When the last frame was counted, in ticks.
    pub(crate) fn last_seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }

    /// Kinds of the events so far, in order.
    pub(crate) fn kinds(&self) -> Vec<u16> {
        let callbacks = self.callbacks.lock().unwrap();
        callbacks
            .iter()
            .filter_map(|one| if let Callback::Event(_, kind, _) = one { Some(*kind) } else { None })
            .collect()
    }

    pub(crate) fn count(&self, which: impl Fn(&Callback) -> bool) -> usize {
        self.callbacks.lock().unwrap().iter().filter(|one| which(one)).count()
    }

    /// Forgets the callbacks so far.
    pub(crate) fn forget(&self) {
        self.callbacks.lock().unwrap().clear();
    }

    /// Waits until the callbacks satisfy `holds`.
    pub(crate) async fn until(&self, holds: impl Fn(&[Callback]) -> bool) {
        timeout(TIMEOUT, async {
            loop {
                let changed = self.changed.notified();
                if holds(&self.callbacks.lock().unwrap()) {
                    return;
                }
                changed.await;
            }
        })
        .await
        .expect("called in time");
    }

    pub(crate) async fn until_events(&self, count: usize) {
        self.until(|callbacks| {
            callbacks.iter().filter(|one| matches!(one, Callback::Event(..))).count() >= count
        })
        .await;
    }

    fn record(&self, callback: Callback) {
        self.callbacks.lock().unwrap().push(callback);
        self.changed.notify_waiters();
    }
}

impl ConnectionHandler for RecordingHandler {
    fn now(&self) -> Tick {
        Tick::from_millis(self.start.elapsed().as_millis() as u64)
    }

    fn on_frame(&self, now: Tick) -> bool {
        self.seen.store(now.as_millis(), Ordering::Relaxed);
        !self.reaped.load(Ordering::Relaxed)
    }

    fn on_event(&self, event: Event<'_>) -> Handled {
        let (lane, kind, payload) = (event.lane, event.kind, event.payload.into_bytes());
        self.record(Callback::Event(lane, kind, payload.clone()));
        (self.on_event)(kind, lane, payload)
    }

    fn on_request(&self, request: Request<'_>, responder: Responder) -> Handled {
        let (kind, payload) = (request.kind, request.payload.into_bytes());
        self.record(Callback::Request(kind, payload.clone()));
        (self.on_request)(kind, payload, responder)
    }

    fn on_read_paused(&self, paused: bool) {
        self.record(Callback::Paused(paused));
    }

    fn on_rtt(&self, rtt: Duration) {
        self.record(Callback::Rtt(rtt));
    }

    fn on_get_peers(&self, max: usize) -> Vec<SocketAddr> {
        self.peers.iter().copied().take(max).collect()
    }

    fn on_peers(&self, peers: Vec<SocketAddr>) {
        self.record(Callback::Peers(peers));
    }

    fn on_missed(&self, lane: Lane, missed: u64) {
        self.record(Callback::Missed(lane, missed));
    }

    fn on_goodbye(&self, goodbye: Goodbye) {
        self.record(Callback::Goodbye(goodbye));
    }

    fn on_lagged(&self, lane: Lane, skipped: u64) {
        self.record(Callback::Lagged(lane, skipped));
    }

    fn on_traffic(&self, _: usize, _: usize) {}

    fn on_panic(&self) {
        self.record(Callback::Panic);
    }

    fn on_close(&self, end: &CloseReason) {
        self.record(Callback::Close(end.disconnect_reason()));
    }
}

/// One frame or message that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Chunk,
    Message(Lane, MessageHeader, Bytes),
    Control(Control),
}

/// The far end of a connection, which the test drives by hand.
pub(crate) struct ManualPeer<D: Protocol, S> {
    protocol: Arc<D>,
    decoder: D::Decoder,
    pub(crate) stream: S,
    got: Vec<u8>,
    /// Acknowledges the marks behind bulk, as every connection does, and hides them from the test.
    pub(crate) acks_marks: bool,
}

impl<D: Protocol, S: Stream> ManualPeer<D, S> {
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        timeout(TIMEOUT, self.stream.write_all(bytes)).await.expect("taken in time").expect("taken");
    }

    pub(crate) async fn send_request(&mut self, id: u32, kind: u16, payload: &[u8]) {
        let mut out = BytesMut::new();
        self.protocol.encode(Lane::Normal, &MessageHeader::Request { id, kind }, payload, &mut out).unwrap();
        self.send(&out).await;
    }

    /// The next frame, `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Received> {
        loop {
            let item =
                timeout(TIMEOUT, self.step()).await.expect("something comes in time").expect("well formed");
            match item {
                Some(Received::Control(Control::Ping { token })) if token >> 63 == 1 => {
                    self.acknowledge(token).await
                }
                item => return item,
            }
        }
    }

    async fn acknowledge(&mut self, token: u64) {
        if self.acks_marks {
            let mut out = BytesMut::new();
            self.protocol.encode_control(&Control::Pong { token }, &mut out).unwrap();
            self.send(&out).await;
        }
    }

    /// The next whole message or control, `None` at the end.
    pub(crate) async fn message(&mut self) -> Option<Received> {
        loop {
            match self.next().await {
                Some(Received::Chunk) => {}
                other => return other,
            }
        }
    }

    /// Reads until the end and returns all whole messages.
    pub(crate) async fn rest(&mut self) -> Vec<Received> {
        let mut all = Vec::new();
        while let Some(item) = self.message().await {
            all.push(item);
        }
        all
    }

    async fn step(&mut self) -> Result<Option<Received>, WireError> {
        loop {
            let step = self.decoder.step(&self.got)?;
            let used = step.used();
            let item = match step {
                DecodeStep::NeedMore | DecodeStep::PartialFrame { .. } => None,
                DecodeStep::Chunk { .. } => Some(Received::Chunk),
                DecodeStep::Message { lane, header, payload, .. } => {
                    Some(Received::Message(lane, header, payload.into_bytes()))
                }
                DecodeStep::Control { control, .. } => Some(Received::Control(control)),
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

/// A pair of connected byte pipes, each with room for `room` bytes.
pub(crate) fn pipe(room: usize) -> (tokio::io::DuplexStream, tokio::io::DuplexStream) {
    tokio::io::duplex(room)
}

/// Lets every task run until it is idle. Under paused time only.
pub(crate) async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}
