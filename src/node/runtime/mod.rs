//! What all tasks of a node share, and the maintenance loop.

pub(crate) mod interner;
pub(crate) mod maintenance;
pub(crate) mod seen_set;
pub(crate) mod shared;
