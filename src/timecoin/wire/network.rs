//! The two networks, and their ports.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::base::canonical;

/// First port of the ephemeral range (RFC 6335). A dialling socket borrows such a port for one
/// connection, so no node listens on it.
pub const FIRST_EPHEMERAL_PORT: u16 = 49_152;

/// One of the two networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum NetworkType {
    /// The main network.
    Mainnet,
    /// The test network.
    Testnet,
}

impl NetworkType {
    /// The first four bytes of a handshake.
    pub const fn magic(self) -> [u8; 4] {
        match self {
            Self::Mainnet => [0xc0, 0x1d, 0x7e, 0x4d],
            Self::Testnet => *b"TIME",
        }
    }

    /// The network's number in a [`Hello`](crate::wire::Hello): its magic, read in big endian.
    pub const fn id(self) -> u64 {
        u32::from_be_bytes(self.magic()) as u64
    }

    /// The standard TCP port of the network's nodes.
    pub const fn port(self) -> u16 {
        match self {
            Self::Mainnet => 24_000,
            Self::Testnet => 24_100,
        }
    }

    /// The name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mainnet => "Mainnet",
            Self::Testnet => "Testnet",
        }
    }

    /// The port to remember for a peer seen at `port`: the network's standard port in place of an
    /// ephemeral port or 0, any other port unchanged.
    pub const fn stable_port(self, port: u16) -> u16 {
        if port == 0 || is_ephemeral(port) { self.port() } else { port }
    }

    /// The canonical address to remember for a peer seen at `addr`; see
    /// [`NetworkType::stable_port`].
    pub fn stable_addr(self, addr: SocketAddr) -> SocketAddr {
        canonical(SocketAddr::new(addr.ip(), self.stable_port(addr.port())))
    }
}

impl std::fmt::Display for NetworkType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether a port is ephemeral, so that no node can be expected to listen on it.
pub const fn is_ephemeral(port: u16) -> bool {
    port >= FIRST_EPHEMERAL_PORT
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn ephemeral_ports_become_the_standard_port_and_49151_is_kept() {
        assert_eq!(NetworkType::Mainnet.stable_port(49_152), 24_000);
        assert_eq!(NetworkType::Testnet.stable_port(65_535), 24_100);
        assert_eq!(NetworkType::Testnet.stable_port(0), 24_100);
        assert_eq!(NetworkType::Mainnet.stable_port(49_151), 49_151);
        assert_eq!(NetworkType::Mainnet.stable_port(24_100), 24_100);
    }
}
