//! Ports of the old network: one standard port a network, and what is done with a port that a peer only borrowed.

use std::net::SocketAddr;

use crate::base::canonical;

use super::NetworkType;

/// Ports from here on are borrowed by a dialling socket for one connection (RFC 6335), so nobody listens there.
pub const FIRST_EPHEMERAL_PORT: u16 = 49_152;

/// Whether nobody can be expected to listen on this port.
pub const fn is_ephemeral(port: u16) -> bool {
    port >= FIRST_EPHEMERAL_PORT
}

impl NetworkType {
    /// The port under which a peer is remembered: the standard port in place of a borrowed one or of 0, every other as it is.
    pub const fn stable_port(self, port: u16) -> u16 {
        if port == 0 || is_ephemeral(port) { self.port() } else { port }
    }

    /// The address under which a peer is remembered; see [`NetworkType::stable_port`]. Canonical.
    pub fn stable_addr(self, addr: SocketAddr) -> SocketAddr {
        canonical(SocketAddr::new(addr.ip(), self.stable_port(addr.port())))
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_borrowed_port_becomes_the_standard_one_and_49151_is_kept() {
        assert_eq!(NetworkType::Mainnet.stable_port(49_152), 24_000);
        assert_eq!(NetworkType::Testnet.stable_port(65_535), 24_100);
        assert_eq!(NetworkType::Testnet.stable_port(0), 24_100);
        assert_eq!(NetworkType::Mainnet.stable_port(49_151), 49_151);
        assert_eq!(NetworkType::Mainnet.stable_port(24_100), 24_100);
    }
}
