//! The native protocol: small chunks, four lanes, ids.
//!
//! ```text
//! frame       = header (4 bytes) fields payload
//! header      = length of all that follows (24 bits, at most 16 KiB), flags (8 bits)
//! flags       = kind (bits 0..3), lane (bits 3..5), more (bit 5), continues (bit 6), zero (bit 7)
//! event       = kind (2)            and payload;  a continuation: payload
//! request     = id (4) kind (2)     and payload;  a continuation: id (4) payload
//! response    = id (4) status (1)   and payload;  a continuation: id (4) payload
//! cancel      = id (4)
//! control     = number (1) fields
//! first frame = magic (4) number (1) length of the rest (2) fields
//! ```
//!
//! - All numbers are little endian.
//! - *more*: another chunk of the same message follows on the lane. Such a chunk has at least 1
//!   KiB, so the size of a message bounds the number of its chunks.
//! - *continues*: an earlier chunk of the same message came before.
//! - Control frames go on the control lane, cancels on any lane, all other frames on the other
//!   three lanes.
//!
//! `tests/golden/` freezes the bytes.

mod buffer_pool;
mod control;
mod decode;
mod encode;
mod fields;
mod first_frame;
mod header;
mod reassembly;

pub use decode::NativeDecoder;

use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::base::Lane;

use super::chunk::Chunks;
use super::error::{EncodeError, WireError};
use super::features::Features;
use super::limits::WireLimits;
use super::message::{Control, FirstFrame, Hello, MessageHeader, Refusal};
use super::protocol::Protocol;

/// The protocol between peerpool nodes. [`wire`](super) lists its invariants.
#[derive(Clone, Debug)]
pub struct Native {
    limits: WireLimits,
    decoder_shared: Arc<decode::DecoderShared>,
}

impl Native {
    /// The supported version.
    pub const VERSION: u32 = 2;
    /// The first bytes of every first frame. No text and no TLS record begins with the first byte.
    pub const MAGIC: [u8; 4] = [0x9d, b'P', b'P', b'L'];

    /// The range of [`WireLimits::chunk`]: 1 to 16 KiB.
    pub const CHUNK_RANGE: RangeInclusive<usize> = header::MIN_CHUNK..=header::MAX_CHUNK;
    /// The range of [`WireLimits::hello`]: 2 to 4 KiB.
    pub const HELLO_RANGE: RangeInclusive<usize> = first_frame::MIN_LIMIT..=first_frame::MAX_LIMIT;
    /// The range of [`WireLimits::peers`]: up to 800, the most that fit one frame.
    pub const PEERS_RANGE: RangeInclusive<usize> = 0..=control::MAX_PEERS;

    /// The protocol with these limits. Values outside [`Native::CHUNK_RANGE`],
    /// [`Native::HELLO_RANGE`] and [`Native::PEERS_RANGE`] are clamped; `window` is set to what the
    /// protocol needs.
    pub fn new(limits: WireLimits) -> Self {
        let clamp = |range: RangeInclusive<usize>, limit: usize| limit.clamp(*range.start(), *range.end());
        let limits = WireLimits {
            chunk: clamp(Self::CHUNK_RANGE, limits.chunk),
            hello: clamp(Self::HELLO_RANGE, limits.hello),
            peers: clamp(Self::PEERS_RANGE, limits.peers),
            window: header::SIZE + header::MAX_CHUNK,
            ..limits
        };
        let decoder_shared = Arc::new(decode::DecoderShared::new(&limits));
        Self { limits, decoder_shared }
    }
}

impl Default for Native {
    fn default() -> Self {
        Self::new(WireLimits::default())
    }
}

impl Protocol for Native {
    type Decoder = NativeDecoder;

    fn name(&self) -> &'static str {
        "native"
    }

    fn version(&self) -> u32 {
        Self::VERSION
    }

    fn features(&self) -> Features {
        Features::ALL
    }

    fn limits(&self) -> &WireLimits {
        &self.limits
    }

    fn decoder(&self) -> NativeDecoder {
        NativeDecoder::new(Arc::clone(&self.decoder_shared))
    }

    #[inline]
    fn encode(
        &self,
        lane: Lane,
        header: &MessageHeader,
        payload: &[u8],
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        encode::check(&self.limits, lane, header, payload.len())?;
        encode::message(lane, header, payload, self.limits.chunk, out);
        Ok(())
    }

    fn chunks(&self, lane: Lane, header: MessageHeader, payload: Bytes) -> Result<Chunks, EncodeError> {
        encode::check(&self.limits, lane, &header, payload.len())?;
        let (first, rest) = encode::chunk_templates(lane, &header, self.limits.chunk);
        Ok(Chunks::split(payload, first, rest, encode::complete_header))
    }

    fn encode_control(&self, control: &Control, out: &mut BytesMut) -> Result<bool, EncodeError> {
        control::encode(control, self.limits.peers, out)?;
        Ok(true)
    }

    fn encode_hello(&self, hello: &Hello, out: &mut BytesMut) -> Result<(), EncodeError> {
        first_frame::encode_hello(hello, out)
    }

    fn encode_refusal(&self, refusal: &Refusal, out: &mut BytesMut) -> Result<bool, EncodeError> {
        first_frame::encode_refusal(refusal, out)?;
        Ok(true)
    }

    fn decode_first_frame(&self, buf: &[u8]) -> Result<Option<(FirstFrame, usize)>, WireError> {
        first_frame::decode(buf, self.limits.hello)
    }
}
