//! The native protocol: small chunks, four lanes, ids.
//!
//! ```text
//! frame     = header (4 bytes) fields payload
//! header    = length of all that follows (24 bits, at most 16 KiB), flags (8 bits); little endian
//! flags     = kind (bits 0..3), lane (bits 3..5), more (bit 5), continues (bit 6), zero (bit 7)
//! event     = kind (2)            and payload;  a continuation: payload
//! request   = id (4) kind (2)     and payload;  a continuation: id (4) payload
//! response  = id (4) status (1)   and payload;  a continuation: id (4) payload
//! cancel    = id (4)
//! control   = number (1) fields
//! greeting  = magic (4) number (1) length of the rest (2) fields
//! ```
//!
//! All numbers are little endian. *More* says that another chunk of the same message follows on the lane, *continues*
//! that one came before; a chunk with more to come carries at least 1 KiB, which bounds the chunks of a message by its
//! bytes. Control frames go on the control lane, cancels on any, everything else on the other three.
//!
//! The bytes are frozen by `tests/golden/`.

mod buffer_pool;
mod control;
mod decode;
mod encode;
mod fields;
mod header;
mod hello;
mod reassembly;

pub use decode::NativeDecoder;

use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::base::Lane;

use super::chunk::Chunks;
use super::error::{EncodeError, WireError};
use super::limits::WireLimits;
use super::message::{Control, FirstFrame, Goodbye, Hello, MessageHeader};
use super::protocol::{Features, Protocol};

/// The protocol that peerpool nodes speak among themselves. See [`wire`](super) for what it promises.
#[derive(Clone, Debug)]
pub struct Native {
    limits: WireLimits,
    decoder_shared: Arc<decode::DecoderShared>,
}

impl Native {
    /// The version that this code speaks.
    pub const VERSION: u32 = 1;
    /// How each greeting begins. The first byte begins no text and no TLS record.
    pub const MAGIC: [u8; 4] = [0x9d, b'P', b'P', b'L'];

    /// What [`WireLimits::chunk`] may be: 1 to 16 KiB.
    pub const CHUNK: RangeInclusive<usize> = header::MIN_CHUNK..=header::MAX_CHUNK;
    /// What [`WireLimits::hello`] may be: 2 to 4 KiB.
    pub const HELLO: RangeInclusive<usize> = hello::MIN_CAP..=hello::MAX_CAP;
    /// What [`WireLimits::peers`] may be: up to 800, which is what fits one frame.
    pub const PEERS: RangeInclusive<usize> = 0..=control::MAX_PEERS;

    /// The protocol with these limits, each brought into its bounds: [`Native::CHUNK`], [`Native::HELLO`],
    /// [`Native::PEERS`]; `window` is what the protocol needs.
    pub fn new(limits: WireLimits) -> Self {
        let into = |bounds: RangeInclusive<usize>, limit: usize| limit.clamp(*bounds.start(), *bounds.end());
        let limits = WireLimits {
            chunk: into(Self::CHUNK, limits.chunk),
            hello: into(Self::HELLO, limits.hello),
            peers: into(Self::PEERS, limits.peers),
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
        hello::encode_hello(hello, out)
    }

    fn encode_goodbye(&self, goodbye: &Goodbye, out: &mut BytesMut) -> Result<bool, EncodeError> {
        hello::encode_goodbye(goodbye, out);
        Ok(true)
    }

    fn decode_first_frame(&self, buf: &[u8]) -> Result<Option<(FirstFrame, usize)>, WireError> {
        hello::decode(buf, self.limits.hello)
    }
}
