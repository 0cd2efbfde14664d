//! Which addresses a node learns, tells and dials of its own accord.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::{Network, Scope};

use super::config::{ConfigError, within};

/// A limit that is none. A TOML number has 63 bits.
pub(super) const NO_LIMIT: usize = i64::MAX as usize;

/// Which addresses are learnt from peers, told to them, and dialled of the node's own accord. What
/// the operator configures, seeds, and [`NodeRef::connect`](super::NodeRef::connect) are not bound
/// by it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiscoveryConfig {
    /// Whether private and loopback addresses are learnt from peers, dialled, and told to those that
    /// can use them. Otherwise peers could make the node dial into its own network. Default: no, and
    /// yes in [`NodeConfig::local`](super::NodeConfig::local).
    pub allow_private: bool,
    /// Networks within which private addresses are learnt, dialled and told all the same: the peer
    /// and the address must both be in one of them. Default: none.
    pub private_networks: Vec<Network>,
    /// Addresses of one source, an IPv4 address or an IPv6 /64, that are learnt from peers. Default
    /// 4; no limit in [`NodeConfig::local`](super::NodeConfig::local).
    pub max_addrs_per_source: usize,
    /// Connections that the node dials to one source of its own accord. Default 1; no limit in
    /// [`NodeConfig::local`](super::NodeConfig::local).
    pub max_outbound_per_source: usize,
    /// The same for a subnet: a /24, or a /48. Default 2; no limit in
    /// [`NodeConfig::local`](super::NodeConfig::local).
    pub max_outbound_per_subnet: usize,
    /// The shortest pause between two such dials of one source. Default 5 s; none in
    /// [`NodeConfig::local`](super::NodeConfig::local).
    #[serde(with = "humantime_serde")]
    pub source_dial_interval: Duration,
    /// The shortest pause between two refusals of one source that carry addresses of other nodes,
    /// when no slot is free. Default 1 minute; none in
    /// [`NodeConfig::local`](super::NodeConfig::local).
    #[serde(with = "humantime_serde")]
    pub refusal_addrs_interval: Duration,
}

impl DiscoveryConfig {
    pub(crate) fn recommended() -> Self {
        Self {
            allow_private: false,
            private_networks: Vec::new(),
            max_addrs_per_source: 4,
            max_outbound_per_source: 1,
            max_outbound_per_subnet: 2,
            source_dial_interval: Duration::from_secs(5),
            refusal_addrs_interval: Duration::from_secs(60),
        }
    }

    pub(crate) fn local() -> Self {
        Self {
            allow_private: true,
            private_networks: Vec::new(),
            max_addrs_per_source: NO_LIMIT,
            max_outbound_per_source: NO_LIMIT,
            max_outbound_per_subnet: NO_LIMIT,
            source_dial_interval: Duration::ZERO,
            refusal_addrs_interval: Duration::ZERO,
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let (of_source, of_subnet) = (self.max_outbound_per_source, self.max_outbound_per_subnet);
        within("discovery.max_outbound_per_source", of_source, 1..=NO_LIMIT)?;
        if of_source > of_subnet {
            let why = format!("is {of_source}, above `discovery.max_outbound_per_subnet`, {of_subnet}");
            return Err(ConfigError { field: "discovery.max_outbound_per_source", why });
        }
        Ok(())
    }

    /// Whether own dials are limited by source or subnet at all.
    pub(crate) fn limits_outbound(&self) -> bool {
        // The limit of a source is the smaller one.
        self.max_outbound_per_source < NO_LIMIT
    }

    /// Whether an address may be dialled that the operator did not give: a public one always, others
    /// where they may be learnt.
    pub(crate) fn may_dial(&self, addr: IpAddr) -> bool {
        match Scope::of(addr) {
            Scope::Public => true,
            Scope::Special => false,
            _ => self.allow_private || self.private_networks.iter().any(|net| net.contains(addr)),
        }
    }

    /// Whether an address may be told to a peer, or believed from it: a public one always, others
    /// within one network of the operator, or where private ones are allowed to those in whose
    /// scope they are.
    pub(crate) fn may_tell(&self, peer: IpAddr, addr: IpAddr) -> bool {
        let scope = Scope::of(addr);
        let is_shared = || self.private_networks.iter().any(|net| net.contains(peer) && net.contains(addr));
        match scope {
            Scope::Public => true,
            Scope::Special => false,
            _ => is_shared() || (self.allow_private && Scope::of(peer).may_use(scope)),
        }
    }
}

impl Default for DiscoveryConfig {
    /// The discovery part of [`NodeConfig::recommended`](super::NodeConfig::recommended).
    fn default() -> Self {
        Self::recommended()
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn private_addresses_stay_within_the_networks_of_the_operator() {
        let private_networks = vec!["10.0.0.0/8".parse().expect("a network")];
        let strict = DiscoveryConfig { private_networks, ..DiscoveryConfig::recommended() };
        assert!(strict.may_tell(ip("9.9.9.9"), ip("8.8.8.8")));
        assert!(strict.may_tell(ip("10.0.0.1"), ip("10.2.0.1")));
        assert!(!strict.may_tell(ip("9.9.9.9"), ip("10.2.0.1")), "a public peer");
        assert!(!strict.may_tell(ip("192.168.0.1"), ip("192.168.0.2")), "another network");
        assert!(!strict.may_tell(ip("127.0.0.1"), ip("127.0.0.1")));
        for special in ["64:ff9b::1", "2002::1", "::1.2.3.4", "192.0.2.1", "198.18.0.1", "2001:db8::1"] {
            assert!(!DiscoveryConfig::local().may_tell(ip("127.0.0.1"), ip(special)), "{special}");
        }
    }

    #[test]
    fn an_address_is_dialled_where_it_may_be_learnt() {
        let private_networks = vec!["10.0.0.0/8".parse().expect("a network")];
        let strict = DiscoveryConfig { private_networks, ..DiscoveryConfig::recommended() };
        assert!(strict.may_dial(ip("8.8.8.8")) && strict.may_dial(ip("10.2.0.1")));
        for refused in ["192.168.0.1", "127.0.0.1", "169.254.0.1", "fd00::1", "192.0.2.1", "2002::1"] {
            assert!(!strict.may_dial(ip(refused)), "{refused}");
        }
        let local = DiscoveryConfig::local();
        assert!(local.may_dial(ip("127.0.0.1")) && !local.may_dial(ip("192.0.2.1")));
    }

    #[test]
    fn where_private_addresses_are_allowed_they_stay_in_their_scope() {
        let local = DiscoveryConfig::local();
        assert!(local.may_tell(ip("127.0.0.1"), ip("127.0.0.1")));
        assert!(local.may_tell(ip("192.168.0.1"), ip("10.0.0.1")));
        assert!(!local.may_tell(ip("9.9.9.9"), ip("10.0.0.1")));
        assert!(!local.may_tell(ip("192.168.0.1"), ip("127.0.0.1")));
        assert!(!local.may_tell(ip("192.168.0.1"), ip("169.254.0.1")));
    }
}
