//! Little-endian numbers, addresses and goodbyes: read from a slice, appended to a buffer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::{BufMut, BytesMut};

use crate::base::canonical;
use crate::wire::message::{Goodbye, GoodbyeReason};

/// Bytes of an encoded IPv4 address, family and port included.
pub(super) const IPV4_LEN: usize = 7;
/// Bytes of an encoded IPv6 address, family and port included.
pub(super) const IPV6_LEN: usize = 19;
/// Bytes of an encoded goodbye.
pub(super) const GOODBYE_LEN: usize = 6;

const FAMILY_NONE: u8 = 0;
const FAMILY_V4: u8 = 4;
const FAMILY_V6: u8 = 6;
/// The encoding of a goodbye without a retry time.
const NO_RETRY: u32 = u32::MAX;

/// Reads fields from the front of a slice.
pub(super) struct FieldReader<'b> {
    bytes: &'b [u8],
    position: usize,
}

/// The bytes end inside a field. The field ends at byte `need` of the slice.
#[derive(Debug)]
pub(super) struct Truncated {
    pub(super) need: usize,
}

/// Why an address was not decoded.
#[derive(Debug)]
pub(super) enum AddrError {
    Truncated(Truncated),
    /// An unknown address family.
    Family(u8),
}

impl<'b> FieldReader<'b> {
    pub(super) fn new(bytes: &'b [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> usize {
        self.position
    }

    /// Bytes not read yet.
    pub(super) fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    pub(super) fn bytes(&mut self, count: usize) -> Result<&'b [u8], Truncated> {
        let need = self.position.saturating_add(count);
        let bytes = self.bytes.get(self.position..need).ok_or(Truncated { need })?;
        self.position = need;
        Ok(bytes)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Truncated> {
        let need = self.position + N;
        let bytes = self.bytes[self.position..].first_chunk::<N>().ok_or(Truncated { need })?;
        self.position = need;
        Ok(*bytes)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Truncated> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Truncated> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Truncated> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Truncated> {
        self.array().map(u64::from_le_bytes)
    }

    /// A canonical address, or `None` for the family that means "no address".
    pub(super) fn optional_addr(&mut self) -> Result<Option<SocketAddr>, AddrError> {
        let ip = match self.u8().map_err(AddrError::Truncated)? {
            FAMILY_NONE => return Ok(None),
            FAMILY_V4 => IpAddr::V4(Ipv4Addr::from(self.array::<4>().map_err(AddrError::Truncated)?)),
            FAMILY_V6 => IpAddr::V6(Ipv6Addr::from(self.array::<16>().map_err(AddrError::Truncated)?)),
            code => return Err(AddrError::Family(code)),
        };
        let port = self.u16().map_err(AddrError::Truncated)?;
        Ok(Some(canonical(SocketAddr::new(ip, port))))
    }

    /// A canonical address.
    pub(super) fn addr(&mut self) -> Result<SocketAddr, AddrError> {
        self.optional_addr()?.ok_or(AddrError::Family(FAMILY_NONE))
    }

    pub(super) fn goodbye(&mut self) -> Result<Goodbye, Truncated> {
        let reason = GoodbyeReason::from_code(self.u16()?);
        let millis = self.u32()?;
        let retry_after = (millis != NO_RETRY).then(|| Duration::from_millis(u64::from(millis)));
        Ok(Goodbye { reason, retry_after })
    }
}

/// Bytes that [`put_addr`] appends for this address.
pub(super) fn addr_len(addr: SocketAddr) -> usize {
    if canonical(addr).is_ipv4() { IPV4_LEN } else { IPV6_LEN }
}

/// Appends a canonical address. The scope of an IPv6 address has no meaning on another host and is
/// left out.
pub(super) fn put_addr(addr: SocketAddr, out: &mut BytesMut) {
    let addr = canonical(addr);
    match addr.ip() {
        IpAddr::V4(ip) => {
            out.put_u8(FAMILY_V4);
            out.put_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.put_u8(FAMILY_V6);
            out.put_slice(&ip.octets());
        }
    }
    out.put_u16_le(addr.port());
}

/// Appends an address, or the family that means "no address".
pub(super) fn put_optional_addr(addr: Option<SocketAddr>, out: &mut BytesMut) {
    match addr {
        Some(addr) => put_addr(addr, out),
        None => out.put_u8(FAMILY_NONE),
    }
}

/// Appends a goodbye. The retry time is rounded up to whole milliseconds, so that the peer does not
/// return too early.
pub(super) fn put_goodbye(goodbye: &Goodbye, out: &mut BytesMut) {
    out.put_u16_le(goodbye.reason.code());
    out.put_u32_le(match goodbye.retry_after {
        None => NO_RETRY,
        Some(wait) => wait.as_nanos().div_ceil(1_000_000).min(u128::from(NO_RETRY - 1)) as u32,
    });
}
