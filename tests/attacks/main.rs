//! Attacks from several sources on a node in a process of its own, with the recommended settings.
//!
//! The victim treats 127.0.0.0/8 as public, so that each of its addresses is a source as strangers
//! on the internet are. Every test shows by a counter of the victim that the attack reached the
//! defence.
#![cfg(all(feature = "node", feature = "test-util", target_os = "linux"))]

mod addresses;
mod floods;
mod memory;
mod raw_peer;
mod shares;
mod victim;

/// Not an attack: the process of the node that the attacks start.
#[test]
#[ignore = "the victim's process; attacks start it"]
fn victim_process() {
    victim::run();
}
