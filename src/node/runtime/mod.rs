//! What all tasks of a node share, and the one maintenance loop.
//!
//! - [`shared`]: [`Shared`](shared::Shared), the common state: configuration, pool, protocols,
//!   address book, events, counters, clock, stop signal. It runs nothing.
//! - [`tasks`]: spawns and counts tasks, so that a shutdown can wait for them.
//! - [`maintenance`]: [`Maintenance`](maintenance::Maintenance), the loop that sweeps, pings, dials
//!   and flushes. It only starts work.
//! - [`log_budget`]: how many log lines strangers can cause; `stall`: times in which this process
//!   stood still; [`outbound_spread`]: which sources may be dialled; [`addr_sample`]: the addresses
//!   that peers are told; [`seen_set`]: the relay's memory of messages; [`interner`]: shared agent
//!   strings.

pub(crate) mod interner;
pub(crate) mod maintenance;
pub(crate) mod peer_care;
pub(crate) mod addr_exchange;
pub(crate) mod addr_sample;
pub(crate) mod log_budget;
pub(crate) mod names;
pub(crate) mod outbound_spread;
pub(crate) mod seen_set;
mod stall;
pub(crate) mod shared;
pub(crate) mod tasks;
