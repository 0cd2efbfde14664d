//! Messages into bytes.

use bytes::BytesMut;

use crate::base::Lane;
use crate::wire::chunk::{HeadBytes, Opening};
use crate::wire::error::EncodeError;
use crate::wire::limits::WireLimits;
use crate::wire::message::{FrameKind, MessageHeader};

use super::header;

/// Whether a message may be sent at all.
#[inline]
pub(super) fn check(
    limits: &WireLimits,
    lane: Lane,
    head: &MessageHeader,
    size: usize,
) -> Result<(), EncodeError> {
    if let MessageHeader::Cancel { .. } = head {
        return if size == 0 { Ok(()) } else { Err(EncodeError::CancelPayload { size }) };
    }
    if lane == Lane::Control {
        return Err(EncodeError::ControlLaneReserved { kind: head.frame_kind() });
    }
    let cap = limits.message(lane);
    if size > cap {
        return Err(EncodeError::TooLarge { lane, size, cap });
    }
    Ok(())
}

/// Appends a message that [`check`] let pass, in chunks of at most `chunk` bytes after each header.
#[inline]
pub(super) fn message(lane: Lane, head: &MessageHeader, payload: &[u8], chunk: usize, out: &mut BytesMut) {
    // One chunk, each kind with fields of a length known here: one reservation and two copies.
    match *head {
        MessageHeader::Event { kind } if payload.len() + 2 <= chunk => {
            whole(FrameKind::Event, lane, kind.to_le_bytes(), payload, out);
        }
        MessageHeader::Request { id, kind } if payload.len() + 6 <= chunk => {
            whole(FrameKind::Request, lane, request_fields(id, kind), payload, out);
        }
        MessageHeader::Response { id, status } if payload.len() + 5 <= chunk => {
            whole(FrameKind::Response, lane, response_fields(id, status.code()), payload, out);
        }
        MessageHeader::Cancel { id } => whole(FrameKind::Cancel, lane, id.to_le_bytes(), payload, out),
        _ => several(lane, head, payload, chunk, out),
    }
}

#[inline]
fn whole<const N: usize>(kind: FrameKind, lane: Lane, fields: [u8; N], payload: &[u8], out: &mut BytesMut) {
    let len = N + payload.len();
    out.reserve(header::SIZE + len);
    // Header and fields in one copy.
    let mut head = [0; header::SIZE + 6];
    head[..header::SIZE].copy_from_slice(&header::join(len, header::flags(kind, lane)).to_le_bytes());
    head[header::SIZE..header::SIZE + N].copy_from_slice(&fields);
    out.extend_from_slice(&head[..header::SIZE + N]);
    out.extend_from_slice(payload);
}

#[cold]
#[inline(never)]
fn several(lane: Lane, head: &MessageHeader, payload: &[u8], chunk: usize, out: &mut BytesMut) {
    let (first, rest) = openings(lane, head, chunk);
    let more = payload.len().saturating_sub(first.room).div_ceil(rest.room);
    out.reserve(payload.len() + first.head.len() + more * rest.head.len());
    let (mut opening, mut left) = (first, payload);
    loop {
        let (body, after) = left.split_at(left.len().min(opening.room));
        out.extend_from_slice(&seal(opening.head, body.len(), after.is_empty()));
        out.extend_from_slice(body);
        if after.is_empty() {
            return;
        }
        (opening, left) = (rest, after);
    }
}

/// How the first chunk of a message begins, and how the others do.
pub(super) fn openings(lane: Lane, head: &MessageHeader, chunk: usize) -> (Opening, Opening) {
    let flags = header::flags(head.frame_kind(), lane);
    let continued = flags | header::CONTINUES;
    let (first, rest) = match *head {
        MessageHeader::Event { kind } => (opening(flags, &kind.to_le_bytes()), opening(continued, &[])),
        MessageHeader::Request { id, kind } => {
            (opening(flags, &request_fields(id, kind)), opening(continued, &id.to_le_bytes()))
        }
        MessageHeader::Response { id, status } => {
            (opening(flags, &response_fields(id, status.code())), opening(continued, &id.to_le_bytes()))
        }
        MessageHeader::Cancel { id } => {
            (opening(flags, &id.to_le_bytes()), opening(continued, &id.to_le_bytes()))
        }
    };
    let room = |head: HeadBytes| Opening { head, room: chunk + header::SIZE - head.len() };
    (room(first), room(rest))
}

/// Completes the head of a chunk: its length, and whether more follow.
pub(super) fn seal(mut head: HeadBytes, body: usize, last: bool) -> HeadBytes {
    let len = head.len() - header::SIZE + body;
    let flags = if last { head[3] } else { head[3] | header::MORE };
    head[..header::SIZE].copy_from_slice(&header::join(len, flags).to_le_bytes());
    head
}

fn opening(flags: u8, fields: &[u8]) -> HeadBytes {
    let mut bytes = [0; header::SIZE + 6];
    bytes[..header::SIZE].copy_from_slice(&header::join(0, flags).to_le_bytes());
    bytes[header::SIZE..header::SIZE + fields.len()].copy_from_slice(fields);
    HeadBytes::new(&bytes[..header::SIZE + fields.len()]).unwrap_or_default()
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
