//! From an address, or a stream, to a live peer.
//!
//! There are three ways to come by a stream, and one path from there:
//!
//! ```text
//! dial::Dialer      reserve, claim the address' key, dial ---+
//! accept::Acceptor  accept, reserve -------------------------+--> establish::Establisher
//! adopt::Adopter    reserve a slot for a given stream -------+      hello, identify, tie-break, claim, live
//!                                                                        |
//!                         spawn, record <--------------------------------+
//! ```
//!
//! - [`establish`] is the path; read it first. [`claim`] is the step that decides between two
//!   connections to the same peer, by the pure rule of [`tie_break`] and with the help of
//!   [`process_index`].
//! - [`handshake`] reads and writes hellos; [`goodbye`] refuses a connection without delaying the
//!   caller.
//! - [`pending_inbound`] decides which handshake gives way when too many are in progress.
//! - [`probe`] asks who listens at an address without connecting.
//! - [`source_slots`] bounds what is under way for one source.
//! - [`state`] is what these types share across connections, [`reservation`] what one connection
//!   has before it is a peer.

pub(crate) mod accept;
pub(crate) mod adopt;
pub(crate) mod claim;
pub(crate) mod dial;
pub(crate) mod establish;
pub(crate) mod goodbye;
pub(crate) mod handshake;
pub(crate) mod pending_inbound;
pub(crate) mod probe;
pub(crate) mod process_index;
pub(crate) mod reservation;
pub(crate) mod source_slots;
pub(crate) mod state;
pub(crate) mod tie_break;
