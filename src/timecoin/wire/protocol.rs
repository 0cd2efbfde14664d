//! The network's [`Protocol`]: framing and handshake.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::{BufMut, Bytes, BytesMut};

use crate::base::Lane;
use crate::wire::{
    Chunks, Control, EncodeError, Features, FirstFrame, HeaderBytes, Hello, MessageHeader, Protocol, Refusal,
    ReplyMatcher, Status, WireError, WireLimits,
};

use super::decline;
use super::decode::TimeCoinDecoder;
use super::handshake::HandshakeMessage;
use super::hello::{Software, hello_from};
use super::kinds::Kind;
use super::network::NetworkType;
use super::reply_matcher::KindReplyMatcher;

/// Number of message kinds.
const KINDS: u32 = Kind::ALL.len() as u32;
/// Longest text of a frame, in bytes.
pub(super) const MAX_FRAME_BYTES: usize = 10 * 1024 * 1024;
/// Longest text of a frame that is taken from the read buffer in one piece, in bytes.
pub(super) const MAX_WHOLE_FRAME_BYTES: usize = 16 * 1024;
/// Length prefix of a frame, in bytes.
pub(super) const LENGTH_BYTES: usize = 4;
/// Magic and length before a handshake's text, in bytes.
const HANDSHAKE_HEADER_BYTES: usize = 8;

/// The protocol of the TIME Coin network, named `timecoin`.
///
/// A message's payload is the JSON text of a [`NetworkMessage`](super::NetworkMessage). Its kind is
/// the position of the variant ([`Kind`]) and is not sent separately.
///
/// # Received
/// - A request is a [`MessageHeader::Request`] whose id is its reply slot. All other messages,
///   replies included, are [`MessageHeader::Event`]s; [`Protocol::reply_matcher`] finds the request
///   that a reply answers.
/// - Pings and pongs are control messages. Everything arrives on [`Lane::Normal`].
/// - A refusal is a [`MessageHeader::Response`] whose id is the slot.
/// - A frame with an unknown name is an event of the kind [`UNKNOWN`](super::UNKNOWN). Only the
///   typed parse validates the rest of a frame.
///
/// # Sent
/// - A reply with [`Status::Ok`] is a frame. A refusal is a frame that only peerpool nodes
///   understand; its payload is not sent. It is empty if the id is not a slot. Legacy nodes get no
///   refusals ([`PeerCapabilities`](crate::node::PeerCapabilities)). A cancel has no bytes.
/// - A handshake has no nonce, no features and no application bytes; without a listening address it
///   has `0.0.0.0:0`.
///
/// # Handshakes
/// The network in a [`Hello`] is [`NetworkType::id`]. Of a received handshake, the agent is the
/// software version, cut to [`Hello::MAX_AGENT`] bytes and without control characters. A genesis
/// that is not a hash becomes one that equals no hash. The application bytes are a
/// [`PeerSoftware`](super::PeerSoftware) as JSON.
#[derive(Clone, Debug)]
pub struct TimeCoin {
    network: NetworkType,
    software: Software,
    clock: fn() -> u64,
    limits: WireLimits,
    reply_matcher: Arc<KindReplyMatcher>,
}

impl TimeCoin {
    /// Longest text of a message, in bytes.
    pub const MAX_MESSAGE: usize = MAX_FRAME_BYTES;

    /// The protocol on `network`.
    pub fn new(network: NetworkType, software: Software) -> Self {
        let limits = WireLimits {
            urgent: MAX_FRAME_BYTES,
            normal: MAX_FRAME_BYTES,
            bulk: MAX_FRAME_BYTES,
            hello: HANDSHAKE_HEADER_BYTES + HandshakeMessage::MAX_SIZE,
            chunk: MAX_FRAME_BYTES,
            window: LENGTH_BYTES + MAX_WHOLE_FRAME_BYTES,
            peers: 0,
        };
        Self { network, software, clock: unix_seconds, limits, reply_matcher: Arc::new(KindReplyMatcher) }
    }

    /// The protocol on the main network.
    pub fn mainnet(software: Software) -> Self {
        Self::new(NetworkType::Mainnet, software)
    }

    /// The protocol on the test network.
    pub fn testnet(software: Software) -> Self {
        Self::new(NetworkType::Testnet, software)
    }

    /// Sets the source of handshake timestamps, in seconds since 1970. Default: the system clock.
    #[must_use]
    pub fn clock(self, clock: fn() -> u64) -> Self {
        Self { clock, ..self }
    }

    /// The network.
    pub const fn network(&self) -> NetworkType {
        self.network
    }

    /// The bytes of a refusal, empty if it cannot be expressed; `None` for any other message.
    #[inline]
    fn refusal(head: &MessageHeader) -> Option<Bytes> {
        match *head {
            MessageHeader::Response { id, status } if status != Status::Ok => {
                Some(decline::encode(id, status).map_or_else(Bytes::new, Bytes::from))
            }
            _ => None,
        }
    }

    /// The length prefix of a message that may be sent; `None` for one that has no bytes.
    #[inline]
    fn frame_head(
        &self,
        lane: Lane,
        head: &MessageHeader,
        size: usize,
    ) -> Result<Option<[u8; LENGTH_BYTES]>, EncodeError> {
        match *head {
            MessageHeader::Cancel { .. } if size > 0 => return Err(EncodeError::CancelPayload { size }),
            MessageHeader::Cancel { .. } => return Ok(None),
            _ if lane == Lane::Control => {
                return Err(EncodeError::ControlLaneReserved { kind: head.frame_kind() });
            }
            MessageHeader::Response { status, .. } if status != Status::Ok && size == 0 => return Ok(None),
            MessageHeader::Event { kind } | MessageHeader::Request { kind, .. }
                if u32::from(kind) >= KINDS =>
            {
                return Err(EncodeError::Unsupported { what: "message of this kind" });
            }
            _ => {}
        }
        if size > MAX_FRAME_BYTES {
            return Err(EncodeError::TooLarge { lane, size, cap: MAX_FRAME_BYTES });
        }
        Ok(Some((size as u32).to_be_bytes()))
    }
}

impl Protocol for TimeCoin {
    type Decoder = TimeCoinDecoder;

    fn name(&self) -> &'static str {
        "timecoin"
    }

    fn version(&self) -> u32 {
        HandshakeMessage::PROTOCOL_VERSION
    }

    fn features(&self) -> Features {
        Features { kinds: KINDS, requests: true, ..Features::NONE }
    }

    fn limits(&self) -> &WireLimits {
        &self.limits
    }

    fn decoder(&self) -> TimeCoinDecoder {
        TimeCoinDecoder::default()
    }

    #[inline]
    fn encode(
        &self,
        lane: Lane,
        head: &MessageHeader,
        payload: &[u8],
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        let refusal = Self::refusal(head);
        let payload = refusal.as_deref().unwrap_or(payload);
        if let Some(length) = self.frame_head(lane, head, payload.len())? {
            out.reserve(LENGTH_BYTES + payload.len());
            out.put_slice(&length);
            out.put_slice(payload);
        }
        Ok(())
    }

    fn chunks(&self, lane: Lane, head: MessageHeader, payload: Bytes) -> Result<Chunks, EncodeError> {
        let payload = Self::refusal(&head).unwrap_or(payload);
        Ok(match self.frame_head(lane, &head, payload.len())? {
            Some(length) => Chunks::single(HeaderBytes::new(&length).unwrap_or_default(), payload),
            None => Chunks::single(HeaderBytes::default(), Bytes::new()),
        })
    }

    fn encode_control(&self, control: &Control, out: &mut BytesMut) -> Result<bool, EncodeError> {
        match control {
            Control::Ping { .. } => out.put_slice(b"\0\0\0\x06\"Ping\""),
            Control::Pong { .. } => out.put_slice(b"\0\0\0\x06\"Pong\""),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn encode_hello(&self, hello: &Hello, out: &mut BytesMut) -> Result<(), EncodeError> {
        Hello::validate_agent(hello.agent.as_bytes()).map_err(EncodeError::Agent)?;
        let mut text = Vec::with_capacity(512);
        self.software.handshake(self.network, hello, (self.clock)())?.encode(&mut text);
        let (size, cap) = (HANDSHAKE_HEADER_BYTES + text.len(), self.limits.hello);
        if size > cap {
            return Err(EncodeError::FirstFrameTooLarge { size, cap });
        }
        out.reserve(size);
        out.put_slice(&self.network.magic());
        out.put_u32(text.len() as u32);
        out.put_slice(&text);
        Ok(())
    }

    /// This network refuses a connection by closing it.
    fn encode_refusal(&self, _: &Refusal, _: &mut BytesMut) -> Result<bool, EncodeError> {
        Ok(false)
    }

    fn reply_matcher(&self) -> Option<Arc<dyn ReplyMatcher>> {
        Some(Arc::clone(&self.reply_matcher) as Arc<dyn ReplyMatcher>)
    }

    fn decode_first_frame(&self, buf: &[u8]) -> Result<Option<(FirstFrame, usize)>, WireError> {
        if buf.iter().zip(&self.network.magic()).any(|(got, want)| got != want) {
            return Err(WireError::BadMagic);
        }
        let Some(length) = buf.get(4..).and_then(|rest| rest.first_chunk()) else { return Ok(None) };
        let size = (u32::from_be_bytes(*length) as usize).saturating_add(HANDSHAKE_HEADER_BYTES);
        let cap = self.limits.hello;
        if size > cap {
            return Err(WireError::FirstFrameTooLarge { size, cap });
        }
        let Some(text) = buf.get(HANDSHAKE_HEADER_BYTES..size) else { return Ok(None) };
        let handshake =
            HandshakeMessage::decode(text).map_err(|_| WireError::Malformed { what: "handshake" })?;
        Ok(Some((FirstFrame::Hello(hello_from(handshake)), size)))
    }
}

fn unix_seconds() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs())
}
