//! All nodes of the mesh: starting them, restarting them, and looking at the links between them.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use peerpool::node::{NodeConfig, StartError};
use peerpool::sync::Mutex;
use peerpool::timecoin::wire::NetworkType;

use super::MeshArgs;
use super::clock::{Epoch, Micros};
use super::codec::Codec;
use super::faulty_net::FaultyNet;
use super::graph::{End, Groups, Link, pair};
use super::ledger::Ledger;
use super::member::{LastChange, Member, NodeSpec};

/// The mesh.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) epoch: Epoch,
    pub(super) ledger: Arc<Ledger>,
    /// The network to hurt; `None` without chaos.
    pub(super) net: Option<Arc<FaultyNet>>,
    config: NodeConfig,
    codec: Codec,
    /// On the old wire every node has a loopback address of its own, in a net drawn anew for each run.
    loopback_net: u8,
    degree: usize,
    last_change: Arc<LastChange>,
    members: Mutex<Members>,
    /// Held while a node is born: its number is the count of those before it.
    births: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Members {
    /// Every incarnation, in order of its number.
    all: Vec<Arc<Member>>,
    /// The latest incarnation at each place.
    present: Vec<Arc<Member>>,
}

impl Cluster {
    pub(super) fn new(args: &MeshArgs) -> Self {
        Self {
            epoch: Epoch::new(),
            ledger: Arc::default(),
            net: args.chaos.then(Arc::default),
            config: config(args),
            codec: if args.timecoin { Codec::TimeCoin } else { Codec::Native },
            loopback_net: fastrand::u8(1..=250),
            degree: args.degree.min(args.nodes - 1),
            last_change: Arc::default(),
            members: Mutex::default(),
            births: tokio::sync::Mutex::default(),
        }
    }

    /// Starts all nodes, one after another; each is told the address of one that is up.
    pub(super) async fn start(&self, nodes: usize, rng: &mut fastrand::Rng) -> Result<(), StartError> {
        for slot in 0..nodes {
            let told = {
                let members = self.members.lock();
                (slot > 0).then(|| members.present[rng.usize(..slot)].addr)
            };
            let birth = self.birth(slot, self.listen(slot), told);
            let member = Member::start(birth).await?;
            member.announce();
            let mut members = self.members.lock();
            members.all.push(Arc::clone(&member));
            members.present.push(member);
        }
        Ok(())
    }

    fn listen(&self, slot: usize) -> SocketAddr {
        match self.codec {
            Codec::Native => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            Codec::TimeCoin => {
                let [high, low] = ((slot / 250 + 1) as u8, (slot % 250 + 1) as u8).into();
                SocketAddr::from(([127, self.loopback_net, high, low], NetworkType::Testnet.port()))
            }
        }
    }

    fn birth(&self, slot: usize, listen: SocketAddr, told: Option<SocketAddr>) -> NodeSpec {
        NodeSpec {
            of: 0,
            slot,
            codec: self.codec,
            listen,
            told,
            config: self.config.clone(),
            epoch: self.epoch,
            ledger: Arc::clone(&self.ledger),
            net: self.net.clone(),
            last_change: Arc::clone(&self.last_change),
        }
        .numbered(self.members.lock().all.len())
    }

    /// Starts a killed node again, at its address. It is told one address, of a node that is up, and can be reached if there is one.
    pub(super) async fn restart(&self, slot: usize, rng: &mut fastrand::Rng) -> Result<(), StartError> {
        let old = self.present(slot);
        // The port is free once everything of the old one has ended.
        old.idle(Duration::from_secs(5)).await;
        let begun = Instant::now();
        loop {
            let reachable = |member: &Arc<Member>| {
                member.slot != slot
                    && member.is_alive()
                    && self.net.as_ref().is_none_or(|net| !net.parted(slot, member.slot))
            };
            let mut others: Vec<_> = self.alive().into_iter().filter(reachable).collect();
            if others.is_empty() {
                // Cut off from all: what it is told is of use once that is over, and without it it would stay alone for ever.
                others = self.alive().into_iter().filter(|member| member.slot != slot).collect();
            }
            let told = if others.is_empty() { None } else { Some(others[rng.usize(..others.len())].addr) };
            let _birth = self.births.lock().await;
            match Member::start(self.birth(slot, old.addr, told)).await {
                Ok(member) => {
                    member.announce();
                    let mut members = self.members.lock();
                    members.all.push(Arc::clone(&member));
                    members.present[slot] = member;
                    return Ok(());
                }
                // Somebody dials from this very port just now.
                Err(StartError::Listen { .. }) if begun.elapsed() < Duration::from_secs(10) => {
                    sleep(Duration::from_millis(100)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The latest incarnation at a place.
    pub(super) fn present(&self, slot: usize) -> Arc<Member> {
        Arc::clone(&self.members.lock().present[slot])
    }

    /// Those that were not killed.
    pub(super) fn alive(&self) -> Vec<Arc<Member>> {
        self.members.lock().present.iter().filter(|member| member.is_alive()).cloned().collect()
    }

    /// Every incarnation, in order of its number.
    pub(super) fn all(&self) -> Vec<Arc<Member>> {
        self.members.lock().all.clone()
    }

    /// The links of all time, from what both ends reported.
    pub(super) fn links(&self) -> Vec<Link> {
        let ends: Vec<End> = self.all().iter().flat_map(|member| member.reports.ends()).collect();
        pair(&ends)
    }

    /// When any node last reported a link up or down.
    pub(super) fn last_event(&self) -> Micros {
        self.last_change.last()
    }

    /// Waits until the wiring is stable: everybody has stop peers, a path joins all, and nothing has changed for a moment.
    pub(super) async fn settle(&self, within: Duration) -> Result<(), String> {
        let until = Instant::now() + within;
        loop {
            let unstable = match self.unwired() {
                None if self.epoch.now().saturating_sub(self.last_event()) >= QUIET => return Ok(()),
                None => "links still come and go".into(),
                Some(why) => why,
            };
            if Instant::now() >= until {
                return Err(format!("the wiring is not stable after {} s: {unstable}", within.as_secs()));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn unwired(&self) -> Option<String> {
        let alive = self.alive();
        let few = |member: &&Arc<Member>| member.node.roster().iter().count() < self.degree;
        if let Some(lonely) = alive.iter().find(few) {
            let (slot, peers) = (lonely.slot, lonely.node.roster().iter().count());
            return Some(format!("node {slot} has {peers} peers, {} are wanted", self.degree));
        }
        let links = self.links();
        let mut groups = Groups::of(self.all().len(), links.iter().filter(|link| link.is_up()));
        let first = alive.first()?;
        let island = alive.iter().find(|member| !groups.joined(first.of, member.of))?;
        Some(format!("no path joins node {} and node {}", first.slot, island.slot))
    }

    /// Which link's newest tip is missing at its far end, if any. Only links that are up.
    pub(super) fn missing_tip(&self) -> Option<String> {
        let all = self.all();
        for link in self.links().iter().filter(|link| link.is_up()) {
            let [(one, at_one), (other, at_other)] = link.ends;
            for (from, to, conn) in [(one, other, at_other), (other, one, at_one)] {
                let newest = all[from as usize].app.newest_tip();
                let arrived = all[to as usize].app.tip_over(conn);
                if arrived.is_none_or(|tip| tip.of != from || tip.version != newest) {
                    let arrived =
                        arrived.map_or_else(|| "nothing".into(), |tip| format!("version {}", tip.version));
                    let (from, to) = (all[from as usize].slot, all[to as usize].slot);
                    return Some(format!(
                        "node {from}'s tip {newest} at node {to}: {arrived} came over {conn}"
                    ));
                }
            }
        }
        None
    }
}

fn config(args: &MeshArgs) -> NodeConfig {
    let mut config = NodeConfig::local();
    config.runtime.target_peers = args.degree;
    // Whoever starts last may have to dial everybody it wants, and the first are found by most.
    let limits = &mut config.runtime.limits;
    let degree = u32::try_from(args.degree).unwrap_or(u32::MAX);
    limits.max_outbound = limits.max_outbound.max(degree.saturating_add(limits.reserved_outbound));
    limits.max_inbound =
        limits.max_inbound.max(degree.saturating_mul(2).saturating_add(limits.reserved_inbound));
    if args.timecoin {
        config.network = NetworkType::Testnet.id();
    }
    // Reading the events of all nodes in one process may fall behind for a moment; none may be lost.
    config.event_backlog = 8 * 1024;
    // Room for everything within the retention, four times over: shards fill unevenly.
    let remembered = args.rate.saturating_mul(config.relay.retention.as_secs()).saturating_mul(4);
    config.relay.capacity = config.relay.capacity.max(usize::try_from(remembered).unwrap_or(usize::MAX));
    config.relay.peer_share_percent = 100;
    if args.chaos {
        // A dead link is to be noticed well within the five seconds for which a path must hold: from then on it promises
        // nothing.
        config.runtime.ping_interval = Duration::from_millis(800);
        config.runtime.liveness.stale_after = Duration::from_millis(2_500);
        config.runtime.stable_after = Duration::from_secs(2);
    }
    config
}

/// Without a link event for so long, the wiring counts as quiet.
const QUIET: Micros = 500_000;

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;
    use peerpool::node::RuntimeConfig;

    #[test]
    fn a_node_may_dial_as_many_as_it_wants() {
        for degree in [1, 64, 65, 200] {
            let args = MeshArgs { nodes: 201, degree, ..MeshArgs::least() };
            let RuntimeConfig { limits, target_peers: wanted, .. } = config(&args).runtime;
            assert_eq!(wanted, degree);
            assert!((limits.max_outbound - limits.reserved_outbound) as usize >= degree);
            assert!((limits.max_inbound - limits.reserved_inbound) as usize >= degree);
        }
    }
}
