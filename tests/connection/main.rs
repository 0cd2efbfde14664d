//! Connections over both protocols: lanes, inbox, requests, bounds, and how they end. Time is
//! paused.
#![cfg(all(feature = "node", feature = "unstable", not(peerpool_loom)))]

mod bounds;
mod bulk_window;
mod closing;
mod fast_path;
#[path = "../common/connection.rs"]
mod harness;
mod inbox;
mod lanes;
#[cfg(feature = "timecoin")]
mod pending_by_kind;
mod progress;
mod requests;
#[path = "../common/toy.rs"]
mod toy;
