//! Where an operator says that a peer is: an address, or a name that is looked up.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::canonical;

/// The longest host name, in bytes.
const MAX_NAME: usize = 253;
/// The longest label of a host name, in bytes.
const MAX_LABEL: usize = 63;

/// An address and port, or a host name and port. As text: `192.0.2.1:9000`, `[2001:db8::1]:9000`,
/// `[fe80::1%eth0]:9000`, `node.example.org:9000`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "String", into = "String"))]
pub enum Endpoint {
    /// An address, canonical.
    Addr(SocketAddr),
    /// A name, or an address with the name of an interface: looked up when it is needed.
    Name {
        /// The name.
        host: String,
        /// The port.
        port: u16,
    },
}

/// Why a text is no [`Endpoint`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// There is no port, or it is no number from 1 to 65,535.
    #[error("a port is missing: write HOST:PORT, and IPv6 addresses in brackets")]
    Port,
    /// The host looks like an IPv4 address and is none, such as `127.1`, `0x7f000001` or
    /// `127.0.0.010`. Programs disagree on what these mean.
    #[error("the host looks like an address and is none: write all four numbers, without leading zeros")]
    AlmostAddress,
    /// The host is no name.
    #[error("the host is neither an address nor a host name")]
    Host,
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return if addr.port() == 0 { Err(EndpointError::Port) } else { Ok(Self::Addr(canonical(addr))) };
        }
        let (host, port) = text.rsplit_once(':').ok_or(EndpointError::Port)?;
        let port = port.parse::<u16>().ok().filter(|port| *port > 0).ok_or(EndpointError::Port)?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(scoped) => {
                let (ip, interface) = scoped.split_once('%').ok_or(EndpointError::Host)?;
                let is_address = matches!(ip.parse(), Ok(IpAddr::V6(_)));
                if !is_address || !is_interface(interface) {
                    return Err(EndpointError::Host);
                }
                scoped
            }
            None if is_almost_address(host) => return Err(EndpointError::AlmostAddress),
            None if is_name(host) => host,
            None => return Err(EndpointError::Host),
        };
        Ok(Self::Name { host: host.to_owned(), port })
    }
}

/// Whether programs may take a host for an IPv4 address: its last label is a number. See the URL
/// standard's "ends in a number" check.
fn is_almost_address(host: &str) -> bool {
    let last = host.strip_suffix('.').unwrap_or(host).rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    match hex {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

fn is_name(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let is_label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    host.len() <= MAX_NAME && host.split('.').all(is_label)
}

fn is_interface(name: &str) -> bool {
    (1..=15).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/')
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addr(addr) => addr.fmt(f),
            Self::Name { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(addr: SocketAddr) -> Self {
        Self::Addr(canonical(addr))
    }
}

impl TryFrom<String> for Endpoint {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|error| format!("{text:?}: {error}"))
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn addresses_names_and_zones_read_back_as_they_are_written() {
        for text in
            ["192.0.2.1:9000", "[2001:db8::1]:9000", "[fe80::1%2]:9000", "[fe80::1%eth0]:9000", "localhost:1", "a-b.example.org:9000", "xn--knt-sna.example.:65535"]
        {
            let endpoint: Endpoint = text.parse().expect(text);
            assert_eq!(endpoint.to_string(), text);
            assert_eq!(matches!(endpoint, Endpoint::Addr(_)), text.parse::<SocketAddr>().is_ok(), "{text}");
        }
        let mapped: Endpoint = "[::ffff:192.0.2.1]:9000".parse().expect("an address");
        assert_eq!(mapped.to_string(), "192.0.2.1:9000");
    }

    #[test]
    fn what_looks_like_an_address_and_is_none_is_refused() {
        for host in ["127.1", "127.0.0.010", "0x7f000001", "2130706433", "127.0.0.0x1", "1.2.3.4.5", "999.0.0.1", "0x", "127.0.0.1."] {
            let parsed = format!("{host}:9000").parse::<Endpoint>();
            assert_eq!(parsed, Err(EndpointError::AlmostAddress), "{host}");
        }
    }

    #[test]
    fn other_texts_are_refused_with_a_reason() {
        for text in ["", "localhost", "127.0.0.1", "localhost:", "localhost:0", "127.0.0.1:0", "localhost:70000", "host:+1x"] {
            assert_eq!(text.parse::<Endpoint>(), Err(EndpointError::Port), "{text:?}");
        }
        for text in [":9000", "::1:9000", "a b:1", "[x]:1", "a..b:1", "a/b:1", "[fe80::1%]:1", "[127.0.0.1%eth0]:1", "ümlaut:1"] {
            assert_eq!(text.parse::<Endpoint>(), Err(EndpointError::Host), "{text:?}");
        }
        assert!(format!("{}:1", "a".repeat(64)).parse::<Endpoint>().is_err());
        assert!(format!("{}:1", "a.".repeat(127) + "a").parse::<Endpoint>().is_err());
    }
}
