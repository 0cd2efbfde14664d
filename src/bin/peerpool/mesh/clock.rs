//! One timeline for all nodes of the mesh.
//!
//! Each node stamps its events in whole milliseconds of its own clock. [`NodeClock`] converts such
//! a tick to bounds on the common clock [`Epoch`].

use std::time::Instant;

use peerpool::{NodeRef, Tick};

/// Microseconds since the mesh started.
pub(super) type Micros = u64;

/// How often [`NodeClock::calibrate`] compares the clocks.
const CALIBRATION_ROUNDS: usize = 64;

/// The start of the mesh: the zero point of the common clock.
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

/// Bounds on the time at which a node's clock started, in microseconds on the common clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct NodeClock {
    earliest_start: i64,
    latest_start: i64,
}

impl NodeClock {
    /// Compares the node's clock with the common one several times and keeps the tightest bounds.
    pub(super) fn calibrate(node: &NodeRef, epoch: Epoch) -> Self {
        let mut clock = Self { earliest_start: i64::MIN, latest_start: i64::MAX };
        for _ in 0..CALIBRATION_ROUNDS {
            let before = epoch.now();
            let tick = node.now();
            clock.narrow(before, tick, epoch.now());
        }
        clock
    }

    /// Narrows the bounds: the node's clock showed `tick` at some time from `before` to `after`.
    fn narrow(&mut self, before: Micros, tick: Tick, after: Micros) {
        let shown = tick.as_millis() as i64 * 1_000;
        self.earliest_start = self.earliest_start.max(before as i64 - shown - 1_000);
        self.latest_start = self.latest_start.min(after as i64 - shown);
    }

    /// The earliest time at which the node's clock may have shown `tick`.
    pub(super) fn earliest(&self, tick: Tick) -> Micros {
        (self.earliest_start + tick.as_millis() as i64 * 1_000).max(0) as Micros
    }

    /// The latest time at which the node's clock may have shown `tick`.
    pub(super) fn latest(&self, tick: Tick) -> Micros {
        (self.latest_start + (tick.as_millis() as i64 + 1) * 1_000).max(0) as Micros
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_true_time_of_a_tick_lies_within_its_bounds() {
        // The clock started at 12,345 us. Each reading takes up to 300 us before and after.
        let started = 12_345u64;
        let mut clock = NodeClock { earliest_start: i64::MIN, latest_start: i64::MAX };
        for (at, delay) in [(20_000, 300), (20_950, 10), (21_350, 200), (22_344, 5), (22_346, 3)] {
            let tick = Tick::from_millis((at - started) / 1_000);
            clock.narrow(at - delay, tick, at + delay);
        }
        let tick = Tick::from_millis(500);
        let (first, last) = (started + 500_000, started + 501_000);
        assert!(clock.earliest(tick) <= first && first <= clock.latest(tick));
        assert!(clock.earliest(tick) <= last && last <= clock.latest(tick));
        assert!(clock.latest(tick) - clock.earliest(tick) < 1_700, "the bounds must be tight");
    }
}
