//! The wire: the conformance suite for two protocols, and the native protocol's frozen bytes and
//! refusals.

#![cfg(feature = "node")]

#[path = "../common/conformance.rs"]
mod conformance;
mod golden;
mod growth;
mod refusals;
#[path = "../common/toy.rs"]
mod toy;

use peerpool::wire::{Native, WireLimits};

#[test]
fn the_native_protocol_conforms() {
    conformance::conforms(&Native::default());
}

#[test]
fn the_native_protocol_conforms_with_small_limits() {
    let limits = WireLimits {
        urgent: 100,
        normal: 20_000,
        bulk: 70_000,
        chunk: 1024,
        hello: 0,
        peers: 10,
        ..WireLimits::default()
    };
    conformance::conforms(&Native::new(limits));
}

#[test]
fn a_toy_protocol_without_lanes_ids_and_chunks_conforms() {
    conformance::conforms(&toy::Toy::new());
}
