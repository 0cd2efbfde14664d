//! The TIME Coin network's bytes: its messages, and how they are framed.

#![cfg(feature = "timecoin")]

mod probes;
mod samples;
