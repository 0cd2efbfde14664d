//! One incarnation of a node of the mesh: the node, its application, and what it reported about its links.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use peerpool::address_book::{Source, WallTime};
use peerpool::base::{ConnId, Tick};
use peerpool::node::{
    Message, Node, NodeConfig, NodeEvent, NodeRef, Peer, ProtocolConfig, ShutdownReport, StartError,
    Subscription, SubscriptionItem, WeakNode,
};
use peerpool::sync::Mutex;
use peerpool::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use peerpool::timecoin::AddressRules;
use peerpool::timecoin::wire::{NetworkType, Software, TimeCoin};
use peerpool::transport::Tcp;

use super::app::MeshApp;
use super::clock::{Epoch, Micros, NodeClock};
use super::codec::{Codec, read_peer_list};
use super::faulty_net::FaultyNet;
use super::graph::{End, Incarnation, wire};
use super::ledger::{Ledger, Life};

/// One incarnation.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) of: Incarnation,
    /// Its place in the mesh, which a restarted node keeps.
    pub(super) slot: usize,
    pub(super) addr: SocketAddr,
    pub(super) node: NodeRef,
    pub(super) app: Arc<MeshApp>,
    pub(super) reports: Arc<Reports>,
    handle: Mutex<Option<Node>>,
    watcher: JoinHandle<()>,
    asker: Option<JoinHandle<()>>,
    started: Micros,
    killed: AtomicU64,
}

/// What a member is made of.
#[derive(Clone, Debug)]
pub(super) struct NodeSpec {
    pub(super) of: Incarnation,
    pub(super) slot: usize,
    pub(super) codec: Codec,
    pub(super) listen: SocketAddr,
    /// The one address it is told.
    pub(super) told: Option<SocketAddr>,
    pub(super) config: NodeConfig,
    pub(super) epoch: Epoch,
    pub(super) ledger: Arc<Ledger>,
    pub(super) net: Option<Arc<FaultyNet>>,
    pub(super) last_change: Arc<LastChange>,
}

/// The last link event of any node, for whoever waits for quiet.
#[derive(Debug, Default)]
pub(super) struct LastChange {
    last: AtomicU64,
}

impl LastChange {
    pub(super) fn last(&self) -> Micros {
        self.last.load(Ordering::Acquire)
    }
}

/// The link events of one incarnation.
#[derive(Debug, Default)]
pub(super) struct Reports {
    ends: Mutex<Vec<End>>,
    /// Events were lost: the account cannot be exact.
    lagged: AtomicBool,
    /// Connections whose own address is unknown: they cannot be paired.
    unnamed: AtomicU64,
    /// Gaps, and peers let go for being too slow.
    pub(super) lags: AtomicU64,
}

impl NodeSpec {
    /// The incarnation's number.
    pub(super) fn numbered(self, of: usize) -> Self {
        Self { of: of as Incarnation, ..self }
    }
}

impl Member {
    /// Starts a node.
    pub(super) async fn start(birth: NodeSpec) -> Result<Arc<Self>, StartError> {
        let NodeSpec { of, slot, codec, listen, told, mut config, epoch, ledger, net, last_change } = birth;
        config.listen = vec![listen];
        config.seeds = told.into_iter().collect();
        let wanted = config.runtime.target_peers;
        let app = Arc::new(MeshApp::new(codec, of, epoch, ledger));
        let builder = Node::builder().config(config).handler(Arc::clone(&app)).book(super::book());
        let builder = match net {
            Some(net) => builder.transport(net.transport(slot)),
            None => builder.transport(Tcp::default()),
        };
        let builder = match codec {
            Codec::Native => builder,
            Codec::TimeCoin => builder.first_protocol(old_network(listen)),
        };
        let node = builder.start().await?;
        let asker =
            codec.peers_request().map(|ask| tokio::spawn(ask_for_peers(node.downgrade(), ask, wanted)));
        let started = epoch.now();
        let events = node.subscribe();
        let clock = NodeClock::calibrate(&node, epoch);
        let reports = Arc::new(Reports::default());
        let watching = Watching { of, clock, epoch, reports: Arc::clone(&reports), last_change };
        let watcher = tokio::spawn(watching.watch(events));
        let addr = node.local_addrs().first().copied().unwrap_or(listen);
        Ok(Arc::new(Self {
            of,
            slot,
            addr,
            node: (*node).clone(),
            app,
            reports,
            handle: Mutex::new(Some(node)),
            watcher,
            asker,
            started,
            killed: AtomicU64::new(Micros::MAX),
        }))
    }

    /// Ends it as a crash would: its sockets break first, then the node is dropped.
    pub(super) fn kill(&self, net: &FaultyNet, now: Micros) {
        self.killed.store(now, Ordering::Release);
        net.kill(self.slot);
        drop(self.handle.lock().take());
    }

    /// Sets a new version of its tip.
    pub(super) fn announce(&self) {
        self.app.announce(&self.node);
    }

    pub(super) fn is_alive(&self) -> bool {
        self.killed.load(Ordering::Acquire) == Micros::MAX
    }

    pub(super) fn life(&self) -> Life {
        Life { from: self.started, until: self.killed.load(Ordering::Acquire) }
    }

    /// Ends it in good order; what is left over. A killed one is only looked at.
    pub(super) async fn end(&self, deadline: Duration) -> ShutdownReport {
        let handle = self.handle.lock().take();
        if let Some(node) = handle {
            node.shutdown(deadline).await;
        }
        self.idle(deadline).await
    }

    /// Waits until nothing of it is left, `within` at the longest; what is.
    pub(super) async fn idle(&self, within: Duration) -> ShutdownReport {
        let until = tokio::time::Instant::now() + within;
        loop {
            let left = self.node.shutdown_report();
            if left.is_clean() || tokio::time::Instant::now() >= until {
                return left;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.watcher.abort();
        if let Some(asker) = &self.asker {
            asker.abort();
        }
    }
}

impl Reports {
    pub(super) fn ends(&self) -> Vec<End> {
        self.ends.lock().clone()
    }

    /// Why the reports cannot be relied on, if so.
    pub(super) fn fault(&self) -> Option<&'static str> {
        if self.lagged.load(Ordering::Acquire) {
            Some("its link events came faster than they were read")
        } else if self.unnamed.load(Ordering::Acquire) > 0 {
            Some("the addresses of a connection are unknown")
        } else {
            None
        }
    }
}

/// The old network's wire, for a node at this address of its own.
fn old_network(at: SocketAddr) -> ProtocolConfig<TimeCoin> {
    // No old node is among them, so that they are pinged as any other, and reaped as soon.
    let rules = AddressRules::new(NetworkType::Testnet, at).ping_after(Duration::ZERO);
    ProtocolConfig::new(TimeCoin::testnet(Software::default())).policy(rules)
}

/// RequestStats some peer which others it knows, as long as there are too few: on this wire that is the application's business.
async fn ask_for_peers(node: WeakNode, ask: Message, wanted: usize) {
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let Some(node) = node.upgrade().filter(|node| !node.is_stopping()) else { return };
        let peers: Vec<_> = node.roster().iter().map(|peer| *peer.key()).collect();
        if peers.is_empty() || peers.len() >= wanted {
            continue;
        }
        let asked = peers[fastrand::usize(..peers.len())];
        let Ok(answer) = node.request(&asked, ask.clone(), Duration::from_secs(2)).await else { continue };
        let now = WallTime::now();
        for addr in read_peer_list(&answer) {
            // A full or picky book is no reason to do anything else.
            let _ = node.book().add(addr, Source::Peer(addr.ip()), now);
        }
    }
}

/// Writes down what a node reports.
struct Watching {
    of: Incarnation,
    clock: NodeClock,
    epoch: Epoch,
    reports: Arc<Reports>,
    last_change: Arc<LastChange>,
}

impl Watching {
    async fn watch(self, mut events: Subscription) {
        loop {
            match events.next().await {
                SubscriptionItem::Snapshot(peers) => {
                    // Up already: since when does not matter, by now at the latest.
                    let now = self.epoch.now();
                    peers.iter().for_each(|peer| self.up(peer, now));
                }
                SubscriptionItem::Event(NodeEvent::Up { peer, at }) => self.up(&peer, self.clock.latest(at)),
                SubscriptionItem::Event(NodeEvent::Down { conn, reason, at, .. }) => {
                    if reason == peerpool::pool::DisconnectReason::Overloaded {
                        self.reports.lags.fetch_add(1, Ordering::AcqRel);
                    }
                    self.down(conn, at);
                }
                SubscriptionItem::Event(NodeEvent::PeerLagged { conn, at, .. }) => self.gap(conn, at),
                SubscriptionItem::Event(_) => {}
                SubscriptionItem::Lagged(_) => self.reports.lagged.store(true, Ordering::Release),
            }
        }
    }

    fn up(&self, peer: &Peer, at: Micros) {
        let Some(local) = peer.read_info(|info| info.local) else {
            self.reports.unnamed.fetch_add(1, Ordering::AcqRel);
            return;
        };
        let wire = wire(local, peer.addr());
        let end = End { of: self.of, conn: peer.id(), wire, up: at, down: None, gaps: Vec::new() };
        self.reports.ends.lock().push(end);
        self.last_change.last.fetch_max(self.epoch.now(), Ordering::AcqRel);
    }

    fn down(&self, conn: ConnId, at: Tick) {
        let mut ends = self.reports.ends.lock();
        if let Some(end) = ends.iter_mut().rev().find(|end| end.conn == conn) {
            end.down = Some(self.clock.earliest(at));
        }
        self.last_change.last.fetch_max(self.epoch.now(), Ordering::AcqRel);
    }

    fn gap(&self, conn: ConnId, at: Tick) {
        self.reports.lags.fetch_add(1, Ordering::AcqRel);
        let mut ends = self.reports.ends.lock();
        if let Some(end) = ends.iter_mut().rev().find(|end| end.conn == conn) {
            end.gaps.push((self.clock.earliest(at), self.clock.latest(at)));
        }
    }
}
