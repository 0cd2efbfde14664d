//! Where a connection comes from, and which hosts can use an address.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Subnet, canonical_ip};

/// Where a connection comes from, for shares, limits and bans: an IPv4 address, or an IPv6 /64.
///
/// A host with one IPv6 address usually has the whole /64, so that a limit on single addresses
/// would bound nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source(IpAddr);

impl Source {
    /// The source of an address, in any form.
    pub fn of(ip: IpAddr) -> Self {
        Self(match canonical_ip(ip) {
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) >> 64 << 64)),
            v4 => v4,
        })
    }

    /// The first address: the IPv4 address itself, or the network of the /64.
    pub const fn network(self) -> IpAddr {
        self.0
    }

    /// The source in eight bytes: an IPv4 address in the lower half, or the upper half of the IPv6
    /// network. The two do not collide but for IPv6 networks below ::1:0:0/32, which nobody has.
    #[cfg(feature = "node")]
    pub(crate) fn as_u64(self) -> u64 {
        match self.0 {
            IpAddr::V4(ip) => u64::from(u32::from(ip)),
            IpAddr::V6(ip) => (u128::from(ip) >> 64) as u64,
        }
    }

    /// The subnet that it is charged to beside its own share: a /24, or a /48.
    pub fn subnet(self) -> Subnet {
        Subnet::of(self.0).last().expect("every address is in a subnet")
    }
}

/// An IPv4 address as it is, an IPv6 network with its prefix length.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(ip) => ip.fmt(f),
            IpAddr::V6(ip) => write!(f, "{ip}/64"),
        }
    }
}

/// Which hosts can use an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scope {
    /// Reachable from the whole internet.
    Public,
    /// Within one organisation or carrier: RFC 1918, 100.64.0.0/10, fc00::/7, fec0::/10.
    Private,
    /// On one link: 169.254.0.0/16, fe80::/10.
    LinkLocal,
    /// On one machine: 127.0.0.0/8, ::1.
    Loopback,
    /// No host of its own: unspecified, multicast, broadcast, documentation, benchmarks, and
    /// translated or tunnelled forms of other addresses.
    Special,
}

impl Scope {
    /// The scope of an address, by the special-purpose registries of IANA (RFC 6890 and updates).
    pub fn of(ip: IpAddr) -> Self {
        match canonical_ip(ip) {
            IpAddr::V4(ip) => Self::of_v4(ip),
            IpAddr::V6(ip) => Self::of_v6(ip),
        }
    }

    fn of_v4(ip: Ipv4Addr) -> Self {
        match ip.octets() {
            #[cfg(feature = "test-util")]
            [127, ..] if super::test_util::is_loopback_public() => Self::Public,
            [127, ..] => Self::Loopback,
            [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Self::Private,
            [169, 254, ..] => Self::LinkLocal,
            // "This network", IETF assignments, documentation, the 6to4 relay anycast, AS112,
            // benchmarks, multicast, reserved and broadcast.
            [0, ..]
            | [192, 0, 0 | 2, _]
            | [198, 51, 100, _]
            | [203, 0, 113, _]
            | [192, 88, 99, _]
            | [192, 31, 196, _]
            | [192, 52, 193, _]
            | [192, 175, 48, _]
            | [198, 18 | 19, ..]
            | [224..=255, ..] => Self::Special,
            _ => Self::Public,
        }
    }

    fn of_v6(ip: Ipv6Addr) -> Self {
        if ip.is_loopback() {
            return Self::Loopback;
        }
        match ip.segments() {
            [top, ..] if top & 0xfe00 == 0xfc00 || top & 0xffc0 == 0xfec0 => Self::Private,
            [top, ..] if top & 0xffc0 == 0xfe80 => Self::LinkLocal,
            // IETF assignments with Teredo, benchmarks and ORCHID; 6to4; documentation; segment
            // routing.
            [0x2001, second, ..] if second < 0x200 => Self::Special,
            [0x2001, 0x0db8, ..] | [0x2002, ..] | [0x3fff, 0..=0x0fff, ..] => Self::Special,
            [0x2620, 0x004f, 0x8000, ..] => Self::Special,
            // Only 2000::/3 is assigned for global use; this leaves out ::/96, 64:ff9b::/96,
            // 100::/64 and multicast.
            [top, ..] if top & 0xe000 == 0x2000 => Self::Public,
            _ => Self::Special,
        }
    }

    /// Whether a host of this scope can use an address of the `other` scope: public addresses are
    /// for everybody, private ones for private hosts, loopback ones for this machine.
    pub fn may_use(self, other: Self) -> bool {
        match other {
            Self::Public => true,
            Self::Private => matches!(self, Self::Private | Self::Loopback),
            Self::Loopback => self == Self::Loopback,
            // A link-local address is ambiguous on any other link, and its zone is local.
            Self::LinkLocal | Self::Special => false,
        }
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_source_is_an_ipv4_address_or_a_slash_64() {
        assert_eq!(Source::of(ip("2001:db8:1:2:3::9")), Source::of(ip("2001:db8:1:2:ffff::1")));
        assert_ne!(Source::of(ip("2001:db8:1:2::1")), Source::of(ip("2001:db8:1:3::1")));
        assert_ne!(Source::of(ip("192.0.2.1")), Source::of(ip("192.0.2.2")));
        assert_eq!(Source::of(ip("::ffff:192.0.2.1")), Source::of(ip("192.0.2.1")));
        assert_eq!(Source::of(ip("2001:db8:1:2:3::9")).to_string(), "2001:db8:1:2::/64");
        assert_eq!(Source::of(ip("192.0.2.1")).to_string(), "192.0.2.1");
        assert_eq!(Source::of(ip("2001:db8:1:2:3::9")).subnet().network(), ip("2001:db8:1::"));
        assert_eq!(Source::of(ip("192.0.2.1")).subnet().network(), ip("192.0.2.0"));
    }

    #[test]
    fn every_special_purpose_network_has_its_scope() {
        let cases = [
            (Scope::Public, "1.1.1.1 8.8.8.8 172.15.0.1 172.32.0.1 192.167.0.1 192.169.0.1 100.63.0.1 100.128.0.1 223.255.255.254"),
            (Scope::Public, "2600::1 2a00:1450::1 2001:4860::8888 2001:200::1 ::ffff:1.1.1.1 2620:4f:8001::1"),
            (Scope::Private, "10.0.0.1 172.16.0.1 172.31.255.1 192.168.1.1 100.64.0.1 100.127.0.1 fc00::1 fd12::1 fec0::1 ::ffff:10.0.0.1"),
            (Scope::LinkLocal, "169.254.1.1 fe80::1 febf::1"),
            (Scope::Loopback, "::1"),
            (Scope::Special, "0.0.0.0 0.1.2.3 192.0.0.1 192.0.2.1 198.51.100.1 203.0.113.1 192.88.99.1 198.18.0.1 198.19.255.1 224.0.0.1 240.0.0.1 255.255.255.255"),
            (Scope::Special, ":: ::5.6.7.8 64:ff9b::1.1.1.1 64:ff9b:1::1 100::1 2001::1 2001:2::1 2001:10::1 2001:20::1 2001:db8::1 2002:101:101::1 3fff::1 5f00::1 ff02::1 4000::1"),
        ];
        for (scope, addrs) in cases {
            for addr in addrs.split(' ') {
                assert_eq!(Scope::of(ip(addr)), scope, "{addr}");
            }
        }
    }

    #[test]
    fn addresses_go_to_those_who_can_use_them() {
        use Scope::{LinkLocal, Loopback, Private, Public, Special};
        let all = [Public, Private, LinkLocal, Loopback, Special];
        for asker in all {
            let usable: Vec<_> = all.into_iter().filter(|scope| asker.may_use(*scope)).collect();
            let want: &[Scope] = match asker {
                Private => &[Public, Private],
                Loopback => &[Public, Private, Loopback],
                _ => &[Public],
            };
            assert_eq!(usable, want, "{asker:?}");
        }
    }
}
