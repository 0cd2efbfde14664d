//! The greeting: a hello or a goodbye.
//!
//! ```text
//! hello   = version (4) network (8) nonce (16) features (8) listen genesis agent app [fields of later versions]
//! listen  = 0 | 4 ip (4) port (2) | 6 ip (16) port (2)
//! genesis = 0 | 1 hash (32)
//! agent   = length (1) text
//! app     = length (2) bytes
//! goodbye = reason (2) milliseconds (4; all ones: none given)
//! ```

use bytes::{BufMut, Bytes, BytesMut};

use crate::base::Nonce;
use crate::wire::error::{AgentError, EncodeError, WireError};
use crate::wire::message::{FirstFrame, Goodbye, Hello};

use super::Native;
use super::fields::{self, AddrError, FieldReader, Truncated};

/// Most bytes of a greeting that a configuration can allow, and fewest: room for every hello that can be sent.
pub(super) const MAX_CAP: usize = 4 * 1024;
pub(super) const MIN_CAP: usize = 2 * 1024;

/// Magic, number, length.
const HEAD: usize = 4 + 1 + 2;
const HELLO: u8 = 1;
const GOODBYE: u8 = 2;
/// The fields of fixed length, and the marks and lengths of the others.
const FIXED: usize = 4 + 8 + 16 + 8 + 1 + 1 + 1 + 2;

const _: () = assert!(HEAD + FIXED + (fields::V6 - 1) + 32 + Hello::MAX_AGENT + Hello::MAX_APP <= MIN_CAP);

pub(super) fn encode_hello(hello: &Hello, out: &mut BytesMut) -> Result<(), EncodeError> {
    let nonce = hello.nonce.ok_or(EncodeError::Missing { field: "nonce" })?;
    Hello::validate_agent(hello.agent.as_bytes()).map_err(EncodeError::Agent)?;
    if hello.app.len() > Hello::MAX_APP {
        return Err(EncodeError::AppTooLarge { size: hello.app.len(), cap: Hello::MAX_APP });
    }
    let len = FIXED
        + hello.listen.map_or(0, |addr| fields::addr_len(addr) - 1)
        + hello.genesis.map_or(0, |hash| hash.len())
        + hello.agent.len()
        + hello.app.len();
    put_head(HELLO, len, out);
    out.put_u32_le(hello.version);
    out.put_u64_le(hello.network);
    out.put_slice(&nonce.0);
    out.put_u64_le(hello.features);
    fields::put_maybe_addr(hello.listen, out);
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

pub(super) fn encode_goodbye(goodbye: &Goodbye, out: &mut BytesMut) {
    put_head(GOODBYE, fields::GOODBYE, out);
    fields::put_goodbye(goodbye, out);
}

fn put_head(code: u8, len: usize, out: &mut BytesMut) {
    out.reserve(HEAD + len);
    out.put_slice(&Native::MAGIC);
    out.put_u8(code);
    out.put_u16_le(len as u16);
}

pub(super) fn decode(buf: &[u8], cap: usize) -> Result<Option<(FirstFrame, usize)>, WireError> {
    if buf.iter().zip(&Native::MAGIC).any(|(got, want)| got != want) {
        return Err(WireError::BadMagic);
    }
    let Some(&code) = buf.get(4) else { return Ok(None) };
    if !matches!(code, HELLO | GOODBYE) {
        return Err(WireError::UnknownFirstFrame { code });
    }
    let Some(&[low, high]) = buf.get(5..HEAD).and_then(|len| len.first_chunk()) else { return Ok(None) };
    let size = HEAD + usize::from(u16::from_le_bytes([low, high]));
    if size > cap {
        return Err(WireError::FirstFrameTooLarge { size, cap });
    }
    let Some(body) = buf.get(HEAD..size) else { return Ok(None) };
    let mut fields = FieldReader::new(body);
    let greeting = if code == HELLO {
        FirstFrame::Hello(read_hello(&mut fields)?)
    } else {
        FirstFrame::Goodbye(
            fields.goodbye().map_err(|_| WireError::FirstFrameTruncated { field: "goodbye" })?,
        )
    };
    // A later version may say more than we know, so that its hello can be refused with a reason; ours may not.
    let is_later = matches!(&greeting, FirstFrame::Hello(hello) if hello.version > Native::VERSION);
    if fields.left() != 0 && !is_later {
        return Err(WireError::FirstFrameTrailingBytes { count: fields.left() });
    }
    Ok(Some((greeting, size)))
}

fn read_hello(fields: &mut FieldReader<'_>) -> Result<Hello, WireError> {
    let cut = |field| move |_: Truncated| WireError::FirstFrameTruncated { field };
    let version = fields.u32().map_err(cut("version"))?;
    let network = fields.u64().map_err(cut("network"))?;
    let nonce = Some(Nonce(fields.array().map_err(cut("nonce"))?));
    let features = fields.u64().map_err(cut("features"))?;
    let listen = fields.maybe_addr().map_err(|fault| match fault {
        AddrError::Truncated(at) => cut("listen address")(at),
        AddrError::Family(code) => WireError::AddressFamily { code },
    })?;
    let genesis = match fields.u8().map_err(cut("genesis"))? {
        0 => None,
        1 => Some(fields.array().map_err(cut("genesis"))?),
        code => return Err(WireError::BadOptionTag { field: "genesis", code }),
    };
    let len = usize::from(fields.u8().map_err(cut("agent"))?);
    if len > Hello::MAX_AGENT {
        return Err(WireError::Agent(AgentError::TooLong { size: len }));
    }
    let agent = fields.bytes(len).map_err(cut("agent"))?;
    let agent = Hello::validate_agent(agent).map_err(WireError::Agent)?.to_owned();
    let len = usize::from(fields.u16().map_err(cut("application bytes"))?);
    if len > Hello::MAX_APP {
        return Err(WireError::AppTooLarge { size: len, cap: Hello::MAX_APP });
    }
    let app = Bytes::copy_from_slice(fields.bytes(len).map_err(cut("application bytes"))?);
    Ok(Hello { version, network, nonce, features, listen, agent, genesis, app })
}
