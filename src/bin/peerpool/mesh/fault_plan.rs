//! The fault plan of `--chaos`: which faults happen and when.
//!
//! The plan is drawn from the seed before the run, so the same seed repeats the same plan.

use std::time::Duration;

/// No fault starts this shortly before the end of the traffic.
const QUIET_END: Duration = Duration::from_millis(500);
/// No fault starts before this time.
const QUIET_START: Duration = Duration::from_millis(500);

/// A fault and its time since the start of the traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PlannedFault {
    pub(super) at: Duration,
    pub(super) fault: Fault,
}

/// What goes wrong. `node` is the index of a node; `pick` chooses one of the connections that exist
/// at that time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// One connection breaks without a goodbye.
    CutConnection { pick: u64 },
    /// All connections of one node break.
    CutNode { node: usize },
    /// A node closes one of its connections with a goodbye.
    Disconnect { node: usize, pick: u64 },
    /// One connection transfers no bytes for a time.
    Stall { pick: u64, duration: Duration },
    /// A node crashes and restarts at the same address after `downtime`.
    Restart { node: usize, downtime: Duration },
    /// Some nodes cannot reach any of the others for a time.
    Partition { nodes: Vec<usize>, duration: Duration },
}

impl Fault {
    /// The name of the kind of fault, for the summary.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::CutConnection { .. } => "cut connection",
            Self::CutNode { .. } => "cut node",
            Self::Disconnect { .. } => "disconnect",
            Self::Stall { .. } => "stall",
            Self::Restart { .. } => "restart",
            Self::Partition { .. } => "partition",
        }
    }
}

/// Draws the plan for a run of `duration`.
///
/// A fault hits a larger part of a small mesh, so faults are rarer there.
pub(super) fn draw(seed: u64, nodes: usize, degree: usize, duration: Duration) -> Vec<PlannedFault> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let spacing = (16.0 / nodes as f64).clamp(1.0, 4.0);
    let mut plan = Vec::new();
    // Each kind of fault comes once before any comes again.
    let mut deck: Vec<u8> = Vec::new();
    let mut at = QUIET_START;
    loop {
        at += random_millis(&mut rng, 1_000..2_000).mul_f64(spacing);
        if at + QUIET_END > duration {
            return plan;
        }
        if deck.is_empty() {
            deck = vec![0, 1, 2, 3, 4, 5];
            rng.shuffle(&mut deck);
        }
        let node = rng.usize(..nodes);
        let pick = rng.u64(..);
        let fault = match deck.pop() {
            Some(0) => Fault::CutNode { node },
            Some(1) => Fault::Disconnect { node, pick },
            Some(2) => Fault::Stall { pick, duration: random_millis(&mut rng, 500..1_500) },
            Some(3) => Fault::Restart { node, downtime: random_millis(&mut rng, 500..2_000) },
            Some(4) => Fault::Partition {
                nodes: draw_isolated(&mut rng, nodes, degree),
                duration: random_millis(&mut rng, 3_000..5_000),
            },
            _ => Fault::CutConnection { pick },
        };
        plan.push(PlannedFault { at, fault });
    }
}

fn random_millis(rng: &mut fastrand::Rng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rng.u64(range))
}

/// Draws the nodes that a partition isolates.
///
/// There are at most `degree` of them, so each has fewer peers than it wants during the partition.
/// A larger group could satisfy itself and would never dial out again.
fn draw_isolated(rng: &mut fastrand::Rng, nodes: usize, degree: usize) -> Vec<usize> {
    let max = (nodes / 4).min(degree).max(1);
    let mut isolated: Vec<usize> = (0..nodes).collect();
    rng.shuffle(&mut isolated);
    isolated.truncate(rng.usize(1..=max));
    isolated.sort_unstable();
    isolated
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    const HALF_A_MINUTE: Duration = Duration::from_secs(30);

    #[test]
    fn a_seed_repeats_the_plan() {
        assert_eq!(draw(7, 16, 6, HALF_A_MINUTE), draw(7, 16, 6, HALF_A_MINUTE));
        assert_ne!(draw(7, 16, 6, HALF_A_MINUTE), draw(8, 16, 6, HALF_A_MINUTE));
    }

    #[test]
    fn half_a_minute_has_every_kind_of_fault_twice() {
        for seed in 0..20 {
            let plan = draw(seed, 16, 6, HALF_A_MINUTE);
            for kind in ["cut connection", "cut node", "disconnect", "stall", "restart", "partition"] {
                let count = plan.iter().filter(|planned| planned.fault.name() == kind).count();
                assert!(count >= 2, "{kind} comes {count} times with seed {seed}");
            }
        }
    }

    #[test]
    fn isolated_nodes_are_fewer_than_the_peers_they_want() {
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..200 {
            let isolated = draw_isolated(&mut rng, 32, 3);
            assert!(!isolated.is_empty() && isolated.len() <= 3);
        }
    }
}
