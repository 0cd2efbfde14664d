//! One sharded pool of unified peer connections, and the engine that runs them.
#![forbid(unsafe_code)]

pub mod base;
#[cfg(feature = "node")]
pub mod book;
#[cfg(feature = "node")]
pub mod link;
#[cfg(feature = "node")]
pub mod node;
pub mod pool;
#[cfg(feature = "node")]
pub mod transport;
#[cfg(feature = "node")]
pub mod wire;
