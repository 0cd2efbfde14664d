//! A live peer: its task, its callbacks, and what is known of it.

pub(crate) mod callbacks;
pub(crate) mod info;
pub(crate) mod task;
