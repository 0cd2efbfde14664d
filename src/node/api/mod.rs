//! What an application calls: the handles of a node, and the handler it implements.

pub(crate) mod broadcast;
pub(crate) mod events;
pub(crate) mod handle;
pub(crate) mod handler;
pub(crate) mod peers;
pub(crate) mod receipt;
pub(crate) mod request;
pub(crate) mod stats;
pub(crate) mod typed;
