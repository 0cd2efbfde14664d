//! Identities: of a connection instance, of a peer, of a process; and the two small enums everybody speaks.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::num::NonZeroU64;

use super::canonical;

/// Unique number of one connection instance within a pool; never reused.
///
/// Every index and every removal is tagged with it, so that tearing down an old connection cannot touch the new one
/// of the same peer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ConnId(NonZeroU64);

impl ConnId {
    /// The id with this number; `None` for zero, which no connection has.
    pub const fn new(number: u64) -> Option<Self> {
        match NonZeroU64::new(number) {
            Some(n) => Some(Self(n)),
            None => None,
        }
    }

    /// The number itself.
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

/// Who opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum Direction {
    /// They dialled us.
    Inbound,
    /// We dialled them.
    Outbound,
}

/// Order class of outbound data, most urgent first.
///
/// A waiting lower lane gets a sixteenth of the bytes, a chunk at a time at least, so that none starves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum Lane {
    /// Pings, goodbyes, aborts: the protocol's own; never the application's.
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

/// Random per process, carried in every hello: tells a self-dial and decides between two simultaneous connections.
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

/// What makes two connections "the same peer".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum PeerId {
    /// The public key that the transport proved.
    Key([u8; 32]),
    /// Without a proven identity: the dialled address, or the observed one of an inbound connection; always canonical,
    /// build it with [`PeerId::from_addr`].
    Addr(SocketAddr),
}

impl PeerId {
    /// The identity of an address that proves none; IPv4-mapped IPv6 becomes IPv4.
    pub fn from_addr(addr: SocketAddr) -> Self {
        Self::Addr(canonical(addr))
    }
}

/// By hand, in as few words as there are: derived, an address is hashed in six pieces, and whether the compiler keeps the hasher in
/// registers meanwhile decides a look-up's time.
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
    fn what_is_equal_hashes_alike_and_what_tells_peers_apart_is_hashed() {
        let state = std::hash::RandomState::new();
        let hash = |text: &str| state.hash_one(PeerId::from_addr(text.parse().unwrap()));
        assert_eq!(hash("[::ffff:192.0.2.1]:7"), hash("192.0.2.1:7"));
        let apart = [
            "192.0.2.1:7",
            "192.0.2.1:8",
            "192.0.2.2:7",
            "[fe80::1%1]:7",
            "[fe80::1%2]:7",
            "[fe80::1]:8",
            "[fe80::2]:7",
        ];
        let mut hashes: Vec<u64> = apart.into_iter().map(hash).collect();
        hashes.extend([0, 1].map(|byte| state.hash_one(PeerId::Key([byte; 32]))));
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), apart.len() + 2);
    }
}
