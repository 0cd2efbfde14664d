//! Frames into messages.

use bytes::Bytes;

use crate::base::Lane;
use crate::wire::{Control, DecodeStep, Decoder, MessageHeader, Payload, WireError};

use super::decline;
use super::dialect::{FRAME_CAP, LENGTH, PIECE};
use super::kinds::{Kind, UNKNOWN};
use super::scan;

/// The `timecoin` dialect's [`Decoder`]: 32 bytes while no long frame is coming in.
#[derive(Debug, Default)]
pub struct TimeCoinDecoder {
    /// What has come of a frame that is taken in piecemeal.
    text: Vec<u8>,
    /// What has yet to come of it, in bytes.
    missing: usize,
}

/// What the room for a long frame is rounded up to.
const PAGE: usize = 4096;

impl Decoder for TimeCoinDecoder {
    #[inline]
    fn step<'b>(&mut self, buf: &'b [u8]) -> Result<DecodeStep<'b>, WireError> {
        if self.missing > 0 {
            let piece = &buf[..buf.len().min(self.missing)];
            return Ok(if piece.is_empty() { DecodeStep::NeedMore } else { self.take_in(0, piece) });
        }
        let Some((length, rest)) = buf.split_first_chunk::<LENGTH>() else { return Ok(DecodeStep::NeedMore) };
        let size = u32::from_be_bytes(*length) as usize;
        if size > FRAME_CAP {
            return Err(WireError::FrameTooLarge { size, cap: FRAME_CAP });
        }
        if size > PIECE {
            self.missing = size;
            return Ok(self.take_in(LENGTH, &rest[..rest.len().min(size)]));
        }
        let Some(text) = rest.get(..size) else { return Ok(DecodeStep::NeedMore) };
        Ok(step_of(LENGTH + size, what(text), Payload::Borrowed(text)))
    }

    fn buffered(&self) -> usize {
        self.text.capacity()
    }
}

impl TimeCoinDecoder {
    /// Adds a piece of a long frame, which stays open or is complete. `head` bytes before it were used too.
    #[cold]
    fn take_in(&mut self, head: usize, piece: &[u8]) -> DecodeStep<'static> {
        let used = head + piece.len();
        let need = self.text.len() + piece.len();
        self.missing -= piece.len();
        if need > self.text.capacity() {
            // Room for as much again pays for each byte about once; never more than the frame takes.
            let room = need.saturating_mul(2).next_multiple_of(PAGE).min(need + self.missing);
            self.text.reserve_exact(room - self.text.len());
        }
        self.text.extend_from_slice(piece);
        if self.missing > 0 {
            return DecodeStep::PartialFrame { used };
        }
        let text = Bytes::from(std::mem::take(&mut self.text));
        step_of(used, what(&text), Payload::Owned(text))
    }
}

/// What a frame holds.
pub(in crate::timecoin) enum What {
    Control(Control),
    Message(MessageHeader),
}

/// What a frame with this text holds, as far as its beginning tells.
#[inline]
pub(in crate::timecoin) fn what(text: &[u8]) -> What {
    match scan::kind_of(text) {
        Some(kind @ (Kind::Ping | Kind::Pong)) if scan::is_whole(kind, text) => What::Control(match kind {
            Kind::Ping => Control::Ping { token: 0 },
            _ => Control::Pong { token: 0 },
        }),
        None | Some(Kind::Ping | Kind::Pong) => What::Message(unknown(text)),
        Some(kind) => What::Message(match kind.awaits() {
            Some(id) => MessageHeader::Request { id, kind: kind.code() },
            None => MessageHeader::Event { kind: kind.code() },
        }),
    }
}

#[cold]
fn unknown(text: &[u8]) -> MessageHeader {
    match decline::read(text) {
        Some((id, status)) => MessageHeader::Response { id, status },
        None => MessageHeader::Event { kind: UNKNOWN },
    }
}

#[inline]
fn step_of(used: usize, what: What, payload: Payload<'_>) -> DecodeStep<'_> {
    match what {
        What::Control(control) => DecodeStep::Control { used, control },
        What::Message(header @ MessageHeader::Response { .. }) => {
            DecodeStep::Message { used, lane: Lane::Normal, header, payload: Payload::Borrowed(&[]) }
        }
        What::Message(header) => DecodeStep::Message { used, lane: Lane::Normal, header, payload },
    }
}
