//! What all connections of one node and protocol share.

use std::sync::Arc;

use crate::base::Lane;
use crate::wire::{EncodeError, Features, MessageHeader, ReplyMatcher, WireLimits};

use super::budget::MemoryBudget;
use super::config::ConnectionConfig;

/// What all connections of one node and protocol share.
#[derive(Debug)]
pub struct ConnectionShared {
    /// Bounds of each connection.
    pub config: ConnectionConfig,
    /// The memory ceiling that they count against.
    pub budget: Arc<MemoryBudget>,
    /// The protocol's limits.
    pub limits: WireLimits,
    /// What the protocol can express.
    pub features: Features,
    /// How responses find their requests in a protocol without ids.
    pub reply_matcher: Option<Arc<dyn ReplyMatcher>>,
    /// The protocol's name.
    pub protocol: &'static str,
}

impl ConnectionShared {
    /// Requests of one peer that are handled at the same time; at least one.
    pub(super) fn max_inbound_requests(&self) -> usize {
        self.config.max_inbound_requests.max(1)
    }

    /// Whether the protocol can carry such a message on this lane.
    pub(super) fn check(&self, lane: Lane, header: &MessageHeader, size: usize) -> Result<(), EncodeError> {
        let cap = self.limits.message(lane);
        if lane == Lane::Control {
            Err(EncodeError::ControlLaneReserved { kind: header.frame_kind() })
        } else if size > cap {
            Err(EncodeError::TooLarge { lane, size, cap })
        } else {
            self.features.check(header)
        }
    }
}
