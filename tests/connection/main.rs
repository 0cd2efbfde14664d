//! Links over both dialects: lanes, inbox, requests, bounds, and how they end. Time is paused.
#![cfg(all(feature = "node", not(peerpool_loom)))]

mod bounds;
mod ending;
mod flight;
mod glance;
#[path = "../common/link.rs"]
mod harness;
mod inbox;
mod lanes;
#[cfg(feature = "timecoin")]
mod places;
mod requests;
#[path = "../common/toy.rs"]
mod toy;
