//! Identities of a connection, a peer and a process; direction and lane.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::num::NonZeroU64;

use super::canonical;

/// Number of one connection instance within a pool. It is never reused.
///
/// Every index and every removal names it, so that the teardown of an old connection cannot affect
/// a newer one of the same peer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ConnId(NonZeroU64);

impl ConnId {
    /// The id with this number; `None` for zero, which is no id.
    pub const fn new(number: u64) -> Option<Self> {
        match NonZeroU64::new(number) {
            Some(n) => Some(Self(n)),
            None => None,
        }
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Debug for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The side that opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum Direction {
    /// The remote side dialled this node.
    Inbound,
    /// This node dialled the remote side.
    Outbound,
}

/// Order class of outbound data, most urgent first.
///
/// A waiting lower lane gets a sixteenth of the bytes, at least one chunk at a time, so that no
/// lane starves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum Lane {
    /// Frames of the protocol itself: pings, goodbyes, aborts. Not for the application.
    Control,
    /// Votes and proposals.
    Urgent,
    /// The default: transactions, gossip, requests.
    Normal,
    /// Large transfers that may wait: blocks, snapshots.
    Bulk,
}

impl Lane {
    /// Every lane, most urgent first.
    pub const ALL: [Self; 4] = [Self::Control, Self::Urgent, Self::Normal, Self::Bulk];

    /// Position in [`Lane::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The lane's name in settings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Urgent => "urgent",
            Self::Normal => "normal",
            Self::Bulk => "bulk",
        }
    }

    /// The lane at this position of [`Lane::ALL`].
    pub const fn from_index(index: usize) -> Option<Self> {
        match index {
            0 => Some(Self::Control),
            1 => Some(Self::Urgent),
            2 => Some(Self::Normal),
            3 => Some(Self::Bulk),
            _ => None,
        }
    }
}

/// Random number of a process, sent in every hello. It detects self-dials and decides between two
/// simultaneous connections.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Nonce(pub [u8; 16]);

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.0[..4] {
            write!(f, "{byte:02x}")?;
        }
        f.write_str("..")
    }
}

/// Identity of a peer: two connections with the same id belong to the same peer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum PeerId {
    /// The public key that the transport proved.
    Key([u8; 32]),
    /// Without a proven identity: the dialled address, or the observed address of an inbound
    /// connection. Always canonical: build it with [`PeerId::from_addr`].
    Addr(SocketAddr),
}

impl PeerId {
    /// The id of a peer without a proven identity; IPv4-mapped IPv6 becomes IPv4.
    pub fn from_addr(addr: SocketAddr) -> Self {
        Self::Addr(canonical(addr))
    }
}

/// Written by hand: a derive hashes an address in six pieces, which slows down look-ups unless the
/// compiler keeps the hasher in registers. This hashes it in one or two.
impl Hash for PeerId {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Key(key) => state.write(key),
            Self::Addr(SocketAddr::V4(addr)) => {
                state.write_u64(u64::from(addr.ip().to_bits()) << 16 | u64::from(addr.port()));
            }
            Self::Addr(SocketAddr::V6(addr)) => {
                state.write_u128(addr.ip().to_bits());
                state.write_u64(u64::from(addr.scope_id()) << 16 | u64::from(addr.port()));
            }
        }
    }
}

impl From<SocketAddr> for PeerId {
    fn from(addr: SocketAddr) -> Self {
        Self::from_addr(addr)
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => {
                f.write_str("key:")?;
                key[..8].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            Self::Addr(addr) => fmt::Display::fmt(addr, f),
        }
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;
    use std::hash::BuildHasher;

    #[test]
    fn equal_ids_hash_alike_and_every_field_is_hashed() {
        let state = std::hash::RandomState::new();
        let hash = |text: &str| state.hash_one(PeerId::from_addr(text.parse().unwrap()));
        assert_eq!(hash("[::ffff:192.0.2.1]:7"), hash("192.0.2.1:7"));
        let distinct = [
            "192.0.2.1:7",
            "192.0.2.1:8",
            "192.0.2.2:7",
            "[fe80::1%1]:7",
            "[fe80::1%2]:7",
            "[fe80::1]:8",
            "[fe80::2]:7",
        ];
        let mut hashes: Vec<u64> = distinct.into_iter().map(hash).collect();
        hashes.extend([0, 1].map(|byte| state.hash_one(PeerId::Key([byte; 32]))));
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), distinct.len() + 2);
    }
}
