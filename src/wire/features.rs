//! What a protocol can express.

use super::error::EncodeError;
use super::message::MessageHeader;

/// What a protocol can express at all.
///
/// The encoder refuses the rest with [`EncodeError::Unsupported`]; control messages it leaves out,
/// see [`Protocol::encode_control`](super::Protocol::encode_control).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Events and requests whose kind is below this number. [`Features::ALL_KINDS`] means every
    /// kind.
    pub kinds: u32,
    /// Requests, responses and cancels with ids.
    pub requests: bool,
    /// Frames carry their lane. Without it every message arrives on
    /// [`Lane::Normal`](crate::base::Lane::Normal).
    pub lanes: bool,
    /// Large messages are split into chunks, so that other lanes interleave, and
    /// [`Control::Abort`](super::Control::Abort) ends one. Without it a message is one frame of any
    /// size.
    pub chunks: bool,
    /// Pongs repeat the token of their ping. Without it:
    /// - tokens arrive as zero, and a pong answers the oldest ping;
    /// - bulk data in flight is not bounded, because the bound uses pings of its own (tokens with
    ///   the highest bit set).
    pub ping_tokens: bool,
    /// [`Control::Goodbye`](super::Control::Goodbye), and a goodbye in place of a hello.
    pub goodbye: bool,
    /// [`Control::GetPeers`](super::Control::GetPeers) and
    /// [`Control::Peers`](super::Control::Peers).
    pub peers: bool,
    /// Hellos carry a nonce.
    pub nonce: bool,
}

impl Features {
    /// [`Features::kinds`] of a protocol that carries every kind.
    pub const ALL_KINDS: u32 = 1 << 16;
    /// Every feature.
    pub const ALL: Self = Self {
        kinds: Self::ALL_KINDS,
        requests: true,
        lanes: true,
        chunks: true,
        ping_tokens: true,
        goodbye: true,
        peers: true,
        nonce: true,
    };
    /// No feature: events of every kind, and pings.
    pub const NONE: Self = Self {
        kinds: Self::ALL_KINDS,
        requests: false,
        lanes: false,
        chunks: false,
        ping_tokens: false,
        goodbye: false,
        peers: false,
        nonce: false,
    };

    /// Checks that the protocol can express a message with this header.
    ///
    /// # Errors
    /// [`EncodeError::Unsupported`], the error that [`Protocol::encode`](super::Protocol::encode)
    /// would return.
    pub const fn check(&self, header: &MessageHeader) -> Result<(), EncodeError> {
        match *header {
            MessageHeader::Request { .. } | MessageHeader::Response { .. } | MessageHeader::Cancel { .. }
                if !self.requests =>
            {
                Err(EncodeError::Unsupported { what: "request" })
            }
            MessageHeader::Event { kind } | MessageHeader::Request { kind, .. }
                if kind as u32 >= self.kinds =>
            {
                Err(EncodeError::Unsupported { what: "message of this kind" })
            }
            _ => Ok(()),
        }
    }
}
