//! One incarnation of a node of the mesh: the node, its application, and the log of its
//! connections.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use peerpool::address_book::{ReportedBy, WallTime};
use peerpool::pool::DisconnectReason;
use peerpool::timecoin::AddressPolicy;
use peerpool::timecoin::wire::{NetworkType, Software, TimeCoin};
use peerpool::transport::Tcp;
use peerpool::{
    ConnId, Message, Node, NodeConfig, NodeEvent, NodeRef, Peer, ProtocolConfig, ShutdownReport, StartError,
    Subscription, SubscriptionItem, Tick, WeakNode,
};

use super::app::MeshApp;
use super::clock::{Epoch, Micros, NodeClock};
use super::codec::{Codec, decode_peer_list};
use super::faulty_net::FaultyNet;
use super::graph::{EdgeEnd, EndId, Incarnation, TimeBounds, addr_pair};
use super::ledger::{Ledger, Lifetime};
use super::{address_book, increment, lock, read};

/// How often a TIME Coin node that lacks peers requests addresses from one of them.
const DISCOVERY_INTERVAL: Duration = Duration::from_millis(200);
/// How long the answer to such a request may take.
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(2);

/// A node of the mesh, from its start to its shutdown or crash.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) incarnation: Incarnation,
    /// The index of the node in the mesh. A restarted node keeps it.
    pub(super) index: usize,
    pub(super) addr: SocketAddr,
    pub(super) node: NodeRef,
    pub(super) app: Arc<MeshApp>,
    pub(super) log: Arc<ConnectionLog>,
    handle: Mutex<Option<Node>>,
    recorder: JoinHandle<()>,
    discovery: Option<JoinHandle<()>>,
    started_at: Micros,
    /// `Micros::MAX` while it runs.
    killed_at: AtomicU64,
}

/// What a member is started with.
#[derive(Clone, Debug)]
pub(super) struct NodeSpec {
    pub(super) incarnation: Incarnation,
    pub(super) index: usize,
    pub(super) codec: Codec,
    pub(super) listen: SocketAddr,
    pub(super) seed: Option<SocketAddr>,
    pub(super) config: NodeConfig,
    pub(super) epoch: Epoch,
    pub(super) ledger: Arc<Ledger>,
    pub(super) net: Option<Arc<FaultyNet>>,
    pub(super) last_change: Arc<LastChange>,
}

/// The time of the last connect or disconnect at any node.
#[derive(Debug, Default)]
pub(super) struct LastChange(AtomicU64);

impl LastChange {
    pub(super) fn get(&self) -> Micros {
        self.0.load(Ordering::Acquire)
    }

    fn advance(&self, now: Micros) {
        self.0.fetch_max(now, Ordering::AcqRel);
    }
}

impl Member {
    /// Starts a node, its event recorder and, on TIME Coin, its discovery task.
    pub(super) async fn start(spec: NodeSpec) -> Result<Arc<Self>, StartError> {
        let NodeSpec { incarnation, index, codec, listen, seed, mut config, epoch, ledger, net, last_change } =
            spec;
        config.listen = vec![listen];
        config.seeds = seed.into_iter().map(Into::into).collect();
        let wanted = config.runtime.target_outbound;
        let app = Arc::new(MeshApp::new(codec, incarnation, epoch, ledger));
        let builder = Node::builder().config(config).handler(Arc::clone(&app)).book(address_book());
        let builder = match net {
            Some(net) => builder.transport(net.transport(index)),
            None => builder.transport(Tcp::default()),
        };
        let builder = match codec {
            Codec::Native => builder,
            Codec::TimeCoin => builder.first_protocol(timecoin_protocol(listen)),
        };
        let node = builder.start().await?;
        let discovery = codec
            .encode_peers_request()
            .map(|request| tokio::spawn(discover_peers(node.downgrade(), request, wanted)));
        let started_at = epoch.now();
        let events = node.subscribe();
        let clock = NodeClock::calibrate(&node, epoch);
        let log = Arc::new(ConnectionLog::default());
        let recorder = Recorder { incarnation, clock, epoch, log: Arc::clone(&log), last_change };
        let recorder = tokio::spawn(recorder.run(events));
        let addr = node.local_addrs().first().copied().unwrap_or(listen);
        Ok(Arc::new(Self {
            incarnation,
            index,
            addr,
            node: (*node).clone(),
            app,
            log,
            handle: Mutex::new(Some(node)),
            recorder,
            discovery,
            started_at,
            killed_at: AtomicU64::new(Micros::MAX),
        }))
    }

    /// Crashes the node: its connections break, then the node is dropped without a shutdown.
    pub(super) fn kill(&self, net: &FaultyNet, now: Micros) {
        self.killed_at.store(now, Ordering::Release);
        net.kill(self.index);
        drop(lock(&self.handle).take());
    }

    /// Publishes a new version of the node's tip.
    pub(super) fn publish_tip(&self) {
        self.app.publish_tip(&self.node);
    }

    pub(super) fn is_alive(&self) -> bool {
        self.killed_at.load(Ordering::Acquire) == Micros::MAX
    }

    pub(super) fn lifetime(&self) -> Lifetime {
        Lifetime { from: self.started_at, until: self.killed_at.load(Ordering::Acquire) }
    }

    /// Shuts the node down and returns what remains of it. A killed node is only inspected.
    pub(super) async fn shut_down(&self, deadline: Duration) -> ShutdownReport {
        let handle = lock(&self.handle).take();
        if let Some(node) = handle {
            node.shutdown(deadline).await;
        }
        self.wait_until_clean(deadline).await
    }

    /// Waits up to `timeout` until nothing of the node remains, and returns what remains.
    pub(super) async fn wait_until_clean(&self, timeout: Duration) -> ShutdownReport {
        let deadline = Instant::now() + timeout;
        loop {
            let remaining = self.node.shutdown_report();
            if remaining.is_clean() || Instant::now() >= deadline {
                return remaining;
            }
            sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.recorder.abort();
        if let Some(discovery) = &self.discovery {
            discovery.abort();
        }
    }
}

/// The TIME Coin protocol for a node that listens at an address of its own.
fn timecoin_protocol(listen: SocketAddr) -> ProtocolConfig<TimeCoin> {
    // The mesh has no legacy nodes, so its peers can be pinged from the start and reaped as soon as
    // native ones.
    let rules = AddressPolicy::new(NetworkType::Testnet, listen).ping_after(Duration::ZERO);
    ProtocolConfig::new(TimeCoin::testnet(Software::default())).policy(rules)
}

/// Requests addresses from a random peer while the node has fewer than `wanted` peers. In the TIME
/// Coin protocol this is the application's task.
async fn discover_peers(node: WeakNode, request: Message, wanted: usize) {
    loop {
        sleep(DISCOVERY_INTERVAL).await;
        let Some(node) = node.upgrade().filter(|node| !node.is_stopping()) else { return };
        let peers: Vec<_> = node.roster().iter().map(|peer| *peer.key()).collect();
        if peers.is_empty() || peers.len() >= wanted {
            continue;
        }
        let peer = peers[fastrand::usize(..peers.len())];
        let answer = node.request(&peer, request.clone(), DISCOVERY_TIMEOUT).await;
        let Ok(answer) = answer else { continue };
        let now = WallTime::now();
        for addr in decode_peer_list(&answer) {
            // The book may be full or refuse the address; the others are still useful.
            let _ = node.book().add(addr, ReportedBy::Peer(addr.ip()), now);
        }
    }
}

/// The connections of one incarnation, as its node reported them.
#[derive(Debug, Default)]
pub(super) struct ConnectionLog {
    ends: Mutex<Vec<EdgeEnd>>,
    /// Events were lost, so the account cannot be exact.
    events_lost: AtomicBool,
    /// Connections with an unknown local address: they cannot be matched with their other end.
    unknown_addrs: AtomicU64,
    /// Gaps, and peers disconnected because they were too slow.
    pub(super) slow_peers: AtomicU64,
}

impl ConnectionLog {
    pub(super) fn ends(&self) -> Vec<EdgeEnd> {
        lock(&self.ends).clone()
    }

    /// The reason why the log is not reliable, if there is one.
    pub(super) fn defect(&self) -> Option<&'static str> {
        if self.events_lost.load(Ordering::Acquire) {
            Some("its events came faster than they were read")
        } else if read(&self.unknown_addrs) > 0 {
            Some("the addresses of a connection are unknown")
        } else {
            None
        }
    }

    /// Changes the latest entry of a connection.
    fn update(&self, conn: ConnId, change: impl FnOnce(&mut EdgeEnd)) {
        let mut ends = lock(&self.ends);
        if let Some(end) = ends.iter_mut().rev().find(|end| end.id.conn == conn) {
            change(end);
        }
    }
}

/// Writes the events of a node to its [`ConnectionLog`].
struct Recorder {
    incarnation: Incarnation,
    clock: NodeClock,
    epoch: Epoch,
    log: Arc<ConnectionLog>,
    last_change: Arc<LastChange>,
}

impl Recorder {
    async fn run(self, mut events: Subscription) {
        loop {
            match events.next().await {
                SubscriptionItem::Snapshot(peers) => {
                    // These came up earlier; now is a valid upper bound.
                    let now = self.epoch.now();
                    peers.iter().for_each(|peer| self.record_up(peer, now));
                }
                SubscriptionItem::Event(NodeEvent::Up { peer, at }) => {
                    self.record_up(&peer, self.clock.latest(at));
                }
                SubscriptionItem::Event(NodeEvent::Down { conn, reason, at, .. }) => {
                    if reason == DisconnectReason::Overloaded {
                        increment(&self.log.slow_peers);
                    }
                    self.record_down(conn, at);
                }
                SubscriptionItem::Event(NodeEvent::PeerLagged { conn, at, .. }) => self.record_gap(conn, at),
                SubscriptionItem::Event(_) => {}
                SubscriptionItem::Lagged(_) => self.log.events_lost.store(true, Ordering::Release),
            }
        }
    }

    fn record_up(&self, peer: &Peer, up: Micros) {
        let Some(local) = peer.read_info(|info| info.local) else {
            increment(&self.log.unknown_addrs);
            return;
        };
        let id = EndId { incarnation: self.incarnation, conn: peer.id() };
        let addrs = addr_pair(local, peer.addr());
        lock(&self.log.ends).push(EdgeEnd { id, addrs, up, down: None, gaps: Vec::new() });
        self.last_change.advance(self.epoch.now());
    }

    fn record_down(&self, conn: ConnId, at: Tick) {
        self.log.update(conn, |end| end.down = Some(self.clock.earliest(at)));
        self.last_change.advance(self.epoch.now());
    }

    fn record_gap(&self, conn: ConnId, at: Tick) {
        increment(&self.log.slow_peers);
        let bounds = TimeBounds { earliest: self.clock.earliest(at), latest: self.clock.latest(at) };
        self.log.update(conn, |end| end.gaps.push(bounds));
    }
}
