//! The first frame of each side: magic, number, length, then the fields of a hello or a refusal.

use bytes::{BufMut, Bytes, BytesMut};

use crate::base::Nonce;
use crate::wire::error::{AgentError, EncodeError, WireError};
use crate::wire::message::{FirstFrame, Goodbye, Hello, Refusal};

use super::Native;
use super::fields::{self, AddrError, FieldReader, Truncated};

/// Largest first frame, in bytes, that [`WireLimits::hello`](crate::wire::WireLimits::hello) can
/// allow.
pub(super) const MAX_LIMIT: usize = 4 * 1024;
/// Smallest limit, in bytes: room for every hello that can be encoded.
pub(super) const MIN_LIMIT: usize = 2 * 1024;

/// Bytes of magic, number and length.
const HEADER_LEN: usize = 4 + 1 + 2;
const HELLO: u8 = 1;
const REFUSAL: u8 = 2;
/// Bytes of a hello's fixed fields, and of the tags and lengths of the others.
const FIXED_LEN: usize = 4 + 8 + 16 + 8 + 1 + 1 + 1 + 2;

const _: () = assert!(
    HEADER_LEN + FIXED_LEN + (fields::IPV6_LEN - 1) + 32 + Hello::MAX_AGENT + Hello::MAX_APP <= MIN_LIMIT
);

pub(super) fn encode_hello(hello: &Hello, out: &mut BytesMut) -> Result<(), EncodeError> {
    let nonce = hello.nonce.ok_or(EncodeError::Missing { field: "nonce" })?;
    Hello::validate_agent(hello.agent.as_bytes()).map_err(EncodeError::Agent)?;
    if hello.app.len() > Hello::MAX_APP {
        return Err(EncodeError::AppTooLarge { size: hello.app.len(), cap: Hello::MAX_APP });
    }
    let len = FIXED_LEN
        + hello.listen.map_or(0, |addr| fields::addr_len(addr) - 1)
        + hello.genesis.map_or(0, |hash| hash.len())
        + hello.agent.len()
        + hello.app.len();
    put_header(HELLO, len, out);
    out.put_u32_le(hello.version);
    out.put_u64_le(hello.network);
    out.put_slice(&nonce.0);
    out.put_u64_le(hello.features);
    fields::put_optional_addr(hello.listen, out);
    match &hello.genesis {
        None => out.put_u8(0),
        Some(hash) => {
            out.put_u8(1);
            out.put_slice(hash);
        }
    }
    out.put_u8(hello.agent.len() as u8);
    out.put_slice(hello.agent.as_bytes());
    out.put_u16_le(hello.app.len() as u16);
    out.put_slice(&hello.app);
    Ok(())
}

pub(super) fn encode_refusal(refusal: &Refusal, out: &mut BytesMut) -> Result<(), EncodeError> {
    let addrs = &refusal.addrs;
    if addrs.len() > Refusal::MAX_ADDRS {
        return Err(EncodeError::TooManyPeers { count: addrs.len(), cap: Refusal::MAX_ADDRS });
    }
    let len =
        fields::GOODBYE_LEN + 4 + 8 + 1 + addrs.iter().map(|addr| fields::addr_len(*addr)).sum::<usize>();
    put_header(REFUSAL, len, out);
    fields::put_goodbye(&refusal.goodbye(), out);
    out.put_u32_le(refusal.version);
    out.put_u64_le(refusal.network);
    out.put_u8(addrs.len() as u8);
    addrs.iter().for_each(|addr| fields::put_addr(*addr, out));
    Ok(())
}

fn put_header(code: u8, len: usize, out: &mut BytesMut) {
    out.reserve(HEADER_LEN + len);
    out.put_slice(&Native::MAGIC);
    out.put_u8(code);
    out.put_u16_le(len as u16);
}

/// Decodes a first frame of at most `max_len` bytes. Returns it with its length, or `None` if more
/// bytes are needed.
pub(super) fn decode(buf: &[u8], max_len: usize) -> Result<Option<(FirstFrame, usize)>, WireError> {
    if buf.iter().zip(&Native::MAGIC).any(|(got, want)| got != want) {
        return Err(WireError::BadMagic);
    }
    let Some(&code) = buf.get(4) else { return Ok(None) };
    if !matches!(code, HELLO | REFUSAL) {
        return Err(WireError::UnknownFirstFrame { code });
    }
    let Some(&[low, high]) = buf.get(5..HEADER_LEN).and_then(|len| len.first_chunk()) else {
        return Ok(None);
    };
    let size = HEADER_LEN + usize::from(u16::from_le_bytes([low, high]));
    if size > max_len {
        return Err(WireError::FirstFrameTooLarge { size, cap: max_len });
    }
    let Some(body) = buf.get(HEADER_LEN..size) else { return Ok(None) };
    let mut fields = FieldReader::new(body);
    let frame = if code == HELLO {
        FirstFrame::Hello(read_hello(&mut fields)?)
    } else {
        FirstFrame::Refusal(read_refusal(&mut fields)?)
    };
    // A later version may have more fields: its hello decodes, so that it can be refused with a
    // reason, and its refusal says which version it is.
    let (FirstFrame::Hello(Hello { version, .. }) | FirstFrame::Refusal(Refusal { version, .. })) = &frame;
    if fields.remaining() != 0 && *version <= Native::VERSION {
        return Err(WireError::FirstFrameTrailingBytes { count: fields.remaining() });
    }
    Ok(Some((frame, size)))
}

fn read_hello(fields: &mut FieldReader<'_>) -> Result<Hello, WireError> {
    let truncated = |field| move |_: Truncated| WireError::FirstFrameTruncated { field };
    let version = fields.u32().map_err(truncated("version"))?;
    let network = fields.u64().map_err(truncated("network"))?;
    let nonce = Some(Nonce(fields.array().map_err(truncated("nonce"))?));
    let features = fields.u64().map_err(truncated("features"))?;
    let listen = fields.optional_addr().map_err(|error| addr_error(error, "listen address"))?;
    let genesis = match fields.u8().map_err(truncated("genesis"))? {
        0 => None,
        1 => Some(fields.array().map_err(truncated("genesis"))?),
        code => return Err(WireError::BadOptionTag { field: "genesis", code }),
    };
    let len = usize::from(fields.u8().map_err(truncated("agent"))?);
    if len > Hello::MAX_AGENT {
        return Err(WireError::Agent(AgentError::TooLong { size: len }));
    }
    let agent = fields.bytes(len).map_err(truncated("agent"))?;
    let agent = Hello::validate_agent(agent).map_err(WireError::Agent)?.to_owned();
    let len = usize::from(fields.u16().map_err(truncated("application bytes"))?);
    if len > Hello::MAX_APP {
        return Err(WireError::AppTooLarge { size: len, cap: Hello::MAX_APP });
    }
    let app = Bytes::copy_from_slice(fields.bytes(len).map_err(truncated("application bytes"))?);
    Ok(Hello { version, network, nonce, features, listen, agent, genesis, app })
}

fn read_refusal(fields: &mut FieldReader<'_>) -> Result<Refusal, WireError> {
    let truncated = |field| move |_: Truncated| WireError::FirstFrameTruncated { field };
    let Goodbye { reason, retry_after } = fields.goodbye().map_err(truncated("reason"))?;
    let version = fields.u32().map_err(truncated("version"))?;
    let network = fields.u64().map_err(truncated("network"))?;
    let count = usize::from(fields.u8().map_err(truncated("addresses"))?);
    if count > Refusal::MAX_ADDRS {
        return Err(WireError::TooManyPeers { count, cap: Refusal::MAX_ADDRS });
    }
    let addrs = (0..count).map(|_| fields.addr().map_err(|error| addr_error(error, "addresses")));
    Ok(Refusal { reason, retry_after, version, network, addrs: addrs.collect::<Result<_, _>>()? })
}

fn addr_error(error: AddrError, field: &'static str) -> WireError {
    match error {
        AddrError::Truncated(_) => WireError::FirstFrameTruncated { field },
        AddrError::Family(code) => WireError::AddressFamily { code },
    }
}
