//! Words everyone shares: identities, ticks, lanes, backoff, addresses, and the one door to everything that
//! synchronises ([`sync`]).
//!
//! Nothing here does I/O, spawns or reads a clock except [`Clock`], which a shell owns and asks for `now`.

mod backoff;
#[cfg(feature = "node")]
pub(crate) mod config_serde;
mod ids;
mod net;
mod tick;

pub use backoff::Backoff;
pub use ids::{ConnId, Direction, Lane, Nonce, PeerId};
pub use net::{Subnet, canonical, canonical_ip};
#[cfg(feature = "node")]
pub(crate) use tick::MAX_WAIT;
pub use tick::{Clock, Tick};
