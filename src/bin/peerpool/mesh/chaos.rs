//! Injects the faults of the plan and repairs all of them at the end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::cluster::Cluster;
use super::fault_plan::{Fault, PlannedFault};
use super::faulty_net::FaultyNet;
use super::{StopFlag, lock, stopped};

/// The faults injected so far.
#[derive(Debug, Default)]
pub(super) struct FaultCounts {
    /// Number of injected faults by name.
    pub(super) by_name: Mutex<BTreeMap<&'static str, u64>>,
    /// One message for each node that could not be restarted.
    pub(super) failed_restarts: Mutex<Vec<String>>,
}

/// Injects the faults of the plan until its end or until the stop flag is set.
///
/// Returns once every node runs again, and no connection is stalled or partitioned. Does nothing
/// without `--chaos`.
pub(super) async fn inject(
    cluster: &Arc<Cluster>,
    counts: &Arc<FaultCounts>,
    plan: Vec<PlannedFault>,
    mut rng: fastrand::Rng,
    mut stop: StopFlag,
) {
    let Some(net) = cluster.net.clone() else { return };
    let started = Instant::now();
    let mut repairs = JoinSet::new();
    for PlannedFault { at, fault } in plan {
        tokio::select! {
            () = sleep_until(started + at) => {}
            () = stopped(&mut stop) => break,
        }
        tracing::info!(?fault, "chaos");
        *lock(&counts.by_name).entry(fault.name()).or_default() += 1;
        apply(cluster, counts, &net, fault, &mut repairs, &mut rng);
        while repairs.try_join_next().is_some() {}
    }
    while repairs.join_next().await.is_some() {}
    net.resume_stalled();
    net.heal();
}

/// Applies one fault. A fault that lasts spawns its repair on `repairs`.
fn apply(
    cluster: &Arc<Cluster>,
    counts: &Arc<FaultCounts>,
    net: &Arc<FaultyNet>,
    fault: Fault,
    repairs: &mut JoinSet<()>,
    rng: &mut fastrand::Rng,
) {
    match fault {
        Fault::CutConnection { pick } => {
            net.cut_connection(pick);
        }
        Fault::CutNode { node } => net.cut_node(node),
        Fault::Disconnect { node, pick } => disconnect(cluster, node, pick),
        Fault::Stall { pick, duration } => {
            net.stall_connection(pick);
            let net = Arc::clone(net);
            repairs.spawn(async move {
                sleep(duration).await;
                net.resume_stalled();
            });
        }
        Fault::Partition { nodes, duration } => {
            net.partition(&nodes);
            let net = Arc::clone(net);
            repairs.spawn(async move {
                sleep(duration).await;
                net.heal();
            });
        }
        Fault::Restart { node, downtime } => {
            let member = cluster.current(node);
            if !member.is_alive() {
                return;
            }
            member.kill(net, cluster.epoch.now());
            let (cluster, counts) = (Arc::clone(cluster), Arc::clone(counts));
            let mut rng = rng.fork();
            repairs.spawn(async move {
                sleep(downtime).await;
                if let Err(error) = cluster.restart(node, &mut rng).await {
                    let message = format!("node {node} could not be restarted: {error}");
                    lock(&counts.failed_restarts).push(message);
                }
            });
        }
    }
}

/// Closes one connection of a node.
fn disconnect(cluster: &Cluster, node: usize, pick: u64) {
    let member = cluster.current(node);
    let peers: Vec<_> = member.node.roster().iter().map(|peer| *peer.key()).collect();
    if !peers.is_empty() {
        member.node.disconnect(&peers[(pick % peers.len() as u64) as usize]);
    }
}
