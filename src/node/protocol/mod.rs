//! The protocols that a node speaks, behind one type-erased interface.
//!
//! A node has one pool and one API, and may speak several wire protocols at once: the native one,
//! and for example the one of an existing network. The rest of the node does not know a protocol's
//! type:
//!
//! - [`config`]: [`ProtocolConfig`](config::ProtocolConfig), what an application configures, and
//!   the factory behind it.
//! - [`policy`]: [`PeerPolicy`](policy::PeerPolicy), which decides who a peer is and what it
//!   understands.
//! - [`erased`]: [`DynProtocol`](erased::DynProtocol), the interface without the type.
//! - [`broadcaster`]: its implementation: the three logs and the state table of one protocol.
//! - [`protocol_set`]: all protocols of a node, and the operations that reach all of them.
//!
//! A broadcast is encoded once in each protocol that can express it and appended to that protocol's
//! log; the connections read from there.

use std::fmt;

pub(crate) mod broadcaster;
pub(crate) mod config;
pub(crate) mod erased;
pub(crate) mod policy;
pub(crate) mod protocol_set;

/// A protocol's position among those of its node.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ProtocolId(u16);

impl ProtocolId {
    /// The node's first protocol: the native one unless configured otherwise.
    pub(crate) const FIRST: Self = Self(0);

    /// # Panics
    /// Where there are more than 65,536 protocols: the builder refuses them before.
    pub(crate) fn new(index: usize) -> Self {
        Self(u16::try_from(index).expect("the builder bounds the number of protocols"))
    }

    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Debug for ProtocolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "protocol {}", self.0)
    }
}
