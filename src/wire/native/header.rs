//! The four bytes that begin every native frame.

use crate::base::Lane;
use crate::wire::error::WireError;
use crate::wire::message::FrameKind;

/// Bytes of a frame header.
pub(super) const SIZE: usize = 4;
/// Most bytes that may follow one header.
pub(super) const MAX_CHUNK: usize = 16 * 1024;
/// Fewest bytes that follow a header with the `more` flag.
pub(super) const MIN_CHUNK: usize = 1024;

/// Flag: another chunk of the same message follows.
pub(super) const MORE: u8 = 1 << 5;
/// Flag: an earlier chunk of the same message came before.
pub(super) const CONTINUES: u8 = 1 << 6;
/// Flag bits of the lane.
pub(super) const LANE_BITS: u8 = 0b11 << LANE_SHIFT;
const LANE_SHIFT: u32 = 3;
const KIND_BITS: u8 = 0b111;
const RESERVED_BITS: u8 = 1 << 7;

/// A parsed header that has passed every check that needs no context.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrameHeader {
    pub(super) kind: FrameKind,
    pub(super) lane: Lane,
    /// See [`MORE`].
    pub(super) more: bool,
    /// See [`CONTINUES`].
    pub(super) continues: bool,
    /// Bytes that follow the header.
    pub(super) len: usize,
}

impl FrameHeader {
    pub(super) fn parse(word: u32) -> Result<Self, WireError> {
        let (len, byte) = unpack(word);
        if byte & RESERVED_BITS != 0 {
            return Err(WireError::ReservedBits { byte });
        }
        let kind = match byte & KIND_BITS {
            0 => FrameKind::Event,
            1 => FrameKind::Request,
            2 => FrameKind::Response,
            3 => FrameKind::Cancel,
            4 => FrameKind::Control,
            code => return Err(WireError::UnknownKind { code }),
        };
        if len > MAX_CHUNK {
            return Err(WireError::FrameTooLarge { size: len, cap: MAX_CHUNK });
        }
        let lane = lane_from_flags(byte);
        let header = Self { kind, lane, more: byte & MORE != 0, continues: byte & CONTINUES != 0, len };
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<(), WireError> {
        let Self { kind, lane, more, continues, len: size } = *self;
        match (kind, lane) {
            (FrameKind::Control, Lane::Control) | (FrameKind::Cancel, _) => {}
            (FrameKind::Control, _) => return Err(WireError::ControlOffLane { lane }),
            (_, Lane::Control) => return Err(WireError::ControlLaneReserved { kind }),
            _ => {}
        }
        if matches!(kind, FrameKind::Control | FrameKind::Cancel) && (more || continues) {
            return Err(WireError::NotChunkable { kind });
        }
        let need = self.fields_len();
        if size < need {
            return Err(WireError::FrameTooShort { kind, size, need });
        }
        if more && size < MIN_CHUNK {
            return Err(WireError::ChunkTooSmall { size, min: MIN_CHUNK });
        }
        Ok(())
    }

    /// Bytes between the header and the payload.
    pub(super) fn fields_len(&self) -> usize {
        match (self.kind, self.continues) {
            (FrameKind::Event, false) => 2,
            (FrameKind::Event, true) => 0,
            (FrameKind::Request, false) => 6,
            (FrameKind::Response, false) => 5,
            (FrameKind::Request | FrameKind::Response, true) | (FrameKind::Cancel, _) => 4,
            (FrameKind::Control, _) => 1,
        }
    }
}

/// The length and the flags in a header word.
#[inline]
pub(super) const fn unpack(word: u32) -> (usize, u8) {
    ((word & 0x00ff_ffff) as usize, (word >> 24) as u8)
}

/// The header word of a length, at most [`MAX_CHUNK`], and flags.
#[inline]
pub(super) const fn pack(len: usize, flags: u8) -> u32 {
    len as u32 | (flags as u32) << 24
}

/// The flags of an unchunked message.
#[inline]
pub(super) const fn flags(kind: FrameKind, lane: Lane) -> u8 {
    let kind = match kind {
        FrameKind::Event => 0,
        FrameKind::Request => 1,
        FrameKind::Response => 2,
        FrameKind::Cancel => 3,
        FrameKind::Control => 4,
    };
    kind | (lane.index() as u8) << LANE_SHIFT
}

/// The lane in the flags.
#[inline]
pub(super) const fn lane_from_flags(flags: u8) -> Lane {
    match (flags & LANE_BITS) >> LANE_SHIFT {
        0 => Lane::Control,
        1 => Lane::Urgent,
        2 => Lane::Normal,
        _ => Lane::Bulk,
    }
}
