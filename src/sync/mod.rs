//! The synchronisation facade: every atomic, lock, waker and concurrent map that the crate uses.
//!
//! Under `--cfg peerpool_loom` the facade exports [loom](https://docs.rs/loom)'s types with the
//! same interfaces, so that models drive the shipped code and never a copy of it. The name of the
//! cfg is this crate's own: dependencies do not react to it. Types built under that cfg work inside
//! `loom::model` only.
//!
//! | item | normal build | under loom |
//! |---|---|---|
//! | [`atomic`] | `std::sync::atomic` | `loom::sync::atomic` |
//! | [`Mutex`] | `std::sync::Mutex`, never poisoned | `loom::sync::Mutex` |
//! | [`SwapCell`] | `arc_swap::ArcSwap` | a mutex around an `Arc` |
//! | [`TaskWaker`] | `atomic_waker::AtomicWaker` | `loom::future::AtomicWaker` |
//! | [`ShardMap`] | `dashmap::DashMap` | two mutex-guarded lists |
//! | [`OnceLock`] | `std::sync::OnceLock` | the same: initialisers are pure |

mod map;

pub use map::{Change, HashState, ShardMap};

#[cfg(not(peerpool_loom))]
mod std_impl;
#[cfg(not(peerpool_loom))]
pub use std_impl::{Mutex, MutexGuard, OnceLock, SwapCell, TaskWaker, atomic};

#[cfg(peerpool_loom)]
mod loom_impl;
#[cfg(peerpool_loom)]
pub use loom_impl::{Mutex, MutexGuard, OnceLock, SwapCell, TaskWaker, atomic};
