//! The four bytes that begin a frame.

use crate::base::Lane;
use crate::wire::error::WireError;
use crate::wire::message::FrameKind;

/// Bytes of a header.
pub(super) const SIZE: usize = 4;
/// Most bytes that may follow one header.
pub(super) const MAX_CHUNK: usize = 16 * 1024;
/// Fewest bytes that follow a header which says that more chunks come.
pub(super) const MIN_CHUNK: usize = 1024;

pub(super) const MORE: u8 = 1 << 5;
pub(super) const CONTINUES: u8 = 1 << 6;
pub(super) const LANE_BITS: u8 = 0b11 << LANE_SHIFT;
const LANE_SHIFT: u32 = 3;
const KIND_BITS: u8 = 0b111;
const RESERVED: u8 = 1 << 7;

/// A header that has been checked on its own: everything that does not depend on what came before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) kind: FrameKind,
    pub(super) lane: Lane,
    pub(super) more: bool,
    pub(super) continues: bool,
    /// Bytes that follow the header.
    pub(super) len: usize,
}

impl Header {
    pub(super) fn parse(word: u32) -> Result<Self, WireError> {
        let (len, byte) = split(word);
        if byte & RESERVED != 0 {
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
        let header =
            Self { kind, lane: lane_of(byte), more: byte & MORE != 0, continues: byte & CONTINUES != 0, len };
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
        let need = self.fields();
        if size < need {
            return Err(WireError::FrameTooShort { kind, size, need });
        }
        if more && size < MIN_CHUNK {
            return Err(WireError::ChunkTooSmall { size, min: MIN_CHUNK });
        }
        Ok(())
    }

    /// Bytes of the fields before the payload.
    pub(super) fn fields(&self) -> usize {
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

/// Length and flags of a header word.
#[inline]
pub(super) const fn split(word: u32) -> (usize, u8) {
    ((word & 0x00ff_ffff) as usize, (word >> 24) as u8)
}

/// The header word of these flags and this length, which is at most [`MAX_CHUNK`].
#[inline]
pub(super) const fn join(len: usize, flags: u8) -> u32 {
    len as u32 | (flags as u32) << 24
}

/// The flags of a message's first and only chunk.
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

/// The lane in these flags.
#[inline]
pub(super) const fn lane_of(flags: u8) -> Lane {
    match (flags & LANE_BITS) >> LANE_SHIFT {
        0 => Lane::Control,
        1 => Lane::Urgent,
        2 => Lane::Normal,
        _ => Lane::Bulk,
    }
}
