//! Shared vocabulary types: identities, directions, lanes, ticks, backoff, addresses and subnets.
//!
//! Every other module imports this one, and it imports none of them. Nothing here does I/O, spawns
//! a task or reads a clock, except [`Clock`], which its owner asks for `now`.
//!
//! | type | purpose |
//! |---|---|
//! | [`ConnId`] | one connection instance; never reused |
//! | [`PeerId`] | the identity that makes two connections the same peer |
//! | [`Nonce`] | one process; detects self-dials and breaks ties |
//! | [`Direction`], [`Lane`] | which side dialled; order class of outbound data |
//! | [`Tick`], [`Clock`] | milliseconds of a monotonic clock, passed as `now` |
//! | [`Backoff`] | exponential delay with jitter |
//! | [`Subnet`], [`canonical`] | address forms that limits and look-ups compare |
//! | [`Network`] | a network that an operator names |
//! | [`Source`], [`Scope`] | what shares go by; which hosts can use an address |

mod backoff;
pub(crate) mod counts;
#[cfg(feature = "node")]
pub(crate) mod config_serde;
mod endpoint;
mod ids;
mod net;
mod network;
mod source;
#[cfg(feature = "test-util")]
pub mod test_util;
mod tick;

pub use backoff::Backoff;
pub use endpoint::{Endpoint, EndpointError};
pub use ids::{ConnId, Direction, Lane, Nonce, PeerId};
pub use net::{Subnet, canonical, canonical_ip};
pub use network::{Network, NetworkError};
pub use source::{Scope, Source};
#[cfg(feature = "node")]
pub(crate) use tick::MAX_WAIT;
pub use tick::{Clock, Tick};
