//! From a stream, or an address, to a live peer.

pub(crate) mod accept;
pub(crate) mod dial;
pub(crate) mod establish;
pub(crate) mod handshake;
pub(crate) mod probe;
pub(crate) mod process_index;
pub(crate) mod reservation;
pub(crate) mod tie_break;
