//! One timeline for many nodes: each node stamps its events in whole milliseconds of a clock of its own.

use std::time::Instant;

use peerpool::base::Tick;
use peerpool::node::NodeRef;

/// Microseconds since the mesh began.
pub(super) type Micros = u64;

/// The common clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Epoch {
    start: Instant,
}

impl Epoch {
    pub(super) fn new() -> Self {
        Self { start: Instant::now() }
    }

    pub(super) fn now(self) -> Micros {
        self.start.elapsed().as_micros() as Micros
    }
}

/// When a node's clock started, as closely as one can tell from outside: bounds, not a guess.
#[derive(Clone, Copy, Debug)]
pub(super) struct NodeClock {
    earliest: i64,
    latest: i64,
}

impl NodeClock {
    /// Compares the node's clock with the common one a few times and keeps the tightest bounds.
    pub(super) fn calibrate(node: &NodeRef, epoch: Epoch) -> Self {
        let mut clock = Self { earliest: i64::MIN, latest: i64::MAX };
        for _ in 0..64 {
            let before = epoch.now();
            let tick = node.now();
            clock.narrow(before, tick, epoch.now());
        }
        clock
    }

    /// The node's clock showed `tick` at some moment between the two.
    fn narrow(&mut self, before: Micros, tick: Tick, after: Micros) {
        let shown = tick.as_millis() as i64 * 1_000;
        self.earliest = self.earliest.max(before as i64 - shown - 1_000);
        self.latest = self.latest.min(after as i64 - shown);
    }

    /// The first moment at which the node's clock may have shown this tick.
    pub(super) fn earliest(&self, tick: Tick) -> Micros {
        (self.earliest + tick.as_millis() as i64 * 1_000).max(0) as Micros
    }

    /// The last moment at which the node's clock may have shown this tick.
    pub(super) fn latest(&self, tick: Tick) -> Micros {
        (self.latest + (tick.as_millis() as i64 + 1) * 1_000).max(0) as Micros
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_true_moment_of_a_tick_lies_within_its_bounds() {
        // A clock that started at 12,345 us, looked at with a delay of up to 300 us on each side.
        let started = 12_345u64;
        let mut clock = NodeClock { earliest: i64::MIN, latest: i64::MAX };
        for (at, delay) in [(20_000, 300), (20_950, 10), (21_350, 200), (22_344, 5), (22_346, 3)] {
            let tick = Tick::from_millis((at - started) / 1_000);
            clock.narrow(at - delay, tick, at + delay);
        }
        let tick = Tick::from_millis(500);
        let (first, last) = (started + 500_000, started + 501_000);
        assert!(clock.earliest(tick) <= first && first <= clock.latest(tick));
        assert!(clock.earliest(tick) <= last && last <= clock.latest(tick));
        assert!(clock.latest(tick) - clock.earliest(tick) < 1_700, "and the bounds are useful");
    }
}
