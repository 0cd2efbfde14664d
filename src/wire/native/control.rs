//! Control messages: one number, then fields of a fixed or proven length.

use bytes::{BufMut, BytesMut};

use crate::base::Lane;
use crate::wire::error::{EncodeError, WireError};
use crate::wire::message::{Control, FrameKind};

use super::fields::{self, AddrError, FieldReader, Truncated};
use super::header;

/// Most peers in a list that a frame holds, whatever their addresses.
pub(super) const MAX_PEERS: usize = 800;

const PING: u8 = 1;
const PONG: u8 = 2;
const GOODBYE: u8 = 3;
const ABORT: u8 = 4;
const GET_PEERS: u8 = 5;
const PEERS: u8 = 6;

// The number, the count and the largest list fit one frame.
const _: () = assert!(1 + 2 + MAX_PEERS * fields::V6 <= header::MAX_CHUNK);

/// Appends a control frame.
pub(super) fn encode(control: &Control, max_peers: usize, out: &mut BytesMut) -> Result<(), EncodeError> {
    let len = length(control, max_peers)?;
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
    }
    Ok(())
}

/// Bytes of a control message's fields, if it may be sent.
fn length(control: &Control, max_peers: usize) -> Result<usize, EncodeError> {
    match control {
        Control::Ping { .. } | Control::Pong { .. } => Ok(8),
        Control::Goodbye(_) => Ok(fields::GOODBYE),
        Control::Abort { lane: Lane::Control } => Err(EncodeError::BadLane),
        Control::Abort { .. } => Ok(1),
        Control::GetPeers { .. } => Ok(2),
        Control::Peers(peers) if peers.len() > max_peers => {
            Err(EncodeError::TooManyPeers { count: peers.len(), cap: max_peers })
        }
        Control::Peers(peers) => Ok(2 + peers.iter().map(|addr| fields::addr_len(*addr)).sum::<usize>()),
    }
}

/// Reads the control message that a frame consists of.
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
        code => return Err(WireError::UnknownControl { code }),
    };
    // The number itself counts in neither size nor need.
    let wrong =
        |need: usize| WireError::ControlLength { control: name, size: frame.len() - 1, need: need - 1 };
    let cut = |Truncated { need }| wrong(need);
    let control = match code {
        PING => Control::Ping { token: fields.u64().map_err(cut)? },
        PONG => Control::Pong { token: fields.u64().map_err(cut)? },
        GOODBYE => Control::Goodbye(fields.goodbye().map_err(cut)?),
        ABORT => match fields.u8().map_err(cut)? {
            code @ (0 | 4..) => return Err(WireError::BadLane { code }),
            1 => Control::Abort { lane: Lane::Urgent },
            2 => Control::Abort { lane: Lane::Normal },
            3 => Control::Abort { lane: Lane::Bulk },
        },
        GET_PEERS => Control::GetPeers { max: fields.u16().map_err(cut)? },
        _ => {
            let count = usize::from(fields.u16().map_err(cut)?);
            if count > max_peers {
                return Err(WireError::TooManyPeers { count, cap: max_peers });
            }
            // Each address takes at least so many bytes: with them in hand the list is no larger than what came.
            if fields.left() < count * fields::V4 {
                return Err(wrong(fields.taken() + count * fields::V4));
            }
            let mut peers = Vec::with_capacity(count);
            for _ in 0..count {
                peers.push(fields.addr().map_err(|fault| match fault {
                    AddrError::Truncated(at) => cut(at),
                    AddrError::Family(code) => WireError::AddressFamily { code },
                })?);
            }
            Control::Peers(peers)
        }
    };
    if fields.left() != 0 {
        return Err(wrong(fields.taken()));
    }
    Ok(control)
}
