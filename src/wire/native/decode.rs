//! Bytes into messages: one open message a lane.

use std::fmt;
use std::sync::Arc;

use crate::base::Lane;
use crate::wire::dialect::{DecodeStep, Decoder, Payload};
use crate::wire::error::WireError;
use crate::wire::limits::WireLimits;
use crate::wire::message::{Control, FrameKind, MessageHeader, Status};

use super::body::Reassembly;
use super::control;
use super::fields::{Cut, Fields};
use super::header::{self, Header};
use super::spare::BufferPool;

/// The native dialect's [`Decoder`]: 24 bytes while no message is open.
pub struct NativeDecoder {
    /// By lane; the control lane's stays empty. None of them where no message was ever opened, as on most links.
    open: Option<Box<[Option<Box<Open>>; 4]>>,
    common: Arc<DecoderShared>,
    /// Memory of the open messages, summed up.
    buffered: usize,
}

/// What all decoders of a dialect share.
#[derive(Debug)]
pub(super) struct DecoderShared {
    caps: [usize; 4],
    peers: usize,
    spares: Arc<BufferPool>,
}

impl DecoderShared {
    pub(super) fn new(limits: &WireLimits) -> Self {
        let caps = Lane::ALL.map(|lane| limits.message(lane));
        Self { caps, peers: limits.peers, spares: Arc::default() }
    }
}

/// A message that has begun and not ended.
struct Open {
    head: MessageHeader,
    body: Reassembly,
}

impl NativeDecoder {
    pub(super) fn new(common: Arc<DecoderShared>) -> Self {
        Self { open: None, common, buffered: 0 }
    }

    fn open(&self, lane: Lane) -> Option<&Open> {
        self.open.as_ref()?[lane.index()].as_deref()
    }

    fn take_open(&mut self, lane: Lane) -> Option<Box<Open>> {
        self.open.as_mut()?[lane.index()].take()
    }

    /// A frame of the general kind.
    fn frame<'b>(&mut self, word: u32, rest: &'b [u8]) -> Result<DecodeStep<'b>, WireError> {
        let header = Header::parse(word)?;
        self.check_place(&header)?;
        let body = header.len - header.fields();
        match header.kind {
            FrameKind::Cancel if body != 0 => return Err(WireError::CancelPayload { size: body }),
            FrameKind::Event | FrameKind::Request | FrameKind::Response => self.check_size(&header, body)?,
            _ => {}
        }
        if header.continues {
            self.check_id(&header, rest)?;
        }
        let Some(frame) = rest.get(..header.len) else { return Ok(DecodeStep::NeedMore) };
        let used = header::SIZE + header.len;
        if header.kind == FrameKind::Control {
            let control = control::decode(frame, self.common.peers)?;
            if let Control::Abort { lane } = control {
                self.abort(lane)?;
            }
            return Ok(DecodeStep::Control { used, control });
        }
        let lane = header.lane;
        let payload = &frame[header.fields()..];
        let open = if header.continues { self.take_open(lane) } else { None };
        let open = match open {
            Some(open) => open,
            None => {
                let head = read_head(header.kind, frame)?;
                if !header.more {
                    return Ok(DecodeStep::Message { used, lane, head, payload: Payload::Borrowed(payload) });
                }
                Box::new(Open { head, body: Reassembly::default() })
            }
        };
        Ok(self.gather(used, &header, open, payload))
    }

    /// Whether a chunk may come now: a lane's open message is continued, and nothing else comes on that lane.
    fn check_place(&self, header: &Header) -> Result<(), WireError> {
        let Header { kind: got, lane, continues, .. } = *header;
        match (self.open(lane), continues) {
            (None, false) => Ok(()),
            (None, true) => Err(WireError::NothingToContinue { lane }),
            (Some(open), false) => Err(WireError::Interrupted { lane, open: open.head.frame_kind(), got }),
            (Some(open), true) if open.head.frame_kind() != got => {
                Err(WireError::WrongContinuation { lane, open: open.head.frame_kind(), got })
            }
            (Some(_), true) => Ok(()),
        }
    }

    /// Whether the message stays within its lane's cap with what the header announces.
    fn check_size(&self, header: &Header, body: usize) -> Result<(), WireError> {
        let lane = header.lane;
        let held = self.open(lane).map_or(0, |open| open.body.len());
        let (size, cap) = (held + body, self.common.caps[lane.index()]);
        if size > cap { Err(WireError::MessageTooLarge { lane, size, cap }) } else { Ok(()) }
    }

    /// Whether a continuation carries its message's id, as soon as the id is there.
    fn check_id(&self, header: &Header, rest: &[u8]) -> Result<(), WireError> {
        let open = self.open(header.lane).and_then(|open| open.head.id());
        let (Some(open), Some(got)) = (open, rest.first_chunk::<4>()) else { return Ok(()) };
        let got = u32::from_le_bytes(*got);
        if got == open { Ok(()) } else { Err(WireError::WrongId { lane: header.lane, open, got }) }
    }

    /// Adds a chunk's payload to its message, which stays open or is complete.
    fn gather<'b>(
        &mut self,
        used: usize,
        header: &Header,
        mut open: Box<Open>,
        payload: &[u8],
    ) -> DecodeStep<'b> {
        let lane = header.lane;
        let cap = self.common.caps[lane.index()];
        let before = open.body.held();
        open.body.push(payload, header.more, cap, &self.common.spares);
        if header.more {
            self.buffered = self.buffered - before + open.body.held();
            self.open.get_or_insert_default()[lane.index()] = Some(open);
            return DecodeStep::Chunk { used };
        }
        self.buffered -= before;
        let payload = Payload::Owned(self.common.spares.lend(open.body.finish()));
        DecodeStep::Message { used, lane, head: open.head, payload }
    }

    fn abort(&mut self, lane: Lane) -> Result<(), WireError> {
        let Some(open) = self.take_open(lane) else {
            return Err(WireError::NothingToAbort { lane });
        };
        self.buffered -= open.body.held();
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
        let (len, flags) = header::split(word);
        // The commonest frame by far: a whole event (kind and chunk bits all zero) on a lane without an open message.
        // Whatever does not fit exactly takes the general path, which tells what is wrong with it.
        if flags & !header::LANE_BITS == 0 && len <= header::MAX_CHUNK {
            let lane = header::lane_of(flags);
            let fits = lane != Lane::Control
                && self.open(lane).is_none()
                && len.wrapping_sub(2) <= self.common.caps[lane.index()];
            if let (true, Some(frame)) = (fits, rest.get(..len))
                && let Some((kind, payload)) = frame.split_first_chunk::<2>()
            {
                return Ok(DecodeStep::Message {
                    used: header::SIZE + len,
                    lane,
                    head: MessageHeader::Event { kind: u16::from_le_bytes(*kind) },
                    payload: Payload::Borrowed(payload),
                });
            }
        }
        self.frame(word, rest)
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

/// The head of a message, out of its first chunk.
fn read_head(kind: FrameKind, frame: &[u8]) -> Result<MessageHeader, WireError> {
    let mut fields = Fields::new(frame);
    let cut = |Cut { need }| WireError::FrameTooShort { kind, size: frame.len(), need };
    Ok(match kind {
        FrameKind::Event => MessageHeader::Event { kind: fields.u16().map_err(cut)? },
        FrameKind::Request => {
            MessageHeader::Request { id: fields.u32().map_err(cut)?, kind: fields.u16().map_err(cut)? }
        }
        FrameKind::Response => MessageHeader::Response {
            id: fields.u32().map_err(cut)?,
            status: Status::from_code(fields.u8().map_err(cut)?),
        },
        FrameKind::Cancel => MessageHeader::Cancel { id: fields.u32().map_err(cut)? },
        FrameKind::Control => return Err(WireError::ControlLaneReserved { kind }),
    })
}
