//! Networks that an operator names.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::canonical_ip;

/// An IP network, such as `10.0.0.0/8` or `fd00::/8`. A lone address is a network of one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "String", into = "String"))]
pub struct Network {
    ip: IpAddr,
    prefix: u8,
}

/// Why a text names no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// The part before the slash is no IP address.
    #[error("is no IP network, such as 10.0.0.0/8 or fd00::/8")]
    Address,
    /// The part behind the slash is no number, or too large.
    #[error("its prefix length must be a number up to {max}")]
    Prefix {
        /// The longest prefix of the address' family.
        max: u8,
    },
    /// The address has bits beyond the prefix.
    #[error("has bits set beyond its prefix")]
    HostBits,
}

impl Network {
    /// 127.0.0.0/8 and ::1.
    pub const LOOPBACK: [Self; 2] = [
        Self { ip: IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 0)), prefix: 8 },
        Self { ip: IpAddr::V6(std::net::Ipv6Addr::LOCALHOST), prefix: 128 },
    ];

    /// Whether an address is in the network.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.ip, canonical_ip(ip)) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => {
                (u32::from(own) ^ u32::from(ip)).checked_shr(32 - u32::from(self.prefix)).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(ip)) => {
                (u128::from(own) ^ u128::from(ip)).checked_shr(128 - u32::from(self.prefix)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (ip, prefix) = text.split_once('/').map_or((text, None), |(ip, prefix)| (ip, Some(prefix)));
        let ip: IpAddr = ip.parse().map_err(|_| NetworkError::Address)?;
        let (ip, max) = match canonical_ip(ip) {
            v4 @ IpAddr::V4(_) => (v4, 32),
            v6 @ IpAddr::V6(_) => (v6, 128),
        };
        let prefix = prefix.map_or(Ok(max), |prefix| prefix.parse().map_err(|_| NetworkError::Prefix { max }))?;
        if prefix > max {
            return Err(NetworkError::Prefix { max });
        }
        let has_host_bits = match ip {
            IpAddr::V4(ip) => u32::from(ip).checked_shl(u32::from(prefix)).unwrap_or(0) != 0,
            IpAddr::V6(ip) => u128::from(ip).checked_shl(u32::from(prefix)).unwrap_or(0) != 0,
        };
        if has_host_bits { Err(NetworkError::HostBits) } else { Ok(Self { ip, prefix }) }
    }
}

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|error| format!("{text:?} {error}"))
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_network_contains_what_shares_its_prefix() {
        let cases = [
            ("10.0.0.0/8", "10.255.1.2", "11.0.0.0"),
            ("192.168.4.0/22", "192.168.7.255", "192.168.8.0"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("2001:db8::/64", "2001:db8::ffff", "2001:db8:0:1::"),
        ];
        for (network, inside, outside) in cases {
            let parsed: Network = network.parse().expect(network);
            assert!(parsed.contains(inside.parse().unwrap()), "{inside} in {network}");
            assert!(!parsed.contains(outside.parse().unwrap()), "{outside} in {network}");
        }
        let all: Network = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("9.9.9.9".parse().unwrap()) && !all.contains("::1".parse().unwrap()));
        assert!(all.contains("::ffff:9.9.9.9".parse().unwrap()), "a mapped address is IPv4");
    }

    #[test]
    fn a_text_that_names_no_network_is_refused() {
        assert_eq!("10.0.0/8".parse::<Network>(), Err(NetworkError::Address));
        assert_eq!("10.0.0.0/33".parse::<Network>(), Err(NetworkError::Prefix { max: 32 }));
        assert_eq!("10.0.0.0/".parse::<Network>(), Err(NetworkError::Prefix { max: 32 }));
        assert_eq!("10.0.0.1/8".parse::<Network>(), Err(NetworkError::HostBits));
        assert_eq!("fd00::1/8".parse::<Network>(), Err(NetworkError::HostBits));
    }
}
