//! Decoding frames into messages.

use bytes::Bytes;

use crate::base::Lane;
use crate::wire::{Control, DecodeStep, Decoder, MessageHeader, Payload, WireError};

use super::decline;
use super::kinds::{Kind, UNKNOWN};
use super::peek;
use super::protocol::{LENGTH_BYTES, MAX_FRAME_BYTES, MAX_WHOLE_FRAME_BYTES};

/// Rounding of the buffer for a long frame, in bytes.
const PAGE_BYTES: usize = 4096;

/// The [`Decoder`] of the `timecoin` protocol. It takes 32 bytes while no long frame is in
/// progress.
#[derive(Debug, Default)]
pub struct TimeCoinDecoder {
    /// The part of a long frame that has arrived.
    text: Vec<u8>,
    /// Number of bytes still missing.
    missing: usize,
}

impl Decoder for TimeCoinDecoder {
    #[inline]
    fn step<'b>(&mut self, buf: &'b [u8]) -> Result<DecodeStep<'b>, WireError> {
        if self.missing > 0 {
            let piece = &buf[..buf.len().min(self.missing)];
            return Ok(if piece.is_empty() { DecodeStep::NeedMore } else { self.append(0, piece) });
        }
        let Some((length, rest)) = buf.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(DecodeStep::NeedMore);
        };
        let size = u32::from_be_bytes(*length) as usize;
        if size > MAX_FRAME_BYTES {
            return Err(WireError::FrameTooLarge { size, cap: MAX_FRAME_BYTES });
        }
        if size > MAX_WHOLE_FRAME_BYTES {
            self.missing = size;
            return Ok(self.append(LENGTH_BYTES, &rest[..rest.len().min(size)]));
        }
        let Some(text) = rest.get(..size) else { return Ok(DecodeStep::NeedMore) };
        Ok(step_of(LENGTH_BYTES + size, peek_frame(text), Payload::Borrowed(text)))
    }

    fn buffered(&self) -> usize {
        self.text.capacity()
    }
}

impl TimeCoinDecoder {
    /// Adds a part of a long frame; `head` bytes before it were consumed too.
    #[cold]
    fn append(&mut self, head: usize, piece: &[u8]) -> DecodeStep<'static> {
        let used = head + piece.len();
        let need = self.text.len() + piece.len();
        self.missing -= piece.len();
        if need > self.text.capacity() {
            // Doubling copies each byte about once; the capacity never exceeds the frame.
            let room = need.saturating_mul(2).next_multiple_of(PAGE_BYTES).min(need + self.missing);
            self.text.reserve_exact(room - self.text.len());
        }
        self.text.extend_from_slice(piece);
        if self.missing > 0 {
            return DecodeStep::PartialFrame { used };
        }
        let text = Bytes::from(std::mem::take(&mut self.text));
        step_of(used, peek_frame(&text), Payload::Owned(text))
    }
}

/// The content of a frame.
pub(in crate::timecoin) enum FrameContent {
    Control(Control),
    Message(MessageHeader),
}

/// The content of a frame with this text, as far as its beginning shows.
#[inline]
pub(in crate::timecoin) fn peek_frame(text: &[u8]) -> FrameContent {
    match peek::peek_kind(text) {
        Some(kind @ (Kind::Ping | Kind::Pong)) if peek::is_whole(kind, text) => {
            FrameContent::Control(match kind {
                Kind::Ping => Control::Ping { token: 0 },
                _ => Control::Pong { token: 0 },
            })
        }
        None | Some(Kind::Ping | Kind::Pong) => FrameContent::Message(unknown(text)),
        Some(kind) => FrameContent::Message(match kind.request_slot() {
            Some(id) => MessageHeader::Request { id, kind: kind.code() },
            None => MessageHeader::Event { kind: kind.code() },
        }),
    }
}

#[cold]
fn unknown(text: &[u8]) -> MessageHeader {
    match decline::decode(text) {
        Some((id, status)) => MessageHeader::Response { id, status },
        None => MessageHeader::Event { kind: UNKNOWN },
    }
}

#[inline]
fn step_of(used: usize, what: FrameContent, payload: Payload<'_>) -> DecodeStep<'_> {
    match what {
        FrameContent::Control(control) => DecodeStep::Control { used, control },
        FrameContent::Message(header @ MessageHeader::Response { .. }) => {
            DecodeStep::Message { used, lane: Lane::Normal, header, payload: Payload::Borrowed(&[]) }
        }
        FrameContent::Message(header) => DecodeStep::Message { used, lane: Lane::Normal, header, payload },
    }
}
