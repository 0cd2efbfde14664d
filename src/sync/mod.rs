//! The one door to everything that synchronises.
//!
//! Under `--cfg peerpool_loom` the door hands out [loom](https://docs.rs/loom) twins with the same faces, so that the
//! models drive the shipped types and never copies of them. The name of the cfg is our own: dependencies do not see it.
//! Types made through the door may then be used inside `loom::model` only.

mod lines;
mod map;
mod set;

pub use map::{Change, ShardMap};
pub use set::{HashState, Hashed, PutOutcome, ShardSet};

#[cfg(not(peerpool_loom))]
mod std_impl;
#[cfg(not(peerpool_loom))]
pub use std_impl::{Mutex, MutexGuard, OnceLock, RwLock, SwapCell, TaskWaker, atomic};

#[cfg(peerpool_loom)]
mod loom_impl;
#[cfg(peerpool_loom)]
pub use loom_impl::{Mutex, MutexGuard, OnceLock, RwLock, SwapCell, TaskWaker, atomic};
