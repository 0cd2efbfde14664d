//! The TIME Coin network: what its nodes say to each other, on top of [`node`](crate::node).
//!
//! | part | what it is |
//! |---|---|
//! | [`wire`] | messages, handshake and framing: JSON with a length before it |
//! | [`AddressRules`] | whom a connection belongs to: one a peer, by its IP address |

mod rules;
pub mod wire;

pub use rules::AddressRules;
