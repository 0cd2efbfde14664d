//! A peer address as an operator types it: an IP address or a host name, and a port.

use std::net::SocketAddr;
use std::str::FromStr;

/// A well-formed `HOST:PORT`. A host name is looked up only by [`Target::resolve`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target(String);

impl FromStr for Target {
    type Err = String;

    fn from_str(typed: &str) -> Result<Self, String> {
        let is_name = |host: &str| !host.is_empty() && !host.contains([':', '[', ']', '/', ' ']);
        let is_name_and_port =
            typed.rsplit_once(':').is_some_and(|(host, port)| is_name(host) && port.parse::<u16>().is_ok());
        if is_name_and_port || typed.parse::<SocketAddr>().is_ok() {
            return Ok(Self(typed.to_owned()));
        }
        Err("a host and a port is wanted, like 192.0.2.1:9000, [2001:db8::1]:9000 or node.example.org:9000"
            .into())
    }
}

impl Target {
    /// Returns all addresses of the target, at least one, in the order of the system's resolver.
    ///
    /// # Errors
    /// A one-line message that contains what was typed.
    pub(super) async fn resolve(&self) -> Result<Vec<SocketAddr>, String> {
        let Self(typed) = self;
        if let Ok(addr) = typed.parse() {
            return Ok(vec![addr]);
        }
        let found: Vec<_> =
            tokio::net::lookup_host(typed).await.map_err(|error| format!("{typed}: {error}"))?.collect();
        if found.is_empty() { Err(format!("{typed}: the name has no address")) } else { Ok(found) }
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_host_and_a_port() {
        for typed in
            ["127.0.0.1:9000", "[::1]:9000", "[fe80::1%2]:9000", "localhost:9000", "a-b.example.org:1"]
        {
            assert_eq!(typed.parse(), Ok(Target(typed.to_owned())));
        }
        for typed in [
            "",
            "localhost",
            "127.0.0.1",
            "::1:9000",
            ":9000",
            "localhost:",
            "localhost:70000",
            "a b:1",
            "[x]:1",
        ] {
            assert!(typed.parse::<Target>().is_err(), "{typed:?}");
        }
    }

    #[tokio::test]
    async fn an_address_needs_no_lookup_and_a_name_resolves_to_all_its_addresses() {
        let resolve = async |typed: &str| typed.parse::<Target>().unwrap().resolve().await.unwrap();
        assert_eq!(resolve("[::1]:7").await, ["[::1]:7".parse().unwrap()]);
        let all: Vec<_> = tokio::net::lookup_host("localhost:7").await.unwrap().collect();
        assert_eq!(resolve("localhost:7").await, all);
    }
}
