//! Why a connection ended.

use std::io;

use crate::base::Lane;
use crate::pool::{DisconnectReason, Misbehavior};
use crate::wire::{Goodbye, GoodbyeReason, WireError};

/// Why a connection ended. Only the first cause is reported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// We closed it.
    #[error("closed by us: {}", .0.name())]
    Closed(DisconnectReason),
    /// The peer said goodbye.
    #[error("the peer said goodbye: {:?}", .0.reason)]
    Goodbye(Goodbye),
    /// The peer closed the connection without a goodbye, in a protocol that has one: its process
    /// ended, or the network did.
    #[error("the peer closed the connection without a goodbye")]
    Eof,
    /// The peer closed the connection in a protocol without goodbyes.
    #[error("the peer closed the connection")]
    Ended,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[source] io::Error),
    /// The peer broke the protocol.
    #[error("the peer broke the protocol: {0}")]
    Wire(#[from] WireError),
    /// The peer used the id of a request that is still being handled.
    #[error("the peer used request id {0} twice at the same time")]
    DuplicateRequestId(u32),
    /// The peer sends requests or pings faster than it reads the replies.
    #[error("the peer floods us with control messages")]
    Flood,
    /// The peer was too slow for a lane whose lag policy is to disconnect.
    #[error("the peer is too slow for our broadcasts on the {0:?} lane")]
    TooSlow(Lane),
    /// A message of the peer grows too slowly.
    #[error("a message of the peer grows too slowly (`connection.min_progress`)")]
    NoProgress,
    /// The memory ceiling has no room for what this peer sends.
    #[error("the memory ceiling leaves no room for what the peer sends")]
    MemoryCeiling,
    /// The reaper removed the peer from the pool.
    #[error("the peer had left the pool")]
    Reaped,
}

impl CloseReason {
    /// The reason that the pool records.
    pub fn disconnect_reason(&self) -> DisconnectReason {
        match self {
            Self::Closed(reason) => *reason,
            Self::Goodbye(goodbye) => match goodbye.reason {
                GoodbyeReason::Duplicate => DisconnectReason::Collision,
                GoodbyeReason::Replaced => DisconnectReason::Replaced,
                GoodbyeReason::Closed => DisconnectReason::Closed,
                GoodbyeReason::Shutdown => DisconnectReason::PeerShutdown,
                GoodbyeReason::TooSlow => DisconnectReason::TooSlow,
                _ => DisconnectReason::Rejected,
            },
            Self::Ended => DisconnectReason::Closed,
            Self::Eof | Self::Io(_) => DisconnectReason::Lost,
            Self::Wire(_) | Self::DuplicateRequestId(_) | Self::Flood => DisconnectReason::Protocol,
            Self::TooSlow(_) | Self::MemoryCeiling => DisconnectReason::Overloaded,
            Self::NoProgress => DisconnectReason::NoProgress,
            Self::Reaped => DisconnectReason::Stale,
        }
    }

    /// The fault of the peer that ended the connection, if it was one.
    pub fn misbehavior(&self) -> Option<Misbehavior> {
        match self {
            Self::Wire(error) => Some(fault_of(error)),
            Self::DuplicateRequestId(_) => Some(Misbehavior::Protocol),
            Self::Flood => Some(Misbehavior::Flood),
            Self::NoProgress => Some(Misbehavior::Unresponsive),
            _ => None,
        }
    }

    /// The goodbye to the peer, if it may still listen.
    pub(super) fn goodbye(&self) -> Option<Goodbye> {
        let reason = match self {
            Self::Closed(_) | Self::Goodbye(_) | Self::Eof | Self::Ended | Self::Io(_) => return None,
            Self::Wire(_) | Self::DuplicateRequestId(_) | Self::Flood => GoodbyeReason::Protocol,
            Self::TooSlow(_) => GoodbyeReason::TooSlow,
            Self::MemoryCeiling => GoodbyeReason::Overloaded,
            Self::Reaped | Self::NoProgress => GoodbyeReason::Stale,
        };
        Some(Goodbye::new(reason))
    }
}

fn fault_of(error: &WireError) -> Misbehavior {
    match error {
        WireError::FrameTooLarge { .. }
        | WireError::MessageTooLarge { .. }
        | WireError::TooManyPeers { .. } => Misbehavior::Oversized,
        WireError::ControlOffLane { .. }
        | WireError::ControlLaneReserved { .. }
        | WireError::NothingToContinue { .. }
        | WireError::Interrupted { .. }
        | WireError::WrongContinuation { .. }
        | WireError::WrongId { .. }
        | WireError::NothingToAbort { .. } => Misbehavior::Protocol,
        _ => Misbehavior::Malformed,
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_goodbye_a_silent_end_and_our_own_close_are_told_apart() {
        let goodbye = |reason| CloseReason::Goodbye(Goodbye::new(reason));
        let cases = [
            (goodbye(GoodbyeReason::Closed), DisconnectReason::Closed),
            (goodbye(GoodbyeReason::Shutdown), DisconnectReason::PeerShutdown),
            (goodbye(GoodbyeReason::TooSlow), DisconnectReason::TooSlow),
            (goodbye(GoodbyeReason::Banned), DisconnectReason::Rejected),
            (goodbye(GoodbyeReason::Failed), DisconnectReason::Rejected),
            (goodbye(GoodbyeReason::Duplicate), DisconnectReason::Collision),
            (CloseReason::Eof, DisconnectReason::Lost),
            (CloseReason::Ended, DisconnectReason::Closed),
            (CloseReason::Closed(DisconnectReason::HandlerPanic), DisconnectReason::HandlerPanic),
        ];
        for (reason, recorded) in cases {
            assert_eq!(reason.disconnect_reason(), recorded, "{reason}");
        }
    }
}
