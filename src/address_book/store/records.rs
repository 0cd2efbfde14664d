//! The stored form of records, in postcard.
//!
//! These types are separate from the public ones, so that a change of [`Address`] cannot change the
//! file unnoticed. Every change here raises [`SCHEMA`](super::SCHEMA).

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::fault::Fault;
use crate::address_book::{Address, BanTarget, FailureCause, ReportedBy, WallTime};
use crate::base::PeerId;

/// A socket address with its scope, which serde's own form loses.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredAddr(IpAddr, u16, u32);

impl From<SocketAddr> for StoredAddr {
    fn from(addr: SocketAddr) -> Self {
        let scope = match addr {
            SocketAddr::V4(_) => 0,
            SocketAddr::V6(v6) => v6.scope_id(),
        };
        Self(addr.ip(), addr.port(), scope)
    }
}

impl From<StoredAddr> for SocketAddr {
    fn from(StoredAddr(ip, port, scope): StoredAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::new(ip, port),
            IpAddr::V6(v6) => Self::V6(SocketAddrV6::new(v6, port, 0, scope)),
        }
    }
}

/// A [`BanTarget`].
#[derive(Serialize, Deserialize)]
pub(super) enum StoredTarget {
    Ip(IpAddr),
    Key([u8; 32]),
    Addr(StoredAddr),
}

impl From<BanTarget> for StoredTarget {
    fn from(target: BanTarget) -> Self {
        match target {
            BanTarget::Ip(ip) => Self::Ip(ip),
            BanTarget::Peer(PeerId::Key(key)) => Self::Key(key),
            BanTarget::Peer(PeerId::Addr(addr)) => Self::Addr(addr.into()),
        }
    }
}

impl From<StoredTarget> for BanTarget {
    fn from(target: StoredTarget) -> Self {
        match target {
            StoredTarget::Ip(ip) => Self::Ip(ip),
            StoredTarget::Key(key) => Self::Peer(PeerId::Key(key)),
            StoredTarget::Addr(addr) => Self::Peer(PeerId::Addr(addr.into())),
        }
    }
}

/// An [`Address`] without the socket address, which is the key.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredAddress {
    reported_by: ReportedBy,
    first_seen: WallTime,
    last_attempt: Option<WallTime>,
    last_success: Option<WallTime>,
    failures: u32,
    next_attempt: WallTime,
    trusted: bool,
    alias_of: Option<StoredAddr>,
    self_since: Option<WallTime>,
    last_cause: Option<FailureCause>,
}

impl StoredAddress {
    /// The record of the socket address `addr`.
    pub(super) fn into_address(self, addr: SocketAddr) -> Address {
        Address {
            addr,
            reported_by: self.reported_by,
            first_seen: self.first_seen,
            last_attempt: self.last_attempt,
            last_success: self.last_success,
            failures: self.failures,
            next_attempt: self.next_attempt,
            trusted: self.trusted,
            alias_of: self.alias_of.map(SocketAddr::from),
            self_since: self.self_since,
            last_cause: self.last_cause,
        }
    }
}

impl From<&Address> for StoredAddress {
    fn from(entry: &Address) -> Self {
        Self {
            reported_by: entry.reported_by,
            first_seen: entry.first_seen,
            last_attempt: entry.last_attempt,
            last_success: entry.last_success,
            failures: entry.failures,
            next_attempt: entry.next_attempt,
            trusted: entry.trusted,
            alias_of: entry.alias_of.map(StoredAddr::from),
            self_since: entry.self_since,
            last_cause: entry.last_cause,
        }
    }
}

pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Fault> {
    postcard::to_allocvec(value).map_err(Fault::system)
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Fault> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(Fault::damaged("a record with trailing bytes")),
        Err(error) => Err(Fault::damaged(error)),
    }
}
