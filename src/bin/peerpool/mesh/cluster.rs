//! All nodes of the mesh: starting them, restarting them, and checking the connections between
//! them.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use peerpool::timecoin::wire::NetworkType;
use peerpool::{NodeConfig, StartError};

use super::clock::{Epoch, Micros};
use super::codec::Codec;
use super::faulty_net::FaultyNet;
use super::graph::{Components, Edge, EdgeEnd, match_ends};
use super::ledger::Ledger;
use super::member::{LastChange, Member, NodeSpec};
use super::{MeshArgs, lock};

/// The connections count as stable after this time without a connect or disconnect, in
/// microseconds.
const QUIET_US: Micros = 500_000;
/// How long the tasks of a killed node may take to end before its restart.
const KILL_DEADLINE: Duration = Duration::from_secs(5);
/// How long a restart retries a listen address that is in use.
const LISTEN_RETRY: Duration = Duration::from_secs(10);
/// Events that a node buffers for the recorder. One process reads the events of all nodes and may
/// fall behind; a lost event would make the account inexact.
const EVENT_BACKLOG: usize = 8 * 1024;

/// The nodes of the mesh and what they share.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) epoch: Epoch,
    pub(super) ledger: Arc<Ledger>,
    /// The network that faults are injected into; `None` without `--chaos`.
    pub(super) net: Option<Arc<FaultyNet>>,
    config: NodeConfig,
    codec: Codec,
    /// Second byte of the loopback addresses that TIME Coin nodes listen on. Random, so that
    /// concurrent runs on one machine do not collide.
    loopback_net: u8,
    /// Peers that each node must have before the connections count as stable.
    min_peers: usize,
    last_change: Arc<LastChange>,
    members: Mutex<Members>,
    /// Held while a node restarts: the number of an incarnation is the count of those before it.
    restarting: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Members {
    /// Every incarnation, by its number.
    all: Vec<Arc<Member>>,
    /// The latest incarnation of each node, by its index.
    current: Vec<Arc<Member>>,
}

impl Cluster {
    pub(super) fn new(args: &MeshArgs) -> Self {
        Self {
            epoch: Epoch::new(),
            ledger: Arc::default(),
            net: args.chaos.then(Arc::default),
            config: node_config(args),
            codec: if args.timecoin { Codec::TimeCoin } else { Codec::Native },
            loopback_net: fastrand::u8(1..=250),
            min_peers: args.degree.min(args.nodes - 1),
            last_change: Arc::default(),
            members: Mutex::default(),
            restarting: tokio::sync::Mutex::default(),
        }
    }

    /// Starts all nodes one after another. Each gets the address of one node that already runs.
    pub(super) async fn start_all(&self, nodes: usize, rng: &mut fastrand::Rng) -> Result<(), StartError> {
        for index in 0..nodes {
            let seed = {
                let members = lock(&self.members);
                (index > 0).then(|| members.current[rng.usize(..index)].addr)
            };
            let member = Member::start(self.spec(index, self.listen_addr(index), seed)).await?;
            member.publish_tip();
            let mut members = lock(&self.members);
            members.all.push(Arc::clone(&member));
            members.current.push(member);
        }
        Ok(())
    }

    fn listen_addr(&self, index: usize) -> SocketAddr {
        match self.codec {
            Codec::Native => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            // Legacy peers are identified by IP address, so each node needs one of its own.
            Codec::TimeCoin => {
                let [high, low] = ((index / 250 + 1) as u8, (index % 250 + 1) as u8).into();
                SocketAddr::from(([127, self.loopback_net, high, low], NetworkType::Testnet.port()))
            }
        }
    }

    fn spec(&self, index: usize, listen: SocketAddr, seed: Option<SocketAddr>) -> NodeSpec {
        NodeSpec {
            incarnation: lock(&self.members).all.len() as u32,
            index,
            codec: self.codec,
            listen,
            seed,
            config: self.config.clone(),
            epoch: self.epoch,
            ledger: Arc::clone(&self.ledger),
            net: self.net.clone(),
            last_change: Arc::clone(&self.last_change),
        }
    }

    /// Restarts a killed node at its address, with the address of one running node as its seed.
    pub(super) async fn restart(&self, index: usize, rng: &mut fastrand::Rng) -> Result<(), StartError> {
        let killed = self.current(index);
        // The port is free once every task of the killed node has ended.
        killed.wait_until_clean(KILL_DEADLINE).await;
        let started = Instant::now();
        loop {
            let seed = self.seed_for(index, rng);
            let _restarting = self.restarting.lock().await;
            match Member::start(self.spec(index, killed.addr, seed)).await {
                Ok(member) => {
                    member.publish_tip();
                    let mut members = lock(&self.members);
                    members.all.push(Arc::clone(&member));
                    members.current[index] = member;
                    return Ok(());
                }
                // An outgoing connection of another node may hold this port for a moment.
                Err(StartError::Listen { .. }) if started.elapsed() < LISTEN_RETRY => {
                    sleep(Duration::from_millis(100)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Draws the seed of a restarting node: the address of a running node, reachable if possible.
    fn seed_for(&self, index: usize, rng: &mut fastrand::Rng) -> Option<SocketAddr> {
        let mut others = self.alive();
        others.retain(|member| member.index != index);
        let reachable = |member: &&Arc<Member>| {
            self.net.as_ref().is_none_or(|net| !net.is_partitioned(index, member.index))
        };
        let mut seeds: Vec<_> = others.iter().filter(reachable).map(|member| member.addr).collect();
        if seeds.is_empty() {
            // The seed becomes reachable when the partition ends; without one the node stays alone.
            seeds = others.iter().map(|member| member.addr).collect();
        }
        if seeds.is_empty() { None } else { Some(seeds[rng.usize(..seeds.len())]) }
    }

    /// The latest incarnation of a node.
    pub(super) fn current(&self, index: usize) -> Arc<Member> {
        Arc::clone(&lock(&self.members).current[index])
    }

    /// The nodes that run.
    pub(super) fn alive(&self) -> Vec<Arc<Member>> {
        lock(&self.members).current.iter().filter(|member| member.is_alive()).cloned().collect()
    }

    /// Every incarnation, by its number.
    pub(super) fn all(&self) -> Vec<Arc<Member>> {
        lock(&self.members).all.clone()
    }

    /// All connections since the start, from the reports of both ends.
    pub(super) fn edges(&self) -> Vec<Edge> {
        let ends: Vec<EdgeEnd> = self.all().iter().flat_map(|member| member.log.ends()).collect();
        match_ends(&ends)
    }

    /// Waits until the connections are stable: every node has enough peers, a path joins all nodes,
    /// and nothing has changed for [`QUIET_US`].
    ///
    /// # Errors
    /// A one-line message with the missing condition, after `timeout`.
    pub(super) async fn wait_until_stable(&self, timeout: Duration) -> Result<(), String> {
        let deadline = Instant::now() + timeout;
        loop {
            let quiet = self.epoch.now().saturating_sub(self.last_change.get()) >= QUIET_US;
            let unstable = match self.incomplete() {
                None if quiet => return Ok(()),
                None => "connections still come and go".into(),
                Some(message) => message,
            };
            if Instant::now() >= deadline {
                let seconds = timeout.as_secs();
                return Err(format!("the connections are not stable after {seconds} s: {unstable}"));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Describes a node that lacks peers, or two nodes that no path joins.
    fn incomplete(&self) -> Option<String> {
        let alive = self.alive();
        for member in &alive {
            let peers = member.node.roster().iter().count();
            if peers < self.min_peers {
                let (node, wanted) = (member.index, self.min_peers);
                return Some(format!("node {node} has {peers} of {wanted} peers"));
            }
        }
        let edges = self.edges();
        let mut components = Components::new(self.all().len(), edges.iter().filter(|edge| edge.is_up()));
        let first = alive.first()?;
        let isolated =
            alive.iter().find(|other| !components.connected(first.incarnation, other.incarnation))?;
        Some(format!("no path joins node {} and node {}", first.index, isolated.index))
    }

    /// Describes a tip whose newest version has not arrived over a connection that is up.
    pub(super) fn missing_tip(&self) -> Option<String> {
        let all = self.all();
        for edge in self.edges().iter().filter(|edge| edge.is_up()) {
            let [one, other] = edge.ends;
            for (sender, receiver) in [(one, other), (other, one)] {
                let newest = all[sender.incarnation as usize].app.newest_tip();
                let received = all[receiver.incarnation as usize].app.tip_over(receiver.conn);
                if received.is_some_and(|tip| (tip.incarnation, tip.version) == (sender.incarnation, newest))
                {
                    continue;
                }
                let received =
                    received.map_or_else(|| "nothing".into(), |tip| format!("version {}", tip.version));
                let index = |incarnation: u32| all[incarnation as usize].index;
                return Some(format!(
                    "tip {newest} of node {} at node {}: {received} arrived over {}",
                    index(sender.incarnation),
                    index(receiver.incarnation),
                    receiver.conn
                ));
            }
        }
        None
    }
}

fn node_config(args: &MeshArgs) -> NodeConfig {
    let mut config = NodeConfig::local();
    config.runtime.target_outbound = args.degree;
    // The last node may have to dial all its peers, and the first nodes are dialled by most others.
    let limits = &mut config.runtime.limits;
    let degree = u32::try_from(args.degree).unwrap_or(u32::MAX);
    limits.max_outbound = limits.max_outbound.max(degree.saturating_add(limits.reserved_outbound));
    limits.max_inbound =
        limits.max_inbound.max(degree.saturating_mul(2).saturating_add(limits.reserved_inbound));
    if args.timecoin {
        config.network = NetworkType::Testnet.id();
    }
    config.event_backlog = EVENT_BACKLOG;
    // Four times the messages within the retention time, because the relay's shards fill unevenly.
    let remembered = args.rate.saturating_mul(config.relay.retention.as_secs()).saturating_mul(4);
    config.relay.capacity = config.relay.capacity.max(usize::try_from(remembered).unwrap_or(usize::MAX));
    config.runtime.memory_limit = config.runtime.memory_limit.saturating_add(config.relay.max_bytes());
    if args.chaos {
        // A dead connection must be noticed well within the delivery window: until then paths over
        // it count as unbroken.
        config.runtime.ping_interval = Duration::from_millis(800);
        config.runtime.liveness.stale_after = Duration::from_millis(2_500);
        config.runtime.stable_after = Duration::from_secs(2);
    }
    config
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;
    use peerpool::RuntimeConfig;

    #[test]
    fn a_node_may_dial_as_many_peers_as_it_wants() {
        for degree in [1, 64, 65, 200] {
            let args = MeshArgs { nodes: 201, degree, ..MeshArgs::minimal() };
            let RuntimeConfig { limits, target_outbound: wanted, .. } = node_config(&args).runtime;
            assert_eq!(wanted, degree);
            assert!((limits.max_outbound - limits.reserved_outbound) as usize >= degree);
            assert!((limits.max_inbound - limits.reserved_inbound) as usize >= degree);
        }
    }
}
