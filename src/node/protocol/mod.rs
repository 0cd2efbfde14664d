//! The protocols of a node, with their types erased.

pub(crate) mod broadcaster;
pub(crate) mod config;
pub(crate) mod set;
