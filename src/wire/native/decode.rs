//! Bytes into messages: parses frames and reassembles chunked messages, at most one per lane.
//!
//! A whole event, the commonest frame, takes a short path at the top of [`Decoder::step`]. Every
//! other frame goes through `decode_frame`: parse the header, check it against the lane's partial
//! message, wait for the whole frame, then return the message or append the chunk. Every check runs
//! before the bytes that a header announces have arrived.

use std::fmt;
use std::sync::Arc;

use crate::base::Lane;
use crate::wire::error::WireError;
use crate::wire::limits::WireLimits;
use crate::wire::message::{Control, FrameKind, MessageHeader, Status};
use crate::wire::protocol::{DecodeStep, Decoder, Payload};

use super::buffer_pool::BufferPool;
use super::control;
use super::fields::{FieldReader, Truncated};
use super::header::{self, FrameHeader};
use super::reassembly::Reassembly;

/// The native protocol's [`Decoder`]. Takes 24 bytes while no chunked message is in progress.
pub struct NativeDecoder {
    /// By lane; the control lane's entry stays empty. `None` until the first chunked message, and
    /// so on most connections.
    partial: Option<Box<[Option<Box<PartialMessage>>; 4]>>,
    shared: Arc<DecoderShared>,
    /// Bytes of memory held by all partial messages.
    buffered: usize,
}

/// What all decoders of one [`Native`](super::Native) share.
#[derive(Debug)]
pub(super) struct DecoderShared {
    /// Payload bytes per message, by lane.
    max_payload: [usize; 4],
    /// Addresses per `peers` message.
    max_peers: usize,
    buffers: Arc<BufferPool>,
}

impl DecoderShared {
    pub(super) fn new(limits: &WireLimits) -> Self {
        let max_payload = Lane::ALL.map(|lane| limits.message(lane));
        Self { max_payload, max_peers: limits.peers, buffers: Arc::default() }
    }
}

/// A message whose first chunk has arrived and whose last one has not.
struct PartialMessage {
    header: MessageHeader,
    payload: Reassembly,
}

impl NativeDecoder {
    pub(super) fn new(shared: Arc<DecoderShared>) -> Self {
        Self { partial: None, shared, buffered: 0 }
    }

    fn partial(&self, lane: Lane) -> Option<&PartialMessage> {
        self.partial.as_ref()?[lane.index()].as_deref()
    }

    fn take_partial(&mut self, lane: Lane) -> Option<Box<PartialMessage>> {
        self.partial.as_mut()?[lane.index()].take()
    }

    /// Decodes a frame of any kind. `word` is its header, `rest` what has arrived behind the
    /// header.
    fn decode_frame<'b>(&mut self, word: u32, rest: &'b [u8]) -> Result<DecodeStep<'b>, WireError> {
        let frame_header = FrameHeader::parse(word)?;
        self.check_sequence(&frame_header)?;
        let payload_len = frame_header.len - frame_header.fields_len();
        match frame_header.kind {
            FrameKind::Cancel if payload_len != 0 => {
                return Err(WireError::CancelPayload { size: payload_len });
            }
            FrameKind::Event | FrameKind::Request | FrameKind::Response => {
                self.check_size(&frame_header, payload_len)?;
            }
            _ => {}
        }
        if frame_header.continues {
            self.check_id(&frame_header, rest)?;
        }
        let Some(frame) = rest.get(..frame_header.len) else { return Ok(DecodeStep::NeedMore) };
        let used = header::SIZE + frame_header.len;
        if frame_header.kind == FrameKind::Control {
            let control = control::decode(frame, self.shared.max_peers)?;
            if let Control::Abort { lane } = control {
                self.abort(lane)?;
            }
            return Ok(DecodeStep::Control { used, control });
        }
        let lane = frame_header.lane;
        let payload = &frame[frame_header.fields_len()..];
        let partial = if frame_header.continues { self.take_partial(lane) } else { None };
        let partial = match partial {
            Some(partial) => partial,
            None => {
                let header = read_message_header(frame_header.kind, frame)?;
                if !frame_header.more {
                    return Ok(DecodeStep::Message {
                        used,
                        lane,
                        header,
                        payload: Payload::Borrowed(payload),
                    });
                }
                Box::new(PartialMessage { header, payload: Reassembly::default() })
            }
        };
        Ok(self.append(used, &frame_header, partial, payload))
    }

    /// Checks that the frame may come now: a partial message is continued before anything else
    /// comes on its lane.
    fn check_sequence(&self, frame: &FrameHeader) -> Result<(), WireError> {
        let FrameHeader { kind: got, lane, continues, .. } = *frame;
        match (self.partial(lane), continues) {
            (None, false) => Ok(()),
            (None, true) => Err(WireError::NothingToContinue { lane }),
            (Some(open), false) => Err(WireError::Interrupted { lane, open: open.header.frame_kind(), got }),
            (Some(open), true) if open.header.frame_kind() != got => {
                Err(WireError::WrongContinuation { lane, open: open.header.frame_kind(), got })
            }
            (Some(_), true) => Ok(()),
        }
    }

    /// Checks that the message stays within its lane's cap, the announced payload included.
    fn check_size(&self, frame: &FrameHeader, payload_len: usize) -> Result<(), WireError> {
        let lane = frame.lane;
        let received = self.partial(lane).map_or(0, |partial| partial.payload.len());
        let (size, cap) = (received + payload_len, self.shared.max_payload[lane.index()]);
        if size > cap { Err(WireError::MessageTooLarge { lane, size, cap }) } else { Ok(()) }
    }

    /// Checks that a continuation carries its message's id, as soon as the id has arrived.
    fn check_id(&self, frame: &FrameHeader, rest: &[u8]) -> Result<(), WireError> {
        let open = self.partial(frame.lane).and_then(|partial| partial.header.id());
        let (Some(open), Some(got)) = (open, rest.first_chunk::<4>()) else { return Ok(()) };
        let got = u32::from_le_bytes(*got);
        if got == open { Ok(()) } else { Err(WireError::WrongId { lane: frame.lane, open, got }) }
    }

    /// Appends a chunk's payload to its message. Returns the message if it is complete.
    fn append<'b>(
        &mut self,
        used: usize,
        frame: &FrameHeader,
        mut partial: Box<PartialMessage>,
        payload: &[u8],
    ) -> DecodeStep<'b> {
        let lane = frame.lane;
        let cap = self.shared.max_payload[lane.index()];
        let before = partial.payload.memory();
        partial.payload.push(payload, frame.more, cap, &self.shared.buffers);
        if frame.more {
            self.buffered = self.buffered - before + partial.payload.memory();
            self.partial.get_or_insert_default()[lane.index()] = Some(partial);
            return DecodeStep::Chunk { used };
        }
        self.buffered -= before;
        let payload = Payload::Owned(self.shared.buffers.share(partial.payload.finish()));
        DecodeStep::Message { used, lane, header: partial.header, payload }
    }

    fn abort(&mut self, lane: Lane) -> Result<(), WireError> {
        let Some(partial) = self.take_partial(lane) else {
            return Err(WireError::NothingToAbort { lane });
        };
        self.buffered -= partial.payload.memory();
        Ok(())
    }
}

impl Decoder for NativeDecoder {
    #[inline]
    fn step<'b>(&mut self, buf: &'b [u8]) -> Result<DecodeStep<'b>, WireError> {
        let Some((word, rest)) = buf.split_first_chunk::<{ header::SIZE }>() else {
            return Ok(DecodeStep::NeedMore);
        };
        let word = u32::from_le_bytes(*word);
        let (len, flags) = header::unpack(word);
        // Fast path: a whole event (kind and chunk bits all zero) on a lane without a partial
        // message. A frame that fails any of these checks takes the general path, which reports
        // what is wrong with it.
        if flags & !header::LANE_BITS == 0 && len <= header::MAX_CHUNK {
            let lane = header::lane_from_flags(flags);
            let fits = lane != Lane::Control
                && self.partial(lane).is_none()
                && len.wrapping_sub(2) <= self.shared.max_payload[lane.index()];
            if let (true, Some(frame)) = (fits, rest.get(..len))
                && let Some((kind, payload)) = frame.split_first_chunk::<2>()
            {
                return Ok(DecodeStep::Message {
                    used: header::SIZE + len,
                    lane,
                    header: MessageHeader::Event { kind: u16::from_le_bytes(*kind) },
                    payload: Payload::Borrowed(payload),
                });
            }
        }
        self.decode_frame(word, rest)
    }

    fn buffered(&self) -> usize {
        self.buffered
    }
}

impl fmt::Debug for NativeDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NativeDecoder").field("buffered", &self.buffered).finish_non_exhaustive()
    }
}

/// Reads the message header from a message's first chunk.
fn read_message_header(kind: FrameKind, frame: &[u8]) -> Result<MessageHeader, WireError> {
    let mut fields = FieldReader::new(frame);
    let too_short = |Truncated { need }| WireError::FrameTooShort { kind, size: frame.len(), need };
    Ok(match kind {
        FrameKind::Event => MessageHeader::Event { kind: fields.u16().map_err(too_short)? },
        FrameKind::Request => {
            let id = fields.u32().map_err(too_short)?;
            MessageHeader::Request { id, kind: fields.u16().map_err(too_short)? }
        }
        FrameKind::Response => {
            let id = fields.u32().map_err(too_short)?;
            MessageHeader::Response { id, status: Status::from_code(fields.u8().map_err(too_short)?) }
        }
        FrameKind::Cancel => MessageHeader::Cancel { id: fields.u32().map_err(too_short)? },
        FrameKind::Control => return Err(WireError::ControlLaneReserved { kind }),
    })
}
