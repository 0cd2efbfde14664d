//! Carries out the plan, and puts everything right at the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use peerpool::sync::Mutex;

use super::cluster::Cluster;
use super::fault_plan::{Fault, Step};
use super::faulty_net::FaultyNet;
use super::{StopSignal, stopped};

/// What chaos did.
#[derive(Debug, Default)]
pub(super) struct FaultCounts {
    /// Blows by name.
    pub(super) done: Mutex<BTreeMap<&'static str, u64>>,
    /// Restarts that failed, and why.
    pub(super) failed: Mutex<Vec<String>>,
}

/// Carries out the plan, or its beginning where that is stop; returns once every node is up again and nothing is held up or parted.
pub(super) async fn inject(
    cluster: &Arc<Cluster>,
    fault_counts: &Arc<FaultCounts>,
    plan: Vec<Step>,
    mut rng: fastrand::Rng,
    mut stop: StopSignal,
) {
    let Some(net) = cluster.net.clone() else { return };
    let begun = Instant::now();
    let mut lasting = JoinSet::new();
    for Step { at, fault } in plan {
        tokio::select! {
            () = sleep_until(begun + at) => {}
            () = stopped(&mut stop) => break,
        }
        tracing::info!(?fault, "chaos");
        *fault_counts.done.lock().entry(fault.name()).or_default() += 1;
        strike(cluster, fault_counts, &net, fault, &mut lasting, &mut rng);
        while lasting.try_join_next().is_some() {}
    }
    while lasting.join_next().await.is_some() {}
    net.release();
    net.heal();
}

fn strike(
    cluster: &Arc<Cluster>,
    fault_counts: &Arc<FaultCounts>,
    net: &Arc<FaultyNet>,
    fault: Fault,
    lasting: &mut JoinSet<()>,
    rng: &mut fastrand::Rng,
) {
    match fault {
        Fault::Cut { pick } => {
            net.cut_one(pick);
        }
        Fault::CutAll { slot } => net.cut_all(slot),
        Fault::Disconnect { slot, pick } => disconnect(cluster, slot, pick),
        Fault::Hold { pick, lasting: time } => {
            net.hold_one(pick);
            let net = Arc::clone(net);
            lasting.spawn(async move {
                sleep(time).await;
                net.release();
            });
        }
        Fault::Part { slots, lasting: time } => {
            net.part(&slots);
            let net = Arc::clone(net);
            lasting.spawn(async move {
                sleep(time).await;
                net.heal();
            });
        }
        Fault::Kill { slot, lasting: time } => {
            let victim = cluster.present(slot);
            if !victim.is_alive() {
                return;
            }
            victim.kill(net, cluster.epoch.now());
            let (cluster, fault_counts) = (Arc::clone(cluster), Arc::clone(fault_counts));
            let mut rng = rng.fork();
            lasting.spawn(async move {
                sleep(time).await;
                if let Err(error) = cluster.restart(slot, &mut rng).await {
                    fault_counts
                        .failed
                        .lock()
                        .push(format!("node {slot} could not be started again: {error}"));
                }
            });
        }
    }
}

fn disconnect(cluster: &Cluster, slot: usize, pick: u64) {
    let member = cluster.present(slot);
    let peers: Vec<_> = member.node.roster().iter().map(|peer| *peer.key()).collect();
    if !peers.is_empty() {
        member.node.disconnect(&peers[(pick % peers.len() as u64) as usize]);
    }
}

/// How long after the traffic a mesh that was hurt may take to be whole again.
pub(super) const HEALING: Duration = Duration::from_secs(30);
