//! The two networks.

use serde::{Deserialize, Serialize};

/// Which of the two networks a node belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum NetworkType {
    /// The network that counts.
    Mainnet,
    /// The network for trying things out.
    Testnet,
}

/// A number that stands for neither network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{id:#x} is no TIME Coin network")]
pub struct UnknownNetwork {
    /// The number.
    pub id: u64,
}

impl NetworkType {
    /// The four bytes a handshake begins with.
    pub const fn magic(self) -> [u8; 4] {
        match self {
            Self::Mainnet => [0xc0, 0x1d, 0x7e, 0x4d],
            Self::Testnet => *b"TIME",
        }
    }

    /// The network's number in a [`Hello`](crate::wire::Hello): its magic, read big endian.
    pub const fn id(self) -> u64 {
        u32::from_be_bytes(self.magic()) as u64
    }

    /// The network with this number.
    ///
    /// # Errors
    /// Gives the number back when it is neither's.
    pub const fn from_id(id: u64) -> Result<Self, UnknownNetwork> {
        if id == Self::Mainnet.id() {
            Ok(Self::Mainnet)
        } else if id == Self::Testnet.id() {
            Ok(Self::Testnet)
        } else {
            Err(UnknownNetwork { id })
        }
    }

    /// The TCP port that nodes of this network listen on for each other.
    pub const fn port(self) -> u16 {
        match self {
            Self::Mainnet => 24_000,
            Self::Testnet => 24_100,
        }
    }

    /// The TCP port of their HTTP interface.
    pub const fn api_port(self) -> u16 {
        self.port() + 1
    }

    /// The name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mainnet => "Mainnet",
            Self::Testnet => "Testnet",
        }
    }
}

impl std::fmt::Display for NetworkType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
