//! The TIME Coin network: what its nodes say to each other, on top of [`node`](crate::node).
//!
//! | part | what it is |
//! |---|---|
//! | [`wire`] | messages, handshake and framing: JSON with a length before it |

pub mod wire;
