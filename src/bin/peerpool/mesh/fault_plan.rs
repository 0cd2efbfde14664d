//! What chaos does and when: drawn from the seed before the run, so that a seed repeats it.

use std::time::Duration;

/// One fault and its time since the traffic began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) at: Duration,
    pub(super) fault: Fault,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// One connection breaks, without a goodbye.
    Cut { pick: u64 },
    /// All connections of one node break.
    CutAll { slot: usize },
    /// A node closes one of its connections in good order.
    Disconnect { slot: usize, pick: u64 },
    /// One connection neither gives nor takes for a time.
    Hold { pick: u64, lasting: Duration },
    /// A node dies and comes back at the same address.
    Kill { slot: usize, lasting: Duration },
    /// Some nodes are cut off from all others.
    Part { slots: Vec<usize>, lasting: Duration },
}

impl Fault {
    /// What it does, in words.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Cut { .. } => "cut",
            Self::CutAll { .. } => "cut all of a node",
            Self::Disconnect { .. } => "disconnect",
            Self::Hold { .. } => "hold up",
            Self::Kill { .. } => "kill and restart",
            Self::Part { .. } => "partition",
        }
    }
}

/// Draws the plan. In a small mesh each fault hits a larger part of it, so they come less often.
pub(super) fn draw(seed: u64, nodes: usize, degree: usize, seconds: Duration) -> Vec<Step> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let spacing = (16.0 / nodes as f64).clamp(1.0, 4.0);
    let mut steps = Vec::new();
    let mut deck: Vec<u8> = Vec::new();
    let mut at = Duration::from_millis(500);
    loop {
        at += Duration::from_millis(rng.u64(1_000..2_000)).mul_f64(spacing);
        if at + QUIET_END > seconds {
            return steps;
        }
        if deck.is_empty() {
            deck = vec![0, 1, 2, 3, 4, 5];
            rng.shuffle(&mut deck);
        }
        let slot = rng.usize(..nodes);
        let pick = rng.u64(..);
        let millis = |rng: &mut fastrand::Rng, range| Duration::from_millis(rng.u64(range));
        let fault = match deck.pop() {
            Some(0) => Fault::CutAll { slot },
            Some(1) => Fault::Disconnect { slot, pick },
            Some(2) => Fault::Hold { pick, lasting: millis(&mut rng, 500..1_500) },
            Some(3) => Fault::Kill { slot, lasting: millis(&mut rng, 500..2_000) },
            Some(4) => Fault::Part {
                slots: island(&mut rng, nodes, degree),
                lasting: millis(&mut rng, 3_000..5_000),
            },
            _ => Fault::Cut { pick },
        };
        steps.push(Step { at, fault });
    }
}

/// The nodes to cut off. Few stop that they miss peers among themselves: an island on which everybody has as many peers
/// as it wants has no reason to dial out after the partition, and would stay one.
fn island(rng: &mut fastrand::Rng, nodes: usize, degree: usize) -> Vec<usize> {
    let most = (nodes / 4).min(degree).max(1);
    let mut slots: Vec<usize> = (0..nodes).collect();
    rng.shuffle(&mut slots);
    slots.truncate(rng.usize(1..=most));
    slots.sort_unstable();
    slots
}

/// No new fault this shortly before the end of the traffic.
const QUIET_END: Duration = Duration::from_millis(500);

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
    fn half_a_minute_holds_every_kind_of_blow_twice() {
        for seed in 0..20 {
            let plan = draw(seed, 16, 6, HALF_A_MINUTE);
            for kind in ["cut", "cut all of a node", "disconnect", "hold up", "kill and restart", "partition"]
            {
                let count = plan.iter().filter(|step| step.fault.name() == kind).count();
                assert!(count >= 2, "{kind} comes {count} times with seed {seed}");
            }
        }
    }

    #[test]
    fn an_island_is_smaller_than_what_its_nodes_want() {
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..200 {
            let slots = island(&mut rng, 32, 3);
            assert!(!slots.is_empty() && slots.len() <= 3);
        }
    }
}
