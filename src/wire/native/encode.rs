//! Messages into bytes: one frame, or several chunks.

use bytes::BytesMut;

use crate::base::Lane;
use crate::wire::chunk::{ChunkTemplate, HeaderBytes};
use crate::wire::error::EncodeError;
use crate::wire::limits::WireLimits;
use crate::wire::message::{FrameKind, MessageHeader};

use super::header;

/// Most bytes of fields between a frame header and a payload: a request's id and kind.
const MAX_FIELDS: usize = 6;

/// Checks that a message may be sent.
#[inline]
pub(super) fn check(
    limits: &WireLimits,
    lane: Lane,
    header: &MessageHeader,
    size: usize,
) -> Result<(), EncodeError> {
    if let MessageHeader::Cancel { .. } = header {
        return if size == 0 { Ok(()) } else { Err(EncodeError::CancelPayload { size }) };
    }
    if lane == Lane::Control {
        return Err(EncodeError::ControlLaneReserved { kind: header.frame_kind() });
    }
    let cap = limits.message(lane);
    if size > cap {
        return Err(EncodeError::TooLarge { lane, size, cap });
    }
    Ok(())
}

/// Appends a message that has passed [`check`], in chunks of at most `max_chunk` bytes after each
/// header.
#[inline]
pub(super) fn message(
    lane: Lane,
    header: &MessageHeader,
    payload: &[u8],
    max_chunk: usize,
    out: &mut BytesMut,
) {
    // A single frame whose fields have a constant length takes one reservation and two copies.
    match *header {
        MessageHeader::Event { kind } if payload.len() + 2 <= max_chunk => {
            single_frame(FrameKind::Event, lane, kind.to_le_bytes(), payload, out);
        }
        MessageHeader::Request { id, kind } if payload.len() + 6 <= max_chunk => {
            single_frame(FrameKind::Request, lane, request_fields(id, kind), payload, out);
        }
        MessageHeader::Response { id, status } if payload.len() + 5 <= max_chunk => {
            single_frame(FrameKind::Response, lane, response_fields(id, status.code()), payload, out);
        }
        MessageHeader::Cancel { id } => {
            single_frame(FrameKind::Cancel, lane, id.to_le_bytes(), payload, out);
        }
        _ => chunked(lane, header, payload, max_chunk, out),
    }
}

#[inline]
fn single_frame<const N: usize>(
    kind: FrameKind,
    lane: Lane,
    fields: [u8; N],
    payload: &[u8],
    out: &mut BytesMut,
) {
    let len = N + payload.len();
    out.reserve(header::SIZE + len);
    // Header and fields in one copy.
    let mut start = [0; header::SIZE + MAX_FIELDS];
    start[..header::SIZE].copy_from_slice(&header::pack(len, header::flags(kind, lane)).to_le_bytes());
    start[header::SIZE..header::SIZE + N].copy_from_slice(&fields);
    out.extend_from_slice(&start[..header::SIZE + N]);
    out.extend_from_slice(payload);
}

#[cold]
#[inline(never)]
fn chunked(lane: Lane, header: &MessageHeader, payload: &[u8], max_chunk: usize, out: &mut BytesMut) {
    let (first, rest) = chunk_templates(lane, header, max_chunk);
    let later_chunks = payload.len().saturating_sub(first.max_payload).div_ceil(rest.max_payload);
    out.reserve(payload.len() + first.header.len() + later_chunks * rest.header.len());
    let (mut template, mut left) = (first, payload);
    loop {
        let (chunk, after) = left.split_at(left.len().min(template.max_payload));
        out.extend_from_slice(&complete_header(template.header, chunk.len(), after.is_empty()));
        out.extend_from_slice(chunk);
        if after.is_empty() {
            return;
        }
        (template, left) = (rest, after);
    }
}

/// The templates of a message's first chunk and of its later chunks.
pub(super) fn chunk_templates(
    lane: Lane,
    header: &MessageHeader,
    max_chunk: usize,
) -> (ChunkTemplate, ChunkTemplate) {
    let flags = header::flags(header.frame_kind(), lane);
    let continued = flags | header::CONTINUES;
    let (first, rest) = match *header {
        MessageHeader::Event { kind } => {
            (header_bytes(flags, &kind.to_le_bytes()), header_bytes(continued, &[]))
        }
        MessageHeader::Request { id, kind } => {
            (header_bytes(flags, &request_fields(id, kind)), header_bytes(continued, &id.to_le_bytes()))
        }
        MessageHeader::Response { id, status } => {
            let fields = response_fields(id, status.code());
            (header_bytes(flags, &fields), header_bytes(continued, &id.to_le_bytes()))
        }
        MessageHeader::Cancel { id } => {
            (header_bytes(flags, &id.to_le_bytes()), header_bytes(continued, &id.to_le_bytes()))
        }
    };
    let template =
        |header: HeaderBytes| ChunkTemplate { header, max_payload: max_chunk + header::SIZE - header.len() };
    (template(first), template(rest))
}

/// Fills in the length of a chunk, and the flag that more follow.
pub(super) fn complete_header(mut header: HeaderBytes, payload_len: usize, last: bool) -> HeaderBytes {
    let len = header.len() - header::SIZE + payload_len;
    let flags = if last { header[3] } else { header[3] | header::MORE };
    header[..header::SIZE].copy_from_slice(&header::pack(len, flags).to_le_bytes());
    header
}

/// A frame header of length zero, followed by its fields.
fn header_bytes(flags: u8, fields: &[u8]) -> HeaderBytes {
    let mut bytes = [0; header::SIZE + MAX_FIELDS];
    bytes[..header::SIZE].copy_from_slice(&header::pack(0, flags).to_le_bytes());
    bytes[header::SIZE..header::SIZE + fields.len()].copy_from_slice(fields);
    HeaderBytes::new(&bytes[..header::SIZE + fields.len()]).unwrap_or_default()
}

#[inline]
fn request_fields(id: u32, kind: u16) -> [u8; 6] {
    let ([a, b, c, d], [e, f]) = (id.to_le_bytes(), kind.to_le_bytes());
    [a, b, c, d, e, f]
}

#[inline]
fn response_fields(id: u32, status: u8) -> [u8; 5] {
    let [a, b, c, d] = id.to_le_bytes();
    [a, b, c, d, status]
}
