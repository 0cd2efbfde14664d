//! The broadcast log.
