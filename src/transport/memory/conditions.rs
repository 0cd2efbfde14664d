//! What a test sets about the network between two hosts: latency, read rate, blocked directions.

use std::num::NonZeroU64;
use std::ops::RangeInclusive;
use std::time::Duration;

/// One-way latency: uniformly random within a range, drawn once per write.
///
/// A later write never overtakes an earlier one, whatever their draws.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    min: Duration,
    max: Duration,
}

impl Latency {
    /// Everything arrives at once.
    pub const ZERO: Self = Self { min: Duration::ZERO, max: Duration::ZERO };

    /// One draw; `None` for zero latency.
    pub(super) fn draw(&self, rng: &mut fastrand::Rng) -> Option<Duration> {
        if self.max.is_zero() {
            return None;
        }
        let spread = u64::try_from((self.max - self.min).as_nanos()).unwrap_or(u64::MAX);
        Some(self.min + Duration::from_nanos(rng.u64(0..=spread)))
    }
}

impl From<Duration> for Latency {
    /// The same latency for every write.
    fn from(fixed: Duration) -> Self {
        Self { min: fixed, max: fixed }
    }
}

impl From<RangeInclusive<Duration>> for Latency {
    /// A range whose end is below its start counts as its start alone.
    fn from(range: RangeInclusive<Duration>) -> Self {
        let (min, max) = range.into_inner();
        Self { min, max: max.max(min) }
    }
}

/// How fast a host reads the bytes that have arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadRate {
    /// As fast as the reader polls.
    #[default]
    Unlimited,
    /// At most this many bytes per second and connection, in portions of a twentieth of that.
    PerSecond(NonZeroU64),
    /// Nothing, not even the end of the stream: the writers' buffers fill up.
    Stopped,
}

/// The conditions of one direction of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct LinkConditions {
    pub(super) latency: Latency,
    /// How fast the receiving host reads.
    pub(super) read_rate: ReadRate,
    /// Nothing passes in this direction.
    pub(super) blocked: bool,
    /// Nothing passes in the opposite direction, so the writer does not learn that the reader has
    /// closed.
    pub(super) reverse_blocked: bool,
}
