//! Looking up what an operator typed.

use std::net::SocketAddr;

use peerpool::Endpoint;

/// All addresses of an endpoint, at least one, in the order of the system's resolver.
///
/// # Errors
/// A one-line message that contains what was typed.
pub(super) async fn resolve(endpoint: &Endpoint) -> Result<Vec<SocketAddr>, String> {
    let (host, port) = match endpoint {
        Endpoint::Addr(addr) => return Ok(vec![*addr]),
        Endpoint::Name { host, port } => (host.as_str(), *port),
    };
    let found: Vec<_> = tokio::net::lookup_host((host, port))
        .await
        .map_err(|error| format!("{endpoint}: {error}"))?
        .collect();
    if found.is_empty() { Err(format!("{endpoint}: the name has no address")) } else { Ok(found) }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_needs_no_lookup_and_a_name_resolves_to_all_its_addresses() {
        let resolve = async |typed: &str| super::resolve(&typed.parse::<Endpoint>().unwrap()).await.unwrap();
        assert_eq!(resolve("[::1]:7").await, ["[::1]:7".parse().unwrap()]);
        let all: Vec<_> = tokio::net::lookup_host("localhost:7").await.unwrap().collect();
        assert_eq!(resolve("localhost:7").await, all);
    }
}
