//! The link.
pub mod log;
