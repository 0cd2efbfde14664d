//! The link.
pub mod log;
pub mod state;
