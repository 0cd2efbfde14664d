//! One sharded pool of unified peer connections, and the engine that runs them.
#![forbid(unsafe_code)]

pub mod base;
