//! Numbers and addresses, little endian, out of a slice and into a buffer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::{BufMut, BytesMut};

use crate::base::canonical;
use crate::wire::message::{Goodbye, GoodbyeReason};

/// Bytes of an IPv4 address and of an IPv6 address, family and port included.
pub(super) const V4: usize = 7;
pub(super) const V6: usize = 19;
/// Bytes of a goodbye's fields.
pub(super) const GOODBYE: usize = 6;

const FAMILY_NONE: u8 = 0;
const FAMILY_V4: u8 = 4;
const FAMILY_V6: u8 = 6;
/// The wait that stands for "none given".
const NO_RETRY: u32 = u32::MAX;

/// Takes fields off the front of a slice.
pub(super) struct FieldReader<'b> {
    all: &'b [u8],
    at: usize,
}

/// The bytes end inside a field, which would have reached to `need` bytes from their start.
#[derive(Debug)]
pub(super) struct Truncated {
    pub(super) need: usize,
}

/// Why an address could not be taken.
#[derive(Debug)]
pub(super) enum AddrError {
    Truncated(Truncated),
    Family(u8),
}

impl<'b> FieldReader<'b> {
    pub(super) fn new(all: &'b [u8]) -> Self {
        Self { all, at: 0 }
    }

    /// Bytes taken so far.
    pub(super) fn taken(&self) -> usize {
        self.at
    }

    /// Bytes left.
    pub(super) fn left(&self) -> usize {
        self.all.len() - self.at
    }

    pub(super) fn bytes(&mut self, count: usize) -> Result<&'b [u8], Truncated> {
        let need = self.at.saturating_add(count);
        let bytes = self.all.get(self.at..need).ok_or(Truncated { need })?;
        self.at = need;
        Ok(bytes)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Truncated> {
        let need = self.at + N;
        let bytes = self.all[self.at..].first_chunk::<N>().ok_or(Truncated { need })?;
        self.at = need;
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

    /// An address or the mark of none; canonical.
    pub(super) fn maybe_addr(&mut self) -> Result<Option<SocketAddr>, AddrError> {
        let ip = match self.u8().map_err(AddrError::Truncated)? {
            FAMILY_NONE => return Ok(None),
            FAMILY_V4 => IpAddr::V4(Ipv4Addr::from(self.array::<4>().map_err(AddrError::Truncated)?)),
            FAMILY_V6 => IpAddr::V6(Ipv6Addr::from(self.array::<16>().map_err(AddrError::Truncated)?)),
            code => return Err(AddrError::Family(code)),
        };
        let port = self.u16().map_err(AddrError::Truncated)?;
        Ok(Some(canonical(SocketAddr::new(ip, port))))
    }

    /// An address; canonical.
    pub(super) fn addr(&mut self) -> Result<SocketAddr, AddrError> {
        self.maybe_addr()?.ok_or(AddrError::Family(FAMILY_NONE))
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
    if canonical(addr).is_ipv4() { V4 } else { V6 }
}

/// Appends an address, canonical; an IPv6 scope means nothing to another host and stays here.
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

/// Appends an address or the mark of none.
pub(super) fn put_maybe_addr(addr: Option<SocketAddr>, out: &mut BytesMut) {
    match addr {
        Some(addr) => put_addr(addr, out),
        None => out.put_u8(FAMILY_NONE),
    }
}

/// Appends a goodbye's fields; the wait in whole milliseconds, rounded up so that nobody comes back too early.
pub(super) fn put_goodbye(goodbye: &Goodbye, out: &mut BytesMut) {
    out.put_u16_le(goodbye.reason.code());
    out.put_u32_le(match goodbye.retry_after {
        None => NO_RETRY,
        Some(wait) => wait.as_nanos().div_ceil(1_000_000).min(u128::from(NO_RETRY - 1)) as u32,
    });
}
