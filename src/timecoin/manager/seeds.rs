//! Seed addresses: from the configuration, the environment, DNS and the application's provider.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::timeout;

use crate::address_book::{ReportedBy, WallTime};
use crate::base::canonical;
use crate::timecoin::{NetworkType, PeerInfo};
use crate::transport::BoxFuture;

use super::PeerManager;
use super::error::SeedError;
use super::request::ToPeerAddr;
use super::state::State;

/// The environment variable with seed addresses, separated by commas.
const SEEDS_VARIABLE: &str = "TIMECOIN_SEEDS";
/// Maximum number of addresses taken from one source.
const MAX_ADDRS_PER_SOURCE: usize = 1_000;
/// Maximum number of host names resolved.
const MAX_SEED_NAMES: usize = 64;

/// A source of peer addresses, such as `/api/v1/nodes/peers/testnet` of a seed's HTTP interface.
/// This crate has no HTTP client; an application that has one implements this trait in a few lines.
pub trait SeedProvider: Send + Sync + 'static {
    /// The addresses. Time limit: [`SeedConfig::timeout`](super::SeedConfig::timeout); the future
    /// is dropped after that.
    fn seeds(
        &self,
        network: NetworkType,
    ) -> BoxFuture<'_, Result<Vec<SocketAddr>, Box<dyn Error + Send + Sync>>>;
}

/// The addresses of all sources, one for each IP address, without our own.
pub(super) async fn collect(state: &State) -> Vec<SocketAddr> {
    let config = &state.config.seeds;
    let network = state.network;
    let mut found: BTreeMap<IpAddr, SocketAddr> = BTreeMap::new();
    let mut add = |addr: SocketAddr| {
        let addr = canonical(addr);
        if !state.is_own_addr(addr) {
            found.entry(addr.ip()).or_insert(addr);
        }
    };
    config.addresses.iter().copied().for_each(&mut add);
    let mut names = config.dns.clone();
    if config.environment
        && let Ok(text) = std::env::var(SEEDS_VARIABLE)
    {
        for seed in text.split(',').map(str::trim).filter(|seed| !seed.is_empty()) {
            match seed.to_peer_addr(network.port()) {
                Ok(addr) => add(addr),
                // Not an address, so a host name.
                Err(_) => names.push(seed.to_owned()),
            }
        }
    }
    // Concurrently, so that a slow source takes no time from the others.
    let named = resolve(&names, network, config.timeout);
    let listed = async {
        let provider = config.provider.clone()?;
        timeout(config.timeout, query_provider(provider, network)).await.unwrap_or_else(|_| {
            tracing::warn!("the seed provider timed out");
            None
        })
    };
    let (named, listed) = tokio::join!(named, listed);
    named.into_iter().for_each(&mut add);
    listed.into_iter().flatten().take(MAX_ADDRS_PER_SOURCE).for_each(&mut add);
    found.into_values().collect()
}

/// Queries a provider. It runs in a task of its own that ends with this future, so a panic in it
/// counts as its failure.
async fn query_provider(provider: Arc<dyn SeedProvider>, network: NetworkType) -> Option<Vec<SocketAddr>> {
    let mut query = tokio::task::JoinSet::new();
    query.spawn(async move { provider.seeds(network).await.map_err(|error| error.to_string()) });
    match query.join_next().await? {
        Ok(Ok(listed)) => Some(listed),
        Ok(Err(error)) => {
            tracing::warn!(%error, "the seed provider failed");
            None
        }
        Err(error) => {
            tracing::warn!(%error, "the seed provider panicked");
            None
        }
    }
}

/// Resolves host names concurrently.
async fn resolve(names: &[String], network: NetworkType, within: Duration) -> Vec<SocketAddr> {
    let mut lookups = tokio::task::JoinSet::new();
    for name in names.iter().take(MAX_SEED_NAMES) {
        let (host, port) = match name.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>())) {
            Some((host, Ok(port))) => (host.to_owned(), port),
            _ => (name.clone(), network.port()),
        };
        lookups.spawn(async move {
            match timeout(within, lookup_host((host.as_str(), port))).await {
                Ok(Ok(addrs)) => addrs.take(MAX_ADDRS_PER_SOURCE).collect(),
                Ok(Err(error)) => {
                    tracing::warn!(%host, %error, "seed host not resolved");
                    Vec::new()
                }
                Err(_) => {
                    tracing::warn!(%host, "resolving a seed host timed out");
                    Vec::new()
                }
            }
        });
    }
    lookups.join_all().await.into_iter().flatten().collect()
}

/// Adds the addresses of all sources to the address book, from which the node dials. Returns how
/// many there were.
pub(super) async fn load_seeds(state: &State) -> usize {
    let found = collect(state).await;
    remember_seeds(state, &found);
    found.len()
}

fn remember_seeds(state: &State, seeds: &[SocketAddr]) {
    let now = WallTime::now();
    for addr in seeds {
        let lasting = state.network.stable_addr(*addr);
        state.exchange.lock().add_peer(lasting, crate::timecoin::UNKNOWN_VERSION.into(), now);
        // The source of a seed knows its port, so an ephemeral one is kept in the book. An address
        // that the book refuses is skipped.
        let _ = state.book.add(*addr, ReportedBy::Seed, now);
    }
}

impl PeerManager {
    /// Collects addresses from the configured sources (the list, `TIMECOIN_SEEDS`, DNS, the
    /// provider) and connects to them as [`PeerManager::connect_to_peers`] does.
    ///
    /// # Errors
    /// [`SeedError::NoneFound`] if no source named an address. Failed connections are not an error:
    /// the addresses are remembered and dialled again.
    pub async fn connect_to_seed_nodes(&self) -> Result<(), SeedError> {
        let found = collect(self.state()).await;
        if found.is_empty() {
            return Err(SeedError::NoneFound);
        }
        remember_seeds(self.state(), &found);
        let peers = found.into_iter().map(|addr| PeerInfo::new(addr, self.network)).collect();
        self.connect_to_peers(peers).await;
        Ok(())
    }
}

#[cfg(all(test, not(peerpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_an_address_with_or_without_a_port_or_a_name() {
        let addr =
            |text: &str| text.to_peer_addr(NetworkType::Testnet.port()).ok().map(|addr| addr.to_string());
        assert_eq!(addr("192.0.2.1").as_deref(), Some("192.0.2.1:24100"));
        assert_eq!(addr("192.0.2.1:5").as_deref(), Some("192.0.2.1:5"));
        assert_eq!(addr("2001:db8::1").as_deref(), Some("[2001:db8::1]:24100"));
        assert_eq!(addr("[2001:db8::1]").as_deref(), Some("[2001:db8::1]:24100"));
        assert_eq!(addr("[2001:db8::1]:5").as_deref(), Some("[2001:db8::1]:5"));
        assert_eq!(addr("seed.example"), None);
    }

    #[tokio::test]
    async fn localhost_resolves_with_the_standard_port_or_the_given_one() {
        let names = ["localhost".to_owned(), "localhost:77".to_owned()];
        let found = resolve(&names, NetworkType::Testnet, Duration::from_secs(10)).await;
        assert!(found.iter().any(|addr| addr.ip().is_loopback() && addr.port() == 24_100));
        assert!(found.iter().any(|addr| addr.ip().is_loopback() && addr.port() == 77));
        assert!(found.iter().all(|addr| addr.ip().is_loopback()));
    }
}
