//! Control messages: a number, then fields of fixed or proven length.

use bytes::{BufMut, BytesMut};

use crate::base::Lane;
use crate::wire::error::{EncodeError, WireError};
use crate::wire::message::{Control, FrameKind};

use super::fields::{self, AddrError, FieldReader, Truncated};
use super::header;

/// Most addresses in one `peers` frame, whatever their families.
pub(super) const MAX_PEERS: usize = 800;

const PING: u8 = 1;
const PONG: u8 = 2;
const GOODBYE: u8 = 3;
const ABORT: u8 = 4;
const GET_PEERS: u8 = 5;
const PEERS: u8 = 6;
const MISSED: u8 = 7;

// The number, the count and the longest list fit one frame.
const _: () = assert!(1 + 2 + MAX_PEERS * fields::IPV6_LEN <= header::MAX_CHUNK);

/// Appends a control frame.
pub(super) fn encode(control: &Control, max_peers: usize, out: &mut BytesMut) -> Result<(), EncodeError> {
    let len = fields_len(control, max_peers)?;
    out.reserve(header::SIZE + 1 + len);
    out.put_u32_le(header::pack(1 + len, header::flags(FrameKind::Control, Lane::Control)));
    match control {
        Control::Ping { token } => {
            out.put_u8(PING);
            out.put_u64_le(*token);
        }
        Control::Pong { token } => {
            out.put_u8(PONG);
            out.put_u64_le(*token);
        }
        Control::Goodbye(goodbye) => {
            out.put_u8(GOODBYE);
            fields::put_goodbye(goodbye, out);
        }
        Control::Abort { lane } => {
            out.put_u8(ABORT);
            out.put_u8(lane.index() as u8);
        }
        Control::GetPeers { max } => {
            out.put_u8(GET_PEERS);
            out.put_u16_le(*max);
        }
        Control::Peers(peers) => {
            out.put_u8(PEERS);
            out.put_u16_le(peers.len() as u16);
            peers.iter().for_each(|addr| fields::put_addr(*addr, out));
        }
        Control::Missed { lane, count } => {
            out.put_u8(MISSED);
            out.put_u8(lane.index() as u8);
            out.put_u64_le(*count);
        }
    }
    Ok(())
}

/// Bytes of a control message's fields. Fails if the message must not be sent.
fn fields_len(control: &Control, max_peers: usize) -> Result<usize, EncodeError> {
    match control {
        Control::Ping { .. } | Control::Pong { .. } => Ok(8),
        Control::Goodbye(_) => Ok(fields::GOODBYE_LEN),
        Control::Abort { lane: Lane::Control } | Control::Missed { lane: Lane::Control, .. } => {
            Err(EncodeError::BadLane)
        }
        Control::Abort { .. } => Ok(1),
        Control::GetPeers { .. } => Ok(2),
        Control::Missed { .. } => Ok(1 + 8),
        Control::Peers(peers) if peers.len() > max_peers => {
            Err(EncodeError::TooManyPeers { count: peers.len(), cap: max_peers })
        }
        Control::Peers(peers) => Ok(2 + peers.iter().map(|addr| fields::addr_len(*addr)).sum::<usize>()),
    }
}

/// Decodes a control frame, without its header.
pub(super) fn decode(frame: &[u8], max_peers: usize) -> Result<Control, WireError> {
    let mut fields = FieldReader::new(frame);
    let Ok(code) = fields.u8() else {
        return Err(WireError::FrameTooShort { kind: FrameKind::Control, size: 0, need: 1 });
    };
    let name = match code {
        PING => "ping",
        PONG => "pong",
        GOODBYE => "goodbye",
        ABORT => "abort",
        GET_PEERS => "get_peers",
        PEERS => "peers",
        MISSED => "missed",
        code => return Err(WireError::UnknownControl { code }),
    };
    // The number counts neither in `size` nor in `need`.
    let bad_length =
        |need: usize| WireError::ControlLength { control: name, size: frame.len() - 1, need: need - 1 };
    let truncated = |Truncated { need }| bad_length(need);
    let control = match code {
        PING => Control::Ping { token: fields.u64().map_err(truncated)? },
        PONG => Control::Pong { token: fields.u64().map_err(truncated)? },
        GOODBYE => Control::Goodbye(fields.goodbye().map_err(truncated)?),
        ABORT => Control::Abort { lane: message_lane(fields.u8().map_err(truncated)?)? },
        MISSED => {
            let lane = message_lane(fields.u8().map_err(truncated)?)?;
            Control::Missed { lane, count: fields.u64().map_err(truncated)? }
        }
        GET_PEERS => Control::GetPeers { max: fields.u16().map_err(truncated)? },
        _ => {
            let count = usize::from(fields.u16().map_err(truncated)?);
            if count > max_peers {
                return Err(WireError::TooManyPeers { count, cap: max_peers });
            }
            // Every address takes at least this many bytes. Once they are here, the list is no
            // larger than what came.
            if fields.remaining() < count * fields::IPV4_LEN {
                return Err(bad_length(fields.position() + count * fields::IPV4_LEN));
            }
            let mut peers = Vec::with_capacity(count);
            for _ in 0..count {
                peers.push(fields.addr().map_err(|error| match error {
                    AddrError::Truncated(error) => truncated(error),
                    AddrError::Family(code) => WireError::AddressFamily { code },
                })?);
            }
            Control::Peers(peers)
        }
    };
    if fields.remaining() != 0 {
        return Err(bad_length(fields.position()));
    }
    Ok(control)
}

/// A lane that messages go on.
fn message_lane(code: u8) -> Result<Lane, WireError> {
    match code {
        1 => Ok(Lane::Urgent),
        2 => Ok(Lane::Normal),
        3 => Ok(Lane::Bulk),
        code => Err(WireError::BadLane { code }),
    }
}
