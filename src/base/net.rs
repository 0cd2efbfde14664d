//! Canonical addresses, and the subnets that admission limits.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The canonical form of an IP address: IPv4-mapped IPv6 (`::ffff:a.b.c.d`) becomes IPv4. The crate
/// compares only this form.
pub fn canonical_ip(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

/// The canonical form of a socket address: a canonical IP address and no IPv6 flow label. The crate
/// compares only this form.
///
/// The scope id stays, because a link-local address is ambiguous without it.
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    match (canonical_ip(addr.ip()), addr) {
        (IpAddr::V4(ip), _) => SocketAddr::from((ip, addr.port())),
        (IpAddr::V6(ip), SocketAddr::V6(v6)) => {
            SocketAddr::V6(std::net::SocketAddrV6::new(ip, v6.port(), 0, v6.scope_id()))
        }
        (ip, _) => SocketAddr::new(ip, addr.port()),
    }
}

/// A subnet that admission limits: a /24 of IPv4, a /64 or a /48 of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subnet {
    /// The first 24 bits of an IPv4 address.
    V4Slash24([u8; 3]),
    /// The first 64 bits of an IPv6 address: the range that one host commonly controls.
    V6Slash64(u64),
    /// The first 48 bits of an IPv6 address: the range that one site commonly controls.
    V6Slash48(u64),
}

impl Subnet {
    /// The subnets of an address: one for IPv4, two for IPv6 (the smaller one first).
    pub fn of(ip: IpAddr) -> impl Iterator<Item = Self> + Clone {
        let (first, second) = match canonical_ip(ip) {
            IpAddr::V4(v4) => {
                let [a, b, c, _] = v4.octets();
                (Self::V4Slash24([a, b, c]), None)
            }
            IpAddr::V6(v6) => {
                let top = (u128::from(v6) >> 64) as u64;
                (Self::V6Slash64(top), Some(Self::V6Slash48(top >> 16)))
            }
        };
        std::iter::once(first).chain(second)
    }

    /// The first address of the subnet.
    pub fn network(self) -> IpAddr {
        match self {
            Self::V4Slash24([a, b, c]) => IpAddr::V4(Ipv4Addr::new(a, b, c, 0)),
            Self::V6Slash64(top) => IpAddr::V6(Ipv6Addr::from(u128::from(top) << 64)),
            Self::V6Slash48(top) => IpAddr::V6(Ipv6Addr::from(u128::from(top) << 80)),
        }
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_address_equals_its_ipv4_form() {
        let mapped: SocketAddr = "[::ffff:10.1.2.3]:77".parse().unwrap();
        let plain: SocketAddr = "10.1.2.3:77".parse().unwrap();
        assert_eq!(canonical(mapped), plain);
        assert_eq!(canonical(plain), plain);
    }

    #[test]
    fn the_flow_label_is_dropped_and_the_scope_id_kept() {
        let labelled = SocketAddr::V6(std::net::SocketAddrV6::new(Ipv6Addr::LOCALHOST, 1, 99, 3));
        let SocketAddr::V6(v6) = canonical(labelled) else { panic!("stays IPv6") };
        assert_eq!((v6.flowinfo(), v6.scope_id()), (0, 3));
    }

    #[test]
    fn ipv4_has_one_subnet_and_ipv6_two() {
        let v4: Vec<_> = Subnet::of("192.0.2.200".parse().unwrap()).collect();
        assert_eq!(v4, [Subnet::V4Slash24([192, 0, 2])]);
        assert_eq!(v4[0].network(), "192.0.2.0".parse::<IpAddr>().unwrap());
        let v6: Vec<_> = Subnet::of("2001:db8:1:2:3::9".parse().unwrap()).map(Subnet::network).collect();
        let want: Vec<IpAddr> = vec!["2001:db8:1:2::".parse().unwrap(), "2001:db8:1::".parse().unwrap()];
        assert_eq!(v6, want);
    }
}
