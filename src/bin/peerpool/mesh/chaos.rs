//! Carries out the plan, and puts everything right at the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use peerpool::sync::Mutex;

use super::crowd::Crowd;
use super::faults::World;
use super::plan::{Blow, Step};
use super::{Enough, had};

/// What chaos did.
#[derive(Debug, Default)]
pub(super) struct Deeds {
    /// Blows by name.
    pub(super) done: Mutex<BTreeMap<&'static str, u64>>,
    /// Restarts that failed, and why.
    pub(super) failed: Mutex<Vec<String>>,
}

/// Carries out the plan, or its beginning where that is enough; returns once every node is up again and nothing is held up or parted.
pub(super) async fn wreak(
    crowd: &Arc<Crowd>,
    deeds: &Arc<Deeds>,
    plan: Vec<Step>,
    mut rng: fastrand::Rng,
    mut enough: Enough,
) {
    let Some(world) = crowd.world.clone() else { return };
    let begun = Instant::now();
    let mut lasting = JoinSet::new();
    for Step { at, blow } in plan {
        tokio::select! {
            () = sleep_until(begun + at) => {}
            () = had(&mut enough) => break,
        }
        tracing::info!(?blow, "chaos");
        *deeds.done.lock().entry(blow.name()).or_default() += 1;
        strike(crowd, deeds, &world, blow, &mut lasting, &mut rng);
        while lasting.try_join_next().is_some() {}
    }
    while lasting.join_next().await.is_some() {}
    world.release();
    world.heal();
}

fn strike(
    crowd: &Arc<Crowd>,
    deeds: &Arc<Deeds>,
    world: &Arc<World>,
    blow: Blow,
    lasting: &mut JoinSet<()>,
    rng: &mut fastrand::Rng,
) {
    match blow {
        Blow::Cut { pick } => {
            world.cut_one(pick);
        }
        Blow::CutAll { slot } => world.cut_all(slot),
        Blow::Disconnect { slot, pick } => disconnect(crowd, slot, pick),
        Blow::Hold { pick, lasting: time } => {
            world.hold_one(pick);
            let world = Arc::clone(world);
            lasting.spawn(async move {
                sleep(time).await;
                world.release();
            });
        }
        Blow::Part { slots, lasting: time } => {
            world.part(&slots);
            let world = Arc::clone(world);
            lasting.spawn(async move {
                sleep(time).await;
                world.heal();
            });
        }
        Blow::Kill { slot, lasting: time } => {
            let victim = crowd.present(slot);
            if !victim.is_alive() {
                return;
            }
            victim.kill(world, crowd.epoch.now());
            let (crowd, deeds) = (Arc::clone(crowd), Arc::clone(deeds));
            let mut rng = rng.fork();
            lasting.spawn(async move {
                sleep(time).await;
                if let Err(error) = crowd.restart(slot, &mut rng).await {
                    deeds.failed.lock().push(format!("node {slot} could not be started again: {error}"));
                }
            });
        }
    }
}

fn disconnect(crowd: &Crowd, slot: usize, pick: u64) {
    let member = crowd.present(slot);
    let peers: Vec<_> = member.node.roster().iter().map(|peer| *peer.key()).collect();
    if !peers.is_empty() {
        member.node.disconnect(&peers[(pick % peers.len() as u64) as usize]);
    }
}

/// How long after the traffic a mesh that was hurt may take to be whole again.
pub(super) const HEALING: Duration = Duration::from_secs(30);
