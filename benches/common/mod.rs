//! What the benches share.
//!
//! | module | purpose |
//! |---|---|
//! | `args` | the command line |
//! | `stats` | medians, percentiles, quotients within a round |
//! | `rounds` | the order in which contenders take turns |
//! | `table` | Markdown tables on standard output |
//! | `results`, `recorder` | results as JSON |
//! | `system` | clocks, processors, memory of this process |
//! | `child_process` | a second process that is controlled by lines of text |
//! | `event_loop` | threads that read many sockets through epoll |
//! | `native` | frames and handshakes of the native protocol |
//! | `node` | nodes that neither dial nor ping by themselves |
//! | `receivers` | the receiving process of the broadcast and latency benches, seen from both ends |
//! | `contest` | contenders that send the same messages to as many receivers |
//!
//! # Results
//!
//! With `--json DIRECTORY` a bench writes one file for each family that it measured,
//! `DIRECTORY/FAMILY.json`. `cargo run --example plots` reads `benches/results/*.json`, draws the
//! plots and fills the tables of `BENCHMARKS.md`.
//!
//! ```json
//! {
//!   "schema": 1,
//!   "family": "fanout",
//!   "machine": {"cpu": "...", "cores": 2, "memory_mib": 7900, "kernel": "...", "load_before": 0.02},
//!   "command": "cargo bench --features timecoin,unstable --bench fanout -- --ratios",
//!   "unix_time": 1796000000,
//!   "seconds": 190.0,
//!   "rounds": 7,
//!   "cells": [
//!     {"case": {"payload_bytes": "100", "peers": "64"}, "contender": "peerpool",
//!      "metric": "deliveries_per_second", "median": 2.1e7, "min": 1.9e7, "max": 2.2e7, "samples": 7},
//!     {"case": {"payload_bytes": "100", "peers": "64"}, "contender": "peerpool", "over": "raw_write_limit",
//!      "metric": "deliveries_per_second", "median": 0.95, "min": 0.91, "max": 1.0, "samples": 7}
//!   ]
//! }
//! ```
//!
//! A cell with `over` is a ratio: `contender` divided by `over`, computed within each round.
//! `median`, `min` and `max` are taken over `samples` rounds. Metrics name their unit.

pub(crate) mod args;
pub(crate) mod recorder;
pub(crate) mod results;
pub(crate) mod rounds;
pub(crate) mod stats;
pub(crate) mod system;
pub(crate) mod table;

#[cfg(feature = "node")]
pub(crate) mod child_process;
#[cfg(feature = "node")]
pub(crate) mod contest;
#[cfg(feature = "node")]
pub(crate) mod event_loop;
#[cfg(feature = "node")]
pub(crate) mod native;
#[cfg(feature = "node")]
pub(crate) mod node;
#[cfg(feature = "node")]
pub(crate) mod receivers;
